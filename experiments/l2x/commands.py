"""``cvxsst train|search|table|test l2x``; its data are made by ``cvxsst data reviews``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.l2x import report
from experiments.l2x.config import Config
from experiments.l2x.data import VOCABULARY, Reviews, load
from experiments.l2x.reviews import usual
from experiments.runs.experiment import Experiment
from experiments.runs.options import Folders, Launch, Markdown, Output, Pictures, Run, Tuning, options

if TYPE_CHECKING:
    from experiments.l2x.training import Explainer

Data = Annotated[
    Path | None,
    typer.Option(
        help="What `cvxsst data reviews` wrote. Default: its file of the corpus, below out/.", show_default=False
    ),
]


def prepare(config: Config, data: Path) -> tuple[type[Explainer], Mapping[str, Reviews]]:
    from experiments.l2x.training import Explainer

    splits = load(data, config.corpus, config.aspect)
    given, words = splits["train"].vectors.shape[1], len(splits["train"].vocabulary)
    if config.frozen and config.embedding != given:
        raise ValueError(f"embedding: {data} has vectors of {given} dimensions, not {config.embedding}")
    if not config.frozen and words > VOCABULARY:
        raise ValueError(
            f"frozen: {data} has vectors of its own for {words:,} words; take --frozen --embedding {given}"
        )
    if config.k > splits["train"].tokens.shape[1]:
        raise ValueError(f"k: {config.k} words of reviews of at most {splits['train'].tokens.shape[1]}")
    return Explainer, splits


EXPERIMENT = Experiment(
    "l2x",
    Config,
    prepare,
    report.TABLE,
    report.METRICS,
    ranges={"learning_rate": (1e-4, 1e-2), "temperature": (5e-2, 5.0)},
    published=report.COMMITTED,
    data="reviews",
)


@options()
def train(config: Config, launch: Launch, data: Data = None, output: Output = None) -> None:
    """Train on reviews, test the best checkpoint; a run that was cut off goes on where it was.

    Examples:

    - `cvxsst train l2x --k 4 --aspect service`
    - `cvxsst train l2x --subset softsub --gradient straight-through --network complex --steps 4000`
    """
    EXPERIMENT.train(config, launch, data or usual(config.corpus), output)


def test(
    folder: Run,
    data: Data = None,  # noqa: PT028 - the command, not a test
) -> None:
    """Test the best checkpoint of a run, on the test part of a file of reviews.

    Example: `cvxsst test l2x out/l2x/cebab-service-k4-correlated-relaxed-simple-h100-steps20000-seed0`
    """
    EXPERIMENT.test(folder, data or usual(Config.of(folder).corpus))


@options(without=EXPERIMENT.ranges)
def search(config: Config, tuning: Tuning, data: Data = None, output: Output = None) -> None:
    """Search learning rate (1e-4 to 1e-2) and temperature (0.05 to 5) with Ray Tune.

    Log-uniform; the other options are those of every trial, the best is that of the least validation error. The same
    command goes on with a search that was cut off: finished trials are not run again.

    Example: `cvxsst search l2x --subset euclidean --k 4 --steps 2000 --concurrent 2`
    """
    EXPERIMENT.search(config, tuning, data or usual(config.corpus), output)


def table(folders: Folders = None, markdown: Markdown = False, pictures: Pictures = None, data: Data = None) -> None:
    """Print our results beside the published ones: error, precision of the chosen words, length of their runs.

    Example: `cvxsst table l2x --pictures out/pictures`
    """
    EXPERIMENT.draw(report.save_pictures, EXPERIMENT.show(folders, markdown), pictures, data)

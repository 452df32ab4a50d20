"""``cvxsst train|search|table|test sorting``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.runs.experiment import Experiment
from experiments.runs.options import Folders, Launch, Markdown, Output, Pictures, Run, Tuning, options
from experiments.sorting import report
from experiments.sorting.config import Config
from experiments.sorting.data import Lists, draw

if TYPE_CHECKING:
    from experiments.sorting.training import Sorter

Longer = Annotated[int | None, typer.Option(min=1, help="Of each list. Default: as trained.", show_default=False)]
Other = Annotated[float | None, typer.Option(help="Of the range. Default: as trained.", show_default=False)]
NO_DATA = Path()  # the lists are drawn


def prepare(config: Config, data: Path) -> tuple[type[Sorter], Mapping[str, Lists]]:
    from experiments.sorting.training import Sorter

    return Sorter, draw(config.numbers, config.low, config.high)


EXPERIMENT = Experiment(
    "sorting",
    Config,
    prepare,
    report.TABLE,
    report.METRICS,
    ranges={"learning_rate": (1e-3, 1.0), "temperature": (1e-2, 1e1)},
    published=report.COMMITTED,
)


@options()
def train(config: Config, launch: Launch, output: Output = None) -> None:
    """Learn to sort lists of n numbers, test the best checkpoint; a run that was cut off goes on where it was.

    Examples:

    - `cvxsst train sorting --numbers 100`
    - `cvxsst train sorting --numbers 15 --order euclidean --gradient straight-through`
    - `cvxsst train sorting --numbers 15 --high 1000 --network places`
    """
    EXPERIMENT.train(config, launch, NO_DATA, output)


def test(
    folder: Run,
    numbers: Longer = None,  # noqa: PT028 - the command, not a test
    low: Other = None,  # noqa: PT028
    high: Other = None,  # noqa: PT028
) -> None:
    """Test the best checkpoint of a run, on longer lists or on another range, which is what the network then knows.

    Example: `cvxsst test sorting out/sorting/sinkhorn-relaxed-places-n10-steps500-seed0 --numbers 20`
    """
    EXPERIMENT.test(folder, NO_DATA, {"numbers": numbers, "low": low, "high": high})


@options(without=EXPERIMENT.ranges)
def search(config: Config, tuning: Tuning, output: Output = None) -> None:
    """Search learning rate (.001 to 1) and temperature (.01 to 10) with Ray Tune, log-uniform.

    The other options are those of every trial; the best is that of the highest tau on validation lists. The same
    command goes on with a search that was cut off: finished trials are not run again.

    Example: `cvxsst search sorting --numbers 100 --order euclidean --concurrent 2`
    """
    EXPERIMENT.search(config, tuning, NO_DATA, output)


def table(folders: Folders = None, markdown: Markdown = False, pictures: Pictures = None) -> None:
    """Print shares of wrong ranks and of lists with a wrong one, and Kendall's tau, beside the published.

    Example: `cvxsst table sorting --pictures out/pictures`
    """
    EXPERIMENT.draw(report.save_pictures, EXPERIMENT.show(folders, markdown), pictures, NO_DATA)

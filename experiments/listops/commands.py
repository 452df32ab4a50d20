"""``cvxsst data|train|search|table|test listops``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.listops import data as expressions
from experiments.listops import report
from experiments.listops.config import Config
from experiments.runs.experiment import Experiment
from experiments.runs.options import Folders, Launch, Markdown, Output, Pictures, Processes, Run, Tuning, options

if TYPE_CHECKING:
    from experiments.listops.training import ListOps

DATA = Path("out/listops.npz")
Data = Annotated[Path, typer.Option(help="What `cvxsst data listops` wrote.")]


def prepare(config: Config, data: Path) -> tuple[type[ListOps], Mapping[str, expressions.Expressions]]:
    from experiments.listops.training import ListOps

    return ListOps, expressions.load(data)


EXPERIMENT = Experiment(
    "listops",
    Config,
    prepare,
    report.TABLE,
    report.METRICS,
    ranges={"learning_rate": (1e-4, 1e-2), "temperature": (1e-1, 1e1), "weight_decay": (1e-5, 1e-3)},
    published=report.COMMITTED,
)


def data(
    output: Annotated[Path, typer.Option(help="The file to write, .npz.")] = DATA,
    small: Annotated[bool, typer.Option("--small", help="600 expressions of each depth, not 24,000.")] = False,
    deepest: Annotated[
        int, typer.Option(min=1, max=expressions.DEEPEST, help="Lists within lists; 2 are quickly learned.")
    ] = expressions.DEEPEST,
    seed: Annotated[int, typer.Option(min=0, help="Of the expressions.")] = 42,
    processes: Processes = None,
) -> None:
    """Generate expressions of each depth: 20,000 to train, 2,000 to validate, 2,000 to test; ten seconds on two cores.

    Prints a checksum; the same seed gives the same data, whatever the number of processes.
    """
    from rich.progress import track

    if output.suffix != ".npz" or output.exists():
        why = "is there already; delete it, or name another file" if output.exists() else "must end in .npz"
        raise ValueError(f"--output: {output} {why}")
    sizes = expressions.SMALL if small else expressions.SPLITS
    made = expressions.generate(sizes, deepest, seed, processes)
    shares = list(track(made, "Drawing", total=deepest, transient=True))
    checksum = expressions.save(output, shares, list(sizes), seed)
    print(f"{deepest * sum(sizes.values()):,} expressions: {output}, checksum {checksum}")


@options()
def train(config: Config, launch: Launch, data: Data = DATA, output: Output = None) -> None:
    """Train on ListOps, test the best checkpoint; a run that was cut off goes on where it was.

    Examples:

    - `cvxsst train listops --edges arborescence`
    - `cvxsst train listops --edges spanning-tree --gradient straight-through --steps 10000 --minutes 20`
    """
    EXPERIMENT.train(config, launch, data, output)


def test(
    folder: Run,
    data: Annotated[
        Path, typer.Option(help="What `cvxsst data listops` wrote; or lines of value, tab, bracketed expression.")
    ] = DATA,  # noqa: PT028 - the command, not a test
) -> None:
    """Test the best checkpoint of a run, on the test part of our file or on a file in the published form.

    Example: `cvxsst test listops out/listops/arborescence-relaxed-h60-steps100000-seed0 --data test.tsv`
    """
    EXPERIMENT.test(folder, data)


@options(without=EXPERIMENT.ranges)
def search(config: Config, tuning: Tuning, data: Data = DATA, output: Output = None) -> None:
    """Search learning rate (1e-4 to 1e-2), temperature (0.1 to 10) and weight decay (1e-5 to 1e-3) with Ray Tune.

    Log-uniform; the other options are those of every trial, the best is that of the highest validation accuracy. The
    same command goes on with a search that was cut off: finished trials are not run again.

    Example: `cvxsst search listops --edges arborescence --steps 10000 --concurrent 2`
    """
    EXPERIMENT.search(config, tuning, data, output)


def table(folders: Folders = None, markdown: Markdown = False, pictures: Pictures = None, data: Data = DATA) -> None:
    """Print our results beside the paper's: accuracy, precision and recall of the edges, seeds and their spread.

    Example: `cvxsst table listops --pictures out/pictures`
    """
    EXPERIMENT.draw(report.save_pictures, EXPERIMENT.show(folders, markdown), pictures, data)

"""``cvxsst data|train|search|table|test graph-layout``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.graph_layout import data as layouts
from experiments.graph_layout import report
from experiments.graph_layout.config import Config
from experiments.runs.experiment import Experiment
from experiments.runs.options import Folders, Launch, Markdown, Output, Pictures, Processes, Run, Tuning, options

if TYPE_CHECKING:
    from experiments.graph_layout.training import RelationalInference

DATA = Path("out/graph_layout.npz")
Data = Annotated[Path, typer.Option(help="What `cvxsst data graph-layout` wrote.")]


def prepare(config: Config, data: Path) -> tuple[type[RelationalInference], Mapping[str, layouts.Layouts]]:
    from experiments.graph_layout.training import RelationalInference

    return RelationalInference, layouts.load(data, config.length)


EXPERIMENT = Experiment(
    "graph-layout",
    Config,
    prepare,
    report.TABLE,
    report.METRICS,
    ranges={"learning_rate": (1e-4, 1e-2), "temperature": (1e-1, 1e1)},
    published=report.COMMITTED,
)


def data(
    output: Annotated[Path, typer.Option(help="The file to write.")] = DATA,
    small: Annotated[bool, typer.Option("--small", help="912 layouts instead of 70,000, to try things.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of trees and first positions.")] = 42,
    processes: Processes = None,
) -> None:
    """Generate the layouts: 50,000 to train, 10,000 to validate, 10,000 to test; two minutes on two cores.

    Prints a checksum; the same seed gives the same data, whatever the number of processes.
    """
    import numpy as np
    from rich.progress import track

    if output.exists():
        raise ValueError(f"--output: {output} is there already; delete it, or name another file")
    sizes = layouts.SMALL if small else layouts.SPLITS
    pieces = layouts.generate(sizes, seed, processes)
    _, trees = next(pieces)
    total = -(-len(trees) // layouts.CHUNK)
    frames = np.concatenate([chunk for _, chunk in track(pieces, "Laying out", total=total, transient=True)])
    checksum = layouts.save(output, frames, trees, sizes, seed)
    print(f"{len(trees):,} layouts of {frames.shape[1]} frames: {output}, checksum {checksum}")


@options()
def train(config: Config, launch: Launch, data: Data = DATA, output: Output = None) -> None:
    """Train on graph layouts, test the best checkpoint; a run that was cut off goes on where it was.

    Examples:

    - `cvxsst train graph-layout --edges spanning-tree --length 10`
    - `cvxsst train graph-layout --edges top-k --steps 10000 --hidden 64 --minutes 20`
    - `cvxsst train graph-layout --devices 2 --strategy ddp`
    """
    EXPERIMENT.train(config, launch, data, output)


def test(folder: Run, data: Data = DATA) -> None:  # noqa: PT028 - the command, not a test
    """Test the best checkpoint of a run on the test layouts of a file.

    Example: `cvxsst test graph-layout out/graph-layout/spanning-tree-relaxed-T10-h64-seed0 --data other.npz`
    """
    EXPERIMENT.test(folder, data)


@options(without=EXPERIMENT.ranges)
def search(config: Config, tuning: Tuning, data: Data = DATA, output: Output = None) -> None:
    """Search learning rate (1e-4 to 1e-2) and temperature (0.1 to 10) with Ray Tune, log-uniform.

    The other options are those of every trial; the best is that of the highest validation ELBO. The same command goes
    on with a search that was cut off: finished trials are not run again.

    Example: `cvxsst search graph-layout --edges spanning-tree --steps 10000 --hidden 64 --concurrent 2`
    """
    EXPERIMENT.search(config, tuning, data, output)


def table(folders: Folders = None, markdown: Markdown = False, pictures: Pictures = None, data: Data = DATA) -> None:
    """Print our results beside the paper's: ELBO, precision and recall of the edges, seeds and their spread.

    Example: `cvxsst table graph-layout --pictures out/pictures`
    """
    EXPERIMENT.draw(report.save_pictures, EXPERIMENT.show(folders, markdown), pictures, data)

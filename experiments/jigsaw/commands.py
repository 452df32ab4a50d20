"""``cvxsst train|search|table|test jigsaw``; the small one of the demo is ``cvxsst demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.jigsaw import report
from experiments.jigsaw.config import Config
from experiments.jigsaw.data import Tiles, load
from experiments.runs.experiment import Experiment
from experiments.runs.options import Folders, Launch, Markdown, Output, Pictures, Run, Tuning, options

if TYPE_CHECKING:
    from experiments.jigsaw.training import Jigsaw

NO_DATA = Path()  # packages ship them


def prepare(config: Config, data: Path) -> tuple[type[Jigsaw], Mapping[str, Tiles]]:
    from experiments.jigsaw.training import Jigsaw

    return Jigsaw, load(config.images, config.grid)


EXPERIMENT = Experiment(
    "jigsaw",
    Config,
    prepare,
    report.TABLE,
    report.METRICS,
    ranges={"learning_rate": (1e-4, 1e-2), "temperature": (1e-1, 1e2), "weight_decay": (1e-3, 1e-1)},
    published=report.COMMITTED,
)


@options()
def train(config: Config, launch: Launch, output: Output = None) -> None:
    """Learn to put images of p x p tiles together, test the best checkpoint; what was cut off goes on where it was.

    Examples:

    - `cvxsst train jigsaw --images mnist --grid 3`
    - `cvxsst train jigsaw --images photographs --grid 2 --order sinkhorn --gradient straight-through`
    """
    EXPERIMENT.train(config, launch, NO_DATA, output)


def test(folder: Run) -> None:
    """Test the best checkpoint of a run on the test images.

    Example: `cvxsst test jigsaw out/jigsaw/mnist-3x3-euclidean-relaxed-steps1200-seed0`
    """
    EXPERIMENT.test(folder, NO_DATA)


@options(without=EXPERIMENT.ranges)
def search(config: Config, tuning: Tuning, output: Output = None) -> None:
    """Search learning rate (.0001 to .01), temperature (.1 to 100) and weight decay (.001 to .1) with Ray Tune.

    Log-uniform; the other options are those of every trial, the best is that of the highest validation tau. The same
    command goes on with a search that was cut off: finished trials are not run again.

    Example: `cvxsst search jigsaw --images mnist --grid 4 --concurrent 2`
    """
    EXPERIMENT.search(config, tuning, NO_DATA, output)


def table(folders: Folders = None, markdown: Markdown = False, pictures: Pictures = None) -> None:
    """Print shares of wrong tiles and images by pixels, and Kendall's tau beside the published.

    Example: `cvxsst table jigsaw --pictures out/pictures`
    """
    EXPERIMENT.draw(report.save_pictures, EXPERIMENT.show(folders, markdown), pictures, NO_DATA)

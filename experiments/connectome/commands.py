"""``cvxsst data|train|search|table|test connectome``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.connectome import data as worms
from experiments.connectome import report
from experiments.connectome.config import Config
from experiments.connectome.permutations import MCMC
from experiments.runs.experiment import Experiment
from experiments.runs.options import Folders, Launch, Markdown, Output, Pictures, Run, Tuning, options

if TYPE_CHECKING:
    from experiments.runs.training import Model

DATA = Path("out/connectome.npz")
Data = Annotated[Path, typer.Option(help="What `cvxsst data connectome` wrote.")]


def prepare(config: Config, data: Path) -> tuple[type[Model], Mapping[str, worms.Worms]]:
    """There is nothing to hold out: the recordings are what is explained, and the truth is not among them."""
    from experiments.connectome.training import Chain, Identification

    recordings = worms.load(data, config.seed, config.known, config.radius)
    found = (len(recordings), len(recordings.positions))
    if found != (config.worms, config.neurons):
        raise ValueError(
            f"--worms, --neurons: {config.worms} of {config.neurons}, but {data} has {found[0]} of {found[1]}"
        )
    kind = Chain if config.permutations == MCMC else Identification
    return kind, dict.fromkeys(("train", "valid", "test"), recordings)


EXPERIMENT = Experiment(
    "connectome",
    Config,
    prepare,
    report.TABLE,
    report.METRICS,
    ranges={"learning_rate": (1e-2, 1.0), "temperature": (1e-1, 1e1), "precision": (1e1, 1e3)},
    published=report.COMMITTED,
)


def data(
    output: Annotated[Path, typer.Option(help="The file to write, .npz.")] = DATA,
    tables: Annotated[
        Path | None,
        typer.Option(
            help=f"The folder of {worms.WIRES} and {worms.PLACES}, from www.wormatlas.org/neuronalwiring.html. "
            "Default: ../shared/data/celegans; where that is missing, a random connectome of the same degree.",
            show_default=False,
        ),
    ] = None,
    simulations: Annotated[int, typer.Option(min=1, help="Draws of the dynamics.")] = 5,
    animals: Annotated[int, typer.Option("--worms", min=1, help="Of each simulation.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulations.")] = 42,
) -> None:
    """Simulate worms on the connectome of C. elegans: five draws of the dynamics, four worms each; ten seconds.

    Prints a checksum; the same seed gives the same data.
    """
    if output.suffix != ".npz" or output.exists():
        why = "is there already; delete it, or name another file" if output.exists() else "must end in .npz"
        raise ValueError(f"--output: {output} {why}")
    real = tables is not None or worms.TABLES.exists()
    connectome = worms.read(tables or worms.TABLES) if real else worms.synthetic(seed)
    checksum = worms.save(output, connectome, worms.simulate(connectome, simulations, animals, seed), seed)
    origin = "the published tables" if real else "no tables found: a random connectome of the same degree"
    pairs = connectome.joined.sum() // 2
    print(f"{origin}: {len(connectome.positions)} neurons, {pairs:,} pairs")
    print(f"{simulations} simulations of {animals} worms: {output}, checksum {checksum}")


@options()
def train(config: Config, launch: Launch, data: Data = DATA, output: Output = None) -> None:
    """Identify the neurons of the worms of one simulation; a run that was cut off goes on where it was.

    Examples:

    - `cvxsst train connectome --known 55 --radius 0.1 --seed 2`
    - `cvxsst train connectome --permutations gumbel-sinkhorn --no-regularized`
    - `cvxsst train connectome --permutations sinkhorn --gradient straight-through`
    - `cvxsst train connectome --permutations mcmc`
    """
    EXPERIMENT.train(config, launch, data, output)


def test(folder: Run, data: Data = DATA) -> None:  # noqa: PT028 - the command, not a test
    """Measure a run's checkpoint of the best fit again.

    Example: `cvxsst test connectome out/connectome/sinkhorn-relaxed-known110-radius0.05-steps500-seed0`
    """
    EXPERIMENT.test(folder, data)


@options(without=EXPERIMENT.ranges)
def search(config: Config, tuning: Tuning, data: Data = DATA, output: Output = None) -> None:
    """Search learning rate (.01 to 1), temperature (.1 to 10) and precision (10 to 1000) with Ray Tune, log-uniform.

    The other options are those of every trial; the best is that of the best fit to the recordings, for which the true
    identities are not needed.

    Example: `cvxsst search connectome --permutations euclidean --steps 200 --concurrent 2`
    """
    EXPERIMENT.search(config, tuning, data, output)


def table(folders: Folders = None, markdown: Markdown = False, pictures: Pictures = None, data: Data = DATA) -> None:
    """Print our shares of identified neurons beside the published ones, simulations and their spread.

    Example: `cvxsst table connectome --pictures out/pictures`
    """
    EXPERIMENT.draw(report.save_pictures, EXPERIMENT.show(folders, markdown), pictures, data)

"""``cvxsst data|train|search|table graph-layout``. Lightning, Ray and Matplotlib are imported when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments.graph_layout.edges import EDGES, GRADIENTS

DATA = Path("out/graph_layout.npz")
RUNS = Path("out/graph-layout")
Edges = Annotated[str, typer.Option(help=f"The edge distribution: {', '.join(EDGES)}.")]
Gradient = Annotated[str, typer.Option(help=f"How the scores are trained: {', '.join(GRADIENTS)}.")]


def data(
    output: Annotated[Path, typer.Option(help="The file to write.")] = DATA,
    small: Annotated[bool, typer.Option("--small", help="912 layouts instead of 70,000, to try things.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of trees and first positions.")] = 42,
    processes: Annotated[int | None, typer.Option(min=1, help="Default: as many as cores.", show_default=False)] = None,
) -> None:
    """Generate the layouts: 50,000 to train, 10,000 to validate, 10,000 to test; two minutes on two cores.

    Prints a checksum; the same seed gives the same data, whatever the number of processes.
    """
    import numpy as np
    from rich.progress import track

    from experiments.graph_layout.data import CHUNK, SMALL, SPLITS, generate, save

    if output.exists():
        raise ValueError(f"--output: {output} is there already; delete it, or name another file")
    sizes = SMALL if small else SPLITS
    pieces = generate(sizes, seed, processes)
    _, trees = next(pieces)
    total = -(-len(trees) // CHUNK)
    frames = np.concatenate([chunk for _, chunk in track(pieces, "Laying out", total=total, transient=True)])
    checksum = save(output, frames, trees, sizes, seed)
    print(f"{len(trees):,} layouts of {frames.shape[1]} frames: {output}, checksum {checksum}")


def train(
    edges: Edges = "spanning-tree",
    gradient: Gradient = "relaxed",
    length: Annotated[int, typer.Option(min=2, max=20, help="T, the frames of a trajectory.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 50_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Trajectories a step, of all devices together.")] = 128,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the networks.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1.2e-3,
    temperature: Annotated[float, typer.Option(help="T of the relaxation.")] = 3.9,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Latent graphs for each trajectory. Default: 1; 2 for reinforce-loo.", show_default=False
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Of the relaxation: auto, fast, kkt ...")] = "auto",
    validate_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between validations. Default: 500, or all.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights and noise.")] = 0,
    data: Annotated[Path, typer.Option(help="What `cvxsst data graph-layout` wrote.")] = DATA,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run. Default: one below out/graph-layout, named after the options.", show_default=False
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop at the first validation after so many; the same command goes on.", show_default=False),
    ] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu ..., as Lightning names them.")] = "auto",
    devices: Annotated[str, typer.Option(help="How many, or which: 2, '0,1', auto.")] = "1",
    strategy: Annotated[str, typer.Option(help="auto, ddp ..., as Lightning names them.")] = "auto",
) -> None:
    """Train on graph layouts, test the best checkpoint; a run that was cut off goes on where it was.

    Examples:

    - `cvxsst train graph-layout --edges spanning-tree --length 10`
    - `cvxsst train graph-layout --edges top-k --steps 10000 --hidden 64 --minutes 20`
    - `cvxsst train graph-layout --devices 2 --strategy ddp`
    """
    require("lightning")
    from experiments.graph_layout.data import load
    from experiments.graph_layout.training import Config
    from experiments.graph_layout.training import train as fit

    config = Config(
        edges=edges,
        gradient=gradient,
        length=length,
        steps=steps,
        batch_size=batch_size,
        hidden=hidden,
        learning_rate=learning_rate,
        temperature=temperature,
        samples=samples or (2 if gradient == "reinforce-loo" else 1),
        engine=engine,
        validate_every=validate_every or min(500, steps),
        seed=seed,
    )
    folder = output or RUNS / config.name
    result = fit(
        config,
        load(data, length),
        folder,
        accelerator=accelerator,
        devices=int(devices) if devices.isdecimal() else devices,
        strategy=strategy,
        minutes=minutes,
    )
    if result is None:
        print(f"not finished; the same command goes on: {folder}")
        return
    test = result["test"]
    print(f"test ELBO {test['elbo']:.0f}, precision {test['precision']:.1%}, recall {test['recall']:.1%}: {folder}")


def search(
    edges: Edges = "spanning-tree",
    gradient: Gradient = "relaxed",
    length: Annotated[int, typer.Option(min=2, max=20, help="T, the frames of a trajectory.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of a trial.")] = 50_000,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the networks.")] = 256,
    trials: Annotated[
        int, typer.Option(min=1, help="Learning rates in [1e-4, 1e-2] and temperatures in [0.1, 10], log-uniform.")
    ] = 20,
    concurrent: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="Of each trial.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the trials, and of every run.")] = 0,
    data: Annotated[Path, typer.Option(help="What `cvxsst data graph-layout` wrote.")] = DATA,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the search. Default: one below out/graph-layout.", show_default=False)
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster that shares the file system. Default: this machine.", show_default=False),
    ] = None,
) -> None:
    """Search learning rate and temperature with Ray Tune; the best trial is that of the highest validation ELBO.

    The same command goes on with a search that was cut off: finished trials are not run again.

    Example: `cvxsst search graph-layout --edges spanning-tree --steps 10000 --hidden 64 --concurrent 2`
    """
    require("lightning")
    require("ray", "cvxsst[search]")
    from experiments.graph_layout.search import Search, report
    from experiments.graph_layout.training import Config

    base = Config(
        edges=edges,
        gradient=gradient,
        length=length,
        steps=steps,
        hidden=hidden,
        samples=2 if gradient == "reinforce-loo" else 1,
        validate_every=min(500, steps),
        seed=seed,
    )
    folder = (output or RUNS / f"search-{base.name}").absolute()
    found = Search(base, data.absolute(), folder, trials).run(concurrent=concurrent, gpus=gpus, address=address)
    Console().print(report(found))
    print(f"written: {folder / 'search.json'}")


def table(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Runs, or folders of them. Default: the published results, and those below out/graph-layout.",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Write curves.png, and edges.png of runs with a checkpoint, to this folder.", show_default=False
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Of the layouts in the picture.")] = DATA,
) -> None:
    """Print our results beside the paper's: ELBO, precision and recall of the edges, seeds and their spread.

    Example: `cvxsst table graph-layout --pictures out/pictures`
    """
    require("lightning")
    from experiments.graph_layout import report

    places = folders or [report.COMMITTED, RUNS]
    found = report.results(place for place in places if folders or place.exists())
    if not found:
        raise ValueError(f"no finished run below {', '.join(map(str, places))}; cvxsst train graph-layout makes one")
    if markdown:
        print(report.markdown(found))
    else:
        Console().print(report.table(found))
    if pictures is not None:
        require("matplotlib")
        report.save_pictures(pictures, found, places, data)
        print(f"written: {pictures}")


def require(package: str, extra: str = "cvxsst[experiments]") -> None:
    """A clear error before anything is done.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ModuleNotFoundError(f"this command needs {package}: pip install '{extra}'")

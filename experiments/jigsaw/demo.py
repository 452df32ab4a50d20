"""``cvxsst demo``: learns to solve jigsaw puzzles of handwritten digits, and shows how well."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from cvxsst.installed import require
from experiments.jigsaw.config import Config
from experiments.jigsaw.data import Shares, chance, right_places, shares, shuffled, split_digits
from experiments.jigsaw.model import restore, restore_by_means
from experiments.jigsaw.picture import FORMATS, draw, save
from experiments.runs.experiment import EXTRA
from experiments.runs.options import Launch
from experiments.runs.seeds import seeded

BATCH = Config().batch_size


def demo(
    steps: Annotated[int, typer.Option(min=1, help=f"Training steps, {BATCH} puzzles each.")] = Config().steps,
    seed: Annotated[int, typer.Option(min=0, help="Of the network and of the training; the split is fixed.")] = 0,
    output: Annotated[Path, typer.Option(help="The picture, .png, .pdf or .svg.")] = Path("out/jigsaw.png"),
) -> None:
    """Learn to put the shuffled tiles of handwritten digits back: half a minute on two cores.

    A network scores tile x place; a stochastic softmax over the Birkhoff polytope turns the scores into a relaxed
    permutation. The loss sees only the pixels of the true image. Tested on digits that were never trained on. It is the
    smallest run of the experiment `cvxsst train jigsaw`.

    Example: cvxsst demo --seed 1 --output out/jigsaw.png
    """
    start = time.perf_counter()
    for package in ("sklearn", "matplotlib", "lightning"):
        require(package, EXTRA)
    _check_output(output)
    training, truth = split_digits()
    scrambled = shuffled(truth, torch.Generator().manual_seed(0))
    untrained, restored = _before_and_after(Config(steps=steps, seed=seed, validate_every=steps), scrambled)

    save(draw(scrambled, restored, truth), output)
    rows = {
        "chance": chance(truth),
        "mean tiles, no network": shares(right_places(restore_by_means(training, scrambled), truth)),
        "untrained network": shares(right_places(untrained, truth)),
        "trained network": shares(right_places(restored, truth)),
    }
    Console().print(_table(rows, len(truth)))
    typer.echo(f"{time.perf_counter() - start:.0f} s in all. Picture: {output}")


def _check_output(path: Path) -> None:
    """Fails now rather than after the training."""
    if path.suffix not in FORMATS:
        raise typer.BadParameter(f"{path} must end in one of {', '.join(FORMATS)}", param_hint="--output")
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a directory; name a file", param_hint="--output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error.strerror}", param_hint="--output") from None


def _before_and_after(config: Config, scrambled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network makes of the tiles, not trained and trained: a run of the experiment, its folder not kept."""
    from experiments.jigsaw.commands import EXPERIMENT
    from experiments.jigsaw.training import Jigsaw
    from experiments.runs.training import load_best

    with seeded(config.seed), tempfile.TemporaryDirectory() as folder:  # the caller's random numbers stay his own
        EXPERIMENT.run(config, Path(folder), Path(), Launch(accelerator="cpu"))
        trained = load_best(Jigsaw, Path(folder))
    return restore(Jigsaw(config).eval().scorer, scrambled), restore(trained.scorer, scrambled)


def _table(rows: dict[str, Shares], n: int) -> Table:
    table = Table(title=f"{n} held-out digits of 2x2 tiles")
    table.add_column("restored by")
    table.add_column("tiles", justify="right")
    table.add_column("images", justify="right")
    for name, (tiles, images) in rows.items():
        table.add_row(name, f"{tiles:.1%}", f"{images:.1%}")
    return table

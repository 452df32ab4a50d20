"""``cvxsst demo``: learns to solve jigsaw puzzles of handwritten digits, and shows how well."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cvxsst.installed import require
from experiments.jigsaw.data import Shares, chance, right_places, shares, shuffled, split_digits
from experiments.jigsaw.model import BATCH, Scorer, restore, restore_by_means, train
from experiments.jigsaw.picture import FORMATS, draw, save
from experiments.runs.experiment import EXTRA
from experiments.runs.seeds import seeded


def demo(
    steps: Annotated[int, typer.Option(min=1, help=f"Training steps, {BATCH} puzzles each.")] = 1200,
    seed: Annotated[int, typer.Option(min=0, help="Of the network and of the training; the split is fixed.")] = 0,
    output: Annotated[Path, typer.Option(help="The picture, .png, .pdf or .svg.")] = Path("out/jigsaw.png"),
) -> None:
    """Learn to put the shuffled tiles of handwritten digits back: half a minute on two cores.

    A network scores tile x position; StochasticSoftmax over the Birkhoff polytope turns the scores into a relaxed
    permutation. The loss sees only the pixels of the true image. Tested on digits that were never trained on.

    Example: cvxsst demo --seed 1 --output out/jigsaw.png
    """
    start = time.perf_counter()
    require("sklearn", EXTRA)
    require("matplotlib", EXTRA)
    _check_output(output)
    training, truth = split_digits()
    scrambled = shuffled(truth, torch.Generator().manual_seed(0))

    with seeded(seed):
        scorer = Scorer().eval()
        untrained = restore(scorer, scrambled)
        _train_with_progress(scorer, training, steps)
    restored = restore(scorer.eval(), scrambled)

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


def _train_with_progress(scorer: Scorer, training: torch.Tensor, steps: int) -> None:
    label, clocks = TextColumn("{task.description}"), (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(label, BarColumn(), MofNCompleteColumn(), *clocks) as progress:
        task = progress.add_task("training", total=steps)
        average = None
        for loss in train(scorer.train(), training, steps):
            average = loss if average is None else 0.95 * average + 0.05 * loss  # single batches are noisy
            progress.update(task, advance=1, description=f"training, loss {average:5.2f}")


def _table(rows: dict[str, Shares], n: int) -> Table:
    table = Table(title=f"{n} held-out digits of 2x2 tiles")
    table.add_column("restored by")
    table.add_column("tiles", justify="right")
    table.add_column("images", justify="right")
    for name, (tiles, images) in rows.items():
        table.add_row(name, f"{tiles:.1%}", f"{images:.1%}")
    return table

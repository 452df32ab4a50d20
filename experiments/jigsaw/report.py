"""The table, ours beside the published, and the pictures: for each run with its checkpoint what it restores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from experiments.jigsaw.config import LABELS, REGULARIZERS
from experiments.jigsaw.data import SOURCES, load, shuffled
from experiments.jigsaw.model import restore
from experiments.jigsaw.picture import draw, save
from experiments.runs.gradients import GRADIENTS
from experiments.runs.tables import Column, Comparison, Metric, Result, of, runs

COMMITTED = Path(__file__).parent / "results"

METRICS = (
    Metric("tau", "tau", digits=2),
    Metric("wrong", "wrong", percent=True, digits=1),
    Metric("any", "any wrong", percent=True, digits=1),
    Metric("l1", "L1", digits=3),
    Metric("l2", "L2", digits=3),
)

# Mena et al. 2018, Kendall's tau by p, all of MNIST; quoted from memory
PAPER = {2: "1.0", 3: ".83", 4: ".43", 5: ".39", 6: ".27"}


def gradient(group: list[Result]) -> str:
    return GRADIENTS[group[0]["config"]["gradient"]].label or "relaxed"


def pieces(group: list[Result]) -> str:
    grid = group[0]["config"]["grid"]
    return f"{grid} x {grid}"


def published(group: list[Result]) -> str:
    config = group[0]["config"]
    return PAPER.get(config["grid"], "") if config["images"] == "mnist" else ""


def sort_key(config: dict[str, Any]) -> tuple:
    names = ("steps", "hidden", "batch_size", "learning_rate", "weight_decay", "noise", "temperature", "samples")
    row = [*REGULARIZERS].index(config["order"]), [*GRADIENTS].index(config["gradient"])
    return [*SOURCES].index(config["images"]), config["grid"], *row, *(config[name] for name in (*names, "engine"))


TABLE = Comparison(
    title="Jigsaws, test set",
    source="Mena et al. 2018, from memory",
    columns=[
        Column("images", of("images"), words=True),
        Column("tiles", pieces, words=True),
        Column("order", lambda group: LABELS[group[0]["config"]["order"]], words=True),
        Column("gradient", gradient, words=True),
        *(Column(m.header, m.spread, published if m.name == "tau" else None) for m in METRICS),
        Column("seeds", runs),
        Column("steps", of("steps"), setting=True),
    ],
    order=sort_key,
)


def save_pictures(folder: Path, found: list[Result], places: Iterable[Path], data: Path) -> None:
    """A picture of each run below ``places`` that still has its checkpoint: first images, then mistakes."""
    from experiments.jigsaw.training import Jigsaw
    from experiments.runs.training import load_best

    folder.mkdir(parents=True, exist_ok=True)
    for run in [file.parent.parent for place in places for file in sorted(place.rglob("checkpoints/best.ckpt"))]:
        module = load_best(Jigsaw, run)
        truth = load(module.config.images, module.config.grid)["test"].truth
        scrambled = shuffled(truth, torch.Generator().manual_seed(0))
        save(draw(scrambled, restore(module.scorer, scrambled), truth), folder / f"{module.config.name}.png")

"""The table, ours beside the paper's, and the pictures: accuracy by depth, inferred arcs over the true ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from experiments.listops.data import DEEPEST, Batch, load
from experiments.listops.edges import LABELS, LSTM, TRUE
from experiments.listops.language import VOCABULARY
from experiments.runs.files import read_json
from experiments.runs.gradients import GRADIENTS
from experiments.runs.seeds import seeded
from experiments.runs.tables import Cell, Column, Comparison, Metric, Result, of, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.listops.training import ListOps

COMMITTED = Path(__file__).parent / "results"
TIMING = "timing.json"  # beside the results; made by timing.py

METRICS = (
    Metric("accuracy", "accuracy", percent=True, digits=1),
    Metric("precision", "precision", percent=True, digits=1),
    Metric("recall", "recall", percent=True, digits=1),
    Metric("all/precision", "precision of all edges", percent=True, digits=1),
    Metric("all/recall", "recall of all edges", percent=True, digits=1),
)

# Paulus et al. 2020, by edges: accuracy, precision and recall of the edges that do not touch "]"
PAPER = {
    LSTM: ("92.1 ± 0.2", "", ""),
    "independent-undirected": ("89.4 ± 0.6", "20.1 ± 2.1", "45.4 ± 6.5"),
    "spanning-tree": ("91.2 ± 1.8", "33.1 ± 2.9", "47.9 ± 5.2"),
    "independent": ("90.1 ± 0.5", "13.0 ± 2.0", "56.4 ± 6.7"),
    "arborescence-exponential": ("71.5 ± 1.4", "23.2 ± 10.2", "20.0 ± 6.0"),
    "arborescence-gaussian": ("95.0 ± 2.2", "65.3 ± 3.7", "60.8 ± 7.3"),
    "arborescence": ("95.0 ± 3.0", "75.5 ± 7.0", "71.9 ± 12.4"),
    TRUE: ("98.1 ± 0.1", "100", "100"),
}


def edges(group: list[Result]) -> str:
    return LABELS[group[0]["config"]["edges"]]


def gradient(group: list[Result]) -> str:
    config = group[0]["config"]
    return "" if config["edges"] in (LSTM, TRUE) else GRADIENTS[config["gradient"]].label or "relaxed"


def published(number: int) -> Cell:
    """The paper's figure for a metric."""

    def cell(group: list[Result]) -> str:
        config = group[0]["config"]
        known = PAPER.get(config["edges"]) if config["gradient"] == "relaxed" else None
        return known[number] if known else ""

    return cell


def depths(group: list[Result]) -> str:
    """The greatest depth of the expressions."""
    return str(max(depth for depth in range(1, DEEPEST + 1) if f"accuracy/{depth}" in group[0]["test"]))


def step_seconds(group: list[Result]) -> str:
    """Of a training step, as timing.py measured it; empty where there is no such measurement."""
    return f"{_timing(group)['step']:.2f}" if _timing(group) else ""


def latent_share(group: list[Result]) -> str:
    """Of the relaxed graphs in these seconds, in percent."""
    found = _timing(group)
    return f"{100 * found['latent'] / found['step']:.0f}" if "latent" in found else ""


def _timing(group: list[Result]) -> dict[str, float]:
    config, path = group[0]["config"], COMMITTED / TIMING
    if config["gradient"] != "relaxed" or config["hidden"] != 60 or not path.exists():
        return {}
    return read_json(path)["seconds"].get(config["edges"], {})


def order(config: dict[str, Any]) -> tuple:
    settings = [config[name] for name in ("hidden", "steps", "learning_rate", "temperature", "samples", "engine")]
    return [*LABELS].index(config["edges"]), [*GRADIENTS].index(config["gradient"]), *settings


TABLE = Comparison(
    title="Simplified ListOps, test set",
    source="Paulus et al. 2020, depth 5",
    columns=[
        Column("edges", edges, words=True),
        Column("gradient", gradient, words=True),
        *(Column(metric.header, metric.spread, published(number)) for number, metric in enumerate(METRICS[:3])),
        Column("seeds", runs),
        Column("depths", depths, setting=True),
        Column("steps", of("steps"), setting=True),
        Column("hidden", of("hidden"), setting=True),
        Column("s/step", step_seconds),
        Column("latent %", latent_share),
    ],
    order=order,
)


def draw_depths(found: Sequence[Result]) -> Figure:
    """Accuracy on the test set by the depth of the expressions, a line for each row of the table."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    ax, seen = figure.subplots(), {1}
    steps = sorted({result["config"]["steps"] for result in found})
    styles = dict(zip(GRADIENTS, ("-", "--", ":", "-.", (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1))), strict=True))
    for group in TABLE.groups(found):
        config = group[0]["config"]
        known = [depth for depth in range(1, DEEPEST + 1) if f"accuracy/{depth}" in group[0]["test"]]
        mean = [sum(result["test"][f"accuracy/{depth}"] for result in group) / len(group) for depth in known]
        label = edges(group) + ("" if config["gradient"] == "relaxed" else f", {gradient(group)}")
        label += f", {config['steps']:,} steps" if len(steps) > 1 else ""
        colour = colormaps["Paired"]([*LABELS].index(config["edges"]))
        style: dict[str, Any] = {"color": colour, "linestyle": styles[config["gradient"]], "label": label}
        ax.plot(known, [100 * value for value in mean], marker="osD^v"[steps.index(config["steps"]) % 5], **style)
        seen |= {*known}
    ax.set(xlabel="lists within lists", ylabel="test accuracy, %", ylim=(None, 102), xticks=sorted(seen))
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


@torch.no_grad()
def edge_probabilities(module: ListOps, batch: Batch, samples: int = 200) -> torch.Tensor:
    """``(B, n, n)``: how often an edge is in a sampled graph."""
    latent = module.latent(batch)
    return latent.argmax(latent.utilities.sample(torch.Size([samples]))).mean(0)


def draw_arcs(folders: Iterable[Path], data: Path, expressions: int = 2, seed: int = 0) -> Figure:
    """Test expressions of about 14 tokens, three lists deep where there are such: their true arcs, broad and pale, and
    the inferred ones in black, as dark as they are probable; above the words where they are true, below where not. A
    row for each run before, and one after training.
    """
    from matplotlib.figure import Figure

    from experiments.listops.training import ListOps, load_best

    folders, test = list(folders), load(data)["test"]
    far = (test.whole.lengths - 14).abs() + 100 * (test.whole.depths - 3).abs()
    batch = test.batch(far.argsort(stable=True)[:expressions])
    figure = Figure(figsize=(5.4 * len(batch.tokens), 4.4 * len(folders)), layout="constrained")
    axes = figure.subplots(2 * len(folders), len(batch.tokens), squeeze=False)
    with seeded(seed):
        for number, folder in enumerate(folders):
            trained = load_best(folder)
            untrained = ListOps(trained.config).eval()
            for row, (module, when) in enumerate(((untrained, "before"), (trained, "after")), 2 * number):
                probabilities = edge_probabilities(module, batch)
                parts = zip(axes[row], batch.tokens, batch.arcs, module.truth(batch), probabilities, strict=True)
                for ax, tokens, arcs, truth, probability in parts:
                    _draw_expression(ax, tokens, arcs, truth, probability)
                axes[row, 0].set_ylabel(f"{LABELS[trained.config.edges]},\n{when} training", fontsize="small")
    return figure


def _draw_expression(
    ax: Axes, tokens: torch.Tensor, arcs: torch.Tensor, truth: torch.Tensor, probability: torch.Tensor
) -> None:
    """``arcs``: those to be drawn as true ones; ``truth``: inferred ones that are so."""
    words = [VOCABULARY[token] for token in tokens.tolist() if token]
    n = len(words)
    for i, j in product(range(n), repeat=2):
        if arcs[i, j]:
            _arc(ax, i, j, True, color="tab:orange", alpha=0.35, linewidth=6)
        if probability[i, j] > 0.02:
            _arc(ax, i, j, bool(truth[i, j]), color="black", alpha=float(probability[i, j]), linewidth=1.4)
    for position, word in enumerate(words):
        ax.text(position, 0, word, ha="center", va="center", fontsize=8)
    tall = 0.8 * n**0.8 + 1
    ax.set(xlim=(-0.8, n - 0.2), ylim=(-tall, tall), xticks=[], yticks=[])


def _arc(ax: Axes, i: int, j: int, above: bool, **style: Any) -> None:
    from matplotlib.patches import Arc

    centre = (i + j) / 2, 0.7 if above else -0.7
    angles = (0, 180) if above else (180, 360)
    ax.add_patch(Arc(centre, abs(i - j), 1.6 * abs(i - j) ** 0.8, theta1=angles[0], theta2=angles[1], **style))


def save_pictures(folder: Path, found: Sequence[Result], places: Iterable[Path], data: Path) -> None:
    """depths.png, and arcs.png of the runs with latent graphs below ``places`` that still have their checkpoint."""
    from experiments.listops.config import Config

    folder.mkdir(parents=True, exist_ok=True)
    draw_depths(found).savefig(folder / "depths.png", dpi=110)
    kept = [file.parent.parent for place in places for file in sorted(place.rglob("checkpoints/best.ckpt"))]
    latent = [run for run in kept if Config.of(run).edges not in (LSTM, TRUE)]
    if latent:
        draw_arcs(latent, data).savefig(folder / "arcs.png", dpi=110)

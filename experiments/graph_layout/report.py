"""The table, ours beside the paper's, and the pictures: training curves, and learned edges over the true tree."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from experiments.graph_layout.data import load
from experiments.graph_layout.edges import EDGES
from experiments.runs.files import read_json
from experiments.runs.gradients import GRADIENTS
from experiments.runs.seeds import seeded
from experiments.runs.tables import Cell, Column, Comparison, Metric, Result, of, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.graph_layout.training import RelationalInference

COMMITTED = Path(__file__).parent / "results"
TIMING = "timing.json"  # beside the results; made by timing.py
MARKERS = "os^Dv*X"


METRICS = (
    Metric("elbo", "ELBO"),
    Metric("precision", "precision", percent=True),
    Metric("recall", "recall", percent=True),
)

# Paulus et al. 2020, by T and edges: the metrics, best of 20 trials by validation ELBO, spread over a bootstrap of the
# trials.
PAPER = {
    (10, "independent"): ("-1370 ± 20", "48 ± 2", "93 ± 1"),
    (10, "top-k"): ("-2100 ± 20", "41 ± 1", "41 ± 1"),
    (10, "spanning-tree"): ("-1080 ± 110", "91 ± 3", "91 ± 3"),
    (20, "independent"): ("-1340 ± 160", "97 ± 3", "99 ± 1"),
    (20, "top-k"): ("-1700 ± 320", "98 ± 6", "98 ± 6"),
    (20, "spanning-tree"): ("-1280 ± 10", "99 ± 1", "99 ± 1"),
}


def edges(group: list[Result]) -> str:
    return EDGES[group[0]["config"]["edges"]].label


def gradient(group: list[Result]) -> str:
    return GRADIENTS[group[0]["config"]["gradient"]].label or "relaxed"


def published(number: int) -> Cell:
    """The paper's figure for a metric."""

    def cell(group: list[Result]) -> str:
        config = group[0]["config"]
        known = PAPER.get((config["length"], config["edges"])) if config["gradient"] == "relaxed" else None
        return known[number] if known else ""

    return cell


def step_seconds(engine: str) -> Cell:
    """As measured; ``-`` where the engine has no such path, empty where there is no such measurement."""

    def cell(group: list[Result]) -> str:
        config, stored = group[0]["config"], _timing()
        measured = all(stored["about"].get(name) == config[name] for name in ("hidden", "length", "batch_size"))
        if config["gradient"] not in ("relaxed", "straight-through") or not measured:
            return ""
        seconds = stored["seconds"].get(config["edges"], {})
        return f"{seconds[engine]:.2f}" if engine in seconds else "-"

    return cell


@cache
def _timing() -> dict[str, Any]:
    return read_json(COMMITTED / TIMING) if (COMMITTED / TIMING).exists() else {"about": {}}


def order(config: dict[str, Any]) -> tuple:
    settings = [config[name] for name in ("hidden", "steps", "learning_rate", "temperature", "samples", "engine")]
    return config["length"], [*EDGES].index(config["edges"]), [*GRADIENTS].index(config["gradient"]), *settings


TABLE = Comparison(
    title="Latent graphs of layouts, test set",
    source="Paulus et al. 2020",
    columns=[
        Column("T", of("length"), setting=True),
        Column("edges", edges, words=True),
        Column("gradient", gradient, words=True),
        *(Column(metric.header, metric.spread, published(number)) for number, metric in enumerate(METRICS)),
        Column("seeds", runs),
        Column("steps", of("steps"), setting=True),
        Column("hidden", of("hidden"), setting=True),
        Column("s/step fast", step_seconds("fast")),
        Column("kkt", step_seconds("kkt")),
    ],
    order=order,
)


def draw_curves(found: list[Result]) -> Figure:
    """ELBO and precision on the validation set against the training step, one column for each T.

    A color for each line of the table; seeds share it. Steps are on a logarithmic axis, for many runs are short and end
    where the long ones begin. The ELBO is cut below the worst final one: first validations may lie far below.
    """
    from matplotlib.figure import Figure

    lengths = sorted({result["config"]["length"] for result in found})
    figure = Figure(figsize=(5.2 * len(lengths), 8), layout="constrained")
    axes = figure.subplots(2, len(lengths), squeeze=False, sharex="col")
    kinds = [(edges, gradient) for edges in EDGES for gradient in GRADIENTS]
    kinds = [kind for kind in kinds if any(_kind(result) == kind for result in found)]
    labelled: dict[str, Any] = {}
    for (elbo, precision), length in zip(axes.T, lengths, strict=True):
        runs_of_length = [result for result in found if result["config"]["length"] == length]
        for result in runs_of_length:
            (edges, gradient), history = _kind(result), result["history"]
            label = EDGES[edges].label + (f", {GRADIENTS[gradient].label}" if gradient != "relaxed" else "")
            number = kinds.index((edges, gradient))
            style = {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)], "label": label}
            steps = [line["step"] for line in history]
            elbo.plot(steps, [line["elbo"] for line in history], markersize=5, **style)
            precision.plot(steps, [100 * line["precision"] for line in history], markersize=5, **style)
        worst = min(result["history"][-1]["elbo"] for result in runs_of_length)
        elbo.set(title=f"T = {length}", ylim=(1.05 * min(worst, 0), None))
        marks = sorted({line["step"] for result in runs_of_length for line in result["history"]})
        marks = [step for step in marks if step == marks[-1] or (marks[-1] / step).is_integer()]
        precision.set(xlabel="training step", ylim=(0, 100), xscale="log")
        precision.set_xticks(marks, [f"{step:,}" for step in marks])
        precision.minorticks_off()
        labelled |= zip(*reversed(precision.get_legend_handles_labels()), strict=True)  # seeds and columns share labels
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=3, fontsize="small")
    axes[0, 0].set_ylabel("validation ELBO")
    axes[1, 0].set_ylabel("edge precision, %")
    return figure


def _kind(result: Result) -> tuple[str, str]:
    return result["config"]["edges"], result["config"]["gradient"]


@torch.no_grad()
def edge_probabilities(module: RelationalInference, positions: torch.Tensor, samples: int = 1000) -> torch.Tensor:
    """``(batch, V, V)``: how often an edge is in a sampled graph."""
    q = module.kind.argmax(module.scores(positions))
    return module.kind.graph(q.sample((samples,)), positions.shape[1]).mean(0)[:, 1]


def draw_edges(folders: Iterable[Path], data: Path, layouts: int = 4, seed: int = 0) -> Figure:
    """The last frame of a few test layouts: the true tree, broad and pale, under the learned edge probabilities.

    A row for each run, from its best checkpoint. For directed edges the larger probability of both directions.
    """
    from matplotlib.figure import Figure

    from experiments.graph_layout.training import load_best

    folders = list(folders)
    figure = Figure(figsize=(2.6 * layouts, 2.7 * len(folders)), layout="constrained")
    axes = figure.subplots(len(folders), layouts, squeeze=False)
    with seeded(seed):
        for line, folder in zip(axes, folders, strict=True):
            module = load_best(folder)
            positions, trees = load(data, module.config.length)["test"].batch(torch.arange(layouts))
            probabilities = edge_probabilities(module, positions)
            for ax, frames, tree, probability in zip(line, positions, trees, probabilities, strict=True):
                _draw_layout(
                    ax, frames[:, -1].numpy(), tree.numpy(), torch.maximum(probability, probability.mT).numpy()
                )
            line[0].set_ylabel(f"{module.kind.label}\nT = {module.config.length}")
    return figure


def _draw_layout(ax: Axes, nodes: np.ndarray, tree: np.ndarray, probability: np.ndarray) -> None:
    for (i, j), present in zip(combinations(range(len(nodes)), 2), tree, strict=True):
        ends = nodes[[i, j]].T
        if present:
            ax.plot(*ends, color="tab:orange", alpha=0.35, linewidth=9, solid_capstyle="round", zorder=1)
        ax.plot(*ends, color="black", alpha=float(probability[i, j]), linewidth=1.8, zorder=2)
    ax.scatter(nodes[:, 0], nodes[:, 1], s=36, color="white", edgecolor="black", zorder=3)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.margins(0.12)


def save_pictures(folder: Path, found: list[dict[str, Any]], places: Iterable[Path], data: Path) -> None:
    """curves.png, and edges.png of the runs below ``places`` that still have their checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_curves(found).savefig(folder / "curves.png", dpi=110)
    checkpoints = [file for place in places for file in sorted(place.rglob("checkpoints/best.ckpt"))]
    if checkpoints:
        draw_edges([file.parent.parent for file in checkpoints], data).savefig(folder / "edges.png", dpi=110)

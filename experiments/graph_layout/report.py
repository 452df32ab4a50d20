"""The table, ours beside the paper's, and the pictures: training curves, and learned edges over the true tree."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from rich.table import Table

from experiments.graph_layout.data import load
from experiments.graph_layout.edges import EDGES, GRADIENTS
from experiments.graph_layout.training import RelationalInference, load_best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMMITTED = Path(__file__).parent / "results"
TIMING = "timing.json"  # beside the results; made by timing.py


class Paper(NamedTuple):
    """ELBO, precision and recall in percent, each with its spread."""

    elbo: str
    precision: str
    recall: str


# Paulus et al. 2020: best of 20 trials by validation ELBO, spread over a bootstrap of the trials.
PAPER = {
    (10, "independent"): Paper("-1370 ± 20", "48 ± 2", "93 ± 1"),
    (10, "top-k"): Paper("-2100 ± 20", "41 ± 1", "41 ± 1"),
    (10, "spanning-tree"): Paper("-1080 ± 110", "91 ± 3", "91 ± 3"),
    (20, "independent"): Paper("-1340 ± 160", "97 ± 3", "99 ± 1"),
    (20, "top-k"): Paper("-1700 ± 320", "98 ± 6", "98 ± 6"),
    (20, "spanning-tree"): Paper("-1280 ± 10", "99 ± 1", "99 ± 1"),
}


def results(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """What the finished runs below the folders say, each once."""
    files = [file for folder in folders for file in sorted(folder.rglob("*.json")) if file.name != "config.json"]
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        content = json.loads(file.read_text())
        if isinstance(content, dict) and "test" in content and "config" in content:
            found.setdefault(json.dumps(content["config"], sort_keys=True), content)
    return list(found.values())


HEADERS = [
    "T",
    "edges",
    "gradient",
    "ELBO",
    "precision %",
    "recall %",
    "seeds",
    "steps",
    "hidden",
    "s/step fast",
    "kkt",
    "paper: ELBO",
    "precision",
    "recall",
]


def rows(found: Iterable[dict[str, Any]]) -> list[list[str]]:
    """A line for each setting, the seeds together: mean ± standard deviation over the seeds."""
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for result in found:
        config = result["config"]
        order = list(EDGES).index(config["edges"]), list(GRADIENTS).index(config["gradient"])
        setting = [config[name] for name in ("hidden", "steps", "learning_rate", "temperature", "samples", "engine")]
        groups[(config["length"], *order, *setting)].append(result)
    return [_row(group) for _, group in sorted(groups.items())]


def step_seconds(config: dict[str, Any]) -> list[str]:
    """With the fast path and with the kkt engine, as measured; empty where there is no such engine or measurement."""
    stored = COMMITTED / TIMING
    if config["gradient"] not in ("relaxed", "straight-through") or not stored.exists():
        return ["", ""]
    measured = json.loads(stored.read_text())
    if any(measured["about"][name] != config[name] for name in ("hidden", "length", "batch_size")):
        return ["", ""]
    seconds = measured["seconds"].get(config["edges"], {})
    return [f"{seconds[engine]:.2f}" if engine in seconds else "-" for engine in ("fast", "kkt")]


def _row(group: list[dict[str, Any]]) -> list[str]:
    config = group[0]["config"]
    tests = [result["test"] for result in group]
    paper = PAPER.get((config["length"], config["edges"])) if config["gradient"] == "relaxed" else None
    return [
        str(config["length"]),
        EDGES[config["edges"]].label,
        GRADIENTS[config["gradient"]].label or "relaxed",
        spread([test["elbo"] for test in tests]),
        spread([100 * test["precision"] for test in tests]),
        spread([100 * test["recall"] for test in tests]),
        str(len(tests)),
        f"{config['steps']:,}",
        str(config["hidden"]),
        *step_seconds(config),
        *(paper or ("", "", "")),
    ]


def spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.0f}"
    return f"{mean} ± {statistics.stdev(values):.0f}" if len(values) > 1 else mean


def table(found: list[dict[str, Any]]) -> Table:
    printed = Table(title="Latent graphs of layouts, test set; ours: mean ± standard deviation over seeds")
    for number, header in enumerate(HEADERS):
        printed.add_column(header, justify="left" if number in (1, 2) else "right", overflow="fold")
    for row in rows(found):
        printed.add_row(*row)
    return printed


def markdown(found: list[dict[str, Any]]) -> str:
    lines = [HEADERS, ["---"] * len(HEADERS), *rows(found)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_curves(found: list[dict[str, Any]]) -> Figure:
    """ELBO and precision on the validation set against the training step, one column for each T."""
    from matplotlib.figure import Figure

    lengths = sorted({result["config"]["length"] for result in found})
    figure = Figure(figsize=(5.2 * len(lengths), 7.2), layout="constrained")
    axes = figure.subplots(2, len(lengths), squeeze=False, sharex="col")
    colours = {name: f"C{number}" for number, name in enumerate(EDGES)}
    styles = dict(zip(GRADIENTS, ("-", "--", ":", "-.", (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1))), strict=True))
    labelled: dict[str, Any] = {}
    for (elbo, precision), length in zip(axes.T, lengths, strict=True):
        for result in found:
            config, history = result["config"], result["history"]
            if config["length"] != length:
                continue
            edges, gradient = config["edges"], config["gradient"]
            label = EDGES[edges].label + (f", {GRADIENTS[gradient].label}" if gradient != "relaxed" else "")
            style = {"color": colours[edges], "linestyle": styles[gradient], "label": label}
            steps = [line["step"] for line in history]
            elbo.plot(steps, [line["elbo"] for line in history], **style)
            precision.plot(steps, [100 * line["precision"] for line in history], **style)
        elbo.set(title=f"T = {length}", ylim=(-6000, 0))  # the first validations lie far below
        precision.set(xlabel="training step", ylim=(0, 100))
        labelled |= zip(*reversed(precision.get_legend_handles_labels()), strict=True)  # seeds and columns share labels
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=3, fontsize="small")
    axes[0, 0].set_ylabel("validation ELBO")
    axes[1, 0].set_ylabel("edge precision, %")
    return figure


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

    folders = list(folders)
    figure = Figure(figsize=(2.6 * layouts, 2.7 * len(folders)), layout="constrained")
    axes = figure.subplots(len(folders), layouts, squeeze=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for line, folder in zip(axes, folders, strict=True):
            module = load_best(folder)
            test = load(data, module.config.length)["test"][:layouts]
            probabilities = edge_probabilities(module, test.positions)
            for ax, frames, tree, probability in zip(line, test.positions, test.trees, probabilities, strict=True):
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

"""The table, ours beside the published, and the pictures: accuracy against known share, confusion along the body."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from experiments.connectome.config import Config
from experiments.connectome.data import RADII, Worms, load
from experiments.connectome.permutations import LABELS, MCMC
from experiments.runs.files import read_json
from experiments.runs.gradients import GRADIENTS
from experiments.runs.tables import Column, Comparison, Metric, Result, of, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMMITTED = Path(__file__).parent / "results"
TIMING = "timing.json"  # beside the results; made by timing.py

METRICS = (
    Metric("accuracy", "accuracy", percent=True, digits=1),
    Metric("unknown", "of the unknown", percent=True, digits=1),
    Metric("fit", "fit", digits=3),
)

# Mena et al. 2018, by known neurons, then easy and hard: share of identified neurons. Which of Linderman et al.'s
# settings are easy and hard is inferred from the shares.
PAPER = {
    MCMC: {110: (0.85, 0.82), 83: (0.51, 0.44), 55: (0.29, 0.27), 25: (0.16, 0.12)},
    "rounding": {110: (0.97, 0.95), 83: (0.90, 0.85), 55: (0.77, 0.59), 25: (0.39, 0.21)},
    "gumbel-sinkhorn": {110: (0.97, 0.96), 83: (0.92, 0.84), 55: (0.76, 0.59), 25: (0.44, 0.26)},
    "gumbel-sinkhorn-free": {110: (0.96, 0.93), 83: (0.89, 0.78), 55: (0.71, 0.52), 25: (0.40, 0.23)},
}


def difficulty(config: dict[str, Any]) -> str:
    return next((name for name, radius in RADII.items() if radius == config["radius"]), f"radius {config['radius']}")


def method(config: dict[str, Any]) -> str:
    words = [LABELS[config["permutations"]]]
    if config["permutations"] != MCMC and config["gradient"] != "relaxed":
        words.append(GRADIENTS[config["gradient"]].label)
    return ", ".join(words if config["regularized"] else [*words, "not regularized"])


def published(group: list[Result]) -> str:
    config = group[0]["config"]
    like = "gumbel-sinkhorn" if config["permutations"] == "sinkhorn" else config["permutations"]  # exact, or 10 sweeps
    row = PAPER.get(like + ("" if config["regularized"] else "-free"), {}).get(config["known"])
    if row is None or config["gradient"] != "relaxed" or difficulty(config) not in RADII:
        return ""
    return f"{100 * row[[*RADII].index(difficulty(config))]:.0f}"


def milliseconds(group: list[Result]) -> str:
    """Of a step, as measured; empty where there is no such measurement."""
    config = group[0]["config"]
    found = _timing().get(f"{config['permutations']} {config['gradient']} {config['known']} {config['radius']}")
    return "" if found is None else f"{found:.0f}"


@cache
def _timing() -> dict[str, float]:
    return read_json(COMMITTED / TIMING)["milliseconds"] if (COMMITTED / TIMING).exists() else {}


def order(config: dict[str, Any]) -> tuple:
    settings = [config[name] for name in ("steps", "learning_rate", "precision", "temperature", "samples", "engine")]
    row = [*LABELS].index(config["permutations"]), [*GRADIENTS].index(config["gradient"]), not config["regularized"]
    return -config["known"], config["radius"], *row, *settings


TABLE = Comparison(
    title="Neurons identified in simulated worms, known ones included",
    source="Mena et al. 2018",
    columns=[
        Column("known", of("known")),
        Column("", lambda group: difficulty(group[0]["config"]), words=True),
        Column("permutations", lambda group: method(group[0]["config"]), words=True),
        Column(METRICS[0].header, METRICS[0].spread, published),
        *(Column(metric.header, metric.spread) for metric in METRICS[1:]),
        Column("simulations", runs),
        Column("steps", of("steps"), setting=True),
        Column("ms/step", milliseconds),
    ],
    order=order,
)


def draw_accuracy(found: list[Result]) -> Figure:
    """Accuracy against the share of known neurons, easy and hard; published figures as open marks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    lines: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    theirs: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for result in found:
        config = result["config"]
        key = difficulty(config), method(config)
        lines[key][config["known"]].append(100 * result["test"]["accuracy"])
        if stated := published([result]):
            theirs[key][config["known"]] = float(stated)
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(name for _, name in lines))}
    axes = figure.subplots(1, len(RADII), sharey=True, squeeze=False)[0]
    for ax, level in zip(axes, RADII, strict=True):
        for (own, name), values in lines.items():
            if own == level:
                at = sorted(values)
                ax.plot(at, [statistics.mean(values[k]) for k in at], "o-", color=colours[name], label=name, ms=4)
                if known := sorted(theirs[own, name].items()):
                    ax.plot(*zip(*known, strict=True), "x:", color=colours[name])
        ax.axline((0, 0), (279, 100), color="0.7", linewidth=0.8)
        ax.set(title=f"{level}: radius {RADII[level]}", xlabel="known neurons of 279", xlim=(0, 120), ylim=(0, 100))
    axes[0].set_ylabel("neurons identified, %")
    labelled = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        labelled.values(),
        labelled.keys(),
        loc="outside lower center",
        ncols=3,
        fontsize="small",
        title="crosses: published; grey: the known ones alone",
    )
    return figure


def draw_confusion(folder: Path, data: Path) -> Figure:
    """Where along the body a neuron lies, and where the one lies that it is taken for: a point for each of the worms'
    unknown neurons, and how far off the mistakes are."""
    from matplotlib.figure import Figure

    config = Config.of(folder)
    worms = load(data, config.seed, config.known, config.radius)
    true, guessed = confusion(folder, config, worms)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    scatter, histogram = figure.subplots(1, 2)
    wrong = true != guessed
    scatter.plot(true[~wrong], guessed[~wrong], ".", color="0.75", label=f"right or at the same place: {sum(~wrong)}")
    scatter.plot(true[wrong], guessed[wrong], ".", color="#d62728", label=f"wrong: {sum(wrong)}")
    scatter.set(xlabel="position of the neuron, head to tail", ylabel="of what it is taken for", aspect="equal")
    scatter.legend(fontsize="small")
    _draw_distances(histogram, (guessed - true)[wrong].abs(), config.radius)
    figure.suptitle(f"{method(config.to_json())}, {config.known} of {config.neurons} known, {difficulty(vars(config))}")
    return figure


def _draw_distances(ax: Axes, off: torch.Tensor, radius: float) -> None:
    ax.hist(off.numpy(), bins=20, range=(0, radius), color="#d62728")
    ax.set(xlabel="how far off along the body, wrong neurons", ylabel="neurons", xlim=(0, radius))


@torch.no_grad()
def confusion(folder: Path, config: Config, worms: Worms) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the unknown neurons of all worms, and of those that they are taken for."""
    from experiments.connectome.training import Identification
    from experiments.runs.training import load_best

    module = load_best(Identification, folder)
    recorded = module.kind.mode(module.scores, worms.allowed).argmax(-1)
    taken_for = worms.places.argsort(1).gather(1, recorded)
    unknown = ~worms.known
    return worms.positions.expand_as(unknown)[unknown], worms.positions[taken_for][unknown]


def save_pictures(folder: Path, found: list[Result], places: Iterable[Path], data: Path) -> None:
    """accuracy.png, and confusion.png of the last run below ``places`` that still has its checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_accuracy(found).savefig(folder / "accuracy.png", dpi=110)
    checkpoints = [file for place in places for file in sorted(place.rglob("checkpoints/best.ckpt"))]
    trained = [file.parent.parent for file in checkpoints if Config.of(file.parent.parent).permutations != MCMC]
    if trained and data.exists():
        draw_confusion(trained[-1], data).savefig(folder / "confusion.png", dpi=110)

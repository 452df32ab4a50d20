"""The table, ours beside the published, and the pictures: error against k, and what was chosen of some reviews."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from experiments.l2x.data import PADDING, load
from experiments.l2x.reviews import ASPECTS, MARKS, usual
from experiments.l2x.subsets import SUBSETS
from experiments.runs.gradients import GRADIENTS
from experiments.runs.tables import Cell, Column, Comparison, Metric, Result, of, runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.l2x.config import Config

COMMITTED = Path(__file__).parent / "results"
TIMING = "timing.json"  # beside the results; made by timing.py

METRICS = (
    Metric("error", "100 MSE", digits=1, lower=True),
    Metric("precision", "precision", percent=True, digits=1),
    Metric("run", "run", digits=1),
    Metric("chance", "chance", percent=True, digits=1),
    Metric("frequent", "frequent", percent=True, digits=1),
)

# Paulus et al. 2020, BeerAdvocate, aroma, the simple network, by subset and k: 100 mean squared errors, precision in %
PAPER = {
    "l2x": {5: ("3.6 ± 0.1", "28.3 ± 1.7"), 10: ("3.0 ± 0.1", "25.5 ± 1.2"), 15: ("2.6 ± 0.1", "25.5 ± 0.4")},
    "softsub": {5: ("3.6 ± 0.1", "27.2 ± 0.7"), 10: ("3.0 ± 0.1", "26.1 ± 1.1"), 15: ("2.6 ± 0.1", "25.1 ± 1.0")},
    "euclidean": {5: ("3.5 ± 0.1", "25.8 ± 0.8"), 10: ("2.8 ± 0.1", "32.9 ± 1.2"), 15: ("2.5 ± 0.1", "29.0 ± 0.3")},
    "categorical": {5: ("3.5 ± 0.1", "26.4 ± 2.0"), 10: ("2.9 ± 0.1", "32.1 ± 0.4"), 15: ("2.6 ± 0.1", "28.7 ± 0.5")},
    "binary": {5: ("3.5 ± 0.1", "29.2 ± 2.0"), 10: ("2.7 ± 0.1", "33.6 ± 0.6"), 15: ("2.6 ± 0.1", "28.8 ± 0.4")},
    "exponential": {5: ("3.5 ± 0.1", "28.8 ± 1.7"), 10: ("2.7 ± 0.1", "32.8 ± 0.5"), 15: ("2.5 ± 0.1", "29.2 ± 0.8")},
    "correlated": {5: ("2.9 ± 0.1", "63.1 ± 5.3"), 10: ("2.5 ± 0.1", "53.1 ± 0.9"), 15: ("2.4 ± 0.1", "45.5 ± 2.7")},
}


def subset(group: list[Result]) -> str:
    return SUBSETS[group[0]["config"]["subset"]].label


def gradient(group: list[Result]) -> str:
    return GRADIENTS[group[0]["config"]["gradient"]].label or "relaxed"


def against(group: list[Result]) -> str:
    """What the chosen words are held against."""
    return MARKS[group[0]["config"]["corpus"]]


def published(number: int) -> Cell:
    """The published figure for a metric, of the rows that are as there."""

    def cell(group: list[Result]) -> str:
        config = group[0]["config"]
        same = config["aspect"] == "aroma" and config["network"] == "simple" and config["gradient"] == "relaxed"
        known = PAPER[config["subset"]].get(config["k"]) if same else None
        return known[number] if known else ""

    return cell


def order(config: dict[str, Any]) -> tuple:
    place = [*ASPECTS].index(config["corpus"]), config["aspect"], config["network"], config["k"]
    row = [*GRADIENTS].index(config["gradient"]), [*SUBSETS].index(config["subset"])
    return *place, *row, *(config[name] for name in ("hidden", "steps", "learning_rate", "temperature", "samples"))


TABLE = Comparison(
    title="Learning to explain, test set",
    source="Paulus et al. 2020, BeerAdvocate, aroma",
    columns=[
        Column("corpus", of("corpus"), setting=True),
        Column("aspect", of("aspect"), setting=True),
        Column("k", of("k"), setting=True),
        Column("subset", subset, words=True),
        Column("gradient", gradient, words=True),
        *(Column(metric.header, metric.spread, published(number)) for number, metric in enumerate(METRICS[:2])),
        *(Column(metric.header, metric.spread) for metric in METRICS[2:]),
        Column("seeds", runs),
        Column("network", of("network"), setting=True),
        Column("precision against", against, setting=True),
        Column("steps", of("steps"), setting=True),
    ],
    order=order,
)


def draw_errors(found: Sequence[Result], network: str = "simple") -> Figure:
    """Test error and precision against k, a line for each row of the table; a column for each corpus and aspect."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    places = sorted({(result["config"]["corpus"], result["config"]["aspect"]) for result in found})
    figure = Figure(figsize=(4.6 * len(places) + 1, 6.6), layout="constrained")
    axes = figure.subplots(2, len(places), squeeze=False, sharex="col")
    styles = dict(zip(GRADIENTS, ("-", "--", ":", "-.", (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1))), strict=True))
    lines: dict[tuple, list[list[Result]]] = {}
    for group in TABLE.groups(r for r in found if r["config"]["network"] == network):
        config = group[0]["config"]
        key = config["corpus"], config["aspect"], config["subset"], config["gradient"]
        lines.setdefault(key, []).append(group)
    for (corpus, aspect, name, how), groups in lines.items():
        for ax, metric in zip(axes[:, places.index((corpus, aspect))], METRICS[:2], strict=True):
            scale = 100 if metric.percent else 1
            points = [(g[0]["config"]["k"], [scale * r["test"][metric.name] for r in g]) for g in groups]
            marker = "o" if how == "relaxed" else "x"
            label = f"{SUBSETS[name].label}" + ("" if how == "relaxed" else f", {GRADIENTS[how].label}")
            style: dict[str, Any] = {"color": colormaps["tab10"]([*SUBSETS].index(name)), "linestyle": styles[how]}
            ax.plot([k for k, _ in points], [sum(v) / len(v) for _, v in points], marker, label=label, **style)
            for k, values in points:
                ax.plot([k] * len(values), values, ".", color=style["color"], markersize=3, alpha=0.5)
            ax.set(ylabel=metric.header)
    for ax, (corpus, aspect) in zip(axes[0], places, strict=True):
        ax.set(title=f"{corpus}, {aspect}")
    for ax, place in zip(axes[1], places, strict=True):
        known = {r["config"]["k"] for r in found if (r["config"]["corpus"], r["config"]["aspect"]) == place}
        ax.set(xlabel="k, the words chosen", xticks=sorted(known))
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


@torch.no_grad()
def draw_choices(folders: Iterable[Path], data: Path, config: Config, reviews: int = 3) -> Figure:
    """Test reviews with what is marked, and below, row under row, what the runs chose.

    Args:
        folders: of the runs, which share corpus and aspect.
        data: the file of reviews.
        config: of one of them.
        reviews: how many: the first with marked words, of at least 20 words.
    """
    from matplotlib.figure import Figure

    from cvxsst import plot
    from experiments.l2x.training import load_best

    test = load(data, config.corpus, config.aspect)["test"]
    long_enough = test.marked.any(1) & ((test.tokens != PADDING).sum(1) >= 20)
    rows = long_enough.nonzero()[:reviews, 0]
    batch, modules = test.batch(rows), [load_best(folder) for folder in folders]
    shown = [(MARKS[config.corpus], batch.marked)]
    for module in modules:
        how = GRADIENTS[module.config.gradient].label
        name = f"{SUBSETS[module.config.subset].label}, k = {module.config.k}" + (f", {how}" if how else "")
        shown.append((name, module.chosen(batch)))
    figure = Figure(figsize=(6.4 * len(rows), 1.15 * len(shown)), layout="constrained")
    for line, (name, z) in enumerate(shown):
        for column, row in enumerate(rows.tolist()):
            ax = figure.add_subplot(len(shown), len(rows), line * len(rows) + column + 1)
            words = test.words(row)
            ax.set_title(name, fontsize=8, loc="left", pad=2)
            plot.text(words, z[column, : len(words)], ax, width=70, color="tab:orange" if line == 0 else "tab:blue")
    return figure


def save_pictures(folder: Path, found: Sequence[Result], places: Iterable[Path], data: Path | None) -> None:
    """errors.png, and choices-CORPUS-ASPECT.png of the runs below ``places`` that still have their checkpoint, where
    the file of their corpus is."""
    from experiments.l2x.config import Config

    folder.mkdir(parents=True, exist_ok=True)
    networks = {result["config"]["network"] for result in found}
    draw_errors(found, "simple" if "simple" in networks else "complex").savefig(folder / "errors.png", dpi=110)
    groups: dict[tuple[str, str], list[Path]] = {}
    for run in {file.parent.parent: None for place in places for file in sorted(place.rglob("checkpoints/best.ckpt"))}:
        config = Config.of(run)
        groups.setdefault((config.corpus, config.aspect), []).append(run)
    for (corpus, aspect), kept in groups.items():
        if (file := data or usual(corpus)).exists():
            config = Config.of(kept[0])
            draw_choices(kept, file, config).savefig(folder / f"choices-{corpus}-{aspect}.png", dpi=110)

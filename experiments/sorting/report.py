"""The table, ours beside the published, and the picture: mistakes against the length of lists and in training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.runs.gradients import GRADIENTS
from experiments.runs.tables import Column, Comparison, Metric, Result, of, runs
from experiments.sorting.permutations import ORDERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMMITTED = Path(__file__).parent / "results"

METRICS = (
    Metric("tau", "tau", digits=3),
    Metric("wrong", "wrong", percent=True, digits=1),
    Metric("any", "any wrong", percent=True, digits=1),
    Metric("l1", "L1", digits=4),
    Metric("l2", "L2", digits=4),
)

# Mena et al. 2018, lists with a wrong rank, quoted from memory: next to none; of a pointer network where that is known
PAPER = {5: "0; pointer 6", 10: "0; pointer 43", 15: "0; pointer 90", 80: "0", 100: "0", 120: "0"}


def order(group: list[Result]) -> str:
    return ORDERS[group[0]["config"]["order"]].label


def gradient(group: list[Result]) -> str:
    return GRADIENTS[group[0]["config"]["gradient"]].label or "relaxed"


def span(group: list[Result]) -> str:
    config = group[0]["config"]
    return f"{config['low']:g} to {config['high']:g}"


def published(group: list[Result]) -> str:
    config = group[0]["config"]
    like_theirs = (config["order"], config["gradient"]) == ("sinkhorn", "relaxed")
    return PAPER.get(config["numbers"], "") if like_theirs else ""


def sort_key(config: dict[str, Any]) -> tuple:
    names = ("network", "low", "high", "steps", "hidden", "batch_size", "learning_rate", "temperature", "samples")
    row = [*ORDERS].index(config["order"]), [*GRADIENTS].index(config["gradient"])
    return config["numbers"], *row, *(config[name] for name in (*names, "engine"))


TABLE = Comparison(
    title="Sorted lists, test set",
    source="Mena et al. 2018, from memory",
    columns=[
        Column("n", of("numbers")),
        Column("order", order, words=True),
        Column("gradient", gradient, words=True),
        Column("network", of("network"), words=True),
        Column("range", span, setting=True),
        *(Column(m.header, m.spread, published if m.name == "any" else None) for m in METRICS),
        Column("seeds", runs),
        Column("steps", of("steps"), setting=True),
    ],
    order=sort_key,
)


def draw(found: list[Result]) -> Figure:
    """Left, lists with a wrong rank against n; right, wrong ranks in validation, of the longest lists."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.8), layout="constrained")
    lengths, training = figure.subplots(1, 2)
    usual = [result for result in found if (result["config"]["low"], result["config"]["high"]) == (0.0, 1.0)]
    names = dict.fromkeys(_name(result["config"]) for result in usual)
    longest = max((result["config"]["numbers"] for result in usual), default=0)
    for number, name in enumerate(names):
        own = [result for result in usual if _name(result["config"]) == name]
        style: dict[str, Any] = {"color": f"C{number}", "linestyle": "-" if number < 10 else "--"}
        groups = TABLE.groups(own)
        at = [(group[0]["config"]["numbers"], sum(r["test"]["any"] for r in group) / len(group)) for group in groups]
        lengths.plot(
            *zip(*((n, 100 * share) for n, share in sorted(at)), strict=True), marker="o", label=name, ms=4, **style
        )
        for result in own:
            if result["config"]["numbers"] == longest:
                training.plot(*_history(result), **style)
    lengths.set(xlabel="numbers of a list", ylabel="lists with a wrong rank, %", ylim=(-3, 103))
    training.set(xlabel="training step", ylabel=f"wrong ranks in validation, %, n = {longest}", ylim=(-3, 103))
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _name(config: dict[str, Any]) -> str:
    words = [ORDERS[config["order"]].label]
    words += [GRADIENTS[config["gradient"]].label] if config["gradient"] != "relaxed" else []
    words += ["any length"] if config["network"] != "ranks" else []
    return ", ".join(words)


def _history(result: Result) -> tuple[list[float], list[float]]:
    return [line["step"] for line in result["history"]], [100 * line["wrong"] for line in result["history"]]


def save_pictures(folder: Path, found: list[Result], places: Iterable[Path], data: Path) -> None:
    """lists.png."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(found).savefig(folder / "lists.png", dpi=110)

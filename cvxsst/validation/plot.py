"""A report in two pictures: the error against the temperature, the time against the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cvxsst.installed import require
from cvxsst.validation.findings import KINK, LIMITED, RIGHT, WRONG, Findings, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR = 1e-17  # an error of 0 on a logarithmic axis
COLORS = {RIGHT: "#2b7a4b", WRONG: "#c0392b", LIMITED: "#8a8f98", KINK: "#d9a21b"}  # and their marks, for print
MARKS = {RIGHT: "o", WRONG: "X", LIMITED: "s", KINK: "^"}
LINES = ("#24527a", "#c2571a", "#6b4c9a", "#4a4f57")
SPREAD = 0.3  # how far the points of a column are spread to either side


def draw(reports: Sequence[Findings], axes: Any = None) -> Any:
    """Both pictures into two axes; see ``Report.plot``."""
    require("matplotlib.pyplot", "cvxsst[plot]")
    import matplotlib.pyplot as plt

    if axes is None:
        axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")[1]
    if np.size(axes) != 2:
        raise ValueError(f"axes: two matplotlib axes, for the error and for the time, got {np.size(axes)}")
    axes = np.ravel(np.asarray(axes, dtype=object))
    draw_errors(axes[0], reports)
    draw_times(axes[1], reports)
    return axes


def draw_errors(ax: Axes, reports: Sequence[Findings]) -> None:
    """For each temperature a column of errors in z and one in the vjp, a dot an instance, a color a verdict."""
    temperatures = list(dict.fromkeys(T for report in reports for T in report.temperatures))
    columns = [(k, side) for k in range(len(reports)) for side in ("z", "vjp")]
    ticks, labels = [], []
    for t, T in enumerate(temperatures):
        left = t * (len(columns) + 0.8)
        for c, (k, side) in enumerate(columns):
            _column(ax, left + c, reports[k].at(T), side)
            ticks.append(left + c)
            labels.append(side if len(reports) == 1 else f"{side}\n{'ab'[k]}")
        middle = left + (len(columns) - 1) / 2
        ax.text(middle, 1.01, f"T = {T:g}", transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=9)
    ax.set(yscale="log", ylabel="error", xlim=(-0.8, ticks[-1] + 0.8))
    ax.set_xticks(ticks, labels)
    if len(reports) == 2:
        ax.set_xlabel(f"a: {reports[0].candidate}     b: {reports[1].candidate}")
    ax.axhline(reports[0].tolerance, color="#5b6068", linewidth=1, linestyle="--", zorder=0)
    present = {v for report in reports for p in report.points for v in (p.z_verdict, p.vjp_verdict)}
    handles: list[Any] = [
        ax.scatter([], [], color=COLORS[v], marker=MARKS[v], s=18, label=_words(v)) for v in MARKS if v in present
    ]
    handles += ax.plot([], [], color="#5b6068", linewidth=1, linestyle="--", label="tolerance in z")
    ax.legend(handles=handles, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.07), ncols=3,
              columnspacing=1.0, handletextpad=0.4)  # fmt: skip
    _quiet(ax)


def _column(ax: Axes, x: float, points: list[Point], side: str) -> None:
    """The dots of one column, spread sideways in their order, so that none hides another."""
    for i, point in enumerate(points):
        error, verdict = (point.z, point.z_verdict) if side == "z" else (point.vjp, point.vjp_verdict)
        if verdict not in COLORS or not math.isfinite(error):
            continue
        shift = SPREAD * (2 * i / max(1, len(points) - 1) - 1)
        ax.scatter(x + shift, max(error, FLOOR), color=COLORS[verdict], marker=MARKS[verdict], s=14, linewidths=0)


def draw_times(ax: Axes, reports: Sequence[Findings]) -> None:
    """Seconds for one pass against the size of the batch, one line for each solver."""
    solvers: dict[str, dict[int, float]] = {}
    for timing in (timing for report in reports for timing in report.times):
        label = timing.solver if timing.backward else f"{timing.solver} (forward)"
        solvers.setdefault(label, {})[timing.batch] = timing.seconds
    for k, (solver, times) in enumerate(solvers.items()):
        batches = sorted(times)
        seconds = [times[b] for b in batches]
        ax.plot(batches, seconds, marker="os^D"[k % 4], color=LINES[k % len(LINES)], label=solver, markersize=5)
    sizes = sorted({b for times in solvers.values() for b in times})
    both = any(timing.backward for report in reports for timing in report.times)
    ax.set(xscale="log", yscale="log", xlabel="batch", ylabel=f"seconds, forward{' and backward' if both else ''}")
    ax.set_xticks(sizes, [str(b) for b in sizes])
    measured = [seconds for times in solvers.values() for seconds in times.values()]
    if measured:  # whole decades, so that the axis has numbers
        ax.set_ylim(10 ** math.floor(math.log10(min(measured))), 10 ** math.ceil(math.log10(max(measured))))
    ax.minorticks_off()
    if solvers:
        ax.legend(fontsize=8, frameon=False)
    _quiet(ax)


def _quiet(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    ax.set_axisbelow(True)


def _words(verdict: str) -> str:
    return {KINK: "at a kink", LIMITED: "limited by the reference"}.get(verdict, verdict)

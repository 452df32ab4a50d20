"""Two reports on the same instances, side by side: who is right?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from cvxsst.validation.evidence import KINK, LIMITED, RIGHT, SILENT, WRONG
from cvxsst.validation.report import Point, Report, as_text, number


@dataclass(frozen=True)
class Comparison:
    """What ``cvxsst.compare`` found; ``print`` it.

    Attributes:
        a, b: the reports on the two solvers, on the same instances.
    """

    a: Report
    b: Report

    @property
    def passed(self) -> bool:
        """Both are right."""
        return self.a.passed and self.b.passed

    @property
    def verdicts(self) -> dict[float, str]:
        """For each temperature: ``"both right"``, ``"NAME is wrong"``, ``"both wrong"`` or ``"undecided"``."""
        return {T: self._verdict(T) for T in self.a.temperatures}

    def _verdict(self, T: float) -> str:
        said = [(report.candidate, standing(report, T)) for report in (self.a, self.b)]
        wrong = [name for name, standing in said if standing != RIGHT and standing != LIMITED]
        if len(wrong) == 2:
            return "both wrong"
        if wrong:
            return f"{wrong[0]} is wrong"
        return "both right" if all(standing == RIGHT for _, standing in said) else "undecided"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        a, b = escape(self.a.candidate), escape(self.b.candidate)
        yield f"[bold]{a} beside {b}[/bold] on {escape(self.a.polytope)}, {self.a.regularizer}: who is right?"
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for header in ("T", f"{a}: z", "vjp", f"{b}: z", "vjp", "verdict"):
            table.add_column(header, justify="left" if header == "verdict" else "right")
        for T, verdict in self.verdicts.items():
            cells = [cell for report in (self.a, self.b) for cell in worst_errors(report, T)]
            table.add_row(f"{T:g}", *cells, escape(verdict))
        yield table
        yield "[dim]largest errors, kinks left out, against certified references, ! where wrong; then all laws[/dim]\n"
        yield self.a
        yield ""
        yield self.b

    def __str__(self) -> str:
        return as_text(self)

    def plot(self, axes: Any = None) -> Any:
        """Draw both solvers' errors against the temperature, and times against the batch; see ``Report.plot``."""
        from cvxsst.validation.plot import draw

        return draw([self.a, self.b], axes)

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML page with both reports."""
        from cvxsst.validation.page import save

        return save([self.a, self.b], path, summary=self)

    def to_json(self) -> str:
        """Both reports and the verdicts as JSON."""
        verdicts = {f"{T:g}": verdict for T, verdict in self.verdicts.items()}
        said = {"verdicts": verdicts, "a": json.loads(self.a.to_json()), "b": json.loads(self.b.to_json())}
        return json.dumps(said, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Comparison:
        """The comparison that ``to_json`` wrote."""
        said = json.loads(text)
        return Comparison(*(Report.from_json(json.dumps(said[side])) for side in ("a", "b")))


def standing(report: Report, T: float) -> str:
    """``WRONG`` if z or vjp is wrong or missing at some instance of this temperature, else ``LIMITED`` or ``RIGHT``."""
    verdicts = {v for point in _at(report, T) for v in (point.z_verdict, point.vjp_verdict)} - {KINK}
    return WRONG if verdicts & {WRONG, SILENT} else LIMITED if LIMITED in verdicts else RIGHT


def worst_errors(report: Report, T: float) -> tuple[str, str]:
    """The largest error in z and in the vjp at this temperature, as text, with a ``!`` where it is wrong."""
    points = _at(report, T)
    in_z = _most([p.z for p in points if p.z_verdict != SILENT])
    in_vjp = _most([p.vjp for p in points if p.vjp_verdict not in (KINK, SILENT)])
    wrong_z, wrong_vjp = (any(v in (WRONG, SILENT) for v in said) for said in _verdicts(points))
    return number(in_z) + "!" * wrong_z, number(in_vjp) + "!" * wrong_vjp


def _verdicts(points: list[Point]) -> tuple[list[str], list[str]]:
    return [p.z_verdict for p in points], [p.vjp_verdict for p in points]


def _at(report: Report, T: float) -> list[Point]:
    return [point for point in report.points if point.temperature == T]


def _most(errors: Sequence[float]) -> float:
    return max((e for e in errors if not math.isnan(e)), default=math.nan)

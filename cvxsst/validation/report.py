"""What ``validate`` and ``compare`` return: findings that print, draw and save themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from cvxsst.validation import page, plot, text
from cvxsst.validation.findings import RIGHT, WRONG, Findings


class Report(Findings):
    """What ``cvxsst.validate`` found out about a candidate; ``print`` it, ``.plot()`` it, ``.save("report.html")``.

    Attributes:
        candidate, polytope, regularizer, references, dtype: what was held against what.
        n, temperatures, seed, tolerance: with which questions; the same arguments give the same report (but for times).
        laws: the laws in order; ``report["gradient"]`` is one by its name.
        blamed: of references proved wrong: name and proof. They do not count against the candidate.
        points: every instance's errors.
        times: how long batches took; informational.

    Example:
        >>> import cvxsst
        >>> from polytopes import simplex
        >>> report = cvxsst.validate("kkt", simplex(3), cvxsst.Euclidean(), n=4, temperatures=(1.0,))
        >>> report.passed, report["optimal"].passed
        (True, True)
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from text.of_findings(self)

    def __str__(self) -> str:
        return text.plain(text.of_findings(self))

    def _repr_html_(self) -> str:
        return page.section(self, pictures=False)

    def plot(self, axes: Any = None) -> Any:
        """Draw the error against the temperature, and the time against the batch.

        Args:
            axes: two matplotlib axes; None makes a figure of its own.

        Returns:
            The array of the two axes.

        Raises:
            ModuleNotFoundError: matplotlib is missing: ``pip install 'cvxsst[plot]'``.
        """
        return plot.draw([self], axes)

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML page: tables and pictures. A failure leaves no half-written file."""
        return page.save([self], path)


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
        wrong = [found.candidate for found in (self.a, self.b) if found.standing(T) == WRONG]
        if wrong:
            return "both wrong" if len(wrong) == 2 else f"{wrong[0]} is wrong"
        return "both right" if all(found.standing(T) == RIGHT for found in (self.a, self.b)) else "undecided"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from text.of_pair(self.a, self.b, self.verdicts)

    def __str__(self) -> str:
        return text.plain(text.of_pair(self.a, self.b, self.verdicts))

    def plot(self, axes: Any = None) -> Any:
        """Draw both solvers' errors against the temperature, and times against the batch; see ``Report.plot``."""
        return plot.draw([self.a, self.b], axes)

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML page with both reports."""
        return page.save([self.a, self.b], path, self.verdicts)

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

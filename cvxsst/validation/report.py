"""What ``validate`` and ``compare`` return: findings that print, draw and save themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from cvxsst.validation import page, plot, text
from cvxsst.validation.findings import Findings, Pair


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


class Comparison(Pair[Report]):
    """What ``cvxsst.compare`` found; ``print`` it.

    Attributes:
        a, b: the reports on the two solvers, on the same instances.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from text.of_pair(self)

    def __str__(self) -> str:
        return text.plain(text.of_pair(self))

    def plot(self, axes: Any = None) -> Any:
        """Draw both solvers' errors against the temperature, and times against the batch; see ``Report.plot``."""
        return plot.draw([self.a, self.b], axes)

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML page with both reports."""
        return page.save([self.a, self.b], path, summary=self)

    @staticmethod
    def from_json(text: str) -> Comparison:
        """The comparison that ``to_json`` wrote."""
        said = json.loads(text)
        return Comparison(*(Report.from_json(json.dumps(said[side])) for side in ("a", "b")))

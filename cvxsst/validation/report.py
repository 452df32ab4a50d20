"""What a validation found: a table of laws, each with its worst instance; printed, drawn, saved."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Worst:
    """The instance on which a law was strained most, enough to ask again: ``candidate(worst.u)``.

    Attributes:
        w, temperature: the utilities ``(*P.shape)``, float64, and T.
        u: w / T: what the candidate was given (rounded to its dtype).
        cotangent: the g of the vjp (dz/du)' g.
        kind: ``"normal"``, ``"ties"`` or ``"mask"``.
        z: what the candidate returned (for the law ``"gradient"`` and ``"symmetric"``: the vjp).
        expected: what it should have been, from the source that the law's ``detail`` names; NaN where there is none.
    """

    w: torch.Tensor
    temperature: float
    u: torch.Tensor
    cotangent: torch.Tensor
    kind: str
    z: torch.Tensor
    expected: torch.Tensor


@dataclass(frozen=True)
class Law:
    """One law and how it went.

    Attributes:
        name: as in ``report["gradient"]``.
        says: the law in words.
        passed: None where it could not be judged, or was not asked for.
        error, tolerance: of the worst instance.
        judged, instances: how many were judged, of how many.
        kinks: left out, the solution having no derivative there.
        limited: left out, the references being too uncertain to tell.
        detail: who is wrong, and why; or why nothing was judged.
        worst: the worst instance.
    """

    name: str
    says: str
    passed: bool | None
    error: float = math.nan
    tolerance: float = math.nan
    judged: int = 0
    instances: int = 0
    kinks: int = 0
    limited: int = 0
    detail: str = ""
    worst: Worst | None = None

    @property
    def verdict(self) -> str:
        return {True: "pass", False: "FAIL", None: "-"}[self.passed]

    @property
    def note(self) -> str:
        """What was left out, and why nothing was judged. (The proof of a failure is ``detail``.)"""
        left_out = [f"{self.kinks} at a kink"] * (self.kinks > 0)
        left_out += [f"{self.limited} limited by the reference's tolerance"] * (self.limited > 0)
        return "; ".join([*left_out, *([self.detail] if self.passed is None else [])])


@dataclass(frozen=True)
class Point:
    """One instance, for the pictures: temperature, kind, and the candidate's errors and verdicts in z and vjp."""

    temperature: float
    kind: str
    z: float
    z_verdict: str
    vjp: float
    vjp_verdict: str


@dataclass(frozen=True)
class Timing:
    """Seconds for one forward and backward pass of a batch, the best of a few."""

    solver: str
    batch: int
    seconds: float


@dataclass(frozen=True)
class Report:
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

    candidate: str
    polytope: str
    regularizer: str
    references: list[str]
    dtype: str
    n: int
    temperatures: list[float]
    seed: int
    tolerance: float
    laws: list[Law]
    blamed: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    times: list[Timing] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No law failed, and something was judged."""
        return all(law.passed is not False for law in self.laws) and any(law.passed for law in self.laws)

    @property
    def failed(self) -> list[str]:
        """The names of the laws that failed."""
        return [law.name for law in self.laws if law.passed is False]

    def __getitem__(self, law: str) -> Law:
        for found in self.laws:
            if found.name == law:
                return found
        raise KeyError(f"no law {law!r}; there are {', '.join(found.name for found in self.laws)}")

    def worst(self, law: str) -> Worst:
        """The worst instance of a law: its utilities, temperature, the answer and the right one.

        Raises:
            KeyError: no such law.
            ValueError: the law was not judged.
        """
        found = self[law].worst
        if found is None:
            raise ValueError(f"law: {law!r} was not judged, so that there is no worst instance")
        return found

    @property
    def title(self) -> str:
        return f"{self.candidate} on {self.polytope}, {self.regularizer}"

    @property
    def headline(self) -> str:
        if self.passed:
            return "passed"
        return f"FAILED: {', '.join(self.failed)}" if self.failed else "FAILED: nothing could be judged"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        color = "green" if self.passed else "red"
        yield f"[bold]{escape(self.title)}[/bold]: [{color}]{escape(self.headline)}[/{color}]"
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for header in ("law", "", "error", "allowed", "of", "remarks"):
            right = header in ("error", "allowed", "of")
            table.add_column(header, justify="right" if right else "left", no_wrap=header != "remarks")
        colors = {"pass": "green", "FAIL": "bold red", "-": "dim"}
        for law in self.laws:
            verdict = f"[{colors[law.verdict]}]{law.verdict}[/]"
            count = f"{law.judged}/{law.instances}"
            table.add_row(law.name, verdict, number(law.error), number(law.tolerance), count, escape(law.note))
        yield table
        for proof in self.blamed.values():
            yield f"[yellow]{escape(proof)}[/yellow]"
        for law in self.laws:
            if law.passed is False:
                yield f"[red]{law.name}[/red]: {escape(law.detail)}"
        yield f"[dim]{escape(self.footer)}[/dim]"

    @property
    def footer(self) -> str:
        times = [f"{t.solver} {duration(t.seconds)} at batch {t.batch}" for t in self._largest_batches()]
        return (
            f"beside {', '.join(self.references)}; {self.n} utilities at each of "
            f"T = {', '.join(f'{T:g}' for T in self.temperatures)}, {self.dtype}, seed {self.seed}"
            + (f"; {', '.join(times)}" if times else "")
        )

    def _largest_batches(self) -> list[Timing]:
        return list({t.solver: t for t in sorted(self.times, key=lambda t: t.batch)}.values())

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        from cvxsst.validation.page import section

        return section(self, pictures=False)

    def plot(self, axes: Any = None) -> Any:
        """Draw the error against the temperature, and the time against the batch.

        Args:
            axes: two matplotlib axes; None makes a figure of its own.

        Returns:
            The array of the two axes.

        Raises:
            ModuleNotFoundError: matplotlib is missing: ``pip install 'cvxsst[plot]'``.
        """
        from cvxsst.validation.plot import draw

        return draw(self, axes)

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML page: tables and pictures. A failure leaves no half-written file."""
        from cvxsst.validation.page import save

        return save([self], path)

    def to_json(self) -> str:
        """The whole report as JSON; ``Report.from_json`` reads it back. Numbers that JSON lacks are strings."""
        return json.dumps(_encoded(asdict(self)), allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Report:
        """The report that ``to_json`` wrote."""
        said = json.loads(text)
        said["laws"] = [_decoded_law(law) for law in said["laws"]]
        said["points"] = [Point(**_floats(point, "temperature", "z", "vjp")) for point in said["points"]]
        said["times"] = [Timing(**_floats(timing, "seconds")) for timing in said["times"]]
        return Report(**said)


def as_text(renderable: Any) -> str:
    """As ``print`` shows it: plain, as wide as the terminal, at most 120 columns."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().splitlines())


def number(x: float) -> str:
    """Two digits are enough for an error."""
    return "" if math.isnan(x) else "0" if x == 0 else f"{x:.1e}"


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _encoded(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _encoded(value.tolist())
    if isinstance(value, dict):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _floats(said: dict[str, Any], *names: str) -> dict[str, Any]:
    return said | {name: float(said[name]) for name in names}


def _decoded_law(said: dict[str, Any]) -> Law:
    law = _floats(said, "error", "tolerance")
    if law["worst"] is not None:
        names = ("w", "u", "cotangent", "z", "expected")
        law["worst"] = Worst(**law["worst"] | {name: _tensor(law["worst"][name]) for name in names})
    return Law(**law)


def _tensor(value: Any) -> torch.Tensor:
    def numbers(item: Any) -> Any:
        return [numbers(i) for i in item] if isinstance(item, list) else float(item)

    return torch.tensor(numbers(value), dtype=torch.float64)

"""What a validation found, as plain data: laws, each with its worst instance, every instance's errors, times.

The bottom of this package: what is printed, drawn, saved or compared is read from here, and nothing here knows how.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self, get_type_hints

import torch

# Verdicts on one instance. UNASKED: the gradient was not to be judged.
RIGHT, LIMITED, WRONG, KINK, SILENT, UNASKED = "right", "limited", "wrong", "kink", "no answer", "not asked"


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
    """Seconds for one pass of a batch, the best of a few; ``backward``: forward and backward, else forward only."""

    solver: str
    batch: int
    seconds: float
    backward: bool = True


@dataclass(frozen=True)
class Findings:
    """All that is known of a candidate after a validation, and the questions that it answers; see ``Report``."""

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

    @property
    def footer(self) -> str:
        times = [
            f"{t.solver} {duration(t.seconds)} at batch {t.batch}{'' if t.backward else ' (forward)'}"
            for t in self._largest_batches()
        ]
        return (
            f"beside {', '.join(self.references)}; {self.n} utilities at each of "
            f"T = {', '.join(f'{T:g}' for T in self.temperatures)}, {self.dtype}, seed {self.seed}"
            + (f"; {', '.join(times)}" if times else "")
        )

    def _largest_batches(self) -> list[Timing]:
        return list({t.solver: t for t in sorted(self.times, key=lambda t: t.batch)}.values())

    def at(self, T: float) -> list[Point]:
        """The instances of this temperature."""
        return [point for point in self.points if point.temperature == T]

    def standing(self, T: float) -> str:
        """``WRONG`` if z or vjp is wrong or missing at some instance of this temperature, else ``LIMITED`` or
        ``RIGHT``."""
        verdicts = {verdict for point in self.at(T) for verdict in (point.z_verdict, point.vjp_verdict)}
        return WRONG if verdicts & {WRONG, SILENT} else LIMITED if LIMITED in verdicts else RIGHT

    def worst_errors(self, T: float) -> tuple[str, str]:
        """The largest error in z and in the vjp at this temperature, as text, with a ``!`` where it is wrong."""
        in_z = _most([(p.z, p.z_verdict) for p in self.at(T)])
        in_vjp = _most([(p.vjp, p.vjp_verdict) for p in self.at(T)])
        return in_z, in_vjp

    def to_json(self) -> str:
        """The whole report as JSON; ``from_json`` reads it back. Numbers that JSON lacks are strings."""
        return json.dumps(_encoded(asdict(self)), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The report that ``to_json`` wrote."""
        said = json.loads(text)
        for name, kind in (("laws", Law), ("points", Point), ("times", Timing)):
            said[name] = [_decoded(kind, item) for item in said[name]]
        return cls(**said)


def _most(judged: Sequence[tuple[float, str]]) -> str:
    errors = [error for error, verdict in judged if verdict not in (KINK, SILENT, UNASKED) and not math.isnan(error)]
    wrong = any(verdict in (WRONG, SILENT) for _, verdict in judged)
    return number(max(errors, default=math.nan)) + "!" * wrong


def number(x: float) -> str:
    """Two digits are enough for an error."""
    return "" if math.isnan(x) else "0" if x == 0 else f"{x:.1e}"


def reproducible(x: float) -> float:
    """x to nine digits: the last ones are rounding of linear programs, which depends on those solved before."""
    return float(f"{x:.9g}")


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


def _decoded(kind: Any, said: dict[str, Any]) -> Any:
    """An object of this dataclass, by the types of its fields."""
    types = get_type_hints(kind)
    return kind(**{name: DECODERS.get(types[name], lambda x: x)(value) for name, value in said.items()})


def _numbers(value: Any) -> Any:
    return [_numbers(item) for item in value] if isinstance(value, list) else float(value)


DECODERS: dict[Any, Callable[[Any], Any]] = {
    float: float,
    torch.Tensor: lambda value: torch.tensor(_numbers(value), dtype=torch.float64),
    Worst | None: lambda value: None if value is None else _decoded(Worst, value),
}

"""Does this installation compute what it should? Versions, and a self-test of every engine with known answers.

Problems on the probability simplex catch the combinations of solvers that are known to be broken: a projection on a
vertex (a solver that loses z >= 0 leaves the simplex), the gradient of a softmax at a low temperature, T = 0.1 (some
are right forwards and wrong backwards), and an entry that -inf forbids. Each engine solves them on the CPU, and on a
GPU where there is one.

    projection of (0, 1, 2, 3)              z = (0, 0, 0, 1)
    projection of (0.1, 0.3, 0.5, 0.2)      z = u - tau, tau = 0.025, dz/du = I - 11'/4
    projection of (0.1, 0.3, 0.5, -inf)     z = u - tau, tau = -1/30, dz/du = I - 11'/3, in the first three entries
    softmax(w / T)                          dz/dw = (diag(z) - z z') / T

The first has no derivative, its third entry is 0 by a hair. For w of the last one stands a vector where the gradient of
Moreau 0.4.1 is off by a factor of five; at most vectors it is right.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version

import cvxpy as cp
import torch

from cvxsst.engines import ENGINES, Engine
from cvxsst.maps import argmax, softmax
from cvxsst.polytope import Polytope
from cvxsst.regularizers import CategoricalEntropy, Euclidean, ExponentialFamily, Regularizer

TOLERANCE = 1e-6
LOW = 0.1  # temperature
FAR, CORNER = (0.0, 1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0)
UTILITIES = (0.3, -0.5, 1.0, 0.9)
ALSO_SHOWN = ("clarabel", "scs")  # the solvers that cvxpy and diffcp bring along


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: what was looked at, whether it is well, and the figure or the cure."""

    subject: str
    well: bool
    remark: str


@dataclass(frozen=True)
class Known:
    """A softmax over the simplex of which z ``(4,)`` is known, and J = dz/dw ``(4, 4)`` unless None; all on the CPU."""

    w: torch.Tensor
    temperature: float
    z: torch.Tensor
    J: torch.Tensor | None

    def error(self, engine: str, P: Polytope, f: Regularizer, device: str) -> float:
        """The larger error of z and of J, whose rows are the gradients of the entries of z."""
        w = self.w.to(device).expand(4, 4).clone().requires_grad_()
        found = softmax(P, w, f, self.temperature, engine=engine)
        off = _largest(found.detach().cpu() - self.z)
        if self.J is None:
            return off
        (jacobian,) = torch.autograd.grad(found, w, torch.eye(4, dtype=torch.float64, device=device))
        return max(off, _largest(jacobian.cpu() - self.J))


def projections() -> list[Known]:
    """Of the Euclidean regularizer."""
    eye, three = torch.eye(4, dtype=torch.float64), _float64((1.0, 1.0, 1.0, 0.0))
    near, masked = _float64((0.1, 0.3, 0.5, 0.2)), _float64((0.1, 0.3, 0.5, -torch.inf))
    inside = _float64((0.1, 0.3, 0.5, 0.0)) + three / 30
    return [
        Known(_float64(FAR), 1.0, _float64(CORNER), None),
        Known(near, 1.0, near - 0.025, eye - 0.25),
        Known(masked, 1.0, inside, three.diag() - three.outer(three) / 3),
    ]


def softmaxes() -> list[Known]:
    """Of the categorical entropy, and of the exponential family."""
    found = []
    for w in (UTILITIES, (*UTILITIES[:3], -torch.inf)):
        z = torch.softmax(_float64(w) / LOW, 0)
        found.append(Known(_float64(w), LOW, z, (z.diag() - z.outer(z)) / LOW))
    return found


PROBLEMS: tuple[tuple[Regularizer, Callable[[], list[Known]]], ...] = (
    (Euclidean(), projections),
    (CategoricalEntropy(), softmaxes),
    (ExponentialFamily(), softmaxes),
)


def examine() -> Iterator[Finding]:
    """Versions first, then every engine on every device; some seconds."""
    yield from _versions()
    gpu = torch.cuda.is_available()
    yield Finding("device", True, f"torch on {'CUDA' if gpu else 'the CPU only'}")
    z = cp.Variable(4)
    simplex = Polytope(z, [z >= 0, cp.sum(z) == 1], name="simplex")
    for device in ("cpu", "cuda")[: 1 + gpu]:
        on = "" if device == "cpu" else f" on {device}"
        for engine in ENGINES.values():
            for f, problems in PROBLEMS:
                test = partial(_error, engine, simplex, f, problems(), device)
                yield from _judged(f"{engine.name}, {f.name}{on}", test)
        yield from _judged(f"lp, argmax{on}", partial(_corner_error, simplex, device))


def _versions() -> Iterator[Finding]:
    """What is installed of what the package requires, but for its own tests."""
    try:
        own, required = version("cvxsst"), requires("cvxsst") or []
    except PackageNotFoundError:
        yield Finding("cvxsst", False, "run from a folder, not installed: pip install .")
        return
    yield Finding("cvxsst", True, own)
    least = metadata("cvxsst")["Requires-Python"].removeprefix(">=")
    yield _compared("python", platform.python_version(), least, f"install Python {least} or later")
    for requirement in (*required, *(f"{name}; extra" for name in ALSO_SHOWN)):
        match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?", requirement)
        if match is None or match[1] == "cvxsst" or 'extra == "test"' in requirement:
            continue
        name, least = match[1], match[2] or ""
        wanted = f"'{name}>={least}'" if least else name
        try:
            yield _compared(name, version(name), least, f"pip install -U {wanted}")
        except PackageNotFoundError:
            if "extra" not in requirement:
                yield Finding(name, False, f"not installed: pip install {wanted}")


def _compared(name: str, found: str, least: str, cure: str) -> Finding:
    well = _numbers(found) >= _numbers(least)
    return Finding(name, well, found if well else f"{found}, needs {least}: {cure}")


def _numbers(text: str) -> tuple[int, ...]:
    """2.13.0+cpu as (2, 13, 0), 2 as (2, 0, 0)."""
    numbers = [int(part) for part in re.findall(r"\d+", text.split("+")[0])]
    return tuple([*numbers, 0, 0, 0][:3])


def _judged(subject: str, error: Callable[[], float | None]) -> Iterator[Finding]:
    """Nothing where the engine does not solve the problem (None)."""
    try:
        off = error()
    except Exception as broken:  # whatever is broken: that is what the doctor is asked
        yield Finding(subject, False, f"{type(broken).__name__}: {broken}")
        return
    if off is None:
        return
    cure = "install the versions of constraints.txt, or use another engine"
    yield Finding(subject, off <= TOLERANCE, f"error {off:.0e}" if off <= TOLERANCE else f"wrong by {off:.1e}: {cure}")


def _error(engine: Engine, P: Polytope, f: Regularizer, problems: list[Known], device: str) -> float | None:
    if not engine.supports(P, f):
        return None
    return max(problem.error(engine.name, P, f, device) for problem in problems)


def _corner_error(P: Polytope, device: str) -> float:
    return _largest(argmax(P, _float64(FAR).to(device), engine="lp").cpu() - _float64(CORNER))


def _float64(numbers: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _largest(x: torch.Tensor) -> float:
    """The largest absolute entry; inf for NaN."""
    return x.abs().nan_to_num(nan=torch.inf).max().item()

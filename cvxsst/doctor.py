"""Does this installation compute what it should? Versions, and a self-test of every engine with known answers.

Two problems on the probability simplex catch the combinations of solvers that are known to be broken: a projection on
a vertex (a solver that loses z >= 0 leaves the simplex) and the gradient of a softmax at a low temperature, T = 0.1
(some are right forwards and wrong backwards).

    projection of (0, 1, 2, 3)            z = (0, 0, 0, 1)
    projection of (0.1, 0.3, 0.5, 0.2)    z = u - tau, tau = 0.025, dz/du = I - 11'/4
    softmax(w / T)                        dz/dw = (diag(z) - z z') / T

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

from cvxsst.engines import ENGINES
from cvxsst.maps import argmax, softmax
from cvxsst.polytope import Polytope
from cvxsst.regularizers import CategoricalEntropy, Euclidean, ExponentialFamily, Regularizer

TOLERANCE = 1e-6
LOW = 0.1  # temperature
FAR, CORNER = (0.0, 1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0)
NEAR, INSIDE = (0.1, 0.3, 0.5, 0.2), (0.075, 0.275, 0.475, 0.175)
UTILITIES = (0.3, -0.5, 1.0, 0.9)
ALSO_SHOWN = ("clarabel", "scs")  # the solvers that cvxpy and diffcp bring along


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: what was looked at, whether it is well, and the figure or the cure."""

    subject: str
    well: bool
    remark: str


def examine() -> Iterator[Finding]:
    """Versions first, then every engine; some seconds."""
    yield from _versions()
    yield Finding("device", True, f"torch on {'CUDA' if torch.cuda.is_available() else 'the CPU only'}")
    z = cp.Variable(4)
    simplex = Polytope(z, [z >= 0, cp.sum(z) == 1], name="simplex")
    for engine in ENGINES:
        for regularizer in (Euclidean(), CategoricalEntropy(), ExponentialFamily()):
            yield from _self_test(engine, simplex, regularizer)
    yield from _judged("lp, argmax", lambda: _largest(argmax(simplex, _float64(FAR), engine="lp") - _float64(CORNER)))


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


def _self_test(engine: str, P: Polytope, regularizer: Regularizer) -> Iterator[Finding]:
    test = _projection_error if isinstance(regularizer, Euclidean) else _softmax_error
    yield from _judged(f"{engine}, {type(regularizer).__name__}", partial(test, engine, P, regularizer))


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


def _projection_error(engine: str, P: Polytope, regularizer: Regularizer) -> float | None:
    """Of z at both points, and of the Jacobian at the second."""
    if not ENGINES[engine].supports(P, regularizer):
        return None
    off = _largest(softmax(P, _float64(FAR), regularizer, engine=engine) - _float64(CORNER))
    inside = _errors(engine, P, regularizer, 1.0, _float64(NEAR), _float64(INSIDE), _eye() - 0.25)
    return max(off, inside)


def _softmax_error(engine: str, P: Polytope, regularizer: Regularizer) -> float | None:
    """Of z and of its Jacobian."""
    if not ENGINES[engine].supports(P, regularizer):
        return None
    z = torch.softmax(_float64(UTILITIES) / LOW, 0)
    return _errors(engine, P, regularizer, LOW, _float64(UTILITIES), z, (z.diag() - z.outer(z)) / LOW)


def _errors(
    engine: str, P: Polytope, f: Regularizer, T: float, w: torch.Tensor, z: torch.Tensor, J: torch.Tensor
) -> float:
    """The larger error of z and of J = dz/dw, whose rows are the gradients of the entries of z."""
    w = w.expand(4, 4).clone().requires_grad_()
    found = softmax(P, w, f, T, engine=engine)
    (jacobian,) = torch.autograd.grad(found, w, _eye())
    return max(_largest(found.detach() - z), _largest(jacobian - J))


def _float64(numbers: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _eye() -> torch.Tensor:
    return torch.eye(4, dtype=torch.float64)


def _largest(x: torch.Tensor) -> float:
    """The largest absolute entry; inf for NaN."""
    return x.abs().nan_to_num(nan=torch.inf).max().item()

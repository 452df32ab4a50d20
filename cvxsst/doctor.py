"""Does this installation compute what it should? Versions, and a self-test of every engine with known answers.

Two problems on the probability simplex catch the combinations of solvers that are known to be broken: a projection on
a vertex (a solver that loses z >= 0 leaves the simplex) and the gradient of a softmax at a low temperature, T = 0.1
(some are right forwards and wrong backwards).

    projection of (0, 1, 2, 3)            z = (0, 0, 0, 1)
    projection of (0.1, 0.3, 0.5, 0.2)    z = u - tau, tau = 0.025
    softmax(w / T)                        dz/dw = (diag(z) - z z') / T
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

import cvxpy as cp
import torch

from cvxsst.engines import ENGINES
from cvxsst.maps import softmax
from cvxsst.polytope import Polytope
from cvxsst.regularizers import CategoricalEntropy, Euclidean, ExponentialFamily, Regularizer

TOLERANCE = 1e-6
LOW = 0.1  # temperature
PROJECTIONS = (((0.0, 1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0)), ((0.1, 0.3, 0.5, 0.2), (0.075, 0.275, 0.475, 0.175)))
UTILITIES = (0.5, 0.3, -0.1, 0.4)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: what was looked at, whether it is well, and the figure or the cure."""

    subject: str
    well: bool
    remark: str


def examine() -> Iterator[Finding]:
    """Versions first, then every engine; some seconds."""
    yield Finding("python", True, platform.python_version())
    yield from _versions()
    yield Finding("device", True, f"torch on {'CUDA' if torch.cuda.is_available() else 'the CPU only'}")
    simplex = _simplex()
    for engine in ENGINES.values():
        for regularizer in (Euclidean(), CategoricalEntropy(), ExponentialFamily()):
            if engine.supports(simplex, regularizer):
                yield _self_test(engine.name, simplex, regularizer)


def _versions() -> Iterator[Finding]:
    """What is installed of what the package requires."""
    for requirement in requires("cvxsst") or []:
        match = re.match(r"([\w.-]+)(?:>=([\d.]+))?", requirement)
        if match is None or match[1] == "cvxsst":
            continue
        name, least, extra = match[1], match[2], "extra ==" in requirement
        try:
            found = version(name)
        except PackageNotFoundError:
            if not extra:
                yield Finding(name, False, f"not installed: pip install '{name}>={least}'")
            continue
        old = least is not None and _numbers(found) < _numbers(least)
        yield Finding(name, not old, f"{found}, needs {least}: pip install -U '{name}>={least}'" if old else found)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def _simplex() -> Polytope:
    z = cp.Variable(4)
    return Polytope(z, [z >= 0, cp.sum(z) == 1], name="simplex")


def _self_test(engine: str, P: Polytope, regularizer: Regularizer) -> Finding:
    subject = f"{engine}, {type(regularizer).__name__}"
    try:
        off = (
            _projection_error(engine, P)
            if isinstance(regularizer, Euclidean)
            else _gradient_error(engine, P, regularizer)
        )
    except Exception as error:  # whatever is broken: that is what the doctor is asked
        return Finding(subject, False, f"{type(error).__name__}: {error}")
    if off <= TOLERANCE:
        return Finding(subject, True, f"error {off:.0e}")
    return Finding(
        subject, False, f"wrong by {off:.1e}: install the versions of constraints.txt, or use another engine"
    )


def _projection_error(engine: str, P: Polytope) -> float:
    u, expected = (torch.tensor(rows, dtype=torch.float64) for rows in zip(*PROJECTIONS, strict=True))
    return _largest(softmax(P, u, Euclidean(), engine=engine) - expected)


def _gradient_error(engine: str, P: Polytope, regularizer: Regularizer) -> float:
    """Of z and of its Jacobian."""
    w = torch.tensor(UTILITIES, dtype=torch.float64).expand(4, 4).clone().requires_grad_()
    z = softmax(P, w, regularizer, LOW, engine=engine)
    (J,) = torch.autograd.grad(z, w, torch.eye(4, dtype=torch.float64))
    expected = torch.softmax(w.detach()[0] / LOW, 0)
    return max(_largest(z.detach() - expected), _largest(J - (expected.diag() - torch.outer(expected, expected)) / LOW))


def _largest(x: torch.Tensor) -> float:
    """The largest absolute entry; inf for NaN."""
    return x.abs().nan_to_num(nan=torch.inf).max().item()

"""Whose z is wrong: a proof from certificates.

f is strongly convex with constant m on P, so that a z with the certified gap g lies within

    e = sqrt(2 g / m)                                                                                     (1)

of the solution. If x and y disagree by d, the solution is within e_y of y, so x is wrong by at least d - e_y,
whatever x says of itself. The *arbiter* of an instance is the answer with the least e; then

    d <= tol                 right
    d > tol + e_arbiter      wrong, and that is proved
    otherwise                limited by the reference's tolerance

No solver is trusted for its name: a reference is judged like the candidate, and may lose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cvxsst.certificate import judged
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem
from cvxsst.regularizers import Regularizer
from cvxsst.validation.findings import LIMITED, RIGHT, SILENT, WRONG
from cvxsst.validation.instances import Instances, largest
from cvxsst.validation.solvers import Answer, Solver


@dataclass(frozen=True)
class Yardstick:
    """What an error is measured by.

    Attributes:
        tolerance: of z, where entries of P are of size 1.
        size: the largest entry over P, at least 1.
        convexity: m of (1); 1 for an f of which none is known: there e is a measure and no bound.
        precision: the machine epsilon of the candidate's dtype.
    """

    tolerance: float
    size: float
    convexity: float
    precision: float

    @staticmethod
    def of(P: Polytope, regularizer: Regularizer, tolerance: float, dtype: torch.dtype) -> Yardstick:
        size = max(1.0, float(np.abs(P.bounds).max(initial=0.0)))
        return Yardstick(tolerance, size, regularizer.convexity(P), torch.finfo(dtype).eps)

    def of_z(self, instances: Instances) -> torch.Tensor:
        """The tolerance on |z - z*|; rounding of u moves z by up to eps |u| / m, whoever solves."""
        return self.tolerance * self.size + 8 * self.precision * instances.reach / self.convexity

    def of_gap(self, instances: Instances) -> torch.Tensor:
        """An error of the tolerance in z costs as much in <u, z>."""
        return self.of_z(instances) * (1 + instances.reach)

    def of_vjp(self, instances: Instances) -> torch.Tensor:
        return 10 * self.tolerance * self.size**2 + 16 * self.precision * instances.reach / self.convexity


@dataclass
class Case:
    """What was asked, and what errors are measured by."""

    P: Polytope
    regularizer: Regularizer
    instances: Instances
    yardstick: Yardstick

    @property
    def tolerance(self) -> torch.Tensor:
        """On |z - z*|, of each instance."""
        return self.yardstick.of_z(self.instances)


@dataclass
class Witness:
    """A solver, its answers to all instances (NaN where it was not asked), and what their certificates say.

    ``bound`` is e of (1), inf where z is infeasible beyond the tolerance or missing; the gap is that of u at T = 1.
    """

    solver: Solver
    dtype: torch.dtype
    answer: Answer
    infeasibility: torch.Tensor
    gap: torch.Tensor
    bound: torch.Tensor

    @property
    def name(self) -> str:
        return self.solver.name

    @staticmethod
    def silent(solver: Solver, k: int, N: int, dtype: torch.dtype = torch.float64) -> Witness:
        nothing = torch.full((3, N), torch.inf, dtype=torch.float64)
        return Witness(solver, dtype, Answer.none(k, N, solver.P.size, "not asked"), *nothing)

    def within(self, i: int, tol: float) -> float:
        """``bound`` of instance i, or tol if that is more: below it a bound is rounding of linear programs, which
        depends on those solved before."""
        return max(self.bound[i].item(), tol)

    def testify(self, case: Case, rows: list[int]) -> None:
        """Ask the solver about these instances, and certify what it says."""
        if not rows:
            return
        asked = case.instances.take(rows)
        self.answer.put(rows, self.solver.ask(asked.u, asked.cotangents, self.dtype))
        infeasibility, gap = certify(case, asked.u, self.answer.z[rows])
        bound = (2 * gap.clamp(min=0) / case.yardstick.convexity).sqrt() + infeasibility * case.P.size**0.5
        far = infeasibility > case.yardstick.of_z(asked)
        self.infeasibility[rows], self.gap[rows] = infeasibility, gap
        self.bound[rows] = bound.masked_fill(far | ~torch.isfinite(bound), torch.inf)


def certify(case: Case, u: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """(infeasibility, gap), ``(2, N)``, of z ``(N, n)``; a z outside the domain of f by less than the tolerance counts
    as moved in.

    Both are inf for a z with which the linear programs cannot be solved: nothing that a solver says stops the others.
    """
    try:
        return torch.stack(_certify(case, u, z))
    except (RuntimeError, ArithmeticError, AssertionError, np.linalg.LinAlgError):
        if len(z) == 1:
            return z.new_full((2, 1), torch.inf)
    return torch.cat([certify(case, u[i : i + 1], z[i : i + 1]) for i in range(len(z))], dim=1)


def _certify(case: Case, u: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    inside = z.clamp(*case.regularizer.domain)
    moved = largest(inside - z)
    near = moved <= case.yardstick.tolerance * case.yardstick.size
    problem = Problem.posed(case.P, u, case.regularizer, 1.0).inspected()
    infeasibility, gap = judged(problem, torch.where(near[:, None], inside, z))
    return torch.where(near, torch.maximum(infeasibility, moved), infeasibility), gap


@dataclass(frozen=True)
class ValueVerdict:
    """Of each instance: who was the arbiter, and of the candidate: its error in z, and the verdict."""

    arbiter: list[Witness | None]
    error: torch.Tensor
    status: list[str]


def judge_values(candidate: Witness, references: list[Witness], tolerance: torch.Tensor) -> ValueVerdict:
    """Hold the candidate against the best reference; its own bound counts where it is the better of the two."""
    arbiters, errors, statuses = [], [], []
    for i, tol in enumerate(tolerance.tolist()):
        arbiter = _arbiter([*references, candidate], i, tol)
        best = _arbiter(references, i, tol)
        status = value_status(candidate, arbiter, i, tol)
        error = candidate.bound[i].item() if best is None else distance(candidate, best, i)
        if status == RIGHT and error > tol:
            status = RIGHT if candidate.bound[i] <= tol else LIMITED
            error = min(error, candidate.bound[i].item()) if status == RIGHT else error
        arbiters.append(arbiter)
        errors.append(error)
        statuses.append(status)
    return ValueVerdict(arbiters, torch.tensor(errors, dtype=torch.float64), statuses)


def value_status(x: Witness, arbiter: Witness | None, i: int, tol: float) -> str:
    """The verdict on x at instance i, by the inequality above; a solver that promises less than tol is held to that."""
    if x.answer.why[i]:
        return SILENT
    if arbiter is None:
        return LIMITED
    d, e = distance(x, arbiter, i), arbiter.bound[i].item()
    tol = max(tol, x.solver.promises)
    return RIGHT if d <= tol else WRONG if d > tol + e else LIMITED


def _arbiter(witnesses: list[Witness], i: int, tol: float) -> Witness | None:
    """The first of the most certain."""
    best = min(witnesses, key=lambda w: w.within(i, tol), default=None)
    return None if best is None or not torch.isfinite(best.bound[i]) else best


def distance(x: Witness, y: Witness, i: int) -> float:
    return largest(x.answer.z[i : i + 1] - y.answer.z[i : i + 1]).item()

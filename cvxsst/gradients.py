"""Ways to differentiate a softmax, each an object with one method: (engine, problem) -> z, connected by autograd.

Implicit            the derivative of the optimality conditions, or of the closed form
CentralDifference   (z(u + e g) - z(u - e g)) / 2e along the incoming gradient g
Unrolled            autograd through the iterations of a fast path
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch

from cvxsst.engines import Info, Solver
from cvxsst.engines.fast import Fast
from cvxsst.errors import ConvergenceError, some
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem, named
from cvxsst.recognition import known
from cvxsst.regularizers import Regularizer
from cvxsst.values import holds, shown

Solved = tuple[torch.Tensor, Info | None]

# Step of the central difference in u = w / T. The truncation error is O(step^2), the solver's error is divided by the
# step: 1e-4 leaves about 1e-8 of each with a solver right to 1e-12.
STEP = 1e-4


class Backward(ABC):
    """A way to differentiate."""

    def require(self, engine: Solver, P: Polytope, regularizer: Regularizer) -> None:  # noqa: B027 - most always exist
        """Raise a ValueError where this way does not exist."""

    @abstractmethod
    def solve(self, engine: Solver, problem: Problem, on_failure: str) -> Solved:
        """z ``(B, n)`` and how it went; failed instances are the caller's to settle, but for those of a backward."""


class Implicit(Backward):
    def solve(self, engine: Solver, problem: Problem, on_failure: str) -> Solved:
        return engine.softmax(problem, on_failure)


class Unrolled(Backward):
    def require(self, engine: Solver, P: Polytope, regularizer: Regularizer) -> None:
        member = known(P)
        able = set() if member is None or member.family is None else member.family.unrollable
        if not isinstance(engine.first, Fast) or type(regularizer) not in able:
            paths = some([f"{kind.__name__}()" for kind in able]) if able else "none"
            raise ValueError(
                "backward='unroll': needs engine='fast' and a fast path that is a loop of torch operations, which over "
                f"{P!r} has {paths}, not {regularizer!r} with engine={engine.name!r}; use backward='implicit'"
            )

    def solve(self, engine: Solver, problem: Problem, on_failure: str) -> Solved:
        assert isinstance(engine.first, Fast)
        return engine.first.softmax(problem, unroll=True)


class CentralDifference(Backward):
    """Right because dz/du is symmetric: vjp = jvp. Two more solves, any engine."""

    def solve(self, engine: Solver, problem: Problem, on_failure: str) -> Solved:
        problem = problem.inspected()
        if problem.theta is not None:
            if problem.theta.requires_grad:
                raise ValueError(
                    "backward='finite_difference' has no gradient for the values of parameters, no utilities; "
                    "detach them, or use backward='implicit'"
                )
            problem = replace(problem, theta=problem.theta.detach())
        found: list[Info | None] = []
        return _CentralDifference.apply(problem.u, engine, problem, on_failure, found), found[0]


class _CentralDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, engine: Solver, problem: Problem, on_failure: str, found: list):
        z, info = engine.softmax(replace(problem, u=u.detach()))
        found.append(info)
        ctx.save_for_backward(u)
        ctx.engine, ctx.problem, ctx.on_failure = engine, problem, on_failure
        return z.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (u,) = ctx.saved_tensors
        size = g.abs().amax(dim=1, keepdim=True) if g.numel() else g.new_ones(len(g), 1)
        direction = torch.nan_to_num(g / size)
        if ctx.problem.forbidden is not None:
            direction = direction.masked_fill(ctx.problem.forbidden, 0.0)
        sides = []
        for sign in (1.0, -1.0):
            z, info = ctx.engine.softmax(replace(ctx.problem, u=u + sign * STEP * direction))
            sides.append(settled(z, info, ctx.problem, ctx.on_failure))
        return (sides[0] - sides[1]) / (2 * STEP) * size, None, None, None, None


BACKWARD: dict[str, Backward] = {
    "implicit": Implicit(),
    "finite_difference": CentralDifference(),
    "unroll": Unrolled(),
}


def settled(z: torch.Tensor, info: Info | None, problem: Problem, on_failure: str) -> torch.Tensor:
    """Raise for failed instances, or mark them: NaN in value and gradient, and only in theirs."""
    if info is None:
        return z
    failed = ~info.converged | info.empty
    if not holds(failed):
        return z
    if on_failure == "raise":
        if holds(info.empty):
            problem.raise_empty(info.empty)
        problem.raise_for_values(failed)
        instances, residuals = problem.instances(failed), shown(info.residual)[shown(failed)].tolist()
        raise ConvergenceError(
            f"the solve did not reach its tolerance{named(instances, ' in instances ')} (residuals "
            f"{some([f'{residual:.1e}' for residual in residuals])}); on_failure='nan' keeps the others; "
            "smaller utilities, a higher temperature or another engine may help",
            instances,
        )
    mark = torch.where(failed, torch.nan, 0.0).to(z)[:, None]
    return torch.nan_to_num(z) + mark * problem.inspected().inputs.sum(dim=1, keepdim=True)  # 0 where all is well

"""The family's own closed forms and algorithms, where its page registers them.

For a family with ``@family.softmax(R)`` that function, for the exponential family and a family with
``@family.log_partition`` the gradient of A(u). A declaration that is recognized as a member of a family has its paths.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from cvxsst.engines.base import At, Engine, Info, Refused, Solution
from cvxsst.polytope import Map, Polytope
from cvxsst.problem import Problem
from cvxsst.recognition import knowledge_of
from cvxsst.regularizers import Regularizer
from cvxsst.values import holds, is_finite, on_host, positions

WIDE = 1e10  # utilities up to here are no matter: paths take the largest off first, or are exact to 1e-16 of them


class Fast(Engine[Map]):
    """The state is the path, ``(B, n)`` to the same; its derivative is the page's, by autograd."""

    name = "fast"
    judges = False
    parametric = True

    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        return None if _path(P, f) is not None else f"no fast path is registered for {P!r} with {f!r}"

    def preferred(self, P: Polytope, f: Regularizer) -> bool:
        return True

    def prepare(self, P: Polytope, f: Regularizer) -> Map:
        path = _path(P, f)
        assert path is not None
        return partial(_applied, path, P)

    def softmax(
        self, problem: Problem, refused: Refused | None = None, **options: Any
    ) -> tuple[torch.Tensor, Info | None]:
        assert problem.f is not None
        if problem.theta is not None:
            return self._at_values(problem.inspected(), **options)
        path = _path(problem.P, problem.f)
        assert path is not None
        # Values on the host are looked at first; those on a device once, together with the result.
        looked = on_host(problem.u)
        if looked:
            problem = problem.inspected()
        if problem.forbidden is None:
            try:
                z = _applied(path, problem.P, problem.u, **options)
            except Exception:
                problem.inspected()  # what a path makes of NaN is not what the user should read
                raise
            wide = _wide(problem.u)
            if is_finite(z, wide) if looked else problem.is_plain(z, wide):
                return z, None
            problem = problem.inspected()
        if not options and not is_finite(_wide(problem.u)):
            return super().softmax(problem, refused)
        if problem.forbidden is None:
            return z, Solution(z.detach()).info(self.name)
        z = _applied(path, problem.P, problem.u.masked_fill(problem.forbidden, -torch.inf), **options)
        # unrolled sweeps may also be too slow there
        empty = None if options else _empty(z.detach(), problem.forbidden)
        return z, Solution(z.detach(), empty=empty).info(self.name)

    def _at_values(self, problem: Problem, **options: Any) -> tuple[torch.Tensor, Info | None]:
        """With parameters; what the path does not solve is NaN, and not asked for a derivative."""
        z = _applied_at(problem.at(problem.inputs.detach()), **options)
        solved = torch.isfinite(z).all(dim=1) & (problem.u.detach().abs() <= WIDE).all(dim=1)
        info = None if not holds(~solved) else Solution(z, solved).info(self.name)
        rows = None if info is None else positions(solved)
        if rows is not None:
            return z.index_put((rows,), _applied_at(problem.rows(rows), **options)), info
        return _applied_at(problem, **options), info

    def solve(self, state: Map, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        if forbidden is None:
            return Solution(state(u))
        z = state(u.masked_fill(forbidden, -torch.inf))
        return Solution(z, empty=_empty(z, forbidden))

    def times_jacobian(self, state: Map, g: torch.Tensor, at: At) -> torch.Tensor:
        u = at.u if at.forbidden is None else at.u.masked_fill(at.forbidden, -torch.inf)
        return torch.func.vjp(state, u)[1](g)[0]


def _empty(z: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
    """By its contract a path answers NaN where -inf leaves no structure."""
    return z.isnan().any(dim=1) & forbidden.any(dim=1)


def _wide(u: torch.Tensor) -> torch.Tensor:
    """inf where utilities may be so far apart that a closed form loses their digits, else 0: a number."""
    u = u.detach()
    return torch.where(u.abs().amax() > WIDE, torch.inf, 0.0) if u.numel() else u.sum()


def _applied(path: Map, P: Polytope, u: torch.Tensor, **options: Any) -> torch.Tensor:
    """The path for u ``(B, n)``, to the same."""
    shaped = u if len(P.shape) == 1 else u.reshape(-1, *P.shape)
    z = path(shaped, **options)
    if not isinstance(z, torch.Tensor) or z.shape != shaped.shape:
        got = tuple(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
        raise ValueError(
            f"engine='fast': the path registered for {P!r} returned {got} for utilities of shape {tuple(shaped.shape)};"
            " it must return a tensor of their shape"
        )
    return z if z.shape == u.shape else z.reshape(u.shape)


def _applied_at(problem: Problem, **options: Any) -> torch.Tensor:
    """The path at the values of the parameters of each instance."""
    assert problem.theta is not None
    assert problem.f is not None
    knowledge = problem.P.unvalued.knowledge_at(problem.theta)
    assert knowledge is not None
    path, u = knowledge.softmax(type(problem.f)), problem.u
    assert path is not None
    u = u if problem.forbidden is None else u.masked_fill(problem.forbidden, -torch.inf)
    return _applied(path, problem.P, u, **options)


def _path(P: Polytope, f: Regularizer) -> Map | None:
    knowledge = knowledge_of(P)
    if knowledge is None:
        return None
    path, log_partition = knowledge.softmax(type(f)), knowledge.log_partition
    if path is None and f.is_gibbs and log_partition is not None:
        return partial(_gradient, log_partition)
    return path


def _gradient(log_partition: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    """z = grad A(u) = E[z], itself differentiable (its Jacobian is the covariance of z); NaN where A = -inf."""

    def total(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        A = log_partition(v)
        return A.sum() + 0 * v.masked_fill(v == -torch.inf, 0.0).sum(), A  # a constant A too has a gradient

    with torch.inference_mode(False), torch.enable_grad():
        u = u.clone() if u.is_inference() else u
        z, A = torch.func.grad(total, has_aux=True)(u)
    return z.masked_fill(torch.isneginf(A).reshape(-1, *[1] * (u.dim() - 1)), torch.nan)

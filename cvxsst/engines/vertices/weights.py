"""The vertices of which z is a mixture, and how their weights move with u.

    z = sum_k a_k v_k,     da = S du,     S = R^-1 Q',     Q R = (v_1 - v_0, v_2 - v_0, ...),     sum_k da_k = 0

The vertices are those of the corral: affinely independent, so that z determines a. With those that complete the face,
of weight 0, they span it, so that sum_k S_k v_k is dz/du. S does not change with u, up to kinks.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import pad

from cvxsst.engines.base import Info, Solution
from cvxsst.engines.vertices.corral import Corrals
from cvxsst.engines.vertices.engine import State, Vertices, solution
from cvxsst.engines.vertices.hull import Hull
from cvxsst.engines.vertices.projection import decomposed
from cvxsst.problem import Problem

TILT = 1e-10  # relative to |u|: more than rounding, and less than anything that utilities say
WHOLE = 1e-9  # from an integer: an entry of a vertex that is not exact is one


class Mixtures(Vertices):
    """The engine with what it knows besides: ``kept`` are the vertices ``(B, K, n)``, the likeliest first, their
    weights ``(B, K)`` and S ``(B, K, n)``. Where an instance has fewer, the first is there again, with weight and S 0.
    """

    def mixtures(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Info]:
        """z, and what is kept of it, constants for autograd; of an inspected problem."""
        assert problem.f is not None
        state = self.state(problem.P, problem.f)
        z, *told, V, a, S, _ = self._map.with_kept(problem.u.detach(), problem.forbidden, problem.P, state, None)
        converged, residual, iterations, empty = told
        return z, V, a, S, Solution(z, converged, residual, iterations, empty).info(self.name)

    def solve(self, state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        (B, n), hull = u.shape, state.hull.to(u.device)
        if not u.numel():
            nothing = u.new_zeros(B, 1, n)
            return Solution(u.clone(), kept=(nothing, u.new_ones(B, 1), nothing))
        found, corrals, more = decomposed(replace(hull, tilt=TILT), u, forbidden)
        V, a, taken = _together(corrals, more)
        return solution(state, found)._replace(kept=_sorted(hull, V, a, taken))


def _together(
    corrals: Corrals, more: list[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vertices, weights, and where there is one."""
    parts = (corrals.V.mT, corrals.weight, corrals.taken)
    V, a, taken = (pad(part, (0, len(more))) for part in parts)
    V = V.mT
    for slot, (rows, v) in enumerate(more, start=corrals.room):
        V[rows, slot], taken[rows, slot] = v, True
    return V, a.masked_fill(~taken, 0.0), taken


def _sorted(
    hull: Hull, V: torch.Tensor, a: torch.Tensor, taken: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is kept: by falling weights, and no more places than are needed."""
    order = a.masked_fill(~taken, -1.0).argsort(dim=1, descending=True, stable=True)[:, : int(taken.sum(1).max())]
    a, taken = a.gather(1, order), taken.gather(1, order)
    V = V.gather(1, order.unsqueeze(2).expand(-1, -1, V.shape[2]))
    D = (V - V[:, :1]).masked_fill(~taken.unsqueeze(2), 0.0)
    Q, R = torch.linalg.qr(D[:, 1:].mT)
    R = R + torch.diag_embed((~taken[:, 1:]).to(R))  # where there is no vertex: anything that has an inverse
    S = torch.linalg.solve_triangular(R, Q.mT, upper=True).masked_fill(~taken[:, 1:, None], 0.0)
    whole = V[:, :1] + D + hull.center
    if hull.blur:
        whole = torch.where((whole - whole.round()).abs() <= WHOLE, whole.round(), whole)
    return whole + 0.0, a, torch.cat([-S.sum(1, keepdim=True), S], dim=1)

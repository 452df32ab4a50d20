"""Is z in P, and which vertex is the best: by linear programs, or by the oracle where P is known by that alone."""

from __future__ import annotations

import torch

from cvxsst.engines.vertices.engine import hull_of
from cvxsst.engines.vertices.projection import project
from cvxsst.polytope import Polytope


def distances(P: Polytope, z: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
    """How far z ``(B, n)`` is from the face of P where the ``forbidden`` entries are 0, maximum norm; ``(B,)``, NaN
    where that is empty.

    By an oracle alone: how far z is from the nearest point of vertices that the oracle has returned, an upper bound;
    it is the distance in the Euclidean norm, of which the maximum norm is taken.
    """
    if P.declared:
        at = _zeros(forbidden)
        return z.new_tensor([P.presolved.distance(*one) for one in zip(z.numpy(), at, strict=True)])
    mask = forbidden if bool(forbidden.any()) else None
    found = project(hull_of(P), z if mask is None else z.masked_fill(mask, 0.0), mask)
    return (found.z - z).abs().amax(1).masked_fill(found.empty, torch.nan)


def best(P: Polytope, g: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
    """The vertices ``(B, n)`` of these faces that maximize <g, v>; none may be empty."""
    if not P.declared:
        hull = hull_of(P)
        return hull.vertex(g, lambda: hull.generic.expand(g.shape), forbidden) + hull.center
    found = []
    for objective, zeros in zip(g.numpy(), _zeros(forbidden), strict=True):
        vertex = P.presolved.linear_program.maximize(objective, zeros=zeros).x
        assert vertex is not None, "the distance has told empty instances"
        found.append(torch.from_numpy(vertex[: P.size]))
    return torch.stack(found)


def _zeros(forbidden: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row.nonzero().flatten().tolist()) for row in forbidden]

"""The engine ``"vertices"``: a batch of utilities to z and its derivatives."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from cvxsst.engines.base import At, Engine, Solution
from cvxsst.engines.vertices.corral import times
from cvxsst.engines.vertices.hull import Hull, Oracle
from cvxsst.engines.vertices.projection import Projected, project
from cvxsst.oracles import best_of, by_family, solved_by_linear_programs
from cvxsst.polytope import Polytope
from cvxsst.recognition import knowledge_of
from cvxsst.regularizers import Regularizer
from cvxsst.values import plainly

ACCEPTED = 1e-8  # residual, relative to the largest entry over P if > 1
LISTED = 2**16  # entries of all vertices together, up to which a product with them is cheaper than an oracle
PATIENCE = 0.2  # seconds for listing them
BLUR = 1e-12  # of vertices that linear programs find, or that are no integers, relative to the largest entry over P
MOST_NUMBERS = 2**24  # entries of the vertices of a chunk of a batch: larger batches are solved in turns


@dataclass(frozen=True)
class State:
    """P as the hull of what its oracle finds, and its largest entry, 1 if that is smaller."""

    hull: Hull
    size: float


class Vertices(Engine[State]):
    name = "vertices"

    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        if f.is_quadratic:
            return None
        return f"vertices solves for the Euclidean f(z) = |z|^2 / 2, which {f!r} is not"

    def preferred(self, P: Polytope, f: Regularizer) -> bool:
        """Where a family has an argmax, unless P is made of bounds and equalities, of which kkt solves the dual: 1.4 to
        50 times as fast as kkt on lifted declarations, 2 to 23 times slower on those (``benchmarks.engines``)."""
        if not P.declared:
            return f.is_quadratic
        knowledge = knowledge_of(P) if f.is_quadratic else None
        return knowledge is not None and knowledge.argmax is not None and not P.form.is_box

    def prepare(self, P: Polytope, f: Regularizer) -> State:
        return State(hull_of(P), max(1.0, float(np.abs(P.extent).max(initial=0.0))))

    def solve(self, state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        (B, n), hull = u.shape, state.hull.to(u.device)
        if not u.numel():
            return Solution(u.clone(), kept=(u.new_zeros(B, n, 0),))
        parts = min(B, -(-B * n * (n + 1) // MOST_NUMBERS))
        masks = [None] * parts if forbidden is None else forbidden.tensor_split(parts)
        found = Projected.joined(
            [project(hull, part, mask) for part, mask in zip(u.tensor_split(parts), masks, strict=True)]
        )
        return solution(state, found)

    def times_jacobian(self, state: State, g: torch.Tensor, at: At) -> torch.Tensor:
        """Q Q' g: the projection onto the directions of the face; 0 u, so that the second derivative exists, as 0."""
        (Q,) = at.kept
        return times(Q, times(Q.mT, g)) + 0.0 * at.u


def solution(state: State, found: Projected) -> Solution:
    residual = found.residual.masked_fill(found.empty, torch.inf)
    return Solution(found.z, residual <= ACCEPTED * state.size, residual, found.calls, found.empty, (found.Q,))


def hull_of(P: Polytope) -> Hull:
    """P as the engine knows it, found once."""
    return P.prepared.get("hull", lambda: plainly(lambda: _hull(P)))


def _hull(P: Polytope) -> Hull:
    size = max(1.0, float(np.abs(P.extent).max(initial=0.0)))
    oracle, blur, blamed = _oracle(P)
    return Hull.between(*P.extent, oracle, blur * size, blamed)


def _oracle(P: Polytope) -> tuple[Oracle, float, str]:
    """Over all vertices if they are few, else the family's, else linear programs; how exact its vertices are, and who
    is to blame where it is wrong."""
    knowledge = knowledge_of(P)
    V = None if knowledge is None or knowledge.structures is None else _few(knowledge.structures(), P.size)
    if V is not None:
        return lambda g, nudge, forbidden: best_of(V.to(g.device), g, forbidden), 0.0, ""
    if knowledge is not None and knowledge.argmax is not None:
        argmax = knowledge.argmax
        exact = P.seen is None or bool(np.all(P.seen == np.round(P.seen)))
        return lambda g, nudge, forbidden: by_family(P, argmax, g, forbidden), 0.0 if exact else BLUR, P.name
    return lambda g, nudge, forbidden: solved_by_linear_programs(P, g, forbidden, nudge()), BLUR, ""


def _few(structures: Iterable[np.ndarray], n: int) -> torch.Tensor | None:
    """The structures as a matrix, unless they are many, or hard to find."""
    found, start = [], time.monotonic()
    for z in structures:
        found.append(z)
        if len(found) * n > LISTED or time.monotonic() - start > PATIENCE:
            return None
    return torch.from_numpy(np.array(found, dtype=float).reshape(len(found), n))

"""The exponential family by its definition: every structure of Z, its weight exp <u, z>, the mean.

    p(z) = exp <u, z> / sum_Z exp <u, z>,     z(u) = E[z],     dz/du = Cov(z)

Cost O(B |Z| n): the reference for everything faster.
"""

from __future__ import annotations

import torch

from cvxsst.engines.base import At, Engine, Solution
from cvxsst.errors import NoFastPathError
from cvxsst.oracles import takes
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer


class Enumeration(Engine[torch.Tensor]):
    name = "enumeration"

    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        if not f.is_gibbs:
            return "enumeration solves the exponential family only"
        try:
            P.vertices()
        except NoFastPathError as error:
            return str(error)
        return None

    def prepare(self, P: Polytope, f: Regularizer) -> torch.Tensor:
        """Z, ``(count, n)``."""
        return torch.from_numpy(P.vertices())

    def solve(self, state: torch.Tensor, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        V = state.to(u.device)
        empty = None if forbidden is None else takes(V, forbidden).all(dim=1)
        return Solution(_probabilities(V, u, forbidden) @ V, empty=empty)

    def times_jacobian(self, state: torch.Tensor, g: torch.Tensor, at: At) -> torch.Tensor:
        """E[(v - z) <v, g>]."""
        V = state.to(g.device)
        p, along = _probabilities(V, at.u, at.forbidden), g @ V.T
        return (p * (along - (p * along).sum(1, keepdim=True))) @ V


def _probabilities(V: torch.Tensor, u: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
    """p ``(B, count)`` of the rows of V; NaN where every one takes a forbidden entry."""
    logits = u @ V.T
    if forbidden is not None:
        logits = logits.masked_fill(takes(V, forbidden), -torch.inf)
    return torch.softmax(logits, dim=1)

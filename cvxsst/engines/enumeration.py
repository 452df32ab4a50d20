"""The exponential family by its definition: every structure of Z, its weight exp <u, z>, the mean.

    p(z) = exp <u, z> / sum_Z exp <u, z>,     z(u) = E[z],     dz/du = Cov(z)

Cost O(B |Z| n): the reference for everything faster.
"""

from __future__ import annotations

import torch

from cvxsst.engines.base import Engine, Solution
from cvxsst.errors import NoFastPathError
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
        logits = u @ V.T
        empty = None
        if forbidden is not None:
            allowed = forbidden.to(u) @ (V != 0).to(u).T == 0
            logits = logits.masked_fill(~allowed, -torch.inf)
            empty = ~allowed.any(dim=1)
        p = torch.softmax(logits, dim=1)
        return Solution(p @ V, empty=empty)

    def times_jacobian(self, state, g, u, z, kept, forbidden):
        """E[(v - z) <v, g>]."""
        V = state.to(u.device)
        logits = u @ V.T
        if forbidden is not None:
            logits = logits.masked_fill(forbidden.to(u) @ (V != 0).to(u).T != 0, -torch.inf)
        p, along = torch.softmax(logits, dim=1), g @ V.T
        return (p * (along - (p * along).sum(1, keepdim=True))) @ V

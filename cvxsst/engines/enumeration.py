"""The exponential family by its definition: every structure of Z, its weight exp <u, z>, the mean.

    p(z) = exp <u, z> / sum_Z exp <u, z>,     z(u) = E[z],     dz/du = Cov(z)

Cost O(B |Z| n): the reference for everything faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cvxsst.engines.base import Engine, Info
from cvxsst.errors import NoFastPathError
from cvxsst.geometry.vertices import vertices
from cvxsst.regularizers import ExponentialFamily, Regularizer

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope


class Enumeration(Engine):
    name = "enumeration"

    def supports(self, P: Polytope, regularizer: Regularizer) -> bool:
        if not isinstance(regularizer, ExponentialFamily):
            return False
        try:
            vertices(P)
        except NoFastPathError:
            return False
        return True

    def softmax(
        self, P: Polytope, regularizer: Regularizer, u: torch.Tensor, forbidden: torch.Tensor | None
    ) -> tuple[torch.Tensor, Info]:
        V = torch.from_numpy(vertices(P)).to(u.device)
        logits = u @ V.T
        empty = None
        if forbidden is not None:
            allowed = forbidden.to(u.dtype) @ (V != 0).to(u.dtype).T == 0
            logits = logits.masked_fill(~allowed, -torch.inf)
            empty = ~allowed.any(dim=1)
        z = torch.softmax(logits, dim=1) @ V
        return z, Info.of_closed_form(z.detach(), empty)

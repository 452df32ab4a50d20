"""The family's own closed forms and algorithms, where its page registers them.

For a family with ``@family.softmax(R)`` that function, for the exponential family and a family with
``@family.log_partition`` the gradient of A(u).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cvxsst.engines.base import Engine, Info
from cvxsst.regularizers import ExponentialFamily, Regularizer

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope


class Fast(Engine):
    name = "fast"

    def supports(self, P: Polytope, regularizer: Regularizer) -> bool:
        if P.family is None:
            return False
        if type(regularizer) in P.family.softmax_paths:
            return True
        return isinstance(regularizer, ExponentialFamily) and P.family.log_partition_function is not None

    def softmax(
        self, P: Polytope, regularizer: Regularizer, u: torch.Tensor, forbidden: torch.Tensor | None
    ) -> tuple[torch.Tensor, Info]:
        assert P.family is not None
        if forbidden is not None:
            P.require_zero_is_least(tuple(forbidden.any(dim=0).nonzero().flatten().tolist()))
            u = u.masked_fill(forbidden, -torch.inf)
        shaped = u.reshape(-1, *P.shape)
        path = P.family.softmax_paths.get(type(regularizer))
        z = path(shaped, **P.arguments) if path else _gradient_of_log_partition(P, shaped)
        z = z.reshape(u.shape)
        if forbidden is None:
            return z, Info.of_closed_form(z.detach())
        # By its contract a path answers NaN where -inf leaves no structure.
        return z, Info.of_closed_form(z.detach(), empty=z.detach().isnan().any(dim=1) & forbidden.any(dim=1))


def _gradient_of_log_partition(P: Polytope, u: torch.Tensor) -> torch.Tensor:
    """z = grad A(u) = E[z], itself differentiable (its Jacobian is the covariance of z)."""
    assert P.family is not None
    assert P.family.log_partition_function is not None
    differentiable = torch.is_grad_enabled() and u.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        leaf = u if u.requires_grad else u.detach().clone().requires_grad_()
        A = P.family.log_partition_function(leaf, **P.arguments)
        if not A.requires_grad:  # a single structure, whatever u
            return torch.zeros_like(leaf) + 0 * leaf
        (z,) = torch.autograd.grad(A.sum(), leaf, create_graph=differentiable)
    return z

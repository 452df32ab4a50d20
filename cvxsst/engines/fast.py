"""The family's own closed forms and algorithms, where its page registers them.

For a family with ``@family.softmax(R)`` that function, for the exponential family and a family with
``@family.log_partition`` the gradient of A(u). A declaration that is recognized as a member of a family has its paths.
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
        if P.known is None:
            return False
        family = P.known.family
        assert family is not None
        if type(regularizer) in family.softmax_paths:
            return True
        return isinstance(regularizer, ExponentialFamily) and family.log_partition_function is not None

    def softmax(
        self,
        P: Polytope,
        regularizer: Regularizer,
        u: torch.Tensor,
        forbidden: torch.Tensor | None,
        unroll: bool = False,
    ) -> tuple[torch.Tensor, Info]:
        assert P.known is not None
        P = P.known
        assert P.family is not None
        if forbidden is not None:
            P.require_zero_is_least(tuple(forbidden.any(dim=0).nonzero().flatten().tolist()))
            u = u.masked_fill(forbidden, -torch.inf)
        shaped = u.reshape(-1, *P.shape)
        path = P.family.softmax_paths.get(type(regularizer))
        options = {"unroll": True} if unroll else {}
        z = path(shaped, **P.arguments, **options) if path else _gradient_of_log_partition(P, shaped)
        z = z.reshape(u.shape)
        if forbidden is None:
            return z, Info.of_closed_form(z.detach())
        # By its contract a path answers NaN where -inf leaves no structure; sweeps may also be too slow there.
        lost = z.detach().isnan().any(dim=1) & forbidden.any(dim=1)
        return z, Info.of_closed_form(z.detach(), empty=torch.zeros_like(lost) if unroll else lost)


def _gradient_of_log_partition(P: Polytope, u: torch.Tensor) -> torch.Tensor:
    """z = grad A(u) = E[z], itself differentiable (its Jacobian is the covariance of z); NaN where A = -inf."""
    assert P.family is not None
    log_partition = P.family.log_partition_function
    assert log_partition is not None

    def total(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        A = log_partition(v, **P.arguments)
        return A.sum() + 0 * v.masked_fill(v == -torch.inf, 0.0).sum(), A  # a constant A too has a gradient

    with torch.inference_mode(False), torch.enable_grad():
        u = u.clone() if u.is_inference() else u
        z, A = torch.func.grad(total, has_aux=True)(u)
    return z.masked_fill(torch.isneginf(A).reshape(-1, *[1] * len(P.shape)), torch.nan)

"""The dynamics and their likelihood, which sees the recordings as sums over time.

    Y_t = A Y_t-1 + N(0, I),   A = P' W P:
    log p(Y | W, P) = -(sum |Y_t|^2 - 2 <A, sum Y_t Y_t-1'> + <A, A sum Y_t-1 Y_t-1'>) / 2 + constant

so that a step costs a few products of n x n matrices, however long the recordings are. A relaxed P stands in it as a
permutation matrix does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

LOG_VARIANCE = -10.0  # of W at the start


def log_likelihood(A: torch.Tensor, worms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """``(*, B)`` of dynamics ``(*, B, n, n)``, up to a constant."""
    quadratic = ((A @ worms["past"]) * A).sum((-1, -2))
    return (2 * (A * worms["lagged"]).sum((-1, -2)) - quadratic - worms["energy"]) / 2


def recorded(W: torch.Tensor, P: torch.Tensor) -> torch.Tensor:
    """P' W P, the dynamics under the names of each worm, for W ``(n, n)`` and P ``(*, n, n)``."""
    return P.mT @ W @ P


class Weights(nn.Module):
    """q(W): independent normal on the pairs that are joined, 0 elsewhere; the prior is N(0, 1 / precision)."""

    def __init__(self, neurons: int, precision: float):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(neurons, neurons))
        self.log_variance = nn.Parameter(torch.full((neurons, neurons), LOG_VARIANCE))
        self.precision = precision

    def sample(self, joined: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(self.mean) * (self.log_variance / 2).exp()
        return torch.where(joined, self.mean + noise, 0)

    def divergence(self, joined: torch.Tensor) -> torch.Tensor:
        """KL(q || prior), a number."""
        ratio = self.precision * self.log_variance.exp()
        kl = (ratio + self.precision * self.mean.square() - 1 - ratio.log()) / 2
        return torch.where(joined, kl, 0).sum()

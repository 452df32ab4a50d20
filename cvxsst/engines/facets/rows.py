"""R = (E, W): the rows of the affine hull, which all instances share, and of each instance's working set."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Rows(NamedTuple):
    """E ``(m, n)`` above W ``(B, K, n)``; r = m + K."""

    E: torch.Tensor
    W: torch.Tensor

    def times(self, z: torch.Tensor) -> torch.Tensor:
        """R z, ``(B, r)``."""
        equal = z @ self.E.T
        return torch.cat([equal, (self.W @ z[..., None])[..., 0]], 1) if self.W.shape[1] else equal

    def transposed(self, mu: torch.Tensor) -> torch.Tensor:
        """R' mu, ``(B, n)``."""
        m = len(self.E)
        normal = mu[:, :m] @ self.E
        return normal + (mu[:, None, m:] @ self.W)[:, 0] if self.W.shape[1] else normal

    def normal_matrix(self, H: torch.Tensor) -> torch.Tensor:
        """R diag(H) R', ``(B, r, r)``."""
        EH = self.E * H[:, None]
        top = EH @ self.E.T
        if not self.W.shape[1]:
            return top
        mixed = EH @ self.W.mT
        rest = (self.W * H[:, None]) @ self.W.mT
        return torch.cat([torch.cat([top, mixed], 2), torch.cat([mixed.mT, rest], 2)], 1)


class Factor:
    """S = L L' for positive definite S ``(B, r, r)``, scaled to a diagonal of 1 first.

    Args:
        regularization: added to that diagonal.
    """

    def __init__(self, S: torch.Tensor, regularization: float = 0.0):
        self.root = S.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
        scaled = S * self.root[:, :, None] * self.root[:, None]
        if regularization:
            scaled.diagonal(dim1=1, dim2=2).add_(regularization)
        self.L, _ = torch.linalg.cholesky_ex(scaled)

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """S^-1 right, ``(B, r)`` to the same."""
        return self.root * torch.cholesky_solve((self.root * right)[..., None], self.L)[..., 0]

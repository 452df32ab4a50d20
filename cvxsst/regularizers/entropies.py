"""The entropies of one and of two alternatives, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch

from cvxsst.regularizers.separable import Separable


def relative_entropy(z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
    """z log(z / z0), 0 at z = 0; right in its digits also where z is close to z0."""
    d = z - z0
    return torch.where(z > 0, z * torch.where(d.abs() < z0 / 2, (d / z0).log1p(), (z / z0).log()), 0.0)


@dataclass(frozen=True)
class CategoricalEntropy(Separable):
    """f(z) = sum_i z_i log z_i: softmax on the simplex, Sinkhorn on the Birkhoff polytope. Needs z >= 0."""

    domain = (0.0, np.inf)

    def value(self, z: torch.Tensor) -> torch.Tensor:
        return torch.where(z < 0, torch.inf, torch.xlogy(z, z))

    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        return z.log() + 1

    def primal(self, u: torch.Tensor) -> torch.Tensor:
        return (u - 1).exp()

    def slope(self, z: torch.Tensor) -> torch.Tensor:
        return z

    def divergence(self, z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        return relative_entropy(z, z0) - (z - z0)

    def curvature_up_to(self, bound: float) -> float:
        return 1 / max(bound, 1e-300)

    def expression(self, z: cp.Expression) -> cp.Expression:
        return -cp.sum(cp.entr(z))


@dataclass(frozen=True)
class BinaryEntropy(Separable):
    """f(z) = sum_i z_i log z_i + (1 - z_i) log (1 - z_i): the sigmoid on the cube. Needs 0 <= z <= 1."""

    domain = (0.0, 1.0)

    def value(self, z: torch.Tensor) -> torch.Tensor:
        return torch.where((z < 0) | (z > 1), torch.inf, torch.xlogy(z, z) + torch.xlogy(1 - z, 1 - z))

    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        return z.log() - (-z).log1p()

    def primal(self, u: torch.Tensor) -> torch.Tensor:
        return u.sigmoid()

    def slope(self, z: torch.Tensor) -> torch.Tensor:
        return z * (1 - z)

    def divergence(self, z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        return relative_entropy(z, z0) + relative_entropy(1 - z, 1 - z0)

    def curvature_up_to(self, bound: float) -> float:
        return 4.0

    def expression(self, z: cp.Expression) -> cp.Expression:
        return -cp.sum(cp.entr(z)) - cp.sum(cp.entr(1 - z))

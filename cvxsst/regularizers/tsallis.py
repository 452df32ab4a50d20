"""The Tsallis entropies: between the entropies and the square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cvxpy as cp
import numpy as np
import torch

from cvxsst.errors import ArgumentTypeError
from cvxsst.regularizers.separable import Separable

SMALL = 1e-3  # relative difference below which the divergence is summed as a series


@dataclass(frozen=True)
class Tsallis(Separable):
    """f(z) = sum_i (z_i^alpha - z_i) / (alpha (alpha - 1)),  1 < alpha <= 2.  Needs z >= 0.

    On the simplex the softmax is alpha-entmax: sparse like sparsemax, smooth between its kinks like the entropies.
    alpha = 2 is ``Euclidean`` up to the linear term sum z_i / 2 (a constant on the simplex), alpha = 1.5 is entmax15,
    and alpha -> 1 tends to ``CategoricalEntropy`` up to a linear term.

    Args:
        alpha: 1 < alpha <= 2; default 1.5.

    Raises:
        ValueError: alpha out of this range.

    References: Tsallis 1988; Peters, Niculae and Martins 2019 (Sparse Sequence-to-Sequence Models); Blondel, Martins
    and Niculae 2020, section 4.3.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> cvxsst.softmax(simplex(3), torch.tensor([1.0, 0.5, -1.0]), cvxsst.Tsallis(1.5))
        tensor([0.6740, 0.3260, 0.0000])
    """

    alpha: float = 1.5

    domain = (0.0, np.inf)
    steep: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float):
            raise ArgumentTypeError(f"alpha: expected a number, got {type(self.alpha).__name__}")
        if not 1 < self.alpha <= 2:
            raise ValueError(
                f"alpha: must be above 1 and at most 2, got {self.alpha}; its limit for 1 is CategoricalEntropy()"
            )

    def value(self, z: torch.Tensor) -> torch.Tensor:
        a = self.alpha
        return torch.where(z < 0, torch.inf, (z.clamp_min(0.0) ** a - z) / (a * (a - 1)))

    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        a = self.alpha
        return (z ** (a - 1) - 1 / a) / (a - 1)

    def primal(self, u: torch.Tensor) -> torch.Tensor:
        a = self.alpha
        return ((a - 1) * u + 1 / a).clamp_min(0.0) ** (1 / (a - 1))

    def slope(self, z: torch.Tensor) -> torch.Tensor:
        """z^(2 - alpha); 0 at z = 0, from where z moves only once u has passed a threshold."""
        inside = z > 0
        return torch.where(inside, torch.where(inside, z, 1.0) ** (2 - self.alpha), 0.0)

    def divergence(self, z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        """z0^alpha ((1 + d)^alpha - 1 - alpha d) / (alpha (alpha - 1)),  d = z / z0 - 1;  a series where d is small."""
        a, positive = self.alpha, z0 > 0
        base = torch.where(positive, z0, 1.0)
        d = (z - base) / base
        series = d * d / 2 * (1 + (a - 2) / 3 * d * (1 + (a - 3) / 4 * d * (1 + (a - 4) / 5 * d)))
        difference = (torch.expm1(a * torch.log1p(d)) - a * d) / (a * (a - 1))
        from_zero = z.clamp_min(0.0) ** a / (a * (a - 1))
        return torch.where(positive, base**a * torch.where(d.abs() < SMALL, series, difference), from_zero)

    def curvature_up_to(self, bound: float) -> float:
        """phi'' = z^(alpha - 2) falls."""
        return max(bound, 1e-100) ** (self.alpha - 2)

    def expression(self, z: cp.Expression) -> cp.Expression:
        return (cp.sum(cp.power(z, self.alpha)) - cp.sum(z)) / (self.alpha * (self.alpha - 1))

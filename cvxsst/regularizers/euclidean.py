"""f(z) = |z|^2 / 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cvxpy as cp
import numpy as np
import torch

from cvxsst.geometry.faces import Face
from cvxsst.regularizers.separable import Separable


@dataclass(frozen=True)
class Euclidean(Separable):
    """f(z) = |z|^2 / 2: the softmax is the Euclidean projection of w / T onto P; sparsemax on the simplex."""

    steep: ClassVar[bool] = False
    is_quadratic: ClassVar[bool] = True

    def value(self, z: torch.Tensor) -> torch.Tensor:
        return z * z / 2

    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        return z

    def primal(self, u: torch.Tensor) -> torch.Tensor:
        return u

    def slope(self, z: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(z)

    def divergence(self, z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        return (z - z0).square() / 2

    def curvature_up_to(self, bound: float) -> float:
        return 1.0

    def expression(self, z: cp.Expression) -> cp.Expression:
        return cp.sum_squares(z) / 2

    def maximize_on(self, face: Face, u: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        z = face.project(u)
        return z, face.E.T @ (face.E @ (u - z)), 1

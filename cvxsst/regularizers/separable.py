"""Regularizers that are sums over the entries of z, f(z) = sum_i phi(z_i): one function phi of a number.

Without constraints each entry is solved alone, z = phi*'(u). That map, its slope and the Bregman divergence of phi are
what engines and certificates need; a new regularizer of this kind is a subclass with these formulas.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import cvxpy as cp
import numpy as np
import torch

from cvxsst.errors import some
from cvxsst.geometry.faces import Face
from cvxsst.polytope import Polytope
from cvxsst.regularizers.base import Bound, Maximum, Regularizer, Slice

# How far z' is moved inwards where the gradient at z is infinite.
INWARD = (1e-300, 1e-100, 1e-30, 1e-16, 1e-12, 1e-9, 1e-6)
EPS = torch.finfo(torch.float64).eps
TOLERANCE = 1e-6  # of the reference engine: distance from z to the solution, relative to the largest entry over P if > 1


class Separable(Regularizer):
    """f(z) = sum_i phi(z_i), strictly convex; tensors in and out, entry by entry, float64.

    Attributes:
        domain: the closed interval on which phi is finite.
        steep: whether phi' is infinite at the finite ends of the domain, so that z reaches them in the limit only.
    """

    domain: tuple[float, float] = (-np.inf, np.inf)
    steep: ClassVar[bool] = True

    @abstractmethod
    def value(self, z: torch.Tensor) -> torch.Tensor:
        """phi(z), inf outside the domain."""

    @abstractmethod
    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        """phi'(z)."""

    @abstractmethod
    def primal(self, u: torch.Tensor) -> torch.Tensor:
        """phi*'(u) = argmax_z u z - phi(z): the inverse of ``gradient``, clamped to the domain."""

    @abstractmethod
    def slope(self, z: torch.Tensor) -> torch.Tensor:
        """1 / phi''(z): how z = phi*'(u) moves with u."""

    @abstractmethod
    def divergence(self, z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        """The Bregman divergence phi(z) - phi(z0) - phi'(z0) (z - z0) >= 0, without cancellation."""

    @abstractmethod
    def curvature_up_to(self, bound: float) -> float:
        """A lower bound on phi''(z) for z in the domain and |z| <= bound."""

    def require_domain(self, P: Polytope) -> None:
        low, high = self.domain
        if np.isinf(low) and np.isinf(high):
            return
        lower, upper = P.bounds
        outside = np.flatnonzero((lower < low - 1e-7) | (upper > high + 1e-7))
        if len(outside):
            raise ValueError(
                f"regularizer: {self!r} is defined for entries in [{low:g}, {high:g}], but over {P!r} entries "
                f"{some(outside.tolist())} (counted row by row) range beyond: add constraints, or use Euclidean()"
            )

    def inside(self, z: torch.Tensor, delta: float) -> torch.Tensor:
        """z moved into the domain, at least delta away from its ends (a representable amount away from 1)."""
        low, high = self.domain
        return z.clamp(low + delta, high - max(delta, EPS / 2) if delta and np.isfinite(high) else high)

    def bounds(self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor) -> Iterator[Bound]:
        """g = u - phi'(z'), z' = z or z moved inwards by some delta where the gradient is infinite.

        Entries that P or -inf leaves one value, perhaps at an end of the domain, add a constant to F: g = 0 there.
        """
        moving = ~forbidden
        moving[:, torch.from_numpy(P.presolved.fixed)] = False
        z = self.inside(z, 0.0)
        for delta in (0.0, *INWARD) if self.steep and np.isfinite(self.domain).any() else (0.0,):
            inside = self.inside(z, delta)
            g = torch.where(moving, u - self.gradient(inside), 0.0)
            yield g, torch.where(moving, self.divergence(z, inside), 0.0).sum(1)

    def slice(self, P: Polytope, places: np.ndarray, constant: np.ndarray) -> Slice:
        return SeparableSlice(self, float(np.abs(P.bounds).max(initial=0.0)))

    def maximize_on(self, face: Face, u: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """z, normal and steps of the maximum of <u, z> - f(z) on a face, from an estimate of the normal."""
        return face.maximize(self, u, normal)


class SeparableSlice(Slice):
    """The other entries add a constant: f is what it was."""

    def __init__(self, f: Separable, size: float):
        self.f, self.curvature = f, f.curvature_up_to(size)
        self.tolerance = self.refined = TOLERANCE * max(1.0, size)

    def expression(self, z: cp.Expression) -> cp.Expression:
        return self.f.expression(z)

    def maximize(self, face: Face, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> Maximum:
        z, normal, steps = self.f.maximize_on(face, u, normal)
        return Maximum(z, normal, steps, lambda g: face.derivative(self.f, z, g))

    def bound(self, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, float]:
        at, inside = torch.from_numpy(z), self.f.primal(torch.from_numpy(u - normal))
        rounding = 4 * EPS * float(np.abs(normal) @ (1 + np.abs(z)))
        return normal, self.f.divergence(self.f.inside(at, 0.0), inside).sum().item() - rounding

    def error(self, gap: float, u: np.ndarray) -> float:
        """|z - z*|^2 <= 2 gap / curvature."""
        return float(np.sqrt(2 * max(gap, 0.0) / self.curvature))

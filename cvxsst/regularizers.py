"""The regularizers f of the softmax  argmax over z in P of <w, z> - T f(z).

    ====================  ==========================================  ==================  =================
    class                 f(z)                                        domain of z_i       on the simplex
    ====================  ==========================================  ==================  =================
    Euclidean             sum z_i^2 / 2                               all                 sparsemax
    CategoricalEntropy    sum z_i log z_i                             z_i >= 0            softmax
    BinaryEntropy         sum z_i log z_i + (1 - z_i) log (1 - z_i)   0 <= z_i <= 1
    ExponentialFamily     A*, the conjugate of A(u) = log sum_Z e^<u,z>                   softmax
    Custom                any convex, differentiable CVXPY expression of z
    ====================  ==========================================  ==================  =================

Without constraints the first three solve each entry alone: z = phi*'(u), the identity, exp(u - 1) and the
sigmoid. That map, its derivative and its Bregman divergence are all that the engines need of them.
Sources: Paulus et al. 2020 (Gradient Estimation with Stochastic Softmax Tricks), section 4; Blondel, Martins
and Niculae 2020 (Learning with Fenchel-Young Losses).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np
from scipy.special import expit, rel_entr, xlogy

from cvxsst.errors import ArgumentTypeError, some

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope


class Regularizer:
    """Base of the regularizers; compare equal when they are the same function."""

    def require_domain(self, P: Polytope) -> None:
        """Raise a ValueError where f is not defined on all of P."""


class Separable(Regularizer, ABC):
    """f(z) = sum_i phi(z_i), strictly convex; numpy arrays in and out, entry by entry.

    Attributes:
        domain: the closed interval on which phi is finite.
        curvature: a lower bound on phi'' over P where z_i <= 1 (where z_i <= c: ``curvature_up_to(c)``).
    """

    domain: tuple[float, float] = (-np.inf, np.inf)

    @abstractmethod
    def value(self, z: np.ndarray) -> np.ndarray:
        """phi(z), inf outside the domain."""

    @abstractmethod
    def gradient(self, z: np.ndarray) -> np.ndarray:
        """phi'(z), infinite at the ends of the domain."""

    @abstractmethod
    def unconstrained(self, u: np.ndarray) -> np.ndarray:
        """phi*'(u) = argmax_z u z - phi(z); the inverse of ``gradient``."""

    @abstractmethod
    def slope(self, z: np.ndarray) -> np.ndarray:
        """phi*''(phi'(z)) = 1 / phi''(z): how z = phi*'(u) moves with u."""

    @abstractmethod
    def divergence(self, z: np.ndarray, z0: np.ndarray) -> np.ndarray:
        """The Bregman divergence phi(z) - phi(z0) - phi'(z0) (z - z0) >= 0, without cancellation."""

    @abstractmethod
    def curvature_up_to(self, bound: float) -> float:
        """A lower bound on phi''(z) for z in the domain and |z| <= bound."""

    @abstractmethod
    def expression(self, z: cp.Expression) -> cp.Expression:
        """f(z) for CVXPY."""

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


@dataclass(frozen=True)
class Euclidean(Separable):
    """f(z) = |z|^2 / 2: the softmax is the Euclidean projection of w / T onto P; sparsemax on the simplex."""

    def value(self, z):
        return z * z / 2

    def gradient(self, z):
        return z

    def unconstrained(self, u):
        return u

    def slope(self, z):
        return np.ones_like(z)

    def divergence(self, z, z0):
        return (z - z0) ** 2 / 2

    def curvature_up_to(self, bound):
        return 1.0

    def expression(self, z):
        return cp.sum_squares(z) / 2


@dataclass(frozen=True)
class CategoricalEntropy(Separable):
    """f(z) = sum_i z_i log z_i: softmax on the simplex, Sinkhorn on the Birkhoff polytope. Needs z >= 0."""

    domain = (0.0, np.inf)

    def value(self, z):
        return np.where(z < 0, np.inf, xlogy(z, z))

    def gradient(self, z):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(z) + 1

    def unconstrained(self, u):
        return np.exp(u - 1)

    def slope(self, z):
        return z

    def divergence(self, z, z0):
        return rel_entr(z, z0) - z + z0

    def curvature_up_to(self, bound):
        return 1 / max(bound, 1e-300)

    def expression(self, z):
        return -cp.sum(cp.entr(z))


@dataclass(frozen=True)
class BinaryEntropy(Separable):
    """f(z) = sum_i z_i log z_i + (1 - z_i) log (1 - z_i): the sigmoid on the cube. Needs 0 <= z <= 1."""

    domain = (0.0, 1.0)

    def value(self, z):
        return np.where((z < 0) | (z > 1), np.inf, xlogy(z, z) + xlogy(1 - z, 1 - z))

    def gradient(self, z):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(z) - np.log1p(-z)

    def unconstrained(self, u):
        return expit(u)

    def slope(self, z):
        return z * (1 - z)

    def divergence(self, z, z0):
        return rel_entr(z, z0) + rel_entr(1 - z, 1 - z0)

    def curvature_up_to(self, bound):
        return 4.0

    def expression(self, z):
        return -cp.sum(cp.entr(z)) - cp.sum(cp.entr(1 - z))


@dataclass(frozen=True)
class ExponentialFamily(Regularizer):
    """f = A*, the conjugate of the log-partition function A(u) = log sum_{z in Z} exp <u, z>.

    The softmax is grad A(w / T) = E[z] under p(z) proportional to exp <w, z> / T: the vector of marginals.
    A* itself is never formed. Z is the set of vertices of P.
    """


@dataclass(frozen=True)
class Custom(Regularizer):
    """f(z) as a function from the CVXPY variable z to a convex, scalar CVXPY expression.

    Args:
        function: called with a variable of the shape of P, for example ``lambda z: cp.sum(cp.huber(z))``. The
            softmax is unique, and has a derivative, where f is strictly convex; only the engine
            ``"cvxpylayer"`` takes it. To pickle a layer that holds one, use a named function of a module.

    Example:
        >>> import cvxpy as cp, cvxsst
        >>> cvxsst.Custom(lambda z: cp.sum_squares(z) + cp.logistic(z[0]))  # doctest: +ELLIPSIS
        Custom(function=<function <lambda> at ...>)
    """

    function: Callable[[cp.Expression], cp.Expression]

    def expression(self, z: cp.Expression) -> cp.Expression:
        """f(z), checked.

        Raises:
            ArgumentTypeError: the function does not return a CVXPY expression.
            ValueError: the expression is not scalar, not convex, or contains a parameter.
        """
        f = self.function(z)
        if not isinstance(f, cp.Expression):
            raise ArgumentTypeError(f"Custom: the function must return a CVXPY expression, got {type(f).__name__}")
        if f.size != 1:
            raise ValueError(f"Custom: the expression has shape {f.shape}; a regularizer is a scalar, take cp.sum")
        if not f.is_convex():
            raise ValueError("Custom: CVXPY cannot tell that the expression is convex; see the DCP rules")
        if f.parameters():
            raise ValueError("Custom: the expression contains a cvxpy.Parameter; write the number instead")
        return f


def checked_regularizer(regularizer: Regularizer) -> Regularizer:
    """The argument ``regularizer`` of the public functions: an instance; a class is the likeliest slip."""
    if isinstance(regularizer, Regularizer):
        return regularizer
    if isinstance(regularizer, type) and issubclass(regularizer, Regularizer):
        raise ArgumentTypeError(f"regularizer: pass an instance, {regularizer.__name__}(), not the class")
    raise ArgumentTypeError(
        f"regularizer: expected Euclidean(), CategoricalEntropy(), BinaryEntropy(), ExponentialFamily() or "
        f"Custom(function), got {regularizer!r}"
    )

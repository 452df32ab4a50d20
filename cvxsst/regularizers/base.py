"""What every regularizer answers.

The certificate rests on weak duality. For any vector g and any point z' of the domain (T = 1, u = w / T, D the Bregman
divergence of f):

    F* - F(z)  <=  max_{v in P} <g, v - z>  +  D(z, z'),      u - g in the gradient of f at z'                (1)

With z' = z this is the Frank-Wolfe gap (Jaggi 2013). A regularizer offers pairs (g, D): its *bounds*.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import cvxpy as cp
import numpy as np
import torch

from cvxsst.errors import ArgumentTypeError
from cvxsst.geometry.faces import Face

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope

Bound = tuple[torch.Tensor, torch.Tensor]  # g (B, n) and D (B,)


class Regularizer(ABC):
    """Base of the regularizers; compare equal when they are the same function.

    Attributes:
        has_formula: whether ``expression`` gives CVXPY something to minimize.
        domain: the closed interval in which f needs every entry of z.
        is_gibbs: whether the softmax is the mean of p(z) ~ exp <u, z> over the structures.
    """

    domain: tuple[float, float] = (-np.inf, np.inf)
    has_formula = True
    is_gibbs = False

    def require_domain(self, P: Polytope) -> None:
        """Raise a ValueError where f is not defined on all of P."""

    @abstractmethod
    def bounds(self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor) -> Iterator[Bound]:
        """Pairs (g, D) for (1), the likeliest to be tight first.

        Args:
            u, z: ``(B, n)``, z in the domain.
            forbidden: ``(B, n)``, bool: entries that -inf holds at 0; there g is 0.
        """

    def expression(self, z: cp.Expression) -> cp.Expression:
        """f(z) for CVXPY, scalar and convex."""
        raise NotImplementedError(f"{self!r} has no formula")

    def slice(self, P: Polytope, places: np.ndarray, constant: np.ndarray) -> Slice:
        """f in the entries ``places`` of z (flat); the others have the values that ``constant`` (flat) gives."""
        raise NotImplementedError(f"{self!r} has no formula")


class Maximum(NamedTuple):
    """The maximizer of <u, z> - f(z) on a face: z, the normal vector u - f'(z), Newton's steps, and g -> (dz/du) g,
    None where f has no second derivative."""

    z: np.ndarray
    normal: np.ndarray
    steps: int
    derivative: Callable[[np.ndarray], np.ndarray] | None


class Slice(ABC):
    """f as a function of some entries of z, the others being fixed: what the reference engine asks, one instance a time.

    Attributes:
        tolerance: on ``error``: below it a solution is accepted.
        refined: on ``error``: below it no further face is tried.
    """

    tolerance: float
    refined: float

    @abstractmethod
    def expression(self, z: cp.Expression) -> cp.Expression:
        """f for CVXPY, up to a constant."""

    @abstractmethod
    def maximize(self, face: Face, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> Maximum:
        """The maximizer on a face, from estimates of z and of u - f'(z)."""

    @abstractmethod
    def bound(self, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, float]:
        """(g, D) for (1); ``normal``: what is believed to be u - f'(z)."""

    @abstractmethod
    def error(self, gap: float, u: np.ndarray) -> float:
        """What a certified gap says of z: a distance, or a relative gap."""


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

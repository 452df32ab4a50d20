"""What every regularizer answers.

The certificate rests on weak duality. For any vector g and any point z' of the domain (T = 1, u = w / T, D the Bregman
divergence of f):

    F* - F(z)  <=  max_{v in P} <g, v - z>  +  D(z, z'),      u - g in the gradient of f at z'                (1)

With z' = z this is the Frank-Wolfe gap (Jaggi 2013). A regularizer offers pairs (g, D): its *bounds*.

The Fenchel-Young loss of a point v of P is a sum of two terms >= 0, of which the first does not cancel where v is close
to the maximizer z, and the second not once multiples of equalities that hold all over P are out of it (``balanced``):

    F* + f(v) - <u, v>  =  D(v, z)  +  <u - f'(z), z - v>                                                      (2)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import cvxpy as cp
import numpy as np
import torch

from cvxsst.errors import ArgumentTypeError
from cvxsst.geometry.faces import Face
from cvxsst.polytope import Polytope

Bound = tuple[torch.Tensor, torch.Tensor]  # g (B, n) and D (B,)


class Regularizer(ABC):
    """Base of the regularizers; compare equal when they are the same function.

    Attributes:
        has_formula: whether ``expression`` gives CVXPY something to minimize.
        domain: the closed interval in which f needs every entry of z.
        is_gibbs: whether the softmax is the mean of p(z) ~ exp <u, z> over the structures.
        is_quadratic: whether f(z) = |z|^2 / 2, so that the softmax is the Euclidean projection of u.
    """

    domain: tuple[float, float] = (-np.inf, np.inf)
    has_formula: ClassVar[bool] = True
    is_gibbs: ClassVar[bool] = False
    is_quadratic: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What reports call it: ``CategoricalEntropy``."""
        return repr(self).removesuffix("()")

    @classmethod
    def examples(cls) -> tuple[Regularizer, ...]:
        """Instances on which the laws are tested: that without arguments, if there is one."""
        try:
            return (cls(),)
        except TypeError:
            return ()

    def require_domain(self, P: Polytope) -> None:  # noqa: B027 - defined everywhere, unless overridden
        """Raise a ValueError where f is not defined on all of P."""

    def require_certificate(self, P: Polytope) -> None:  # noqa: B027 - likewise
        """Raise a ValueError where no bounds can be had, so that no answer could be judged."""

    @abstractmethod
    def bounds(self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor) -> Iterator[Bound]:
        """Pairs (g, D) for (1), the likeliest to be tight first.

        Args:
            u, z: ``(B, n)``, z in the domain.
            forbidden: ``(B, n)``, bool: entries that -inf holds at 0; there g is 0.
        """

    def bound_on_face(
        self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """One more pair (g, D) for (1), of a single instance that ``bounds`` left loose, g normal to the face on which
        z lies; u, z, forbidden and g are ``(n,)``, D is ``()``. None where there is no such pair."""
        return None

    def convexity(self, P: Polytope) -> float:
        """m > 0 with f(x) >= f(y) + <f'(y), x - y> + m |x - y|^2 / 2 over P; 1 where no such m is known."""
        return 1.0

    def value_of(self, P: Polytope, z: torch.Tensor) -> torch.Tensor:
        """f(z) of the rows of z ``(B, n)``, ``(B,)``: here by CVXPY, one after another."""
        variable = cp.Variable(P.shape)
        f = self.expression(variable)
        found = []
        for row in z.detach().cpu().numpy():
            variable.value = row.reshape(P.shape)
            found.append(float(np.asarray(f.value).item()))
        return z.new_tensor(found)

    def maximum(self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
        """max over P of <u, z> - f(z), ``(B,)``, for its maximizers z ``(B, n)``."""
        return (u * z).sum(dim=1) - self.value_of(P, z)

    def loss(
        self, P: Polytope, u: torch.Tensor, v: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor
    ) -> torch.Tensor:
        """(2), ``(B,)``, for v in P and the maximizers z, both ``(B, n)``: right in its digits also where it is small.
        Rounding may leave less than 0; where ``forbidden``, v and u are 0."""
        return self.value_of(P, v) - self.value_of(P, z) - (u * (v - z)).sum(dim=1)

    def rise(self, P: Polytope, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """f(v) - f(z), or a bound on it from above, for vertices v and z in P, both ``(B, n)``; ``(B,)``."""
        low, high = self.domain
        return self.value_of(P, v.clamp(low, high)) - self.value_of(P, z.clamp(low, high))

    def may_kink(self, P: Polytope, z: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
        """Whether u -> z may have no derivative at the solutions z ``(B, n)``, ``(B,)`` bool: here always, since
        nothing is known."""
        return torch.ones(len(z), dtype=torch.bool)

    def expression(self, z: cp.Expression) -> cp.Expression:
        """f(z) for CVXPY, scalar and convex."""
        raise NotImplementedError(f"{self!r} has no formula")

    def slice(self, P: Polytope, places: np.ndarray, constant: np.ndarray) -> Slice:
        """f in the entries ``places`` of z (flat); the others have the values that ``constant`` (flat) gives."""
        raise NotImplementedError(f"{self!r} has no formula")


LIGHT = 1e-6  # least weight of an entry, relative to the largest
MOST_NUMBERS = 2**16  # entries of the equalities of P, beyond which they are let be


def balanced(P: Polytope, u: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """u ``(B, n)`` less a combination of the equalities of P, by which <u, z> changes by one number all over P; such
    that sum weight u^2 is about the least, weight ``(B, n)`` >= 0.

    Only where P has been presolved, as small declarations are when they are made: any combination is right, none too.
    """
    presolved = vars(P).get("presolved")
    if presolved is None or not 0 < presolved.hull[0].size <= MOST_NUMBERS or not u.numel():
        return u
    E = torch.from_numpy(presolved.hull[0]).to(u)
    weight = weight + LIGHT * weight.amax(dim=1, keepdim=True) + torch.finfo(u.dtype).tiny
    weighted = E * weight[:, None, :]
    y = torch.linalg.solve(weighted @ E.T, weighted @ u[:, :, None])
    return u - (E.T @ y)[:, :, 0]


class Maximum(NamedTuple):
    """The maximizer of <u, z> - f(z) on a face: z, the normal vector u - f'(z), Newton's steps, and how to get dz/du,
    None where f has no second derivative."""

    z: np.ndarray
    normal: np.ndarray
    steps: int
    jacobian: Callable[[], np.ndarray] | None


class Slice(ABC):
    """f as a function of some entries of z, the others being fixed: what the reference engine asks of each instance.

    Attributes:
        tolerance: on ``error``: below it a solution is accepted.
        refined: on ``error``: below it no further face is tried.
        scale: by how much f varies over P, roughly.
        may_be_rough: whether f may lack a second derivative, so that a cone solver's own z and derivative must do.
    """

    tolerance: float
    refined: float
    scale: float = 1.0
    may_be_rough = False

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
    def stationarity(self, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How much each entry of z moves with u (its square root); u - f'(z); and where z is beyond what f' resolves at
        an end of the domain: there any larger (1), or smaller (-1), number does as well."""

    @abstractmethod
    def error(self, gap: float, distance: float, u: np.ndarray) -> float:
        """What a certified gap, and the distance to P, say of z: how far it is from the solution, or a relative gap."""


def checked_regularizer(regularizer: Regularizer) -> Regularizer:
    """The argument ``regularizer`` of the public functions: an instance; a class is the likeliest slip."""
    if isinstance(regularizer, Regularizer):
        return regularizer
    if isinstance(regularizer, type) and issubclass(regularizer, Regularizer):
        raise ArgumentTypeError(f"regularizer: pass an instance, {regularizer.__name__}(), not the class")
    raise ArgumentTypeError(
        "regularizer: expected Euclidean(), CategoricalEntropy(), BinaryEntropy(), Tsallis(alpha), ExponentialFamily() "
        f"or Custom(function), got {regularizer!r}"
    )

"""Any convex, differentiable CVXPY expression of z."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch

from cvxsst.errors import ArgumentTypeError
from cvxsst.geometry.faces import Face, face_jacobian, newton_on_face
from cvxsst.polytope import Polytope
from cvxsst.regularizers.base import Bound, Maximum, Regularizer, Slice, balanced

TOLERANCE = 1e-5  # on the certified gap relative to the spread of <u, z>: such an f promises no distance
REFINED = 1e-12  # below this no further face is tried
CLOSE = 1e-6  # a loss this small, relative to its terms, is integrated: a difference of f has lost its digits
NODES, WEIGHTS = (x / 2 for x in np.polynomial.legendre.leggauss(5))  # on [-1/2, 1/2]


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

    @property
    def name(self) -> str:
        return "Custom"  # a function's repr is an address

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

    def gradient(self, shape: tuple[int, ...], z: np.ndarray) -> np.ndarray:
        """The gradient at z (row by row), by CVXPY; inf outside the domain."""
        variable, expression = _expression(self, shape)
        variable.value = z.reshape(shape)
        try:
            gradient = expression.grad[variable]
        except NotImplementedError as error:
            raise ValueError(
                f"regularizer: CVXPY has no gradient of {expression}; Custom needs a function that is differentiable "
                "on P"
            ) from error
        if gradient is None:  # outside the domain
            return np.full(z.size, np.inf)
        columns_first = np.asarray(gradient.todense() if sp.issparse(gradient) else gradient)
        return columns_first.reshape(shape, order="F").reshape(-1)

    def loss(
        self, P: Polytope, u: torch.Tensor, v: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor
    ) -> torch.Tensor:
        """Where it is small the divergence is the integral of <grad f(z + t d) - grad f(z), d> over 0 < t < 1,
        d = v - z: differences of neighbours, which do not cancel."""
        f_v, f_z, d = self.value_of(P, v), self.value_of(P, z), v - z
        found = f_v - f_z - (u * d).sum(dim=1)
        close = found.abs() <= CLOSE * (f_v.abs() + f_z.abs() + (u * d).abs().sum(dim=1))
        rows = (close & (d != 0).any(dim=1)).nonzero().flatten()
        if len(rows):
            start, d = z[rows], d[rows]
            gradient = self._gradients(P, start)
            steps = [(0.5 + t, weight) for t, weight in zip(NODES, WEIGHTS, strict=True)]
            divergence = sum(w * ((self._gradients(P, start + t * d) - gradient) * d).sum(1) for t, w in steps)
            normal = balanced(P, u[rows] - gradient, (~forbidden[rows]).to(u))
            found[rows] = divergence - (normal * d).sum(dim=1)
        return found

    def _gradients(self, P: Polytope, z: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.array([self.gradient(P.shape, row) for row in z.cpu().numpy()])).to(z)

    def bounds(self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor) -> Iterator[Bound]:
        """g = u - grad f(z): the Frank-Wolfe gap."""
        gradients = self._gradients(P, z).reshape(z.shape)
        yield (u - gradients).masked_fill(forbidden, 0.0), u.new_zeros(len(u))

    def slice(self, P: Polytope, places: np.ndarray, constant: np.ndarray) -> Slice:
        return _CustomSlice(self, P, places, constant)


@lru_cache(maxsize=64)
def _expression(regularizer: Custom, shape: tuple[int, ...]) -> tuple[cp.Variable, cp.Expression]:
    variable = cp.Variable(shape)
    return variable, regularizer.expression(variable)


class _CustomSlice(Slice):
    """CVXPY knows the gradient of f but not the Hessian: that is differenced.

    Where f has no second derivative at the solution (a kink) the refinement does not improve on the cone solver's z.
    """

    tolerance, refined, may_be_rough = TOLERANCE, REFINED, True

    def __init__(self, f: Custom, P: Polytope, places: np.ndarray, constant: np.ndarray):
        self.f, self.shape, self.places, self.constant = f, P.shape, places, constant
        lower, upper = P.bounds
        self.width = (upper - lower)[places]

    def _whole(self, z: np.ndarray) -> np.ndarray:
        whole = self.constant.copy()
        whole[self.places] = z
        return whole

    def _gradient(self, z: np.ndarray) -> np.ndarray:
        return self.f.gradient(self.shape, self._whole(z))[self.places]

    def expression(self, z: cp.Expression) -> cp.Expression:
        n, count = len(self.constant), len(self.places)
        into = sp.csr_array((np.ones(count), (self.places, np.arange(count))), (n, count))
        return self.f.expression(cp.reshape(into @ z + self._whole(np.zeros(count)), self.shape, order="C"))

    def maximize(self, face: Face, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> Maximum:
        B = face.tangent
        z, hessian, steps = newton_on_face(self._gradient, B, u, z)
        if hessian is None:
            return Maximum(z, normal, steps, None)
        return Maximum(z, u - self._gradient(z), steps, lambda: face_jacobian(B, hessian))

    def bound(self, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, float]:
        return u - self._gradient(z), 0.0

    def stationarity(self, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.ones(len(z)), u - self._gradient(z), np.zeros(len(z))

    def error(self, gap: float, distance: float, u: np.ndarray) -> float:
        return max(distance, gap / (1.0 + float(np.abs(u) @ self.width)))

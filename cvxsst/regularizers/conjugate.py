"""The divergence from an exponential family to a mean, over sets too large to be listed.

    min KL(p || p_u) over the p with mean z   =   max over x of  <x, z> - A(u + x) + A(u)               (1)
                                              =   integral of <z - E_{u + t x}[z], x> over 0 < t < 1    (2)

attained at the x with E_{u + x}[z] = z. (1) is concave: Newton's method in a trust region, with products of the
covariance with vectors. Where z is close to E_u, (1) is a difference of large numbers, and (2) is not.

Entries in which z is 0 are forbidden first. Where z lies on another face x goes to infinity, by which the value soon
does not change.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize

Map = Callable[[torch.Tensor], torch.Tensor]

ACCURACY = 1e-10  # of the mean; the value is right to its square
STEPS = 200
CLOSE = 1e-4  # a value this small, relative to A, is integrated
NODES, WEIGHTS = (torch.from_numpy(x / 2) for x in np.polynomial.legendre.leggauss(12))  # on [-1/2, 1/2]


def divergence(A: Map, mean: Map, u: torch.Tensor, z: torch.Tensor) -> float:
    """(1) for u and z ``(n,)``; u may hold -inf where z is 0. A ``(B, n)`` to ``(B,)``, and its gradient ``mean``."""
    face, target = u.masked_fill(z == 0, -torch.inf), z.cpu().numpy()

    def at(x: np.ndarray) -> torch.Tensor:
        return (face + torch.from_numpy(x).to(face))[None]

    def negated(x: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.no_grad():
            return A(at(x)).item() - float(x @ target), mean(at(x))[0].cpu().numpy() - target

    def times_covariance(x: np.ndarray, g: np.ndarray) -> np.ndarray:
        with torch.enable_grad():
            v = at(x).requires_grad_()
            return torch.autograd.grad(mean(v), v, torch.from_numpy(g).to(face)[None])[0][0].cpu().numpy()

    start, options = np.zeros(len(target)), {"gtol": ACCURACY, "maxiter": STEPS}
    x = minimize(negated, start, jac=True, hessp=times_covariance, method="trust-ncg", options=options).x
    size = negated(start)[0]
    found = size - negated(x)[0]
    if found <= CLOSE * (1 + abs(size)):
        found = _integrated(mean, face, z, torch.from_numpy(x).to(face))
    with torch.no_grad():
        return max(found, 0.0) + A(u[None]).item() - size


@torch.no_grad()
def _integrated(mean: Map, face: torch.Tensor, z: torch.Tensor, x: torch.Tensor) -> float:
    """(2)."""
    nodes = NODES.to(x) + 0.5
    return float(WEIGHTS.to(x) @ ((z - mean(face + nodes[:, None] * x)) @ x))

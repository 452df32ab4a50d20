"""f = A*, the conjugate of the log-partition function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import rel_entr, softmax

from cvxsst.errors import NoFastPathError
from cvxsst.polytope import Polytope
from cvxsst.regularizers.base import Bound, Regularizer

MEAN_RESOLUTION = 1e-9  # on the mean of a distribution that is to be z
STEPS = 50


@dataclass(frozen=True)
class ExponentialFamily(Regularizer):
    """f = A*, the conjugate of the log-partition function A(u) = log sum_{z in Z} exp <u, z>.

    The softmax is grad A(w / T) = E[z] under p(z) proportional to exp <w, z> / T: the vector of marginals.
    A* itself is never formed. Z is the set of vertices of P.
    """

    has_formula: ClassVar[bool] = False
    is_gibbs: ClassVar[bool] = True

    def bounds(self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor) -> Iterator[Bound]:
        """F* - F(z) = min KL(p || p_u) over the distributions p on Z with mean z: any such p gives a bound, g = 0."""
        V = P.vertices()
        allowed = [V[~np.any(V[:, at] != 0, axis=1)] for at in forbidden.numpy()]
        found = [_divergence(*instance) for instance in zip(allowed, u.numpy(), z.numpy(), strict=True)]
        yield torch.zeros_like(u), torch.tensor(found, dtype=u.dtype)

    def require_certificate(self, P: Polytope) -> None:
        try:
            P.vertices()
        except NoFastPathError as error:
            raise NoFastPathError(f"P: the exponential family is judged by enumeration, and {error}") from None

    def convexity(self, P: Polytope) -> float:
        """Cov(z) = (f'')^-1 has no eigenvalue above the squared radius of Z."""
        V = P.vertices()
        return 1 / max(float(((V - V.mean(0)) ** 2).sum(1).max()), 1e-12)

    def rise(self, P: Polytope, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """A* is 0 at vertices and nowhere below -log |Z|."""
        return z.new_full((len(z),), float(np.log(len(P.vertices()))))

    def may_kink(self, P: Polytope, z: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
        """Nowhere: grad A is smooth."""
        return torch.zeros(len(z), dtype=torch.bool)


def _divergence(V: np.ndarray, u: np.ndarray, z: np.ndarray) -> float:
    """KL(p || p_u) for a p with mean z, near p_u: Newton on the dual, then one linear tilt that is exact.

    Tilting p_u linearly until its mean is z gives a bound that is exact to second order.
    """
    if np.any((z < V.min(0) - MEAN_RESOLUTION) | (z > V.max(0) + MEAN_RESOLUTION)):
        return np.inf  # no distribution has a mean outside the box of its structures
    logits = V @ u
    p = p0 = softmax(logits)
    log_tilt, best = np.zeros(len(V)), np.inf
    for _ in range(STEPS):
        centred = V - p @ V
        miss = z - p @ V
        covariance = (centred * p[:, None]).T @ centred
        tilt = centred @ np.linalg.lstsq(covariance, miss, rcond=1e-13)[0]
        exact = p * (1 + tilt)  # its mean is z if z lies in the affine hull of the support
        if np.all(exact >= 0) and np.abs(exact @ V - z).max(initial=0.0) <= MEAN_RESOLUTION:
            best = min(best, float(np.sum(rel_entr(exact / exact.sum(), p0))))
            if np.abs(tilt).max(initial=0.0) < 1e-3:
                break
        step = 1.0 / max(1.0, np.abs(tilt).max(initial=0.0))  # damped: keeps the tilts of one step within e
        log_tilt = log_tilt + step * tilt
        p = softmax(logits + log_tilt)
    return best

"""f = A*, the conjugate of the log-partition function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from scipy.special import kl_div, logsumexp, softmax

from cvxsst.errors import NoFastPathError
from cvxsst.oracles import takes
from cvxsst.polytope import Polytope
from cvxsst.recognition import knowledge_of
from cvxsst.regularizers.base import Bound, Regularizer, balanced
from cvxsst.regularizers.conjugate import divergence

MEAN_RESOLUTION = 1e-9  # on the mean of a distribution that is to be z
AT_END = 1e-15  # of the range of an entry: further inside even a small probability counts
STEPS = 50
FEW = 1000  # structures


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

    def maximum(self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
        """A(u)."""
        return log_partition(P, u, forbidden)

    def loss(
        self, P: Polytope, u: torch.Tensor, v: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor
    ) -> torch.Tensor:
        """KL(p || p_u) with p(v) = 1 for structures v: A(u) - <u, v>, multiples of equalities taken out of u so that
        both are small; else for the p with mean v that is nearest to p_u."""
        shifted = balanced(P, u, v.abs()).masked_fill(forbidden, 0.0)
        found = log_partition(P, shifted, forbidden) - (shifted * v).sum(dim=1)
        rows = (~are_structures(P, v)).nonzero().flatten()
        if len(rows):
            found[rows] = _divergences(P, u[rows], v[rows], forbidden[rows])
        return found

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


def log_partition(P: Polytope, u: torch.Tensor, forbidden: torch.Tensor | None = None) -> torch.Tensor:
    """A(u) ``(B,)`` for u ``(B, n)``, float64 and finite: the family's own, else over all structures.

    Raises:
        NoFastPathError: neither is possible.
    """
    knowledge = knowledge_of(P)
    path = None if knowledge is None else knowledge.log_partition
    if path is not None:
        u = u if forbidden is None else u.masked_fill(forbidden, -torch.inf)
        return path(u.reshape(-1, *P.shape))
    V = torch.from_numpy(P.vertices()).to(u)
    logits = u @ V.T
    return (logits if forbidden is None else logits.masked_fill(takes(V, forbidden), -torch.inf)).logsumexp(1)


def _mean(P: Polytope, u: torch.Tensor) -> torch.Tensor:
    """grad A(u) ``(B, n)`` of a family with a log-partition, by its own path if there is one."""
    knowledge = knowledge_of(P)
    path = None if knowledge is None else knowledge.softmax(ExponentialFamily)
    if path is not None:
        return path(u.reshape(-1, *P.shape)).reshape(u.shape)
    with torch.enable_grad():
        return torch.func.grad(lambda v: log_partition(P, v).sum())(u)


def are_structures(P: Polytope, v: torch.Tensor) -> torch.Tensor:
    """Which rows of v ``(B, n)``, float64, are structures, ``(B,)`` bool.

    A vertex of zeros and ones is the only maximizer of <2 v - 1, z> over all points of zeros and ones, hence what the
    oracle answers; for other rows it is asked for the structure that is furthest along v, seen from the middle of the
    bounds. Without a family's log-partition they are looked up in the list of structures.
    """
    knowledge = knowledge_of(P)
    oracle = None if knowledge is None or knowledge.log_partition is None else knowledge.argmax
    if oracle is None:
        V = torch.from_numpy(P.vertices()).to(v)
        return torch.cdist(v, V, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1) <= AT_END
    binary = ((v == 0) | (v == 1)).all(dim=1, keepdim=True)
    along = 2 * v - 1
    if not bool(binary.all()):
        low, high = (torch.from_numpy(bound).to(v) for bound in P.bounds)
        along = torch.where(binary, along, 2 * v - low - high)
    return (oracle(along.reshape(-1, *P.shape)).reshape(v.shape) == v).all(dim=1)


def log_count(P: Polytope) -> float:
    """log |Z| = A(0)."""
    return log_partition(P, torch.zeros(1, P.size, dtype=torch.float64)).item()


def _divergences(P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
    """min KL(p || p_u) over the p with mean z, ``(B,)``: of structures on the face where the entries of z are that are
    at an end of their range over P; of more than a few by the log-partition."""
    knowledge = knowledge_of(P)
    if knowledge is not None and knowledge.log_partition is not None and log_count(P) > np.log(FEW):
        maps = partial(log_partition, P), partial(_mean, P)
        masked = u.masked_fill(forbidden, -torch.inf)
        return u.new_tensor([divergence(*maps, *one) for one in zip(masked, z, strict=True)])
    V, (low, high) = P.vertices(), P.bounds
    found = []
    for one, mean, none in zip(u.cpu().numpy(), z.cpu().numpy(), forbidden.cpu().numpy(), strict=True):
        least, most = (np.abs(mean - end) <= AT_END for end in (low, high))
        left = V[~np.any(V[:, none] != 0, axis=1)]
        face = left[np.all(~least | (np.abs(left - low) <= MEAN_RESOLUTION), axis=1)]
        face = face[np.all(~most | (np.abs(face - high) <= MEAN_RESOLUTION), axis=1)]
        elsewhere = logsumexp(left @ one) - logsumexp(face @ one) if len(face) < len(left) else 0.0
        found.append(_from_inside(face, one, mean) + elsewhere if len(face) else np.inf)
    return u.new_tensor(found)


def _from_inside(V: np.ndarray, u: np.ndarray, z: np.ndarray) -> float:
    """min KL(p || p_u) over the p with mean z, by its dual: the maximum over x of

        <x, z> - A(u + x) + A(u)  =  KL(p_x || p_u) + <x, z - E_x>,     p_x ~ p_u exp <x, .>

    in the form on the right, which does not cancel and is never more. Newton's method; where z lies on a face x goes to
    infinity along its normal, by which the value soon does not change.
    """
    logits, x, value = V @ u, np.zeros(V.shape[1]), 0.0
    p0 = softmax(logits)
    p, best = p0, 0.0
    for _ in range(STEPS):
        miss = z - p @ V
        value = float(np.sum(kl_div(p, p0)) + x @ miss)
        best = max(best, value)
        root = (V - p @ V) * np.sqrt(p)[:, None]
        step = np.linalg.lstsq(root.T @ root, miss, rcond=1e-15)[0]
        tilt = np.abs((V - p @ V) @ step)[p > 0].max(initial=0.0)
        if tilt < 1e-9:
            break
        x = x + step / max(1.0, tilt)
        p = softmax(logits + (V - z) @ x)
    return best


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
            best = min(best, float(np.sum(kl_div(exact / exact.sum(), p0))))
            if np.abs(tilt).max(initial=0.0) < 1e-3:
                break
        step = 1.0 / max(1.0, np.abs(tilt).max(initial=0.0))  # damped: keeps the tilts of one step within e
        log_tilt = log_tilt + step * tilt
        p = softmax(logits + log_tilt)
    return best

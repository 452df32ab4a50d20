"""The solution on its face: refinement to machine precision, and the derivative.

Let z solve  max <u, z> - sum phi(z_i)  over P, and let the active constraints C (z, y) = d (all equalities, and the
inequalities with a positive multiplier) cut out the face of P in whose relative interior z lies. What they say
about z alone, the lifted y eliminated, is E z = e with orthonormal rows E. On the face only these matter:

    refinement    z = phi*'(u - E'a),   E z = e       Newton on a:  (E H E') da = E z - e,  H = diag(1 / phi''(z))
    derivative    dz/du = H - H E' (E H E')^-1 E H  =  H^1/2 (I - projection on range H^1/2 E') H^1/2

The second form needs no inverse and stays accurate when entries of H differ by hundreds of orders of magnitude, as
entropies at low temperature do. The derivative is symmetric and positive semidefinite, so vjp = jvp. At a kink (a
constraint active with multiplier zero) it is the one-sided derivative along the face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch

from cvxsst.geometry.presolve import Presolved, affine_hull

NEWTON_STEPS = 60
NEWTON_TOLERANCE = 1e-14
NOISE = 1e-14
SMALLEST_PIVOT = 1e-9  # of H^1/2 E': below it z no longer feels the multiplier at the precision of the miss


class Entrywise(Protocol):
    """What is asked of a separable regularizer (``cvxsst.regularizers.Separable``)."""

    domain: tuple[float, float]

    def gradient(self, z: torch.Tensor) -> torch.Tensor: ...
    def primal(self, u: torch.Tensor) -> torch.Tensor: ...
    def slope(self, z: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Face:
    """{z : E z = e}, the affine hull of a face of P; E has orthonormal rows."""

    E: np.ndarray
    e: np.ndarray

    @staticmethod
    def of(core: Presolved, active: np.ndarray) -> Face:
        """The face on which the inequalities ``active`` (indices of rows of G) hold with equality."""
        form = core.form
        C = sp.csr_array(sp.vstack([form.A, form.G[active]]))
        return Face(*affine_hull(C, np.concatenate([form.b, form.h[active]]), form.n))

    def without(self, fixed: np.ndarray, z: np.ndarray) -> Face:
        """The slice in which the entries ``fixed`` have their values in z, these entries removed."""
        keep = np.setdiff1d(np.arange(self.E.shape[1]), fixed)
        return Face(*affine_hull(sp.csr_array(self.E[:, keep]), self.e - self.E[:, fixed] @ z[fixed], len(keep)))

    @property
    def tangent(self) -> np.ndarray:
        """Orthonormal columns B: the directions along the face, E B = 0."""
        return scipy.linalg.null_space(self.E) if len(self.E) else np.eye(self.E.shape[1])

    def project(self, u: np.ndarray) -> np.ndarray:
        """The nearest point."""
        z = u - self.E.T @ (self.E @ u - self.e)
        return z - self.E.T @ (self.E @ z - self.e)  # once more: the error falls from eps |u| to eps |z|

    def maximize(self, phi: Entrywise, u: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """The maximizer of <u, z> - sum phi(z_i) over E z = e; ``normal``: an estimate of u - phi'(z).

        Returns:
            z, the normal vector g = E'a with z = phi*'(u - g), and the Newton steps taken. The caller judges the
            result by its certificate: the face may have been the wrong one.
        """
        a = self.E @ normal
        z = _primal(phi, u - self.E.T @ a)
        miss = self.E @ z - self.e
        steps = 0
        while steps < NEWTON_STEPS and np.abs(miss).max(initial=0.0) > NEWTON_TOLERANCE:
            steps += 1
            step = self._newton_step(phi, z, miss)
            # The dual objective is convex and its gradient is the miss: halve the step until that shrinks.
            for halving in range(30):
                trial = _primal(phi, u - self.E.T @ (a + step / 2**halving))
                new_miss = self.E @ trial - self.e
                if np.linalg.norm(new_miss) < np.linalg.norm(miss):
                    a, z, miss = a + step / 2**halving, trial, new_miss
                    break
            else:
                break  # rounding is reached
        # z has the rounding of u - E'a, which is that of u: back to the face, each entry as far as it moves
        back = phi.slope(torch.from_numpy(z)).numpy() * (self.E.T @ self._newton_step(phi, z, miss))
        return np.clip(np.where(np.isfinite(back), z - back, z), *phi.domain), self.E.T @ a, steps

    def normal_at(self, phi: Entrywise, u: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The vector g normal to the face for which phi*'(u - g) is close to z."""
        return self.E.T @ self._multipliers(phi, u, z)

    def _multipliers(self, phi: Entrywise, u: np.ndarray, z: np.ndarray) -> np.ndarray:
        """a with u - E'a close to phi'(z), entries weighted by how much they move z."""
        inside = np.clip(z, phi.domain[0] + 1e-14, phi.domain[1] - 1e-14)
        weight, gradient = _root_slope(phi, inside), phi.gradient(torch.from_numpy(inside)).numpy()
        return np.linalg.lstsq(weight[:, None] * self.E.T, weight * (u - gradient), rcond=1e-13)[0]

    def _newton_step(self, phi: Entrywise, z: np.ndarray, miss: np.ndarray) -> np.ndarray:
        """da with (E H E') da = miss, from the factor R of H^1/2 E' = Q R: R'R da = miss."""
        _, R, columns = _graded_qr(_root_slope(phi, z), self.E)
        diagonal = np.abs(np.diag(R))
        rank = np.count_nonzero(diagonal > SMALLEST_PIVOT)
        step = np.zeros(len(self.E))
        if rank:
            R = R[:rank, :rank]
            half = scipy.linalg.solve_triangular(R, miss[columns[:rank]], trans="T")
            step[columns[:rank]] = scipy.linalg.solve_triangular(R, half)
        return step

    def jacobian(self, phi: Entrywise, z: np.ndarray) -> np.ndarray:
        """dz/du at the solution z on this face."""
        root = _root_slope(phi, z)
        moves = root > 0
        E = self.E if moves.all() else affine_hull(sp.csr_array(self.E[:, moves]), self.e, int(moves.sum()))[0]
        projection = np.eye(E.shape[1])
        if len(E):
            Q, R, _ = _graded_qr(root[moves], E)
            pivots = np.abs(np.diag(R))
            Q = Q[:, pivots > NOISE * pivots[0]]  # the others are rounding of E, where the large entries cancel
            projection -= Q @ Q.T
        J = np.zeros((len(z), len(z)))
        J[np.ix_(moves, moves)] = root[moves, None] * projection * root[moves]
        return J


def said_by_domain(core: Presolved, domain: tuple[float, float]) -> np.ndarray:
    """Rows of G such as -z_i <= 0 that the domain of f implies: the entropy's own cone already says them."""
    form, (low, high) = core.form, domain
    single = np.flatnonzero(np.diff(form.G.indptr) == 1)
    column, a = form.G.indices[form.G.indptr[single]], form.G.data[form.G.indptr[single]]
    end = np.where(a > 0, high, low)
    with np.errstate(invalid="ignore"):
        said = (column < form.n) & (a * end <= form.h[single])
    return single[said]


def _graded_qr(root: np.ndarray, E: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Q, R and the column order of diag(root) E' = Q R, accurate row by row however unequal the rows are.

    Householder QR with column pivoting is, once the rows are sorted by descending size (Powell and Reid 1969; Cox and
    Higham 1998).
    """
    order = np.argsort(-root, kind="stable")
    sorted_Q, R, columns = scipy.linalg.qr((root[:, None] * E.T)[order], mode="economic", pivoting=True)
    Q = np.empty_like(sorted_Q)
    Q[order] = sorted_Q
    return Q, R, columns


def _primal(phi: Entrywise, v: np.ndarray) -> np.ndarray:
    return np.minimum(phi.primal(torch.from_numpy(v)).numpy(), 1e150)


def _root_slope(phi: Entrywise, z: np.ndarray) -> np.ndarray:
    return phi.slope(torch.from_numpy(z)).clamp_min(0.0).sqrt().numpy()


def newton_on_face(
    gradient: Callable[[np.ndarray], np.ndarray], B: np.ndarray, u: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """The maximizer of <u, z> - f(z) over z + range B for a smooth f of which only the gradient is known.

    Returns:
        z, the Hessian B' f'' B there (central differences of the gradient; None if it is not positive definite or f
        has none), and the Newton steps taken.
    """
    slope = B.T @ (u - gradient(z))
    for steps in range(NEWTON_STEPS):
        hessian = _differenced_hessian(gradient, B, z)
        if hessian is None:
            return z, None, steps
        step = B @ scipy.linalg.solve(hessian, slope, assume_a="pos")
        new_slope = B.T @ (u - gradient(z + step))
        # Newton converges quadratically from here or not at all; a NaN compares false
        if not np.linalg.norm(new_slope) < 0.5 * np.linalg.norm(slope):
            return z, hessian, steps
        z, slope = z + step, new_slope
    return z, _differenced_hessian(gradient, B, z), NEWTON_STEPS


def _differenced_hessian(
    gradient: Callable[[np.ndarray], np.ndarray], B: np.ndarray, z: np.ndarray
) -> np.ndarray | None:
    if not B.shape[1]:
        return np.zeros((0, 0))
    for h in (1e-5, 1e-7, 1e-9):  # smaller where the domain of f ends nearby
        differences = [(gradient(z + h * b) - gradient(z - h * b)) / (2 * h) for b in B.T]
        hessian = B.T @ np.array(differences).T
        if np.all(np.isfinite(hessian)):
            hessian = (hessian + hessian.T) / 2
            return hessian if np.linalg.eigvalsh(hessian)[0] > 0 else None
    return None


def face_jacobian(B: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """dz/du = B (B' f'' B)^-1 B'."""
    return B @ scipy.linalg.solve(hessian, B.T, assume_a="pos") if B.shape[1] else np.zeros((len(B), len(B)))

"""What holds a solution, and how it moves with the constraints: dense, one instance, from z alone.

    maximize <u, z> - sum phi(z_i)   over   A x = b,  G x <= h,  x = (z, y)

On the rows that are tight at z the multipliers are a solution of

    minimize  | H^1/2 (A'nu + G'lam - (u - phi'(z))) |   over   lam >= 0,      H = 1 / phi''

by an active set method (Lawson and Hanson 1974), which takes independent rows: where the set is flat, and all the rows
together would let nothing move, these are the ones that hold z as the constraints leave more room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.optimize import nnls

from cvxsst.geometry.canonical import StandardForm
from cvxsst.geometry.linear_program import LinearProgram
from cvxsst.geometry.parametric import AffineForm

TIGHT = 1e-7  # slack, relative to the row's right-hand side if > 1
POSITIVE = 1e-9  # a multiplier, relative to the largest
STEEP = 1e-12  # slope of an entry that stands at an end of its domain
NO_COLUMN = 1e-12
RANK = 1e-12


@dataclass(frozen=True)
class Held:
    """x = (z, y), the multipliers, and which rows of G hold z."""

    x: np.ndarray
    nu: np.ndarray
    lam: np.ndarray
    rows: np.ndarray

    @staticmethod
    def of(form: StandardForm, z: np.ndarray, slope: np.ndarray, missing: np.ndarray) -> Held:
        """``slope``: 1 / phi''(z); ``missing``: u - phi'(z)."""
        x = np.append(z, lifted(form, z))
        m, root = len(form.b), np.append(np.sqrt(slope.clip(0.0)), np.ones(form.lifted))
        tight = np.flatnonzero(form.h - form.G @ x <= TIGHT * np.maximum(1.0, np.abs(form.h)))
        right = root * np.append(np.where(slope > STEEP, missing, 0.0), np.zeros(form.lifted))
        A, G = form.A.toarray(), form.G[tight].toarray()
        columns = root[:, None] * np.vstack([A, -A, G]).T
        size = np.linalg.norm(columns, axis=0)
        known = size > NO_COLUMN * max(1.0, size.max(initial=0.0))
        found = np.zeros(len(size))
        if known.any():
            found[known] = nnls(columns[:, known] / size[known], right, maxiter=100 * len(size))[0] / size[known]
        lam = np.zeros(len(form.h))
        lam[tight] = found[2 * m :]
        rows = np.flatnonzero(lam > POSITIVE * lam.max(initial=0.0))
        return Held(x, found[:m] - found[m : 2 * m], lam, rows)

    def moves(self, affine: AffineForm, theta: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """dz / dtheta ``(n, q)`` by the optimality conditions on the rows that hold z: a least squares solution, in
        columns in which phi'' is 1."""
        form, n, q = affine.at(theta), affine.zero.n, affine.q
        C = sp.csr_array(sp.vstack([form.A, form.G[self.rows]])).toarray()
        size = np.append(np.sqrt(slope.clip(0.0)), np.ones(form.lifted))
        right = np.vstack([np.zeros((form.columns, q)), affine.db.toarray(), affine.dh[self.rows].toarray()])
        for M, dM, multipliers, first, kept in (
            (form.A, affine.dA, self.nu, 0, np.arange(len(form.b))),
            (form.G, affine.dG, self.lam, len(form.b), self.rows),
        ):
            place = np.full(M.shape[0], -1)
            place[kept] = form.columns + first + np.arange(len(kept))
            row, entries = np.repeat(np.arange(M.shape[0]), np.diff(M.indptr)), sp.coo_array(dM)
            for e, k, value in zip(*entries.coords, entries.data, strict=True):
                if place[row[e]] >= 0:
                    right[M.indices[e], k] -= value * multipliers[row[e]]
                    right[place[row[e]], k] -= value * self.x[M.indices[e]]
        scaled = C * size
        unit = 1 / np.linalg.norm(scaled, axis=1).clip(1e-300)
        scaled *= unit[:, None]
        D = np.diag(np.append((size[:n] > 0).astype(float), np.zeros(form.lifted)))
        K = np.block([[D, scaled.T], [scaled, np.zeros((len(C), len(C)))]])
        scale = np.append(size, unit)
        return size[:n, None] * np.linalg.lstsq(K, scale[:, None] * right, rcond=RANK)[0][:n]


def lifted(form: StandardForm, z: np.ndarray) -> np.ndarray:
    """A y with which z satisfies the constraints, as nearly as can be: the least t with A y = b, G y <= h but for t."""
    form = form.without(np.arange(form.n), z)
    if not form.columns:
        return np.zeros(0)
    rows = sp.vstack([form.G, form.A, -form.A])
    rows = sp.hstack([rows, -np.ones((rows.shape[0], 1))])
    none = sp.csr_array((0, form.columns + 1))
    program = LinearProgram(none, np.zeros(0), rows, np.concatenate([form.h, form.b, -form.b]), form.columns + 1)
    found = program.maximize(np.append(np.zeros(form.columns), -1.0)).x
    assert found is not None, "some t is enough"
    return found[:-1]

"""What the derivative needs of an instance that was solved as a declaration of its own.

There z is known, not what holds it. On the rows that are tight at z the multipliers are a solution of

    minimize  | H^1/2 (A'nu + G'lam - (u - f'(z))) |   over   lam >= 0

by an active set method (Lawson and Hanson 1974), which takes independent rows: where P(theta) is flat, and all rows
together would let nothing move, these are the ones that hold z as theta leaves more room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import nnls

from cvxsst.engines.kkt.parameters import ParametricState
from cvxsst.geometry.linear_program import LinearProgram
from cvxsst.polytope import Polytope

FIRM = 1e18  # the weight of a row that holds
TIGHT = 1e-7  # slack, relative to the row's right-hand side if > 1
POSITIVE = 1e-9  # a multiplier, relative to the largest
STEEP = 1e-12  # slope of an entry that stands at an end of its domain


@dataclass(frozen=True)
class Alone:
    """The weight of each row of G ``(p,)``, (y, nu, lam), and whether the derivative in theta is not told by them."""

    weight: torch.Tensor
    beside: torch.Tensor
    untold: bool

    @staticmethod
    def of(state: ParametricState, P: Polytope, theta: np.ndarray, u: torch.Tensor, z: torch.Tensor) -> Alone:
        """For theta ``(q,)`` and u, z ``(n,)``; P is the polytope at theta."""
        form, free, f = state.affine.form.at(theta), state.affine.free, state.f
        m, p = len(form.b), len(form.h)
        inner = z.cpu()[torch.from_numpy(free)]
        y = _lifted(P, z.cpu().numpy())
        x = np.append(inner.numpy(), y)
        tight = np.flatnonzero(form.h - form.G @ x <= TIGHT * np.maximum(1.0, np.abs(form.h)))
        slope = f.slope(inner)
        root = np.append(slope.clamp_min(0.0).sqrt().numpy(), np.ones(len(y)))
        missing = u.cpu()[torch.from_numpy(free)] - f.gradient(f.inside(inner, 1e-300))
        right = np.append(np.where(slope > STEEP, missing, 0.0), np.zeros(len(y)))
        A, G = form.A.toarray(), form.G[tight].toarray()
        columns = root[:, None] * np.vstack([A, -A, G]).T
        size = np.linalg.norm(columns, axis=0)
        known = size > 1e-12 * max(1.0, size.max(initial=0.0))
        found = np.zeros(len(size))
        if known.any():
            found[known] = nnls(columns[:, known] / size[known], root * right, maxiter=100 * len(size))[0] / size[known]
        nu, lam, weight = found[:m] - found[m : 2 * m], np.zeros(p), np.zeros(p)
        lam[tight] = found[2 * m :]
        weight[lam > POSITIVE * np.abs(lam).max(initial=0.0)] = 1.0
        if not len(free):
            return Alone(torch.from_numpy(weight), torch.zeros(len(y) + m + p), False)
        flat = np.isin(free, P.presolved.fixed) & (slope <= STEEP).numpy()
        unit = state.shared_program(torch.device("cpu")).unit[len(free) :, 0]
        r, s = (torch.from_numpy(scale) for scale in state.scales)
        beside = torch.cat([torch.from_numpy(y) / unit, torch.from_numpy(nu) / r, torch.from_numpy(lam) / s])
        firm = 1.0 if state.shared_box(torch.device("cpu")) is not None else FIRM
        return Alone(firm * torch.from_numpy(weight), beside, bool(f.steep and flat.any()))


def _lifted(P: Polytope, z: np.ndarray) -> np.ndarray:
    """Some y with which z satisfies the constraints, as nearly as can be: the least t with A y = b, G y <= h up to t."""
    form = P.form.without(np.arange(P.size), z)
    if not form.columns:
        return np.zeros(0)
    rows = sp.vstack([form.G, form.A, -form.A])
    rows = sp.hstack([rows, -np.ones((rows.shape[0], 1))])
    none = sp.csr_array((0, form.columns + 1))
    program = LinearProgram(none, np.zeros(0), rows, np.concatenate([form.h, form.b, -form.b]), form.columns + 1)
    found = program.maximize(np.append(np.zeros(form.columns), -1.0)).x
    assert found is not None, "some t is enough"
    return found[:-1]

"""Who is asked beside the candidate: solvers that share no code with it, nor with each other.

    f with a formula     kkt          a batched interior point and Newton method of this library; separable f
                         cvxpylayer   CvxpyLayer (Clarabel), refined on its face; slow, asked about a few instances
                         fast         the family's closed form, where one is registered
                         scs          the declaration as it stands, by CVXPY and SCS; z only; if the others are too few
                         columns      of an oracle alone: the best mixture of its answers, by CVXPY and Clarabel; z only
    exponential family   enumeration  autograd through a softmax over Z
                         moments      E[z] and Cov(z) in numpy, extended precision
                         fast         the gradient of the family's log-partition function, where one is registered

and whatever other engine is registered. The candidate itself is left out. None of them is believed either: each answer
carries its certificate.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import torch

from cvxsst.engines import ENGINES
from cvxsst.maps import argmax
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer
from cvxsst.validation.solvers import Solver, moments, of_engine

FIRST = ("kkt", "enumeration", "fast")  # then what users registered; what takes one instance at a time comes last
WANTED = 2
PROMISED_BY_SCS = 1e-3
PROMISED_BY_COLUMNS = 1e-5
CLARABEL = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12)
MIXED, ROUNDS = 1e-9, 200  # the gap, relative, at which no further answer is asked for, and how many at most
SCS = {"eps_abs": 1e-9, "eps_rel": 1e-9, "max_iters": 20_000}


def references(P: Polytope, regularizer: Regularizer, candidate: str | None) -> list[Solver]:
    """The solvers to hold the candidate (an engine's name, or None) against, the quick ones first."""
    names = [name for name in dict.fromkeys([*FIRST, *ENGINES]) if name in ENGINES and name != candidate]
    able = [of_engine(name, P, regularizer) for name in names if ENGINES[name].supports(P, regularizer)]
    found = sorted(able, key=lambda solver: solver.slow)
    if regularizer.is_gibbs:
        return [*found, moments(P)]
    if len(found) < WANTED and regularizer.has_formula and P.variable is not None:
        found.append(by_scs(P, regularizer))
    if not P.declared and regularizer.has_formula:
        found.append(by_columns(P, regularizer))
    return found


def by_scs(P: Polytope, regularizer: Regularizer) -> Solver:
    """The declaration, word for word, with another solver (ADMM) and none of this library's canonical forms."""
    assert P.variable is not None
    z = P.variable
    utilities, forbidden = cp.Parameter(P.shape), cp.Parameter(P.shape, nonneg=True)
    objective = cp.Maximize(cp.sum(cp.multiply(utilities, z)) - regularizer.expression(z))
    problem = cp.Problem(objective, [*P.constraints, cp.multiply(forbidden, z) == 0])

    def one(u: np.ndarray) -> np.ndarray:
        masked = np.isinf(u)
        utilities.value, forbidden.value = np.where(masked, 0.0, u), masked.astype(float)
        problem.solve(solver=cp.SCS, **SCS)
        return np.full(P.shape, np.nan) if z.value is None else np.asarray(z.value, dtype=float)

    def solve(u: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([one(ui) for ui in u.numpy()]).reshape(u.shape))

    return Solver("scs", solve, P, slow=True, has_gradient=False, promises=PROMISED_BY_SCS)


def by_columns(P: Polytope, regularizer: Regularizer) -> Solver:
    """conv of the oracle's answers, which are asked for one by one: fully corrective conditional gradients.

    minimize  f(z) - <u, z>   over  z = V' a, a >= 0, sum a = 1;      the multiplier of z = V' a is u - f'(z)
    """

    def mixture(u: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z, a = cp.Variable(P.shape), cp.Variable(len(V), nonneg=True)
        mixed = cp.vec(z, order="C") == V.T @ a
        objective = cp.Minimize(regularizer.expression(z) - cp.sum(cp.multiply(u.reshape(P.shape), z)))
        cp.Problem(objective, [mixed, cp.sum(a) == 1]).solve(solver=cp.CLARABEL, **CLARABEL)
        return V.T @ a.value, mixed.dual_value

    def one(u: torch.Tensor) -> np.ndarray:
        forbidden = torch.isinf(u)

        def best(g: np.ndarray) -> np.ndarray:
            asked = torch.from_numpy(g).reshape(P.shape).masked_fill(forbidden, -torch.inf)
            return argmax(P, asked).reshape(P.size).numpy()

        finite = u.masked_fill(forbidden, 0.0).reshape(P.size).numpy()
        V = best(finite)[None]
        for _ in range(ROUNDS):
            z, g = mixture(finite, V)
            v = best(g)
            if g @ (v - z) <= MIXED * (1 + np.abs(g) @ np.abs(v)):
                break
            V = np.vstack([V, v])
        return z.reshape(P.shape)

    def solve(u: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([one(ui) for ui in u]).reshape(u.shape))

    return Solver("columns", solve, P, slow=True, has_gradient=False, promises=PROMISED_BY_COLUMNS)

"""dz/du at the solution, by the optimality conditions.

*In general.* With lam the multipliers of G x <= h and s the slacks, w = lam / s is infinite for active constraints
and 0 for the others:

    [ diag(phi'') + G'diag(w) G   A' ] [dx ]   [du]
    [ A                           0  ] [dnu] = [0 ]          z takes part with phi'', y with 0

*Bounds and equalities only.* With H = 1 / phi'', 0 where z is at a bound:

    dz = H (du - A'dnu),       (A H A') dnu = A H du

Both are linear maps of du that are symmetric and depend on z through phi'' or H alone: K(d) g with d = phi'' or d = H.
For such a map the derivative in d costs two more applications (``cvxsst.autograd.SymmetricSystem``):

    K = M^-1:          dK g = -K (dd * K g)          with M' = diag
    R = A'(A H A')^-1 A:   dR c = -R (dH * R c)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cvxsst.autograd import SymmetricSystem
from cvxsst.engines.kkt.elimination import DELTA, cholesky
from cvxsst.engines.kkt.interior import EDGE, PROXIMAL, Program
from cvxsst.engines.kkt.newton import BoxProgram
from cvxsst.geometry.presolve import left_null_space

# Rows heavier than this, relative to the least curvature, are let yield in the factorization, which would lose its
# digits; refinement with the multipliers as unknowns then holds them as firmly as they are.
HEAVY = 1e10
LIGHT = 1e-30
LARGE = 1e6  # beside D of this size, relative to the least, what regularizes the equalities falls no more at last
STEPS, MOST_STEPS = 3, 40  # of refinement: so many, and then until the last is no more than DONE of the result
DONE = 1e-10
ENOUGH = 5e-7  # of the result: a last step above is no convergence
FIRM = 1e8  # rows of this weight, where D is 1, do not yield at all, and those of its inverse say nothing
RANK = 1e-13
NOTHING = 1e-8  # a direction along which z moves less than that, beside y, moves it by rounding
SMALL, SMALLER = 1e-2, 1e-3  # a result below, as (dz/du) g or as a share of g over the least curvature, counts as that

Apply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def by_elimination(
    program: Program, g: torch.Tensor, z: torch.Tensor, weight: torch.Tensor, chunk: int
) -> torch.Tensor:
    """(dz/du) g for g, z ``(B, n)``; ``weight`` ``(B, p)``: lam / s."""
    unit = program.unit[: program.n].T
    curvature = unit**2 / program.f.slope(z).clamp_min(EDGE)
    return unit * _eliminated(unit * g, curvature, weight, program, chunk)


def by_equalities(
    program: BoxProgram, g: torch.Tensor, z: torch.Tensor, active: torch.Tensor, chunk: int
) -> torch.Tensor:
    """(dz/du) g for g, z ``(B, n)``; ``active`` ``(B, n)``: from 0 where z moves freely to 1 where it is at a bound."""
    H = program.f.slope(z) * (1 - active)
    if not len(program.b):
        return H * g
    return H * (g - _projected(H * g, H, active, program, chunk))


def _in_chunks(apply: Apply, g: torch.Tensor, d: torch.Tensor, constraints: torch.Tensor, chunk: int) -> torch.Tensor:
    """``apply`` to chunks of the batch, transposed to instances last; g is scaled to 1: it may be of any size."""
    size = g.abs().amax(dim=1, keepdim=True).clamp_min(1e-300)
    chunks = zip(*(t.split(chunk) for t in (g / size, d, constraints)), strict=True)
    parts = [apply(*(t.T for t in one)).T for one in chunks]
    return torch.cat(parts) * size if parts else g


def _eliminate(
    g: torch.Tensor, curvature: torch.Tensor, weight: torch.Tensor, program: Program, chunk: int
) -> torch.Tensor:
    def apply(g: torch.Tensor, curvature: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x, missed = _refined(program, g, curvature, weight, 1.0)
        far = (~(missed <= ENOUGH)).nonzero().flatten()
        if len(far):
            again, missed = _refined(program, g[:, far], curvature[:, far], weight[:, far], LARGE)
            x[:, far] = again
            for k in far[~(missed <= ENOUGH)].tolist():
                x[:, k] = _on_face(program, g[:, k], curvature[:, k], weight[:, k])
        return x

    return _in_chunks(apply, g, curvature, weight, chunk)


def _on_face(program: Program, g: torch.Tensor, curvature: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x_z ``(n,)`` of the same system, of one instance, by dense orthogonal factorizations.

    With z in units in which D is 1, and B a basis of what the equalities and the rows of weight above FIRM leave:

        minimize  |x_z - g|^2 + <G x, w G x>   over   x = B c
    """
    n, root = program.n, curvature.rsqrt().numpy(force=True)
    A, G, w, f = (t.numpy(force=True) for t in (program.A.array, program.G.array, weight, g))
    size = np.append(root, np.ones(A.shape[1] - n))
    A, G = A * size, G * size
    strength = w * np.square(G).sum(axis=1)
    firm, between = strength > FIRM, (strength > 1 / FIRM) & (strength <= FIRM)
    rows = np.vstack([A, G[firm]])
    B = left_null_space((rows / np.linalg.norm(rows, axis=1).clip(1e-300)[:, None]).T)
    least_squares = np.vstack([B[:n], np.sqrt(w[between])[:, None] * G[between] @ B])
    right = np.append(root * f, np.zeros(between.sum()))
    U, s, Vt = np.linalg.svd(least_squares, full_matrices=False)
    told = s > max(NOTHING, RANK * s.max(initial=0.0))
    c = Vt[told].T @ ((U[:, told].T @ right) / s[told])
    return torch.from_numpy(root * (B[:n] @ c)).to(g)


def _refined(
    program: Program, g: torch.Tensor, curvature: torch.Tensor, weight: torch.Tensor, stiff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_z ``(n, B)`` of  D x + A'nu + G'mu = g,  A x = 0,  G x = mu / w,  and what is missed."""
    columns = g.shape[1]
    f = torch.cat([g, g.new_zeros(len(program.start) - program.n, columns)])
    nothing = g.new_zeros(len(program.b), columns), torch.zeros_like(weight)
    x, _, _, missed = solved(program, (f, *nothing), curvature, weight, stiff)
    return x[: program.n], missed


Right = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def solved(
    program: Program, right: Right, curvature: torch.Tensor, weight: torch.Tensor, stiff: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x ``(N, B)``, nu, mu of  D x + A'nu + G'mu = f,  A x = b,  G x - mu / w = h  for (f, b, h) = ``right``, and what
    is missed of x_z, relative to it: what the last steps let expect, or what it leaves of the first equation.

    Solved with D and w divided by the least curvature, so that what regularizes the factorization is small beside them:
    of the equalities the less the stiffer D is, up to ``stiff``.
    """
    A, G, n, (f, b, h), columns = program.A, program.G, program.n, right, right[0].shape[1]
    lifted, least = len(program.start) - n, curvature.amin(dim=0)
    D = torch.cat([curvature / least, curvature.new_zeros(lifted, columns)])
    w = (weight / least).clamp_min(LIGHT)
    yielding = w.minimum(HEAVY / program.lengths[:, None])
    regularized = torch.cat([D[:n], D.new_full((lifted, columns), PROXIMAL)])
    factor = program.pattern.factor(regularized, yielding, DELTA / D[:n].amax(dim=0).clamp_max(stiff))
    unit, b, h = program.unit[:n], least * b, least * h
    largest = (unit.square() / curvature).amax(dim=0)  # slope
    floor = (f[:n] / unit).abs().amax(dim=0) * least * (SMALLER * largest).clamp_min(SMALL)
    x, nu, mu = torch.zeros_like(D), torch.zeros_like(b), torch.zeros_like(w)
    last = torch.full_like(least, torch.inf)
    for step in range(1, MOST_STEPS + 1):
        dx, dnu, dmu = factor.solve(f - D * x - A.T @ nu - G.T @ mu, b - A @ x, h + mu / w - G @ x)
        x, nu, mu = x + dx, nu + dnu, mu + dmu
        before = last
        last, result = ((unit * t[:n]).abs().amax(dim=0) for t in (dx, x))
        to_come = last / (1 - (last / before.clamp_min(LIGHT)).clamp_max(1 - ENOUGH))  # as a geometric series
        missed = to_come / result.maximum(floor).clamp_min(LIGHT)
        if step >= STEPS and bool((missed <= DONE).all()):
            break
    left = f - D * x - A.T @ nu - G.T @ mu
    unexplained = (unit * left[:n] / D[:n]).abs().amax(dim=0) / result.maximum(floor).clamp_min(LIGHT)
    if lifted:
        scale = f[:n].abs().amax(dim=0).maximum(h.abs().amax(dim=0)) if len(h) else f[:n].abs().amax(dim=0)
        unexplained = unexplained.maximum(left[n:].abs().amax(dim=0) / scale.clamp_min(LIGHT))
    return x / least, nu, mu, missed.maximum(unexplained)


def _project(c: torch.Tensor, H: torch.Tensor, active: torch.Tensor, program: BoxProgram, chunk: int) -> torch.Tensor:
    def apply(c: torch.Tensor, H: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        S = program.normal_matrix(H)
        L = cholesky(S)
        right = (program.A @ c).T[..., None]
        nu = torch.cholesky_solve(right, L)
        nu = nu + torch.cholesky_solve(right - S @ nu, L)
        return program.A.T @ nu[..., 0].T

    return _in_chunks(apply, c, H, active, chunk)


_eliminated = SymmetricSystem(_eliminate)
_projected = SymmetricSystem(_project)

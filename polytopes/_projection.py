"""The Euclidean projection onto the doubly stochastic matrices: Newton's method on the dual.

    maximize <u, z> - |z|^2 / 2   over   z >= 0, z 1 = 1, z'1 = 1:        z_ij = max(u_ij - a_i - b_j, 0)

With a eliminated, z is row by row the projection of u - 1 b' onto the simplex, exact by sorting, and b maximizes a
concave function that is quadratic in pieces. With m_ij = 1 where z_ij > 0 its Hessian is the Laplacian of a graph:
columns j and k are joined by W_jk = sum_i m_ij m_ik / (m 1)_i, by the rows that they share.

    (L + e I) db = z'1 - 1

Columns that share no row with others are all that L is singular on. There the damping e, which shrinks with what is
missing and with every full step, gives a long step, and the search along it goes no further than to where the function
falls no more. At low temperature prices far away would be looked for through many pieces: so prices of the assignment
problem are taken off first, after which u <= 0, with 0 all over a best permutation, and b is of the order of n. Once
nothing is missing but what rounding leaves of large u, the last step is made in z itself, within the support, so that z
is exact to the last digits at any scale.

A step costs O(n^3) and a few sorts of the rows; six to twelve will do, whatever n and T.

References: Li, Sun and Toh 2020 (On the efficient computation of a generalized Jacobian of the projector over the
Birkhoff polytope); Qi and Sun 1993 (Newton's method for such functions).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from cvxsst.autograd import SymmetricMap
from cvxsst.values import holds
from polytopes._potentials import solve
from polytopes._threshold import sparsemax
from polytopes._transport import EPS, on_support, shared, times_jacobian

MILD = 20.0  # spread of u up to which no prices are taken off first
STEPS = 200
MOST_DAMPING, LEAST_DAMPING = 0.1, 1e-5  # relative to what is missing
DAMPED, UNDAMPED = 3.0, 0.3  # after a short and after a full step
TIE = 1e-10  # damping when nothing is missing: what L has at least, so that its factorization exists
SEARCHES = 12  # for a step length
OVERSHOT = 0.1  # share of the slope at the start, beyond which the search goes back
ROUNDING = 1e-10  # of the column sums, before the last step
LOST = 8.0  # of sums of entries of u: units in the last place


def euclidean(u: torch.Tensor) -> torch.Tensor:
    """z for u ``(B, n, n)``, which may hold -inf: NaN where that leaves no permutation."""
    return on_support(u, lambda v, ground: _solved(v))


def _solved(u: torch.Tensor) -> torch.Tensor:
    finite = torch.where(u == -torch.inf, 0.0, u)
    spread = finite.amax((-1, -2)) - finite.amin((-1, -2))
    steep = spread > MILD
    if holds(steep):
        u = u.clone()
        u[steep] = _reduced(u[steep])
    rounding = EPS * (1 + spread)[:, None]
    return _finished(_by_newton(u, ROUNDING + LOST * rounding), LOST * rounding[..., None])


def _reduced(u: torch.Tensor) -> torch.Tensor:
    """u ``(B, n, n)`` less row and column prices that leave <= 0, and 0 in a permutation.

    Once columns are in the places of the rows that they are assigned to, no cycle of places gains by moving on, and the
    prices are the best gains of paths that end in each place (Bellman and Ford).
    """
    best = [linear_sum_assignment(one, maximize=True)[1] for one in u.cpu().numpy()]
    column = torch.from_numpy(np.array(best)).to(u.device)[:, None].expand_as(u)
    gain = u.gather(2, column)
    gain = gain - gain.diagonal(dim1=1, dim2=2)[..., None]
    price = torch.zeros_like(gain[:, 0])
    for _ in range(u.shape[-1]):
        before, price = price, (price[..., None] + gain).amax(1)
        if not holds(price > before):
            break
    return torch.empty_like(u).scatter(2, column, gain + price[..., None] - price[:, None])


def _by_newton(u: torch.Tensor, tolerance: torch.Tensor) -> torch.Tensor:
    """z for u ``(B, n, n)`` with column sums right to the tolerance, ``(B, 1)``; NaN where it is not found."""
    found = torch.full_like(u, torch.nan)
    live, e = torch.arange(len(u), device=u.device), torch.full_like(tolerance, MOST_DAMPING)
    b = _swept(u)
    z, miss, most = _rows(u, b)
    for _ in range(STEPS):
        arrived = (most <= tolerance).flatten()
        if holds(arrived):
            found[live[arrived]] = z[arrived]
            live, u, tolerance, e, b, z, miss, most = (t[~arrived] for t in (live, u, tolerance, e, b, z, miss, most))
        if not len(live):
            break
        W = shared(_inside(z))
        L = torch.diag_embed(W.sum(-1) + (e * most.clamp_max(1.0)).clamp_min(TIE)) - W
        db = torch.cholesky_solve(miss[..., None], torch.linalg.cholesky_ex(L)[0])[..., 0]
        t, z, miss, most = _searched(u, b, db, miss)
        b = b + t * db
        e = (e * torch.where(t == 1, UNDAMPED, torch.where(t < 0.25, DAMPED, 1.0))).clamp(LEAST_DAMPING, MOST_DAMPING)
    return found


def _inside(z: torch.Tensor) -> torch.Tensor:
    return (z > 0).to(z)


def _rows(u: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z with a eliminated, ``(B, n, n)``, by how much its column sums miss 1, ``(B, n)``, and the largest."""
    z = sparsemax(u - b[..., None, :])
    miss = z.sum(-2) - 1
    return z, miss, miss.abs().amax(-1, keepdim=True)


def _swept(u: torch.Tensor) -> torch.Tensor:
    """b ``(B, n)`` that makes the columns sum to 1 where a makes the rows do so with b = 0."""
    for _ in range(2):
        a = u.amax(-1) - sparsemax(u).amax(-1)
        u = (u - a[..., None]).mT.contiguous()
    return a


def _searched(u: torch.Tensor, b: torch.Tensor, db: torch.Tensor, miss: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """How far to go along db, ``(B, 1)``, and ``_rows`` there: the slope <miss, db>, which falls, not far below 0."""
    slope = (miss * db).sum(-1, keepdim=True)
    t = torch.ones_like(slope)
    found = _rows(u, b + db)
    rows = torch.arange(len(u), device=u.device)
    for _ in range(SEARCHES):
        here = (found[1][rows] * db[rows]).sum(-1, keepdim=True)
        over = (here < -OVERSHOT * slope[rows]).flatten()
        if not holds(over):
            break
        rows, here = rows[over], here[over]
        t[rows] *= (slope[rows] / (slope[rows] - here)).clamp_min(0.1)
        for part, new in zip(found, _rows(u[rows], b[rows] + t[rows] * db[rows]), strict=True):
            part[rows] = new
    return t, *found


def _finished(z: torch.Tensor, rounding: torch.Tensor) -> torch.Tensor:
    """z with a last step of Newton made in z itself; entries that rounding of u may have made are taken for 0.

    A column that shares no row has a price in an interval, at whose end the search stops, where one more entry is about
    to be positive: that would count as one of the support in the derivative.
    """
    m = (z > rounding).to(z)
    count = m.sum(-1, keepdim=True)
    z = m * (z + (1 - (m * z).sum(-1, keepdim=True)) / count)
    db = m * solve(z.sum(-2) - 1, shared(m))[..., None, :]
    z = z - m * (db - db.sum(-1, keepdim=True) / count)
    return torch.where(z <= rounding, 0.0, z)


projection = SymmetricMap(euclidean, lambda g, u, z: times_jacobian(g, _inside(z)))

"""Softmaxes over the doubly stochastic matrices by Newton's method on the dual: Euclidean and binary entropy.

    maximize <u, z> - sum phi(z_ij)   over   z >= 0, z 1 = 1, z'1 = 1:        z_ij = p(u_ij - a_i - b_j)

    p(v) = max(v, 0) and d = dz/dv = 1 where z > 0,      or      p(v) = sigmoid(v) and d = z (1 - z)

*Newton.* What is missing, r = z 1 - 1 and c = z'1 - 1, is the gradient of a concave function of (a, b). With a
eliminated its Hessian is minus the Laplacian L of a graph in which columns j and k are joined by
W_jk = sum_i d_ij d_ik / (d 1)_i, by the rows that they share:

    L db = c - d'(r / d 1),     da = (r - d db) / d 1

Both are damped by as much as is missing, less after every full step: columns that share no row with others are all that
L is singular on, and there the damping gives a long step. The search along the step goes no further than to where the
function falls no more. At low temperature prices far away would be looked for through many pieces: so prices of the
assignment problem are taken off first, after which u <= 0, with 0 all over a best permutation.

*Last digits.* z is of the size of 1 and u may be of any: once next to nothing is missing, a last step is made in z
itself, by d (da + db). The derivative is that of ``_transport``.

A step costs O(n^3): four to ten as a rule at T = 1, ten to thirty at lower ones, whatever n. Sinkhorn's sweeps, of
O(n^2), say where to begin.

References: Li, Sun and Toh 2020 (On the efficient computation of a generalized Jacobian of the projector over the
Birkhoff polytope); Qi and Sun 1993 (Newton's method for such functions).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from cvxsst.autograd import SymmetricMap
from cvxsst.values import holds
from polytopes._threshold import sparsemax
from polytopes._transport import EPS, on_support, times_jacobian

MILD = 20.0  # spread of u up to which no prices are taken off first
SWEEPS, SHARP = 10, 2.0  # of Sinkhorn before Newton, at which inverse temperature
STEPS = 200
MOST_DAMPING, LEAST_DAMPING = 0.1, 1e-5  # relative to what is missing
DAMPED, UNDAMPED = 3.0, 0.3  # after a short and after a full step
TIE, NOTHING = 1e-13, 1e-20  # what L is damped by at least, relative to its diagonal, and at all
SEARCHES = 12  # for a step length
OVERSHOT = 0.3  # share of the slope at the start, beyond which the search goes back
LOST = 8.0  # of sums of entries of u: units in the last place

Entries = Callable[[torch.Tensor], torch.Tensor]


class Kind(NamedTuple):
    """p, d as a function of z, prices with which the rows of u sum to about 1, what may be missing at the end, and what
    is done with z then, given what rounding of u may have made of an entry."""

    primal: Entries
    slope: Entries
    prices: Entries
    tolerance: float
    finish: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _solved(u: torch.Tensor, kind: Kind) -> torch.Tensor:
    """z for u ``(B, n, n)``, which may hold -inf: NaN where that leaves no permutation."""
    return on_support(u, lambda v, ground: _on_support(v, kind))


def _on_support(u: torch.Tensor, kind: Kind) -> torch.Tensor:
    u = u - u.amax((-1, -2), keepdim=True)
    spread = -torch.where(u == -torch.inf, 0.0, u).amin((-1, -2))
    steep = spread > MILD
    if holds(steep):
        u[steep] = _reduced(u[steep])
    return kind.finish(_by_newton(u, kind), LOST * EPS * (1 + spread)[:, None, None])


def _reduced(u: torch.Tensor) -> torch.Tensor:
    """u ``(B, n, n)`` less row and column prices that leave <= 0, and 0 in a permutation.

    Once columns are in the places of the rows that they are assigned to, no cycle of places gains by moving on. The
    best gains of paths that end in each place are prices, those of paths that begin there are too, with the opposite
    sign; halfway between them little else is 0 than what is 0 at all such prices.
    """
    best = [linear_sum_assignment(one, maximize=True)[1] for one in u.cpu().numpy()]
    column = torch.from_numpy(np.array(best)).to(u.device)[:, None].expand_as(u)
    gain = u.gather(2, column)
    gain = gain - gain.diagonal(dim1=1, dim2=2)[..., None]
    price = (_best_paths(gain) - _best_paths(gain.mT)) / 2
    return torch.empty_like(u).scatter(2, column, gain + price[..., None] - price[:, None])


def _best_paths(gain: torch.Tensor) -> torch.Tensor:
    """The most that a path gains that ends in each place, ``(B, n)``, by the method of Bellman and Ford."""
    most = torch.zeros_like(gain[:, 0])
    for _ in range(gain.shape[-1]):
        before, most = most, (most[..., None] + gain).amax(1)
        if not holds(most > before):
            break
    return most


def _by_newton(u: torch.Tensor, kind: Kind) -> torch.Tensor:
    """z for u ``(B, n, n)``; NaN where it is not found."""
    found = torch.full_like(u, torch.nan)
    live, e = torch.arange(len(u), device=u.device), u.new_full((len(u), 1), MOST_DAMPING)
    x = _first_prices(u, kind)
    z, missing, most = _at(u, x, kind)
    for _ in range(STEPS):
        arrived = (most <= kind.tolerance).flatten()
        if holds(arrived):
            found[live[arrived]] = z[arrived]
            live, u, e, x, z, missing, most = (t[~arrived] for t in (live, u, e, x, z, missing, most))
        if not len(live):
            break
        dx = _step(kind.slope(z), missing, (e * most.clamp_max(1.0)).clamp_min(NOTHING))
        t, z, ahead, most = _searched(u, x, dx, missing, kind)
        x, missing = x + t * dx, ahead
        e = (e * torch.where(t == 1, UNDAMPED, torch.where(t < 0.25, DAMPED, 1.0))).clamp(LEAST_DAMPING, MOST_DAMPING)
    return found


def _first_prices(u: torch.Tensor, kind: Kind) -> torch.Tensor:
    """a and b, ``(B, 2n)``: b as Sinkhorn's sweeps have it on a sharper softmax, near which the solutions are often;
    then the rows are made to sum to 1, then the columns."""
    K = torch.exp(SHARP * (u - u.amax(-1, keepdim=True)))
    scale = torch.ones_like(K[..., :1])
    for _ in range(SWEEPS):
        scale = 1 / (K.mT @ (1 / (K @ scale)))
    b = -scale.mT.log() / SHARP
    a = kind.prices(u - torch.where(b.isfinite(), b, 0.0))
    return torch.cat([a, kind.prices((u - a[..., None]).mT.contiguous())], -1)


def _at(u: torch.Tensor, x: torch.Tensor, kind: Kind) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z ``(B, n, n)`` at prices x, how much the sums of its rows and columns exceed 1 ``(B, 2n)``, and the most."""
    a, b = x.chunk(2, -1)
    z = kind.primal(u - a[..., None] - b[..., None, :])
    missing = torch.cat([z.sum(-1), z.sum(-2)], -1) - 1
    return z, missing, missing.abs().amax(-1, keepdim=True)


def _step(d: torch.Tensor, missing: torch.Tensor, damping: torch.Tensor) -> torch.Tensor:
    """Newton's, ``(B, 2n)``, for d ``(B, n, n)`` and damping ``(B, 1)``."""
    r, c = missing.chunk(2, -1)
    rows = d.sum(-1) + damping
    share = d / rows[..., None]
    L = torch.diag_embed((1 + TIE) * d.sum(-2) + damping) - d.mT @ share
    right = c[..., None] - share.mT @ r[..., None]
    db = torch.cholesky_solve(right, torch.linalg.cholesky_ex(L)[0])
    return torch.cat([(r - (d @ db)[..., 0]) / rows, db[..., 0]], -1)


def _searched(
    u: torch.Tensor, x: torch.Tensor, dx: torch.Tensor, missing: torch.Tensor, kind: Kind
) -> tuple[torch.Tensor, ...]:
    """How far to go along dx, ``(B, 1)``, and ``_at`` there: the slope <missing, dx> falls, not far below 0."""
    slope = (missing * dx).sum(-1, keepdim=True)
    t = torch.ones_like(slope)
    found = _at(u, x + dx, kind)
    rows = torch.arange(len(u), device=u.device)
    for _ in range(SEARCHES):
        here = (found[1][rows] * dx[rows]).sum(-1, keepdim=True)
        over = (here < -OVERSHOT * slope[rows]).flatten()
        if not holds(over):
            break
        rows, here = rows[over], here[over]
        t[rows] *= (slope[rows] / (slope[rows] - here)).clamp_min(0.1)
        for part, new in zip(found, _at(u[rows], x[rows] + t[rows] * dx[rows], kind), strict=True):
            part[rows] = new
    return t, *found


def _in_z(z: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """z after a last step of Newton, made in z itself."""
    missing = torch.cat([z.sum(-1), z.sum(-2)], -1) - 1
    da, db = _step(d, missing, z.new_full((len(z), 1), NOTHING)).chunk(2, -1)
    return z - d * (da[..., None] + db[..., None, :])


def _inside(z: torch.Tensor) -> torch.Tensor:
    return (z > 0).to(z)


def _euclidean_end(z: torch.Tensor, rounding: torch.Tensor) -> torch.Tensor:
    """Entries that rounding of u may have made are taken for 0.

    A column that shares no row has a price in an interval, at whose end the search stops, where one more entry is about
    to be positive: that would count as one of the support in the derivative.
    """
    m = (z > rounding).to(z)
    z = _in_z(m * z, m)
    return torch.where(z <= rounding, 0.0, z)


def _variance(z: torch.Tensor) -> torch.Tensor:
    return z * (1 - z)


def _map(kind: Kind) -> SymmetricMap:
    return SymmetricMap(partial(_solved, kind=kind), lambda g, u, z: times_jacobian(g, kind.slope(z)))


euclidean = _map(
    Kind(lambda v: v.clamp_min(0.0), _inside, lambda u: u.amax(-1) - sparsemax(u).amax(-1), 1e-10, _euclidean_end)
)
binary = _map(
    Kind(
        torch.sigmoid,
        _variance,
        lambda u: u.logsumexp(-1),
        1e-12,
        lambda z, rounding: _in_z(z, _variance(z)).clamp(0.0, 1.0),
    )
)

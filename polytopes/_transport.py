"""The entropic softmax over doubly stochastic matrices: Sinkhorn's sweeps, finished by Newton's method on the dual.

    maximize <u, z> - sum z_ij log z_ij   over   z 1 = 1, z'1 = 1:        z_ij = exp(u_ij - a_i - b_j)

*Newton.* With a eliminated, z is row by row a softmax of u - 1 b', and the matrix for b is the Laplacian of a graph
(``_potentials``): columns j and k are joined by W_jk = sum_i z_ij z_ik, by how much they compete for rows.

    L db = z'1 - 1

*Derivative.* Let d be the derivative of the entries of z with a and b held fixed; here d = z. C is the derivative with
only b held fixed, row by row the covariance of a distribution:

    C(g)_ij = sum_k d_ij d_ik (g_ij - g_ik) / (d 1)_i,     (dz/du) g = C(g - 1 x'),     L x = 1'C(g)

where L is the Laplacian of W_jk = sum_i d_ij d_ik / (d 1)_i.

It is summed without a subtraction other than g_ij - g_ik, as are the diagonal of L and the column sums less 1: at low
temperature, where z is within 1e-9 of a permutation, dz/du is of order 1e-9 and still right to many digits.

References: Sinkhorn 1964; Brauer, Clason, Lorenz and Wirth 2017 (Newton after Sinkhorn); Schmitzer 2019 (cooling).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from cvxsst.autograd import SymmetricMap
from cvxsst.values import holds
from polytopes._potentials import by_cholesky, grounded, potentials, solve
from polytopes._support import Support

EPS = torch.finfo(torch.float64).eps
SWEEPS = 8  # of Sinkhorn before Newton
LARGEST = 1e250  # scaling factor: beyond, entries of exp(u) that matter may have been rounded to 0
NEWTON_STEPS = 6
CLOSE = 1e-7  # last step of Newton, relative to z: the error after it is of the order of its square
ASTRAY = 50.0  # a step of Newton after which none has been seen to arrive
ROUNDING = 1e-13  # of the column sums
COOLING = 2.0
MILD = 20.0  # spread of u at which the continuation starts
LONGEST = 4.0  # step of it: through prices of patterns of -inf that leave little choice longer ones get lost
STAGES = 50
NOTHING = 1e-100  # weights below are as good as none


def entropic(u: torch.Tensor) -> torch.Tensor:
    """z = exp(u - a 1' - 1 b') for u ``(B, n, n)``, which may hold -inf: NaN where that leaves no permutation, or no
    way leads to the tolerance."""
    return on_support(u, _by_scaling_or_cooling)


def on_support(u: torch.Tensor, solve: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]) -> torch.Tensor:
    """``solve`` for u ``(B, n, n)``, which may hold -inf: NaN where that leaves no permutation.

    Entries that are in no permutation are 0, and may have no multipliers: they are taken out, and the others fall apart
    into blocks; ``solve`` receives u with -inf there, and a column of each block, ``(B, n)``, bool, where -inf occurs.
    """
    allowed = u > -torch.inf
    if not holds(~allowed):
        return solve(u, None)
    edges, ground = Support.of(allowed)
    empty = ~edges.flatten(1).any(1)[:, None, None]
    u = torch.where(edges, u, -torch.inf).masked_fill(empty, 0.0)
    alone = edges & (edges.sum(1, keepdim=True) == 1)
    chosen = _together(alone)
    if chosen is None:
        return solve(u, ground).masked_fill(empty, torch.nan)
    rows, columns = chosen
    place = (rows[:, :, None] * u.shape[-1] + columns[:, None]).flatten(1)
    z = solve(u.flatten(1).gather(1, place).view(*rows.shape, -1), ground.gather(1, columns))
    z = torch.zeros_like(u).flatten(1).scatter(1, place, z.flatten(1)).view_as(u)
    return torch.where(alone, 1.0, z).masked_fill(empty, torch.nan)


def _together(alone: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The rows and the columns, ``(B, size)`` each, with a choice left, for ``(B, n, n)``, bool: where a row and a
    column have only each other. ``size`` is the most of an instance; others have pairs of those besides. None if that
    is all of them.
    """
    settled = alone.any(1)
    size = max(1, int((~settled).sum(1).max()))
    if size == settled.shape[1]:
        return None
    partner = alone.to(torch.uint8).argmax(2)
    first = torch.where(alone.any(2), 1 + partner, 0)  # pairs in the same order in rows and columns, behind the others
    return first.argsort(dim=1, stable=True)[:, :size], settled.to(torch.uint8).argsort(dim=1, stable=True)[:, :size]


def _by_scaling_or_cooling(u: torch.Tensor, ground: torch.Tensor | None) -> torch.Tensor:
    z, arrived = _by_scaling(u, ground)
    if holds(~arrived):
        hard = (~arrived).nonzero().flatten()
        z[hard] = _by_cooling(u[hard])
    return z


def _by_scaling(u: torch.Tensor, ground: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Sinkhorn's sweeps on exp(u), then Newton: z ``(B, n, n)``, and whether it is right ``(B,)``.

    ``ground``: a column of each block of u, ``(B, n)``, bool, where there are several.
    """
    K = torch.exp(u - u.amax(-1, keepdim=True))
    last, b = K.movedim(0, -1).contiguous(), torch.ones_like(K[:, 0]).T  # instances last: quickest for small n
    for _ in range(SWEEPS):
        a = 1 / (last * b).sum(1)
        b = 1 / (last * a[:, None]).sum(0)
    in_range = b.amax(0) <= LARGEST
    z = _row_stochastic(K * b.T[..., None, :])
    arrived = torch.zeros_like(in_range)
    for step in range(NEWTON_STEPS):
        columns = z.sum(-2)
        L = torch.baddbmm(torch.diag_embed(grounded(columns, ground)), z.mT, z, alpha=-1)  # cancels, not by much here
        db, trusted = by_cholesky(L, columns - 1)
        z = _row_stochastic(z * torch.exp(-db)[..., None, :])
        size = db.abs().amax(-1)
        if step:
            arrived = in_range & trusted & (size <= CLOSE)
        if not holds(~arrived & (size <= ASTRAY)):
            break
    return z, arrived


def _row_stochastic(z: torch.Tensor) -> torch.Tensor:
    """``(B, n, n)`` to the same."""
    return z / z.sum(-1, keepdim=True)


def _by_cooling(u: torch.Tensor) -> torch.Tensor:
    """z ``(B, n, n)`` by Newton in the log domain, while s u, s from a mild spread up to 1, follows the cooling; NaN
    if it is lost.

    A step is right when the column sums are, each relative to what its column shares with others (L's diagonal): of
    z within 1e-20 of a permutation even the 1e-20 are. Only where components hang together by less than the rounding
    of their sums do the steps not get smaller. Far from the solution Sinkhorn's sweep helps where Newton's matrix,
    with columns that share next to nothing, does not.
    """
    z = torch.full_like(u, torch.nan)
    known = torch.where(u == -torch.inf, 0.0, u)
    spread = (known.amax((-1, -2)) - known.amin((-1, -2)))[:, None]
    live, s = torch.arange(len(u), device=u.device), (MILD / spread).clamp_max(1.0)
    b, last = _swept(s[..., None] * u, torch.zeros_like(u[:, 0])), torch.full_like(s, torch.inf)
    for _ in range(STAGES):
        db, miss, relative = _newton_step(_rows(s[..., None] * u, b))
        size = db.abs().amax(-1, keepdim=True)
        db = db * (LONGEST / size.clamp_min(LONGEST))
        right = relative <= ROUNDING + 8 * EPS * spread
        close = (size <= CLOSE) & (miss <= CLOSE)
        stalled = (size <= 1e-2) & (miss <= ROUNDING) & (size > 0.5 * last)
        arrived = ((s == 1) & (right | close | stalled)).flatten()
        z[live[arrived]] = _rows(u[arrived], (b + db)[arrived])
        keep = ~arrived
        if not holds(keep):
            break
        live, u, spread, s, b, db, size, miss = (t[keep] for t in (live, u, spread, s, b, db, size, miss))
        cooler = torch.where((size < 0.5) & (miss < 0.5), (COOLING * s).clamp_max(1.0), s)
        steady = cooler == s
        b = (b + db) * (cooler / s)
        s, last = cooler, torch.where(steady, size, torch.inf)
        b = torch.where(steady & (size < 1), b, _swept(s[..., None] * u, b))
    return z


def _rows(u: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """z with a eliminated, ``(B, n, n)``, for b ``(B, n)``."""
    return torch.softmax(u - b[..., None, :], -1)


def _swept(u: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """b ``(B, n)`` after one sweep of Sinkhorn on u ``(B, n, n)``: the rows made to sum to 1, then the columns."""
    return b + torch.log_softmax(u - b[..., None, :], -1).logsumexp(-2)


def _newton_step(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The step in b ``(B, n)``, the largest miss of a column sum ``(B, 1)``, the largest relative to L's diagonal."""
    W = _others(z) * (z.mT @ z)
    shared = W.sum(-1)
    largest, in_row = z.argmax(-2, keepdim=True), z.argmax(-1, keepdim=True)
    # 1'z - 1: what the others put into the column, less what its largest entry's row puts elsewhere
    elsewhere = (1 - z).scatter(-1, in_row, z.scatter(-1, in_row, 0.0).sum(-1, keepdim=True))
    miss = z.scatter(-2, largest, 0.0).sum(-2) - elsewhere.gather(-2, largest)[..., 0, :]
    db = solve(miss, W)
    missing = miss.abs()
    db = torch.where((shared > NOTHING) | (missing > NOTHING), db, 0.0)
    relative = (missing - NOTHING).clamp_min(0.0) / shared.clamp_min(NOTHING**2)
    return db, missing.amax(-1, keepdim=True), relative.amax(-1, keepdim=True)


def shared(d: torch.Tensor) -> torch.Tensor:
    """W ``(B, n, n)``, 0 on the diagonal, W_jk = sum_i d_ij d_ik / (d 1)_i, for d ``(B, n, n)``."""
    return _others(d) * (d.mT @ (d / _row_sums(d)))


def _row_sums(d: torch.Tensor) -> torch.Tensor:
    sums = d.sum(-1, keepdim=True)
    return torch.where(sums > 0, sums, 1.0)


def _others(d: torch.Tensor) -> torch.Tensor:
    """E = 1 1' - I ``(n, n)`` for d ``(B, n, n)``."""
    return 1 - torch.eye(d.shape[-1], dtype=d.dtype, device=d.device)


def times_jacobian(g: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """(dz/du) g for g and d = dz/du at fixed a and b, ``(B, n, n)``."""
    sums, largest = _row_sums(d), d.argmax(-1, keepdim=True)

    def covariance(g: torch.Tensor) -> torch.Tensor:  # C(g)
        h = g - g.gather(-1, largest)  # so the largest of d is not summed, and its entry is what the others sum to
        return d * (h * sums - (d * h).sum(-1, keepdim=True)) / sums

    return covariance(g - potentials(covariance(g).sum(-2), shared(d))[..., None, :])


softmax = SymmetricMap(entropic, lambda g, u, z: times_jacobian(g, z))

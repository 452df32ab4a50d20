"""Newton's method on the dual with a working set of facets: few multipliers, whatever the number of facets.

    maximize <u, z> - sum phi(z_i)   over   E z = e,  low <= z <= high,  G z <= h

    z(nu, lam) = phi*'(u - E'nu - W'lam) clamped to [low, high],      W: the rows of G in the working set, lam >= 0

The dual objective is convex with gradient (e - E z, h_W - W z). A step solves with its Hessian, R H R' for R = (E, W)
and H = 1 / phi'' where z is not clamped, else 0; rows whose multiplier would turn negative are put to 0 and the others
solved for again. When the working set is settled the most violated of all inequalities joins it. It never comes back to
a former set: the dual objective falls from set to set. At T = 1 few instances have any tight facet but the bounds.

Where the utilities spread far an entropy is too curved for Newton from afar: there u is scaled down to a spread of 14
and brought back by a factor of 1.6 at a time, the multipliers with it (at low temperature they are proportional to u).
Every instance is on its own; an entry that -inf forbids has low = high = 0 in its instance.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch

from cvxsst.engines.facets.inequalities import Cuts, Inequalities
from cvxsst.regularizers import Separable

STEPS = 400
HALVINGS = 30
NEAR_SPREAD, GROWTH = 14.0, 1.6
TOLERANCE = 1e-13  # of E z - e and W z - h, in units of z
ROUGH = 1e-3  # the same where u is still scaled down
EARLY = 1e-1  # error up to which the most violated inequality joins a working set that is not yet settled
CAREFUL = 150  # steps from which on it is settled first
DAMPING = (1e-13, 1e-10, 1e-7)  # of R H R', relative to its diagonal; the next where a step would be absurd
ABSURD = 1e3  # so many times the longest step
FLAT = 1e-100  # a curvature that is none
LONGEST = 30.0  # a step moves u - R'mu by the spread of u and this, at most
ROUNDING = 4 * torch.finfo(torch.float64).eps  # of z, relative to the spread of u


@dataclass
class Program:
    """What all instances share, in the entries of z that P does not fix.

    Attributes:
        E, e: the affine hull. gram: Cholesky factor of E E'.
        low, high: the bounds that z is clamped to; infinite where others imply them.
        center: phi' at an interior point.
        size: the largest entry of P.
    """

    E: torch.Tensor
    e: torch.Tensor
    gram: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    center: torch.Tensor
    inequalities: Inequalities
    f: Separable
    size: float

    def to(self, device: torch.device) -> Program:
        moved = {name: getattr(self, name).to(device) for name in ("E", "e", "gram", "low", "high", "center")}
        return Program(**moved, inequalities=self.inequalities.to(device), f=self.f, size=self.size)


class Found(NamedTuple):
    """z ``(B, n)``, the working set W ``(B, K, n)`` with multipliers ``(B, K)``, residual, iterations ``(B,)``."""

    z: torch.Tensor
    W: torch.Tensor
    lam: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor

    @staticmethod
    def nothing(u: torch.Tensor) -> Found:
        """For a polytope of one point, or no instances."""
        B, n = u.shape
        zeros = u.new_zeros(B)
        return Found(u.new_zeros(B, n), u.new_zeros(B, 0, n), u.new_zeros(B, 0), zeros, zeros.long())


@dataclass
class Live:
    """The instances that are still on their way; all tensors B first.

    Attributes:
        index: positions in the batch.
        u, low, high: their data. scale: the factor on u. goal: the tolerance. longest: the limit on a step.
        nu, lam: multipliers. W, h: the working sets, rows of zeros where an instance has fewer.
        z: phi*' of the multipliers. miss: (E z - e, W z - h).
    """

    index: torch.Tensor
    u: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    goal: torch.Tensor
    longest: torch.Tensor
    scale: torch.Tensor
    nu: torch.Tensor
    lam: torch.Tensor
    W: torch.Tensor
    h: torch.Tensor
    z: torch.Tensor
    miss: torch.Tensor

    def aim(self, program: Program) -> torch.Tensor:
        """The error with which an instance goes on: to a larger scale, or to the end."""
        return torch.where(self.scale < 1, ROUGH * program.size, self.goal)

    def of(self, which: torch.Tensor) -> Live:
        """Some of the instances."""
        return Live(*(getattr(self, field.name)[which] for field in fields(self)))


def solve(program: Program, u: torch.Tensor, forbidden: torch.Tensor | None) -> Found:
    """z for the rows of u ``(B, n)``; ``forbidden`` ``(B, n)``, bool: entries held at 0."""
    B = len(u)
    live = _start(program, u, forbidden)
    z, residual = live.z.clone(), u.new_full((B,), torch.inf)
    iterations = torch.zeros(B, dtype=torch.long, device=u.device)
    finished: list[Live] = []
    for step in range(STEPS + 1):
        error = _error(live)
        near = error <= (EARLY * program.size if step < CAREFUL else live.aim(program))
        done = torch.zeros_like(near)
        if bool(near.any()):
            done, error = _extend(program, live, near, error)
        if step == STEPS:
            done = torch.ones_like(done)
        if bool(done.any()):
            z[live.index[done]], residual[live.index[done]] = live.z[done], error[done]
            iterations[live.index[done]] = step
            finished.append(live.of(done))
            live = live.of(~done)
            if not len(live.index):
                break
        _newton(program, live)
    W, lam = _working_sets(finished, B)
    return Found(z, W, lam, residual, iterations)


def _start(program: Program, u: torch.Tensor, forbidden: torch.Tensor | None) -> Live:
    B, n = u.shape
    low, high = program.low.expand(B, n), program.high.expand(B, n)
    if forbidden is not None:
        low, high = low.masked_fill(forbidden, 0.0), high.masked_fill(forbidden, 0.0)
        u = u.masked_fill(forbidden, 0.0)
    spread = u.amax(1) - u.amin(1)
    scale = (NEAR_SPREAD / spread).clamp(max=1.0) if program.f.steep else torch.ones_like(spread)
    nu = torch.cholesky_solve(program.E @ (u * scale[:, None] - program.center).T, program.gram).T
    live = Live(
        index=torch.arange(B, device=u.device),
        u=u,
        low=low,
        high=high,
        goal=TOLERANCE * program.size + ROUNDING * spread,
        longest=LONGEST + spread,
        scale=scale,
        nu=nu,
        lam=u.new_zeros(B, 0),
        W=u.new_zeros(B, 0, n),
        h=u.new_zeros(B, 0),
        z=u,
        miss=u,
    )
    live.z, live.miss = _at(program, live, live.nu, live.lam)
    return live


def _at(program: Program, live: Live, nu: torch.Tensor, lam: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """z and (E z - e, W z - h) at multipliers."""
    v = live.u * live.scale[:, None] - _moved(program, live, torch.cat([nu, lam], 1))
    z = program.f.primal(v).clamp(live.low, live.high)
    miss = torch.addmm(-program.e, z, program.E.T)
    if lam.shape[1]:
        miss = torch.cat([miss, (live.W @ z[..., None])[..., 0] - live.h], 1)
    return z, miss


def _error(live: Live) -> torch.Tensor:
    """How far the working set is from settled: |E z - e|, |W z - h| where lam > 0, its positive part elsewhere."""
    m = live.nu.shape[1]
    equal = live.miss[:, :m].abs()
    rows = torch.where(live.lam > 0, live.miss[:, m:].abs(), live.miss[:, m:])
    return torch.cat([equal, rows, equal.new_zeros(len(equal), 1)], 1).amax(1)


def _extend(program: Program, live: Live, near: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Let the most violated inequality join, in instances whose working set is nearly settled; which are done, and the
    error with what they violate."""
    which, settled = near.nonzero()[:, 0], error <= live.aim(program)
    cut = program.inequalities.cuts(live.z[which])
    if cut.h.shape[1]:
        cut = cut.worst()
        violation = cut.violation[:, 0]
        violated = violation > torch.where(settled, live.aim(program), 2 * error)[which]
        error = error.index_put((which,), error[which].maximum(violation))
        if bool(violated.any()):
            _join(live, which[violated], cut.of(violated))
            settled[which[violated]] = False
            live.z, live.miss = _at(program, live, live.nu, live.lam)
    return _grow(program, live, settled), error


def _grow(program: Program, live: Live, settled: torch.Tensor) -> torch.Tensor:
    """Bring u closer to what it is; which instances are there."""
    small = settled & (live.scale < 1)
    if not bool(small.any()):
        return settled
    factor = torch.where(small, (1 / live.scale).clamp(max=GROWTH), 1.0)
    live.scale = torch.where(small, (live.scale * factor).clamp(max=1.0), live.scale)
    live.nu, live.lam = live.nu * factor[:, None], live.lam * factor[:, None]
    live.z, live.miss = _at(program, live, live.nu, live.lam)
    return settled & ~small


def _join(live: Live, which: torch.Tensor, cut: Cuts) -> None:
    """A row with multiplier 0, in place of one that has none either, or one more."""
    m = live.nu.shape[1]
    unused = (live.lam == 0) & (live.miss[:, m:] <= 0)
    if not live.lam.shape[1] or not bool(unused[which].any(1).all()):
        pad = torch.nn.functional.pad
        live.W, live.h, live.lam = pad(live.W, (0, 0, 0, 1)), pad(live.h, (0, 1)), pad(live.lam, (0, 1))
        unused = pad(unused, (0, 1), value=True)
    slot = unused[which].to(torch.uint8).argmax(1)
    live.W[which, slot], live.h[which, slot] = cut.G[:, 0], cut.h[:, 0]


def _newton(program: Program, live: Live) -> None:
    """One step, shortened until the dual objective, convex, is not far past its least value."""
    if not live.miss.shape[1]:
        return
    # What is left of a settled row is rounding, and as a step may be of any size.
    error = _error(live)
    miss = live.miss.masked_fill(live.miss.abs() <= 0.1 * live.goal[:, None], 0.0)
    direction = _direction(program, live, miss, error, DAMPING[0])
    moved = _moved(program, live, direction).abs().amax(1)
    for damping in DAMPING[1:]:
        # A direction that moves u absurdly far is rounding, along which no z moves: damped, the others can be seen.
        rows = (moved > ABSURD * live.longest).nonzero()[:, 0]
        if not len(rows):
            break
        part = live.of(rows)
        direction[rows] = _direction(program, part, miss[rows], error[rows], damping)
        moved[rows] = _moved(program, part, direction[rows]).abs().amax(1)
    slope = (miss * direction).sum(1)  # minus the derivative at t = 0
    enough = 0.5 * slope + 0.1 * live.goal * direction.abs().sum(1)  # the second part is rounding
    t = (live.longest / moved).clamp(max=1.0)
    past = _move(program, live, t, direction)
    rows = (past > enough).nonzero()[:, 0]
    if len(rows):
        _shorten(program, live, rows, *(x[rows] for x in (t, direction, enough, past)))


def _move(program: Program, live: Live, t: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Go t along the direction; returns the derivative of the dual objective there."""
    m = live.nu.shape[1]
    step = t[:, None] * direction
    live.nu, live.lam = live.nu + step[:, :m], (live.lam + step[:, m:]).clamp_min(0.0)
    live.z, live.miss = _at(program, live, live.nu, live.lam)
    return -(live.miss * direction).sum(1)


def _shorten(
    program: Program,
    live: Live,
    rows: torch.Tensor,
    t: torch.Tensor,
    direction: torch.Tensor,
    enough: torch.Tensor,
    past: torch.Tensor,
) -> None:
    """For these instances, which have gone t and so too far: the derivative is convex in t, 0 in between. Where an entry
    comes off its bound it jumps, so that a step which is merely not too far may be nearly none."""
    low, high = torch.zeros_like(t), t
    derivative, at = past, t
    part = live.of(rows)
    for _ in range(HALVINGS):
        far = derivative > enough
        near = derivative < -enough
        if not bool((far | near).any()):
            break
        low, high = torch.where(near, at, low), torch.where(far, at, high)
        new = torch.where(far | near, (low + high) / 2, at)
        derivative, at = _move(program, part, new - at, direction), new
    for name in ("nu", "lam", "z", "miss"):
        getattr(live, name)[rows] = getattr(part, name)


def _moved(program: Program, live: Live, multipliers: torch.Tensor) -> torch.Tensor:
    """E'nu + W'lam, ``(B, n)``."""
    m = live.nu.shape[1]
    moved = multipliers[:, :m] @ program.E
    return moved + (multipliers[:, None, m:] @ live.W)[:, 0] if live.lam.shape[1] else moved


def _direction(program: Program, live: Live, miss: torch.Tensor, size: torch.Tensor, relative: float) -> torch.Tensor:
    """(R H R' + damping) d = miss in the free rows; lam + d = 0 in those that would turn negative."""
    m, r = live.nu.shape[1], miss.shape[1]
    H = program.f.slope(live.z) * ((live.z > live.low) & (live.z < live.high))
    S = _normal_matrix(program.E, live.W, H)
    diagonal = S.diagonal(dim1=1, dim2=2)
    damping = relative * diagonal.amax(1) + 1e-3 * size.clamp_max(1.0).square() * diagonal.mean(1)
    S = S + torch.diag_embed(
        damping[:, None] + (diagonal < FLAT) * (0.1 * size / live.longest).clamp_min(FLAT)[:, None]
    )
    if r == m:
        return _solve(S, miss)
    free = torch.ones_like(miss, dtype=torch.bool)
    free[:, m:] = (live.lam > 0) | (miss[:, m:] > 0)
    left = torch.nn.functional.pad(live.lam, (m, 0), value=torch.inf)  # lam + d, which may not fall below 0
    d = torch.zeros_like(miss)
    for _ in range(r):
        right = torch.where(free, miss - (S @ d.masked_fill(free, 0.0)[..., None])[..., 0], 0.0)
        both = free[:, :, None] & free[:, None]
        step = torch.where(free, _solve(torch.where(both, S, 0.0) + torch.diag_embed((~free).to(S)), right) - d, 0.0)
        way, first = torch.where(step < 0, -left / step, torch.inf).min(1)
        d = d + way.clamp(max=1.0)[:, None] * step
        left = left + way.clamp(max=1.0)[:, None] * step
        stopped = way < 1
        if not bool(stopped.any()):
            break
        rows = stopped.nonzero()[:, 0]
        free[rows, first[rows]], left[rows, first[rows]] = False, 0.0
        d[rows, first[rows]] = -live.lam[rows, first[rows] - m]
    return d


def _normal_matrix(E: torch.Tensor, W: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """R H R' for R = (E, W), ``(B, r, r)``."""
    EH = E * H[:, None]
    top = EH @ E.T
    if not W.shape[1]:
        return top
    mixed = EH @ W.mT
    return torch.cat([torch.cat([top, mixed], 2), torch.cat([mixed.mT, (W * H[:, None]) @ W.mT], 2)], 1)


def _solve(S: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """S^-1 right, S scaled to a diagonal of 1."""
    root = S.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    L, _ = torch.linalg.cholesky_ex(S * root[:, :, None] * root[:, None])
    return root * torch.cholesky_solve((root * right)[..., None], L)[..., 0]


def _working_sets(finished: list[Live], B: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W and lam of all instances, padded with zeros to the largest working set."""
    most = max(part.lam.shape[1] for part in finished)
    W = finished[0].W.new_zeros(B, most, finished[0].u.shape[1])
    lam = W.new_zeros(B, most)
    for part in finished:
        k = part.lam.shape[1]
        W[part.index, :k], lam[part.index, :k] = part.W, part.lam
    return W, lam

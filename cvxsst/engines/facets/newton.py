"""Newton's method on the dual with a working set of facets: few multipliers, whatever the number of facets.

    maximize <u, z> - sum phi(z_i)   over   E z = e,  low <= z <= high,  G z <= h

    z(mu) = phi*'(u - R'mu) clamped to [low, high],      R = (E, W),  mu = (nu, lam),  lam >= 0

W are the rows of G in the working set.

The dual objective is convex with gradient (e - E z, h_W - W z). A step solves with its Hessian, R H R' for R = (E, W)
and H = 1 / phi'' where z is not clamped, else 0; rows whose multiplier would turn negative are put to 0 and the others
solved for again. When the working set is settled the most violated of all inequalities joins it. It never comes back to
a former set: the dual objective falls from set to set. At T = 1 few instances have any tight facet but the bounds.

Where the utilities spread far an entropy is too curved for Newton from afar: there u is scaled down to a spread of 14
and brought back by a factor of 2.5 at a time, the multipliers with it (at low temperature they are proportional to u).
What is not solved so is tried again ``CAREFUL``ly: any f in that way, with smaller steps, each to where the dual
objective is least. A step that is cut short without a turn in sight may be longer the next time: rows in small units
need multipliers of any size.
Every instance is on its own; an entry that -inf forbids has low = high = 0 in its instance.

Edmonds 1970 and 1971 (forests, arborescences), Edmonds 1965 (matchings) and Rado 1952 (the permutahedron) describe
polytopes that way; Goldfarb and Idnani 1983 is this method for a quadratic f.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch

from cvxsst.engines.facets.inequalities import Cuts, Inequalities
from cvxsst.engines.facets.lifting import Lifting
from cvxsst.engines.facets.rows import Factor, Rows
from cvxsst.regularizers import Separable

HALVINGS = 30
TOLERANCE = 1e-13  # of E z - e and W z - h, in units of z
ROUNDING = 4 * torch.finfo(torch.float64).eps  # of z, relative to the spread of u
REACHED = 1e-9  # the same where rounding allows no more
ROUGH = 1e-3  # the same where u is still scaled down
EARLY = 1e-1  # error up to which the most violated inequality joins a working set that is not yet settled
DAMPING = (1e-13, 1e-10, 1e-7)  # of R H R', relative to its diagonal; the next where a step would be absurd
ABSURD = 1e3  # so many times the longest step
FLAT = 1e-100  # a curvature that is none
LONGEST = 30.0  # a step moves u - R'mu by the spread of u and this, at most
MOST_NUMBERS = {"cpu": 2**21, "cuda": 2**26}  # of R for the instances that are solved at a time
ROWS = 8  # of W, expected


class Manner(NamedTuple):
    """How to go.

    Attributes:
        steps: at most.
        spread: of u at first, if f is steep; ``elsewhere``: if not, in units of P.
        growth: of u, once that is solved.
        past: how far a step may go past the least value of the dual objective, as a share of its slope.
        eager: whether inequalities join a working set that is not yet settled.
    """

    steps: int
    spread: float
    elsewhere: float
    growth: float
    past: float
    eager: bool


USUAL = Manner(100, 14.0, torch.inf, 2.5, 0.5, True)
CAREFUL = Manner(400, 5.0, 5.0, 2.0, 0.05, False)


@dataclass
class Program:
    """What all instances share, in the entries of z that P does not fix.

    Attributes:
        E, e: the affine hull. gram: Cholesky factor of E E'.
        low, high: the bounds that z is clamped to; infinite where others imply them.
        center: phi' at an interior point.
        size: the largest entry of P, at least 1.
        lifting: of the description.
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
    lifting: Lifting | None

    def to(self, device: torch.device) -> Program:
        names = ("E", "e", "gram", "low", "high", "center", "inequalities")
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved, lifting=self.lifting and self.lifting.to(device))

    def chunks(self, B: int, rows: int = ROWS) -> int:
        """Into how many chunks a batch of B is cut."""
        numbers = B * (len(self.e) + rows) * len(self.low)
        return max(1, round(numbers / MOST_NUMBERS.get(self.e.device.type, 2**26)))

    def slope(self, z: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """H: how z moves with its own utility, 0 where it is clamped."""
        return self.f.slope(z) * inside


class Found(NamedTuple):
    """z ``(B, n)``, where it is not clamped ``(B, n)``, the working set W ``(B, K, n)``, h with multipliers ``(B, K)``,
    residual, iterations ``(B,)``."""

    z: torch.Tensor
    inside: torch.Tensor
    W: torch.Tensor
    h: torch.Tensor
    lam: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor

    @staticmethod
    def empty(u: torch.Tensor) -> Found:
        """To be filled in, for u ``(B, n)``."""
        B, n = u.shape
        inside, iterations = torch.zeros_like(u, dtype=torch.bool), torch.zeros(B, dtype=torch.long, device=u.device)
        W, nothing = u.new_zeros(B, 0, n), u.new_zeros(B, 0)
        return Found(u.new_zeros(B, n), inside, W, nothing, nothing, u.new_zeros(B), iterations)

    def still_to_go(self, program: Program) -> torch.Tensor:
        """How far another step of Newton's method would move z: what rows in other units miss, in units of z."""
        H = program.slope(self.z, self.inside)
        rows = Rows(program.E, self.W.masked_fill((self.lam <= 0)[..., None], 0.0))
        if not len(program.e) and not self.W.shape[1]:
            return torch.zeros_like(self.residual)
        right = torch.cat([program.e.expand(len(H), -1), self.h.masked_fill(self.lam <= 0, 0.0)], 1)
        step = Factor(rows.normal_matrix(H), 1e-14).solve(rows.times(self.z) - right)
        return (H * rows.transposed(step)).abs().amax(1).nan_to_num(nan=torch.inf)

    def put(self, rows: torch.Tensor, other: Found) -> Found:
        """These instances replaced; their iterations add up."""
        K, more, pad = other.lam.shape[1], max(0, other.lam.shape[1] - self.lam.shape[1]), torch.nn.functional.pad
        W, h, lam = pad(self.W, (0, 0, 0, more)), pad(self.h, (0, more)), pad(self.lam, (0, more))
        for mine, theirs in ((W, other.W), (h, other.h), (lam, other.lam)):
            mine[rows, :K], mine[rows, K:] = theirs, 0.0
        for mine, theirs in ((self.z, other.z), (self.inside, other.inside), (self.residual, other.residual)):
            mine[rows] = theirs
        self.iterations[rows] += other.iterations
        return self._replace(W=W, h=h, lam=lam)


@dataclass
class Live:
    """The instances that are still on their way; all tensors B first.

    Attributes:
        index: positions in the batch.
        u, low, high: their data; spread: of u; scale: a factor on u. goal: the tolerance. longest: the limit on a step.
        clear: nothing was violated when last asked about this working set. mu: multipliers, those of E first.
        W, h: the working sets, rows of zeros where an instance has fewer.
        z: phi*' of the multipliers. miss: (E z - e, W z - h).
    """

    index: torch.Tensor
    u: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    spread: torch.Tensor
    goal: torch.Tensor
    longest: torch.Tensor
    scale: torch.Tensor
    clear: torch.Tensor
    mu: torch.Tensor
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

    @property
    def inside(self) -> torch.Tensor:
        return (self.z > self.low) & (self.z < self.high)

    def at(self, program: Program, mu: torch.Tensor) -> None:
        """Go to these multipliers."""
        rows = Rows(program.E, self.W)
        normal = rows.transposed(mu)
        z = program.f.primal(self.u * self.scale[:, None] - normal).clamp(self.low, self.high)
        right = torch.cat([program.e.expand(len(z), -1), self.h], 1) if self.h.shape[1] else program.e
        self.mu, self.z, self.miss = mu, z, rows.times(z) - right
        rounding = ROUNDING * (program.slope(z, self.inside) * (self.spread[:, None] + normal.abs())).sum(1)
        self.goal = (TOLERANCE * program.size + rounding).clamp(max=REACHED * program.size)


def solve(program: Program, u: torch.Tensor, low: torch.Tensor, high: torch.Tensor, manner: Manner = USUAL) -> Found:
    """z for the rows of u ``(B, n)``, clamped to low and high ``(B, n)``; ``residual``: how far E z = e, the bounds and
    all inequalities are missed, and those with lam > 0 not met with equality."""
    found, start = Found.empty(u), 0
    for part in zip(*(x.tensor_split(program.chunks(len(u))) for x in (u, low, high)), strict=True):
        found = _run(program, _start(program, manner, start, *part), found, manner)
        start += len(part[0])
    return found


def _run(program: Program, live: Live, found: Found, manner: Manner) -> Found:
    for step in range(manner.steps + 1):
        error = _error(program, live)
        near = error <= live.aim(program)
        if manner.eager:
            near |= (error <= EARLY * program.size) & ~live.clear
        near |= step == manner.steps  # nothing counts that was not held against all inequalities
        done = torch.zeros_like(near)
        if bool(near.any()):
            done, error = _extend(program, live, near, error, manner.growth)
        if step == manner.steps:
            done = torch.ones_like(done)
        if bool(done.any()):
            part, m = live.of(done), len(program.e)
            steps = torch.full_like(part.index, step)
            told = Found(part.z, part.inside, part.W, part.h, part.mu[:, m:], error[done], steps)
            found = found.put(part.index, told)
            live = live.of(~done)
            if not len(live.index):
                break
        _newton(program, live, manner.past)
    return found


def _start(
    program: Program, manner: Manner, start: int, u: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> Live:
    B, n = u.shape
    spread = u.amax(1) - u.amin(1)
    near = manner.spread if program.f.steep else manner.elsewhere * program.size
    scale = (near / spread).clamp(max=1.0)
    reach = 0.0 if program.f.steep else 2 * program.size  # of phi'
    mu = torch.cholesky_solve(program.E @ (u * scale[:, None] - program.center).T, program.gram).T
    index = start + torch.arange(B, device=u.device)
    nothing = u.new_zeros(B, 0, n)
    clear = torch.zeros(B, dtype=torch.bool, device=u.device)
    live = Live(
        index,
        u,
        low,
        high,
        spread,
        spread,
        LONGEST + spread * scale + reach,
        scale,
        clear,
        mu,
        nothing,
        nothing[:, :, 0],
        u,
        u,
    )
    live.at(program, mu)
    return live


def _error(program: Program, live: Live) -> torch.Tensor:
    """How far the working set is from settled: |E z - e|, |W z - h| where lam > 0, its positive part elsewhere."""
    m, miss = len(program.e), live.miss
    if not miss.shape[1]:
        return torch.zeros_like(live.scale)
    if miss.shape[1] > m:
        lam = live.mu[:, m:]
        miss = torch.cat([miss[:, :m], torch.where(lam > 0, miss[:, m:], miss[:, m:].clamp_min(0.0))], 1)
    return miss.abs().amax(1)


def _extend(
    program: Program, live: Live, near: torch.Tensor, error: torch.Tensor, growth: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let the most violated inequality join, in instances whose working set is nearly settled; which are done, and the
    error with what they violate."""
    which, aim = near.nonzero()[:, 0], live.aim(program)
    settled = error <= aim
    cut = program.inequalities.cuts(live.z[which])
    if cut.h.shape[1]:
        cut = cut.worst()
        violation = cut.violation[:, 0]
        violated = violation > torch.where(settled, aim, 2 * error)[which]
        error = error.index_put((which,), error[which].maximum(violation))
        live.clear[which] = violation <= 0
        if bool(violated.any()):
            _join(program, live, which[violated], cut.of(violated))
            settled[which[violated]] = False
    return _grow(program, live, settled, growth), error


def _grow(program: Program, live: Live, settled: torch.Tensor, growth: float) -> torch.Tensor:
    """Bring u closer to what it is; which instances are there."""
    small = settled & (live.scale < 1)
    if bool(small.any()):
        factor = torch.where(small, (1 / live.scale).clamp(max=growth), 1.0)
        live.scale = torch.where(small, (live.scale * factor).clamp(max=1.0), live.scale)
        live.clear &= ~small
        live.at(program, live.mu * factor[:, None])
    return settled & ~small


def _join(program: Program, live: Live, which: torch.Tensor, cut: Cuts) -> None:
    """A row with multiplier 0, in place of one that has none either, or one more."""
    m, pad = len(program.e), torch.nn.functional.pad
    unused = (live.mu[:, m:] == 0) & (live.miss[:, m:] <= 0)
    if not unused.shape[1] or not bool(unused[which].any(1).all()):
        live.W, live.h, live.mu = pad(live.W, (0, 0, 0, 1)), pad(live.h, (0, 1)), pad(live.mu, (0, 1))
        live.miss, unused = pad(live.miss, (0, 1)), pad(unused, (0, 1), value=True)
    slot = unused[which].to(torch.uint8).argmax(1)
    live.W[which, slot], live.h[which, slot] = cut.G[:, 0], cut.h[:, 0]
    live.miss[which, m + slot] = cut.violation[:, 0]


def _newton(program: Program, live: Live, share: float) -> None:
    """One step, shortened until the dual objective, convex, is not far past its least value."""
    if not live.miss.shape[1]:
        return
    # What is left of a settled row is rounding, and as a step may be of any size.
    error = _error(program, live)
    miss = live.miss.masked_fill(live.miss.abs() <= 0.1 * live.goal[:, None], 0.0)
    direction = _direction(program, live, miss, error, DAMPING[0])
    moved = Rows(program.E, live.W).transposed(direction).abs().amax(1)
    for damping in DAMPING[1:]:
        # A direction that moves u absurdly far, or is none, is rounding, along which no z moves: damped, the others can
        # be seen.
        rows = (~(moved <= ABSURD * live.longest)).nonzero()[:, 0]
        if not len(rows):
            break
        part = live.of(rows)
        direction[rows] = _direction(program, part, miss[rows], error[rows], damping)
        moved[rows] = Rows(program.E, part.W).transposed(direction[rows]).abs().amax(1)
    enough = share * (miss * direction).sum(1) + 0.1 * live.goal * direction.abs().sum(1)  # the second part is rounding
    t = (live.longest / moved).clamp(max=1.0)
    past = _move(program, live, t, direction)
    live.longest = torch.where((t < 1) & (past < -enough), 4 * live.longest, live.longest)
    rows = (past > enough).nonzero()[:, 0]
    if len(rows):
        _shorten(program, live, rows, *(x[rows] for x in (t, direction, enough, past)))


def _move(program: Program, live: Live, t: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Go t along the direction; returns the derivative of the dual objective there."""
    mu, m = live.mu + t[:, None] * direction, len(program.e)
    if mu.shape[1] > m:
        mu[:, m:].clamp_(min=0.0)
    live.at(program, mu)
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
    """For these instances, which have gone t and so too far: the derivative rises with t and is 0 in between. Where an
    entry comes off its bound it jumps, so that a step which is merely not too far may be nearly none."""
    low, high = torch.zeros_like(t), t
    part = live.of(rows)
    for _ in range(HALVINGS):
        far, near = past > enough, past < -enough
        if not bool((far | near).any()):
            break
        low, high = torch.where(near, t, low), torch.where(far, t, high)
        new = torch.where(far | near, (low + high) / 2, t)
        past, t = _move(program, part, new - t, direction), new
    live.mu[rows], live.z[rows], live.miss[rows], live.goal[rows] = part.mu, part.z, part.miss, part.goal


def _direction(program: Program, live: Live, miss: torch.Tensor, error: torch.Tensor, relative: float) -> torch.Tensor:
    """The step towards the least value of the quadratic model, (R H R' + damping) d = miss, in the rows that have a
    multiplier or want one; where a multiplier would turn negative it stays at 0, and the way goes on in the others."""
    m, r = len(program.e), miss.shape[1]
    S = Rows(program.E, live.W).normal_matrix(program.slope(live.z, live.inside))
    diagonal = S.diagonal(dim1=1, dim2=2)
    damping = relative + 1e-3 * error.clamp_max(1.0).square()
    flat = (0.1 * error / live.longest).clamp_min(FLAT)  # all of z clamped: a step of the order of u
    diagonal.add_(damping[:, None] * diagonal + (diagonal < FLAT) * flat[:, None])
    if r == m:
        return Factor(S).solve(miss)
    lam = live.mu[:, m:]
    free = torch.ones_like(miss, dtype=torch.bool)
    free[:, m:] = (lam > 0) | (miss[:, m:] > 0)
    left = torch.nn.functional.pad(lam, (m, 0), value=torch.inf)  # lam + d
    d, eye = torch.zeros_like(miss), torch.eye(r, dtype=S.dtype, device=S.device)
    for _ in range(r):
        held = (S @ d.masked_fill(free, 0.0)[..., None])[..., 0]
        both = free[:, :, None] & free[:, None]
        target = Factor(torch.where(both, S, eye)).solve((miss - held).masked_fill(~free, 0.0))
        step = (target - d).masked_fill(~free, 0.0)
        way, first = torch.where(step < 0, -left / step, torch.inf).min(1)
        step *= way.clamp(max=1.0)[:, None]
        d, left = d + step, left + step
        rows = (way < 1).nonzero()[:, 0]
        if not len(rows):
            break
        stopped = first[rows]
        free[rows, stopped], left[rows, stopped], d[rows, stopped] = False, 0.0, -live.mu[rows, stopped]
    return d

"""Primal-dual interior point method over any polytope, all instances of a batch at once (Mehrotra 1992).

    minimize  tau sum_i phi(z_i) - <u, z>   over   A x = b,  G x + s = h,  s >= 0,      x = (z, y)

    optimal:  tau phi'(z) - u + (A'nu + G'lam)_z = 0,   (A'nu + G'lam)_y = 0,   s lam = 0,   s, lam >= 0

Every instance starts from the analytic centre (``centre``), where s = 1, with lam = mu for a mu at which the objective
moves it by about its own distance from the facets; Newton's method follows s lam = mu as mu falls, with Mehrotra's
corrector (no larger than mu: far from the path it misleads) and feasibility no faster than centrality. z is
unique at the optimum; y need not be: a proximal term keeps each step in y short (Friedlander and Orban 2012) without
moving the limit, and no result depends on y. u is scaled so that its spread is 1, then tau = 1 / spread.

An entropy is continued quadratically below EDGE (and above 1 - EDGE), where its second derivative would exceed 1 /
EDGE: entries of z that small are then the business of the bound z >= 0, and come out between 0 and EDGE.

An instance stops when the Newton step to mu = 0, which near the solution is the error, moves z by less than a
tolerance; it leaves the batch, so that none can disturb another. What is returned is judged by its duality gap. Layout:
instances last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from cvxsst.engines.kkt.elimination import DELTA, Factor, Pattern
from cvxsst.engines.kkt.matrix import Matrix
from cvxsst.regularizers import Separable

TOLERANCE = 2e-11  # of the Newton step in z, relative to the largest entry over P if > 1
EDGE = 1e-13
NEAR = 1e-6  # to an end of the domain
PROXIMAL = 1e-6  # on y, where u has spread 1
LEAST_SHARE = 1e-3
LEAST_MU = 1e-9
LEAST_SLACK = 0.1  # in units of the slacks at the centre
NO_GAP = 1e-18  # a smaller sum of s lam is no progress
UNREFINED = 5  # steps in which a rough direction will do
# A duality gap that is no rounding: absolute for P of size 1, and relative to the reach of <u, z> over P.
GROSS, GROSS_RELATIVE = 1e-8, 1e-9


class Manner(NamedTuple):
    """How to go: steps at most; steps without progress before giving up; which part of the way to the boundary; how
    much of mu is kept at least; how often a direction is refined (none of the first ``UNREFINED`` if usual)."""

    steps: int
    patience: int
    to_boundary: float
    least_centring: float
    refinements: int


USUAL = Manner(steps=80, patience=10, to_boundary=0.995, least_centring=0.0, refinements=1)
CAREFUL = Manner(steps=300, patience=40, to_boundary=0.9, least_centring=0.1, refinements=4)


@dataclass
class Program:
    """What all instances share: the matrices, on one device, their elimination, an interior point.

    With parameters, ``b``, ``h``, ``start`` and the entries of the matrices are those of one batch, a column for each
    instance; else a single column.
    """

    pattern: Pattern
    b: torch.Tensor  # ``(m, 1)``
    h: torch.Tensor  # ``(p, 1)``
    n: int
    start: torch.Tensor  # ``(N, 1)``
    f: Separable
    in_domain: torch.Tensor  # which rows of G say no more than the domain of phi
    lengths: torch.Tensor  # of the rows of G, squared
    proximal: torch.Tensor  # ``(N - n, 1)``, for y
    unit: torch.Tensor  # ``(N, 1)``, of the columns: x = unit * (those of the program), which are about 1 at most

    def to(self, device: torch.device) -> Program:
        if self.b.device == device:
            return self
        moved = {
            name: getattr(self, name).to(device)
            for name in ("pattern", "b", "h", "start", "in_domain", "lengths", "proximal", "unit")
        }
        return Program(**moved, n=self.n, f=self.f)

    def of(self, columns: torch.Tensor) -> Program:
        """That of some instances."""
        if self.b.shape[1] == self.h.shape[1] == self.start.shape[1] == 1 and self.pattern.a.shape[1] == 1:
            return self
        b, h, start = (t if t.shape[1] == 1 else t[:, columns] for t in (self.b, self.h, self.start))
        return replace(self, pattern=self.pattern.of(columns), b=b, h=h, start=start)

    @property
    def A(self) -> Matrix:  # noqa: N802 - as the formulas call it
        return self.pattern.A

    @property
    def G(self) -> Matrix:  # noqa: N802
        return self.pattern.G

    @cached_property
    def stiffness(self) -> torch.Tensor:
        """The largest second derivative of phi(unit x) where they start, ``(1,)`` or ``(B,)``."""
        return self.smooth(self.start[: self.n])[1].amax(dim=0)

    @property
    def slack(self) -> torch.Tensor:
        """Where s starts: 1 at the centre, with parameters what is there, or LEAST_SLACK."""
        if self.start.shape[1] == 1:
            return torch.ones_like(self.h)
        return (self.h - self.G @ self.start).clamp_min(LEAST_SLACK)

    def smooth(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first two derivatives of phi(unit x), continued linearly where phi'' would exceed 1 / EDGE."""
        unit = self.unit[: self.n]
        z = unit * x
        inside = self.f.inside(z, EDGE)
        curvature = 1 / self.f.slope(inside)
        return unit * (self.f.gradient(inside) + curvature * (z - inside)), unit**2 * curvature


@dataclass
class Solution:
    """For each instance: x = (z, y) ``(N, B)``, the weights lam / s of G ``(p, B)``, nu ``(m, B)``, lam ``(p, B)``, and
    how it went."""

    x: torch.Tensor
    weight: torch.Tensor
    nu: torch.Tensor
    lam: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor

    def put(self, columns: torch.Tensor, other: Solution) -> None:
        """Replace these instances; their iterations add up."""
        self.x[:, columns], self.weight[:, columns] = other.x, other.weight
        self.nu[:, columns], self.lam[:, columns] = other.nu, other.lam
        self.residual[columns] = other.residual
        self.iterations[columns] += other.iterations


def solve(
    program: Program,
    u: torch.Tensor,
    flat: torch.Tensor | None = None,
    tolerance: float = TOLERANCE,
    manner: Manner = USUAL,
) -> Solution:
    """The optimum for each column of u ``(n, B)``; ``residual`` bounds the error of z to first order.

    Args:
        flat: ``(n, B)``, bool: entries that leave phi out of the objective; they are to be held by u at an end.
        tolerance: on ``residual``, relative to the size of P.
        manner: how to go about it.
    """
    B, unit = u.shape[1], program.unit
    size, c = float(unit[: program.n].amax()), unit[: program.n] * u
    scale = (c.amax(dim=0) - c.amin(dim=0)).maximum(program.stiffness)
    state = _State(program, c / scale, 1 / scale, flat, manner)
    best = {name: torch.empty(len(value), B, dtype=u.dtype, device=u.device) for name, value in state.iterate.items()}
    residual = u.new_full((B,), torch.inf)
    iterations = torch.zeros(B, dtype=torch.long, device=u.device)
    live, search = torch.arange(B, device=u.device), _Search(state, tolerance)
    for step in range(1, manner.steps + 1):
        going = int(search.step(step).sum())  # the one transfer to the host of this step
        last = going == 0 or step == manner.steps
        if last or going <= len(live) // 2:
            for name, value in search.best.items():
                best[name][:, live] = value
            residual[live], iterations[live] = search.error, search.steps
        if last:
            break
        if going <= len(live) // 2:
            live = live[search.going]
            search.keep(search.going)
    x, lam, nu = unit * best["x"], scale * best["lam"], scale * best["nu"]
    x[: program.n] = _refined(program, u, x[: program.n], nu, lam, flat)
    gap, reach = _duality_gap(program, u, x, nu, lam, flat)
    trusted = gap <= GROSS * max(1.0, size) + GROSS_RELATIVE * reach
    return Solution(x, lam / best["s"], nu, lam, torch.where(trusted, size * residual, torch.inf), iterations)


def _duality_gap(
    program: Program,
    u: torch.Tensor,
    x: torch.Tensor,
    nu: torch.Tensor,
    lam: torch.Tensor,
    flat: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """F* - F(z) at most, by weak duality, and the reach of <u, z>: with p = u - (A'nu + G'lam)_z and lam >= 0

        F* - F(z)  <=  sum phi(z) + phi*(p) - p z  +  <lam, h - G x>  +  <nu, b - A x>  +  |(A'nu + G'lam)_y| |y|

    The Newton step tells the error to first order, and only as well as its system was solved; this tells it for sure.
    """
    n, f, unit = program.n, program.f, program.unit
    normal, z = (program.A.T @ nu + program.G.T @ lam) / unit, f.inside(x[: program.n], 0.0)
    p = u - normal[:n]
    excess = f.excess(z, p)
    if flat is not None:
        excess = torch.where(flat, p.abs() * unit[:n], excess)  # linear there
    slack, miss = ((right - M @ (x / unit)).abs() for M, right in ((program.G, program.h), (program.A, program.b)))
    parts = (excess, lam * slack, nu.abs() * miss, normal[n:].abs() * x[n:].abs())
    gap = torch.stack([part.sum(dim=0) for part in parts]).sum(dim=0)
    reach = ((u.abs() + normal[:n].abs()) * unit[:n]).sum(dim=0)
    return gap, reach


class _Search:
    """The best iterate of every instance so far, and which ones go on."""

    def __init__(self, state: _State, tolerance: float):
        self.state, self.tolerance = state, tolerance
        self.best = dict(state.iterate)
        self.error = torch.full_like(state.tau, torch.inf)
        self.gap = torch.full_like(state.tau, torch.inf)
        self.stalled = torch.zeros_like(state.tau, dtype=torch.long)
        self.steps = torch.zeros_like(self.stalled)
        self.going = torch.ones_like(self.stalled, dtype=torch.bool)

    def step(self, number: int) -> torch.Tensor:
        """Advance; returns which instances are still on their way."""
        error, gap = self.state.advance(number)
        better = (error < self.error) & self.going
        self.best = {name: torch.where(better, value, self.best[name]) for name, value in self.state.iterate.items()}
        progress = (error < 0.9 * self.error) | (gap < 0.9 * self.gap)
        self.stalled = torch.where(progress, 0, self.stalled + 1)
        self.error, self.gap = torch.where(better, error, self.error), torch.minimum(self.gap, gap)
        self.steps = torch.where(self.going, number, self.steps)
        self.going = self.going & (self.error > self.tolerance) & (self.stalled < self.state.manner.patience)
        return self.going

    def keep(self, which: torch.Tensor) -> None:
        self.state.keep(which)
        self.best = {name: value[:, which] for name, value in self.best.items()}
        for name in ("error", "gap", "stalled", "steps", "going"):
            setattr(self, name, getattr(self, name)[which])


def _refined(
    program: Program,
    u: torch.Tensor,
    z: torch.Tensor,
    nu: torch.Tensor,
    lam: torch.Tensor,
    flat: torch.Tensor | None,
) -> torch.Tensor:
    """Entries of z near the ends of an entropy's domain, from the multipliers: right in their relative size too.

    z = phi*'(u - normal), normal = A'nu + G'lam without the bounds that the domain implies.
    """
    low, high = program.f.domain
    if (low, high) == (-torch.inf, torch.inf):
        return z
    lam = torch.where(program.in_domain[:, None], 0.0, lam)
    exact = program.f.primal(u - (program.A.T @ nu + program.G.T @ lam)[: program.n] / program.unit[: program.n])
    near = (torch.minimum(z - low, high - z) < NEAR) & ((exact - z).abs() < NEAR)
    return torch.where(near if flat is None else near & ~flat, exact, z)


class _State:
    """One iterate for every live instance."""

    def __init__(self, program: Program, u: torch.Tensor, tau: torch.Tensor, flat: torch.Tensor | None, manner: Manner):
        self.program, self.u, self.tau, self.flat, self.manner = program, u, tau, flat, manner
        self.x = program.start.expand(-1, u.shape[1]).clone()
        self.s = program.slack.expand(-1, u.shape[1]).clone()
        self.nu = u.new_zeros(len(program.b), u.shape[1])
        self.lam = torch.zeros_like(self.s)
        self.look()
        # the first mu: the length of the Newton step with lam = 0, in units of the slacks
        nothing = torch.zeros_like(self.nu), torch.zeros_like(self.s)
        dx, *_ = program.pattern.factor(self.D, self.s**-2).solve(self.missing.stationary, *nothing)
        self.lam = ((program.G @ dx) / self.s).square().sum(dim=0).sqrt().clamp_min(LEAST_MU) / self.s
        self.look()

    def look(self) -> None:
        """D and what is missing here."""
        program = self.program
        marginal, self.D = self._marginal_and_curvature()
        stationary = -(program.A.T @ self.nu + program.G.T @ self.lam)
        stationary[: program.n] += self.u - self.tau * marginal
        primal = program.b - program.A @ self.x
        self.missing = _Missing(stationary, primal, program.h - program.G @ self.x - self.s)

    def _marginal_and_curvature(self) -> tuple[torch.Tensor, torch.Tensor]:
        """phi'(z), and tau phi''(z) for all columns: the proximal term where there is no phi."""
        n = self.program.n
        marginal, curvature = self.program.smooth(self.x[:n])
        D = torch.cat([self.tau * curvature, self.program.proximal.expand(-1, len(self.tau))])
        if self.flat is not None:
            marginal = marginal.masked_fill(self.flat, 0.0)
            D[:n].masked_fill_(self.flat, PROXIMAL)
        return marginal, D

    def keep(self, which: torch.Tensor) -> None:
        for name in ("u", "x", "s", "lam", "nu", "D"):
            setattr(self, name, getattr(self, name)[:, which])
        self.missing = _Missing(*(part[:, which] for part in self.missing))
        self.tau, self.program = self.tau[which], self.program.of(which)
        self.flat = None if self.flat is None else self.flat[:, which]

    @property
    def iterate(self) -> dict[str, torch.Tensor]:
        return {"x": self.x, "s": self.s, "lam": self.lam, "nu": self.nu}

    def advance(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Step ``number``; returns the error of z before it, to first order, with what is missing after it of the
        constraints, and the sum of s lam before it."""
        n, manner, usual = self.program.n, self.manner, self.manner is USUAL
        missing, D = self.missing, self.D
        product = self.s * self.lam
        gap = product.sum(dim=0).clamp_min(NO_GAP)
        newton = _Newton(self.program, D, self.s, self.lam)

        refinements = 0 if usual and number <= UNREFINED else manner.refinements
        step = newton.direction(missing, -product, 0 if usual else refinements)
        error = torch.maximum(_largest(step.x[:n]), 1e-2 * _largest(product, missing.stationary / (1 + D)))
        if len(self.s):
            mu, t = product.mean(dim=0), self._longest(step, 1.0)
            ahead = ((self.s + t * step.s) * (self.lam + t * step.lam)).mean(dim=0)
            sigma = ((ahead / mu) ** 3).clamp_min(manner.least_centring)
            product = sigma * mu - product - torch.clamp(step.s * step.lam, -mu, mu)
            missing = _Missing(*((1 - sigma) * part for part in missing))
            step = newton.direction(missing, product, refinements)
        t = self._longest(step, manner.to_boundary)
        self.x, self.nu = self.x + t * step.x, self.nu + t * step.nu
        self.s, self.lam = self.s + t * step.s, self.lam + t * step.lam
        self.look()
        length = self.program.lengths.sqrt().clamp_min(1.0)[:, None]
        error = error.maximum(_largest(self.missing.primal, self.missing.slack / length))
        return torch.where(torch.isfinite(error), error, torch.inf), gap

    def _longest(self, step: _Step, fraction: float) -> torch.Tensor:
        """The longest step of at most 1 that takes s and lam at most ``fraction`` of the way to 0."""
        if not len(self.s):
            return torch.ones_like(self.tau)
        ratio = torch.maximum((-step.s / self.s).amax(dim=0), (-step.lam / self.lam).amax(dim=0))
        return fraction / ratio.clamp_min(fraction)


class _Missing(NamedTuple):
    """What is missing of stationarity, of A x = b and of G x + s = h."""

    stationary: torch.Tensor
    primal: torch.Tensor
    slack: torch.Tensor


class _Step(NamedTuple):
    x: torch.Tensor
    nu: torch.Tensor
    s: torch.Tensor
    lam: torch.Tensor


class _Newton:
    """Newton's system at one iterate, factored once.

    As with A, a multiple delta of the change of lam is let into its row, G dx + ds - delta dlam = slack: the more the
    longer it is.
    """

    def __init__(self, program: Program, D: torch.Tensor, s: torch.Tensor, lam: torch.Tensor):
        self.program, self.D, self.lam = program, D, lam
        self.delta = (1e-12 * program.lengths).clamp_min(DELTA)[:, None]
        self.w = lam / (s + self.delta * lam)
        self.factor: Factor = program.pattern.factor(D, self.w)

    def direction(self, missing: _Missing, product: torch.Tensor, refinements: int) -> _Step:
        """To where nothing is missing and s lam is its present value + ``product``."""
        A, G = self.program.A, self.program.G
        slack = missing.slack - product / self.lam
        dx, dnu, dlam = self.factor.solve(missing.stationary, missing.primal, slack)
        moved = G @ dx
        for _ in range(refinements):  # the factorization loses digits as mu falls
            change = self.factor.solve(
                missing.stationary - self.D * dx - A.T @ dnu - G.T @ dlam,
                missing.primal - A @ dx + DELTA * dnu,
                slack - moved + dlam / self.w,
            )
            dx, dnu, dlam = (d + c for d, c in zip((dx, dnu, dlam), change, strict=True))
            moved = G @ dx
        return _Step(dx, dnu, missing.slack - moved + self.delta * dlam, dlam)


def _largest(*parts: torch.Tensor) -> torch.Tensor:
    """The largest absolute entry of each instance."""
    largest = [part.abs().amax(dim=0) for part in parts if len(part)]
    return torch.stack(largest).amax(dim=0) if largest else parts[0].new_zeros(parts[0].shape[1])

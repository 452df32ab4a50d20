"""Primal-dual interior point method over any polytope, all instances of a batch at once (Mehrotra 1992).

    minimize  tau sum_i phi(z_i) - <u, z>   over   A x = b,  G x + s = h,  s >= 0,      x = (z, y)

    optimal:  tau phi'(z) - u + (A'nu + G'lam)_z = 0,   (A'nu + G'lam)_y = 0,   s lam = 0,   s, lam >= 0

Every instance starts from the interior point found at declaration; Newton's method follows s lam = mu as mu falls. z is
unique at the optimum; y need not be: a proximal term keeps each step in y short (Friedlander and Orban 2012) without
moving the limit, and no result depends on y. u is scaled so that its spread is 1, then tau = 1 / spread.

An entropy is continued quadratically below EDGE (and above 1 - EDGE), where its second derivative would exceed 1 /
EDGE: entries of z that small are then the business of the bound z >= 0, and come out between 0 and EDGE.

An instance stops when the Newton step to mu = 0, which near the solution is the error, moves z by less than a tolerance;
it leaves the batch, so that none can disturb another. Layout: instances last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cvxsst.engines.kkt.elimination import DELTA, Factor, Pattern
from cvxsst.engines.kkt.matrix import Matrix
from cvxsst.regularizers import Separable

STEPS = 80
PATIENCE = 6  # steps without improvement
TO_BOUNDARY = 0.995  # of the way to the boundary
TOLERANCE = 1e-10  # of the Newton step in z
EDGE = 1e-13
NEAR = 1e-6  # to an end of the domain
PROXIMAL = 1e-5  # on y, where u has spread 1
UNREFINED = 5  # steps in which a rough direction will do
NO_GAP = 1e-18  # a smaller sum of s lam is no progress


@dataclass
class Program:
    """What all instances share: the matrices, on one device, their elimination, an interior point."""

    pattern: Pattern
    A: Matrix
    b: torch.Tensor
    G: Matrix
    h: torch.Tensor
    n: int
    start: torch.Tensor
    f: Separable
    in_domain: torch.Tensor  # which rows of G say no more than the domain of phi

    def to(self, device: torch.device) -> Program:
        if self.b.device == device:
            return self
        moved = {name: getattr(self, name).to(device) for name in ("pattern", "A", "b", "G", "h", "start", "in_domain")}
        return Program(**moved, n=self.n, f=self.f)

    def smooth(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """phi'(z) and phi''(z), continued linearly where phi'' would exceed 1 / EDGE."""
        inside = self.f.inside(z, EDGE)
        curvature = 1 / self.f.slope(inside)
        return self.f.gradient(inside) + curvature * (z - inside), curvature


@dataclass
class Solution:
    """For each instance: z ``(n, B)``, the weights lam / s of G ``(p, B)``, nu ``(m, B)``, and how it went."""

    z: torch.Tensor
    weight: torch.Tensor
    nu: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor

    def put(self, columns: torch.Tensor, other: Solution) -> None:
        """Replace these instances; their iterations add up."""
        self.z[:, columns], self.weight[:, columns], self.nu[:, columns] = other.z, other.weight, other.nu
        self.residual[columns] = other.residual
        self.iterations[columns] += other.iterations


def solve(
    program: Program, u: torch.Tensor, flat: torch.Tensor | None = None, tolerance: float = TOLERANCE
) -> Solution:
    """The optimum for each column of u ``(n, B)``; ``residual`` bounds the error of z to first order.

    ``flat``: ``(n, B)``, bool: entries that leave phi out of the objective; they are to be held by u at an end.
    """
    B = u.shape[1]
    scale = (u.amax(dim=0) - u.amin(dim=0)).clamp_min(1.0)
    state = _State(program, u / scale, 1 / scale, flat)
    best = {name: torch.empty(len(value), B, dtype=u.dtype, device=u.device) for name, value in state.iterate.items()}
    residual = u.new_full((B,), torch.inf)
    iterations = torch.zeros(B, dtype=torch.long, device=u.device)
    live, search = torch.arange(B, device=u.device), _Search(state, tolerance)
    for step in range(1, STEPS + 1):
        going = int(search.step(step).sum())  # the one transfer to the host of this step
        last = going == 0 or step == STEPS
        if last or going <= len(live) // 2:
            for name, value in search.best.items():
                best[name][:, live] = value
            residual[live], iterations[live] = search.error, search.steps
        if last:
            break
        if going <= len(live) // 2:
            live = live[search.going]
            search.keep(search.going)
    z = best["x"][: program.n]
    if program.f.domain != (-torch.inf, torch.inf):
        lam = torch.where(program.in_domain[:, None], 0.0, best["lam"])
        refined = _refined(
            program, u / scale, 1 / scale, z, (program.A.T @ best["nu"] + program.G.T @ lam)[: program.n]
        )
        z = refined if flat is None else torch.where(flat, z, refined)
    return Solution(z, scale * best["lam"] / best["s"], scale * best["nu"], residual, iterations)


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
        error, gap = self.state.advance(refine=number > UNREFINED)
        better = (error < self.error) & self.going
        self.best = {name: torch.where(better, value, self.best[name]) for name, value in self.state.iterate.items()}
        progress = (error < 0.9 * self.error) | (gap < 0.9 * self.gap)
        self.stalled = torch.where(progress, 0, self.stalled + 1)
        self.error, self.gap = torch.where(better, error, self.error), torch.minimum(self.gap, gap)
        self.steps = torch.where(self.going, number, self.steps)
        self.going = self.going & (self.error > self.tolerance) & (self.stalled < PATIENCE)
        return self.going

    def keep(self, which: torch.Tensor) -> None:
        self.state.keep(which)
        self.best = {name: value[:, which] for name, value in self.best.items()}
        for name in ("error", "gap", "stalled", "steps", "going"):
            setattr(self, name, getattr(self, name)[which])


def _refined(program: Program, u: torch.Tensor, tau: torch.Tensor, z: torch.Tensor, normal: torch.Tensor):
    """Entries of z near the ends of an entropy's domain, from the multipliers: right in their relative size too.

    z = phi*'((u - normal) / tau), normal = A'nu + G'lam without the bounds that the domain implies.
    """
    exact, (low, high) = program.f.primal((u - normal) / tau), program.f.domain
    near = torch.minimum(z - low, high - z) < NEAR
    return torch.where(near & ((exact - z).abs() < NEAR), exact, z)


class _State:
    """One iterate for every live instance."""

    def __init__(self, program: Program, u: torch.Tensor, tau: torch.Tensor, flat: torch.Tensor | None):
        self.program, self.u, self.tau, self.flat = program, u, tau, flat
        self.x = program.start[:, None].expand(-1, u.shape[1]).clone()
        self.s = (program.h[:, None] - program.G @ self.x).clamp_min(1e-8)
        self.lam = 0.1 / self.s.clamp_min(1e-3)
        self.nu = u.new_zeros(len(program.b), u.shape[1])

    def keep(self, which: torch.Tensor) -> None:
        for name in ("u", "x", "s", "lam", "nu"):
            setattr(self, name, getattr(self, name)[:, which])
        self.tau = self.tau[which]
        self.flat = None if self.flat is None else self.flat[:, which]

    @property
    def iterate(self) -> dict[str, torch.Tensor]:
        return {"x": self.x, "s": self.s, "lam": self.lam, "nu": self.nu}

    def advance(self, refine: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """One step; returns the error of z before it, to first order, and the sum of s lam."""
        program, n = self.program, self.program.n
        marginal, curvature = program.smooth(self.x[:n])
        if self.flat is not None:
            marginal, curvature = (t.masked_fill(self.flat, 0.0) for t in (marginal, curvature))
        r = program.A.T @ self.nu + program.G.T @ self.lam
        r[:n] += self.tau * marginal - self.u
        primal = program.b[:, None] - program.A @ self.x
        slack = program.h[:, None] - program.G @ self.x - self.s
        product = self.s * self.lam
        gap = product.sum(dim=0).clamp_min(NO_GAP)
        D = torch.full_like(self.x, PROXIMAL)
        D[:n] = self.tau * curvature
        if self.flat is not None:
            D[:n].masked_fill_(self.flat, PROXIMAL)
        pivot = self.s + DELTA * self.lam
        system = System(program, D, self.lam / pivot)

        dx, dnu, ds, dlam = self._direction(system, pivot, r, primal, slack, -product, 0)
        error = torch.maximum(_largest(dx[:n], primal, slack), 1e-2 * _largest(product, r / (1 + D)))
        if len(self.s):
            mu = product.mean(dim=0)
            step = self._longest(ds, dlam, 1.0)
            ahead = ((self.s + step * ds) * (self.lam + step * dlam)).mean(dim=0)
            centring = (ahead / mu) ** 3 * mu
            product = centring - product - ds * dlam
            dx, dnu, ds, dlam = self._direction(system, pivot, r, primal, slack, product, int(refine))
        step = self._longest(ds, dlam, TO_BOUNDARY)
        self.x = self.x + step * dx
        self.nu = self.nu + step * dnu
        self.s = self.s + step * ds
        self.lam = self.lam + step * dlam
        return torch.where(torch.isfinite(error), error, torch.inf), gap

    def _direction(self, system: System, pivot, r, primal, slack, product, refinements: int):
        """Newton's direction to stationarity, A x = b, G x + s = h and s lam = its present value + ``product``.

        As with A, a multiple delta of the change of lam is let into its row: G dx + ds - delta dlam = slack.
        """
        program = self.program
        missing = product - self.lam * slack
        dx, dnu = system.solve(-r - program.G.T @ (missing / pivot), primal, refinements)
        moved = program.G @ dx
        dlam = (missing + self.lam * moved) / pivot
        return dx, dnu, slack - moved + DELTA * dlam, dlam

    def _longest(self, ds: torch.Tensor, dlam: torch.Tensor, fraction: float) -> torch.Tensor:
        """The longest step of at most 1 that takes s and lam at most ``fraction`` of the way to 0."""
        if not len(self.s):
            return torch.ones_like(self.tau)
        ratio = torch.maximum((-ds / self.s).amax(dim=0), (-dlam / self.lam).amax(dim=0))
        return fraction / ratio.clamp_min(fraction)


def _largest(*parts: torch.Tensor) -> torch.Tensor:
    """The largest absolute entry of each instance."""
    largest = [part.abs().amax(dim=0) for part in parts if len(part)]
    return torch.stack(largest).amax(dim=0) if largest else parts[0].new_zeros(parts[0].shape[1])


class System:
    """(D + G'W G) dx + A'dnu = f,  A dx - delta dnu = g: factored once, solved with refinement.

    Args:
        D, w: as factored.
        exact: (D, delta) of the system to solve, where the factored one is a regularization of it.
    """

    def __init__(
        self, program: Program, D: torch.Tensor, w: torch.Tensor, exact: tuple[torch.Tensor, float] | None = None
    ):
        self.program, self.w = program, w
        self.D, self.delta = (D, DELTA) if exact is None else exact
        self.factor: Factor = program.pattern.factor(D, w)

    def solve(self, f: torch.Tensor, g: torch.Tensor, refinements: int):
        program = self.program
        dx, dnu = self.factor.solve(f, g)
        for _ in range(refinements):  # the factorization loses digits as mu falls
            e = f - self.D * dx - program.A.T @ dnu
            if len(self.w):
                e -= program.G.T @ (self.w * (program.G @ dx))
            cx, cnu = self.factor.solve(e, g - program.A @ dx + self.delta * dnu)
            dx, dnu = dx + cx, dnu + cnu
        return dx, dnu

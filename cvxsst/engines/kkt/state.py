"""What the engine prepares for one polytope and one regularizer, and its two ways of solving."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from cvxsst.engines.kkt import interior, newton
from cvxsst.engines.kkt.elimination import Pattern
from cvxsst.engines.kkt.matrix import Matrix, pairs
from cvxsst.geometry.faces import said_by_domain
from cvxsst.geometry.presolve import Presolved
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Separable

ACCEPTED = 1e-8  # residual, relative to the largest entry over P if > 1
# Entries of M in one chunk of a batch: larger batches are solved in turns. On a CPU a chunk that fits the cache is
# several times faster, per instance, than one that does not.
MOST_NUMBERS = {"cpu": 2**20, "cuda": 2**27}
CAP = 1e4  # on entries of z without an upper bound, relative to their largest value over P: against overflow
# Where -inf forbids entries the interior point method lowers their utilities by the spread of the others and the size of
# P, and where that leaves more than LEFT of them by RAISED times as much.
RAISED, RAISES = 8.0, 4
LEFT = 1e-9
# With utilities of 0, and of -FORCING where forbidden, a steep f leaves an entry less than FORCED of its range only where
# the forbidden ones leave it nothing else: at this accuracy.
FORCING, FORCED, ROUGHLY = 400.0, 1e-6, 1e-7


class Found(NamedTuple):
    """z ``(n, B)``, what the derivative needs of the active constraints, residual, iterations."""

    z: torch.Tensor
    active: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor


class State:
    """A polytope with one separable regularizer: everything that many solves share.

    Attributes:
        free: indices of the entries of z that P does not fix; ``constant``: z where it does.
        accepted: the residual up to which a solution counts.
        hull: orthonormal rows normal to P, in the free entries.
        lower: the least value of each entry over P.
    """

    def __init__(self, P: Polytope, f: Separable):
        presolved = P.presolved
        self.f, self.size = f, max(1.0, float(np.abs(P.bounds).max(initial=0.0)))
        self.free = torch.from_numpy(presolved.free)
        self.constant = torch.from_numpy(presolved.interior[: P.size])
        self.accepted = ACCEPTED * self.size
        self.hull = torch.from_numpy(presolved.core.hull[0])
        self.presolved = presolved
        self.lower, upper = map(torch.from_numpy, P.bounds)
        self.width = (upper - self.lower)[self.free]
        self._interior: dict[torch.device, interior.Program] = {}
        self._box: dict[torch.device, newton.BoxProgram] = {}
        self._numbers = 1
        if len(self.free):
            cpu = torch.device("cpu")
            self._interior[cpu] = _interior_program(presolved.core, f)
            self._numbers = self._interior[cpu].pattern.zero
            form = presolved.core.form
            if not form.lifted and np.all(np.diff(form.G.indptr) == 1):
                self._box[cpu] = _box_program(presolved.core, f)

    def chunk(self, device: torch.device) -> int:
        """How many instances are solved at a time."""
        return max(64, MOST_NUMBERS.get(device.type, 2**27) // self._numbers)

    def interior_program(self, device: torch.device) -> interior.Program:
        return _on(device, self._interior)

    def box_program(self, device: torch.device) -> newton.BoxProgram | None:
        """The program of the dual Newton method, if P is made of bounds and equalities."""
        return _on(device, self._box) if self._box else None

    def solve(self, u: torch.Tensor, forbidden: torch.Tensor | None) -> Found:
        """The solution in the free entries for u ``(n, B)``; ``forbidden`` ``(n, B)`` must be 0."""
        box = self.box_program(u.device)
        if box is None:
            return self._by_interior(u, forbidden)
        near = _spread(u, forbidden) <= (newton.WIDEST if self.f.steep else torch.inf)
        z, active = torch.zeros_like(u), torch.zeros_like(u)
        residual, iterations = u.new_full(near.shape, torch.inf), torch.zeros_like(near, dtype=torch.long)
        first = newton.solve(box, u[:, near], None if forbidden is None else forbidden[:, near])
        z[:, near], active[:, near] = first.z, 1 - first.inside
        residual[near] = torch.where(first.converged, first.residual, torch.inf)
        iterations[near] = first.iterations
        far = (residual == torch.inf).nonzero().flatten()
        if len(far):
            second = self._polished(box, u[:, far], None if forbidden is None else forbidden[:, far])
            z[:, far], active[:, far], residual[far] = second.z, second.active, second.residual
            iterations[far] += second.iterations
        return Found(z, active, residual, iterations)

    def _polished(self, box: newton.BoxProgram, u: torch.Tensor, forbidden: torch.Tensor | None) -> Found:
        """By the interior point method, its multipliers polished by Newton's."""
        program, (rough, nu) = self.interior_program(u.device), self._interior_and_nu(u, forbidden)
        polished = newton.solve(box, u, forbidden, nu)
        # the weights of the bounds, as the share of the slope that they leave: 1 / (1 + slope w)
        weight, slope = program.G.square().T @ rough.active, self.f.slope(rough.z)
        held = slope * weight / (1 + slope * weight)
        ok = polished.converged
        return Found(
            torch.where(ok, polished.z, rough.z),
            torch.where(ok, 1 - polished.inside, held),
            torch.where(ok, polished.residual, rough.residual),
            rough.iterations + polished.iterations,
        )

    def _by_interior(self, u: torch.Tensor, forbidden: torch.Tensor | None) -> Found:
        return self._interior_and_nu(u, forbidden)[0]

    def _interior_and_nu(self, u: torch.Tensor, forbidden: torch.Tensor | None) -> tuple[Found, torch.Tensor]:
        """Forbidden entries get a malus, and no phi. If z is 0 there it is the solution: the best of all of P for
        utilities, and a function, that differ from u and f by a constant where the forbidden entries are 0."""
        program = self.interior_program(u.device)
        if forbidden is None:
            first = interior.solve(program, u)
            return Found(first.z, first.weight, first.residual, first.iterations), first.nu
        ends = self._forced(program, forbidden) if self.f.steep else torch.full_like(u, torch.nan)
        flat = forbidden | ~ends.isnan()
        lowest = u.masked_fill(forbidden, torch.inf).amin(dim=0).nan_to_num(posinf=0.0)
        malus = _spread(u, forbidden) + 2 * self.size
        found = interior.solve(program, torch.where(forbidden, lowest - malus, u), flat)
        for _ in range(RAISES):
            left = found.z.masked_fill(~forbidden, 0.0).abs().amax(dim=0)
            again = (left > LEFT * self.size).nonzero().flatten()
            if not len(again):
                break
            malus = RAISED * malus
            raised = torch.where(forbidden, lowest - malus, u)[:, again]
            found.put(again, interior.solve(program, raised, flat[:, again]))
        left = found.z.masked_fill(~forbidden, 0.0).abs().amax(dim=0)
        residual = torch.where(left <= LEFT * self.size, found.residual.maximum(left), torch.inf)
        z = torch.where(ends.isnan(), found.z, ends).masked_fill(forbidden, 0.0)
        return Found(z, found.weight, residual, found.iterations), found.nu

    def _forced(self, program: interior.Program, forbidden: torch.Tensor) -> torch.Tensor:
        """The end of the domain at which an entry must be where the forbidden ones are 0; NaN for all others.

        There phi' is infinite, no utility brings z to it: what must be there is told beforehand, by a solve without u.
        """
        low, high = self.f.domain
        centre = interior.solve(program, -FORCING * forbidden.to(program.b), forbidden, ROUGHLY).z
        margin = FORCED * self.width.to(centre)[:, None]
        at_low, at_high = centre - low < margin, high - centre < margin
        return torch.where(at_low, low, torch.where(at_high, high, torch.nan))


def _spread(u: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
    """The range of the utilities of each column, the forbidden ones left out."""
    if forbidden is None:
        return u.amax(dim=0) - u.amin(dim=0)
    highest, lowest = (u.masked_fill(forbidden, end) for end in (-torch.inf, torch.inf))
    return (highest.amax(dim=0) - lowest.amin(dim=0)).clamp_min(0.0)


def _on(device: torch.device, programs: dict[torch.device, Any]) -> Any:
    if device not in programs:
        programs[device] = programs[torch.device("cpu")].to(device)
    return programs[device]


def _interior_program(core: Presolved, f: Separable) -> interior.Program:
    form = core.form
    in_domain = torch.zeros(len(form.h), dtype=torch.bool)
    in_domain[torch.from_numpy(said_by_domain(core, f.domain))] = True
    return interior.Program(
        pattern=Pattern(form.A, form.G),
        A=Matrix(form.A),
        b=torch.from_numpy(form.b),
        G=Matrix(form.G),
        h=torch.from_numpy(form.h),
        n=form.n,
        start=torch.from_numpy(core.interior),
        f=f,
        in_domain=in_domain,
    )


def _box_program(core: Presolved, f: Separable) -> newton.BoxProgram:
    program = core.linear_program
    low, high = np.maximum(program.lower, f.domain[0]), np.minimum(program.upper, f.domain[1])
    if np.isfinite(f.domain[0]):
        high = np.minimum(high, CAP * (1 + core.bounds[1]))
    return newton.BoxProgram(
        A=Matrix(core.form.A),
        b=torch.from_numpy(core.form.b),
        low=torch.from_numpy(low),
        high=torch.from_numpy(high),
        center=f.gradient(torch.from_numpy(core.interior)),
        gram=torch.linalg.cholesky(torch.from_numpy((core.form.A @ core.form.A.T).toarray())),
        pairs=pairs(core.form.A),
        f=f,
    )

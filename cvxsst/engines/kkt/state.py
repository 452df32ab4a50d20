"""What the engine prepares for one polytope and one regularizer, and how it solves a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from cvxsst.engines.base import LEFT
from cvxsst.engines.kkt import interior, newton
from cvxsst.engines.kkt.centre import centred, equilibrated
from cvxsst.engines.kkt.matrix import Matrix, pairs
from cvxsst.geometry.canonical import StandardForm, divided
from cvxsst.geometry.faces import said_by_domain
from cvxsst.geometry.presolve import Presolved
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Separable

ACCEPTED = 1e-8  # residual, relative to the largest entry over P if > 1
# Entries of M in one chunk of a batch: larger batches are solved in turns. On a CPU a chunk that fits the cache is
# several times faster, per instance, than one that does not.
MOST_NUMBERS = {"cpu": 2**20, "cuda": 2**27}
CAP = 1e4  # on entries of z without an upper bound, relative to their largest value over P: against overflow
# Where -inf forbids entries the interior point method lowers their utilities by the spread of the others and the size
# of P, and where that leaves more than LEFT of them by RAISED times as much.
RAISED, RAISES = 8.0, 4
# With utilities of 0, and of -FORCING where forbidden, a steep f leaves an entry less than FORCED of its range only
# where the forbidden ones leave it nothing else: at this accuracy.
FORCING, FORCED, ROUGHLY = 400.0, 1e-6, 1e-7

Mask = torch.Tensor | None


class Asked(NamedTuple):
    """A batch in the free entries, instances last: u ``(n, B)``, forbidden ``(n, B)``, and theta ``(q, B)`` where P has
    parameters."""

    u: torch.Tensor
    forbidden: Mask
    theta: Mask = None

    def of(self, columns: torch.Tensor) -> Asked:
        """Some of the instances."""
        forbidden, theta = (None if part is None else part[:, columns] for part in self[1:])
        return Asked(self.u[:, columns], forbidden, theta)


class Found(NamedTuple):
    """x = (z, y) in the free columns ``(N, B)``, what the derivative needs of the constraints, how it went, (nu, lam)
    where the interior point method found it ``(m + p, B)``."""

    x: torch.Tensor
    active: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor
    multipliers: torch.Tensor

    def put(self, columns: torch.Tensor, other: Found, better: torch.Tensor) -> None:
        """Replace these instances where the other solve is the better one; iterations add up."""
        for name in ("x", "active", "residual", "multipliers"):
            mine, theirs = getattr(self, name), getattr(other, name)
            mine[..., columns] = torch.where(better, theirs, mine[..., columns])
        self.iterations[columns] += other.iterations


@dataclass(frozen=True)
class Declared:
    """The rows as they were written, each divided by its length: how far x is from satisfying them, in units of x."""

    A: Matrix
    b: torch.Tensor
    G: Matrix
    h: torch.Tensor

    @staticmethod
    def of(form: StandardForm) -> Declared:
        def unit_rows(rows: sp.csr_array, right: np.ndarray) -> tuple[Matrix, torch.Tensor]:
            rows, right = divided(rows, right, _lengths(rows))
            rows.sort_indices()
            return Matrix(rows), torch.from_numpy(right)[:, None]

        return Declared(*unit_rows(form.A, form.b), *unit_rows(form.G, form.h))

    def to(self, device: torch.device) -> Declared:
        return Declared(*(part.to(device) for part in vars(self).values()))

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """The largest of each instance, for x ``(N, B)``."""
        rows = torch.cat([(self.A @ x - self.b).abs(), self.G @ x - self.h])
        return rows.amax(dim=0).clamp_min(0.0) if len(rows) else x.new_zeros(x.shape[1])


class State:
    """A polytope with one separable regularizer: everything that many solves share.

    Attributes:
        free: indices of the entries of z that P does not fix; ``constant``: z where it does.
        theta: the values of P's parameters ``(B, q)``, if it has any (``cvxsst.engines.kkt.parameters``).
        accepted: the residual up to which a solution counts.
        hull: orthonormal rows normal to P, in the free entries.
        lower, width: the least value of each entry over P, and of the free ones the range.
    """

    theta: torch.Tensor | None = None
    more = 0  # how many inputs there are beside u and theta
    accepted: float | torch.Tensor

    def __init__(self, P: Polytope, f: Separable):
        presolved = P.presolved
        self.f, self.size = f, max(1.0, float(np.abs(P.bounds).max(initial=0.0)))
        self.presolved = presolved
        self.free, self.lifted = torch.from_numpy(presolved.free), presolved.form.lifted
        self.constant = torch.from_numpy(presolved.interior[: P.size])
        self.accepted = ACCEPTED * self.size
        self.hull = torch.from_numpy(presolved.core.hull[0])
        self.lower, upper = map(torch.from_numpy, P.bounds)
        self.width = (upper - self.lower)[self.free]
        cpu = torch.device("cpu")
        self._declared = {cpu: Declared.of(P.form)}
        self._interior: dict[torch.device, interior.Program] = {}
        self._box: dict[torch.device, newton.BoxProgram] = {}
        self._numbers = 1
        if len(self.free):
            self._interior[cpu] = interior_program(presolved.core, f)
            self._numbers = self._interior[cpu].pattern.zero
            form = presolved.core.form
            if form.is_box:
                self._box[cpu] = box_program(presolved.core, f)

    def chunk(self, device: torch.device) -> int:
        """How many instances are solved at a time."""
        return max(64, MOST_NUMBERS.get(device.type, 2**27) // self._numbers)

    def declared(self, device: torch.device) -> Declared:
        return on_device(device, self._declared)

    def interior_program(self, asked: Asked) -> interior.Program:
        return on_device(asked.u.device, self._interior)

    def box_program(self, asked: Asked) -> newton.BoxProgram | None:
        """The program of the dual Newton method, if P is made of bounds and equalities."""
        return on_device(asked.u.device, self._box) if self._box else None

    def leaves_nothing(self, instance: int, zeros: list[int]) -> bool:
        """Whether P has no point where these entries are 0, by a linear program."""
        nothing = self.presolved.linear_program.maximize(np.zeros(0), zeros=zeros)
        return nothing.status == "infeasible"

    def solve(self, asked: Asked) -> Found:
        """The solution in the free columns; what is forbidden must be 0.

        What the usual way does not solve is solved with care.
        """
        box = self.box_program(asked)
        found = self._by_interior(asked, interior.USUAL)[0] if box is None else self._by_newton(box, asked)
        failed = (~(found.residual <= ACCEPTED * self.size)).nonzero().flatten()
        if len(failed):
            few = asked.of(failed)
            again = self._by_interior(few, interior.CAREFUL)
            careful = again[0] if box is None else self._polished(box.of(failed), few, *again)
            found.put(failed, careful, careful.residual < found.residual[failed])
        return found

    def _by_newton(self, box: newton.BoxProgram, asked: Asked) -> Found:
        """Newton's method on the dual; where it does not arrive, or would not, the interior point method first."""
        u, forbidden, _ = asked
        near = (_spread(u, forbidden) <= (newton.WIDEST if self.f.steep else torch.inf)).nonzero().flatten()
        B = u.shape[1]
        found = Found(
            torch.zeros_like(u),
            u.new_zeros(self.kept_rows, B),
            u.new_full((B,), torch.inf),
            torch.zeros(B, dtype=torch.long, device=u.device),
            u.new_zeros(0, B),
        )
        near_box = box if len(near) == B else box.of(near)
        first = newton.solve(near_box, u[:, near], _of(forbidden, near))
        found.put(near, self._of_newton(near_box, first), first.converged)
        far = (found.residual == torch.inf).nonzero().flatten()
        if len(far):
            few = asked.of(far)
            second = self._polished(box.of(far), few, *self._by_interior(few, interior.USUAL))
            found.put(far, second, second.residual < torch.inf)
        return found

    def _polished(self, box: newton.BoxProgram, asked: Asked, rough: Found, nu: torch.Tensor) -> Found:
        """The answer of the interior point method, its multipliers polished by Newton's."""
        polished = newton.solve(box, asked.u, asked.forbidden, nu)
        active = self._bound_shares(self.interior_program(asked), rough)
        found = rough._replace(active=active, iterations=rough.iterations.clone(), multipliers=nu[:0])
        found.put(torch.arange(asked.u.shape[1], device=nu.device), self._of_newton(box, polished), polished.converged)
        return found

    @property
    def kept_rows(self) -> int:
        """How many numbers the derivative of the dual Newton method needs of an instance."""
        return len(self.free)

    def _bound_shares(self, program: interior.Program, rough: Found) -> torch.Tensor:
        """The weights of the bounds, as the share of the slope that they leave: 1 / (1 + slope w)."""
        weight, slope = program.G.square().T @ rough.active, self.f.slope(rough.x) / program.unit.square()
        return slope * weight / (1 + slope * weight)

    def _of_newton(self, box: newton.BoxProgram, solution: newton.BoxSolution) -> Found:
        return Found(solution.z, 1 - solution.inside, solution.residual, solution.iterations, solution.z[:0])

    def _by_interior(self, asked: Asked, manner: interior.Manner) -> tuple[Found, torch.Tensor]:
        """The solution and the multipliers nu.

        Forbidden entries get a malus, and no phi. If z is 0 there it is the solution: the best of all of P for
        utilities, and a function, that differ from u and f by a constant where the forbidden entries are 0.
        """
        program, (u, forbidden, _) = self.interior_program(asked), asked
        if forbidden is None:
            first = interior.solve(program, u, manner=manner)
            return _of_interior(first), first.nu
        n = program.n
        ends = self._forced(program, forbidden) if self.f.steep else torch.full_like(u, torch.nan)
        flat = forbidden | ~ends.isnan()
        lowest = u.masked_fill(forbidden, torch.inf).amin(dim=0).nan_to_num(posinf=0.0)
        malus = _spread(u, forbidden) + 2 * self.size
        found = interior.solve(program, torch.where(forbidden, lowest - malus, u), flat, manner=manner)
        for _ in range(RAISES):
            again = (_most(found.x[:n], forbidden) > LEFT * self.size).nonzero().flatten()
            if not len(again):
                break
            malus = RAISED * malus
            raised = torch.where(forbidden, lowest - malus, u)[:, again]
            found.put(again, interior.solve(program.of(again), raised, flat[:, again], manner=manner))
        left = _most(found.x[:n], forbidden)
        residual = torch.where(left <= LEFT * self.size, found.residual.maximum(left), torch.inf)
        x = found.x
        x[:n] = torch.where(ends.isnan(), x[:n], ends).masked_fill(forbidden, 0.0)
        return _of_interior(found)._replace(residual=residual), found.nu

    def _forced(self, program: interior.Program, forbidden: torch.Tensor) -> torch.Tensor:
        """The end of the domain at which an entry must be where the forbidden ones are 0; NaN for all others.

        There phi' is infinite, no utility brings z to it: what must be there is told beforehand, by a solve without u.
        """
        low, high = self.f.domain
        centre = interior.solve(program, -FORCING * forbidden.to(program.h), forbidden, ROUGHLY).x[: program.n]
        margin = FORCED * self.width.to(centre)[:, None]
        at_low, at_high = centre - low < margin, high - centre < margin
        return torch.where(at_low, low, torch.where(at_high, high, torch.nan))


def _of(mask: Mask, columns: torch.Tensor) -> Mask:
    return None if mask is None else mask[:, columns]


def _of_interior(solution: interior.Solution) -> Found:
    multipliers = torch.cat([solution.nu, solution.lam])
    return Found(solution.x, solution.weight, solution.residual, solution.iterations, multipliers)


def _most(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The largest |z| of each column where the mask is True."""
    return z.masked_fill(~mask, 0.0).abs().amax(dim=0)


def _spread(u: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
    """The range of the utilities of each column, the forbidden ones left out."""
    if forbidden is None:
        return u.amax(dim=0) - u.amin(dim=0)
    highest, lowest = (u.masked_fill(forbidden, end) for end in (-torch.inf, torch.inf))
    return (highest.amax(dim=0) - lowest.amin(dim=0)).clamp_min(0.0)


def on_device(device: torch.device, programs: dict[torch.device, Any]) -> Any:
    if device not in programs:
        programs[device] = programs[torch.device("cpu")].to(device)
    return programs[device]


def _lengths(rows: sp.csr_array) -> np.ndarray:
    return sp.linalg.norm(rows, axis=1) if rows.shape[0] else np.zeros(0)


def interior_program(core: Presolved, f: Separable) -> interior.Program:
    """The program in columns of size 1, with rows of slack 1 at its start."""
    form, centre, unit, pattern = centred(core)
    in_domain = torch.zeros(len(form.h), dtype=torch.bool)
    in_domain[torch.from_numpy(said_by_domain(core, f.domain))] = True
    return interior.Program(
        pattern=pattern,
        b=torch.from_numpy(form.b)[:, None],
        h=torch.from_numpy(form.h)[:, None],
        n=form.n,
        start=torch.from_numpy(centre)[:, None],
        f=f,
        in_domain=in_domain,
        lengths=torch.from_numpy(_lengths(form.G) ** 2),
        proximal=torch.from_numpy(_proximal(form))[:, None],
        unit=torch.from_numpy(unit)[:, None],
    )


def _proximal(form: StandardForm) -> np.ndarray:
    """Of each column of y: less where it has a small share in a long row, whose multiplier must be small too."""
    rows = sp.coo_array(divided(form.G, form.h, _lengths(form.G))[0])
    share = np.ones(form.columns)
    np.minimum.at(share, rows.coords[1], np.abs(rows.data))
    return interior.PROXIMAL * share[form.n :].clip(interior.LEAST_SHARE)


def box_program(core: Presolved, f: Separable) -> newton.BoxProgram:
    program, form = core.linear_program, equilibrated(core.form)
    low, high = np.maximum(program.lower, f.domain[0]), np.minimum(program.upper, f.domain[1])
    if np.isfinite(f.domain[0]):
        high = np.minimum(high, CAP * (1 + core.bounds[1]))
    return newton.BoxProgram(
        A=Matrix(form.A),
        b=torch.from_numpy(form.b)[:, None],
        low=torch.from_numpy(low)[:, None],
        high=torch.from_numpy(high)[:, None],
        center=f.gradient(torch.from_numpy(core.interior))[:, None],
        gram=torch.linalg.cholesky(torch.from_numpy((form.A @ form.A.T).toarray())),
        pairs=pairs(form.A),
        f=f,
    )

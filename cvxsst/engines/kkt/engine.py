"""The engine ``"kkt"``: from a polytope and a batch of utilities to z and its derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cvxsst.arguments import plainly
from cvxsst.engines.base import Engine, Info, groups, said_by_domain
from cvxsst.engines.kkt import interior, newton
from cvxsst.engines.kkt.derivative import sensitivity
from cvxsst.engines.kkt.elimination import Pattern
from cvxsst.engines.kkt.entries import ENTRIES
from cvxsst.engines.kkt.matrix import Matrix, pairs
from cvxsst.errors import EmptyPolytopeError
from cvxsst.geometry.presolve import Presolved
from cvxsst.regularizers import Euclidean, Regularizer, Separable

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope

ACCEPTED = 1e-8  # residual, relative to the largest entry over P if > 1
# Entries of M in one chunk of a batch: larger batches are solved in turns. On a CPU a chunk that fits the cache is
# several times faster, per instance, than one that does not.
MOST_NUMBERS = {"cpu": 2**20, "cuda": 2**27}
CAP = 1e4  # on entries of z without an upper bound, relative to their largest value over P: against overflow


class KKT(Engine):
    name = "kkt"

    def supports(self, P: Polytope, regularizer: Regularizer) -> bool:
        return type(regularizer) in ENTRIES

    def softmax(
        self, P: Polytope, regularizer: Regularizer, u: torch.Tensor, forbidden: torch.Tensor | None
    ) -> tuple[torch.Tensor, Info]:
        assert isinstance(regularizer, Separable)
        regularizer.require_domain(P)
        if forbidden is None:
            part = _part(P, regularizer, ())
            z, residual, iterations = part.softmax(u)
            converged = residual <= part.accepted
            return z, Info(converged, residual, iterations, torch.zeros_like(converged))
        z = torch.zeros_like(u)
        info = Info.of_closed_form(z)
        info.residual.zero_()
        for entries, rows in groups(forbidden, len(u), u.device):
            try:
                part = _part(P, regularizer, entries)
            except EmptyPolytopeError:
                info.converged[rows], info.empty[rows] = False, True
                continue
            solution, residual, iterations = part.softmax(u[rows])
            info.residual[rows], info.iterations[rows] = residual, iterations
            info.converged[rows] = residual <= part.accepted
            z = z.index_put((rows[:, None], part.allowed.to(u.device)[None, :]), solution)
        return z, info


def _part(P: Polytope, regularizer: Separable, entries: tuple[int, ...]) -> Part:
    key = (KKT.name, regularizer, entries)
    if key not in P.memo:
        P.memo[key] = plainly(lambda: Part(P, regularizer, entries))
    return P.memo[key]


class Part:
    """A polytope, or the face of it without some entries, with one regularizer: what many solves share."""

    def __init__(self, P: Polytope, regularizer: Separable, entries: tuple[int, ...]):
        face = P.restricted(entries) if entries else P.presolved
        self.allowed = torch.from_numpy(np.setdiff1d(np.arange(P.size), entries))
        self.free = torch.from_numpy(face.free)
        self.constant = torch.from_numpy(face.interior[: face.form.n])
        self.accepted = ACCEPTED * max(1.0, float(np.abs(P.bounds).max(initial=0.0)))
        self.hull = torch.from_numpy(face.core.hull[0])
        self.start_with_newton = newton.WIDEST if not isinstance(regularizer, Euclidean) else torch.inf
        self._interior: dict[torch.device, interior.Program] = {}
        self._box: dict[torch.device, newton.BoxProgram] = {}
        self._numbers = 1
        if len(self.free):
            cpu = torch.device("cpu")
            self._interior[cpu] = _interior_program(face.core, regularizer)
            self._numbers = self._interior[cpu].pattern.zero
            if not face.core.form.lifted and np.all(np.diff(face.core.form.G.indptr) == 1):
                self._box[cpu] = _box_program(face.core, regularizer)

    def chunk(self, device: torch.device) -> int:
        """How many instances are solved at a time."""
        return max(64, MOST_NUMBERS.get(device.type, 2**27) // self._numbers)

    def interior(self, device: torch.device) -> interior.Program:
        return _on(device, self._interior)

    def box(self, device: torch.device) -> newton.BoxProgram | None:
        """The program of the dual Newton method, if P is made of bounds and equalities."""
        return _on(device, self._box) if self._box else None

    def softmax(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """z of the allowed entries, residual and iterations, for u ``(B, P.size)``."""
        B, device = len(u), u.device
        z = self.constant.to(device) + 0 * u[:, self.allowed.to(device)]  # a gradient, if only of 0
        if not len(self.free) or not B:
            return z, u.new_zeros(B), torch.zeros(B, dtype=torch.long, device=device)
        if len(self.free) == u.shape[1]:
            E = self.hull.to(device)
            solution, _, residual, iterations = _Solve.apply(u - (u @ E.T) @ E, self)
            return solution, residual, iterations
        free = self.free.to(device)
        reduced = u[:, self.allowed.to(device)[free]]
        E = self.hull.to(device)
        reduced = reduced - (reduced @ E.T) @ E  # changes nothing but the rounding
        solution, _, residual, iterations = _Solve.apply(reduced, self)
        return z.index_put((torch.arange(B, device=device)[:, None], free[None, :]), solution), residual, iterations

    def solve(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """z ``(n, B)``, what the derivative needs of the active constraints, residual, iterations."""
        box = self.box(u.device)
        if box is None:
            found = interior.solve(self.interior(u.device), u)
            return found.z, found.weight, found.residual, found.iterations
        spread = u.amax(dim=0) - u.amin(dim=0)
        near = (spread <= self.start_with_newton).nonzero().flatten()
        z, active = torch.zeros_like(u), torch.zeros_like(u)
        residual, iterations = u.new_full(spread.shape, torch.inf), torch.zeros_like(spread, dtype=torch.long)
        first = newton.solve(box, u[:, near])
        z[:, near], active[:, near] = first.z, 1 - first.inside
        residual[near] = torch.where(first.converged, first.residual, torch.inf)
        iterations[near] = first.iterations
        far = (residual == torch.inf).nonzero().flatten()
        if len(far):
            program = self.interior(u.device)
            second = interior.solve(program, u[:, far])
            polished = newton.solve(box, u[:, far], second.nu)
            # the weights of the bounds, as the share of the slope that they leave: 1 / (1 + slope w)
            weight = program.G.square().T @ second.weight
            slope = program.entries.slope(second.z)
            held = slope * weight / (1 + slope * weight)
            ok = polished.converged
            z[:, far] = torch.where(ok, polished.z, second.z)
            active[:, far] = torch.where(ok, 1 - polished.inside, held)
            residual[far] = torch.where(ok, polished.residual, second.residual)
            iterations[far] = second.iterations + polished.iterations
        return z, active, residual, iterations


def _on(device: torch.device, programs: dict[torch.device, Any]) -> Any:
    if device not in programs:
        programs[device] = programs[torch.device("cpu")].to(device)
    return programs[device]


def _interior_program(core: Presolved, regularizer: Separable) -> interior.Program:
    form = core.form
    in_domain = torch.zeros(len(form.h), dtype=torch.bool)
    in_domain[torch.from_numpy(said_by_domain(core, regularizer))] = True
    low, high = regularizer.domain
    return interior.Program(
        pattern=Pattern(form.A, form.G),
        A=Matrix(form.A),
        b=torch.from_numpy(form.b),
        G=Matrix(form.G),
        h=torch.from_numpy(form.h),
        n=form.n,
        start=torch.from_numpy(core.interior),
        entries=ENTRIES[type(regularizer)],
        in_domain=in_domain,
        low=low,
        high=high,
    )


def _box_program(core: Presolved, regularizer: Separable) -> newton.BoxProgram:
    entries, program = ENTRIES[type(regularizer)], core.linear_program
    low, high = np.maximum(program.lower, regularizer.domain[0]), np.minimum(program.upper, regularizer.domain[1])
    if np.isfinite(regularizer.domain[0]):
        high = np.minimum(high, CAP * (1 + core.bounds[1]))
    return newton.BoxProgram(
        A=Matrix(core.form.A),
        b=torch.from_numpy(core.form.b),
        low=torch.from_numpy(low),
        high=torch.from_numpy(high),
        center=entries.marginal(torch.from_numpy(core.interior)),
        gram=torch.linalg.cholesky(torch.from_numpy((core.form.A @ core.form.A.T).toarray())),
        pairs=pairs(core.form.A),
        entries=entries,
    )


class _Solve(torch.autograd.Function):
    """u ``(B, n)`` to z ``(B, n)``, the state of the constraints, residuals, iterations."""

    @staticmethod
    def forward(u: torch.Tensor, part: Part) -> tuple[torch.Tensor, ...]:
        chunks = u.tensor_split(max(1, round(len(u) / part.chunk(u.device))))  # of equal sizes
        found = [part.solve(chunk.T.contiguous()) for chunk in chunks]
        z, active, residual, iterations = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
        z = z + 0.0  # no -0.0
        return z.T.contiguous(), active.T.contiguous(), residual, iterations

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, ctx.part = inputs
        z, active, residual, iterations = output
        ctx.mark_non_differentiable(active, residual, iterations)
        ctx.save_for_backward(z, active)
        ctx.save_for_forward(z, active)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        return sensitivity(ctx.part, g, *ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, du: torch.Tensor, _: None) -> tuple[torch.Tensor, None, None, None]:
        return sensitivity(ctx.part, du, *ctx.saved_tensors), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, part: Part) -> tuple[tuple, tuple]:
        size = info.batch_size
        flat = u.movedim(in_dims[0], 0).flatten(0, 1)
        return tuple(t.unflatten(0, (size, -1)) for t in _Solve.apply(flat, part)), (0, 0, 0, 0)

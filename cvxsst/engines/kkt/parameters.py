"""Polytopes with parameters: one program for all values, whose right-hand sides and entries are data of a batch.

    A(theta) x = b(theta),  G(theta) x <= h(theta)           affine in theta, ``cvxsst.geometry.parametric``

Everything that is prepared, units, order of elimination, start, is that of one theta at which P has an interior; it
fits the others well or less well, which costs steps, not accuracy. At another theta the start moves along, so that
A x = b and the slacks change as little as they can; where that leaves none, the method begins outside.

What the batch does not solve, such as a P(theta) without an interior (k = 0), is solved as a declaration of its own,
presolved at its value; the multipliers that the derivative needs are then those of independent rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch

from cvxsst.engines.base import At
from cvxsst.engines.kkt import interior, newton
from cvxsst.engines.kkt.interior import EDGE
from cvxsst.engines.kkt.matrix import Matrix
from cvxsst.engines.kkt.state import (
    ACCEPTED,
    CAP,
    Asked,
    Declared,
    Found,
    State,
    box_program,
    interior_program,
    on_device,
)
from cvxsst.geometry.canonical import StandardForm
from cvxsst.geometry.parametric import AffineForm, AffinePresolved
from cvxsst.geometry.presolve import Presolved, affine_hull
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Separable

MARGIN = 1e-2  # of its size: how far from the ends of the domain an entry starts
RIGID = 1e-8  # of a move of a column, beside what it changes of the slacks
TINY = 1e-7  # of what a row could move, what its columns leave it: nothing
HEAVY = 1e5  # a row that holds, beside the least curvature
SMALL_SLOPE = 1e-8  # where phi' is infinite at the ends: what is there moves by no more
MOST_MOVES = 5_000_000  # numbers in the map from theta to the start: with more the start stays

Product = Callable[..., torch.Tensor]


def times(M: Matrix, values: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """M(values) x for x ``(B, columns)`` and values ``(B, nnz)``, or those of M; differentiable in both."""
    if values is None and M.dense is not None:
        return x @ M.dense.T
    values = M.values.T if values is None else values
    return x.new_zeros(len(x), M.shape[0]).index_add(1, M.rows, values * x[:, M.columns])


@dataclass
class Affine:
    """constant + moves @ theta for theta ``(q, B)``."""

    constant: torch.Tensor  # ``(rows, 1)``
    moves: Matrix

    @staticmethod
    def of(constant: np.ndarray, moves: sp.sparray) -> Affine:
        return Affine(torch.from_numpy(np.ascontiguousarray(constant))[:, None], Matrix(moves))

    def __call__(self, theta: torch.Tensor) -> torch.Tensor:
        return self.constant + self.moves @ theta

    def along(self, g: torch.Tensor) -> torch.Tensor:
        """moves @ g for g ``(B, q)``, ``(B, rows)``, also under ``torch.func`` transforms."""
        return times(self.moves, None, g)

    def back(self, y: torch.Tensor) -> torch.Tensor:
        """moves' y for y ``(B, rows)``, ``(B, q)``."""
        return times(self.moves.T, None, y)

    def to(self, device: torch.device) -> Affine:
        return Affine(self.constant.to(device), self.moves.to(device))


@dataclass
class Moves:
    """How the interior program moves with theta: in its units, ``a`` and ``g`` the entries of A and G or None."""

    b: Affine
    h: Affine
    start: Affine
    a: Affine | None
    g: Affine | None

    def to(self, device: torch.device) -> Moves:
        return Moves(*(None if part is None else part.to(device) for part in vars(self).values()))  # type: ignore[arg-type]

    @staticmethod
    def of(
        form: AffineForm, theta: np.ndarray, program: interior.Program, scales: tuple[np.ndarray, np.ndarray]
    ) -> Moves:
        """Of a program that was made of the form at ``theta``, with its rows multiplied by ``scales``."""
        unit, (r, s), zero = program.unit[:, 0].numpy(), scales, form.zero
        b = Affine.of(r * zero.b, sp.diags_array(r) @ form.db)
        h = Affine.of(s * zero.h, sp.diags_array(s) @ form.dh)
        entries: list[Affine | None] = [None, None]
        if form.has_coefficients:
            for k, (M, dM, scale) in enumerate(((zero.A, form.dA, r), (zero.G, form.dG, s))):
                factor = np.repeat(scale, np.diff(M.indptr)) * unit[M.indices]
                entries[k] = Affine.of(factor * M.data, sp.diags_array(factor) @ dM)
        return Moves(b, h, _start(program, theta, b, h), *entries)

    def program(self, program: interior.Program, theta: torch.Tensor) -> interior.Program:
        """That of a batch, theta ``(q, B)``."""
        n, unit, (low, high) = program.n, program.unit[: program.n], program.f.domain
        start = self.start(theta)
        margin = MARGIN * unit.clamp_max(1.0)
        start[:n] = (unit * start[:n]).maximum(low + margin).minimum(high - margin) / unit
        pattern = program.pattern
        if self.a is not None and self.g is not None:
            pattern = pattern.at(self.a(theta), self.g(theta))
        return replace(program, pattern=pattern, b=self.b(theta), h=self.h(theta), start=start)


def _scales(M: sp.csr_array, unit: np.ndarray, scaled: Matrix) -> np.ndarray:
    """By what the rows of M, in columns of size ``unit``, have been multiplied."""
    plain = sp.csr_array(M @ sp.diags_array(unit))
    before, after = (sp.linalg.norm(rows, axis=1) if rows.shape[0] else np.ones(0) for rows in (plain, scaled.csr))
    return np.divide(after, before, out=np.ones_like(before), where=before > 0)


def _start(program: interior.Program, theta: np.ndarray, b: Affine, h: Affine) -> Affine:
    """x with  minimize |dh - G dx|^2 + RIGID |dx|^2  over  A dx = db:  the slacks change as little as they can."""
    A, G, start = program.A.csr, program.G.csr, program.start[:, 0].numpy()
    (m, N), q = A.shape, len(theta)
    if (N + m) * q > MOST_MOVES:
        return Affine.of(start, sp.csr_array((N, q)))
    system = sp.block_array([[G.T @ G + RIGID * sp.eye_array(N), A.T], [A, -RIGID * sp.eye_array(m)]])
    dh, db = h.moves.csr, b.moves.csr
    right = np.vstack([(G.T @ dh).toarray(), db.toarray()])
    moves = sp.linalg.splu(sp.csc_array(system)).solve(right)[:N]
    return Affine.of(start - moves @ theta, sp.csr_array(moves))


@dataclass
class BoxMoves:
    """How the bounds and b of the dual Newton method move with theta.

    Attributes:
        b: of its equalities.
        ratio: the bound that each row of G is, on its ``column``; ``lower``: which of them are lower bounds.
        start: z near the middle.
    """

    b: Affine
    ratio: Affine
    start: Affine
    column: torch.Tensor
    lower: torch.Tensor

    def to(self, device: torch.device) -> BoxMoves:
        return BoxMoves(*(part.to(device) for part in vars(self).values()))

    @staticmethod
    def of(form: AffineForm, program: newton.BoxProgram, start: Affine, unit: torch.Tensor) -> BoxMoves:
        r = _scales(form.zero.A, np.ones(form.zero.columns), program.A)
        G = form.zero.G
        a = G.data
        return BoxMoves(
            b=Affine.of(r * form.zero.b, sp.diags_array(r) @ form.db),
            ratio=Affine.of(form.zero.h / a, sp.diags_array(1 / a) @ form.dh),
            start=Affine.of(
                (unit * start.constant)[:, 0].numpy(), sp.diags_array(unit[:, 0].numpy()) @ start.moves.csr
            ),
            column=torch.from_numpy(G.indices.astype(np.int64)),
            lower=torch.from_numpy(a < 0),
        )

    def program(self, program: newton.BoxProgram, theta: torch.Tensor) -> newton.BoxProgram:
        n, B, (least, most) = program.A.shape[1], theta.shape[1], program.f.domain
        ratio = self.ratio(theta)
        low, high = theta.new_full((n, B), least), theta.new_full((n, B), most)
        for bound, rows, reduce in ((low, self.lower, "amax"), (high, ~self.lower, "amin")):
            where = self.column[rows][:, None].expand(-1, B)
            bound.scatter_reduce_(0, where, ratio[rows], reduce)
        if np.isfinite(least):
            size = theta.abs().amax(dim=0) if len(theta) else theta.new_zeros(B)
            high = high.minimum(CAP * (1 + program.high.nan_to_num(posinf=1.0)) * (1 + size))
        middle = self.start(theta)
        middle = middle.maximum(low + MARGIN * middle.abs().mean(dim=0)).minimum(high)
        center = program.f.gradient(program.f.inside(middle, MARGIN * 1e-2))
        return replace(program, b=self.b(theta), low=low, high=high, ratio=ratio, center=center)


@dataclass
class DeclaredMoves:
    """How the rows as written, divided by their lengths at one theta, move."""

    b: Affine
    h: Affine
    a: Affine | None
    g: Affine | None

    def to(self, device: torch.device) -> DeclaredMoves:
        moved = (None if part is None else part.to(device) for part in vars(self).values())
        return DeclaredMoves(*moved)  # type: ignore[arg-type]

    @staticmethod
    def of(source: AffineForm, theta: np.ndarray) -> DeclaredMoves:
        found: list[list[Affine | None]] = [[], []]
        zero, at = source.zero, source.at(theta)
        sides = ((at.A, zero.A, source.dA, zero.b, source.db), (at.G, zero.G, source.dG, zero.h, source.dh))
        for M, constant, dM, right, dright in sides:
            length = sp.linalg.norm(M, axis=1) if M.shape[0] else np.zeros(0)
            scale = 1 / np.where(length > 0, length, 1.0)
            factor = np.repeat(scale, np.diff(M.indptr))
            found[0].append(Affine.of(scale * right, sp.diags_array(scale) @ dright))
            found[1].append(Affine.of(factor * constant.data, sp.diags_array(factor) @ dM))
        entries = found[1] if source.has_coefficients else [None, None]
        return DeclaredMoves(*found[0], *entries)  # type: ignore[arg-type]

    def program(self, base: Declared, theta: torch.Tensor) -> Declared:
        A = base.A if self.a is None else base.A.at(self.a(theta))
        G = base.G if self.g is None else base.G.at(self.g(theta))
        return Declared(A, self.b(theta), G, self.h(theta))


class ParametricState(State):
    """A polytope with parameters and one separable regularizer; ``at`` gives the state at the values of a batch.

    Attributes:
        P: as declared.
        affine: what holds for all values.
        scales: by what the interior program has multiplied the rows of A, and of G.
    """

    def __init__(self, P: Polytope, f: Separable):
        self.P, self.f, self.affine = P, f, P.affine
        affine, cpu = self.affine, torch.device("cpu")
        self.free, self.lifted = torch.from_numpy(affine.free), affine.form.zero.lifted
        self._moves: dict[torch.device, Moves] = {}
        self._box_moves: dict[torch.device, BoxMoves] = {}
        self._interior, self._box, self._numbers = {}, {}, 1
        self._fixed = Affine.of(affine.values, sp.csr_array(affine.moves))
        core = _reference(affine)
        self.hull = torch.from_numpy(_rigid_hull(affine.form))
        if len(self.free):
            self._interior[cpu] = program = interior_program(core, f)
            at, unit = affine.form.at(affine.theta), program.unit[:, 0].numpy()
            self.scales = _scales(at.A, unit, program.A), _scales(at.G, unit, program.G)
            self._moves[cpu] = Moves.of(affine.form, affine.theta, program, self.scales)
            self._numbers = program.pattern.zero
            if core.form.is_box and not affine.form.has_coefficients:
                self._box[cpu] = box = box_program(core, f)
                self._box_moves[cpu] = BoxMoves.of(affine.form, box, self._moves[cpu].start, program.unit)
            self.width = program.unit[: program.n, 0]
        source = P.affine_form
        self._declared = {cpu: Declared.of(source.at(affine.theta))}
        self._declared_moves = {cpu: DeclaredMoves.of(source, affine.theta)}

    def at(self, theta: torch.Tensor) -> ParametricState:
        """The state at theta ``(B, q)``."""
        other = copy.copy(self)
        other.theta = theta
        return other

    @property
    def _values(self) -> torch.Tensor:
        assert self.theta is not None, "a state without values solves nothing"
        return self.theta.detach()

    @cached_property
    def constant(self) -> torch.Tensor:  # type: ignore[override]
        """z ``(B, n)``, right where P(theta) fixes it for every theta."""
        theta = self._values
        constant = theta.new_zeros(len(theta), self.P.size)
        constant[:, self._on_fixed(theta.device)] = self._fixed.to(theta.device)(theta.T).T
        return constant

    @cached_property
    def lower(self) -> torch.Tensor:  # type: ignore[override]
        fixed = self._on_fixed(self._values.device)
        lower = torch.full_like(self.constant, -torch.inf)
        lower[:, fixed] = self.constant[:, fixed]
        return lower

    @cached_property
    def sizes(self) -> torch.Tensor:
        """About the largest entry of each P(theta), 1 at least."""
        theta, sizes = self._values, self.constant.abs().amax(dim=1) if self.P.size else self._values.new_zeros(1)
        if len(self.free):
            program = self.shared_program(theta.device)
            start = program.unit[: program.n] * self.moving(theta.device).start(theta.T)[: program.n]
            sizes = sizes.maximum(start.abs().amax(dim=0))
        return sizes.clamp_min(1.0)

    @property
    def size(self) -> float:  # type: ignore[override]
        return float(self.sizes.max()) if len(self.sizes) else 1.0

    @property
    def accepted(self) -> torch.Tensor:  # type: ignore[override]
        return ACCEPTED * self.sizes

    def _on_fixed(self, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(self.affine.fixed).to(device)

    def is_degenerate(self, z: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        """Whether some row that holds z ``(B, n)`` runs through columns that are all held at their bounds: together
        they would let theta move nothing. ``active`` ``(B, p)`` as the derivative takes it; ``(B,)``."""
        if not len(self.free) or not len(z):
            return torch.zeros(len(z), dtype=torch.bool, device=z.device)
        device, program = z.device, self.shared_program(z.device)
        n, unit, slope = program.n, program.unit, self.f.slope(z[:, self.free.to(device)]).T.clamp_min(0.0)
        alone = (program.G.counts == 1)[:, None]
        small = slope.new_tensor(SMALL_SLOPE if self.f.steep else 0.0)
        if self.shared_box(device) is not None:
            column = self.box_moving(device).column
            moves = slope * (1 - torch.zeros_like(slope).index_add(0, column, active.T))
            return ((program.A.square() @ moves) <= small + TINY * (program.A.square() @ slope)).any(dim=0)
        weight, curvature = active.T, unit[:n].square() / slope.clamp_min(EDGE)
        least = curvature.amin(dim=0)
        D = torch.cat([curvature, least.expand(len(unit) - n, -1)])
        held = program.G.square().T @ torch.where(alone, weight, 0.0)
        firm = ~alone & (weight * program.lengths[:, None] > HEAVY * least)
        found = torch.zeros(len(z), dtype=torch.bool, device=device)
        for M, counts in ((program.A, None), (program.G, firm)):
            rows, all_of_them = M.square() @ (1 / (D + held)), M.square() @ (1 / D)
            bad = rows <= TINY * all_of_them + small
            found |= (bad if counts is None else bad & counts).any(dim=0)
        return found

    def declared(self, device: torch.device) -> Declared:
        assert self.theta is not None
        base, moves = on_device(device, self._declared), on_device(device, self._declared_moves)
        return moves.program(base, self.theta.T)

    def shared_program(self, device: torch.device) -> interior.Program:
        """That of no value: its pattern, units and matrices without parameters."""
        return on_device(device, self._interior)

    def shared_box(self, device: torch.device) -> newton.BoxProgram | None:
        return on_device(device, self._box) if self._box else None

    def moving(self, device: torch.device) -> Moves:
        return on_device(device, self._moves)

    def box_moving(self, device: torch.device) -> BoxMoves:
        return on_device(device, self._box_moves)

    def interior_program(self, asked: Asked) -> interior.Program:
        assert asked.theta is not None
        return self.moving(asked.theta.device).program(self.shared_program(asked.theta.device), asked.theta)

    def box_program(self, asked: Asked) -> newton.BoxProgram | None:
        box = self.shared_box(asked.u.device)
        if box is None:
            return None
        assert asked.theta is not None
        return self.box_moving(asked.theta.device).program(box, asked.theta)

    @property
    def more(self) -> int:  # type: ignore[override]
        form = self.affine.form
        return form.zero.lifted + len(form.zero.b) + len(form.zero.h) if form.has_coefficients and len(self.free) else 0

    def with_fixed(self, g: torch.Tensor, at: At, times_hessian: Product) -> torch.Tensor:
        """The product for all entries, by that for the free ones: the fixed ones move with theta alone. It is not told
        where theta moves entries that stand at an end of a domain where phi' is infinite (``untold``)."""
        if not len(g):
            return torch.zeros_like(g)
        active, untold = at.kept
        n, q = self.P.size, self._fixed.moves.shape[1]
        free, fixed = (torch.from_numpy(part).to(g.device) for part in (self.affine.free, self.affine.fixed))
        gu, gt, more = g[:, :n], g[:, n : n + q], g[:, n + q :]
        gives, rest = torch.zeros_like(gt), more
        dz = torch.zeros_like(gu)
        if len(free):
            inner = at._replace(u=at.u[:, free], z=at.z[:, free])
            found = times_hessian(self, torch.cat([gu[:, free], gt, more], dim=1), inner, active)
            dz, gives, rest = dz.index_copy(1, free, found[:, : len(free)]), *found[:, len(free) :].tensor_split([q], 1)
        if len(fixed):
            moves = self._fixed.to(g.device)
            dz = dz.index_copy(1, fixed, moves.along(gt))
            gives = gives + moves.back(gu[:, fixed])
        gives = gives.masked_fill(untold, torch.nan)
        dz = dz.masked_fill(untold & (gt != 0).any(dim=1, keepdim=True), torch.nan)
        return torch.cat([dz, gives, rest], dim=1)

    @property
    def kept_rows(self) -> int:
        return self.affine.form.zero.G.shape[0]

    def _bound_shares(self, program: interior.Program, rough: Found) -> torch.Tensor:
        """Of each row, as its share in that of all rows on its column."""
        G, slope = program.G.square(), self.f.slope(rough.x) / program.unit.square()
        total = slope * (G.T @ rough.active)
        return (G @ slope) * rough.active / (1 + total[self.box_moving(slope.device).column])

    def _of_newton(self, box: newton.BoxProgram, solution: newton.BoxSolution) -> Found:
        """A row is active where its column is held at the bound that the row is; equal rows share it."""
        column = self.box_moving(solution.z.device).column
        active = ((solution.inside[column] == 0) & (solution.z[column] == box.ratio)).to(solution.z)
        count = torch.zeros_like(solution.z).index_add(0, column, active)
        active = active / count[column].clamp_min(1.0)
        return Found(solution.z, active, solution.residual, solution.iterations, solution.z[:0])


def _reference(affine: AffinePresolved) -> Presolved:
    """The form at a theta at which it has an interior; rows with parameters in coefficients, of which no such theta is
    known, are moved away from the point that is interior to the others."""
    form, x = affine.form.at(affine.theta), affine.x
    away = form.G @ x + sp.linalg.norm(form.G, axis=1) if form.G.shape[0] else form.h
    h = np.where(affine.form.constant_rows[1], form.h, np.maximum(form.h, away))
    b = np.where(affine.form.constant_rows[0], form.b, form.A @ x)
    form = StandardForm(form.A, b, form.G, h, form.n)
    core = Presolved(form, form, np.zeros(0, dtype=int), np.zeros(0, dtype=int))
    core.__dict__["interior"] = x
    if not affine.bounded:
        core.__dict__["bounds"] = x[: form.n] - 1.0, x[: form.n] + 1.0
    return core


def _rigid_hull(form: AffineForm) -> np.ndarray:
    """Orthonormal rows that span what the equalities without parameters in coefficients say of z."""
    rows = np.flatnonzero(form.constant_rows[0])
    rigid = form.rows(rows, np.zeros(0, dtype=int)).zero
    return affine_hull(rigid.A, rigid.b, rigid.n)[0]

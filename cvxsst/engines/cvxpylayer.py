"""The reference: CvxpyLayer (Clarabel) with tight tolerances, refined, certified, instance by instance.

CvxpyLayer solves the declaration as a cone program. On its own its z is off by up to 1e-6, its gradient by far more at
low temperature, and it looks at neither its input nor the solver's status. So here

1. the problem is stated in the free entries of z, on the face that the -inf entries leave, with u reduced by its
   component orthogonal to the affine hull (which changes nothing but the rounding); rows, columns and the objective in
   units of their own;
2. CvxpyLayer gives z and the multipliers; one instance that makes the solver fail is solved again alone;
3. the multipliers tell the active constraints, Newton on that face (``cvxsst.geometry.faces``) removes the error left,
   and the derivative is that of the face; constraints that the optimality of z does not need are dropped again;
4. the certificate judges the result on the declaration, whatever the solver said; ``converged`` means: z is within
   1e-6, relative to the largest entry of P if that is above 1.

Its limit: Clarabel resolves multipliers to about 1e-12, so that on lifted polytopes with an entropy it cannot tell
which constraints are active once entries of z fall below that (u spread beyond 20 or so). Such instances are reported
as failed; the ``kkt`` engine solves them.

A ``Custom`` regularizer takes the same way with a differenced Hessian, and falls back on CvxpyLayer's own z and
gradient where it has none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cvxpy as cp
import diffcp
import numpy as np
import scipy.sparse as sp
import torch
from cvxpylayers.torch import CvxpyLayer
from scipy.optimize import lsq_linear

from cvxsst.cache import Cache
from cvxsst.engines.base import At, Engine, Solution, without_constraints
from cvxsst.errors import EmptyPolytopeError, UnboundedPolytopeError
from cvxsst.geometry.canonical import divided, largest
from cvxsst.geometry.faces import Face, said_by_domain
from cvxsst.geometry.held import STEEP, Held
from cvxsst.geometry.presolve import column_bounds
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer, Separable

CLARABEL: dict[str, Any] = {
    "solve_method": "Clarabel",
    "tol_gap_abs": 1e-13,
    "tol_gap_rel": 1e-13,
    "tol_feas": 1e-13,
    "tol_infeas_abs": 1e-13,
    "tol_infeas_rel": 1e-13,
    "max_iter": 200,
    # In diffcp's pool of threads Ctrl-C leaves workers behind inside of Clarabel, which abort the interpreter's exit.
    "n_jobs_forward": 1,
}
SOLVER_FAILURES = (diffcp.SolverError, RuntimeError, ValueError)
FACES_KEPT = 512
NARROWINGS = 4  # of a guess that takes too many constraints for active
NEAR = 1e-5  # to the cone solver's z, relative to the size of P


class Refined(NamedTuple):
    """One instance: z, the bound on its error, the Newton steps, and how to get dz/du; all in the free entries."""

    z: np.ndarray
    residual: float
    steps: int
    jacobian: Callable[[], np.ndarray]


class ConeSolution(NamedTuple):
    """What CvxpyLayer tells of one instance; NaN where it failed.

    ``normal`` is A'nu + G'mu in the entries of z, ``slack`` h - G x, ``multiplier`` mu.
    """

    z: np.ndarray
    normal: np.ndarray
    slack: np.ndarray
    multiplier: np.ndarray


class CvxpyLayerEngine(Engine["ConeProgram | AtValues"]):
    """The derivative of every instance is kept as a matrix: O(n^2) numbers each."""

    name = "cvxpylayer"
    twice = False
    batched = False

    parametric = True

    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        if P.parameters and not isinstance(f, Separable):
            return f"with parameters cvxpylayer solves for sums over the entries of z, which {f!r} is not"
        if f.has_formula:
            return without_constraints(self.name, P)
        return f"cvxpylayer needs f as a formula, and {f!r} has none"

    def prepare(self, P: Polytope, f: Regularizer) -> ConeProgram | AtValues:
        if P.theta is None:
            return ConeProgram(P, f, np.zeros(0, dtype=int))
        assert isinstance(f, Separable)
        return AtValues(P.unvalued, f)

    def bound(self, state: ConeProgram | AtValues, beside: torch.Tensor) -> AtValues:
        assert isinstance(state, AtValues)
        return AtValues(state.P, state.f, beside.cpu().numpy())

    def solve(self, state: ConeProgram | AtValues, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        """Each pattern of forbidden entries is a cone program of its own, for the time of the call; so is each value of
        the parameters."""
        if isinstance(state, ConeProgram):
            return self._solve_program(state, u, forbidden)
        B, (n, q) = len(u), (u.shape[1], state.P.affine_form.q)
        z, J = u.new_zeros(B, n), u.new_zeros(B, n, n + q)
        told: list[torch.Tensor] = [t.clone() for t in Solution(z).told()]
        told[0][:], told[1][:] = False, torch.inf
        assert state.thetas is not None
        values, which = np.unique(state.thetas, axis=0, return_inverse=True)
        for k, theta in enumerate(values):
            rows = torch.from_numpy(np.flatnonzero(which.reshape(-1) == k)).to(u.device)
            P, mask = state.P.alone(theta), None if forbidden is None else forbidden[rows]
            try:
                program = self.state(P, state.f)
                assert isinstance(program, ConeProgram)
                found = self._solve_program(program, u[rows], mask)
            except EmptyPolytopeError:
                told[3][rows] = True
                continue
            except UnboundedPolytopeError:
                continue
            z[rows], J[rows, :, :n] = found.z, found.kept[0]
            for mine, theirs in zip(told, found.told(), strict=True):
                mine[rows] = theirs
            for row in rows[found.told()[0]].tolist():
                J[row, :, n:] = torch.from_numpy(state.moves(P, theta, u[row], z[row])).to(u.device)
        converged, residual, steps, empty = told
        return Solution(z, converged, residual, steps, empty, (J,))

    def _solve_program(self, state: ConeProgram, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        B, n = u.shape
        z, J = np.zeros((B, n)), np.zeros((B, n, n))
        residual, steps, accepted, empty = np.zeros(B), np.zeros(B, dtype=int), np.zeros(B), np.zeros(B, dtype=bool)
        for entries, rows in _patterns(forbidden, B):
            try:
                program = ConeProgram(state.P, state.f, entries) if len(entries) else state
            except EmptyPolytopeError:
                empty[rows], residual[rows] = True, np.inf
                continue
            accepted[rows], place = program.tolerance, np.ix_(program.places, program.places)
            z[rows] = program.constant
            for row, found in zip(rows, program.solve(u[rows].cpu().numpy()), strict=True):
                z[row, program.places], residual[row], steps[row] = found.z, found.residual, found.steps
                J[row][place] = found.jacobian() if np.isfinite(found.residual) else 0.0
        told = (z, residual <= accepted, residual, steps, empty, J)
        whole, converged, bound, iterations, none, kept = (torch.from_numpy(t).to(u.device) for t in told)
        return Solution(whole, converged, bound, iterations, none, (kept,))

    def times_jacobian(self, state: ConeProgram | AtValues, g: torch.Tensor, at: At) -> torch.Tensor:
        J, n = at.kept[0], at.z.shape[1]
        dz = (J[..., :n] @ g[:, :n, None])[..., 0]
        if g.shape[1] == n:
            return dz
        gt = g[:, None, n:]
        dz = dz + torch.where(gt == 0, 0.0, J[..., n:] * gt).sum(dim=2)  # NaN only where it is asked for
        return torch.cat([dz, (J[..., n:].mT @ g[:, :n, None])[..., 0]], dim=1)


class AtValues:
    """A polytope with parameters, at the values of a batch.

    Attributes:
        P: without values.
        thetas: ``(B, q)``; None where none were given yet.
    """

    def __init__(self, P: Polytope, f: Separable, thetas: np.ndarray | None = None):
        self.P, self.f, self.thetas = P, f, thetas

    def moves(self, P: Polytope, theta: np.ndarray, u: torch.Tensor, z: torch.Tensor) -> np.ndarray:
        """dz / dtheta ``(n, q)`` of one instance, solved over P, the polytope at theta."""
        affine, f = self.P.affine, self.f
        free = torch.from_numpy(affine.free)
        J = np.zeros((self.P.size, len(theta)))
        J[affine.fixed] = affine.moves
        if len(free):
            inner = z.cpu()[free]
            slope = f.slope(inner).numpy()
            missing = (u.cpu()[free] - f.gradient(f.inside(inner, 1e-300))).numpy()
            held = Held.of(affine.form.at(theta), inner.numpy(), slope, missing)
            J[affine.free] = held.moves(affine.form, theta, slope)
            if f.steep and np.any(np.isin(affine.free, P.presolved.fixed) & (slope <= STEEP)):
                J[:] = np.nan  # the entry may only move to one side, from where phi' is infinite
        return J


def _patterns(forbidden: torch.Tensor | None, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The different sets of forbidden entries, and the instances of each."""
    if forbidden is None:
        yield np.zeros(0, dtype=int), np.arange(batch)
        return
    patterns, which = np.unique(forbidden.cpu().numpy(), axis=0, return_inverse=True)
    for k, pattern in enumerate(patterns):
        yield np.flatnonzero(pattern), np.flatnonzero(which.reshape(-1) == k)


class ConeProgram:
    """One polytope without some entries, one regularizer: everything that many solves share.

    Attributes:
        places: of the free entries in z; ``constant``: z, right in all others.
        tolerance: on a residual: below it an instance has converged.

    Raises:
        EmptyPolytopeError: there is no point where the entries ``forbidden`` are 0.
    """

    def __init__(self, P: Polytope, f: Regularizer, forbidden: np.ndarray):
        face = P.presolved.where_zero(forbidden) if len(forbidden) else P.presolved
        allowed = np.setdiff1d(np.arange(P.size), forbidden)
        self.P, self.f, self.core = P, f, face.core
        self.places = allowed[face.free]
        self.constant = np.zeros(P.size)
        self.constant[allowed] = face.interior[: len(allowed)]
        self.constant = np.clip(self.constant, *P.bounds)  # a zero is 0, not -1e-33
        self.slice = f.slice(P, self.places, self.constant)
        self.tolerance = self.slice.tolerance
        # the cone of f's epigraph says the other rows
        rows, said = np.arange(self.core.form.G.shape[0]), said_by_domain(self.core, f.domain)
        self.inequalities = np.setdiff1d(rows, said)
        self.sizes = self._sizes()
        self.layer = self._cone_program() if len(self.places) else None
        self._faces: Cache[bytes, Face] = Cache(FACES_KEPT)

    def _cone_program(self) -> CvxpyLayer:
        """The rows divided by their largest entries, in columns divided by the size that each has over P."""
        form, parameter = self.core.form, cp.Parameter(self.core.form.n)
        x = cp.Variable(form.columns)
        z = cp.multiply(self.sizes[: form.n], x[: form.n])
        (A, b), (G, h) = (divided(M @ sp.diags_array(self.sizes), right, scale) for M, right, scale in self._rows())
        constraints = [*([A @ x == b] if len(b) else []), *([G @ x <= h] if len(h) else [])]
        objective = cp.Minimize((self.slice.expression(z) - parameter @ z) / self.slice.scale)
        duals = [constraint.dual_variables[0] for constraint in constraints]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a cone is approximated: the face and the certificate set that right
            return CvxpyLayer(cp.Problem(objective, constraints), parameters=[parameter], variables=[x, *duals])

    def _rows(self) -> list[tuple[sp.csr_array, np.ndarray, np.ndarray]]:
        """A with b, and the inequalities with theirs, each with what its rows are divided by."""
        form = self.core.form
        rows = [(form.A, form.b), (form.G[self.inequalities], form.h[self.inequalities])]
        return [(M, right, largest(sp.csr_array(M @ sp.diags_array(self.sizes)))) for M, right in rows]

    def _sizes(self) -> np.ndarray:
        """The largest absolute value of each column over P, as far as its rows tell; 1 where they do not."""
        most = np.maximum(*np.abs(column_bounds(self.core.form, passes=3)))
        most[: self.core.form.n] = np.maximum(*np.abs(self.P.bounds))[self.places]
        return np.where(np.isfinite(most) & (most > 0), most, 1.0)

    def solve(self, u: np.ndarray) -> list[Refined]:
        """The solutions for u ``(rows, P.size)``, in the free entries."""
        if self.layer is None:
            return [Refined(np.zeros(0), 0.0, 0, lambda: np.zeros((0, 0)))] * len(u)
        E = self.core.hull[0]
        reduced = u[:, self.places]
        reduced = reduced - (reduced @ E.T) @ E
        return [self._refined(*instance) for instance in zip(reduced, self._cone_solutions(reduced), strict=True)]

    def _cone_solutions(self, u: np.ndarray) -> list[ConeSolution]:
        assert self.layer is not None
        (A, _, by_row), (G, h, by_inequality) = self._rows()
        x, *duals = _solve_one_by_one_if_need_be(self.layer, u)
        nu = duals.pop(0) if len(by_row) else np.zeros((len(u), 0))
        mu = duals.pop(0) if len(h) else np.zeros((len(u), 0))
        x, scale, n = x * self.sizes, self.slice.scale, self.core.form.n
        normal = scale * (A.T @ (nu / by_row).T + G.T @ (mu / by_inequality).T).T[:, :n]
        return list(map(ConeSolution, x[:, :n], normal, (h - (G @ x.T).T) / by_inequality, mu))

    def _refined(self, u: np.ndarray, cone: ConeSolution) -> Refined:
        """The best of the maximizers over the faces on which the solution may lie."""
        best = Refined(cone.z, np.inf, 0, lambda: np.zeros((len(u), len(u))))
        if not np.all(np.isfinite(cone.z)):
            return best
        if self.slice.may_be_rough:
            best = Refined(cone.z, self._residual(u, cone.z, cone.normal), 0, lambda: self._own_jacobian(u))
        for active in _plausible_active_sets(cone.slack, cone.multiplier):
            for _ in range(NARROWINGS):
                z, normal, steps, jacobian = self.slice.maximize(self._face(active), u, cone.z, cone.normal)
                residual, needed = self._residual(u, z, normal), active
                if self.slice.refined < residual and np.abs(z - cone.z).max() <= NEAR * self.sizes.max():
                    normal, needed = self._explained(u, z, active)
                    residual = min(residual, self._residual(u, z, normal))
                if jacobian is not None and residual <= max(best.residual, self.slice.refined):
                    best = Refined(z, residual, steps, jacobian)
                if residual <= self.slice.refined:
                    return best
                if np.array_equal(needed, active):
                    break
                active = needed
        return best

    def _residual(self, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> float:
        """How far z is from the solution at most, as the slice measures it."""
        g, D = self.slice.bound(u, z, normal)
        if not (np.all(np.isfinite(g)) and np.isfinite(D)):
            return np.inf
        vertex = self.core.linear_program.maximize(g).x
        assert vertex is not None, "a presolved form has a point"
        gap = float(g @ (vertex[: len(z)] - z)) + D
        return self.slice.error(gap, self.core.distance(z), u)

    def _explained(self, u: np.ndarray, z: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The vector A'nu + G'mu, mu >= 0 on the active rows, that is nearest to u - f'(z), entry by entry as much as
        it moves z: what an entry of 1e-30 says of it, which a face takes at its word, is next to nothing.

        Also which of the active rows it takes, with mu > 0.
        """
        form, (weight, target, beyond) = self.core.form, self.slice.stationarity(u, z)
        rows = np.vstack([form.A.toarray(), form.G[self.inequalities[active]].toarray()])
        rows = np.vstack([rows, -beyond[:, None] * np.eye(form.n, form.columns)])  # how far u - f' is beyond its end
        weight = np.append(weight, np.full(form.lifted, weight.max(initial=1e-9)))
        least = np.where(np.arange(len(rows)) < len(form.b), -np.inf, 0.0)
        right = weight * np.append(target, np.zeros(form.lifted))
        multipliers = lsq_linear(weight[:, None] * rows.T, right, (least, np.inf), method="bvls").x
        multipliers[-form.n :], needed = 0.0, active.copy()
        needed[active] = multipliers[len(form.b) : -form.n] > 0
        return (multipliers @ rows)[: form.n], needed

    def _face(self, active: np.ndarray) -> Face:
        rows = self.inequalities[active]
        return self._faces.get(np.packbits(active).tobytes(), lambda: Face.of(self.core, rows))

    def _own_jacobian(self, u: np.ndarray) -> np.ndarray:
        """CvxpyLayer's own derivative, row by row: each unit vector is pulled back, at a copy of u."""
        assert self.layer is not None
        copies = torch.from_numpy(np.tile(u, (len(u), 1))).requires_grad_()
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = self.layer(copies, solver_args=CLARABEL | {"mode": "lsmr", "n_jobs_backward": 1})[0]
        (rows,) = torch.autograd.grad(x, copies, torch.eye(len(u), x.shape[1], dtype=x.dtype))
        return rows.numpy()


def _plausible_active_sets(slack: np.ndarray, multiplier: np.ndarray) -> Iterator[np.ndarray]:
    """Guesses at the active constraints, the likeliest first.

    Near the solution an active constraint has multiplier > slack. Where strict complementarity is weak (a capped
    entry at 1 - 1e-9, say) the solver's accuracy does not tell; then a constraint more or less, in the order of the
    ratio of the two, is tried, then the constraints that are active beyond doubt, then those that may be active. The
    certificate decides.
    """
    with np.errstate(all="ignore"):
        ratio = np.nan_to_num(np.maximum(multiplier, 0) / np.maximum(slack, 1e-300), posinf=1e300)
    order = np.argsort(-ratio, kind="stable")
    likely = int(np.count_nonzero(ratio > 1))
    for shift in (0, -1, 1, -2, 2, -3, 3, -4, 4):
        if 0 <= likely + shift <= len(order):
            active = np.zeros(len(order), dtype=bool)
            active[order[: likely + shift]] = True
            yield active
    for doubt in (1e-6, 1e-3):
        yield (ratio > 1) & (multiplier > doubt)
        yield slack < doubt


def _solve_one_by_one_if_need_be(layer: CvxpyLayer, u: np.ndarray) -> list[np.ndarray]:
    """The layer's answers for a batch; NaN in the rows that make the solver raise."""
    try:
        return _answers(layer, u)
    except SOLVER_FAILURES:
        pass
    rows: list[list[np.ndarray] | None] = []
    for row in u:
        try:
            rows.append(_answers(layer, row[None]))
        except SOLVER_FAILURES:
            rows.append(None)
    template = next((r for r in rows if r is not None), None)
    if template is None:
        return [np.full((len(u), v.size), np.nan) for v in layer.ctx.variables or ()]
    filled = [r if r is not None else [np.full_like(t, np.nan) for t in template] for r in rows]
    return [np.concatenate(parts) for parts in zip(*filled, strict=True)]


def _answers(layer: CvxpyLayer, u: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the solver's own opinion: the certificate judges
        return [answer.numpy() for answer in layer(torch.from_numpy(u), solver_args=CLARABEL)]

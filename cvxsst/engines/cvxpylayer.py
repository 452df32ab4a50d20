"""The reference: CvxpyLayer (Clarabel) with tight tolerances, refined, certified, instance by instance.

CvxpyLayer solves the declaration as a cone program. On its own its z is off by up to 1e-6, its gradient by far more at
low temperature, and it looks at neither its input nor the solver's status. So here

1. the problem is stated in the free entries of z, on the face that the -inf entries leave, with u reduced by its
   component orthogonal to the affine hull (which changes nothing but the rounding);
2. CvxpyLayer gives z and the multipliers; one instance that makes the solver fail is solved again alone;
3. the multipliers tell the active constraints, Newton on that face (``cvxsst.face``) removes the remaining error, and
   the derivative is that of the face;
4. the certificate judges the result, whatever the solver said; ``converged`` means: z is within 1e-6.

``Custom`` regularizers skip step 3: z and the gradient are CvxpyLayer's own.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import diffcp
import numpy as np
import scipy.sparse as sp
import torch
from cvxpylayers.torch import CvxpyLayer

from cvxsst.certificate import distance, gap_bound, judge
from cvxsst.engines.base import Engine, Info
from cvxsst.errors import EmptyPolytopeError
from cvxsst.face import Face
from cvxsst.presolve import Presolved
from cvxsst.regularizers import Custom, ExponentialFamily, Regularizer, Separable

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope

TOLERANCE = 1e-6  # on the certified distance from z to the solution, relative to the largest entry over P if > 1
CUSTOM_TOLERANCE = 1e-5  # on the certified gap relative to the spread of <u, z>: a Custom f promises no distance
CLARABEL: dict[str, Any] = {
    "solve_method": "Clarabel",
    "tol_gap_abs": 1e-13,
    "tol_gap_rel": 1e-13,
    "tol_feas": 1e-13,
    "tol_infeas_abs": 1e-13,
    "tol_infeas_rel": 1e-13,
    "max_iter": 200,
}
SOLVER_FAILURES = (diffcp.SolverError, RuntimeError, ValueError)
FACES_KEPT = 512
DENSE_UP_TO = 400  # rows and columns of the cone program up to which diffcp's dense derivative is the faster one


class CvxpyLayerEngine(Engine):
    name = "cvxpylayer"

    def supports(self, P: Polytope, regularizer: Regularizer) -> bool:
        return not isinstance(regularizer, ExponentialFamily)

    def softmax(
        self, P: Polytope, regularizer: Regularizer, u: torch.Tensor, forbidden: torch.Tensor | None
    ) -> tuple[torch.Tensor, Info]:
        regularizer.require_domain(P)
        device, u = u.device, u.cpu()  # the solver lives on the CPU; autograd carries the gradient across
        z = torch.zeros_like(u)
        info = Info.of_closed_form(z)
        info.residual.fill_(torch.inf)
        for entries, rows in _groups(forbidden, len(u)):
            try:
                layer = _layer(P, regularizer, entries)
            except EmptyPolytopeError:
                info.converged[rows], info.empty[rows] = False, True
                continue
            part = layer.solve(u[rows], info, rows)
            z = z.index_put((rows[:, None], layer.allowed[None, :]), part)
        moved = Info(*(t.to(device) for t in (info.converged, info.residual, info.iterations, info.empty)))
        return z.to(device), moved


def _groups(forbidden: torch.Tensor | None, batch: int) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """The instances by their forbidden entries: ``[(entries, rows), ...]``."""
    if batch == 0:
        return []
    if forbidden is None:
        return [((), torch.arange(batch))]
    patterns, which = torch.unique(forbidden.cpu(), dim=0, return_inverse=True)
    return [
        (tuple(pattern.nonzero().flatten().tolist()), (which == k).nonzero().flatten())
        for k, pattern in enumerate(patterns)
    ]


def _layer(P: Polytope, regularizer: Regularizer, entries: tuple[int, ...]) -> _Layer:
    key = (CvxpyLayerEngine.name, regularizer, entries)
    if key not in P.memo:
        if isinstance(regularizer, Custom):
            P.memo[key] = _CustomLayer(P, regularizer, entries)
        else:
            assert isinstance(regularizer, Separable)
            P.memo[key] = _SeparableLayer(P, regularizer, entries)
    return P.memo[key]


class _Layer:
    """One polytope (or face of one), one regularizer: everything that many solves share.

    ``allowed``: indices of the entries of z that are not forbidden; ``free``: which of these P does not fix.
    """

    def __init__(self, P: Polytope, regularizer: Regularizer, entries: tuple[int, ...]):
        self.P, self.regularizer, self.entries = P, regularizer, entries
        self.face_of_P = P.restricted(entries) if entries else P.presolved
        self.allowed = torch.from_numpy(np.setdiff1d(np.arange(P.size), entries))

    def solve(self, u: torch.Tensor, info: Info, rows: torch.Tensor) -> torch.Tensor:
        """Solve for u ``(len(rows), n)``; write what happened into ``info`` at ``rows``."""
        raise NotImplementedError


class _SeparableLayer(_Layer):
    def __init__(self, P: Polytope, regularizer: Separable, entries: tuple[int, ...]):
        super().__init__(P, regularizer, entries)
        self.phi = regularizer
        self.core: Presolved = self.face_of_P.core
        self.free = self.face_of_P.free
        self.constant = self.face_of_P.interior[: self.face_of_P.form.n]
        size = float(np.abs(P.presolved.bounds).max(initial=0.0))
        self.tolerance = TOLERANCE * max(1.0, size)
        self.curvature = regularizer.curvature_up_to(size)
        self.inequalities = np.setdiff1d(np.arange(self.core.form.G.shape[0]), _said_by_domain(self.core, regularizer))
        self.layer = self._cone_program() if len(self.free) else None
        self._faces: OrderedDict[bytes, Face] = OrderedDict()

    def _cone_program(self) -> CvxpyLayer:
        form, parameter = self.core.form, cp.Parameter(self.core.form.n)
        x = cp.Variable(form.columns)
        z = x[: form.n]
        equalities, inequalities = form.A @ x == form.b, form.G[self.inequalities] @ x <= form.h[self.inequalities]
        constraints = ([equalities] if form.A.shape[0] else []) + ([inequalities] if len(self.inequalities) else [])
        problem = cp.Problem(cp.Minimize(self.phi.expression(z) - parameter @ z), constraints)
        duals = [constraint.dual_variables[0] for constraint in constraints]
        return CvxpyLayer(problem, parameters=[parameter], variables=[x, *duals])

    def solve(self, u: torch.Tensor, info: Info, rows: torch.Tensor) -> torch.Tensor:
        return _Solve.apply(u[:, self.allowed], self, info, rows)

    def forward(self, u: np.ndarray, info: Info, rows: np.ndarray) -> tuple[np.ndarray, list[Face | None]]:
        z = np.tile(self.constant, (len(u), 1))
        faces: list[Face | None] = [None] * len(u)
        info.converged[rows], info.residual[rows] = True, 0.0
        if self.layer is None:
            return z, faces
        E = self.core.hull[0]
        reduced = u[:, self.free]
        reduced = reduced - (reduced @ E.T) @ E
        cone = self._cone_solutions(reduced)
        for i in range(len(u)):
            best, residual, steps, faces[i] = self._refine(reduced[i], *(part[i] for part in cone))
            z[i, self.free] = best
            row = rows[i]
            info.residual[row], info.iterations[row] = residual, steps
            info.converged[row] = residual <= self.tolerance
        return z, faces

    def _cone_solutions(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What CvxpyLayer tells, NaN where it fails: z; the normal vector A'nu + G'mu; slacks h - G x; mu."""
        assert self.layer is not None
        form, G, h = self.core.form, self.core.form.G[self.inequalities], self.core.form.h[self.inequalities]
        x, *duals = _solve_one_by_one_if_need_be(self.layer, u)
        nu = duals.pop(0) if form.A.shape[0] else np.zeros((len(u), 0))
        mu = duals.pop(0) if len(self.inequalities) else np.zeros((len(u), 0))
        normal = (form.A.T @ nu.T + G.T @ mu.T).T[:, : form.n]
        return x[:, : form.n], normal, h - (G @ x.T).T, mu

    def _refine(
        self, u: np.ndarray, raw: np.ndarray, normal: np.ndarray, slack: np.ndarray, multiplier: np.ndarray
    ) -> tuple[np.ndarray, float, int, Face | None]:
        """The best certified of a few candidates: (z, residual, Newton steps, the face it lies on)."""
        best: tuple[np.ndarray, float, int, Face | None] = (raw, np.inf, 0, None)
        if not np.all(np.isfinite(raw)):
            return best
        for active in _plausible_active_sets(slack, multiplier):
            face = self._face(active)
            z, g, steps = face.solve(self.phi, u, normal)
            residual = self._residual(u, z, g)
            if residual < best[1]:
                best = (z, residual, steps, face)
            if residual <= self.tolerance:
                break
        return best

    def _face(self, active: np.ndarray) -> Face:
        key = np.packbits(active).tobytes()
        if key not in self._faces:
            self._faces[key] = Face.of(self.core, self.inequalities[active])
            if len(self._faces) > FACES_KEPT:
                self._faces.popitem(last=False)
        return self._faces[key]

    def _residual(self, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> float:
        """A bound on the distance from z to the solution (``cvxsst.certificate``), up to the rounding of the gap."""
        gap = gap_bound(self.core, self.phi, u, z, normal)
        rounding = 4 * np.finfo(float).eps * float(np.abs(normal) @ (1 + np.abs(z)))
        return distance(self.core, z) + float(np.sqrt(2 * max(gap - rounding, 0.0) / self.curvature))

    def backward(self, z: np.ndarray, faces: list[Face | None], g: np.ndarray) -> np.ndarray:
        gradient = np.zeros_like(g)
        for i, face in enumerate(faces):
            if face is not None:
                gradient[i, self.free] = face.derivative(self.phi, z[i, self.free], g[i, self.free])
        return gradient


def _plausible_active_sets(slack: np.ndarray, multiplier: np.ndarray) -> Iterator[np.ndarray]:
    """Guesses at the active constraints, the likeliest first.

    Near the solution an active constraint has multiplier > slack. Where strict complementarity is weak (a capped
    entry at 1 - 1e-9, say) the solver's accuracy does not tell; then a constraint more or less, in the order of the
    ratio of the two, is tried. The certificate decides.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(np.maximum(multiplier, 0) / np.maximum(slack, 1e-300), posinf=1e300)
    order = np.argsort(-ratio, kind="stable")
    likely = int(np.count_nonzero(ratio > 1))
    for shift in (0, -1, 1, -2, 2, -3, 3, -4, 4):
        if 0 <= likely + shift <= len(order):
            active = np.zeros(len(order), dtype=bool)
            active[order[: likely + shift]] = True
            yield active


class _Solve(torch.autograd.Function):
    """z(u) and its derivative on the face; u and z hold the allowed entries of one group of instances."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, layer: _SeparableLayer, info: Info, rows: torch.Tensor) -> torch.Tensor:
        z, ctx.faces = layer.forward(u.detach().numpy(), info, rows.numpy())
        ctx.layer, ctx.z = layer, z
        return torch.from_numpy(z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return torch.from_numpy(ctx.layer.backward(ctx.z, ctx.faces, g.numpy())), None, None, None


def _said_by_domain(core: Presolved, phi: Separable) -> np.ndarray:
    """Rows of G such as -z_i <= 0 that the domain of phi implies: the entropy's own cone already says them."""
    form, (low, high) = core.form, phi.domain
    single = np.flatnonzero(np.diff(form.G.indptr) == 1)
    column, a = form.G.indices[form.G.indptr[single]], form.G.data[form.G.indptr[single]]
    end = np.where(a > 0, high, low)
    with np.errstate(invalid="ignore"):
        said = (column < form.n) & (a * end <= form.h[single])
    return single[said]


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


class _CustomLayer(_Layer):
    """A Custom regularizer: CvxpyLayer's z and gradient, certified by the gap.

    diffcp takes an incoming gradient below 1e-8 for zero, so it is scaled to 1 and the result scaled back.
    """

    def __init__(self, P: Polytope, regularizer: Custom, entries: tuple[int, ...]):
        super().__init__(P, regularizer, entries)
        form = self.face_of_P.form
        parameter, x = cp.Parameter(form.n), cp.Variable(form.columns)
        lift = sp.csr_array((np.ones(form.n), (self.allowed.numpy(), np.arange(form.n))), shape=(P.size, form.columns))
        z = cp.reshape(lift @ x, P.shape, order="C")
        constraints = [form.G @ x <= form.h] if form.G.shape[0] else []
        if form.A.shape[0]:
            constraints.append(form.A @ x == form.b)
        problem = cp.Problem(cp.Minimize(regularizer.expression(z) - parameter @ x[: form.n]), constraints)
        self.layer = CvxpyLayer(problem, parameters=[parameter], variables=[x])
        parameter.value = np.zeros(form.n)
        cone_program, _, _ = problem.get_problem_data(cp.SCS)
        self.mode = "dense" if sum(cone_program["A"].shape) <= DENSE_UP_TO else "lsmr"

    def solve(self, u: torch.Tensor, info: Info, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._solve_one(u[i], info, int(rows[i])) for i in range(len(u))])

    def _solve_one(self, u: torch.Tensor, info: Info, row: int) -> torch.Tensor:
        try:
            z = _SolveCustom.apply(u[None, self.allowed], self)
        except SOLVER_FAILURES:
            info.converged[row] = False
            return torch.full((1, len(self.allowed)), torch.nan, dtype=torch.float64)
        whole, numbers = np.zeros(self.P.size), u.detach().numpy()
        whole[self.allowed.numpy()] = z.detach().numpy()[0]
        lower, upper = self.P.presolved.bounds
        spread = 1.0 + float(np.abs(numbers) @ (upper - lower))  # how far <u, z> can vary over P
        infeasibility, gap = judge(self.P, self.entries, self.regularizer, numbers, whole)
        info.residual[row] = residual = max(infeasibility, gap / spread)
        info.converged[row] = bool(residual <= CUSTOM_TOLERANCE)
        return z

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        mode = {"mode": self.mode} if u.requires_grad else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the solver's own opinion: the certificate judges
            (x,) = self.layer(u, solver_args=CLARABEL | mode)
        return x[:, : self.face_of_P.form.n]


class _SolveCustom(torch.autograd.Function):
    """CvxpyLayer's own derivative. diffcp takes an incoming gradient below 1e-8 for zero: it is scaled to 1."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, layer: _CustomLayer) -> torch.Tensor:
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            ctx.u = u.detach().requires_grad_(ctx.needs_input_grad[0])
            ctx.z = layer.forward(ctx.u)
        return ctx.z.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        scale = g.abs().amax().clamp_min(torch.finfo(g.dtype).tiny)
        (gradient,) = torch.autograd.grad(ctx.z, ctx.u, g / scale, retain_graph=True)
        return gradient * scale, None

"""The reference: CvxpyLayer (Clarabel) with tight tolerances, refined, certified, instance by instance.

CvxpyLayer solves the declaration as a cone program. On its own its z is off by up to 1e-6, its gradient by far more at
low temperature, and it looks at neither its input nor the solver's status. So here

1. the problem is stated in the free entries of z, on the face that the -inf entries leave, with u reduced by its
   component orthogonal to the affine hull (which changes nothing but the rounding);
2. CvxpyLayer gives z and the multipliers; one instance that makes the solver fail is solved again alone;
3. the multipliers tell the active constraints, Newton on that face (``cvxsst.geometry.faces``) removes the error left, and
   the derivative is that of the face;
4. the certificate judges the result, whatever the solver said; ``converged`` means: z is within 1e-6.

Its limit: Clarabel resolves multipliers to about 1e-12, so that on lifted polytopes with an entropy it cannot tell
which constraints are active once entries of z fall below that (u spread beyond 20 or so). Such instances are reported
as failed; the ``kkt`` engine solves them.

A ``Custom`` regularizer takes the same way with a differenced Hessian, and falls back on CvxpyLayer's own z and
gradient where it has none.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import cvxpy as cp
import diffcp
import numpy as np
import scipy.sparse as sp
import torch
from cvxpylayers.torch import CvxpyLayer

from cvxsst.certificate import custom_gradient, distance, gap_bound
from cvxsst.engines.base import Engine, Info, groups, said_by_domain
from cvxsst.errors import EmptyPolytopeError
from cvxsst.geometry.faces import Face, face_derivative, newton_on_face
from cvxsst.regularizers import Custom, Euclidean, ExponentialFamily, Regularizer, Separable

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope

TOLERANCE = 1e-6  # on the certified distance from z to the solution, relative to the largest entry over P if > 1
CUSTOM_REFINED = 1e-12  # below this no further face is tried
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
        for entries, rows in groups(forbidden, len(u), u.device):
            try:
                layer = _layer(P, regularizer, entries)
            except EmptyPolytopeError:
                info.converged[rows], info.empty[rows] = False, True
                continue
            part = layer.solve(u[rows], info, rows)
            z = z.index_put((rows[:, None], layer.allowed[None, :]), part)
        moved = Info(*(t.to(device) for t in (info.converged, info.residual, info.iterations, info.empty)))
        return z.to(device), moved


def _layer(P: Polytope, regularizer: Regularizer, entries: tuple[int, ...]) -> _Layer:
    key = (CvxpyLayerEngine.name, regularizer, entries)
    if key not in P.memo:
        with torch.inference_mode(False):  # kept for calls that will need gradients
            if isinstance(regularizer, Custom):
                P.memo[key] = _CustomLayer(P, regularizer, entries)
            else:
                assert isinstance(regularizer, Separable)
                P.memo[key] = _SeparableLayer(P, regularizer, entries)
    return P.memo[key]


class Refined(NamedTuple):
    """One instance: z, the bound on its error, the Newton steps, and g -> (dz/du) g; all in the free entries."""

    z: np.ndarray
    residual: float
    steps: int
    derivative: Callable[[np.ndarray], np.ndarray]


class ConeSolution(NamedTuple):
    """What CvxpyLayer tells of one instance; NaN where it failed.

    ``normal`` is A'nu + G'mu in the entries of z, ``slack`` h - G x, ``multiplier`` mu.
    """

    z: np.ndarray
    normal: np.ndarray
    slack: np.ndarray
    multiplier: np.ndarray


class _Layer(ABC):
    """One polytope (or face of one), one regularizer: everything that many solves share.

    ``allowed``: indices of the entries of z that are not forbidden; ``free``: which of these P does not fix.
    """

    tolerance: float

    def __init__(self, P: Polytope, regularizer: Regularizer, entries: tuple[int, ...]):
        self.P, self.entries = P, entries
        face = P.restricted(entries) if entries else P.presolved
        self.allowed = torch.from_numpy(np.setdiff1d(np.arange(P.size), entries))
        self.free, self.core, self.constant = face.free, face.core, face.interior[: face.form.n]
        self.inequalities = self._stated_inequalities()
        self.layer = self._cone_program() if len(self.free) else None
        self._faces: OrderedDict[bytes, Face] = OrderedDict()

    @abstractmethod
    def _stated_inequalities(self) -> np.ndarray:
        """The rows of G that the cone program needs."""

    @abstractmethod
    def _expression(self, z: cp.Expression) -> cp.Expression:
        """f as a function of the free entries."""

    @abstractmethod
    def _refine(self, u: np.ndarray, cone: ConeSolution) -> Refined:
        """Improve, differentiate and certify one solution."""

    def _cone_program(self) -> CvxpyLayer:
        form, parameter = self.core.form, cp.Parameter(self.core.form.n)
        x = cp.Variable(form.columns)
        equalities, inequalities = form.A @ x == form.b, form.G[self.inequalities] @ x <= form.h[self.inequalities]
        constraints = ([equalities] if form.A.shape[0] else []) + ([inequalities] if len(self.inequalities) else [])
        objective = cp.Minimize(self._expression(x[: form.n]) - parameter @ x[: form.n])
        duals = [constraint.dual_variables[0] for constraint in constraints]
        return CvxpyLayer(cp.Problem(objective, constraints), parameters=[parameter], variables=[x, *duals])

    def solve(self, u: torch.Tensor, info: Info, rows: torch.Tensor) -> torch.Tensor:
        """Solve for u ``(len(rows), n)``; write what happened into ``info`` at ``rows``."""
        return _Solve.apply(u[:, self.allowed], self, info, rows)

    def forward(self, u: np.ndarray, info: Info, rows: np.ndarray) -> tuple[np.ndarray, list[Refined]]:
        z = np.tile(self.constant, (len(u), 1))
        info.converged[rows], info.residual[rows] = True, 0.0
        if self.layer is None:
            return z, []
        E = self.core.hull[0]
        reduced = u[:, self.free]
        reduced = reduced - (reduced @ E.T) @ E
        solutions = []
        for row, ui, cone in zip(rows, reduced, self._cone_solutions(reduced), strict=True):
            solution = self._refine(ui, cone) if np.all(np.isfinite(cone.z)) else _failed(cone.z)
            solutions.append(solution)
            info.residual[row], info.iterations[row] = solution.residual, solution.steps
            info.converged[row] = bool(solution.residual <= self.tolerance)
        z[:, self.free] = [solution.z for solution in solutions]
        return z, solutions

    def backward(self, solutions: list[Refined], g: np.ndarray) -> np.ndarray:
        gradient = np.zeros_like(g)
        for i, solution in enumerate(solutions):
            known = bool(np.all(np.isfinite(g[i])))  # a NaN stays in its instance
            gradient[i, self.free] = solution.derivative(g[i, self.free]) if known else np.nan
        return gradient

    def _cone_solutions(self, u: np.ndarray) -> list[ConeSolution]:
        assert self.layer is not None
        form, G, h = self.core.form, self.core.form.G[self.inequalities], self.core.form.h[self.inequalities]
        x, *duals = _solve_one_by_one_if_need_be(self.layer, u)
        nu = duals.pop(0) if form.A.shape[0] else np.zeros((len(u), 0))
        mu = duals.pop(0) if len(self.inequalities) else np.zeros((len(u), 0))
        normal = (form.A.T @ nu.T + G.T @ mu.T).T[:, : form.n]
        return list(map(ConeSolution, x[:, : form.n], normal, h - (G @ x.T).T, mu))

    def _face(self, active: np.ndarray) -> Face:
        key = np.packbits(active).tobytes()
        if key not in self._faces:
            self._faces[key] = Face.of(self.core, self.inequalities[active])
            if len(self._faces) > FACES_KEPT:
                self._faces.popitem(last=False)
        return self._faces[key]


def _failed(z: np.ndarray) -> Refined:
    return Refined(z, np.inf, 0, lambda g: np.zeros_like(g))


class _SeparableLayer(_Layer):
    def __init__(self, P: Polytope, regularizer: Separable, entries: tuple[int, ...]):
        self.phi = regularizer
        size = float(np.abs(P.bounds).max(initial=0.0))
        self.tolerance = TOLERANCE * max(1.0, size)
        self.curvature = regularizer.curvature_up_to(size)
        super().__init__(P, regularizer, entries)

    def _stated_inequalities(self) -> np.ndarray:
        return np.setdiff1d(np.arange(self.core.form.G.shape[0]), said_by_domain(self.core, self.phi))

    def _expression(self, z: cp.Expression) -> cp.Expression:
        return self.phi.expression(z)

    def _refine(self, u: np.ndarray, cone: ConeSolution) -> Refined:
        best = _failed(cone.z)
        for active in _plausible_active_sets(cone.slack, cone.multiplier):
            face = self._face(active)
            z, normal, steps = face.solve(self.phi, u, cone.normal)
            z = self._snapped(z, u)
            residual = self._residual(u, z, normal)
            if residual < best.residual:
                best = Refined(z, residual, steps, partial(face.derivative, self.phi, z))
            if residual <= self.tolerance:
                break
        return best

    def _snapped(self, z: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Entries at a bound up to rounding are put there exactly: a zero is 0, not -1e-16."""
        program, n = self.core.linear_program, self.core.form.n
        z = np.clip(z, program.lower[:n], program.upper[:n])
        if isinstance(self.phi, Euclidean):
            rounding = 8 * np.finfo(float).eps * (1 + np.abs(u).max())
            for bound in (program.lower[:n], program.upper[:n]):
                z = np.where(np.abs(z - bound) <= rounding, bound, z)
        return z + 0.0

    def _residual(self, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> float:
        """A bound on the distance from z to the solution (``cvxsst.certificate``), up to the rounding of the gap."""
        gap = gap_bound(self.core, self.phi, u, z, normal)
        rounding = 4 * np.finfo(float).eps * float(np.abs(normal) @ (1 + np.abs(z)))
        return distance(self.core, z) + float(np.sqrt(2 * max(gap - rounding, 0.0) / self.curvature))


class _CustomLayer(_Layer):
    """A Custom regularizer, of which CVXPY knows the gradient but not the Hessian: that is differenced.

    Where f has no second derivative at the solution (a kink) the refinement does not improve on CvxpyLayer's z; then
    that and diffcp's gradient are returned. The residual is the certified gap relative to the spread of <u, z>.
    """

    tolerance = CUSTOM_TOLERANCE

    def __init__(self, P: Polytope, regularizer: Custom, entries: tuple[int, ...]):
        self.f = regularizer
        super().__init__(P, regularizer, entries)
        self._places = self.allowed.numpy()[self.free]  # of the free entries in z
        self._whole = np.zeros(P.size)
        self._whole[self.allowed.numpy()] = self.constant
        lower, upper = P.bounds
        self._width = (upper - lower)[self._places]

    def _stated_inequalities(self) -> np.ndarray:
        return np.arange(self.core.form.G.shape[0])

    def _expression(self, z: cp.Expression) -> cp.Expression:
        places, whole = self.allowed.numpy()[self.free], np.zeros(self.P.size)
        whole[self.allowed.numpy()] = self.constant
        whole[places] = 0.0
        into = sp.csr_array((np.ones(len(places)), (places, np.arange(len(places)))), (self.P.size, len(places)))
        return self.f.expression(cp.reshape(into @ z + whole, self.P.shape, order="C"))

    def _gradient(self, z: np.ndarray) -> np.ndarray:
        whole = self._whole.copy()
        whole[self._places] = z
        return custom_gradient(self.f, self.P.shape, whole)[self._places]

    def _refine(self, u: np.ndarray, cone: ConeSolution) -> Refined:
        best = Refined(cone.z, self._residual(u, cone.z), 0, partial(self._diffcp_derivative, u))
        for active in _plausible_active_sets(cone.slack, cone.multiplier):
            B = self._face(active).tangent
            z, hessian, steps = newton_on_face(self._gradient, B, u, cone.z)
            residual = self._residual(u, z)
            if hessian is not None and residual <= max(best.residual, CUSTOM_REFINED):
                best = Refined(z, residual, steps, partial(face_derivative, B, hessian))
            if residual <= CUSTOM_REFINED:
                break
        return best

    def _residual(self, u: np.ndarray, z: np.ndarray) -> float:
        g = u - self._gradient(z)
        if not np.all(np.isfinite(g)):
            return np.inf
        vertex = self.core.linear_program.maximize(g).x
        assert vertex is not None
        spread = 1.0 + float(np.abs(u) @ self._width)
        return max(distance(self.core, z), float(g @ (vertex[: len(z)] - z)) / spread)

    def _diffcp_derivative(self, u: np.ndarray, g: np.ndarray) -> np.ndarray:
        """CvxpyLayer's own vjp. diffcp takes an incoming gradient below 1e-8 for zero: it is scaled to 1."""
        assert self.layer is not None
        scale = np.abs(g).max(initial=0.0)
        if scale == 0:
            return np.zeros_like(g)
        leaf = torch.from_numpy(u[None]).requires_grad_()
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = self.layer(leaf, solver_args=CLARABEL | {"mode": "lsmr"})[0]
        incoming = torch.zeros_like(x)
        incoming[0, : len(g)] = torch.from_numpy(g / scale)
        (gradient,) = torch.autograd.grad(x, leaf, incoming)
        return gradient.numpy()[0] * scale


class _Solve(torch.autograd.Function):
    """z(u) and its derivative; u and z hold the allowed entries of one group of instances."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, layer: _Layer, info: Info, rows: torch.Tensor) -> torch.Tensor:
        z, ctx.solutions = layer.forward(u.detach().numpy(), info, rows.numpy())
        ctx.layer = layer
        return torch.from_numpy(z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return torch.from_numpy(ctx.layer.backward(ctx.solutions, g.numpy())), None, None, None


def _plausible_active_sets(slack: np.ndarray, multiplier: np.ndarray) -> Iterator[np.ndarray]:
    """Guesses at the active constraints, the likeliest first.

    Near the solution an active constraint has multiplier > slack. Where strict complementarity is weak (a capped
    entry at 1 - 1e-9, say) the solver's accuracy does not tell; then a constraint more or less, in the order of the
    ratio of the two, is tried, then the constraints that are active beyond doubt, then those that may be active. The
    certificate decides.
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

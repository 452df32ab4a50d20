"""What every engine wants to know about a polytope, computed once.

    {A x = b, G x <= h}   -->   independent equalities A x = b, inequalities G x <= h that can all be strict

- *Empty or not, and which inequalities are equalities in disguise* (z <= 0 beside z >= 0): one linear program
  (Freund, Roundy and Todd 1985). maximize sum t over A x = a b, G x + t <= a h, 0 <= t <= 1, a >= 1: at the
  optimum t_i = 1 for the inequalities that can be strict together, t_i = 0 for the implied equalities.
- *Dependent equalities*: QR factorization with column pivoting.
- *Bounded or not*: a set is bounded in z when its recession cone {A d = 0, G d <= 0} has d_z = 0. For a
  generic c a nonzero d_z has <c, d_z> > 0 or < 0, so two linear programs decide it.
- *Fixed entries of z*: those that a generic direction of the affine hull leaves in place.

Cost: linear programs in the number of columns N, and O(m^2 N) for the factorization of the m equalities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cvxpy as cp
import numpy as np
import scipy.linalg
import scipy.sparse as sp

from cvxsst.errors import EmptyPolytopeError, UnboundedPolytopeError, some
from cvxsst.geometry.canonical import StandardForm, canonicalize, comparable
from cvxsst.geometry.linear_program import LinearProgram

RANK_TOLERANCE = 1e-9  # relative to the largest pivot
RESOLUTION = 1e-9  # of feasibility by a linear program
EXACT = 1e-12  # of what a direct method solves, relative
STRICT = 1e-6  # slack, relative to the right-hand side if > 1, that is no rounding
MIDDLE_STEPS = 300  # of least squares
ABSURD = 1e12  # entries beyond are far from every polytope; in a linear program they would be taken for infinite


@dataclass(frozen=True)
class Presolved:
    """A standard form with independent equalities and strictly satisfiable inequalities.

    Attributes:
        form: what remains: A with full row rank; G x < h for some x with A x = b.
        source: the form as declared.
        implied: rows of ``source.G`` that hold with equality everywhere.
        dependent: rows of ``source.A`` that follow from the others.
    """

    form: StandardForm
    source: StandardForm
    implied: np.ndarray
    dependent: np.ndarray

    @cached_property
    def linear_program(self) -> LinearProgram:
        form = self.form
        return LinearProgram(form.A, form.b, form.G, form.h, form.n)

    @cached_property
    def nearest(self) -> LinearProgram:
        """The model over (z, y, r) whose last 2n rows say |z - z0| <= r, for any z0: the right-hand side (z0, -z0)."""
        form = self.form
        eye, lifted, r = sp.eye_array(form.n), sp.csr_array((form.n, form.lifted)), np.ones((form.n, 1))
        rows = [sp.hstack([form.G, sp.csr_array((form.G.shape[0], 1))])]
        rows += [sp.hstack([eye, lifted, -r]), sp.hstack([-eye, lifted, -r])]
        A = sp.hstack([form.A, sp.csr_array((form.A.shape[0], 1))])
        return LinearProgram(A, form.b, sp.vstack(rows), np.append(form.h, np.zeros(2 * form.n)), form.n)

    def distance(self, z: np.ndarray, zeros: Sequence[int] = ()) -> float:
        """The distance from z to P (where the entries ``zeros`` are 0) in the maximum norm, resolved to 1e-9.

            minimize r  over  (v, y) in the form,  v_zeros = 0,  |v - z|_inf <= r          (``nearest``)

        inf where z is absurd; NaN where no such v exists.
        """
        form = self.form
        if np.abs(z).max(initial=0.0) > ABSURD:
            return np.inf
        if not form.lifted:
            missed = (np.abs(form.A @ z - form.b), form.G @ z - form.h, np.abs(z[list(zeros)]))
            violation = max(float(part.max(initial=0.0)) for part in missed)
            if violation <= RESOLUTION:
                return violation
        outwards = np.append(np.zeros(form.columns), -1.0)
        solution = self.nearest.maximize(outwards, zeros, last_rows=np.concatenate([z, -z]))
        return np.nan if solution.x is None else max(-solution.value, 0.0) + 0.0

    @cached_property
    def interior(self) -> np.ndarray:
        """A point x = (z, y) with A x = b and G x < h: the middle, or the centre of a largest ball (at most 1)."""
        middle = strict_middle(self.form)
        x = self._largest_ball() if middle is None else middle
        return np.clip(x, *column_bounds(self.source))  # what z_i = 0 fixes is no -1e-33

    def _largest_ball(self) -> np.ndarray:
        form = self.form
        norms = sp.linalg.norm(form.G, axis=1) if form.G.shape[0] else np.zeros(0)
        G = sp.hstack([form.G, sp.csr_array(norms[:, None])])
        A = sp.hstack([form.A, sp.csr_array((form.A.shape[0], 1))])
        upper = np.append(np.full(form.columns, np.inf), 1.0)
        objective = np.append(np.zeros(form.columns), 1.0)
        solution = LinearProgram(A, form.b, G, form.h, form.n, upper=upper).maximize(objective)
        assert solution.x is not None, "a presolved form has an interior"
        return solution.x[:-1]

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest value of each entry of z over P (``extremes``)."""
        return extremes(self.form, lambda directions: np.array([self._farthest(c) for c in directions]))

    def _farthest(self, direction: np.ndarray) -> np.ndarray:
        x = self.linear_program.maximize(direction).x
        assert x is not None, "a polytope is neither empty nor unbounded"
        return x[: self.form.n]

    @cached_property
    def fixed(self) -> np.ndarray:
        """Indices of the entries of z that have the same value all over P."""
        direction = np.random.default_rng(0).normal(size=self.form.columns)
        rows = scipy.linalg.qr(self.form.A.toarray().T, mode="economic")[0] if self.form.lifted else self.hull[0].T
        direction -= rows @ (rows.T @ direction)
        return np.flatnonzero(np.abs(direction[: self.form.n]) < 1e-9)

    @cached_property
    def hull(self) -> tuple[np.ndarray, np.ndarray]:
        """(E, e) with E z = e the affine hull of P in the space of z, E with orthonormal rows."""
        return affine_hull(self.form.A, self.form.b, self.form.n)

    @property
    def dimension(self) -> int:
        """The affine dimension of P."""
        return self.form.n - self.hull[0].shape[0]

    @cached_property
    def free(self) -> np.ndarray:
        """Indices of the entries of z that are not fixed."""
        return np.setdiff1d(np.arange(self.form.n), self.fixed)

    def where_zero(self, entries: np.ndarray) -> Presolved:
        """The face on which these entries of z are 0, in the others; raises EmptyPolytopeError if it is empty."""
        return presolve_feasible(self.form.without(entries, np.zeros(len(entries))))

    @cached_property
    def core(self) -> Presolved:
        """The same polytope in its free entries alone."""
        if not len(self.fixed):
            return self
        return presolve_feasible(self.form.without(self.fixed, self.interior[self.fixed]))


def presolve(form: StandardForm) -> Presolved:
    """Presolve a standard form; ``cvxsst.geometry.presolve`` (module) says how.

    Raises:
        EmptyPolytopeError: no point satisfies the constraints.
        UnboundedPolytopeError: names the entries of z that have no bound.
    """
    presolved = presolve_feasible(form)
    _require_bounded(presolved.form)
    return presolved


def presolve_feasible(form: StandardForm) -> Presolved:
    """Presolve a form that is known to be bounded; raises EmptyPolytopeError if it is empty."""
    source, form = form, comparable(form)
    implied = implied_equalities(form)
    strict = np.setdiff1d(np.arange(form.G.shape[0]), implied)
    A = sp.csr_array(sp.vstack([form.A, form.G[implied]]))
    b = np.concatenate([form.b, form.h[implied]])
    independent = independent_rows(A)
    dependent = np.setdiff1d(np.arange(form.A.shape[0]), independent)
    G, h = form.G[strict], form.h[strict]
    says_something = np.diff(G.indptr) > 0  # 0 <= h, h > 0, remains where a column was removed
    reduced = StandardForm(A[independent], b[independent], G[says_something], h[says_something], form.n)
    return Presolved(reduced, source, implied, dependent)


def implied_equalities(form: StandardForm) -> np.ndarray:
    """Rows of G that hold with equality at every point; raises EmptyPolytopeError if there is no point."""
    if strict_middle(form) is not None:
        return np.zeros(0, dtype=int)
    (p, N), m = form.G.shape, form.A.shape[0]
    A = sp.hstack([form.A, sp.csr_array((m, p)), sp.csr_array(-form.b[:, None])])
    G = sp.hstack([form.G, sp.eye_array(p), sp.csr_array(-form.h[:, None])])
    lower = np.concatenate([np.full(N, -np.inf), np.zeros(p), [1.0]])
    upper = np.concatenate([np.full(N, np.inf), np.ones(p), [np.inf]])
    solution = LinearProgram(A, np.zeros(m), G, np.zeros(p), N, lower, upper).maximize(
        np.concatenate([np.zeros(N), np.ones(p), [0.0]])
    )
    if solution.x is None:
        raise EmptyPolytopeError("the constraints contradict one another: no point satisfies them all")
    return np.flatnonzero(solution.x[N : N + p] < 0.5)


def strict_middle(form: StandardForm) -> np.ndarray | None:
    """The point of {A x = b} nearest to the middle of the columns' bounds, if it has G x < h.

    Cheap, and in many declarations the uniform distribution; where it does not do, a linear program tells.
    """
    lower, upper = column_bounds(form)
    ends = np.isfinite(lower), np.isfinite(upper)
    lower, upper = np.where(ends[0], lower, 0.0), np.where(ends[1], upper, 0.0)
    x = (lower + upper) / np.maximum(1, np.sum(ends, axis=0))
    for _ in range(2 if form.A.shape[0] else 0):
        x += sp.linalg.lsmr(form.A, form.b - form.A @ x, atol=1e-15, btol=1e-15, maxiter=MIDDLE_STEPS)[0]
    on_hull = np.all(np.abs(form.A @ x - form.b) <= EXACT * np.maximum(1.0, np.abs(form.b)))
    return x if on_hull and np.all(form.h - form.G @ x > STRICT * np.maximum(1.0, np.abs(form.h))) else None


def column_bounds(form: StandardForm, passes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the columns that single rows imply, the other columns being at their bounds.

    One pass knows rows with one entry; the second that z_1 <= 1 where z_1 + z_2 = 1 and z >= 0.
    """
    lower, upper = np.full(form.columns, -np.inf), np.full(form.columns, np.inf)
    rows = sp.coo_array(sp.vstack([form.G, form.A, -form.A]))
    rows.eliminate_zeros()
    right, (i, j), a = np.concatenate([form.h, form.b, -form.b]), rows.coords, rows.data
    for _ in range(passes):
        least = a * np.where(a > 0, lower[j], upper[j])  # that an entry adds to its row
        endless = np.isinf(least)
        least[endless] = 0.0
        alone = np.bincount(i, endless, len(right))[i] == endless
        bound = (right[i] - np.bincount(i, least, len(right))[i] + least) / a
        np.minimum.at(upper, j[alone & (a > 0)], bound[alone & (a > 0)])
        np.maximum.at(lower, j[alone & (a < 0)], bound[alone & (a < 0)])
    return lower, upper


def extremes(
    form: StandardForm, farthest: Callable[[np.ndarray], np.ndarray], calls: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of each entry of z over a polytope.

    An entry that some point has brought to a bound that the rows imply, such as z_i >= 0, needs no program of its own;
    the first programs ask for all entries that are still to do at once.

    Args:
        farthest: the points of the polytope that are the best for given directions, both ``(k, n)``.
        calls: how many directions at a time.
    """
    n = form.n
    bounds = [bound[:n] for bound in column_bounds(form, passes=2)]
    met = [np.full(n, np.inf), np.full(n, -np.inf)]  # over the points found so far

    def to_do(side: int) -> np.ndarray:
        bound = bounds[side]
        at_bound = np.abs(met[side] - bound) <= RESOLUTION * np.maximum(1.0, np.abs(bound))
        return np.flatnonzero(~(np.isfinite(bound) & at_bound))

    def meet(directions: np.ndarray) -> None:
        points = farthest(directions)
        met[:] = np.minimum(met[0], points.min(axis=0)), np.maximum(met[1], points.max(axis=0))

    for side, sign in ((1, 1.0), (0, -1.0)):
        before, left = n + 1, to_do(side)
        while 0 < len(left) < before:
            before = len(left)
            meet(sign * np.isin(np.arange(n), left)[None])
            left = to_do(side)
        while len(left):
            meet(sign * (np.arange(n) == left[:calls, None]))
            left = np.intersect1d(left[calls:], to_do(side))
    return met[0], met[1]


def is_feasible(z: cp.Variable, constraints: Sequence[cp.Constraint]) -> bool:
    """Whether some point satisfies these constraints."""
    form = comparable(canonicalize(z, constraints))
    return LinearProgram(form.A, form.b, form.G, form.h, form.n).maximize(np.zeros(form.n)).status == "optimal"


def independent_rows(A: sp.csr_array) -> np.ndarray:
    """Indices of a largest set of linearly independent rows, whatever their sizes; of equally good ones the first."""
    if 0 in A.shape:
        return np.zeros(0, dtype=int)
    rows = A.toarray()
    units = _units(rows) * np.linspace(1.0, 1.001, len(rows))
    _, R, pivots = _pivoted((rows / units[:, None]).T, vectors=False)
    diagonal = np.abs(np.diag(R))
    return np.sort(pivots[: np.count_nonzero(diagonal > RANK_TOLERANCE * diagonal.max(initial=0))])


def _pivoted(M: np.ndarray, vectors: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Q (empty without ``vectors``), R, pivots with M[:, pivots] = Q R: the columns of a small factor are exchanged."""
    *Q, R = scipy.linalg.qr(M, mode="economic" if vectors else "r")
    inner, R, pivots = scipy.linalg.qr(R[: M.shape[1]], pivoting=True)
    return Q[0] @ inner if vectors else M[:0], R, pivots


def _units(rows: np.ndarray) -> np.ndarray:
    """A power of 1,000 near the length of each row: what a row is small beside are rows in the same units."""
    length = np.linalg.norm(rows, axis=1)
    return 1000.0 ** np.round(np.log(np.where(length > 0, length, 1.0)) / np.log(1000.0))


def affine_hull(C: sp.csr_array, d: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """{z : C (z, y) = d for some y} as E z = e, E with orthonormal rows.

    Combinations of rows that cancel the lifted columns are what the equalities say about z alone.
    """
    units = _units(C.toarray())
    rows, d = C.toarray() / units[:, None], d / units
    M = left_null_space(rows[:, n:])
    E, e = M.T @ rows[:, :n], M.T @ d
    if not E.size:
        return np.zeros((0, n)), np.zeros(0)
    Q, R, pivots = _pivoted(E.T)
    diagonal = np.abs(np.diag(R))
    rank = np.count_nonzero(diagonal > RANK_TOLERANCE * max(1.0, diagonal.max(initial=0.0)))
    return Q[:, :rank].T, scipy.linalg.solve_triangular(R[:rank, :rank], e[pivots[:rank]], trans="T")


def left_null_space(L: np.ndarray) -> np.ndarray:
    """Orthonormal columns M with M' L = 0."""
    rows, columns = L.shape
    if not columns or not rows:
        return np.eye(rows)
    Q, R, _ = scipy.linalg.qr(L, mode="full", pivoting=True)
    diagonal = np.abs(np.diag(R))
    return Q[:, np.count_nonzero(diagonal > RANK_TOLERANCE * max(1.0, diagonal.max(initial=0))) :]


def endless(form: StandardForm) -> tuple[np.ndarray, np.ndarray]:
    """Which entries of z grow along some ray of a set that is not empty, and which fall."""
    nothing = np.zeros(form.n, dtype=bool)
    if all(np.all(np.isfinite(bound[: form.n])) for bound in column_bounds(form, passes=2)):
        return nothing, nothing
    unit = np.concatenate([np.ones(form.n), np.full(form.lifted, np.inf)])
    zero_b, zero_h = np.zeros_like(form.b), np.zeros_like(form.h)
    cone = LinearProgram(form.A, zero_b, form.G, zero_h, form.n, lower=-unit, upper=unit)
    generic = np.random.default_rng(0).normal(size=form.n)
    # If there is a ray, c or -c grows along it (c is orthogonal to none). What the two best rays move has no bound.
    rays = [cone.maximize(c).x for c in (generic, -generic)]
    up, down = (np.any([s * ray[: form.n] > 1e-7 for ray in rays if ray is not None], axis=0) for s in (1.0, -1.0))
    return up, down


def _require_bounded(form: StandardForm) -> None:
    up, down = endless(form)
    if not np.any(up | down):
        return
    sides = {"from above": up, "from below": down}
    entries = some([f"{i} {side}" for i in range(form.n) for side, grows in sides.items() if grows[i]])
    raise UnboundedPolytopeError(
        f"the set has no bound in entries (counted row by row): {entries}; add constraints, for example 0 <= z <= 1"
    )

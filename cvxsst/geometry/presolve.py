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

from collections.abc import Sequence
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
        """A point x = (z, y) with A x = b and G x < h: the centre of a largest ball (at most 1) inside."""
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
        """The least and the greatest value of each entry of z over P: up to 2n linear programs.

        An entry that some solution has brought to a bound of its own, such as z_i >= 0, needs none.
        """
        n, program = self.form.n, self.linear_program
        least, greatest = np.full(n, np.inf), np.full(n, -np.inf)  # over the points met so far
        for i in range(n):
            for sign, met, bound in ((1.0, greatest, program.upper), (-1.0, least, program.lower)):
                if met[i] == bound[i]:
                    continue
                direction = np.zeros(n)
                direction[i] = sign
                x = program.maximize(direction).x
                assert x is not None, "a polytope is neither empty nor unbounded"
                np.minimum(least, x[:n], out=least)
                np.maximum(greatest, x[:n], out=greatest)
        return least, greatest

    @cached_property
    def _row_space(self) -> np.ndarray:
        """Orthonormal columns spanning the rows of A."""
        return scipy.linalg.qr(self.form.A.toarray().T, mode="economic")[0]

    @cached_property
    def fixed(self) -> np.ndarray:
        """Indices of the entries of z that have the same value all over P."""
        direction = np.random.default_rng(0).normal(size=self.form.columns)
        direction -= self._row_space @ (self._row_space.T @ direction)
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


def is_feasible(z: cp.Variable, constraints: Sequence[cp.Constraint]) -> bool:
    """Whether some point satisfies these constraints."""
    form = comparable(canonicalize(z, constraints))
    return LinearProgram(form.A, form.b, form.G, form.h, form.n).maximize(np.zeros(form.n)).status == "optimal"


def independent_rows(A: sp.csr_array) -> np.ndarray:
    """Indices of a largest set of linearly independent rows, whatever their sizes."""
    if 0 in A.shape:
        return np.zeros(0, dtype=int)
    R, pivots = scipy.linalg.qr((A.toarray() / _units(A.toarray())[:, None]).T, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(R))
    return np.sort(pivots[: np.count_nonzero(diagonal > RANK_TOLERANCE * diagonal.max(initial=0))])


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
    U, s, Vt = np.linalg.svd(E, full_matrices=False)
    rank = np.count_nonzero(s > RANK_TOLERANCE * max(1.0, s[0]))
    return Vt[:rank], (U[:, :rank].T @ e) / s[:rank]


def left_null_space(L: np.ndarray) -> np.ndarray:
    """Orthonormal columns M with M' L = 0."""
    rows, columns = L.shape
    if not columns or not rows:
        return np.eye(rows)
    Q, R, _ = scipy.linalg.qr(L, mode="full", pivoting=True)
    diagonal = np.abs(np.diag(R))
    return Q[:, np.count_nonzero(diagonal > RANK_TOLERANCE * max(1.0, diagonal.max(initial=0))) :]


def _require_bounded(form: StandardForm) -> None:
    bounds = LinearProgram(form.A, form.b, form.G, form.h, form.n)
    if np.all(np.isfinite(bounds.lower[: form.n]) & np.isfinite(bounds.upper[: form.n])):
        return
    unit = np.concatenate([np.ones(form.n), np.full(form.lifted, np.inf)])
    zero_b, zero_h = np.zeros_like(form.b), np.zeros_like(form.h)
    cone = LinearProgram(form.A, zero_b, form.G, zero_h, form.n, lower=-unit, upper=unit)
    generic = np.random.default_rng(0).normal(size=form.n)
    # If there is a ray, c or -c grows along it (c is orthogonal to none). What the two best rays move has no bound.
    rays = [cone.maximize(c).x for c in (generic, -generic)]
    up, down = (np.any([s * ray[: form.n] > 1e-7 for ray in rays if ray is not None], axis=0) for s in (1.0, -1.0))
    if not np.any(up | down):
        return
    sides = {"from above": up, "from below": down}
    entries = some([f"{i} {side}" for i in range(form.n) for side, grows in sides.items() if grows[i]])
    raise UnboundedPolytopeError(
        f"the set has no bound in entries (counted row by row): {entries}; add constraints, for example 0 <= z <= 1"
    )

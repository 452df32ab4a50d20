"""Declarations with parameters: matrices that are affine in theta, the values of all parameters in one vector.

    A(theta) x = b(theta),  G(theta) x <= h(theta),      x = (z, y)

CVXPY's own canonicalization is affine in the parameters (disciplined parametrized programming, Agrawal et al. 2019), so
its value at 0 and at each unit vector tells all of it (``ParamConeProg.apply_parameters``).

*Presolve, for all theta at once.* Where parameters are on the right-hand side only, {(z, y, theta)} is one polyhedron:
what is an equality in disguise all over it is one for every theta, what it says of theta alone (the marginals of a
transport plan have equal sums) is what theta must satisfy, and whether P(theta) is bounded does not depend on theta.
Rows with a parameter in a coefficient are left out of that: what they imply is found at the values, if need be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from cvxsst.errors import ArgumentTypeError, NotPolyhedralError
from cvxsst.geometry.canonical import INFINITE, Compiled, StandardForm, brief, refuse_what_is_not_polyhedral
from cvxsst.geometry.presolve import affine_hull, column_bounds, endless, independent_rows, presolve_feasible

REFUSED = ("complex", "imag", "symmetric", "diag", "PSD", "NSD", "hermitian", "boolean", "integer", "sparsity")
RESOLUTION = 1e-9
CONSTANT = 1e-9  # what a fixed entry moves with theta by no more


@dataclass(frozen=True)
class Parameter:
    """A ``cp.Parameter`` of a declaration: its shape, and the least and greatest value that its attributes allow."""

    name: str
    shape: tuple[int, ...]
    low: np.ndarray
    high: np.ndarray

    @property
    def size(self) -> int:
        return self.low.size

    @staticmethod
    def of(parameter: cp.Parameter) -> Parameter:
        name, attributes = parameter.name(), parameter.attributes
        wrong = [kind for kind in REFUSED if attributes[kind] not in (False, None)]
        if wrong:
            raise NotPolyhedralError(
                f"parameter {name} is declared {wrong[0]}; parameters are real arrays with signs or bounds at most: "
                "put what depends on it into the constraints"
            )
        low = 0.0 if attributes["nonneg"] or attributes["pos"] else -np.inf
        high = 0.0 if attributes["nonpos"] or attributes["neg"] else np.inf
        bounds: Any = attributes["bounds"] or (-np.inf, np.inf)
        ends = (np.broadcast_to(np.asarray(end, dtype=float), parameter.shape).reshape(-1) for end in bounds)
        lower, upper = ends
        return Parameter(name, tuple(parameter.shape), np.maximum(low, lower), np.minimum(high, upper))


def parameters_of(variable: cp.Variable, constraints: Sequence[cp.Constraint]) -> list[cp.Parameter]:
    """All that occur, in the order of their names.

    Raises:
        ArgumentTypeError: two of the same name.
    """
    variables = {v.id: v for v in [variable, *(v for c in constraints for v in c.variables())]}.values()
    bounds = [end for v in variables for end in v.attributes["bounds"] or () if isinstance(end, cp.Expression)]
    found = {p.id: p for expression in [*constraints, *bounds] for p in expression.parameters()}
    named: dict[str, cp.Parameter] = {}
    for parameter in found.values():
        if named.setdefault(parameter.name(), parameter) is not parameter:
            raise ArgumentTypeError(
                f"constraints: two parameters are called {parameter.name()!r}; P.at(...) goes by name: rename one"
            )
    return sorted(named.values(), key=lambda p: p.name())


@dataclass(frozen=True)
class AffineForm:
    """A standard form that is affine in theta.

    Attributes:
        zero: the form at theta = 0, with a place in A and G for every coefficient that is nonzero at some theta.
        dA, db, dG, dh: how ``zero.A.data``, ``zero.b``, ``zero.G.data`` and ``zero.h`` move: ``(their size, q)``.
    """

    zero: StandardForm
    dA: sp.csr_array  # noqa: N815 - as the formulas call them
    db: sp.csr_array
    dG: sp.csr_array  # noqa: N815
    dh: sp.csr_array

    @property
    def q(self) -> int:
        """How many scalars theta has."""
        return self.db.shape[1]

    @cached_property
    def constant_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Which rows of A, and of G, have no parameter in a coefficient."""
        found = []
        for M, dM in ((self.zero.A, self.dA), (self.zero.G, self.dG)):
            row = np.repeat(np.arange(M.shape[0]), np.diff(M.indptr))
            moving = np.zeros(M.shape[0], dtype=bool)
            moving[row[np.diff(dM.indptr) > 0]] = True
            found.append(~moving)
        return found[0], found[1]

    @property
    def has_coefficients(self) -> bool:
        """Whether a parameter stands in a coefficient."""
        return not all(rows.all() for rows in self.constant_rows)

    def at(self, theta: np.ndarray) -> StandardForm:
        """The form at theta ``(q,)``."""
        zero = self.zero
        A, G = (
            sp.csr_array((M.data + dM @ theta, M.indices, M.indptr), shape=M.shape)
            for M, dM in ((zero.A, self.dA), (zero.G, self.dG))
        )
        return StandardForm(A, zero.b + self.db @ theta, G, zero.h + self.dh @ theta, zero.n)

    def rows(self, equalities: np.ndarray, inequalities: np.ndarray) -> AffineForm:
        """Some of the rows."""
        (A, dA), (G, dG) = (
            _some_rows(M, dM, kept)
            for M, dM, kept in ((self.zero.A, self.dA, equalities), (self.zero.G, self.dG, inequalities))
        )
        form = StandardForm(A, self.zero.b[equalities], G, self.zero.h[inequalities], self.zero.n)
        return AffineForm(form, dA, self.db[equalities], dG, self.dh[inequalities])

    def with_equalities(self, inequalities: np.ndarray) -> AffineForm:
        """The same where these rows of G (indices) are equalities."""
        kept = np.setdiff1d(np.arange(self.zero.G.shape[0]), inequalities)
        strict, equal = (
            self.rows(np.arange(self.zero.A.shape[0]), kept),
            self.rows(np.zeros(0, dtype=int), inequalities),
        )
        A = sp.csr_array(sp.vstack([strict.zero.A, equal.zero.G]))
        form = StandardForm(A, np.append(strict.zero.b, equal.zero.h), strict.zero.G, strict.zero.h, self.zero.n)
        dA, db = (sp.csr_array(sp.vstack(parts)) for parts in ((strict.dA, equal.dG), (strict.db, equal.dh)))
        return AffineForm(form, dA, db, strict.dG, strict.dh)

    def without(self, fixed: np.ndarray, values: np.ndarray, moves: np.ndarray) -> AffineForm:
        """The slice in which the columns of z listed in ``fixed`` are ``values + moves @ theta``, without them.

        Where a column has a parameter among its coefficients its value must not move.
        """
        zero = self.zero
        (A, dA, b, db), (G, dG, h, dh) = (
            _without_columns(M, dM, right, dright, fixed, values, moves)
            for M, dM, right, dright in (
                (zero.A, self.dA, zero.b, self.db),
                (zero.G, self.dG, zero.h, self.dh),
            )
        )
        return AffineForm(StandardForm(A, b, G, h, zero.n - len(fixed)), dA, db, dG, dh)

    def column_bounds(self, thetas: np.ndarray, passes: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """As ``presolve.column_bounds``, for each of theta ``(B, q)``, by the rows without parameters in coefficients:
        lower and upper bounds ``(columns, B)``."""
        form = self.rows(*(np.flatnonzero(rows) for rows in self.constant_rows))
        zero, B = form.zero, len(thetas)
        rows = sp.coo_array(sp.vstack([zero.G, zero.A, -zero.A]))
        rows.eliminate_zeros()
        (i, j), a = rows.coords, rows.data[:, None]
        b, h = zero.b[:, None] + form.db @ thetas.T, zero.h[:, None] + form.dh @ thetas.T
        right = np.concatenate([h, b, -b])
        add = sp.csr_array((np.ones(len(i)), (i, np.arange(len(i)))), shape=(len(right), len(i)))
        lower, upper = np.full((zero.columns, B), -np.inf), np.full((zero.columns, B), np.inf)
        for _ in range(passes):
            least = a * np.where(a > 0, lower[j], upper[j])
            endless = np.isinf(least)
            least[endless] = 0.0
            alone = (add @ endless.astype(float))[i] == endless
            bound = (right[i] - (add @ least)[i] + least) / a
            np.minimum.at(upper, j, np.where(alone & (a > 0), bound, np.inf))
            np.maximum.at(lower, j, np.where(alone & (a < 0), bound, -np.inf))
        return lower, upper

    def conflict(self, theta: np.ndarray) -> np.ndarray:
        """Which entries of theta stand in rows that together leave no point; all False where there is a point.

        By Farkas' lemma there is none if and only if A'nu + G'lam = 0, <b, nu> + <h, lam> < 0 for some lam >= 0; one
        with a least sum of absolute values takes few rows.
        """
        form = self.at(theta)
        columns = sp.hstack([form.A.T, -form.A.T, form.G.T])
        right = np.concatenate([form.b, -form.b, form.h])
        equations = sp.vstack([columns, right[None]]).tocsr()
        target = np.append(np.zeros(form.columns), -1.0)
        found = linprog(np.ones(len(right)), A_eq=equations, b_eq=target, bounds=(0, None), method="highs")
        if found.x is None:
            return np.zeros(self.q, dtype=bool)
        m = len(form.b)
        weight = np.concatenate([found.x[:m] + found.x[m : 2 * m], found.x[2 * m :]]) > RESOLUTION
        part = self.rows(np.flatnonzero(weight[:m]), np.flatnonzero(weight[m:]))
        taking = [sp.coo_array(moves).coords[1] for moves in (part.dA, part.db, part.dG, part.dh)]
        return np.isin(np.arange(self.q), np.concatenate(taking))

    def polyhedron(self, low: np.ndarray, high: np.ndarray) -> StandardForm:
        """{(z, y, theta)}: the rows without parameters in coefficients, low <= theta <= high; theta is lifted."""
        form = self.rows(*(np.flatnonzero(rows) for rows in self.constant_rows))
        upper, lower = np.flatnonzero(np.isfinite(high)), np.flatnonzero(np.isfinite(low))
        eye = sp.eye_array(self.q, format="csr")
        ends = sp.vstack([eye[upper], -eye[lower]])
        A = sp.hstack([form.zero.A, -form.db])
        beside = sp.csr_array((ends.shape[0], self.zero.columns))
        G = sp.vstack([sp.hstack([form.zero.G, -form.dh]), sp.hstack([beside, ends])])
        h = np.concatenate([form.zero.h, high[upper], -low[lower]])
        return StandardForm(sp.csr_array(A), form.zero.b, sp.csr_array(G), h, form.zero.n)


def _some_rows(M: sp.csr_array, dM: sp.csr_array, rows: np.ndarray) -> tuple[sp.csr_array, sp.csr_array]:
    """Rows of a matrix with what moves their entries."""
    entries = [np.arange(M.indptr[row], M.indptr[row + 1]) for row in rows]
    places = np.concatenate(entries) if entries else np.zeros(0, dtype=int)
    indptr = np.append(0, np.cumsum([len(e) for e in entries], dtype=int))
    part = sp.csr_array((M.data[places], M.indices[places], indptr), shape=(len(rows), M.shape[1]))
    return part, dM[places]


def _without_columns(M, dM, right, dright, fixed, values, moves):
    """M, dM, right and dright with these columns brought to the right-hand side."""
    row = np.repeat(np.arange(M.shape[0]), np.diff(M.indptr))
    position = np.full(M.shape[1], -1)
    position[fixed] = np.arange(len(fixed))
    here = position[M.indices] >= 0
    # right - sum of (a + da theta) (value + move theta): one of da and move is 0
    to_row = sp.csr_array(
        (np.ones(here.sum()), (row[here], np.arange(here.sum()))), shape=(M.shape[0], int(here.sum()))
    )
    a, at = M.data[here], position[M.indices[here]]
    right = right - to_row @ (a * values[at])
    moved = sp.diags_array(values[at]) @ dM[here] + sp.diags_array(a) @ sp.csr_array(moves)[at] if here.any() else None
    dright = dright if moved is None else sp.csr_array(dright - to_row @ moved)
    rename = np.cumsum(position < 0) - 1
    indptr = np.append(0, np.cumsum(np.bincount(row[~here], minlength=M.shape[0])))
    columns = M.shape[1] - len(fixed)
    rest = sp.csr_array((M.data[~here], rename[M.indices[~here]], indptr), shape=(M.shape[0], columns))
    return rest, dM[~here], right, dright


def canonicalize_affine(
    z: cp.Variable, constraints: Sequence[cp.Constraint], parameters: Sequence[cp.Parameter]
) -> AffineForm:
    """The standard form of {z : constraints} for all values of the parameters; theta holds them one after another,
    row by row.

    Raises:
        NotPolyhedralError: as ``canonicalize``; a constraint that is not affine in its parameters, by name.
        ValueError: NaN or an infinite number; the message says what to do.
    """
    refuse_what_is_not_polyhedral(z, constraints, dpp=True)
    for position, constraint in enumerate(constraints):
        if not constraint.is_dcp(dpp=True):
            raise NotPolyhedralError(
                f"constraints[{position}] ({brief(constraint)}) is not affine in its parameters (CVXPY's DPP): a "
                "parameter may be added, or be the factor of an expression without parameters; make what is computed "
                "from parameters a parameter of its own, and compute it in torch"
            )
    compiled = Compiled.of(z, constraints)
    program = compiled.data["param_prob"]
    sizes = [p.size for p in parameters]

    def rows(theta: np.ndarray) -> tuple[sp.csr_array, np.ndarray]:
        parts = np.split(theta, np.cumsum(sizes)[:-1]) if sizes else []
        values = {p.id: part.reshape(p.shape) for p, part in zip(parameters, parts, strict=True)}
        _, _, M, r = program.apply_parameters({key: values[key] for key in program.id_to_param})
        return sp.csr_array(-M)[:, compiled.order], r

    M, r = rows(np.zeros(sum(sizes)))
    units = [rows(unit) for unit in np.eye(sum(sizes))]
    if not all(np.all(np.abs(Mk.data) < INFINITE) and np.all(np.abs(rk) < INFINITE) for Mk, rk in [(M, r), *units]):
        raise ValueError(
            "constraints: beside parameters all numbers must be finite; look at their data, and leave out what holds "
            "an infinite bound"
        )
    M, dM = _together(M, [sp.csr_array(Mk - M) for Mk, _ in units])
    dr = sp.csr_array(np.array([rk - r for _, rk in units]).T.reshape(len(r), len(units)))
    m = compiled.equalities
    (A, dA), (G, dG) = _some_rows(M, dM, np.arange(m)), _some_rows(M, dM, np.arange(m, M.shape[0]))
    form = AffineForm(StandardForm(A, r[:m], G, r[m:], z.size), dA, dr[:m], dG, dr[m:])
    return form if compiled.plain else _substitute_copies(form)


def _together(M: sp.csr_array, moves: list[sp.csr_array]) -> tuple[sp.csr_array, sp.csr_array]:
    """M with a place for every entry that one of ``moves`` has, and what each moves there."""
    width = M.shape[1]
    entries = [sp.coo_array(matrix) for matrix in (M, *moves)]
    for matrix in entries:
        matrix.eliminate_zeros()
    keys = [matrix.coords[0].astype(np.int64) * width + matrix.coords[1] for matrix in entries]
    places = np.unique(np.concatenate(keys))
    data = np.zeros(len(places))
    data[np.searchsorted(places, keys[0])] = entries[0].data
    indptr = np.searchsorted(places, width * np.arange(M.shape[0] + 1, dtype=np.int64))
    where = np.concatenate([np.searchsorted(places, key) for key in keys[1:]] or [np.zeros(0, dtype=int)])
    which = np.repeat(np.arange(len(moves)), [len(key) for key in keys[1:]])
    values = np.concatenate([matrix.data for matrix in entries[1:]] or [np.zeros(0)])
    dM = sp.csr_array((values, (where, which)), shape=(len(places), len(moves)))
    return sp.csr_array((data, places % max(width, 1), indptr), shape=M.shape), dM


def _substitute_copies(form: AffineForm) -> AffineForm:
    """As for forms without parameters: eliminate the original x of a copy z, wherever a row says z_i = x_j."""
    A, n = form.zero.A, form.zero.n
    plain_right = (form.zero.b == 0) & (np.diff(form.db.indptr) == 0)
    place: dict[int, int] = {}
    dropped = []
    for row in np.flatnonzero(form.constant_rows[0] & plain_right & (np.diff(A.indptr) == 2)):
        entries = slice(A.indptr[row], A.indptr[row + 1])
        i, j = sorted(A.indices[entries].tolist())
        if A.data[entries].sum() == 0 and i < n <= j and j not in place:
            place[j] = i
            dropped.append(row)
    rest = form.rows(np.setdiff1d(np.arange(A.shape[0]), dropped), np.arange(form.zero.G.shape[0]))
    keep = [j for j in range(form.zero.columns) if j not in place]
    target = np.full(form.zero.columns, -1)
    target[keep] = np.arange(len(keep))
    where = np.array([target[place.get(j, j)] for j in range(form.zero.columns)], dtype=int)
    (A, dA), (G, dG) = (_merged(M, dM, where, len(keep)) for M, dM in ((rest.zero.A, rest.dA), (rest.zero.G, rest.dG)))
    return AffineForm(StandardForm(A, rest.zero.b, G, rest.zero.h, n), dA, rest.db, dG, rest.dh)


def _merged(M: sp.csr_array, dM: sp.csr_array, where: np.ndarray, width: int) -> tuple[sp.csr_array, sp.csr_array]:
    """M with its columns renamed; entries that fall together are added."""
    row = np.repeat(np.arange(M.shape[0], dtype=np.int64), np.diff(M.indptr))
    places, place = np.unique(row * width + where[M.indices], return_inverse=True)
    add = sp.csr_array((np.ones(len(place)), (place, np.arange(len(place)))), shape=(len(places), len(place)))
    indptr = np.searchsorted(places, width * np.arange(M.shape[0] + 1, dtype=np.int64))
    merged = sp.csr_array((add @ M.data, places % max(width, 1), indptr), shape=(M.shape[0], width))
    return merged, sp.csr_array(add @ dM)


@dataclass(frozen=True)
class AffinePresolved:
    """What holds for all theta.

    Attributes:
        form: independent equalities, those in disguise among them, and the other inequalities, in the free entries of
            z and in y.
        source: the form as declared.
        fixed: indices of the entries of z that have one value in P(theta): ``values + moves @ theta``.
        hull: (E, e) with E theta = e what theta must satisfy to leave a point, E with orthonormal rows.
        x, theta: a point of P(theta) with strict inequalities, as far as ``polyhedron`` knows them.
        bounded: whether P(theta) is known to be bounded for every theta.
        widest: bounds of each entry of z that hold for every theta, as far as single rows tell.
    """

    form: AffineForm
    source: AffineForm
    fixed: np.ndarray
    values: np.ndarray
    moves: np.ndarray
    hull: tuple[np.ndarray, np.ndarray]
    x: np.ndarray
    theta: np.ndarray
    bounded: bool
    widest: tuple[np.ndarray, np.ndarray]

    @cached_property
    def free(self) -> np.ndarray:
        return np.setdiff1d(np.arange(self.source.zero.n), self.fixed)


def presolve_affine(source: AffineForm, low: np.ndarray, high: np.ndarray) -> AffinePresolved:
    """Presolve a form for low <= theta <= high.

    Raises:
        EmptyPolytopeError: no theta leaves a point.
    """
    columns, q = source.zero.columns, source.q
    whole = source.polyhedron(low, high)
    polyhedron = presolve_feasible(whole)
    x, theta = np.split(polyhedron.interior, [columns])
    constant = np.flatnonzero(source.constant_rows[1])
    implied = constant[polyhedron.implied[polyhedron.implied < len(constant)]]
    form = source.with_equalities(implied)
    theta = _generic(form, theta, low, high)
    rigid = form.rows(np.flatnonzero(form.constant_rows[0]), np.zeros(0, dtype=int))
    # theta first, x lifted away
    C = sp.csr_array(sp.hstack([-rigid.db, rigid.zero.A]))
    hull = affine_hull(C, rigid.zero.b, q) if C.shape[0] else (np.zeros((0, q)), np.zeros(0))
    fixed, values, moves = _fixed(form, rigid)
    free = form.without(fixed, values, moves)
    kept = independent_rows(free.at(theta).A)
    says_something = np.flatnonzero(np.diff(free.zero.G.indptr) > 0)
    rows = source.rows(*(np.flatnonzero(part) for part in source.constant_rows)).zero
    bounded = not np.any(endless(rows))
    core = free.rows(kept, says_something)
    x = np.delete(x, fixed)
    lower, upper = column_bounds(whole, passes=2)
    widest = lower[: whole.n], upper[: whole.n]
    return AffinePresolved(core, source, fixed, values, moves, hull, x, theta, bounded, widest)


def _generic(form: AffineForm, theta: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """theta with the parameters that stand in coefficients at values that are nothing special."""
    entries = [sp.coo_array(dM).coords[1] for dM in (form.dA, form.dG)]
    special = np.unique(np.concatenate(entries))
    drawn = np.random.default_rng(0).uniform(0.5, 1.5, form.q)
    drawn = np.where(high <= 0, -drawn, drawn).clip(low, high)
    theta = theta.copy()
    theta[special] = drawn[special]
    return theta


def _fixed(form: AffineForm, rigid: AffineForm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which entries of z the equalities without parameters in coefficients hold at one value, that value at theta = 0,
    and how it moves."""
    zero, q = rigid.zero, form.q
    nothing = np.zeros(0, dtype=int), np.zeros(0), np.zeros((0, q))
    if not zero.A.shape[0]:
        return nothing
    E, _ = affine_hull(zero.A, zero.b, zero.n)
    direction = np.random.default_rng(0).normal(size=zero.n)
    fixed = np.flatnonzero(np.abs(direction - E.T @ (E @ direction)) < 1e-9)
    if not len(fixed):
        return nothing
    kept = independent_rows(zero.A)
    A, right = zero.A[kept].toarray(), np.column_stack([zero.b[kept], rigid.db[kept].toarray()])
    found = np.linalg.lstsq(A, right, rcond=None)[0][fixed]
    values, moves = found[:, 0], np.where(np.abs(found[:, 1:]) > CONSTANT, found[:, 1:], 0.0)
    values = np.where(np.abs(values) > CONSTANT, values, 0.0)
    # an entry that moves, in a column with a parameter among its coefficients, stays: the product is not affine
    columns = [M.indices[np.diff(dM.indptr) > 0] for M, dM in ((form.zero.A, form.dA), (form.zero.G, form.dG))]
    stays = np.isin(fixed, np.concatenate(columns)) & (moves != 0).any(axis=1)
    return fixed[~stays], values[~stays], moves[~stays]

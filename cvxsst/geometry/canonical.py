"""From CVXPY constraints to matrices.

    the declaration   -->   A x = b,  G x <= h,   x = (z, y)

with the columns of z first, in row-major order, and the lifted columns y after them. The translation is
CVXPY's own (``Problem.get_problem_data``): atoms such as ``abs``, ``max`` or ``sum_largest`` become linear
rows with lifted columns of their own; whatever needs another cone than the zero and the nonnegative one is
not polyhedral and is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from cvxsst.errors import NotPolyhedralError

INFINITE = 1e15  # numbers from here on are infinite, as they are for HiGHS


@dataclass(frozen=True)
class StandardForm:
    """{x = (z, y) : A x = b, G x <= h}; ``n`` counts the columns of z, which come first."""

    A: sp.csr_array
    b: np.ndarray
    G: sp.csr_array
    h: np.ndarray
    n: int

    @property
    def columns(self) -> int:
        return self.A.shape[1]

    @property
    def lifted(self) -> int:
        """How many columns are lifted."""
        return self.columns - self.n

    @cached_property
    def general(self) -> int:
        """How many inequalities are no bounds of single columns."""
        return int(np.count_nonzero(np.diff(self.G.indptr) > 1))

    @property
    def is_box(self) -> bool:
        """Whether all inequalities are bounds of single columns, and none is lifted."""
        return not self.lifted and not self.general

    def without(self, fixed: np.ndarray, values: np.ndarray) -> StandardForm:
        """The slice in which the columns of z listed in ``fixed`` have these values, those columns removed."""
        keep = np.setdiff1d(np.arange(self.columns), fixed)
        b, h = self.b - self.A[:, fixed] @ values, self.h - self.G[:, fixed] @ values
        return StandardForm(self.A[:, keep], b, self.G[:, keep], h, self.n - len(fixed))


def comparable(form: StandardForm) -> StandardForm:
    """The same set; rows in other units than most (largest entry below 0.01 or above 100) divided by their largest
    entry: a linear program's tolerance is one number for all rows."""

    def unit(rows: sp.csr_array) -> np.ndarray:
        size = largest(rows)
        return np.where((size < 0.01) | (size > 100.0), size, 1.0)

    A, b = divided(form.A, form.b, unit(form.A))
    return StandardForm(A, b, *divided(form.G, form.h, unit(form.G)), form.n)


def largest(rows: sp.csr_array) -> np.ndarray:
    """The largest absolute entry of each row."""
    return abs(rows).max(axis=1).toarray().reshape(-1) if 0 not in rows.shape else np.zeros(rows.shape[0])


def divided(rows: sp.csr_array, right: np.ndarray, sizes: np.ndarray) -> tuple[sp.csr_array, np.ndarray]:
    """Each row with its right-hand side divided by a number; by 1 where that is 0."""
    sizes = np.where(sizes == 0, 1.0, sizes)
    return (sp.csr_array(sp.diags_array(1 / sizes) @ rows) if len(sizes) else rows), right / sizes


def canonicalize(z: cp.Variable, constraints: Sequence[cp.Constraint]) -> StandardForm:
    """The standard form of {z : constraints}.

    Raises:
        NotPolyhedralError: an integer or complex variable, a ``cp.Parameter``, a constraint that is not DCP
            or not polyhedral; the message names the constraint.
        ValueError: NaN or an infinite coefficient; the message names the constraint.

    An infinite right-hand side is a constraint that says nothing, or one that no point satisfies.
    """
    refuse_what_is_not_polyhedral(z, constraints)
    compiled = Compiled.of(z, constraints)
    M, right = compiled.rows()
    if len(_wrong_numbers(M, right)):
        raise _no_number(z, constraints)
    M, equalities = M[:, compiled.order], compiled.equalities
    form = StandardForm(M[:equalities], right[:equalities], M[equalities:], right[equalities:], z.size)
    return _settle_infinities(form if compiled.plain else _substitute_copies(form))


@dataclass(frozen=True)
class Compiled:
    """Constraints as CVXPY compiles them.

    Attributes:
        data: of ``Problem.get_problem_data``.
        order: of its columns: those of z, row by row, then the others.
        plain: whether z itself stands in the rows; else, as a variable with attributes does, it is the copy of another.
    """

    data: dict
    order: np.ndarray
    plain: bool

    @staticmethod
    def of(z: cp.Variable, constraints: Sequence[cp.Constraint]) -> Compiled:
        """Raises NotPolyhedralError where a constraint is curved."""
        # A variable with attributes (nonneg, bounds, symmetric ...) is replaced by CVXPY with another one and
        # extra constraints; a plain copy keeps its identity. Its rows come first.
        plain = not any(z.attributes[name] for name in z.attributes)
        copy = z if plain else cp.Variable(z.shape)
        rows = list(constraints) if plain else [copy == z, *constraints]
        problem = cp.Problem(cp.Minimize(cp.sum(copy)), rows)  # the objective only keeps every entry of z in sight
        data, _, _ = problem.get_problem_data(cp.CLARABEL)
        cones = data["dims"]
        if cones.exp or cones.soc or cones.psd or cones.p3d or cones.pnd:
            raise _not_polyhedral(z, constraints)
        start = data["param_prob"].var_id_to_col.get(copy.id, 0)  # without entries it is in no problem
        first = start + np.arange(z.size).reshape(z.shape, order="F").ravel()  # CVXPY stores columns first
        order = np.concatenate([first, np.setdiff1d(np.arange(len(data["c"])), first)])
        return Compiled(data, order, plain)

    @property
    def equalities(self) -> int:
        return self.data["dims"].zero

    def rows(self) -> tuple[sp.csr_array, np.ndarray]:
        """(M, r): the rows M x = r and then M x <= r."""
        return _rows(self.data)


def _rows(data: dict) -> tuple[sp.csr_array, np.ndarray]:
    """(M, r): the rows M x = r and then M x <= r of CVXPY's problem data."""
    M = sp.csr_array((0, len(data["c"]))) if data["A"] is None else sp.csr_array(data["A"])
    return M, np.zeros(0) if data["b"] is None else np.asarray(data["b"], dtype=float)


def _wrong_numbers(M: sp.csr_array, right: np.ndarray) -> np.ndarray:
    """What no row may hold: NaN, and coefficients that linear programs take for infinite."""
    return np.append(M.data[~(np.abs(M.data) < INFINITE)], right[np.isnan(right)])


def _settle_infinities(form: StandardForm) -> StandardForm:
    """Rows <a, x> <= inf say nothing and go; <a, x> <= -inf and <a, x> = inf become 0 <= -1 and 0 = 1."""
    scaled_b, scaled_h = _scaled(form.A, form.b), _scaled(form.G, form.h)
    if np.all(np.abs(scaled_b) < INFINITE) and np.all(np.abs(scaled_h) < INFINITE):
        return form
    A, b = _contradict(form.A, form.b, np.abs(scaled_b) >= INFINITE, 1.0)
    G, h = _contradict(form.G, form.h, scaled_h <= -INFINITE, -1.0)
    says_something = scaled_h < INFINITE
    return StandardForm(A, b, G[says_something], h[says_something], form.n)


def _scaled(M: sp.csr_array, right: np.ndarray) -> np.ndarray:
    """Right-hand sides of rows scaled to a largest coefficient of 1."""
    return divided(M, right, largest(M))[1]


def _contradict(M: sp.csr_array, right: np.ndarray, rows: np.ndarray, value: float) -> tuple[sp.csr_array, np.ndarray]:
    """These rows without entries and with this right-hand side."""
    return sp.csr_array(sp.diags_array((~rows).astype(float)) @ M), np.where(rows, value, right)


def _substitute_copies(form: StandardForm) -> StandardForm:
    """Eliminate the original variable x of a copy z: wherever z_i = x_j stands, write z_i for x_j.

    Without this, ``nonneg=True`` would cost a lifted column for every entry.
    """
    A, G = form.A.tolil(), form.G.tolil()
    place: dict[int, int] = {}
    rows_to_drop = []
    for row in range(form.A.shape[0]):
        columns, values = A.rows[row], A.data[row]
        if len(columns) == 2 and form.b[row] == 0 and values[0] == -values[1]:
            i, j = sorted(columns)
            if i < form.n <= j and j not in place:
                place[j] = i
                rows_to_drop.append(row)
    keep_columns = [j for j in range(form.columns) if j not in place]
    target = {j: k for k, j in enumerate(keep_columns)}
    where = [target[place.get(j, j)] for j in range(form.columns)]
    move = sp.csr_array((np.ones(form.columns), (np.arange(form.columns), where)))
    keep_rows = np.setdiff1d(np.arange(form.A.shape[0]), rows_to_drop)
    return StandardForm(
        sp.csr_array(A.tocsr()[keep_rows] @ move), form.b[keep_rows], sp.csr_array(G.tocsr() @ move), form.h, form.n
    )


def refuse_what_is_not_polyhedral(z: cp.Variable, constraints: Sequence[cp.Constraint], dpp: bool = False) -> None:
    """Raise NotPolyhedralError for variables and constraints of the wrong kind; ``dpp``: parameters are allowed."""
    for variable in {v.id: v for v in [z, *(v for c in constraints for v in c.variables())]}.values():
        attributes = variable.attributes
        if attributes["boolean"] or attributes["integer"]:
            raise NotPolyhedralError(
                f"variable {variable.name()} is declared boolean or integer; declare the convex hull instead: "
                "a continuous variable with the linear constraints of conv(Z)"
            )
        if variable.is_complex():
            raise NotPolyhedralError(f"variable {variable.name()} is complex; a polytope needs real variables")
    for position, constraint in enumerate(constraints):
        if constraint.parameters() and not dpp:
            raise NotPolyhedralError(
                f"constraints[{position}] ({brief(constraint)}) contains a cvxpy.Parameter; a polytope is fixed: "
                "write the number, or make a family with @cvxsst.polytope and pass it as an argument"
            )
        if not constraint.is_dcp():
            raise NotPolyhedralError(
                f"constraints[{position}] ({brief(constraint)}) does not follow CVXPY's rules of convexity (DCP); "
                "only convex sets have linear descriptions: rewrite it, or describe the convex hull"
            )


def _not_polyhedral(z: cp.Variable, constraints: Sequence[cp.Constraint]) -> NotPolyhedralError:
    """The error for a set that needs a curved cone, naming the constraint (or attribute) that brings it."""
    for variable in [z, *(v for c in constraints for v in c.variables())]:
        if variable.attributes["PSD"] or variable.attributes["NSD"]:
            return NotPolyhedralError(
                f"variable {variable.name()} is declared PSD or NSD, a curved cone; use linear constraints instead"
            )
    for position, constraint in enumerate(constraints):
        data, _, _ = cp.Problem(cp.Minimize(0), [constraint]).get_problem_data(cp.CLARABEL)
        cones = data["dims"]
        if cones.exp or cones.soc or cones.psd or cones.p3d or cones.pnd:
            return NotPolyhedralError(
                f"constraints[{position}] ({brief(constraint)}) is curved: it is no finite set of linear inequalities; "
                "use affine expressions, abs, max, sum_largest, norm1 or norm_inf instead"
            )
    return NotPolyhedralError("the constraints together are curved; use linear constraints")


def _no_number(z: cp.Variable, constraints: Sequence[cp.Constraint]) -> ValueError:
    """The error for NaN or an infinite coefficient, naming the constraint that brings it."""
    for position, constraint in enumerate(constraints):
        data, _, _ = cp.Problem(cp.Minimize(0), [constraint]).get_problem_data(cp.CLARABEL)
        wrong = _wrong_numbers(*_rows(data))
        if len(wrong):
            what = "not a number" if np.isnan(wrong[0]) else "too large for a coefficient"
            return ValueError(
                f"constraints[{position}] ({brief(constraint)}) holds {wrong[0]:g}, {what}; look at the data that it "
                "is made of"
            )
    return ValueError(f"the attributes of variable {z.name()} hold NaN or an infinite number; look at their data")


def brief(constraint: cp.Constraint) -> str:
    """A constraint as text short enough for a message."""
    text = " ".join(str(constraint).split())
    return text if len(text) <= 80 else text[:77] + "..."

"""An anonymous declaration that is a known polytope takes that family's fast paths.

A family that registers ``@family.guess`` says which of its members a standard form might be, from the shape and the
equalities. Whether it is one is then decided by the matrices:

- *affine hulls*, E z = e with E orthonormal in both: E1 E2'E2 = E1 and E1 (E2'e2) = e1, and as many rows;
- *inequalities*: each row is projected on the affine hull and scaled to length 1, so that order, scale, multiples of
  the equalities and repetitions are all the same; a row of one that the other does not list must follow from the
  other's rows (a linear program), as z <= 1 does on the simplex.

Then each set contains the other. Declarations with lifted columns are compared row by row instead, up to order and
scale, with the lifted columns in the same order. Nothing goes by names.

Cost: one presolve of each guess, a sort of the rows, a linear program per row that only one of the two lists; once.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from cvxsst.canonical import StandardForm
from cvxsst.presolve import Presolved

if TYPE_CHECKING:
    from cvxsst.polytope import Family, Polytope

LARGEST = 5_000  # columns: beyond, a declaration is not looked up
MOST_PROGRAMS = 500  # rows that only one of two declarations lists, beyond which they are not compared
DIGITS = 9
CLOSE = 1e-9


def installed_families() -> dict[str, Family]:
    """The families of all installed packages by name (entry points ``cvxsst.families``), in the order listed there."""
    from cvxsst.polytope import Family

    found: dict[str, Family] = {}
    for entry in entry_points(group="cvxsst.families"):
        module = entry.load()
        names = getattr(module, "__all__", vars(module))
        found |= {name: getattr(module, name) for name in names if isinstance(getattr(module, name), Family)}
    return found


def recognize(P: Polytope) -> Polytope | None:
    """The member of a known family that P is, or None."""
    from cvxsst.polytope import GUESSING

    if P.presolved.form.columns > LARGEST:
        return None
    families = [*GUESSING, *(f for f in installed_families().values() if f.guess_function and f not in GUESSING)]
    for family in families:
        assert family.guess_function is not None
        for arguments in family.guess_function(P.shape, P.presolved.form):
            candidate = family(*arguments)
            if candidate.shape == P.shape and same(P.presolved, candidate.presolved):
                return candidate
    return None


def same(P: Presolved, Q: Presolved) -> bool:
    """Whether two presolved declarations are the same set of z, by their matrices."""
    if P.form.lifted or Q.form.lifted:
        return _same_rows(P.form, Q.form)
    if not _same_affine_hull(P, Q):
        return False
    mine, theirs = _rows(P), _rows(Q)
    only_mine = [row for key, row in mine.items() if key not in theirs]
    only_theirs = [row for key, row in theirs.items() if key not in mine]
    if len(only_mine) + len(only_theirs) > MOST_PROGRAMS:
        return False
    return all(_follows(row, Q) for row in only_mine) and all(_follows(row, P) for row in only_theirs)


def _same_affine_hull(P: Presolved, Q: Presolved) -> bool:
    (E, e), (F, f) = P.hull, Q.hull
    if E.shape != F.shape:
        return False
    spans = np.abs(E @ F.T @ F - E).max(initial=0.0) <= CLOSE
    return bool(spans and np.abs(E @ (F.T @ f) - e).max(initial=0.0) <= CLOSE * (1 + np.abs(e).max(initial=0.0)))


def _rows(P: Presolved) -> dict[bytes, np.ndarray]:
    """The inequalities (row, right-hand side) modulo the equalities, of length 1, by their digits."""
    E, e = P.hull
    G = P.form.G.toarray()
    along = G @ E.T
    rows, right = G - along @ E, P.form.h - along @ e
    length = np.linalg.norm(rows, axis=1)
    keep = length > CLOSE * np.linalg.norm(G, axis=1)
    scaled = np.hstack([rows, right[:, None]])[keep] / length[keep, None]
    return {(np.round(row, DIGITS) + 0.0).tobytes(): row for row in scaled}


def _follows(row: np.ndarray, P: Presolved) -> bool:
    """Whether <row, z> <= its right-hand side all over P."""
    return P.linear_program.maximize(row[:-1]).value <= row[-1] + CLOSE * (1 + abs(row[-1]))


def _same_rows(P: StandardForm, Q: StandardForm) -> bool:
    if (P.n, P.A.shape, P.G.shape) != (Q.n, Q.A.shape, Q.G.shape):
        return False
    equalities = _scaled(P.A, P.b, signed=False) == _scaled(Q.A, Q.b, signed=False)
    return equalities and _scaled(P.G, P.h, signed=True) == _scaled(Q.G, Q.h, signed=True)


def _scaled(M: sp.csr_array, right: np.ndarray, signed: bool) -> list[bytes]:
    """The rows with their right-hand sides, scaled to length 1 (equalities: and a first entry > 0), sorted."""
    rows = np.hstack([M.toarray(), right[:, None]])
    lengths = np.linalg.norm(rows[:, :-1], axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1.0)
    if not signed and len(rows):
        first = rows[np.arange(len(rows)), (np.abs(rows) > CLOSE).argmax(axis=1)]
        rows = rows * np.where(first < 0, -1.0, 1.0)[:, None]
    return sorted((np.round(row, DIGITS) + 0.0).tobytes() for row in rows)

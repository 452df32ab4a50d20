"""An anonymous declaration that is a known polytope takes that family's fast paths.

A family that registers ``@family.guess`` says which of its members a standard form might be, from the shape and the
equalities. Whether it is one is then decided by the matrices of the two presolved forms, in all columns (z, y):

- *equalities*: rows that are the same up to order and scale say the same; any other row of one must be a combination
  of the rows of the other, right-hand side included. Both are independent, and as many;
- *inequalities*: the same; a row that only one of the two lists must follow from the other: from one of its rows and
  the bounds on its columns, as z <= 1 does from sum z = 1 and z >= 0, or by a linear program.

Then each set contains the other. Nothing goes by names.

*What is recognized*: rows in any order and scale, an equality written as two inequalities, multiples of equalities
added to rows, attributes (``nonneg``, ``bounds``) in place of constraints, redundant rows. *What is not*: entries of z
in another order, unless the matrices are equal all the same; lifted columns other than the family's, or in another
order; more than 5,000 columns; a coefficient off by more than 1e-9.

Families of one's own come first, the latest before the others, then the installed ones in the order listed there. A
ValueError from a family means that it has no such member. Any other error in a guess or a family is its author's to
see: it is raised, with a note that says whence.

Cost, once for each declaration, at its first argmax or softmax: one presolve of each guess, one pass over the rows,
a linear program for each of the rows (at most 500) that need one. The first time in a process the installed
packages are imported too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp

from cvxsst.family import GUESSING, Family
from cvxsst.geometry.canonical import StandardForm
from cvxsst.geometry.presolve import Presolved, affine_hull, column_bounds
from cvxsst.installed import entries
from cvxsst.polytope import Knowledge, Polytope

LARGEST = 5_000  # columns: beyond, a declaration is not looked up; up to here it was presolved when declared anyway
MOST_PROGRAMS = 500  # rows of one declaration that need a linear program over the other, beyond which they differ
DIGITS = 9
CLOSE = 1e-9


@cache
def installed_families() -> dict[str, Family]:
    """The families of all installed packages by name (entry points ``cvxsst.families``), in the order listed there.

    A module of the same name that is not the package's, as a user's own ``polytopes.py``, is not run.
    """
    found: dict[str, Family] = {}
    for entry in entries("cvxsst.families"):
        module = entry.load()
        names = getattr(module, "__all__", vars(module))
        found |= {name: getattr(module, name) for name in names if isinstance(getattr(module, name), Family)}
    return found


def known(P: Polytope) -> Polytope | None:
    """The same polytope with its family: itself, or the member of a family that it is recognized as, or None."""
    if P.knowledge is not None:
        return P
    if P.parameters:
        return None
    if P not in _RECOGNIZED:
        _RECOGNIZED[P] = _recognized(P) if P.recognize else None
    return _RECOGNIZED[P]


def knowledge_of(P: Polytope) -> Knowledge | None:
    """What is known of ``known(P)`` beyond its constraints; None where that is nothing."""
    member = known(P)
    return None if member is None else member.knowledge


_RECOGNIZED: WeakKeyDictionary[Polytope, Polytope | None] = WeakKeyDictionary()


def _recognized(P: Polytope) -> Polytope | None:
    if P.size > LARGEST or P.form.columns > LARGEST:
        return None
    members = (member for family in _families() for member in _guessed(family, P))
    return next((member for member in members if same(P.presolved, member.presolved)), None)


def _families() -> list[Family]:
    """Those that guess: the user's own, the latest first, then the installed ones."""
    installed = list(installed_families().values())
    own = [family for family in reversed(GUESSING.values()) if family not in installed]
    return own + [family for family in installed if family.guess_function is not None]


def _guessed(family: Family, P: Polytope) -> Iterator[Polytope]:
    """The members that the family guesses P to be, as far as they exist and have its shape."""
    assert family.guess_function is not None
    try:
        for arguments in family.guess_function(P.shape, P.presolved.form):
            member = _member(family, arguments)
            if member is not None and member.shape == P.shape:
                yield member
    except Exception as error:
        error.add_note(
            f"raised while {family!r} guessed whether {P!r} is one of its members (@{family.name}.guess returns an "
            "iterable of tuples of arguments); Polytope(..., recognize=False) does without"
        )
        raise


def _member(family: Family, arguments: tuple[Any, ...]) -> Polytope | None:
    try:
        return family(*arguments)
    except ValueError as error:
        if isinstance(error, TypeError):
            raise
        return None


def same(P: Presolved, Q: Presolved) -> bool:
    """Whether two presolved declarations are the same set of (z, y), by their matrices."""
    if (P.form.n, P.form.A.shape) != (Q.form.n, Q.form.A.shape):
        return False
    return _same_equalities(P.form, Q.form) and _contains(P, Q) and _contains(Q, P)


def _same_equalities(P: StandardForm, Q: StandardForm) -> bool:
    """Whether the rows of Q's equalities are combinations of those of P; they are as many, and independent."""
    other = _unlisted(Q.A, Q.b, P.A, P.b, signed=False)
    if not len(other):
        return True
    E, e = affine_hull(P.A, P.b, P.columns)
    C = Q.A[other].toarray()
    along, length = C @ E.T, np.linalg.norm(C, axis=1)
    combined = np.linalg.norm(C - along @ E, axis=1) <= CLOSE * length
    equal = np.abs(along @ e - Q.b[other]) <= CLOSE * (length + np.abs(Q.b[other]))
    return bool(np.all(combined & equal))


def _contains(P: Presolved, Q: Presolved) -> bool:
    """Whether every inequality of P holds all over Q."""
    other = _unlisted(P.form.G, P.form.h, Q.form.G, Q.form.h, signed=True)
    if not len(other):
        return True
    G, h = P.form.G[other], P.form.h[other]
    most = h + CLOSE * (sp.linalg.norm(G, axis=1) + np.abs(h))
    doubtful = np.flatnonzero(~(_highest(G, *column_bounds(Q.form, passes=2)) <= most))
    if len(doubtful) > MOST_PROGRAMS:
        return False
    return all(Q.linear_program.maximize(G[[i]].toarray()[0]).value <= most[i] for i in doubtful)


def _highest(G: sp.csr_array, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The maximum of each row over a box."""
    row, column, a = _entries(G)
    return np.bincount(row, a * np.where(a > 0, upper[column], lower[column]), G.shape[0])


def _entries(M: sp.sparray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and value of the nonzero entries."""
    M = sp.coo_array(M, copy=True)
    M.eliminate_zeros()
    return *M.coords, M.data


def _unlisted(C: sp.csr_array, d: np.ndarray, A: sp.csr_array, b: np.ndarray, signed: bool) -> np.ndarray:
    """Which rows (C, d) are not among the rows (A, b), up to order and scale; ``signed``: positive scale only."""
    listed = set(_keys(A, b, signed))
    return np.array([i for i, key in enumerate(_keys(C, d, signed)) if key not in listed], dtype=int)


def _keys(M: sp.csr_array, right: np.ndarray, signed: bool) -> Iterator[tuple[bytes, bytes]]:
    """Each row with its right-hand side, scaled to a largest entry of 1 (unless signed, to a first entry > 0)."""
    M = sp.csr_array(M, copy=True)
    M.sum_duplicates()
    M.eliminate_zeros()
    for start, stop, r in zip(M.indptr, M.indptr[1:], right, strict=False):
        row = np.append(M.data[start:stop], r)
        scale = np.abs(row[:-1]).max(initial=0.0) or 1.0
        scale = -scale if not signed and row[0] < 0 else scale
        yield M.indices[start:stop].tobytes(), (np.round(row / scale, DIGITS) + 0.0).tobytes()

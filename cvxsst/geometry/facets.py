"""Inequalities of a polytope in the space of z alone, where the declaration is lifted.

    conv V = {z : E z = e,  G z <= h}        V all vertices: the double description method

Facets are the extreme rays of a cone: with the vertices in d coordinates x that determine the others,

    {(a, b) : <a, x> <= b  for all vertices x}       (Motzkin, Raiffa, Thompson and Thrall 1953; Fukuda and Prodon 1996)

The rays for d + 1 vertices are the columns of an inverse; each further vertex cuts some of them off, and every pair of
neighbours, one cut off and one not, has a new ray between them. Neighbours are told by the vertices on both: no third
ray has all of them. Integral vertices have integral rays, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from cvxsst.geometry.canonical import StandardForm
from cvxsst.geometry.presolve import RANK_TOLERANCE

MOST_RAYS = 6_000  # at any time
MOST_ROWS = 5_000  # of a projection
LEFT = 1e-10  # of a lifted column
MOST_PAIRS = 4_000_000  # of rays looked at for one vertex
ON = 1e-9  # of rays scaled to a largest entry of 1: a vertex this close to a facet is on it
EXACT = 2.0**52  # integers up to here
ROUNDING = 1e-12
FIRST = 256  # random objectives for a start
OUTSIDE = 1e-7  # of the hull of the vertices found


class TooManyFacetsError(Exception):
    """More rays than the cap allows."""


def echelon(
    E: np.ndarray, e: np.ndarray, columns: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with the same solutions as E z = e, reduced: each has an entry of 1, its pivot, where the others are 0.

    Sums of few entries come out as such, however E mixes them. E has full row rank; returns (rows, right-hand sides,
    pivots). With ``columns`` pivots are looked for in these alone; the last rows, as many as have none, are 0 there.
    """
    M = np.column_stack([E, e]).astype(float)
    columns, pivots = np.arange(E.shape[1]) if columns is None else columns, []
    for row in range(len(M)):
        size = np.abs(M[row:, columns])
        if size.max(initial=0.0) <= RANK_TOLERANCE:
            break
        k, j = np.unravel_index(size.argmax(), size.shape)
        column = columns[j]
        M[[row, row + k]] = M[[row + k, row]]
        M[row] /= M[row, column]
        others = np.arange(len(M)) != row
        M[others] -= M[others, column][:, None] * M[row]
        pivots.append(column)
    near = np.round(M)
    M = np.where(np.abs(M - near) < ROUNDING, near, M) + 0.0
    return M[:, :-1], M[:, -1], np.array(pivots, dtype=int)


def facets(V: np.ndarray, E: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G, h) with conv V = {z : E z = e, G z <= h}, every facet once; entries that E z = e determines have no part.

    Args:
        V: all vertices, ``(count, n)``.
        E, e: their affine hull, of full row rank.

    Raises:
        TooManyFacetsError: more than 6,000 rays on the way.
    """
    _, _, pivots = echelon(E, e)
    free = np.setdiff1d(np.arange(V.shape[1]), pivots)
    G = np.zeros((0, V.shape[1]))
    if not len(free):
        return G, np.zeros(0)
    rays = _rays(np.column_stack([V[:, free], -np.ones(len(V))]))
    rays = rays[np.abs(rays[:, :-1]).max(1) > ON]
    G = np.zeros((len(rays), V.shape[1]))
    G[:, free] = rays[:, :-1]
    return G, rays[:, -1]


def _rays(W: np.ndarray) -> np.ndarray:
    """The extreme rays y of {y : W y <= 0}, the rows of W spanning the space; ``(count, columns of W)``."""
    W = W[np.lexsort(W.T)]  # in a random order there may be ten times as many rays on the way
    integral = bool((np.round(W) == W).all())
    start = _basis(W)
    rays = -np.linalg.inv(W[start]).T
    rays = _scaled(np.round(rays * abs(np.linalg.det(W[start]))) if integral else rays, integral)
    done = list(start)
    for row in np.setdiff1d(np.arange(len(W)), start):
        side = rays @ W[row]
        tolerance = 0.5 if integral else ON
        out, inside = side > tolerance, side < -tolerance
        if out.any():
            new = _between(rays, side, out, inside, np.abs(rays @ W[done].T) <= tolerance, W.shape[1])
            rays = np.vstack([rays[~out], _scaled(new, integral)])
            if len(rays) > MOST_RAYS:
                raise TooManyFacetsError
        done.append(row)
    return rays


def _between(
    rays: np.ndarray, side: np.ndarray, out: np.ndarray, inside: np.ndarray, on: np.ndarray, dimension: int
) -> np.ndarray:
    """One ray for each pair of neighbours on different sides, where the side is 0; ``on``: which vertices lie on it."""
    first, second = np.flatnonzero(out), np.flatnonzero(inside)
    if len(first) * len(second) > MOST_PAIRS:
        raise TooManyFacetsError
    on = on.astype(np.float32)
    i, j = np.nonzero(on[first] @ on[second].T >= dimension - 2)
    i, j = first[i], second[j]
    neighbours = np.zeros(len(i), dtype=bool)
    for part in np.array_split(np.arange(len(i)), 1 + len(i) * len(rays) // 20_000_000):
        both = on[i[part]] * on[j[part]]
        neighbours[part] = (both @ on.T >= both.sum(1, keepdims=True)).sum(1) == 2
    i, j = i[neighbours], j[neighbours]
    return side[i, None] * rays[j] - side[j, None] * rays[i]


def _scaled(rays: np.ndarray, integral: bool) -> np.ndarray:
    """Integers without a common divisor, or a largest entry of 1."""
    if not integral:
        return rays / np.abs(rays).max(1, keepdims=True)
    if np.abs(rays).max(initial=0.0) > EXACT:
        raise TooManyFacetsError
    whole = np.round(rays).astype(np.int64)
    return (whole // np.gcd.reduce(whole, axis=1)[:, None]).astype(float)


def _basis(W: np.ndarray) -> np.ndarray:
    """Indices of linearly independent rows that span the space."""
    R, order = scipy.linalg.qr(W.T, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(R))
    return np.sort(order[: np.count_nonzero(diagonal > RANK_TOLERANCE * diagonal[0])])


def affine_hull_by_oracle(argmax: Callable[[np.ndarray], np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices ``(count, n)`` that affinely span conv V, and orthonormal rows E normal to it: E v is the same for all.

    Args:
        argmax: ``(B, n)`` objectives to maximizing vertices ``(B, n)``.

    The directions normal to the vertices found so far are objectives: where the largest and the least value of all of
    them agree, nothing leaves the hull, which is a proof. Two or three calls as a rule, of up to 2n objectives.
    """
    V = argmax(np.random.default_rng(0).normal(size=(min(n + 1, FIRST), n)))
    while True:
        _, s, rows = np.linalg.svd(V - V[0], full_matrices=True)
        normals = rows[np.count_nonzero(s > RANK_TOLERANCE * max(1.0, s.max(initial=0.0))) :]
        if not len(normals):
            return V, normals
        found = argmax(np.vstack([normals, -normals]))
        leaves = (np.abs((found - V[0]) @ normals.T) > OUTSIDE).any(1)
        if not leaves.any():
            return V, normals
        V = np.unique(np.vstack([V, found[leaves]]), axis=0)


@dataclass(frozen=True)
class Projection:
    """{z : A (z, y) = b, G (z, y) <= h for some y} without y, and how to find y again.

    Attributes:
        A, b, G, h: A z = b, G z <= h.
        stages: ``(column, rows, right-hand sides)``, in the order in which y is found again from z: inequalities in
            (z, y) without the columns of later stages.
        columns, E, e: the rest of y, (z, y)_columns = e - E (z, y).
    """

    A: np.ndarray
    b: np.ndarray
    G: np.ndarray
    h: np.ndarray
    stages: list[tuple[int, np.ndarray, np.ndarray]]
    columns: np.ndarray
    E: np.ndarray
    e: np.ndarray


def projection(form: StandardForm) -> Projection:
    """Fourier's elimination of the lifted columns, after those that equalities determine.

    Every inequality is a nonnegative combination of those of the form; of these the minimal ones suffice (Chernikov
    1960, Kohler 1967), computed from the rows of the form and not from one another, so that no rounding adds up.

    Raises:
        TooManyFacetsError: more than 5,000 rows on the way, or rounding leaves some of y.
    """
    n, N = form.n, form.columns
    E, e, columns = echelon(form.A.toarray(), form.b, np.arange(n, N))
    (E, A), (e, b) = np.split(E, [len(columns)]), np.split(e, [len(columns)])
    G, h = form.G.toarray(), form.h
    G, h = G - G[:, columns] @ E, h - G[:, columns] @ e
    E[np.arange(len(columns)), columns] = 0.0
    system = np.column_stack([G, h]) / np.maximum(np.abs(G).max(1, initial=0.0), ON)[:, None]
    system = system[np.lexsort(system.T[::-1])] if len(system) else system
    system = system[np.append(True, (np.abs(np.diff(system[:, :-1], axis=0)) > ROUNDING).any(1))[: len(system)]]
    weights, rest = np.eye(len(system)), list(np.setdiff1d(np.arange(n, N), columns))
    stages: list[tuple[int, np.ndarray, np.ndarray]] = []
    while rest:
        rows = _cleared(weights @ system)
        above, below = ((sign * rows[:, rest] > 0).sum(0) for sign in (1, -1))
        column = rest.pop(int((above * below - above - below).argmin()))
        side = rows[:, column]
        if side.any():
            stages.insert(0, (column, rows[side != 0, :-1], rows[side != 0, -1]))
        weights = _combined(weights, side, N - n - len(columns) - len(rest))
    rows = weights @ system
    if np.abs(rows[:, n:-1]).max(initial=0.0) > LEFT:
        raise TooManyFacetsError
    rows = rows[np.abs(rows[:, :n]).max(1, initial=0.0) > LEFT]
    return Projection(A[:, :n], b, rows[:, :n], rows[:, -1], stages, columns, E, e)


def _cleared(rows: np.ndarray) -> np.ndarray:
    """What rounding left of zeros taken away."""
    return np.where(np.abs(rows) > ROUNDING, rows, 0.0)


def _combined(weights: np.ndarray, side: np.ndarray, eliminated: int) -> np.ndarray:
    """The minimal nonnegative combinations with a side of 0, scaled to a largest weight of 1."""
    above, below = np.flatnonzero(side > 0), np.flatnonzero(side < 0)
    if len(above) * len(below) > MOST_PAIRS // 16:
        raise TooManyFacetsError
    used = (weights > 0).astype(np.float32)
    size = used.sum(1)
    union = size[above][:, None] + size[below] - used[above] @ used[below].T
    i, j = np.nonzero(union <= eliminated + 1)
    i, j = above[i], below[j]
    new = np.vstack([weights[side == 0], side[i, None] * weights[j] - side[j, None] * weights[i]])
    if len(new) > MOST_ROWS:
        raise TooManyFacetsError
    new /= new.max(1, keepdims=True, initial=ON)
    used = (new > 0).astype(np.float32)
    size, common = used.sum(1), used @ used.T
    within = common == size  # [i, j]: all that j uses is used by i
    within &= ~(within.T & (np.arange(len(new))[:, None] <= np.arange(len(new))))  # of equal ones the first
    return new[~within.any(1)]

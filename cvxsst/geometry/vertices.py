"""All vertices of a small polytope: the structures Z.

Where the family lists Z itself (``@family.structures``) that list is taken. Otherwise the vertices are found
through the argmax alone, which works for projections too:

- *Few dimensions* (at most 6): grow a set V of vertices; the facets of conv V (Qhull) are objectives; a facet
  that some point of P exceeds yields a new vertex; when none does, conv V = P, a proof that V is complete.
- *More dimensions*: branch on the entries in turn, z_i at its least or at its greatest value over the face
  reached so far; each branch is a face, so it holds a vertex, and there are no dead ends. This finds every
  vertex whose entries all lie at such ends (all 0/1 polytopes); random objectives then look for any other
  vertex, and if there is one the polytope is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
from scipy.spatial import ConvexHull

from cvxsst.geometry.presolve import Presolved, presolve_feasible

MOST = 20_000
QHULL_DIMENSION = 6
PROBES = 200


def listed(structures: Iterable[np.ndarray], size: int) -> np.ndarray | None:
    """The structures, ``(count, size)``; None if there are more than 20,000."""
    first = list(islice(structures, MOST + 1))
    return None if len(first) > MOST else np.array(first, dtype=float).reshape(len(first), size)


def search(presolved: Presolved) -> np.ndarray | None:
    """The vertices; None if there are too many, or too many dimensions for vertices between the bounds."""
    if presolved.dimension <= QHULL_DIMENSION:
        return _grow(presolved)
    return _branch(presolved)


def _grow(presolved: Presolved) -> np.ndarray | None:
    """Oracle and convex hull in turn, in coordinates x of the affine hull: z = centre + B x."""
    n, d = presolved.form.n, presolved.dimension
    centre = presolved.interior[:n]
    E = presolved.hull[0]
    B = np.linalg.svd(E, full_matrices=True)[2][len(E) :].T if len(E) else np.eye(n)  # d orthonormal columns
    oracle = presolved.linear_program.vertex
    if d == 0:
        return centre[None]
    if d == 1:
        return _distinct([_point(oracle, B[:, 0]), _point(oracle, -B[:, 0])])
    generator = np.random.default_rng(0)
    V: list[np.ndarray] = []
    while len(V) <= d or np.linalg.matrix_rank((np.array(V) - V[0]) @ B, tol=1e-7) < d:
        V = list(_distinct([*V, _point(oracle, B @ generator.normal(size=d))]))
    asked: set[bytes] = set()
    while len(V) <= MOST:
        equations = ConvexHull((np.array(V) - centre) @ B).equations  # normal . x + offset <= 0
        new = []
        for *normal, offset in np.unique(np.round(equations, 9), axis=0):
            key = np.array([*normal, offset]).tobytes()
            if key in asked:
                continue
            asked.add(key)
            direction = B @ np.array(normal)
            v = _point(oracle, direction)
            if direction @ (v - centre) + offset > 1e-7:
                new.append(v)
        if not new:
            return np.array(V)
        V = list(_distinct([*V, *new]))
    return None


def _branch(presolved: Presolved) -> np.ndarray | None:
    n = presolved.form.n
    lower, upper = presolved.bounds
    program = presolve_feasible(presolved.form).linear_program  # a model of its own: its bounds are moved about
    found: list[np.ndarray] = []

    def descend(i: int, witness: np.ndarray) -> None:
        if i == n:
            found.append(witness)
            return
        for end, sign in ((lower[i], -1.0), (upper[i], 1.0)):
            if end == upper[i] and lower[i] == upper[i]:
                continue
            # does the face reach this end of the entry?
            point = witness if abs(witness[i] - end) < 1e-7 else program.maximize(sign * np.eye(n)[i]).x
            if point is not None and abs(point[i] - end) < 1e-7 and len(found) <= MOST:
                program.set_bounds(i, end, end)
                descend(i + 1, point[:n])
                program.set_bounds(i, *outer[i])

    outer = list(zip(program.lower[:n].copy(), program.upper[:n].copy(), strict=True))
    start = program.maximize(np.zeros(n)).x
    assert start is not None
    descend(0, start[:n])
    if len(found) > MOST:
        return None
    V = _distinct(found)
    known = {v.tobytes() for v in np.round(V, 6) + 0.0}
    generator = np.random.default_rng(0)
    for _ in range(PROBES):
        v = _point(presolved.linear_program.vertex, generator.normal(size=n))
        if (np.round(v, 6) + 0.0).tobytes() not in known:
            return None
    return V


def _point(oracle, direction: np.ndarray) -> np.ndarray:
    solution = oracle(direction)
    assert solution.x is not None
    return solution.x[: len(direction)]


def _distinct(points) -> np.ndarray:
    """The points without repetition, rounded to what the linear programs resolve."""
    rounded = np.round(np.array(points), 9) + 0.0
    _, first = np.unique(np.round(rounded, 6) + 0.0, axis=0, return_index=True)
    return rounded[np.sort(first)]

"""The cases of the engines' tables: members of the zoo, and declarations larger than a page shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

import cvxsst
import polytopes
from cvxsst.regularizers import Separable

EUCLIDEAN, CATEGORICAL, BINARY = cvxsst.Euclidean(), cvxsst.CategoricalEntropy(), cvxsst.BinaryEntropy()


@dataclass(frozen=True)
class Case:
    """A polytope, made when it is needed, with a regularizer; ``instances``: a batch that is worth measuring."""

    name: str
    build: Callable[[], cvxsst.Polytope]
    f: Separable
    instances: int = 128

    @staticmethod
    def of(P: cvxsst.Polytope, f: Separable) -> Case:
        return Case(f"{P!r} {f.name}", lambda: P, f)


def complete(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(i + 1, n)]


FLAT = [
    *(Case.of(polytopes.birkhoff(10), f) for f in (EUCLIDEAN, CATEGORICAL)),
    *(Case.of(polytopes.k_subset(50, 10), f) for f in (EUCLIDEAN, CATEGORICAL, BINARY)),
    Case.of(polytopes.simplex(50), EUCLIDEAN),
    Case.of(polytopes.cube(50), BINARY),
    Case.of(polytopes.path(6, complete(6)), CATEGORICAL),
]
LIFTED = [
    *(Case.of(polytopes.correlated_k_subset(10, 3), f) for f in (EUCLIDEAN, BINARY)),
    Case.of(polytopes.permutahedron(6), EUCLIDEAN),
    *(Case.of(polytopes.matching(6), f) for f in (EUCLIDEAN, CATEGORICAL)),
    *(Case.of(polytopes.arborescence(5), f) for f in (EUCLIDEAN, CATEGORICAL)),
    *(Case.of(polytopes.projective_tree(5), f) for f in (EUCLIDEAN, CATEGORICAL)),
    *(Case.of(polytopes.spanning_tree(n), f) for n in (8, 10) for f in (EUCLIDEAN, BINARY)),
]


def grid_flow(n: int) -> cvxsst.Polytope:
    """Shortest paths from corner to corner of an n x n grid with 8 neighbours, as a flow of at most 1 an arc."""
    cells = np.arange(n * n).reshape(n, n)
    arcs = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        rows, columns = slice(0, n - down), slice(max(0, -right), n - max(0, right))
        first = cells[rows, columns]
        second = cells[down:, slice(max(0, right), n + min(0, right))]
        arcs += [np.stack([first.ravel(), second.ravel()]), np.stack([second.ravel(), first.ravel()])]
    tail, head = np.concatenate(arcs, axis=1)
    E = len(tail)
    entries = np.append(np.ones(E), -np.ones(E)), (np.append(tail, head), np.append(np.arange(E), np.arange(E)))
    incidence, supply = sp.csr_array(entries, shape=(n * n, E)), np.zeros(n * n)
    supply[[0, -1]] = 1, -1
    z = cp.Variable(E)
    return cvxsst.Polytope(z, [z >= 0, z <= 1, incidence @ z == supply], name=f"grid_flow({n})")


def cut_relaxation(n: int) -> cvxsst.Polytope:
    """The triangle inequalities of the cut polytope of the complete graph."""
    edges = {pair: e for e, pair in enumerate(complete(n))}
    z = cp.Variable(len(edges))
    constraints = [z >= 0, z <= 1]
    for i, j in edges:
        for k in range(j + 1, n):
            a, b, c = z[edges[i, j]], z[edges[i, k]], z[edges[j, k]]
            constraints += [a <= b + c, b <= a + c, c <= a + b, a + b + c <= 2]
    return cvxsst.Polytope(z, constraints, name=f"cut_relaxation({n})")


def transport(n: int, m: int) -> cvxsst.Polytope:
    z = cp.Variable((n, m))
    sums = [cp.sum(z, axis=1) == 1 / n, cp.sum(z, axis=0) == 1 / m]
    return cvxsst.Polytope(z, [z >= 0, *sums], name=f"transport({n}, {m})", recognize=False)


LARGE = [
    Case("birkhoff(100) Euclidean", lambda: polytopes.birkhoff(100), EUCLIDEAN, 32),
    *(
        Case(f"{name} {f.name}", build, f, instances)
        for name, build, instances in (
            ("birkhoff(200)", lambda: polytopes.birkhoff(200), 4),
            ("k_subset(10000, 100)", lambda: polytopes.k_subset(10000, 100), 16),
            ("grid_flow(64)", lambda: grid_flow(64), 1),
            ("cut_relaxation(12)", lambda: cut_relaxation(12), 32),
            ("transport(200, 300)", lambda: transport(200, 300), 4),
        )
        for f in (EUCLIDEAN, CATEGORICAL)
    ),
]

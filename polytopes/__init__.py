"""The zoo: polytopes of combinatorial structures, a page each.

    ===========================  =================  ===================================================
    ``simplex(n)``               (n,)               one of n
    ``cube(n)``                  (n,)               any of n
    ``k_subset(n, k)``           (n,)               k of n
    ``correlated_k_subset``      (2n - 1,)          k of n in a row, with products of neighbours
    ``birkhoff(n)``              (n, n)             permutations
    ``transport(n, m)``          (n, m)             plans with marginals r and c, its parameters
    ``permutahedron(n)``         (n,)               ranks 1..n
    ``matching(n)``              (n (n - 1) / 2,)   perfect matchings
    ``path(n, edges)``           (E,)               paths from 0 to n - 1
    ``spanning_tree(n, edges)``  (E,)               spanning trees
    ``arborescence(n)``          (n, n)             heads: trees rooted at 0
    ``projective_tree(n)``       (n, n)             heads: trees rooted at 0 without crossings
    ===========================  =================  ===================================================

Each page states the set Z, its convex hull and why it is the hull, the CVXPY constraints, the argmax oracle, and the
fast paths of the softmax. ``polytopes.padding`` puts structures of different sizes into one batch;
``polytopes.relaxed_eisner`` is another relaxation of projective trees, and no softmax over their hull.
"""

from polytopes.arborescence import arborescence
from polytopes.birkhoff import birkhoff
from polytopes.correlated_k_subset import correlated_k_subset
from polytopes.cube import cube
from polytopes.k_subset import k_subset
from polytopes.matching import matching
from polytopes.path import path
from polytopes.permutahedron import permutahedron
from polytopes.projective_tree import projective_tree
from polytopes.simplex import simplex
from polytopes.spanning_tree import spanning_tree
from polytopes.transport import transport

__all__ = [  # noqa: RUF022 - from the simple to the involved, the order in which they are listed everywhere
    "simplex",
    "cube",
    "k_subset",
    "correlated_k_subset",
    "birkhoff",
    "transport",
    "permutahedron",
    "matching",
    "path",
    "spanning_tree",
    "arborescence",
    "projective_tree",
]

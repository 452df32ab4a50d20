"""Put n things in order: permutation matrices, the perfect matchings of a bipartite graph.

    Z = {permutation matrices},    conv Z = {z >= 0, rows and columns sum to 1}: the doubly stochastic matrices

*Why.* Birkhoff 1946, von Neumann 1953; the constraint matrix is the incidence matrix of a bipartite graph, hence
totally unimodular.

    argmax   the assignment problem, by the Hungarian method (scipy), O(n^3) per instance
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from cvxsst import polytope
from polytopes._arguments import require_size


@polytope(examples=[(3,), (1,), (4,)])
def birkhoff(n: int):
    """The Birkhoff polytope: the permutation matrices of order n.

    Args:
        n: the order, at least 1.

    Shape ``(n, n)``: z[i, j] = 1 where i is put in place j.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import birkhoff
        >>> cvxsst.argmax(birkhoff(2), torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    require_size("n", n, 1)
    z = cp.Variable((n, n))
    return z, [z >= 0, cp.sum(z, axis=0) == 1, cp.sum(z, axis=1) == 1]


@birkhoff.structures
def permutation_matrices(n: int) -> Iterator[np.ndarray]:
    for places in itertools.permutations(range(n)):
        yield np.eye(n)[list(places)]


@birkhoff.argmax
def assignment(w: torch.Tensor, n: int) -> torch.Tensor:
    flat = w.reshape(-1, n, n).cpu().numpy()
    z = np.zeros_like(flat)
    for instance, utilities in zip(z, flat, strict=True):
        instance[linear_sum_assignment(utilities, maximize=True)] = 1
    return torch.from_numpy(z).reshape(w.shape).to(w)

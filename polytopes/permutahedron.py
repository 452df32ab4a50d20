"""Rank n things: the vectors that are permutations of 1, ..., n.

    Z = {permutations of (1, ..., n)},    conv Z = {z = X (1, ..., n)' : X doubly stochastic}

*Why.* A linear map takes hulls to hulls, conv {X (1..n)'} = {conv X} (1..n)'; and the hull of the permutation matrices
are the doubly stochastic ones (Birkhoff 1946). Rado 1952 gives the same set by 2^n - 1 inequalities in z alone, sum
over S of z_i <= n + (n - 1) + ... (|S| terms); the n^2 lifted columns are fewer.

    argmax   sorting: the largest utility gets n, O(n log n) (rearrangement inequality)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import torch

from cvxsst import polytope
from polytopes._arguments import require_size


@polytope(examples=[(3,), (1,), (4,)])
def permutahedron(n: int):
    """The permutahedron: the rank vectors of n things.

    Args:
        n: how many things, at least 1.

    Shape ``(n,)``: z[i] is the rank of i, the largest utility has rank n; of equal ones the later has the higher rank.
    n^2 lifted columns. Entries range from 1 to n, so ``BinaryEntropy`` is not defined here and -inf forbids nothing.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import permutahedron
        >>> cvxsst.argmax(permutahedron(3), torch.tensor([0.3, -1.0, 5.0]))
        tensor([2., 1., 3.])
    """
    require_size("n", n, 1)
    z, X = cp.Variable(n), cp.Variable((n, n), nonneg=True)
    return z, [z == X @ np.arange(1.0, n + 1), cp.sum(X, axis=0) == 1, cp.sum(X, axis=1) == 1]


@permutahedron.structures
def permutations(n: int) -> Iterator[np.ndarray]:
    for ranks in itertools.permutations(range(1, n + 1)):
        yield np.array(ranks, dtype=float)


@permutahedron.argmax
def ranks(w: torch.Tensor, n: int) -> torch.Tensor:
    order = torch.argsort(w, dim=-1, stable=True)
    return torch.empty_like(w).scatter_(-1, order, torch.arange(1, n + 1).to(w).expand_as(w))

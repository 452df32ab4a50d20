"""Pair n things off: the perfect matchings of the complete graph.

    Z = {z in {0, 1}^E : sum over the edges at each node = 1},     E = all pairs i < j, row by row

    conv Z = {z >= 0,  sum over the edges at each node = 1,  sum over the edges leaving S >= 1 for odd sets S}

*Why.* Edmonds 1965. Without the odd sets two triangles with 1/2 on each edge would be a vertex.

    argmax   maximum weight perfect matching by Edmonds' blossom algorithm (networkx), O(n^3) per instance
"""

from __future__ import annotations

from collections.abc import Iterator

import cvxpy as cp
import networkx as nx
import numpy as np
import torch

from cvxsst import polytope
from cvxsst.family import Padding
from cvxsst.geometry.canonical import StandardForm
from polytopes._arguments import require_size

LARGEST = 14


@polytope(examples=[(4,), (2,), (6,)])
def matching(n: int):
    """The perfect matching polytope of the complete graph on n nodes.

    Args:
        n: how many nodes, even, from 2 to 14: there are about 2^(n - 2) odd sets, each a constraint.

    Shape ``(n (n - 1) / 2,)``: the edges i < j row by row, as ``torch.triu_indices(n, n, 1)`` lists them.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import matching
        >>> cvxsst.argmax(matching(4), torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0]))  # edges 01 02 03 12 13 23
        tensor([0., 1., 0., 0., 1., 0.])
    """
    require_size("n", n, 2)
    require_size("n", n, 2, LARGEST, f": about 2^{n - 2} odd sets would each be a constraint")
    if n % 2:
        raise ValueError(f"n: an odd number of nodes, {n}, has no perfect matching; add a node that stands for 'alone'")
    i, j = np.triu_indices(n, 1)
    z = cp.Variable(len(i))
    at_node = (np.arange(n)[:, None] == i) | (np.arange(n)[:, None] == j)
    constraints = [z >= 0, at_node.astype(float) @ z == 1]
    # Of S and its complement one contains node 0; |S| = 1 and n - 1 are the equalities.
    inside = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)) & 1
    S = np.hstack([np.ones((len(inside), 1), dtype=int), inside])
    S = S[(S.sum(1) % 2 == 1) & (S.sum(1) >= 3) & (S.sum(1) <= n - 3)]
    return z, constraints + ([(S[:, i] != S[:, j]).astype(float) @ z >= 1] if len(S) else [])


@matching.once
def pairs(n: int) -> dict[tuple[int, int], int]:
    """The position of each edge (i, j), i < j."""
    return {pair: e for e, pair in enumerate(zip(*(x.tolist() for x in np.triu_indices(n, 1)), strict=True))}


@matching.structures
def perfect_matchings(n: int) -> Iterator[np.ndarray]:
    index = pairs(n)

    def pair_off(nodes: tuple[int, ...]) -> Iterator[list[int]]:
        if not nodes:
            yield []
            return
        first, rest = nodes[0], nodes[1:]
        for partner in rest:
            for others in pair_off(tuple(node for node in rest if node != partner)):
                yield [index[first, partner], *others]

    for edges in pair_off(tuple(range(n))):
        z = np.zeros(len(index))
        z[edges] = 1
        yield z


@matching.argmax
def blossom(w: torch.Tensor, n: int, pairs: dict[tuple[int, int], int]) -> torch.Tensor:
    """``(*batch, E)`` to zeros and ones."""
    z = torch.zeros(w.shape, dtype=w.dtype).reshape(-1, len(pairs))
    for instance, utilities in zip(z, w.cpu().reshape(-1, len(pairs)).tolist(), strict=True):
        graph = nx.Graph()
        graph.add_weighted_edges_from((a, b, utilities[e]) for (a, b), e in pairs.items())
        for a, b in nx.max_weight_matching(graph, maxcardinality=True):
            instance[pairs[min(a, b), max(a, b)]] = 1
    return z.reshape(w.shape).to(w.device)


@matching.padding
def with_its_neighbour(n: int) -> Padding:
    i, j = torch.triu_indices(n, n, 1)
    return Padding(j, (j == i + 1) & (i % 2 == 0), range(2, n + 1, 2), "an odd number of nodes has no perfect matching")


@matching.guess
def by_pairs(shape: tuple[int, ...], form: StandardForm) -> Iterator[tuple[int]]:
    n = form.A.shape[0]
    if len(shape) == 1 and shape[0] == n * (n - 1) // 2 and n % 2 == 0 and 4 <= n <= LARGEST:
        yield (n,)

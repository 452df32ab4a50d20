"""Connect n nodes without a cycle: the spanning trees of a graph.

    Z = {indicator vectors of the spanning trees of (nodes 0..n-1, edges)}

*The hull.* Direct every tree away from node 0. Then there is an arc into every other node, and for each node k a path
from 0 to k within the tree: a unit flow f^k below the arcs y.

    conv Z = {z : z_ij = y_ij + y_ji,  sum z = n - 1,  f^k a unit flow from 0 to k,  0 <= f^k <= y  for all k}

(directed multi-commodity flow: Wong 1984; Magnanti and Wolsey 1995, section 4). By max-flow min-cut the flows exist iff
y sends at least 1 into every set of nodes without 0, which with sum y = n - 1 describes the arborescences rooted at 0
(Edmonds 1967). One flow of n - 1 units instead of n - 1 flows of one is valid too, but has fractional vertices.

    argmax              maximum spanning tree by Prim's algorithm, O(n^2) per instance, all instances at once
    ExponentialFamily   z = E[z], p(z) ~ exp <u, z>: Kirchhoff's matrix-tree theorem, O(n^3)
    sample              its elimination in reverse, O(n^2 log n) after O(n^3)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components

from cvxsst import ExponentialFamily, polytope
from cvxsst.family import Padding
from polytopes import _cuts, _laplacian
from polytopes._arguments import chainable, require_edges, require_size
from polytopes._programs import IMPOSSIBLE, finite, greedy, possible

Edges = Sequence[tuple[int, int]]
SQUARE_WITH_A_TAIL = ((2, 0), (0, 1), (1, 3), (3, 2), (3, 4))


@polytope(examples=[(4,), (2,), (5, SQUARE_WITH_A_TAIL)])
def spanning_tree(n: int, edges: Edges | None = None):
    """The spanning tree polytope of a graph, complete unless ``edges`` is given.

    Args:
        n: how many nodes, at least 2.
        edges: undirected edges (i, j), connecting all nodes. Default: all i < j, row by row, as
            ``torch.triu_indices(n, n, 1)`` lists them.

    Shape ``(E,)``, in the order of the edges. The hull has about 2 n E lifted columns. The argmax depends on the order
    of the utilities only (a matroid): with ``Gumbel(theta, 1)`` it is Kruskal's algorithm on a random order of edges.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import spanning_tree
        >>> cvxsst.argmax(spanning_tree(3), torch.tensor([1.0, -2.0, 0.5]))  # edges 01 02 12
        tensor([1., 0., 1.])
    """
    require_size("n", n, 2)
    ends = _ends(n, edges)
    arcs, edge_of = _arcs_away_from_0(ends)
    z, y = cp.Variable(len(ends)), cp.Variable(len(arcs), nonneg=True)
    flows = cp.Variable((n - 1, len(arcs)), nonneg=True)
    merge = sp.csr_array((np.ones(len(arcs)), (edge_of, np.arange(len(arcs)))), (len(ends), len(arcs)))
    return z, [z == merge @ y, cp.sum(z) == n - 1, *unit_flows(flows, y, arcs, n)]


def unit_flows(flows: cp.Variable, capacity: cp.Expression, arcs: np.ndarray, n: int) -> list[cp.Constraint]:
    """Row k - 1 of ``flows`` is a unit flow from node 0 to node k, at most ``capacity`` on each of the arcs."""
    column = np.arange(len(arcs))
    into = sp.csr_array((np.ones(len(arcs)), (arcs[:, 1], column)), (n, len(arcs)))
    out_of = sp.csr_array((np.ones(len(arcs)), (arcs[:, 0], column)), (n, len(arcs)))
    # Inflow minus outflow: 1 at k, 0 at the others; at node 0 that follows.
    conserved = flows @ (into - out_of)[1:].T == np.eye(n - 1)
    return [conserved, flows <= np.ones((n - 1, 1)) @ cp.reshape(capacity, (1, len(arcs)), order="C")]


def _ends(n: int, edges: Edges | None) -> np.ndarray:
    """(E, 2): the two nodes of each edge, checked."""
    if edges is None:
        return np.stack(np.triu_indices(n, 1), 1)
    require_edges(n, edges)
    seen: dict[tuple[int, ...], int] = {}
    for position, edge in enumerate(edges):
        key = tuple(sorted(edge))
        if key in seen:
            raise ValueError(f"edges[{position}]: {edge} repeats edges[{seen[key]}]; leave one of them out")
        seen[key] = position
    ends = np.array(edges, dtype=int).reshape(-1, 2)
    graph = sp.csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (n, n))
    components, label = connected_components(graph, directed=False)
    if components > 1:
        apart = int(np.flatnonzero(label != label[0])[0])
        raise ValueError(f"edges: node {apart} is not connected with node 0, so there is no spanning tree; add edges")
    return ends


def _arcs_away_from_0(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both directions of every edge but those into node 0, and the edge of each arc."""
    arcs = np.concatenate([ends, ends[:, ::-1]])
    edge_of = np.tile(np.arange(len(ends)), 2)
    return arcs[arcs[:, 1] != 0], edge_of[arcs[:, 1] != 0]


@spanning_tree.once
def ends(n: int, edges: Edges | None = None) -> torch.Tensor:
    """The two nodes of each edge, ``(2, E)``."""
    return torch.from_numpy(_ends(n, edges).T.copy())


@spanning_tree.structures
def trees(n: int, edges: Edges | None = None) -> Iterator[np.ndarray]:
    """All sets of n - 1 edges that connect all nodes."""
    ends = _ends(n, edges)
    for chosen in itertools.combinations(range(len(ends)), n - 1):
        part = ends[list(chosen)]
        graph = sp.csr_array((np.ones(n - 1), (part[:, 0], part[:, 1])), (n, n))
        if connected_components(graph, directed=False, return_labels=False) == 1:
            z = np.zeros(len(ends))
            z[list(chosen)] = 1
            yield z


@spanning_tree.argmax
def prim(w: torch.Tensor, n: int, edges: Edges | None, ends: torch.Tensor) -> torch.Tensor:
    """Grow the tree from node 0, always by the best edge that leaves it; ``(*batch, E)`` to zeros and ones."""
    i, j = ends
    flat = w.reshape(-1, len(i))
    instance = torch.arange(len(flat), device=w.device)
    weight = flat.new_full((len(flat), n, n), -torch.inf)
    weight[:, i, j] = weight[:, j, i] = flat
    edge_at = torch.zeros(n, n, dtype=torch.long, device=w.device)
    edge_at[i, j] = edge_at[j, i] = torch.arange(len(i), device=w.device)

    z = torch.zeros_like(flat)
    inside = torch.zeros(len(flat), n, dtype=torch.bool, device=w.device)
    inside[:, 0] = True
    best, tail = weight[:, 0].clone(), torch.zeros_like(inside, dtype=torch.long)  # best edge into each node, whence
    for _ in range(n - 1):
        node = best.masked_fill(inside, -torch.inf).argmax(1)
        z[instance, edge_at[tail[instance, node], node]] = 1
        inside[instance, node] = True
        better = weight[instance, node] > best
        best = torch.where(better, weight[instance, node], best)
        tail = torch.where(better, node[:, None], tail)
    return z.reshape(w.shape)


def _both_ways(u: torch.Tensor, n: int, ends: torch.Tensor) -> torch.Tensor:
    """u ``(*batch, E)`` as ``(*batch, n, n)``, of arcs: a tree is an arborescence rooted at 0 in exactly one way."""
    i, j = ends
    u = finite(u)
    arcs = u.new_full((*u.shape[:-1], n * n), IMPOSSIBLE)
    places = torch.cat([i * n + j, j * n + i]).expand(*u.shape[:-1], -1)
    return arcs.scatter(-1, places, torch.cat([u, u], -1)).unflatten(-1, (n, n))


@spanning_tree.softmax(ExponentialFamily)
def edge_probabilities(u: torch.Tensor, n: int, edges: Edges | None, ends: torch.Tensor) -> torch.Tensor:
    """``(*batch, E)`` to the same."""
    z = _laplacian.softmax(_both_ways(u, n, ends))
    return (z[..., ends[0], ends[1]] + z[..., ends[1], ends[0]]).to(u.dtype)


@spanning_tree.log_partition
def kirchhoff(u: torch.Tensor, n: int, edges: Edges | None, ends: torch.Tensor) -> torch.Tensor:
    """A(u): log of the sum over all spanning trees of exp <u, z>, ``(*batch, E)`` to ``(*batch,)``."""
    return possible(_laplacian.log_partition(_both_ways(u, n, ends))).to(u.dtype)


@spanning_tree.sample
def drawn_trees(u: torch.Tensor, samples: int, n: int, edges: Edges | None, ends: torch.Tensor) -> torch.Tensor:
    """``(*batch, E)`` to ``(samples, *batch, E)``."""
    head = _laplacian.sample(_both_ways(u, n, ends).reshape(-1, n, n), samples)
    i, j = ends
    up, down = (head[..., i] == j) & (i > 0), (head[..., j] == i) & (j > 0)
    return (up | down).to(u).reshape(samples, *u.shape)


@spanning_tree.trace
def kruskal(
    u: torch.Tensor, samples: int, n: int, edges: Edges | None, ends: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Kruskal's algorithm: the best edge between two components, again and again; ``(*batch, E)`` to
    ``(samples, *batch, E)`` and ``(samples, *batch)``."""
    (i, j), flat = ends, u.reshape(-1, u.shape[-1])
    component = torch.arange(n, device=u.device).expand(samples, len(flat), n)

    def between(z: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
        nonlocal component
        if last is not None:
            old, new = (component.gather(-1, end[last][..., None]) for end in (i, j))
            component = torch.where(component == old, new, component)
        return component[..., i] != component[..., j]

    z, log_prob = greedy(flat, n - 1, between, samples)
    return z.reshape(samples, *u.shape), log_prob.reshape(samples, *u.shape[:-1])


@spanning_tree.facets
def all_forests(n: int, edges: Edges | None = None) -> tuple[torch.Tensor, torch.Tensor] | None:
    """z(edges inside S) <= |S| - 1 for all S (Edmonds 1970); None where that is a long list."""
    S = _cuts.listed(n)
    return None if S is None else (_cuts.inside(S, *ends(n, edges)), S.sum(1) - 1)


@spanning_tree.facets
def forests(z: torch.Tensor, n: int, edges: Edges | None, ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for a most violated S; ``(B, E)`` to ``(B, K, E)`` and ``(B, K)``."""
    i, j = ends
    both = z.new_zeros(len(z), n, n)
    both[:, i, j] = both[:, j, i] = z
    S = _cuts.crowded(both)
    return _cuts.inside(S, i, j), S.sum(2) - 1


@spanning_tree.padding
def in_a_chain(n: int, edges: Edges | None = None) -> Padding:
    i, j = torch.from_numpy(_ends(n, edges)).sort(1).values.T
    return Padding(j, j == i + 1, *chainable(n, set(j[j == i + 1].tolist()), least=1))

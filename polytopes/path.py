"""Go from node 0 to node n - 1: the paths through a directed acyclic graph.

    Z = {indicator vectors of the paths 0 -> n - 1},
    conv Z = {z >= 0,  outflow - inflow = 1 at node 0, -1 at node n - 1, 0 elsewhere}

*Why.* The incidence matrix of a directed graph is totally unimodular, so the vertices are integral unit flows; without
cycles those are paths (Ahuja, Magnanti and Orlin 1993, section 11.12).

    argmax              longest path in topological order, O(n + E)
    ExponentialFamily   z = E[z], p(z) ~ exp <u, z>: the same recursion over sums (forward-backward), O(n + E)
    sample              the same recursion backward, an edge into each node at random, O(n + E)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cvxpy as cp
import networkx as nx
import numpy as np
import scipy.sparse as sp
import torch

from cvxsst import polytope
from cvxsst.family import Padding
from cvxsst.geometry.canonical import StandardForm
from polytopes._arguments import chainable, require_edges, require_size
from polytopes._incidence import graph_of
from polytopes._programs import Reduce, drawn, drawn_structures, finite, log_sum_exp, maximizer, maximum, possible

Edges = Sequence[tuple[int, int]]
Arrivals = list[tuple[int, list[tuple[int, int]]]]  # nodes in topological order: whence, by which edges, one gets there
DIAMOND = ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3))


@polytope(examples=[(4, DIAMOND), (2, ((0, 1),)), (5, ((3, 4), (0, 3), (0, 1), (1, 3), (1, 4), (2, 4)))])
def path(n: int, edges: Edges):
    """The path polytope of a directed acyclic graph.

    Args:
        n: how many nodes, at least 2; paths lead from node 0 to node n - 1.
        edges: directed edges (i, j), in any order, without a cycle; parallel edges are allowed.

    Shape ``(len(edges),)``, in the order given. Edges on no path from 0 to n - 1 are 0.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import path
        >>> diamond = path(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
        >>> cvxsst.argmax(diamond, torch.tensor([1.0, 0.0, 1.0, 3.0]))
        tensor([0., 1., 0., 1.])
    """
    require_size("n", n, 2)
    require_edges(n, edges)
    _order(n, edges)
    column = np.arange(len(edges))
    tails, heads = np.array(edges, dtype=int).reshape(-1, 2).T
    balance = sp.csr_array((np.ones(len(edges)), (tails, column)), (n, len(edges)))
    balance = balance - sp.csr_array((np.ones(len(edges)), (heads, column)), (n, len(edges)))
    demand = np.zeros(n)
    demand[0], demand[n - 1] = 1, -1
    z = cp.Variable(len(edges))
    return z, [z >= 0, balance @ z == demand]


def _order(n: int, edges: Edges) -> list[int]:
    """The nodes on paths from 0 to n - 1 in topological order."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(edges)
    if not nx.is_directed_acyclic_graph(graph):
        cycle = " -> ".join(str(i) for i, _ in nx.find_cycle(graph))
        raise ValueError(f"edges: the graph has the cycle {cycle} -> ...; paths need a directed acyclic graph")
    useful = (nx.descendants(graph, 0) | {0}) & (nx.ancestors(graph, n - 1) | {n - 1})
    if 0 not in useful:
        raise ValueError(f"edges: no path leads from node 0 to node {n - 1}; add edges")
    return [node for node in nx.topological_sort(graph) if node in useful]


@path.once
def arrivals(n: int, edges: Edges) -> Arrivals:
    order = _order(n, edges)
    useful = set(order)
    return [(node, [(i, e) for e, (i, j) in enumerate(edges) if j == node and i in useful]) for node in order[1:]]


@path.structures
def paths(n: int, edges: Edges) -> Iterator[np.ndarray]:
    def onward(node: int) -> Iterator[list[int]]:
        if node == n - 1:
            yield []
        for e, (i, j) in enumerate(edges):
            if i == node:
                yield from ([e, *rest] for rest in onward(j))

    for taken in onward(0):
        z = np.zeros(len(edges))
        z[taken] = 1
        yield z


@path.argmax
def longest(w: torch.Tensor, n: int, edges: Edges, arrivals: Arrivals) -> torch.Tensor:
    """``(*batch, E)`` to zeros and ones."""
    return maximizer(lambda u: forward(u, arrivals, maximum), w)


def forward(u: torch.Tensor, arrivals: Arrivals, reduce: Reduce) -> torch.Tensor:
    """The sum (in the sense of ``reduce``) of <u, z> over the paths, ``(*batch, E)`` to ``(*batch,)``:
    a[j] = sum over edges (i, j) of a[i] + u_ij."""
    a = {0: u.new_zeros(u.shape[:-1])}
    for node, arriving in arrivals:
        a[node] = reduce(torch.stack([a[i] + u[..., e] for i, e in arriving], -1), -1)
    return a[node]


@path.log_partition
def log_sum_of_paths(u: torch.Tensor, n: int, edges: Edges, arrivals: Arrivals) -> torch.Tensor:
    """A(u): log of the sum over the paths of exp <u, z>, ``(*batch, E)`` to ``(*batch,)``."""
    return possible(forward(finite(u), arrivals, log_sum_exp)).to(u.dtype)


@path.sample
def drawn_paths(u: torch.Tensor, samples: int, n: int, edges: Edges, arrivals: Arrivals) -> torch.Tensor:
    """``(*batch, E)`` to ``(samples, *batch, E)``, O(n + E) a sample."""
    return drawn_structures(lambda v: forward(v, arrivals, drawn), u, samples)


@path.padding
def onwards(n: int, edges: Edges) -> Padding:
    """By the first of the edges (j - 1, j)."""
    tail, head = torch.tensor(edges).T
    onward = torch.tensor([i + 1 == j and edges.index((i, j)) == e for e, (i, j) in enumerate(edges)])
    return Padding(torch.maximum(tail, head), onward, *chainable(n, set(head[onward].tolist()), least=2))


@path.guess
def by_balances(shape: tuple[int, ...], form: StandardForm) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """The graph whose node balances the equalities are; a cycle is refused by the family itself."""
    graph = graph_of(form.A.toarray(), form.b) if len(shape) == 1 and not form.lifted else None
    if graph is not None:
        yield graph

"""Reading a directed graph off the flow conservation of its paths.

Of M f = demand, with a row for each node, +1 in the columns of the edges that leave it, -1 in those that enter it, a
presolved declaration has kept all rows but one, in any order, scale and sign; that and the equalities z_e = 0 of the
edges that no path uses hide which row is whose. It is found again from three facts: each column has one +1 and one -1,
the demands are +1, -1 and zeros, and what no path uses can be any edge that no path uses.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
import scipy.linalg

CLOSE = 1e-9


def graph_of(A: np.ndarray, b: np.ndarray) -> tuple[int, list[tuple[int, int]]] | None:
    """(n, edges), paths from 0 to n - 1, of which A f = b could be the flow conservation; None if there is none."""
    if not _could_be_balances(A, b):
        return None
    unused = _fixed_at_zero(A, b)
    M = np.where(unused, 0.0, A)
    kept = np.abs(M).max(axis=1, initial=0.0) > CLOSE
    M, demand = _scaled(M[kept], b[kept])
    if not np.all((np.count_nonzero(M, axis=0) <= 2) & (np.count_nonzero(M, axis=0) + unused >= 1)):
        return None
    signs = _signs(M, demand)
    M, demand = signs[:, None] * M, signs * demand
    M, demand = np.vstack([M, -M.sum(axis=0)]), np.append(demand, -demand.sum())  # the row that was left out
    nodes = M.any(axis=1)
    return _edges(M[nodes], demand[nodes], unused)


def _could_be_balances(A: np.ndarray, b: np.ndarray) -> bool:
    """A quick look: entries 0 and +-1 up to scale, at most two nodes and a fixed edge in a column."""
    if not A.size:
        return False
    M, d = _scaled(A, b)
    whole = np.isin(M, (-1, 0, 1)).all() and np.isin(d, (-1, 0, 1)).all()
    return bool(whole and np.count_nonzero(M, axis=0).max() <= 3)


def _scaled(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows divided by their largest entry; integers up to rounding become such."""
    scale = np.abs(A).max(axis=1, keepdims=True)
    rows = np.hstack([A, b[:, None]]) / np.where(scale > 0, scale, 1.0)
    rows = np.where(np.abs(rows - np.round(rows)) <= CLOSE, np.round(rows), rows)
    return rows[:, :-1], rows[:, -1]


def _fixed_at_zero(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which columns A f = b (rows independent) holds at 0: the unit vector is a combination of the rows."""
    Q, R = scipy.linalg.qr(A.T, mode="economic")
    f = Q @ scipy.linalg.solve_triangular(R, b, trans="T")
    return ((Q**2).sum(axis=1) > 1 - CLOSE) & (np.abs(f) <= CLOSE)


def _signs(M: np.ndarray, demand: np.ndarray) -> np.ndarray:
    """Signs of the rows that give each column of two entries a +1 and a -1.

    Without the row that was left out the graph may fall apart. Then one part has the source and another the sink,
    whichever (all edges reversed, the paths from n - 1 to 0 are the same sets): their demands get different signs.
    """
    nodes = nx.Graph()
    nodes.add_nodes_from(range(len(M)))
    for column in np.flatnonzero(np.count_nonzero(M, axis=0) == 2):
        i, j = np.flatnonzero(M[:, column])
        nodes.add_edge(int(i), int(j), turn=-M[i, column] * M[j, column])
    signs, wanted = np.ones(len(M)), 1.0
    for part in nx.connected_components(nodes):
        members = sorted(part)
        for i, j in nx.bfs_edges(nodes, members[0]):
            signs[j] = signs[i] * nodes.edges[i, j]["turn"]
        total = (signs[members] * demand[members]).sum()
        if total:
            signs[members] *= np.sign(total) * wanted
            wanted = -1.0
    return signs


def _edges(M: np.ndarray, demand: np.ndarray, unused: np.ndarray) -> tuple[int, list[tuple[int, int]]] | None:
    """The edges by the +1 and -1 of their columns; nodes in the order source, others, sink."""
    one_each = ((M == 1).sum(axis=0) == ~unused) & ((M == -1).sum(axis=0) == ~unused)
    if not (np.all(one_each) and np.array_equal(np.sort(demand[demand != 0]), [-1, 1])):
        return None
    order = np.argsort(-demand, kind="stable")
    nowhere = len(M) - 1  # a node that nothing enters: the tail of what no path uses; it goes before the sink
    number = np.empty(len(M), dtype=int)
    number[order] = np.arange(len(M))
    sink = number[order[-1]] = len(M) - (0 if unused.any() else 1)
    tails = np.where(unused, nowhere, number[(M == 1).argmax(axis=0)])
    heads = np.where(unused, sink, number[(M == -1).argmax(axis=0)])
    return sink + 1, list(zip(tails.tolist(), heads.tolist(), strict=True))

"""Sets of nodes that hold too many edges: the inequalities of forests and arborescences, separated exactly.

    z(edges inside S) <= |S| - 1   for all sets S of at least two nodes                     (Edmonds 1970, 1971)

Up to 14 nodes all sets are weighed: with the nodes in two halves, S = S1 + S2, the edges inside S are those inside S1,
inside S2 and between them, one product of small matrices. Beyond, a set with node k in it that violates its inequality
most is a minimum cut, for each k in turn (Padberg and Wolsey 1983): with d_i the sum of z over the edges at i

    |S| - 1 - z(edges inside S) = (z(edges leaving S) + sum_{i in S} (2 - d_i)) / 2 - 1

Cost: O(2^n n) and O(n maximum flows) an instance.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

MOST_NODES = 14  # of which all sets are weighed
FEW_NODES = 8  # of which a list of all sets is quicker
MOST_NUMBERS = 2**21  # that are held at a time
WHOLE = 2**30  # scipy's flows are 32 bit integers


def crowded(Z: torch.Tensor) -> torch.Tensor:
    """Sets S, bool ``(B, K, n)``, one of which maximizes z(edges inside S) - |S| + 1 over all sets but the empty one.

    Args:
        Z: ``(B, n, n)``, symmetric, 0 on the diagonal: z of the edge (i, j); negative entries count as 0 in cuts.
    """
    B, n = Z.shape[:2]
    if n <= MOST_NODES:
        parts = Z.split(max(1, MOST_NUMBERS >> n))
        return torch.cat([_by_weighing_all(part) for part in parts]) if B else Z.new_zeros(0, 1, n).bool()
    sets = [_by_minimum_cuts(one) for one in Z.clamp_min(0.0).cpu().numpy()]
    return torch.from_numpy(np.stack(sets) if B else np.zeros((0, n, n), dtype=bool)).to(Z.device)


def listed(n: int) -> torch.Tensor | None:
    """All sets of at least two of n nodes, bool ``(count, n)``; None where they are many."""
    if n > FEW_NODES:
        return None
    S = _subsets(n, torch.zeros(()))
    return S[S.sum(1) > 1].bool()


def inside(S: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Which edges (i, j) lie inside: ``(..., n)`` to ``(..., E)``."""
    return S[..., i] & S[..., j]


def _by_weighing_all(Z: torch.Tensor) -> torch.Tensor:
    B, n = Z.shape[:2]
    half = n // 2
    first, second = _subsets(half, Z), _subsets(n - half, Z)
    within_first, within_second = (
        torch.einsum("si,bij,sj->bs", X, part, X) / 2 - X.sum(1)
        for X, part in ((first, Z[:, :half, :half]), (second, Z[:, half:, half:]))
    )
    value = (first @ Z[:, :half, half:]) @ second.T
    value += within_first[:, :, None]
    value += within_second[:, None]
    value[:, 0, 0] = -torch.inf
    best = value.reshape(B, -1).argmax(1)
    a, b = best // len(second), best % len(second)
    return torch.cat([first[a], second[b]], 1).bool()[:, None]


def _subsets(n: int, like: torch.Tensor) -> torch.Tensor:
    """All subsets of n nodes as rows of zeros and ones."""
    return ((torch.arange(2**n, device=like.device)[:, None] >> torch.arange(n, device=like.device)) & 1).to(like)


def _by_minimum_cuts(Z: np.ndarray) -> np.ndarray:
    """For each node k the best set with k in it; Z ``(n, n)``, result ``(n, n)``."""
    n = len(Z)
    surplus = Z.sum(1) - 2
    C = np.zeros((n + 2, n + 2))
    C[:n, :n] = Z
    C[n, :n], C[:n, n + 1] = np.maximum(surplus, 0.0), np.maximum(-surplus, 0.0)
    sets = np.zeros((n, n), dtype=bool)
    for k in range(n):
        forced = C.copy()
        forced[n, k] = Z.sum() + 2 * n
        sets[k] = _source_side(forced, n, n + 1)[:n]
    return sets


def _source_side(C: np.ndarray, source: int, sink: int) -> np.ndarray:
    """The nodes on the source's side of a minimum cut, bool; exact up to 1e-13 of the capacities C, dense.

    A flow with capacities rounded down to integers leaves little of C; that is scaled up for a second flow.
    """
    largest = C.sum()
    for _ in range(2):
        unit = largest / WHOLE
        whole = sp.csr_array(np.minimum(C / unit, WHOLE).astype(np.int32))
        C = C - maximum_flow(whole, source, sink).flow.toarray() * unit
        largest = len(C) ** 2 * unit
        C = C.clip(0.0, None)
    residual = sp.csr_array(unit < C)
    reached = breadth_first_order(residual, source, return_predecessors=False)
    side = np.zeros(len(C), dtype=bool)
    side[reached] = True
    return side

"""Which edges of a bipartite graph are in a perfect matching, for a batch of graphs (Dulmage and Mendelsohn 1958).

Let row i be matched with column m(i), and draw an arc m(i) -> j for every allowed (i, j). An edge (i, j) is in some
perfect matching if and only if m(i) and j lie on a common cycle: exchanging along it gives the other matching. So

    support = {(i, j) allowed : m(i) and j in the same strong component},     component: both reach each other

One matching by scipy's assignment, O(n^3) each; the strong components of all graphs at once by scipy, in the number of
arcs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


class Support(NamedTuple):
    """``edges`` ``(B, n, n)``, bool: in a perfect matching; none where there is none. ``first`` ``(B, n)``, bool: one
    column of each component, the first."""

    edges: torch.Tensor
    first: torch.Tensor

    @staticmethod
    def of(allowed: torch.Tensor) -> Support:
        """For allowed edges ``(B, n, n)``, bool."""
        row, complete = _matching(allowed)
        component = _components(allowed.gather(1, row[:, :, None].expand_as(allowed)))
        to_rows = component.gather(1, row.argsort(1))  # of m(i)
        edges = allowed & (to_rows[:, :, None] == component[:, None]) & complete[:, None, None]
        numbers, place = component.flatten().unique(return_inverse=True)
        position = torch.arange(place.numel(), device=place.device)
        first = torch.full_like(numbers, place.numel()).scatter_reduce(0, place, position, "amin")
        return Support(edges, (first[place] == position).view_as(component))


def _components(arcs: torch.Tensor) -> torch.Tensor:
    """The strong components of the graphs with arcs c -> j, ``(B, n, n)``, bool: a number of its own for each,
    ``(B, n)``."""
    batch, n = arcs.shape[:2]
    which, source, target = arcs.cpu().numpy().nonzero()
    size = batch * n
    graph = csr_array((np.ones(len(which), dtype=bool), (which * n + source, which * n + target)), shape=(size, size))
    _, component = connected_components(graph, connection="strong")
    return torch.from_numpy(component).to(arcs.device).long().view(batch, n)


def _matching(allowed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A largest matching of each graph ``(B, n, n)``: the row of each column ``(B, n)``, made complete by edges that
    are not allowed, and whether it needed none ``(B,)``."""
    graphs = allowed.cpu().numpy()
    row = np.array([linear_sum_assignment(graph.T, maximize=True)[1] for graph in graphs], dtype=np.int64)
    row = row.reshape(graphs.shape[:2])
    complete = np.take_along_axis(graphs, row[:, None, :], 1)[:, 0].all(1)
    return torch.from_numpy(row).to(allowed.device), torch.from_numpy(complete).to(allowed.device)

"""Which edges of a bipartite graph are in a perfect matching, for a batch of graphs (Dulmage and Mendelsohn 1958).

Let row i be matched with column m(i), and draw an arc m(i) -> j for every allowed (i, j). An edge (i, j) is in some
perfect matching if and only if m(i) and j lie on a common cycle: exchanging along it gives the other matching. So

    support = {(i, j) allowed : m(i) and j in the same strong component},     component: both reach each other

One matching by scipy's assignment, O(n^3) each; what reaches what by squaring the matrix of arcs, O(n^3 log n) for all
graphs at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment


class Support(NamedTuple):
    """``edges`` ``(B, n, n)``, bool: in a perfect matching; none where there is none. ``first`` ``(B, n)``, bool: one
    column of each component, the first."""

    edges: torch.Tensor
    first: torch.Tensor

    @staticmethod
    def of(allowed: torch.Tensor) -> Support:
        """For allowed edges ``(B, n, n)``, bool."""
        n = allowed.shape[-1]
        row, complete = _matching(allowed)
        reach = allowed.gather(1, row[:, :, None].expand_as(allowed)).to(torch.float32)  # [c, j]: an arc c -> j
        for _ in range((n - 1).bit_length()):
            reach = (reach @ reach).clamp_max_(1.0)  # paths twice as long; loops c -> c keep the shorter ones
        same = (reach > 0) & (reach.mT > 0)
        to_rows = row.argsort(1)  # m: the column of each row
        edges = allowed & same.gather(1, to_rows[:, :, None].expand_as(same)) & complete[:, None, None]
        position = torch.arange(n, device=allowed.device)
        return Support(edges, same.to(torch.uint8).argmax(-1) == position)


def _matching(allowed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A largest matching of each graph ``(B, n, n)``: the row of each column ``(B, n)``, made complete by edges that
    are not allowed, and whether it needed none ``(B,)``."""
    graphs = allowed.cpu().numpy()
    row = np.array([linear_sum_assignment(graph.T, maximize=True)[1] for graph in graphs], dtype=np.int64)
    row = row.reshape(graphs.shape[:2])
    complete = np.take_along_axis(graphs, row[:, None, :], 1)[:, 0].all(1)
    return torch.from_numpy(row).to(allowed.device), torch.from_numpy(complete).to(allowed.device)

"""Trees of different sizes in one batch.

    w = padded(P, w, lengths)                     utilities in which the nodes from lengths on are padding
    z = softmax(P, w, ...)                        the tree on the first nodes, and the chain of the padding
    z = z * is_real(P, lengths)                   the tree alone

The padding nodes hang on one another in a chain behind the last real node, L-1 -> L -> L+1 -> ..., by arcs of utility
0; all other arcs to or from them are forbidden by -inf. So each tree on the L real nodes is one tree of P, of the same
utility: argmax, softmax and log-partition of the real nodes are those of the smaller polytope, projective or not, with
a single child of the root or several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

import cvxsst
from polytopes.arborescence import arborescence
from polytopes.projective_tree import projective_tree
from polytopes.spanning_tree import spanning_tree


def padded(P: cvxsst.Polytope, w: torch.Tensor, lengths: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """Utilities under which only the first ``lengths`` nodes of each instance are free.

    Args:
        P: a polytope of ``spanning_tree``, ``arborescence`` or ``projective_tree``.
        w: utilities ``(*batch, *P.shape)``; what stands at padding does not matter (NaN is fine).
        lengths: how many nodes are real, the root included, ``(*batch,)``, from 1 to n.

    Returns:
        ``(*batch, *P.shape)``, with gradients to the real entries of w.

    Raises:
        ValueError: another polytope, lengths of the wrong shape or out of range, a graph without the chain's edges.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import arborescence
        >>> from polytopes.padding import is_real, padded
        >>> P, lengths = arborescence(4), torch.tensor([4, 2])
        >>> z = cvxsst.softmax(P, padded(P, torch.zeros(2, 4, 4), lengths), cvxsst.ExponentialFamily())
        >>> (z * is_real(P, lengths))[1, 0]  # two nodes: the root and its child
        tensor([0., 1., 0., 0.])
    """
    tail, head, lengths = _arcs(P, w.device), _arcs(P, w.device, 1), _checked(P, w, lengths)
    lengths = lengths.reshape(*lengths.shape, *[1] * len(P.shape))
    real = _is_real(tail, head, lengths)
    chain = (head == tail + 1) | ((tail == head + 1) & (len(P.shape) == 1))  # an edge has no direction
    return torch.where(real, w, torch.where(chain, 0.0, -torch.inf).to(w))


def is_real(P: cvxsst.Polytope, lengths: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """``(*batch, *P.shape)``, bool: the arcs between real nodes."""
    lengths = torch.as_tensor(lengths)
    tail, head = _arcs(P, lengths.device), _arcs(P, lengths.device, 1)
    return _is_real(tail, head, lengths.reshape(*lengths.shape, *[1] * len(P.shape)))


def _is_real(tail: torch.Tensor, head: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return (tail < lengths) & (head < lengths)


def _arcs(P: cvxsst.Polytope, device: torch.device, end: int = 0) -> torch.Tensor:
    """The tail, or with ``end=1`` the head, of every entry of z."""
    if P.family not in (spanning_tree, arborescence, projective_tree):
        raise ValueError(f"P: {P!r} is no polytope of trees; use spanning_tree, arborescence or projective_tree")
    n, edges = P.arguments["n"], P.arguments.get("edges")
    if len(P.shape) == 2:
        return torch.arange(n, device=device)[:, None].expand(n, n) if end == 0 else torch.arange(n, device=device)
    ends = np.array(edges if edges is not None else np.stack(np.triu_indices(n, 1), 1)).reshape(-1, 2)
    return torch.from_numpy(ends[:, end].copy()).to(device)


def _checked(P: cvxsst.Polytope, w: torch.Tensor, lengths: torch.Tensor | Sequence[int]) -> torch.Tensor:
    batch, n = w.shape[: w.dim() - len(P.shape)], P.arguments["n"]
    lengths = torch.as_tensor(lengths, device=w.device)
    if lengths.shape != batch or lengths.is_floating_point():
        raise ValueError(f"lengths: expected integers of the batch shape {tuple(batch)}, got {tuple(lengths.shape)}")
    if bool(((lengths < 1) | (lengths > n)).any()):
        raise ValueError(f"lengths: from 1 to n={n}, got {lengths.min().item()} to {lengths.max().item()}")
    edges = P.arguments.get("edges")
    if edges is not None and len(lengths.flatten()):
        given = {tuple(sorted(edge)) for edge in edges}
        missing = [(j - 1, j) for j in range(int(lengths.min()), n) if (j - 1, j) not in given]
        if missing:
            raise ValueError(f"P: padding needs the edge {missing[0]} in the graph of {P!r}; add it")
    return lengths

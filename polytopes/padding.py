"""Structures of different sizes in one batch.

    w = padded(P, w, lengths)                     utilities in which what is from lengths on is padding
    z = softmax(P, w, ...)                        the structure on what is real, and one filling of the padding
    z = z * is_real(P, lengths)                   the structure alone

The smaller members of a family are faces of the larger ones: all entries that have to do with padding are forbidden by
-inf, but for those, of utility 0, that fill it up in one way. So each structure of size L is one structure of P, of the
same utility: argmax, softmax and log-partition of the real entries are those of the smaller polytope.

    ============================================  =============================================================
    subsets, also correlated ones; the simplex    what is padding is not chosen
    permutation matrices                          padding stays in its place
    paths                                         end at L - 1 and go on through the padding, node by node
    matchings                                     padding is paired off with its neighbour; lengths are even
    trees, projective or not                      padding hangs in a chain behind the last real node
    ============================================  =============================================================

Each page says for itself how it is padded: ``@family.padding``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

import cvxsst
from cvxsst.family import Padding
from cvxsst.recognition import knowledge_of


def padded(P: cvxsst.Polytope, w: torch.Tensor, lengths: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """Utilities under which only the first ``lengths`` nodes (or items) of each instance are free.

    Args:
        P: a polytope of a family that registers ``@family.padding``, as most of the zoo do.
        w: utilities ``(*batch, *P.shape)``; what stands at padding does not matter (NaN is fine).
        lengths: how many nodes are real, the root of a tree included, ``(*batch,)``, at most n.

    Returns:
        ``(*batch, *P.shape)``, with gradients to the real entries of w.

    Raises:
        ValueError: a polytope that cannot be padded, lengths of the wrong shape or out of range, a graph without the
            edges that join the padding.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import arborescence
        >>> from polytopes.padding import is_real, padded
        >>> P, lengths = arborescence(4), torch.tensor([4, 2])
        >>> z = cvxsst.softmax(P, padded(P, torch.zeros(2, 4, 4), lengths), cvxsst.ExponentialFamily())
        >>> (z * is_real(P, lengths))[1, 0]  # two nodes: the root and its child
        tensor([0., 1., 0., 0.])
    """
    padding = _padding(P)
    batch = w.shape[: w.dim() - len(P.shape)]
    lengths = torch.as_tensor(lengths, device=w.device)
    if lengths.shape != batch or lengths.is_floating_point():
        raise ValueError(f"lengths: expected integers of the batch shape {tuple(batch)}, got {tuple(lengths.shape)}")
    _check_lengths(padding, lengths)
    filling = torch.where(padding.free.to(w.device), 0.0, -torch.inf).to(w)
    return torch.where(_is_real(padding, P, lengths), w, filling)


def is_real(P: cvxsst.Polytope, lengths: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """``(*batch, *P.shape)``, bool: the entries without padding, for lengths ``(*batch,)``."""
    return _is_real(_padding(P), P, torch.as_tensor(lengths))


def _is_real(padding: Padding, P: cvxsst.Polytope, lengths: torch.Tensor) -> torch.Tensor:
    """``(*batch, *P.shape)``, bool, for lengths ``(*batch,)``."""
    return padding.last.to(lengths.device) < lengths.reshape(*lengths.shape, *[1] * len(P.shape))


def _padding(P: cvxsst.Polytope) -> Padding:
    knowledge = knowledge_of(P)
    padding = None if knowledge is None else knowledge.padding
    if padding is None:
        raise ValueError(
            f"P: {P!r} does not say how to pad it; take a polytope of the zoo, or register @family.padding"
        )
    return padding


def _check_lengths(padding: Padding, lengths: torch.Tensor) -> None:
    """Raise unless all of lengths ``(*batch,)`` are among those that the family's members have."""
    able = padding.lengths
    wrong = sorted(set(lengths.flatten().tolist()) - set(able))
    if wrong:
        step = "" if able.step == 1 else f" in steps of {able.step}"
        why = f" ({padding.why})" if padding.why else ""
        raise ValueError(f"lengths: from {able[0]} to n={able[-1]}{step}{why}, got {cvxsst.errors.some(wrong)}")

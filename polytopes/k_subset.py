"""Choose exactly k of n.

    Z = {z in {0, 1}^n : sum z = k},    conv Z = {0 <= z <= 1, sum z = k}

*Why.* The matrix of the constraints has consecutive ones in each row, an interval matrix: it is totally unimodular, so
all vertices are integral (Hoffman and Kruskal 1956).

    argmax               the k largest utilities, O(n + k log k)
    Euclidean            z = clamp(u - tau, 0, 1), tau by Newton's method, then exact, O(n) a step
    CategoricalEntropy   z = min(1, exp(u - tau)), tau exact by sorting, O(n log n)
    BinaryEntropy        z = sigmoid(u - tau), tau by Newton's method, O(n) a step (Amos, Koltun and Kolter 2019)
    ExponentialFamily    z = E[z], p(z) ~ exp <u, z>: independent choices given their number, O(n sqrt(min(k, n - k)))
    sample               backward through a dynamic program over (item, how many so far), O(nk)

The last two softmaxes are different maps: given tau, the choices of the first are not conditioned on their number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import torch

from cvxsst import BinaryEntropy, CategoricalEntropy, Euclidean, ExponentialFamily, polytope
from cvxsst.family import Padding
from cvxsst.geometry.canonical import StandardForm
from polytopes import _counting, _threshold
from polytopes._arguments import require_size
from polytopes._programs import IMPOSSIBLE, Reduce, drawn, drawn_structures, without_replacement


@polytope(examples=[(5, 2), (4, 0), (3, 3)])
def k_subset(n: int, k: int):
    """The hypersimplex: the indicator vectors of the subsets of k out of n items.

    Args:
        n: how many items, at least 1.
        k: how many are chosen, 0 <= k <= n.

    Shape ``(n,)``. With ``Gumbel(theta, 1)`` utilities the argmax samples k items without replacement, with weights
    exp(theta).

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import k_subset
        >>> cvxsst.argmax(k_subset(4, 2), torch.tensor([0.1, 3.0, -1.0, 2.0]))
        tensor([0., 1., 0., 1.])
    """
    require_size("n", n, 1)
    require_size("k", k, 0, n, f": only n={n} items are there")
    z = cp.Variable(n)
    return z, [z >= 0, z <= 1, cp.sum(z) == k]


@k_subset.structures
def subsets(n: int, k: int) -> Iterator[np.ndarray]:
    for chosen in itertools.combinations(range(n), k):
        z = np.zeros(n)
        z[list(chosen)] = 1
        yield z


@k_subset.argmax
def top_k(w: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """``(*batch, n)`` to zeros and ones."""
    return torch.zeros_like(w).scatter(-1, w.topk(k, dim=-1).indices, 1.0)


@k_subset.softmax(Euclidean)
def capped_projection(u: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return _threshold.euclidean(u, k)


@k_subset.softmax(CategoricalEntropy)
def capped_softmax(u: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return _threshold.categorical(u, k)


@k_subset.softmax(BinaryEntropy)
def budgeted_sigmoid(u: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return _threshold.binary(u, k)


@k_subset.once
def angles(n: int, k: int) -> _counting.Angles | None:
    return _counting.Angles.of(n, k) if 0 < k < n else None


@k_subset.softmax(ExponentialFamily)
def inclusion_probabilities(u: torch.Tensor, n: int, k: int, angles: _counting.Angles | None) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return _threshold.binary(u, k) if angles is None else _counting.softmax(u.double(), k, angles).to(u.dtype)


@k_subset.log_partition
def log_elementary_symmetric(u: torch.Tensor, n: int, k: int, angles: _counting.Angles | None) -> torch.Tensor:
    """A(u) = log e_k(exp u), the elementary symmetric polynomial of degree k; ``(*batch, n)`` to ``(*batch,)``."""
    if angles is None:
        return u.sum(-1) if k else torch.zeros_like(u.sum(-1))
    return _counting.log_partition(u.double(), k, angles).to(u.dtype)


@k_subset.sample
def drawn_subsets(u: torch.Tensor, samples: int, n: int, k: int) -> torch.Tensor:
    """``(*batch, n)`` to ``(samples, *batch, n)``, O(nk) a sample."""
    return drawn_structures(lambda v: by_count(v, n, k, drawn), u, samples)


def by_count(u: torch.Tensor, n: int, k: int, reduce: Reduce) -> torch.Tensor:
    """The sum (in the sense of ``reduce``) of <u, z> over Z, ``(*batch, n)`` to ``(*batch,)``: with a[c] the sum over
    the choices of c of the first i items, a'[c] = a[c] + u_i a[c - 1]."""
    none = u.new_full((*u.shape[:-1], 1), IMPOSSIBLE)
    a = torch.cat([torch.zeros_like(none), none.expand(*none.shape[:-1], k)], -1)
    for i in range(n):
        taken = torch.cat([none, a[..., :-1] + u[..., i, None]], -1)
        a = reduce(torch.stack([a, taken], -1), -1)
    return a[..., k]


@k_subset.trace
def traced(u: torch.Tensor, samples: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sampling without replacement; ``(*batch, n)`` to ``(samples, *batch, n)`` and ``(samples, *batch)``."""
    return without_replacement(u, samples, k)


@k_subset.padding
def not_chosen(n: int, k: int) -> Padding:
    return Padding(torch.arange(n), torch.zeros(n, dtype=torch.bool), range(max(k, 1), n + 1), f"k={k} are chosen")


@k_subset.guess
def by_sum(shape: tuple[int, ...], form: StandardForm) -> Iterator[tuple[int, int]]:
    """k = b / a where the only equality is a sum z = b."""
    if len(shape) == 1 and form.A.shape == (1, shape[0]):
        k = round(form.b[0] / form.A.toarray()[0, 0]) if form.A.toarray()[0, 0] else 0
        if 1 < k < shape[0]:
            yield shape[0], k

"""Choose one of n.

    Z = {e_1, ..., e_n},    conv Z = {z >= 0, sum z = 1}

*Why.* A point z of the right-hand side is the convex combination sum_i z_i e_i of unit vectors.

    argmax               the largest utility, O(n)
    Euclidean            sparsemax, z = max(u - tau, 0) with sum z = 1, by sorting, O(n log n)
    CategoricalEntropy   z = softmax(u): with Gumbel utilities the Gumbel-softmax
    BinaryEntropy        z = sigmoid(u - tau) with sum z = 1
    ExponentialFamily    z = softmax(u), A = log sum exp u
    sample               the largest of u + Gumbel noise, O(n)

References: Martins and Astudillo 2016 (sparsemax); Jang et al. 2017, Maddison et al. 2017 (Gumbel-softmax).
"""

from __future__ import annotations

from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import torch

from cvxsst import BinaryEntropy, CategoricalEntropy, Euclidean, ExponentialFamily, polytope
from cvxsst.family import Padding
from cvxsst.geometry.canonical import StandardForm
from polytopes import _threshold
from polytopes._arguments import require_size
from polytopes._programs import choice, without_replacement


@polytope(examples=[(4,), (1,)])
def simplex(n: int):
    """The probability simplex: the one-hot vectors of length n.

    Args:
        n: how many alternatives, at least 1.

    Shape ``(n,)``. With ``Gumbel(theta, 1)`` utilities the argmax is a categorical sample with logits theta.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> cvxsst.argmax(simplex(3), torch.tensor([0.1, 2.0, -1.0]))
        tensor([0., 1., 0.])
    """
    require_size("n", n, 1)
    z = cp.Variable(n)
    return z, [z >= 0, cp.sum(z) == 1]


@simplex.structures
def one_hots(n: int) -> Iterator[np.ndarray]:
    yield from np.eye(n)


@simplex.argmax
def largest(w: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to one-hot vectors."""
    return torch.nn.functional.one_hot(w.argmax(-1), n).to(w)


@simplex.softmax(Euclidean)
def sparsemax(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return _threshold.euclidean(u, 1)


@simplex.softmax(CategoricalEntropy, ExponentialFamily)
def softmax(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return u.softmax(-1)


@simplex.softmax(BinaryEntropy)
def sigmoids(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return _threshold.binary(u, 1)


@simplex.log_partition
def log_sum_exp(u: torch.Tensor, n: int) -> torch.Tensor:
    """A(u), ``(*batch, n)`` to ``(*batch,)``."""
    return u.logsumexp(-1)


@simplex.sample
def categorical(u: torch.Tensor, samples: int, n: int) -> torch.Tensor:
    """``(*batch, n)`` to ``(samples, *batch, n)``."""
    return torch.nn.functional.one_hot(choice(u.expand(samples, *u.shape), -1), n).to(u)


@simplex.trace
def traced(u: torch.Tensor, samples: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One choice; ``(*batch, n)`` to ``(samples, *batch, n)`` and ``(samples, *batch)``."""
    return without_replacement(u, samples, 1)


@simplex.padding
def not_chosen(n: int) -> Padding:
    return Padding(torch.arange(n), torch.zeros(n, dtype=torch.bool), range(1, n + 1))


@simplex.guess
def by_sum(shape: tuple[int, ...], form: StandardForm) -> Iterator[tuple[int]]:
    if len(shape) == 1 and form.A.shape[0] == 1:
        yield shape

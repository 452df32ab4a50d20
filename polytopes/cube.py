"""Choose any of n, each on its own.

    Z = {0, 1}^n,    conv Z = {0 <= z <= 1}

*Why.* The hull of a product is the product of the hulls, and conv {0, 1} = [0, 1].

    argmax               z_i = 1 where w_i > 0, O(n)
    Euclidean            z = clamp(u, 0, 1)
    CategoricalEntropy   z = min(1, exp(u - 1))
    BinaryEntropy        z = sigmoid(u): with Logistic utilities the binary Concrete law (Maddison et al. 2017)
    ExponentialFamily    z = sigmoid(u), A = sum log(1 + exp u)
    sample               a coin for each entry, O(n)
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
from polytopes._arguments import require_size


@polytope(examples=[(4,), (1,)])
def cube(n: int):
    """The unit cube: the binary vectors of length n.

    Args:
        n: how many entries, at least 1.

    Shape ``(n,)``. A utility of exactly 0 is a tie; the entry is 0.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import cube
        >>> cvxsst.argmax(cube(3), torch.tensor([0.1, -2.0, 1.0]))
        tensor([1., 0., 1.])
    """
    require_size("n", n, 1)
    z = cp.Variable(n)
    return z, [z >= 0, z <= 1]


@cube.structures
def binary_vectors(n: int) -> Iterator[np.ndarray]:
    for bits in itertools.product((0.0, 1.0), repeat=n):
        yield np.array(bits)


@cube.argmax
def positive(w: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to zeros and ones."""
    return (w > 0).to(w)


@cube.softmax(Euclidean)
def clamp(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return u.clamp(0.0, 1.0)


@cube.softmax(CategoricalEntropy)
def exponentials(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return (u - 1).clamp_max(0.0).exp()


@cube.softmax(BinaryEntropy, ExponentialFamily)
def sigmoid(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    return u.sigmoid()


@cube.log_partition
def independent(u: torch.Tensor, n: int) -> torch.Tensor:
    """A(u), ``(*batch, n)`` to ``(*batch,)``."""
    return -torch.nn.functional.logsigmoid(-u).sum(-1)


@cube.sample
def coins(u: torch.Tensor, samples: int, n: int) -> torch.Tensor:
    """``(*batch, n)`` to ``(samples, *batch, n)``."""
    return torch.bernoulli(u.sigmoid().expand(samples, *u.shape))


@cube.padding
def not_chosen(n: int) -> Padding:
    return Padding(torch.arange(n), torch.zeros(n, dtype=torch.bool), range(1, n + 1))


@cube.guess
def without_equalities(shape: tuple[int, ...], form: StandardForm) -> Iterator[tuple[int]]:
    if len(shape) == 1 and not form.A.shape[0]:
        yield shape

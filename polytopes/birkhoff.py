"""Put n things in order: permutation matrices, the perfect matchings of a bipartite graph.

    Z = {permutation matrices},    conv Z = {z >= 0, rows and columns sum to 1}: the doubly stochastic matrices

*Why.* Birkhoff 1946, von Neumann 1953; the constraint matrix is the incidence matrix of a bipartite graph, hence
totally unimodular.

    argmax              the assignment problem, by the Hungarian method (scipy), O(n^3) per instance
    Euclidean           z = max(u - a 1' - 1 b', 0): Newton on the dual, O(n^3) a step, see ``_projection``
    CategoricalEntropy  z = exp(u - a 1' - 1 b'): Sinkhorn's sweeps, O(n^2) each, finished by Newton on the dual b
    BinaryEntropy       z = sigmoid(u - a 1' - 1 b'): as the first

Newton's steps and the derivative are O(n^3), see ``_transport``; what -inf leaves without a permutation is found by
``_support``. Sweeps alone end at a gradient that is wrong: at
T = 0.05 twenty thousand leave marginals off by 5e-5 and the gradient by up to a third.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from cvxsst import BinaryEntropy, CategoricalEntropy, Euclidean, polytope
from cvxsst.family import Padding
from cvxsst.geometry.canonical import StandardForm
from cvxsst.values import holds
from polytopes import _projection
from polytopes._arguments import require_size
from polytopes._transport import softmax

MARGINAL = 1e-12  # column sums of the unrolled sweeps, which leave the rows exact
MOST_SWEEPS = 1000  # unrolled; at T = 1 some 50 will do


@polytope(examples=[(3,), (1,), (4,)])
def birkhoff(n: int):
    """The Birkhoff polytope: the permutation matrices of order n.

    Args:
        n: the order, at least 1.

    Shape ``(n, n)``: z[i, j] = 1 where i is put in place j.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import birkhoff
        >>> cvxsst.argmax(birkhoff(2), torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    require_size("n", n, 1)
    z = cp.Variable((n, n))
    return z, [z >= 0, cp.sum(z, axis=0) == 1, cp.sum(z, axis=1) == 1]


@birkhoff.structures
def permutation_matrices(n: int) -> Iterator[np.ndarray]:
    for places in itertools.permutations(range(n)):
        yield np.eye(n)[list(places)]


@birkhoff.argmax
def assignment(w: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n, n)`` to permutation matrices."""
    flat = w.reshape(-1, n, n).cpu().numpy()
    z = np.zeros_like(flat)
    for instance, utilities in zip(z, flat, strict=True):
        instance[linear_sum_assignment(utilities, maximize=True)] = 1
    return torch.from_numpy(z).reshape(w.shape).to(w)


@birkhoff.softmax(Euclidean)
def nearest(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n, n)`` to the same."""
    return _projection.euclidean(u.double().reshape(-1, n, n)).reshape(u.shape).to(u)


@birkhoff.softmax(BinaryEntropy)
def two_sided(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n, n)`` to the same."""
    return _projection.binary(u.double().reshape(-1, n, n)).reshape(u.shape).to(u)


@birkhoff.softmax(CategoricalEntropy)
def sinkhorn(u: torch.Tensor, n: int, *, unroll: bool = False) -> torch.Tensor:
    """``(*batch, n, n)`` to the same.

    ``unroll``: Sinkhorn's sweeps alone, with autograd through each, NaN where they are too slow: for teaching.
    """
    v = u.double().reshape(-1, n, n)
    z = _sweeps(v) if unroll else softmax(v)
    return z.reshape(u.shape).to(u)


def _sweeps(u: torch.Tensor) -> torch.Tensor:
    """exp(u - a 1' - 1 b') for u ``(B, n, n)``: a makes the rows sum to 1, b the columns, in turns, until both hold."""
    b = torch.zeros_like(u[:, 0])
    for sweep in range(MOST_SWEEPS + 1):
        a = torch.logsumexp(u - b[:, None, :], 2)
        z = torch.exp(u - a[:, :, None] - b[:, None, :])
        late = ~((z.sum(1) - 1).abs() <= MARGINAL).all(1)
        if sweep == MOST_SWEEPS or (sweep % 10 == 0 and not holds(late)):
            break
        b = torch.logsumexp(u - a[:, :, None], 1)
    return torch.where(late[:, None, None], torch.nan, z)


@birkhoff.padding
def in_its_place(n: int) -> Padding:
    i = torch.arange(n)
    return Padding(torch.maximum(i[:, None], i), torch.eye(n, dtype=torch.bool), range(1, n + 1))


@birkhoff.guess
def square(shape: tuple[int, ...], form: StandardForm) -> Iterator[tuple[int]]:
    if len(shape) == 2 and shape[0] == shape[1] and form.A.shape[0] == 2 * shape[0] - 1:
        yield (shape[0],)

"""Rank n things: the vectors that are permutations of 1, ..., n.

    Z = {permutations of (1, ..., n)},    conv Z = {z = X (1, ..., n)' : X doubly stochastic}

*Why.* A linear map takes hulls to hulls, conv {X (1..n)'} = {conv X} (1..n)'; and the hull of the permutation matrices
are the doubly stochastic ones (Birkhoff 1946). Rado 1952 gives the same set by 2^n - 1 inequalities in z alone, sum
over S of z_i <= n + (n - 1) + ... (|S| terms); the n^2 lifted columns are fewer.

    argmax              sorting: the largest utility gets n, O(n log n) (rearrangement inequality)
    Euclidean           z = u - v
    CategoricalEntropy  z = exp(u - v)

v is constant on blocks of neighbours in the order of u, by isotonic regression (Blondel, Teboul, Berthet and Djolonga
2020). With rho = (n, ..., 1) and u in descending order, over a block B in which z has to sum to the sum of rho

    v = mean_B u - mean_B rho        or, entropic,        v = log sum_B exp u - log sum_B rho

and v may not increase from a block to the next. Pool adjacent violators: start from blocks of one; neighbours that
violate the order are in one block of the solution, so all of them, in all instances, are joined at once. A few rounds
of O(n) as a rule, n at worst. With H = 1 (Euclidean) or z (entropic)

    (dz/du) g = H (g - sum_B H g / sum_B H)        on each block
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import torch

from cvxsst import CategoricalEntropy, Euclidean, polytope
from cvxsst.autograd import without_derivative
from cvxsst.family import Padding
from cvxsst.geometry.canonical import StandardForm
from cvxsst.values import holds
from polytopes._arguments import require_size


@polytope(examples=[(3,), (1,), (4,)])
def permutahedron(n: int):
    """The permutahedron: the rank vectors of n things.

    Args:
        n: how many things, at least 1.

    Shape ``(n,)``: z[i] is the rank of i, the largest utility has rank n; of equal ones the later has the higher rank.
    n^2 lifted columns. Entries range from 1 to n, so ``BinaryEntropy`` is not defined here and -inf forbids nothing.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import permutahedron
        >>> cvxsst.argmax(permutahedron(3), torch.tensor([0.3, -1.0, 5.0]))
        tensor([2., 1., 3.])
    """
    require_size("n", n, 1)
    z, X = cp.Variable(n), cp.Variable((n, n), nonneg=True)
    return z, [z == X @ np.arange(1.0, n + 1), cp.sum(X, axis=0) == 1, cp.sum(X, axis=1) == 1]


@permutahedron.structures
def permutations(n: int) -> Iterator[np.ndarray]:
    for ranks in itertools.permutations(range(1, n + 1)):
        yield np.array(ranks, dtype=float)


@permutahedron.argmax
def ranks(w: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to the ranks."""
    order = torch.argsort(w, dim=-1, stable=True)
    return torch.empty_like(w).scatter_(-1, order, torch.arange(1, n + 1).to(w).expand_as(w))


@permutahedron.softmax(Euclidean)
def projection(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    s, order, block, rho = _in_blocks(u, n, entropic=False)
    top = _first(s, block)
    z = (s - top) - _mean(s - top, block) + _mean(rho.expand_as(s), block)
    return _in_place(z, order, u)


@permutahedron.softmax(CategoricalEntropy)
def scaling(u: torch.Tensor, n: int) -> torch.Tensor:
    """``(*batch, n)`` to the same."""
    s, order, block, rho = _in_blocks(u, n, entropic=True)
    e = torch.exp(s - _first(s, block).detach())
    z = e / _sum(e, block) * _sum(rho.expand_as(s), block)
    return _in_place(z, order, u)


def _in_blocks(u: torch.Tensor, n: int, entropic: bool) -> tuple[torch.Tensor, ...]:
    """u ``(*batch, n)`` in descending order ``(B, n)``, that order, each entry's block, by the position of its first
    entry, and rho ``(n,)``."""
    s, order = u.double().reshape(-1, n).sort(dim=-1, descending=True, stable=True)
    return s, order, without_derivative(_blocks, s, entropic), torch.arange(n, 0, -1, device=u.device).to(s)


def _in_place(z: torch.Tensor, order: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """z ``(B, n)`` back in the order and shape of u ``(*batch, n)``; NaN where u holds -inf: no rank is 0."""
    z = z.gather(-1, order.argsort(-1)).reshape(u.shape)
    return torch.where((u == -torch.inf).any(-1, keepdim=True), torch.nan, z).to(u)


def _sum(x: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """For each entry the sum over its block; x, block ``(B, n)``."""
    return torch.zeros_like(x).scatter_add(-1, block, x).gather(-1, block)


def _mean(x: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """For each entry the mean over its block; x, block ``(B, n)``."""
    return _sum(x, block) / _sum(torch.ones_like(x), block)


def _first(s: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """For each entry the first of its block, which is the largest; s, block ``(B, n)``."""
    return s.gather(-1, block)


def _blocks(s: torch.Tensor, entropic: bool) -> torch.Tensor:
    """For s ``(B, n)``, descending, the blocks of equal v: for each entry the position of its block's first."""
    position = torch.arange(s.shape[-1], device=s.device).expand(s.shape)
    rho, block = (s.shape[-1] - position).to(s), position
    while True:
        top = _first(s, block)
        if entropic:
            inner, target = torch.log(_sum(torch.exp(s - top), block)), torch.log(_sum(rho, block))
        else:
            inner, target = _mean(s - top, block), _mean(rho, block)
        rise = (top + inner).diff(dim=-1) - target.diff(dim=-1)  # of v; u may be large: its differences first
        starts = block[:, 1:] == position[:, 1:]
        joined = starts & (rise > 0)
        if not holds(joined):
            return block.clone()
        first = torch.where(starts & ~joined, position[:, 1:], 0)
        block = torch.nn.functional.pad(first, (1, 0)).cummax(-1).values


@permutahedron.facets
def best_ranks(z: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """sum over S of z_i <= n + (n - 1) + ... (|S| terms), |S| < n, for a most violated S (Rado 1952): of those of one
    size it is the largest entries. ``(B, n)`` to ``(B, K, n)`` and ``(B, K)``."""
    if n < 2:
        return z.new_zeros(len(z), 0, n), z.new_zeros(len(z), 0)
    order = z.argsort(dim=1, descending=True)
    most = torch.arange(n, 0, -1, device=z.device).to(z).cumsum(0)
    size = (z.gather(1, order).cumsum(1) - most)[:, :-1].argmax(1)
    chosen = torch.arange(n, device=z.device) <= size[:, None]
    return torch.zeros_like(z).scatter(1, order, chosen.to(z))[:, None], most[size][:, None]


@permutahedron.padding
def ranks_are_never_0(n: int) -> Padding:
    raise ValueError(
        f"P: permutahedron({n}) cannot be padded: -inf forbids an entry by z = 0 there, and a rank is never 0; take "
        "birkhoff, whose z @ (1, ..., n) are the ranks"
    )


@permutahedron.guess
def with_matrix(shape: tuple[int, ...], form: StandardForm) -> Iterator[tuple[int]]:
    if len(shape) == 1 and form.lifted == shape[0] ** 2:
        yield shape

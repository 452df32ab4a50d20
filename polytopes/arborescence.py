"""Give every node but the root a head: the arborescences, non-projective dependency trees.

    Z = {z in {0, 1}^(n x n) : z[i, j] = 1 where i is the head of j; every j != 0 has one head and is reached from 0}

*The hull.* Each node j != 0 has one head, and every set of nodes without the root has an arc into it (Edmonds 1967:
these inequalities describe the hull). By max-flow min-cut that is: for each k a unit flow from 0 to k fits below z.

    conv Z = {z >= 0 : sum_i z[i, j] = 1 for j != 0,  z[., 0] = 0,  z[j, j] = 0,  unit flows f^k from 0 to k, f^k <= z}

With a single child of the root, sum_j z[0, j] = 1: that is a face of the hull, since every point has at least 1 there.
A large enough malus on all arcs out of the root selects this face.

    argmax              Chu and Liu 1965, Edmonds 1967: best heads, contract the cycles, again; all instances at once.
                        O(n^2) per round of contractions, seldom more than a few rounds, at most n - 1
    ExponentialFamily   z = E[z], p(z) ~ exp <u, z>: the directed matrix-tree theorem (Tutte 1948; Koo et al. 2007),
                        O(n^3)
    sample              the elimination of the matrix-tree theorem in reverse, O(n^2 log n) after O(n^3)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch

from cvxsst import ExponentialFamily, polytope
from cvxsst.family import Padding
from cvxsst.values import holds
from polytopes import _cuts, _laplacian
from polytopes._arguments import require_flag, require_size
from polytopes._programs import finite, possible
from polytopes.spanning_tree import unit_flows


@polytope(examples=[(4,), (1,), (3,), (4, True)])
def arborescence(n: int, single_child: bool = False):
    """The arborescences on n nodes rooted at node 0.

    Args:
        n: how many nodes, the root included, at least 1.
        single_child: whether the root has exactly one child (if n > 1), as in dependency trees with one root word.

    Shape ``(n, n)``: z[i, j] = 1 where i is the head of j; column 0 and the diagonal are 0, whatever their utilities.
    The hull has about n^3 lifted columns.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import arborescence
        >>> w = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 5.0], [0.0, 6.0, 0.0]])  # 1 and 2 want each other
        >>> cvxsst.argmax(arborescence(3), w)
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [0., 0., 0.]])
    """
    require_size("n", n, 1)
    require_flag("single_child", single_child)
    z = cp.Variable((n, n))
    no_arc = np.eye(n)
    no_arc[:, 0] = 1
    constraints = [z >= 0, cp.multiply(no_arc, z) == 0]
    if n == 1:
        return z, constraints
    arcs = np.argwhere(no_arc == 0)
    capacity = _entries(arcs, n) @ cp.vec(z, order="C")
    flows = cp.Variable((n - 1, len(arcs)), nonneg=True)
    constraints += [cp.sum(z, axis=0)[1:] == 1, *unit_flows(flows, capacity, arcs, n)]
    return z, constraints + ([cp.sum(z[0]) == 1] if single_child else [])


def _entries(arcs: np.ndarray, n: int) -> sp.csr_array:
    """The matrix that picks z[i, j] for each arc (i, j) out of z row by row."""
    return sp.csr_array((np.ones(len(arcs)), (np.arange(len(arcs)), arcs[:, 0] * n + arcs[:, 1])), (len(arcs), n * n))


@arborescence.structures
def arborescences(n: int, single_child: bool = False) -> Iterator[np.ndarray]:
    """All choices of heads from which following the heads leads to the root."""
    for heads in itertools.product(range(n), repeat=n - 1):
        if reaches_root(heads) and (not single_child or heads.count(0) <= 1):
            yield as_matrix(heads)


def reaches_root(heads: tuple[int, ...]) -> bool:
    """Whether from every node 1, 2, ... the heads lead to 0; ``heads[j - 1]`` is the head of j."""
    for start in range(1, len(heads) + 1):
        node = start
        for _ in range(len(heads)):
            node = heads[node - 1] if node else 0
        if node:
            return False
    return True


def as_matrix(heads: tuple[int, ...]) -> np.ndarray:
    n = len(heads) + 1
    z = np.zeros((n, n))
    z[list(heads), range(1, n)] = 1
    return z


class Level(NamedTuple):
    """One round of contractions, for all instances: what is needed to undo it.

    ``head`` (B, n): the best head of each node, itself for the root and for nodes that an earlier round absorbed.
    ``on_cycle`` (B, n): whether the node lies on a cycle of heads. ``representative`` (B, n): the node that stands for
    it in the next round. ``tail_of``, ``head_of`` (B, n, n): the arc (tail, head) that entry [a, b] of the next round's
    weights stands for.
    """

    head: torch.Tensor
    on_cycle: torch.Tensor
    representative: torch.Tensor
    tail_of: torch.Tensor
    head_of: torch.Tensor


def root_malus(u: torch.Tensor) -> torch.Tensor:
    """A malus ``(*batch, 1, 1)`` for the arcs out of the root, by which every tree with more than one of them loses.

    Another head for all children of the root but one costs at most the spread of u for each. So a malus beyond that
    outweighs it, by e^50 in weight. Where -inf forbids other heads, beyond all that a tree can gain.
    """
    u, n = u.double(), u.shape[-1]
    root = torch.arange(n, device=u.device)[:, None] == 0
    no_arc = torch.eye(n, dtype=torch.bool, device=u.device) | root.mT
    u = u.detach().masked_fill(no_arc, 0.0)
    forbidden = u == -torch.inf
    spread = u.masked_fill(~root, -torch.inf).amax((-2, -1)) - u.masked_fill(root, torch.inf).amin((-2, -1))
    largest = u.masked_fill(forbidden, 0.0).abs().amax((-2, -1))
    some = forbidden.flatten(-2).any(-1)
    malus = 50 + torch.where(some, 2 * n * (largest + math.log(n)), spread.clamp_min(0.0) + math.log(n))
    return malus[..., None, None] * root


@arborescence.argmax
def best_arborescence(w: torch.Tensor, n: int, single_child: bool = False) -> torch.Tensor:
    """``(*batch, n, n)`` to zeros and ones."""
    return chu_liu_edmonds(w - root_malus(w) if single_child and w.numel() else w, n)


def chu_liu_edmonds(w: torch.Tensor, n: int) -> torch.Tensor:
    """Contract cycles of best heads until none is left, then expand them in reverse order; ``(*batch, n, n)`` to zeros
    and ones.

    Entering a cycle at j costs the arc that j had on it, so in the contracted graph an arc (i, cycle) weighs
    max over j on the cycle of w[i, j] - w[head of j, j].
    """
    weight = w.reshape(-1, n, n).masked_fill(torch.eye(n, dtype=torch.bool, device=w.device), -torch.inf)
    weight[:, :, 0] = -torch.inf
    alive = torch.ones(weight.shape[:2], dtype=torch.bool, device=w.device)
    levels: list[Level] = []
    while True:
        head = _best_heads(weight, alive)
        on_cycle, representative = _cycles(head)
        if not holds(on_cycle):
            break
        weight, tail_of, head_of = _contract(weight, head, on_cycle, representative)
        levels.append(Level(head, on_cycle, representative, tail_of, head_of))
        alive = alive & (representative == torch.arange(n, device=w.device))
    for level in reversed(levels):
        head, alive = _expand(head, alive, level)
    z = torch.zeros_like(weight).scatter_(1, head[:, None, :], 1.0)
    z[:, :, 0] = 0
    return z.reshape(w.shape)


def _best_heads(weight: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
    """``(B, n)``, for weights ``(B, n, n)`` and the nodes that are alive ``(B, n)``."""
    node = torch.arange(weight.shape[1], device=weight.device).expand(weight.shape[:2])
    return torch.where(alive & (node > 0), weight.argmax(1), node)


def _cycles(head: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which nodes lie on a cycle of heads, and the smallest node of their cycle (else the node itself), all ``(B, n)``.

    Following n or more heads from anywhere ends on a cycle (the root is a loop), and covers every node of it.
    """
    n = head.shape[1]
    node = torch.arange(n, device=head.device).expand_as(head)
    far, smallest = head, node
    for _ in range(max(1, n.bit_length())):
        smallest = torch.minimum(smallest, smallest.gather(1, far))
        far = far.gather(1, far)
    covered = torch.zeros_like(head, dtype=torch.bool).scatter_(1, far, True)
    on_cycle = covered & (head != node)
    return on_cycle, torch.where(on_cycle, smallest, node)


def _contract(
    weight: torch.Tensor, head: torch.Tensor, on_cycle: torch.Tensor, representative: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights between representatives, and the tail and the head of the arc each of them stands for, ``(B, n, n)``, for
    weights of that shape and the others ``(B, n)``."""
    kept = weight.gather(1, head[:, None, :]).masked_fill(~on_cycle[:, None, :], 0.0)
    same = representative[:, :, None] == representative[:, None, :]
    entering = (weight - kept).masked_fill(same, -torch.inf)
    by_column, head_of = _group_maximum(entering, representative)
    by_row, tail_of = _group_maximum(by_column.mT, representative)
    tail_of = tail_of.mT
    return by_row.mT, tail_of, head_of.gather(1, tail_of)


def _group_maximum(x: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Over the last dimension of x ``(B, n, n)``: at [., g] the maximum over the members of group g ``(B, n)``, and its
    position."""
    n = x.shape[-1]
    where = group[:, None, :].expand_as(x)
    largest = torch.full_like(x, -torch.inf).scatter_reduce(2, where, x, "amax")
    position = torch.arange(n, device=x.device).expand_as(x)
    candidates = torch.where(x == largest.gather(2, where), position, n)
    first = torch.full_like(position, n).scatter_reduce(2, where, candidates, "amin")
    return largest, first.clamp_max(n - 1)


def _expand(head: torch.Tensor, alive: torch.Tensor, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads, and who was alive, before the contraction, all ``(B, n)``: the heads of the contracted graph where they
    enter, the cycle's own elsewhere."""
    n = head.shape[1]
    node = torch.arange(n, device=head.device).expand_as(head)
    tail = level.tail_of.gather(1, head[:, None, :])[:, 0]  # entry [head of b, b], for every b
    entered = level.head_of.gather(1, head[:, None, :])[:, 0]
    expanded = level.head.clone()
    has_head = alive & (node > 0)
    # What is not alive writes its own entry once more, so that it overwrites nothing.
    spare = torch.where(has_head, entered, 0)
    value = torch.where(has_head, tail, level.head[:, :1])
    expanded = expanded.scatter(1, spare, value)
    before = alive | level.on_cycle
    return expanded, before


@arborescence.softmax(ExponentialFamily)
def arc_probabilities(u: torch.Tensor, n: int, single_child: bool = False) -> torch.Tensor:
    """``(*batch, n, n)`` to the same."""
    if not single_child or not u.numel():
        return _laplacian.softmax(finite(u)).to(u.dtype)
    z = _laplacian.softmax(finite(u - root_malus(u))).to(u.dtype)
    return z.where(has_one_child(z), torch.nan)


@arborescence.sample
def drawn_arborescences(u: torch.Tensor, samples: int, n: int, single_child: bool = False) -> torch.Tensor:
    """``(*batch, n, n)`` to ``(samples, *batch, n, n)``."""
    lowered = finite(u - root_malus(u) if single_child and u.numel() else u).reshape(-1, n, n)
    head = _laplacian.sample(lowered, samples)
    z = torch.zeros(samples, *lowered.shape, dtype=lowered.dtype, device=u.device).scatter(2, head[:, :, None], 1.0)
    z[..., 0] = 0
    return z.reshape(samples, *u.shape)


def has_one_child(z: torch.Tensor) -> torch.Tensor:
    """Whether -inf leaves a tree with one child of the root, ``(*batch, 1, 1)`` for z ``(*batch, n, n)``: else the
    malus is paid more than once."""
    return z.detach()[..., :1, :].sum(-1, keepdim=True) < 1.5


@arborescence.log_partition
def matrix_tree(u: torch.Tensor, n: int, single_child: bool = False) -> torch.Tensor:
    """A(u): log of the sum over all arborescences of exp <u, z>, ``(*batch, n, n)`` to ``(*batch,)``."""
    if not single_child or not u.numel() or n == 1:
        return possible(_laplacian.log_partition(finite(u))).to(u.dtype)
    malus = root_malus(u)
    A = possible(_laplacian.log_partition(finite(u - malus))) + malus[..., 0, 0]
    return A.where(has_one_child(_laplacian.softmax(finite(u.detach() - malus)))[..., 0, 0], -torch.inf).to(u.dtype)


@arborescence.facets
def all_arcs_within(n: int, single_child: bool = False) -> tuple[torch.Tensor, torch.Tensor] | None:
    """z(arcs inside S) <= |S| - 1 for all S without the root (Edmonds 1967): as every node has one head, an arc enters
    S. None where that is a long list."""
    S = _cuts.listed(n - 1)
    if S is None:
        return None
    S = torch.nn.functional.pad(S, (1, 0))
    return S[:, :, None] & S[:, None, :], S.sum(1) - 1


@arborescence.facets
def arcs_within(z: torch.Tensor, n: int, single_child: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for a most violated S; ``(B, n, n)`` to ``(B, K, n, n)`` and ``(B, K)``."""
    if n < 3:
        return z.new_zeros(len(z), 0, n, n), z.new_zeros(len(z), 0)
    both = (z + z.mT)[:, 1:, 1:] * (1 - torch.eye(n - 1).to(z))
    S = torch.nn.functional.pad(_cuts.crowded(both), (1, 0))
    return S[..., :, None] & S[..., None, :], S.sum(2) - 1


@arborescence.padding
def in_a_chain(n: int, single_child: bool = False) -> Padding:
    i = torch.arange(n)
    return Padding(torch.maximum(i[:, None], i), i == i[:, None] + 1, range(1, n + 1))

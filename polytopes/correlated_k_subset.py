"""Choose exactly k of n in a row, with a say on neighbours.

    Z = {(z, p) : z in {0, 1}^n, sum z = k, p_i = z_i z_{i+1}},    entries: z_1 ... z_n, p_1 ... p_{n-1}

*The hull.* Reading the items from left to right, a subset is a path through the states (item i, how many so far,
whether i is in): from each state one arc leads to "i + 1 is in" and one to "i + 1 is out". The paths from the start to
count k are the extreme points of the unit flows through this graph (its incidence matrix is totally unimodular), z_i is
the flow into the states in which i is in, p_i the flow along the arcs between two such states. So

    conv Z = {(z, p) = M f : f >= 0 a unit flow},     O(nk) lifted columns f

(Martin, Rardin and Campbell 1990: dynamic programs as extended formulations). The inequalities p_i <= z_i,
p_i <= z_{i+1}, p_i >= z_i + z_{i+1} - 1 with sum z = k would not do: they have fractional vertices.

    argmax              the best path, by dynamic programming, O(k (n - k + 1)) in k steps
    ExponentialFamily   z = E[z], p(z) ~ exp <u, z>: the same program over sums, in both directions
    sample              the same program backward, each sum one of its terms at random
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch

from cvxsst import ExponentialFamily, polytope
from cvxsst.family import Padding
from polytopes import _chains
from polytopes._arguments import require_size
from polytopes._programs import (
    drawn,
    drawn_structures,
    finite,
    log_sum_exp,
    maximizer,
    maximum,
    possible,
    running_drawn,
    running_log_sum_exp,
    running_maximum,
)


@polytope(examples=[(5, 2), (4, 3), (1, 1), (3, 0)])
def correlated_k_subset(n: int, k: int):
    """The subsets of k out of n items in a row, with the products of neighbours as further entries.

    Args:
        n: how many items, at least 1.
        k: how many are chosen, 0 <= k <= n.

    Shape ``(2n - 1,)``: the n items, then the n - 1 products z_i z_{i+1}. Positive utilities on the products favour
    runs, negative ones spread the choice out. The hull has O(nk) lifted columns.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import correlated_k_subset
        >>> w = torch.tensor([1.0, 0.9, 0.0, 1.0] + [0.5, 0.0, 0.0])
        >>> cvxsst.argmax(correlated_k_subset(4, 2), w)
        tensor([1., 1., 0., 0., 1., 0., 0.])
    """
    require_size("n", n, 1)
    require_size("k", k, 0, n, f": only n={n} items are there")
    arcs = _arcs(n, k)
    states = {state: row for row, state in enumerate(sorted({s for a in arcs for s in a} - {START}))}
    balance, entries = sp.lil_array((len(states) + 1, len(arcs))), sp.lil_array((2 * n - 1, len(arcs)))
    for column, (tail, head) in enumerate(arcs):
        balance[states.get(tail, len(states)), column] = -1  # START is the last row
        balance[states[head], column] = 1
        if head[2]:
            entries[head[0], column] = 1
            if tail[2]:
                entries[n + tail[0], column] = 1
    inner = [row for state, row in states.items() if state[0] < n - 1]
    z, flow = cp.Variable(2 * n - 1), cp.Variable(len(arcs), nonneg=True)
    start = balance.tocsr()[[len(states)]]
    constraints = [z == entries.tocsr() @ flow, start @ flow == -1]
    return z, constraints + ([balance.tocsr()[inner] @ flow == 0] if inner else [])


START = (-1, 0, 0)


def _arcs(n: int, k: int) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """The arcs between states (item, count, in or out) that lie on some path to count k at the last item."""
    arcs = []
    reached = [START]
    for i in range(n):
        onward = [(tail, (i, tail[1] + taken, taken)) for tail in reached for taken in (0, 1)]
        onward = [(tail, head) for tail, head in onward if head[1] <= k <= head[1] + n - 1 - i]
        arcs += onward
        reached = sorted({head for _, head in onward})
    return arcs


@correlated_k_subset.structures
def subsets_with_products(n: int, k: int) -> Iterator[np.ndarray]:
    for chosen in itertools.combinations(range(n), k):
        z = np.isin(np.arange(n), chosen).astype(float)
        yield np.concatenate([z, z[:-1] * z[1:]])


@correlated_k_subset.argmax
def best_chain(w: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """``(*batch, 2n - 1)`` to zeros and ones."""
    return maximizer(lambda u: _chains.total(u, n, k, maximum, running_maximum), w)


@correlated_k_subset.softmax(ExponentialFamily)
def inclusion_probabilities(u: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """``(*batch, 2n - 1)`` to the same: of the items, and of both of two neighbours."""
    return _chains.softmax(finite(u), n, k).to(u.dtype) if k else 0 * u.clamp_min(0)


@correlated_k_subset.log_partition
def log_sum_of_chains(u: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """A(u): log of the sum over Z of exp <u, z>, ``(*batch, 2n - 1)`` to ``(*batch,)``."""
    return possible(_chains.total(finite(u), n, k, log_sum_exp, running_log_sum_exp)).to(u.dtype)


@correlated_k_subset.sample
def drawn_chains(u: torch.Tensor, samples: int, n: int, k: int) -> torch.Tensor:
    """``(*batch, 2n - 1)`` to ``(samples, *batch, 2n - 1)``, O(k (n - k + 1)) a sample."""
    return drawn_structures(lambda v: _chains.total(v, n, k, drawn, running_drawn), u, samples)


@correlated_k_subset.padding
def not_chosen(n: int, k: int) -> Padding:
    """A product is about the later of its two items."""
    last = torch.cat([torch.arange(n), torch.arange(1, n)])
    return Padding(last, torch.zeros_like(last, dtype=torch.bool), range(max(k, 1), n + 1), f"k={k} are chosen")

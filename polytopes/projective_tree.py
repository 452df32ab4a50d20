"""Give every word a head without crossing arcs: the projective dependency trees.

    Z = {arborescences in which everything between a head and its dependent descends from that head}

*The hull.* Eisner's algorithm (1996) builds a tree from spans: complete ones C (a head with all its dependents on one
side) and incomplete ones I (an arc, with what lies between its ends), in the two directions:

    I[h -> m]  =  C[left end ->]  +  C[<- right end]      the arc between the ends of the span, split anywhere between
    C[h -> t]  =  I[h -> m]  +  C[m -> t]                 the outermost dependent m of h, and what m governs beyond

Each rule is a hyperarc from its two parts to the whole; a tree is a hyperpath to C[0 -> n-1], and exactly one of them.
Because the two parts of each rule cover disjoint spans, the unit hyperflows, f >= 0, inflow of an item = its use in
larger items, inflow of C[0 -> n-1] = 1, are the hull of these hyperpaths (Martin, Rardin and Campbell 1990), and

    conv Z = {z : z[h, m] = the inflow of I[h -> m], f a unit hyperflow},     O(n^3) lifted columns

    argmax              Eisner's algorithm, O(n^3), all spans of a width and all instances at once
    ExponentialFamily   z = E[z], p(z) ~ exp <u, z>: the same program over sums (inside-outside), O(n^3)
    sample              the outside pass, with a split of each item at random, O(n^3)

``polytopes.relaxed_eisner`` is another relaxation of the same argmax, and no softmax in the sense of this library.
"""

from __future__ import annotations

from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch

from cvxsst import ExponentialFamily, polytope
from polytopes import _spans
from polytopes._arguments import require_flag, require_size
from polytopes._programs import Reduce, finite, log_sum_exp, possible
from polytopes.arborescence import arborescences, has_one_child, in_a_chain, root_malus

Item = tuple[str, int, int]  # ("C" or "I", head, end): to the right of the head if head < end
Rule = tuple[Item, Item, Item]  # the whole, its left part, its right part


@polytope(examples=[(4,), (1,), (3,), (4, True)])
def projective_tree(n: int, single_child: bool = False):
    """The projective arborescences on the nodes 0..n-1 in this order, rooted at node 0.

    Args:
        n: how many nodes, the root included, at least 1.
        single_child: whether the root has exactly one child (if n > 1); a face of the hull, as in ``arborescence``.

    Shape ``(n, n)``: z[i, j] = 1 where i is the head of j; column 0 and the diagonal are 0, whatever their utilities.
    The hull has O(n^3) lifted columns.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import projective_tree
        >>> w = torch.zeros(4, 4)
        >>> w[1, 3] = w[0, 2] = 1.0  # these two arcs cross: only one of them can be had
        >>> int((cvxsst.argmax(projective_tree(4), w) * w).sum())
        1
    """
    require_size("n", n, 1)
    require_flag("single_child", single_child)
    z = cp.Variable((n, n))
    if n == 1:
        return z, [z == 0]
    rules = _rules(n)
    items = sorted({whole for whole, _, _ in rules})
    row = {item: k for k, item in enumerate(items)}
    balance, entries = sp.lil_array((len(items), len(rules))), sp.lil_array((n * n, len(rules)))
    for column, (whole, *parts) in enumerate(rules):
        balance[row[whole], column] += 1
        for part in parts:
            if part in row:  # single nodes, C[h -> h], are free
                balance[row[part], column] -= 1
        if whole[0] == "I":
            entries[whole[1] * n + whole[2], column] = 1
    demand = np.zeros(len(items))
    demand[row["C", 0, n - 1]] = 1
    flow = cp.Variable(len(rules), nonneg=True)
    constraints = [cp.vec(z, order="C") == entries.tocsr() @ flow, balance.tocsr() @ flow == demand]
    return z, constraints + ([cp.sum(z[0]) == 1] if single_child else [])


def _rules(n: int) -> list[Rule]:
    """The rules that occur in some tree: from the goal downwards."""
    rules: list[Rule] = []
    open_items: list[Item] = [("C", 0, n - 1)]
    seen = set(open_items)
    while open_items:
        whole = open_items.pop()
        for left, right in _parts(whole):
            rules.append((whole, left, right))
            for part in (left, right):
                if part[1] != part[2] and part not in seen:
                    seen.add(part)
                    open_items.append(part)
    return rules


def _parts(item: Item) -> list[tuple[Item, Item]]:
    kind, h, t = item
    if kind == "I":
        s, e = min(h, t), max(h, t)
        return [(("C", s, r), ("C", e, r + 1)) for r in range(s, e)]
    if h < t:
        return [(("I", h, m), ("C", m, t)) for m in range(h + 1, t + 1)]
    return [(("C", m, t), ("I", h, m)) for m in range(t, h)]


@projective_tree.structures
def projective_trees(n: int, single_child: bool = False) -> Iterator[np.ndarray]:
    """The arborescences that are projective by definition."""
    for z in arborescences(n, single_child):
        head = z.argmax(0)
        if all(_governs(head, head[m], between) for m in range(1, n) for between in _between(head[m], m)):
            yield z


def _between(h: int, m: int) -> range:
    return range(min(h, m) + 1, max(h, m))


def _governs(head: np.ndarray, ancestor: int, node: int) -> bool:
    while node not in (ancestor, 0):
        node = head[node]
    return node == ancestor


@projective_tree.argmax
def eisner(w: torch.Tensor, n: int, single_child: bool = False) -> torch.Tensor:
    """``(*batch, n, n)`` to zeros and ones."""
    if n == 1 or not w.numel():
        return torch.zeros_like(w)
    w = w - root_malus(w) if single_child else w
    u = w.reshape(-1, n, n).permute(1, 2, 0).contiguous()
    z, _ = _spans.outside(_spans.inside(u, _spans.maximum)[1], u)
    return z.permute(2, 0, 1).reshape(w.shape)


@projective_tree.softmax(ExponentialFamily)
def arc_probabilities(u: torch.Tensor, n: int, single_child: bool = False) -> torch.Tensor:
    """``(*batch, n, n)`` to the same."""
    if n == 1 or not u.numel():
        return torch.zeros_like(u) * u.nan_to_num()
    lowered = finite(u - root_malus(u) if single_child else u).reshape(-1, n, n)
    z = _spans.MARGINALS(lowered, lambda v: inside(v, n, log_sum_exp)).reshape(u.shape).to(u.dtype)
    if single_child:
        z = z.where(has_one_child(z), torch.nan)
    # where no tree is possible the program has taken a forbidden arc
    taken = (z.detach() != 0) & (u == -torch.inf)
    return z.masked_fill(taken.any(-1, keepdim=True).any(-2, keepdim=True), torch.nan)


@projective_tree.sample
def drawn_trees(u: torch.Tensor, samples: int, n: int, single_child: bool = False) -> torch.Tensor:
    """``(*batch, n, n)`` to ``(samples, *batch, n, n)``: the inside pass once, a split for every item drawn, O(n^3)."""
    if n == 1 or not u.numel():
        return torch.zeros_like(u).expand(samples, *u.shape)
    lowered = finite(u - root_malus(u) if single_child else u).reshape(-1, n, n).permute(1, 2, 0)
    weights = _spans.drawn(_spans.inside(lowered.contiguous(), _spans.log_sum_exp)[1], samples)
    z, _ = _spans.outside(weights, lowered.new_zeros(n, n, samples * lowered.shape[-1]))
    return z.permute(2, 0, 1).reshape(samples, *u.shape)


@projective_tree.log_partition
def inside_algorithm(u: torch.Tensor, n: int, single_child: bool = False) -> torch.Tensor:
    """A(u): log of the sum over the projective trees of exp <u, z>, ``(*batch, n, n)`` to ``(*batch,)``."""
    if not single_child or not u.numel() or n == 1:
        return possible(_log_sum(finite(u), n)).to(u.dtype)
    malus = root_malus(u)
    A = possible(_log_sum(finite(u - malus), n)) + malus[..., 0, 0]
    one_child = arc_probabilities(u.detach(), n, True).isfinite().flatten(-2).all(-1)
    return A.where(one_child, -torch.inf).to(u.dtype)


def _log_sum(u: torch.Tensor, n: int) -> torch.Tensor:
    """By the program that autograd can follow, or the quicker one."""
    if torch.is_grad_enabled() or n == 1 or not u.numel():
        return inside(u, n, log_sum_exp)
    flat = u.reshape(-1, n, n).permute(1, 2, 0).contiguous()
    return _spans.inside(flat, _spans.log_sum_exp)[0].reshape(u.shape[:-2])


projective_tree.padding(in_a_chain)


def inside(u: torch.Tensor, n: int, reduce: Reduce) -> torch.Tensor:
    """The sum (in the sense of ``reduce``) of <u, z> over the projective trees, ``(*batch, n, n)`` to ``(*batch,)``, in
    operations that autograd can follow.

    ``right[k][..., s]`` is the complete span from head s to s + k, ``left[k][..., s]`` that from head s + k back to s;
    ``to_right``, ``to_left`` the incomplete ones. All spans of one width at once. Arcs into the root are in no tree.
    """
    nothing = u.new_zeros((*u.shape[:-2], n))
    right, left = [nothing], [nothing]
    to_right, to_left = [nothing], [nothing]  # width 0 is not used
    for k in range(1, n):
        starts = n - k
        halves = [right[a][..., :starts] + left[k - 1 - a][..., a + 1 : a + 1 + starts] for a in range(k)]
        between = reduce(torch.stack(halves, -1), -1)
        to_right.append(between + u.diagonal(k, -2, -1))
        to_left.append(between + u.diagonal(-k, -2, -1))
        onward = [to_right[a][..., :starts] + right[k - a][..., a : a + starts] for a in range(1, k + 1)]
        right.append(reduce(torch.stack(onward, -1), -1))
        back = [left[a][..., :starts] + to_left[k - a][..., a : a + starts] for a in range(k)]
        left.append(reduce(torch.stack(back, -1), -1))
    return right[n - 1][..., 0]

"""Sums over the k-subsets of n items in a row, with a say on neighbours: a dynamic program in k steps, not in n.

A subset is told by the numbers s_1 <= s_2 <= ... <= s_k of items passed over before the first chosen one, before the
second ...: the c-th chosen is the item c - 1 + s_c, the neighbour of the one before where s_c = s_(c-1). All s lie in
0 ... m - 1, m = n - k + 1. Let a_c(s) be the log of the sum over the choices up to the c-th, it with s, and p_i the
utility of the product of the items i and i + 1. A step is over all s at once:

    a_1(s) = u_s,      a_(c+1)(s) = u_(c+s) + log(sum_(s' < s) exp a_c(s') + exp(a_c(s) + p_(c-1+s)))
    A = log sum_s exp a_k(s)

and e_c(s), over the choices from the c-th on, is the same of the row turned round. So, i = c - 1 + s,

    P(the c-th chosen is i)                        = exp(a_c(s) + e_c(s) - u_i - A)
    P(the c-th is i, the next one its neighbour)   = exp(a_c(s) + e_(c+1)(s) + p_i - A)

of which z sums up those of the same i. The derivative along g needs the means of <g, z> over the choices that a_c(s)
and e_c(s) sum up: they follow the same steps, as means of means. All is O(k (n - k + 1)).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cvxsst.autograd import SymmetricMap
from polytopes._programs import IMPOSSIBLE, Reduce, log_sum_exp, possible, running_log_sum_exp

Sums = list[torch.Tensor]


def total(u: torch.Tensor, n: int, k: int, reduce: Reduce, running: Reduce) -> torch.Tensor:
    """The sum of <u, z> over Z, in the sense of ``reduce``; of prefixes, ``running``. ``(*batch, 2n - 1)`` to
    ``(*batch,)``."""
    if k == 0:
        return torch.zeros_like(u[..., 0])
    return reduce(_sums(*windows(u, n, k), reduce, running)[0][-1], -1)


def softmax(u: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """z = grad A(u) for u ``(*batch, 2n - 1)``, float64, finite, k > 0; NaN where no structure is possible."""
    return _MARGINALS(u.reshape(-1, u.shape[-1]), n, k).reshape(u.shape)


def windows(u: torch.Tensor, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At [c - 1, s] the entry of the item c - 1 + s ``(*batch, k, m)``, and of it and its right neighbour
    ``(*batch, k - 1, m)``, of u ``(*batch, 2n - 1)``."""
    m = n - k + 1
    columns = [u[..., i : i + m] for i in range(k)], [u[..., n + i : n + i + m] for i in range(k - 1)]
    item = torch.stack(columns[0], -2)
    return item, torch.stack(columns[1], -2) if k > 1 else item[..., :0, :]


def _sums(item: torch.Tensor, pair: torch.Tensor, reduce: Reduce, running: Reduce) -> tuple[Sums, Sums]:
    """Of windows, a_c ``(*batch, m)`` for c = 1 ... k; and for c < k its sum over s' < s."""
    a, before = [item[..., 0, :]], []
    for c in range(1, item.shape[-2]):
        before.append(_shifted(running(a[-1], -1), IMPOSSIBLE))
        a.append(item[..., c, :] + reduce(torch.stack([before[-1], a[-1] + pair[..., c - 1, :]]), 0))
    return a, before


def _shifted(x: torch.Tensor, first: float) -> torch.Tensor:
    return F.pad(x[..., :-1], (1, 0), value=first)


def _marginals(u: torch.Tensor, n: int, k: int) -> tuple[torch.Tensor, ...]:
    """z for u ``(B, 2n - 1)``, and the sums of both directions."""
    a, before = _both_sums(u, n, k)
    A = _log_partition(a)
    z = _by_entry(*_probabilities(u, a, A, n, k))
    return z.masked_fill(torch.isneginf(possible(A))[:, None], torch.nan), a, before


def _times_covariance(
    g: torch.Tensor, u: torch.Tensor, z: torch.Tensor, a: torch.Tensor, before: torch.Tensor, n: int, k: int
) -> torch.Tensor:
    """J g for g, u and z ``(B, 2n - 1)`` and the sums; a second derivative needs those as functions of u."""
    if torch.is_grad_enabled():
        a, before = _both_sums(u, n, k)
    first, second = _probabilities(u, a, _log_partition(a), n, k)
    mean = (z * g).sum(-1)[:, None, None]
    item, pair = windows(g, n, k)
    until, since = _apart(_means(a, before, _both(u, n), _both(g, n), n, k))
    return _by_entry(first * (until + since - item - mean), second * (until[:, :-1] + since[:, 1:] + pair - mean))


_MARGINALS = SymmetricMap(_marginals, _times_covariance)


def _both(u: torch.Tensor, n: int) -> torch.Tensor:
    """The row and the row turned round, ``(B, 2, 2n - 1)``."""
    return torch.stack([u, torch.cat([u[:, :n].flip(-1), u[:, n:].flip(-1)], -1)], 1)


def _both_sums(u: torch.Tensor, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """a_c(s) of both ``(B, 2, k, m)``, and its sums over s' < s ``(B, 2, k - 1, m)``."""
    a, before = _sums(*windows(_both(u, n), n, k), log_sum_exp, running_log_sum_exp)
    return torch.stack(a, 2), torch.stack(before, 2) if before else a[0][:, :, None][:, :, :0]


def _apart(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is about the choices up to the c-th, and from it on, ``(B, k, m)``, of both directions ``(B, 2, k, m)``."""
    return x[:, 0], x[:, 1].flip(1, 2)


def _log_partition(a: torch.Tensor) -> torch.Tensor:
    return log_sum_exp(a[:, 0, -1], -1)


def _probabilities(
    u: torch.Tensor, a: torch.Tensor, A: torch.Tensor, n: int, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """That the c-th chosen is i ``(B, k, m)``; and the next one its neighbour ``(B, k - 1, m)``."""
    (item, pair), (until, since), A = windows(u, n, k), _apart(a), A[:, None, None]
    return (until + since - item - A).exp(), (until[:, :-1] + since[:, 1:] + pair - A).exp()


def _by_entry(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """What belongs to the same items, and to the same pairs of neighbours, added up: ``(B, 2n - 1)``."""
    return torch.cat([_diagonal_sums(first), _diagonal_sums(second)], -1)


def _diagonal_sums(x: torch.Tensor) -> torch.Tensor:
    """``(B, k, m)`` to ``(B, k + m - 1)``: at i the sum of the entries c + s = i."""
    B, k, m = x.shape
    width = k + m - 1
    return F.pad(x, (0, k)).flatten(1)[:, : k * width].reshape(B, k, width).sum(1)  # row c moves c to the right


def _means(a: torch.Tensor, before: torch.Tensor, u: torch.Tensor, g: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """The derivative of a ``(B, 2, k, m)`` along g, with u and g ``(B, 2, 2n - 1)``: the mean of <g, z> over the
    choices that a_c(s) sums up."""
    (item, pair), neighbour = windows(g, n, k), windows(u, n, k)[1]
    near = torch.sigmoid(a[:, :, :-1] + neighbour - before)
    some = before > IMPOSSIBLE / 2
    means = [item[:, :, 0]]
    for c in range(1, k):
        far = _mean_before(means[-1], a[:, :, c - 1], before[:, :, c - 1]).where(some[:, :, c - 1], 0.0)
        means.append(item[:, :, c] + torch.lerp(far, means[-1] + pair[:, :, c - 1], near[:, :, c - 1]))
    return torch.stack(means, 2)


def _mean_before(x: torch.Tensor, a: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """At s the mean of x ``(..., m)`` over s' < s, weighted by exp a, whose sums over s' < s are exp ``before``.

    x is moved to where it is positive and no small difference of large numbers, and its mean back: so weights may
    differ by any factor.
    """
    away = 2 * x.detach().abs().amax(-1, keepdim=True)
    away = away.where(away > 0, 1.0)
    moved = running_log_sum_exp(a + torch.log(x + away), -1)
    return torch.exp(_shifted(moved, IMPOSSIBLE) - before) - away

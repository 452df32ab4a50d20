"""The softmax over {0 <= z <= 1, sum z = k}: one multiplier tau for the sum.

    z = phi*'(u - tau) clamped to [0, 1],      tau: sum z = k

    Euclidean            z = clamp(u - tau, 0, 1)         tau exact, by sorting
    CategoricalEntropy   z = min(1, exp(u - tau))         tau exact, by sorting
    BinaryEntropy        z = sigmoid(u - tau)             tau by Newton's method

With d = dz/du at fixed tau (1 or z where z moves, z (1 - z), 0 where it is clamped), sum dz = 0 gives

    J = diag(d) - d d' / sum d

``euclidean``, ``categorical`` and ``binary`` take u ``(*batch, n)`` to z of the same shape; entries of -inf come out as
0, rows with fewer than k finite entries as NaN. No formula treats -inf apart: nothing is looked at.
Reference: Held, Wolfe and Crowder 1974 (the threshold); Amos, Koltun and Kolter 2019 (the binary entropy).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from cvxsst.autograd import SymmetricMap
from cvxsst.values import holds, on_host

Evaluate = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

STEPS = 200
STEPS_UNSEEN = 8  # on a device: more than most need, and less than a look takes
GAP = 800.0  # exp(-GAP) is 0
APART = 3.0  # Euclidean: two entries that far apart are not both between 0 and 1, nor one of them and tau


def euclidean(u: torch.Tensor, k: int) -> torch.Tensor:
    """clamp(u - tau, 0, 1) for u ``(*batch, n)``."""
    return _applied(_SPARSEMAX if k == 1 else _CAPPED, u, k)


def categorical(u: torch.Tensor, k: int) -> torch.Tensor:
    """min(1, exp(u - tau)) for u ``(*batch, n)``."""
    return _applied(_CATEGORICAL, u, k)


def binary(u: torch.Tensor, k: int) -> torch.Tensor:
    """sigmoid(u - tau) for u ``(*batch, n)``."""
    return _applied(_BINARY, u, k)


def _applied(rule: SymmetricMap, u: torch.Tensor, k: int) -> torch.Tensor:
    """``rule`` for u ``(*batch, n)``: a single instance is a batch of one."""
    return rule(u, k) if u.dim() > 1 else rule(u[None], k)[0]


def _times_jacobian(d: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """J g for d and g ``(*batch, n)``."""
    dg = d * g
    total = d.sum(-1, keepdim=True)
    mean = dg.sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)  # d = 0: a vertex, J = 0
    return torch.addcmul(dg, d, mean, value=-1)


def _descending(u: torch.Tensor) -> torch.Tensor:
    """u ``(*batch, n)`` sorted, a plain tensor; on the CPU by NumPy, several times as fast as torch."""
    if on_host(u):
        return torch.from_numpy(np.sort(u.detach().numpy(), axis=-1)).flip(-1)
    return u.sort(dim=-1, descending=True).values


def sparsemax(u: torch.Tensor, k: int = 1) -> torch.Tensor:
    """z for plain u ``(*batch, n)`` and k = 1, where z <= 1 follows from the sum: the c largest entries are positive, c
    the largest with 1 + c u_(c) > u_(1) + ... + u_(c)."""
    ordered = _descending(u)
    u = u - ordered[..., :1]
    ordered = ordered - ordered[..., :1]
    c = torch.arange(1, u.shape[-1] + 1, dtype=u.dtype, device=u.device)
    excess = ordered.cumsum(-1).sub_(1.0)
    count = (ordered.mul_(c) > excess).sum(-1, keepdim=True).clamp_min_(1)  # 0 where all are forbidden
    tau = excess.gather(-1, count - 1) / count
    return u.sub_(tau).clamp_min_(0.0)


_SPARSEMAX = SymmetricMap(sparsemax, lambda g, u, z, k: _times_jacobian((z > 0).to(z), g))


def _capped(u: torch.Tensor, k: int) -> torch.Tensor:
    """clamp(u - tau, 0, 1) for u ``(*batch, n)``: which entries are positive, which are 1, then tau from the others.

    With h(tau) = sum clamp(u - tau, 0, 1), which falls, u_(j) is positive where h(u_(j)) < k and 1 where
    h(u_(j) - 1) <= k. Sums of sorted entries give h: with c entries at 1 and b positive,
    h(tau) = c + u_(c+1) + ... + u_(b) - (b - c) tau. Entries are taken relative to u_(k), and what is far from it does
    not matter: so the sums are exact to the last digits at any scale.
    """
    n = u.shape[-1]
    if k in (0, n):
        return _constant(u, k)
    ordered = _descending(u)
    middle = ordered[..., k - 1 : k]
    ordered = (ordered - middle).clamp(-APART, APART)
    sums = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0))
    j = torch.arange(1, n + 1, device=u.device).expand_as(ordered)
    rising = -ordered
    ones = torch.searchsorted(rising, rising - 1, right=True)  # entries >= u_(j) + 1
    at_entry = ones + sums.gather(-1, j) - sums.gather(-1, ones) - (j - ones) * ordered
    positive = torch.searchsorted(rising, rising + 1)  # entries > u_(j) - 1
    below_entry = j + sums.gather(-1, positive) - sums.gather(-1, j) - (positive - j) * (ordered - 1)
    b = (at_entry < k).sum(-1, keepdim=True)
    c = (below_entry <= k).sum(-1, keepdim=True)
    inside = b - c
    tau = torch.where(inside > 0, (sums.gather(-1, b) - sums.gather(-1, c) - (k - c)) / inside, -1.0)
    z = (u - middle - tau).clamp(0.0, 1.0)
    return torch.where(middle == -torch.inf, torch.nan, z)


_CAPPED = SymmetricMap(_capped, lambda g, u, z, k: _times_jacobian(((z > 0) & (z < 1)).to(z), g))


def _constant(u: torch.Tensor, k: int) -> torch.Tensor:
    """The only point for k = 0 or n: u ``(*batch, n)``; all are chosen only where none is forbidden."""
    if k == 0:
        return torch.zeros_like(u)
    return torch.where((u == -torch.inf).any(-1, keepdim=True), torch.nan, torch.ones_like(u))


def _categorical(u: torch.Tensor, k: int) -> torch.Tensor:
    """u ``(*batch, n)``: the c largest entries are 1, c the least with
    u_(c+1) <= tau_c = log sum_{i > c} exp u_(i) - log (k - c)."""
    if k == 0:
        return torch.zeros_like(u)
    ordered = _descending(u)
    tail = ordered.flip(-1).logcumsumexp(-1).flip(-1)[..., :k]  # of the entries from c + 1 on, c = 0 .. k - 1
    taus = tail - torch.arange(k, 0, -1, dtype=u.dtype, device=u.device).log()
    fits = ordered[..., :k] <= taus
    fits[..., -1] = True  # u_(k) <= tau_(k-1), but for rounding
    tau = taus.gather(-1, fits.to(torch.uint8).argmax(-1, keepdim=True))
    z = (u - tau).clamp_max(0.0).exp()
    return torch.where(ordered[..., k - 1 : k] == -torch.inf, torch.nan, z)


_CATEGORICAL = SymmetricMap(_categorical, lambda g, u, z, k: _times_jacobian(torch.where(z < 1, z, 0.0), g))


def _binary(u: torch.Tensor, k: int) -> torch.Tensor:
    """sigmoid(u - tau) for u ``(*batch, n)``."""
    if k in (0, u.shape[-1]):
        return _constant(u, k)
    return torch.sigmoid(u - newton_threshold(u, k, 0.0))


_BINARY = SymmetricMap(_binary, lambda g, u, z, k: _times_jacobian(z * (1 - z), g))


def newton_threshold(u: torch.Tensor, k: int, tolerance: float) -> torch.Tensor:
    """tau ``(*batch, 1)`` with sum sigmoid(u - tau) = k for u ``(*batch, n)``, 0 < k < n; NaN where fewer than k are
    finite.

    With the k largest entries "in" and the others "out" the condition is that as much is missing from the first as the
    second have:  h(tau) = log sum_out sigmoid(u - tau) - log sum_in sigmoid(tau - u) = 0. h falls with a slope between
    -2 and 0, is nearly straight where the two groups are far apart, and has no cancellation however far. The root is
    between u_(k+1) - log k and u_(k) + log(n - k): there too much, or too little, is chosen.
    """
    n, tiny = u.shape[-1], torch.finfo(u.dtype).tiny
    ordered = _descending(u)
    sign = torch.ones(n, dtype=u.dtype, device=u.device)
    sign[:k] = -1

    def evaluate(tau: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        side = torch.sigmoid((ordered - tau) * sign)  # what is missing, then what is there
        moved = side - side.square()
        # if both sums are that small z is 0 and 1 to the last digit
        missing, there = (part.sum(-1, keepdim=True).clamp_min(tiny) for part in side.tensor_split([k], -1))
        less, more = (part.sum(-1, keepdim=True) for part in moved.tensor_split([k], -1))
        return (there / missing).log(), less / missing + more / there

    last = ordered[..., k - 1 : k]
    first = torch.where(ordered[..., k : k + 1] == -torch.inf, last - GAP, ordered[..., k : k + 1])  # exactly k finite
    tau = _root(evaluate, first - math.log(k), last + math.log(n - k), tolerance)
    return torch.where(last == -torch.inf, torch.nan, tau)


def _root(evaluate: Evaluate, low: torch.Tensor, high: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Where a falling function of tau is 0, between low and high ``(*batch, 1)``.

    Newton's method (``evaluate`` gives the function and minus its slope), with bisection where it leaves what is known
    to hold the root. Whether all have arrived is looked at in every step on the host, elsewhere now and then.
    """
    eps, tiny = torch.finfo(low.dtype).eps, torch.finfo(low.dtype).tiny
    tau = (low + high) / 2
    for step in range(1, STEPS + 1):
        h, slope = evaluate(tau)
        rising = h > 0
        low, high = torch.where(rising, tau, low), torch.where(rising, high, tau)
        newton = tau + h / slope.clamp_min(tiny)
        new = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        moving = (new - tau).abs() > tolerance + 16 * eps * (1 + tau.abs())
        tau = new
        if (on_host(tau) or step % STEPS_UNSEEN == 0) and not holds(moving):
            break
    return tau

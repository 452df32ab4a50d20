"""The softmax over {0 <= z <= 1, sum z = k}: one multiplier tau for the sum.

    z = phi*'(u - tau) clamped to [0, 1],      tau: sum z = k

    Euclidean            z = clamp(u - tau, 0, 1)         tau exact: by sorting (k = 1), by Newton's method and its end
    CategoricalEntropy   z = min(1, exp(u - tau))         tau exact, by sorting
    BinaryEntropy        z = sigmoid(u - tau)             tau by Newton's method

With d = dz/du at fixed tau (1 or z where z moves, z (1 - z), 0 where it is clamped), sum dz = 0 gives

    J = diag(d) - d d' / sum d

``euclidean``, ``categorical`` and ``binary`` take u ``(*batch, n)``; entries of -inf come out as 0, rows with fewer
than k finite entries as NaN.
Reference: Held, Wolfe and Crowder 1974 (the threshold); Amos, Koltun and Kolter 2019 (the binary entropy).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from cvxsst.values import is_finite

Solve = Callable[[torch.Tensor, int], torch.Tensor]
Evaluate = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Slope = Callable[[torch.Tensor], torch.Tensor]

STEPS = 200
GAP = 800.0  # exp(-GAP) is 0


class _Threshold(torch.autograd.Function):
    """u ``(*batch, n)`` to z, by ``solve``; its derivative J, by ``slope``: z -> d."""

    @staticmethod
    def forward(u: torch.Tensor, k: int, solve: Solve, slope: Slope) -> torch.Tensor:
        return solve(u, k)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.slope = inputs[3]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (z,) = ctx.saved_tensors
        return _times_jacobian(ctx.slope(z), g), None, None, None

    @staticmethod
    def jvp(ctx: Any, du: torch.Tensor, *_: None) -> torch.Tensor:
        (z,) = ctx.saved_tensors
        return _times_jacobian(ctx.slope(z), du)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, k: int, solve: Solve, slope: Slope) -> tuple:
        return _Threshold.apply(u.movedim(in_dims[0], 0), k, solve, slope), 0


def _times_jacobian(d: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    dg = d * g
    total = d.sum(-1, keepdim=True)
    mean = dg.sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)  # d = 0: a vertex, J = 0
    return dg - d * mean


def euclidean(u: torch.Tensor, k: int) -> torch.Tensor:
    """clamp(u - tau, 0, 1)."""
    if k == 1:
        return _softmax(u, 1, _sparsemax, lambda z: (z > 0).to(z))
    return _softmax(u, k, _euclidean, lambda z: ((z > 0) & (z < 1)).to(z))


def categorical(u: torch.Tensor, k: int) -> torch.Tensor:
    """min(1, exp(u - tau))."""
    return _softmax(u, k, _categorical, lambda z: torch.where(z < 1, z, 0.0))


def binary(u: torch.Tensor, k: int) -> torch.Tensor:
    """sigmoid(u - tau)."""
    return _softmax(u, k, _binary, lambda z: z * (1 - z))


def _softmax(u: torch.Tensor, k: int, solve: Solve, slope: Slope) -> torch.Tensor:
    if is_finite(u):
        return _Threshold.apply(u, k, solve, slope)
    forbidden = u == -torch.inf
    lowered, missing = finite(u, k)
    return _Threshold.apply(lowered, k, solve, slope).masked_fill(forbidden, 0.0).masked_fill(missing, torch.nan)


def finite(u: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """u with numbers below all others for -inf, and which rows have fewer than k finite entries."""
    forbidden = u == -torch.inf
    fixed = u.detach().masked_fill(forbidden, 0.0)
    low = fixed.amin(-1, keepdim=True) - GAP - 1e-3 * fixed.abs().amax(-1, keepdim=True)  # more than their rounding
    return torch.where(forbidden, low, u), (~forbidden).sum(-1, keepdim=True) < k


def _sparsemax(u: torch.Tensor, k: int) -> torch.Tensor:
    """k = 1, where z <= 1 follows from the sum: the c largest entries are positive, c the largest with
    1 + c u_(c) > u_(1) + ... + u_(c)."""
    u = u - u.amax(-1, keepdim=True)
    ordered = u.sort(dim=-1, descending=True).values
    c = torch.arange(1, u.shape[-1] + 1, dtype=u.dtype, device=u.device)
    excess = ordered.cumsum(-1) - 1
    count = (c * ordered > excess).sum(-1, keepdim=True)
    tau = excess.gather(-1, count - 1) / count
    return (u - tau).clamp_min(0.0)


def _euclidean(u: torch.Tensor, k: int) -> torch.Tensor:
    """Newton's method on the piecewise linear sum; then tau from the entries between 0 and 1 alone, exactly.

    The root is between u_(k+1) - 1, where k + 1 entries are 1, and u_(k), where fewer than k are positive.
    """
    if k in (0, u.shape[-1]):
        return torch.full_like(u, k > 0)
    largest = u.topk(k + 1, dim=-1).values

    def evaluate(tau: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = (u - tau).clamp(0.0, 1.0)
        return z.sum(-1, keepdim=True) - k, ((z > 0) & (z < 1)).to(z).sum(-1, keepdim=True)

    tau = _root(evaluate, largest[..., k:] - 1, largest[..., k - 1 : k], 0.0)
    z = (u - tau).clamp(0.0, 1.0)
    inside = (z > 0) & (z < 1)
    count = inside.sum(-1, keepdim=True)
    exact = (torch.where(inside, u, 0.0).sum(-1, keepdim=True) + (z >= 1).sum(-1, keepdim=True) - k) / count
    return torch.where(count > 0, (u - exact).clamp(0.0, 1.0), z.round())


def _root(evaluate: Evaluate, low: torch.Tensor, high: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Where a falling function of tau is 0, between low and high ``(*batch, 1)``.

    Newton's method (``evaluate`` gives the function and minus its slope), with bisection where it leaves what is known
    to hold the root.
    """
    eps, tiny = torch.finfo(low.dtype).eps, torch.finfo(low.dtype).tiny
    tau = (low + high) / 2
    for _ in range(STEPS):
        h, slope = evaluate(tau)
        rising = h > 0
        low, high = torch.where(rising, tau, low), torch.where(rising, high, tau)
        newton = tau + h / slope.clamp_min(tiny)
        new = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        moving = (new - tau).abs() > tolerance + 16 * eps * (1 + tau.abs())
        tau = new
        if not bool(moving.any()):
            break
    return tau


def _categorical(u: torch.Tensor, k: int) -> torch.Tensor:
    """The c largest entries are 1, c the least with u_(c+1) <= tau_c = log sum_{i > c} exp u_(i) - log (k - c)."""
    if k == 0:
        return torch.zeros_like(u)
    ordered = u.sort(dim=-1, descending=True).values
    tail = ordered.flip(-1).logcumsumexp(-1).flip(-1)[..., :k]  # of the entries from c + 1 on, c = 0 .. k - 1
    taus = tail - torch.arange(k, 0, -1, dtype=u.dtype, device=u.device).log()
    fits = ordered[..., :k] <= taus
    fits[..., -1] = True  # u_(k) <= tau_(k-1), but for rounding
    tau = taus.gather(-1, fits.to(torch.uint8).argmax(-1, keepdim=True))
    return (u - tau).clamp_max(0.0).exp()


def _binary(u: torch.Tensor, k: int) -> torch.Tensor:
    if k in (0, u.shape[-1]):
        return torch.full_like(u, k > 0)
    return torch.sigmoid(u - newton_threshold(u, k, 0.0))


def binary_threshold(u: torch.Tensor, k: int, tolerance: float) -> torch.Tensor:
    """tau of the binary entropy up to ``tolerance``, a constant for autograd."""
    return _Tau.apply(u.detach(), k, tolerance)


class _Tau(torch.autograd.Function):
    """``newton_threshold`` for plain tensors, also under ``torch.func`` transforms."""

    @staticmethod
    def forward(u: torch.Tensor, k: int, tolerance: float) -> torch.Tensor:
        return newton_threshold(u, k, tolerance)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[None, None, None]:
        return None, None, None

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:
        return None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, k: int, tolerance: float) -> tuple[torch.Tensor, int]:
        return _Tau.apply(u.movedim(in_dims[0], 0), k, tolerance), 0


def newton_threshold(u: torch.Tensor, k: int, tolerance: float) -> torch.Tensor:
    """tau ``(*batch, 1)`` with sum sigmoid(u - tau) = k, 0 < k < n, u finite.

    With the k largest entries "in" and the others "out" the condition is that as much is missing from the first as the
    second have:  h(tau) = log sum_out sigmoid(u - tau) - log sum_in sigmoid(tau - u) = 0. h falls with a slope between
    -2 and 0, is nearly straight where the two groups are far apart, and has no cancellation however far. The root is
    between u_(k+1) - log k and u_(k) + log(n - k): there too much, or too little, is chosen.
    """
    n, tiny = u.shape[-1], torch.finfo(u.dtype).tiny
    ordered = u.sort(dim=-1, descending=True).values
    sign = torch.ones(n, dtype=u.dtype, device=u.device)
    sign[:k] = -1

    def evaluate(tau: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        side = torch.sigmoid((ordered - tau) * sign)  # what is missing, then what is there
        moved = side - side.square()
        # if both sums are that small z is 0 and 1 to the last digit
        missing, there = (part.sum(-1, keepdim=True).clamp_min(tiny) for part in side.tensor_split([k], -1))
        less, more = (part.sum(-1, keepdim=True) for part in moved.tensor_split([k], -1))
        return (there / missing).log(), less / missing + more / there

    low, high = ordered[..., k : k + 1] - math.log(k), ordered[..., k - 1 : k] + math.log(n - k)
    return _root(evaluate, low, high, tolerance)

"""Eisner's algorithm on arrays: all spans of one width, and all instances, at once; inside, outside and their tangents.

Items: complete spans (a head with all its dependents on one side) and incomplete ones (an arc and what lies between its
ends). For a span of width k, split at a (0 <= a < k, or 1 <= a <= k in the second):

    between   right span of width a from the left end,   left span of width k - 1 - a to the right end     (+ the arc)
    onward    incomplete right span of width a,          right span of width k - a to the right end
    back      left span of width a from the left end,    incomplete left span of width k - a to the right end

So each part shares one end with the whole. With every chart kept twice, by width and left end and by (reversed) width
and right end, the candidates of all splits and positions are the sum of two slices. Layout ``(width, position, B)``.

With W the derivative of an item's value by its candidates (softmax for log-sum-exp, for the maximum a 1 at the best
split) the outside pass is u -> z = grad A, and the tangent of both passes is J g:  dW = W (dx - <W, dx>).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from cvxsst.autograd import SymmetricMap
from polytopes._programs import times_hessian

Rule = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # candidates (splits, ...) -> value, W


def log_sum_exp(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``(positions, B)`` and W ``(splits, positions, B)`` for x ``(splits, positions, B)``."""
    largest = x.amax(0)
    W = (x - largest).exp_()
    total = W.sum(0)
    W /= total
    return largest.add_(total.log_()), W


def maximum(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``(positions, B)`` and W ``(1, positions, B)``, the position of its 1, for x ``(splits, positions, B)``."""
    value, split = x.max(0, keepdim=True)
    return value[0], split


class Chart:
    """A number for every item: ``start[w, s]`` of the span s..s+w, ``end[n-1-w, s+w]`` the same by its right end."""

    def __init__(self, n: int, like: torch.Tensor):
        self.n = n
        shape = (n, n, like.shape[-1])
        self.right_start, self.right_end, self.left_start, self.left_end = (like.new_zeros(shape) for _ in range(4))
        self.incomplete_right, self.incomplete_left = like.new_zeros(shape), like.new_zeros(shape)  # by start, by end

    def between(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.right_start[:k, : self.n - k], self.left_end[self.n - k :, k:]

    def onward(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.incomplete_right[1 : k + 1, : self.n - k], self.right_end[self.n - k :, k:]

    def back(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.left_start[:k, : self.n - k], self.incomplete_left[self.n - 1 - k : self.n - 1, k:]

    def arcs(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.incomplete_right[k, : self.n - k], self.incomplete_left[self.n - 1 - k, k:]

    def complete(self, k: int) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Both places of the right spans of width k, and of the left ones."""
        first, second = slice(self.n - k), slice(k, None)
        return (
            (self.right_start[k, first], self.right_end[self.n - 1 - k, second]),
            (self.left_start[k, first], self.left_end[self.n - 1 - k, second]),
        )

    def put(self, k: int, right: torch.Tensor, left: torch.Tensor) -> None:
        """The complete spans of width k, ``(n - k, B)``."""
        for places, value in zip(self.complete(k), (right, left), strict=True):
            for place in places:
                place.copy_(value)


class Weights(NamedTuple):
    """W of the three rules for the spans of one width, and in ``outside`` the derivative of A by their values."""

    between: torch.Tensor
    onward: torch.Tensor
    back: torch.Tensor


def inside(u: torch.Tensor, rule: Rule) -> tuple[torch.Tensor, list[Weights]]:
    """The value of the whole ``(B,)`` for u ``(n, n, B)``, and the weights for the widths 1, ..., n - 1."""
    n = len(u)
    chart, weights = Chart(n, u), []
    for k in range(1, n):
        value, between = rule(torch.add(*chart.between(k)))
        right, left = chart.arcs(k)
        torch.add(value, u.diagonal(k).T, out=right)
        torch.add(value, u.diagonal(-k).T, out=left)
        value_right, onward = rule(torch.add(*chart.onward(k)))
        value_left, back = rule(torch.add(*chart.back(k)))
        chart.put(k, value_right, value_left)
        weights.append(Weights(between, onward, back))
    return chart.right_start[n - 1, 0], weights


def drawn(weights: list[Weights], samples: int) -> list[Weights]:
    """The position of a 1 in each W, ``(1, positions, samples B)``, drawn with the probabilities that W is: with these
    ``outside`` gives random trees, the instances of the first sample first."""

    def positions(W: torch.Tensor) -> torch.Tensor:
        splits, places, B = W.shape
        chances = W.permute(1, 2, 0).reshape(-1, splits)
        found = torch.multinomial(chances, samples, replacement=True)  # (places B, samples)
        return found.reshape(places, B, samples).transpose(1, 2).reshape(1, places, samples * B)

    return [Weights(*(positions(W) for W in three)) for three in weights]


def outside(weights: list[Weights], like: torch.Tensor) -> tuple[torch.Tensor, list[Weights]]:
    """z ``(n, n, B)``, and for each width the derivatives of A by the values of its items."""
    n = len(weights) + 1
    chart = Chart(n, like)
    chart.right_start[n - 1, 0] = 1
    shares = []
    for k in range(n - 1, 0, -1):
        W = weights[k - 1]
        right, left = (torch.add(*places) for places in chart.complete(k))
        _divide(chart.onward(k), W.onward, right)
        _divide(chart.back(k), W.back, left)
        both = torch.add(*chart.arcs(k))
        _divide(chart.between(k), W.between, both)
        shares.append(Weights(both, right, left))
    return _arcs(chart), shares[::-1]


def times_covariance(weights: list[Weights], shares: list[Weights], g: torch.Tensor) -> torch.Tensor:
    """J g ``(n, n, B)`` for g ``(n, n, B)``: the tangent of ``outside`` along the tangent of ``inside``."""
    n = len(g)
    inner, outer = Chart(n, g), Chart(n, g)
    excess = []  # dx - <W, dx> of the three rules
    for k in range(1, n):
        W = weights[k - 1]
        value, between = _centred(W.between, torch.add(*inner.between(k)))
        right, left = inner.arcs(k)
        torch.add(value, g.diagonal(k).T, out=right)
        torch.add(value, g.diagonal(-k).T, out=left)
        value_right, onward = _centred(W.onward, torch.add(*inner.onward(k)))
        value_left, back = _centred(W.back, torch.add(*inner.back(k)))
        inner.put(k, value_right, value_left)
        excess.append(Weights(between, onward, back))
    for k in range(n - 1, 0, -1):
        W, x, share = weights[k - 1], excess[k - 1], shares[k - 1]
        right, left = (torch.add(*places) for places in outer.complete(k))
        _spread(outer.onward(k), x.onward.mul_(share.onward).add_(right).mul_(W.onward))
        _spread(outer.back(k), x.back.mul_(share.back).add_(left).mul_(W.back))
        both = torch.add(*outer.arcs(k))
        _spread(outer.between(k), x.between.mul_(share.between).add_(both).mul_(W.between))
    return _arcs(outer)


def _centred(W: torch.Tensor, dx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """<W, dx> ``(positions, B)`` and dx less it, for W and dx ``(splits, positions, B)``."""
    mean = (W * dx).sum(0)
    return mean, dx.sub_(mean)


def _divide(parts: tuple[torch.Tensor, torch.Tensor], W: torch.Tensor, amount: torch.Tensor) -> None:
    """Add W * amount to both parts ``(splits, positions, B)``, amount ``(positions, B)``; W may be the position of
    its 1."""
    if W.is_floating_point():
        _spread(parts, W * amount)
        return
    for part in parts:
        part.scatter_add_(0, W, amount[None])


def _spread(parts: tuple[torch.Tensor, torch.Tensor], amount: torch.Tensor) -> None:
    """Add the amount to both parts, all ``(splits, positions, B)``."""
    for part in parts:
        part += amount


def _arcs(chart: Chart) -> torch.Tensor:
    """What the incomplete items hold, ``(n, n, B)``."""
    z = torch.zeros_like(chart.right_start)
    for k in range(1, chart.n):
        right, left = chart.arcs(k)
        z.diagonal(k).copy_(right.T)
        z.diagonal(-k).copy_(left.T)
    return z


def marginals(u: torch.Tensor, value: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """z = grad A for u ``(B, n, n)``, finite, n > 1; then weights and shares, their instances first."""
    _, weights = inside(u.permute(1, 2, 0).contiguous(), log_sum_exp)
    z, shares = outside(weights, weights[0].between)
    kept = (t.movedim(-1, 0) for lists in (weights, shares) for three in lists for t in three)
    return z.permute(2, 0, 1).contiguous(), *kept


def times_jacobian(g: torch.Tensor, u: torch.Tensor, z: torch.Tensor, *rest: Any) -> torch.Tensor:
    """J g for g, u and z ``(B, n, n)``; by way of the value, twice, where autograd asks for a second derivative."""
    *kept, value = rest
    if torch.is_grad_enabled():
        return times_hessian(value, u, g)
    parts = [t.movedim(0, -1) for t in kept]
    threes = [Weights(*parts[i : i + 3]) for i in range(0, len(parts), 3)]
    weights, shares = threes[: len(threes) // 2], threes[len(threes) // 2 :]
    return times_covariance(weights, shares, g.permute(1, 2, 0).contiguous()).permute(2, 0, 1).contiguous()


# called with u and A in operations that autograd follows twice
MARGINALS = SymmetricMap(marginals, times_jacobian)

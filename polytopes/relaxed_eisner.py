"""Eisner's algorithm relaxed step by step: the differentiable perturb-and-parse of Corro and Titov (2019).

Eisner's algorithm builds the best projective tree from spans (``projective_tree``); at each span it decides where to
split it. Here every such decision is a softmax, and the value of a span is the mean, not the best, of its candidates:

    W = softmax(x),   value = <W, x>              x: the values of the candidates, each the sum of two smaller spans
    z[h, m] = what the whole holds of the arc     shared out by the W from the whole down to the arcs

z lies in the hull of the projective trees and tends to the best one as u grows. But it is *not* a softmax over the hull
in the sense of this library: z maximizes no <u, z> - f(z), its Jacobian is not symmetric, no certificate applies. With
log-sum-exp in place of the mean it would be: that is ``softmax(projective_tree(n), u, ExponentialFamily())``.

*The derivative.* Along g, the amount of an item is y = <W, y of its candidates> (+ g at an arc), the whole has <g, z>.
An item of which the whole holds ``share``, whose value matters by ``a``, passes on to its candidates

    share W                                                 their shares: z, from the top down
    a W (1 + x - value)  +  share W (y - <W, y>)            how their values matter: at the arcs, J' g

O(n^3), all spans of a width and all instances at once, as the tree's own programs.
"""

from __future__ import annotations

from typing import Any

import torch

import cvxsst
from cvxsst.arguments import check_utilities, check_values
from cvxsst.autograd import straight_through
from cvxsst.values import holds
from polytopes import _spans
from polytopes._programs import finite, gradient
from polytopes._spans import Chart, Weights
from polytopes.projective_tree import inside, projective_tree


def relaxed_eisner(u: torch.Tensor, hard: bool = False) -> torch.Tensor:
    """The tree of Eisner's algorithm with relaxed decisions, from utilities over temperature.

    Args:
        u: utilities divided by the temperature, ``(*batch, n, n)``; u[i, j] for the arc i -> j, -inf forbids it.
        hard: straight-through: the best tree, with the derivative of the relaxed one.

    Returns:
        ``(*batch, n, n)``, dtype and device of u, differentiable: every node but the root has heads that sum to 1.

    Raises:
        ValueError: no square matrices; NaN or +inf in u; -inf entries that leave no tree.

    Reference: Corro and Titov 2019, "Differentiable Perturb-and-Parse".

    Example:
        >>> import torch
        >>> from polytopes.relaxed_eisner import relaxed_eisner
        >>> relaxed_eisner(torch.zeros(3, 3))
        tensor([[0.0000, 0.7500, 0.5000],
                [0.0000, 0.0000, 0.5000],
                [0.0000, 0.2500, 0.0000]])
    """
    n = u.shape[-1] if u.dim() > 1 else 0
    if n < 1 or u.shape[-2] != n:
        raise ValueError(f"u: expected square matrices (*batch, n, n), got the shape {tuple(u.shape)}")
    P = projective_tree(n)
    check_utilities(P, u)
    check_values(u)
    if n == 1 or not u.numel():
        return u * 0.0
    z = _Relaxed.apply(finite(u).reshape(-1, n, n))[0].reshape(u.shape).to(u.dtype)
    taken = (z != 0) & (u == -torch.inf)
    if hard or holds(taken):
        best = cvxsst.argmax(P, u.detach())  # raises where there is no tree
        return straight_through(z, best) if hard else z
    return z


def by_definition(u: torch.Tensor) -> torch.Tensor:
    """The same for u ``(B, n, n)``, finite, n > 1, in operations that autograd can follow as often as it likes: values
    and amounts of an arc go through the program together; the amount is linear in the arcs, of each its share."""

    def share(x: torch.Tensor, dim: int) -> torch.Tensor:
        return (x[:1].softmax(dim) * x).sum(dim)

    def amount(arcs: torch.Tensor) -> torch.Tensor:
        return inside(torch.stack([u, arcs]), u.shape[-1], share)[1]

    return gradient(amount, torch.zeros_like(u))


def solve(u: torch.Tensor) -> tuple[torch.Tensor, list[Weights], list[Weights], list[Weights]]:
    """z for u ``(n, n, B)``; then for each width W, the shares, and W (1 + x - value)."""
    slopes: list[torch.Tensor] = []

    def mean(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        W = x.softmax(0)
        value = (W * x).sum(0)
        slopes.append(W * (1 + x - value))
        return value, W

    _, weights = _spans.inside(u, mean)
    z, shares = _spans.outside(weights, weights[0].between)
    return z, weights, shares, _in_threes(slopes)


def times_transposed(
    g: torch.Tensor, weights: list[Weights], shares: list[Weights], slopes: list[Weights]
) -> torch.Tensor:
    """J' g ``(n, n, B)`` for g ``(n, n, B)``: the amounts along g upwards, what values matter downwards."""
    n = len(g)
    amounts, matters, found = Chart(n, g), Chart(n, g), torch.zeros_like(g)
    moved: list[Weights] = []  # share W (y - <W, y>)
    for k in range(1, n):
        W, share = weights[k - 1], shares[k - 1]
        value, between = _mean_and_excess(W.between, share.between, amounts.between(k))
        right, left = amounts.arcs(k)
        torch.add(value, g.diagonal(k).T, out=right)
        torch.add(value, g.diagonal(-k).T, out=left)
        value_right, onward = _mean_and_excess(W.onward, share.onward, amounts.onward(k))
        value_left, back = _mean_and_excess(W.back, share.back, amounts.back(k))
        amounts.put(k, value_right, value_left)
        moved.append(Weights(between, onward, back))
    for k in range(n - 1, 0, -1):
        slope, more = slopes[k - 1], moved[k - 1]
        right, left = (torch.add(*places) for places in matters.complete(k))
        _pass_on(matters.onward(k), more.onward.addcmul_(slope.onward, right))
        _pass_on(matters.back(k), more.back.addcmul_(slope.back, left))
        arc_right, arc_left = matters.arcs(k)
        _pass_on(matters.between(k), more.between.addcmul_(slope.between, arc_right + arc_left))
        found.diagonal(k).copy_(arc_right.T)
        found.diagonal(-k).copy_(arc_left.T)
    return found


def _mean_and_excess(W: torch.Tensor, share: torch.Tensor, parts: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """<W, y> ``(positions, B)`` and share W (y - <W, y>) for the candidates' y ``(splits, positions, B)``."""
    y = torch.add(*parts)
    mean = (W * y).sum(0)
    return mean, y.sub_(mean).mul_(W).mul_(share)


def _pass_on(parts: tuple[torch.Tensor, torch.Tensor], amount: torch.Tensor) -> None:
    for part in parts:
        part += amount


def _in_threes(tensors: Any) -> list[Weights]:
    return [Weights(*tensors[i : i + 3]) for i in range(0, len(tensors), 3)]


class _Relaxed(torch.autograd.Function):
    """u ``(B, n, n)`` to z and what its derivative needs; in forward mode and for a second derivative by definition."""

    @staticmethod
    def forward(u: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z, *lists = solve(u.permute(1, 2, 0).contiguous())
        kept = (t.movedim(-1, 0) for threes in lists for three in threes for t in three)
        return z.permute(2, 0, 1).contiguous(), *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor, *_: Any) -> torch.Tensor:
        u, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.func.vjp(by_definition, u)[1](g)[0]
        threes = _in_threes([t.movedim(0, -1) for t in kept])
        third = len(threes) // 3
        found = times_transposed(
            g.permute(1, 2, 0).contiguous(), threes[:third], threes[third : 2 * third], threes[2 * third :]
        )
        return found.permute(2, 0, 1).contiguous()

    @staticmethod
    def jvp(ctx: Any, du: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        u = ctx.saved_tensors[0]
        transposed = torch.func.vjp(by_definition, u)[1]  # linear: J is what it transposes
        Jdu = torch.func.vjp(lambda g: transposed(g)[0], torch.zeros_like(u))[1](du)[0]
        return Jdu, *[None] * (9 * (u.shape[-1] - 1))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], Any]:
        found = _Relaxed.apply(u.movedim(in_dims[0], 0).flatten(0, 1))
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in found), (0,) * len(found)

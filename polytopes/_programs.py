"""Dynamic programs, written once for every sum: ``maximum`` gives the best value, ``log_sum_exp`` log-partitions.

The best value is the maximum of <w, z> over Z, piecewise linear and convex in w; where it is differentiable its
gradient is the maximizer. ``max`` passes its gradient to exactly one of its arguments, so the gradient computed is a
maximizer also at ties: no back-pointers are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# The score of what cannot be: low enough never to win, finite, so that differences and gradients stay numbers.
IMPOSSIBLE = -1e300

Reduce = Callable[[torch.Tensor, int], torch.Tensor]


def finite(u: torch.Tensor) -> torch.Tensor:
    """u with IMPOSSIBLE for -inf."""
    return u.clamp_min(IMPOSSIBLE)


def possible(A: torch.Tensor) -> torch.Tensor:
    """A log-partition of ``finite`` utilities, -inf where no structure is possible."""
    return torch.where(A > IMPOSSIBLE / 2, A, -torch.inf)


def maximum(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x.max(dim).values


def log_sum_exp(x: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.logsumexp(x, dim)


class _Expected(torch.autograd.Function):
    """sum softmax(x) x over the last dimension, with the derivative of the best candidate made soft: softmax(x)."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return (x.softmax(-1) * x).sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return x.softmax(-1) * g[..., None]


def expected(x: torch.Tensor, dim: int) -> torch.Tensor:
    """The mean of the candidates in the proportions softmax(x), which are also what it passes on as its derivative.

    So the "maximizer" is the flow of one unit down the program, divided in these proportions at each choice.
    """
    return _Expected.apply(x.movedim(dim, -1))


def maximizer(
    value: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor, differentiable: bool = False
) -> torch.Tensor:
    """The gradient of a best value ``(*batch,)`` with respect to w; ``differentiable``: itself connected to w."""
    with torch.inference_mode(False), torch.enable_grad():
        # a copy: an inference tensor cannot require a gradient
        leaf = w if differentiable and w.requires_grad else w.detach().clone().requires_grad_()
        best = value(leaf).sum()
        if not best.requires_grad:  # a single structure, whatever w
            return torch.zeros_like(w)
        return torch.autograd.grad(best, leaf, create_graph=differentiable and w.requires_grad)[0]

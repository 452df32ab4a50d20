"""Dynamic programs, written once for every sum: ``maximum`` gives the best value, ``log_sum_exp`` log-partitions,
``drawn`` too, whose gradient is a random structure.

The best value is the maximum of <w, z> over Z, piecewise linear and convex in w; where it is differentiable its
gradient is the maximizer. ``max`` passes its gradient to exactly one of its arguments, so the gradient computed is a
maximizer also at ties: no back-pointers are kept. Likewise the gradient of a log-partition is the mean of the
structures, made of what each sum gives its terms, their probabilities; where each sum gives all to one of its terms,
drawn with these probabilities, it is an exact sample (backward sampling).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# The score of what cannot be: low enough never to win, finite, so that differences and gradients stay numbers.
IMPOSSIBLE = -1e300

Reduce = Callable[[torch.Tensor, int], torch.Tensor]


def finite(u: torch.Tensor) -> torch.Tensor:
    """u ``(...)`` in float64, with IMPOSSIBLE for -inf."""
    return u.double().clamp_min(IMPOSSIBLE)


def possible(A: torch.Tensor) -> torch.Tensor:
    """A log-partition ``(*batch,)`` of ``finite`` utilities, -inf where no structure is possible."""
    return torch.where(A > IMPOSSIBLE / 2, A, -torch.inf)


def maximum(x: torch.Tensor, dim: int) -> torch.Tensor:
    """x ``(...)`` without the dimension."""
    return x.max(dim).values


def log_sum_exp(x: torch.Tensor, dim: int) -> torch.Tensor:
    """x ``(...)`` without the dimension."""
    return torch.logsumexp(x, dim)


def running_maximum(x: torch.Tensor, dim: int) -> torch.Tensor:
    """The maxima of the first entries, of the first two ..., of the shape of x ``(...)``."""
    return x.cummax(dim).values


def running_log_sum_exp(x: torch.Tensor, dim: int) -> torch.Tensor:
    """The same over sums."""
    return torch.logcumsumexp(x, dim)


class _Drawn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int) -> torch.Tensor:
        ctx.dim, ctx.shape = dim, x.shape
        ctx.save_for_backward(choice(x, dim))
        return torch.logsumexp(x, dim)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        place, g = ctx.saved_tensors[0].unsqueeze(ctx.dim), g.unsqueeze(ctx.dim)
        return g.new_zeros(ctx.shape).scatter(ctx.dim, place, g), None


class _RunningDrawn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int) -> torch.Tensor:
        ctx.dim = dim
        ctx.save_for_backward(perturbed(x).cummax(dim).indices)
        return torch.logcumsumexp(x, dim)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.zeros_like(g).scatter_add(ctx.dim, ctx.saved_tensors[0], g), None


def drawn(x: torch.Tensor, dim: int) -> torch.Tensor:
    """As ``log_sum_exp``; the gradient is 1 at one place, drawn with probabilities softmax(x)."""
    return _Drawn.apply(x, dim)


def running_drawn(x: torch.Tensor, dim: int) -> torch.Tensor:
    """As ``running_log_sum_exp``; each sum has such a gradient. Their places depend on one another, which does not
    matter to a program that takes the gradient of one of them."""
    return _RunningDrawn.apply(x, dim)


def choice(x: torch.Tensor, dim: int) -> torch.Tensor:
    """A place along ``dim``, drawn with probabilities softmax(x): the largest after adding Gumbel variables."""
    return perturbed(x).argmax(dim)


def perturbed(x: torch.Tensor) -> torch.Tensor:
    """x ``(...)`` with Gumbel variables added."""
    return x - torch.empty_like(x).exponential_().log()


def greedy(
    u: torch.Tensor, steps: int, open_to: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor], samples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A basis of a matroid by the greedy algorithm on u + Gumbel noise, for u ``(B, n)``: the best of what is open,
    again and again. z ``(samples, B, n)``, and the log-probability ``(samples, B)`` of the choices in their order: each
    is categorical among what is open, whatever was chosen before (exponential waiting times have no memory).

    ``open_to(z, last)``: which entries may follow, ``(samples, B, n)`` bool; ``last`` ``(samples, B)``, None at first.
    """
    u = u.expand(samples, *u.shape)
    z, log_prob = torch.zeros_like(u), u.new_zeros(u.shape[:-1])
    last = None
    for _ in range(steps):
        logits = u.masked_fill(~open_to(z, last), -torch.inf).log_softmax(-1)
        last = choice(logits.detach(), -1)
        log_prob = log_prob + logits.gather(-1, last[..., None])[..., 0]
        z = z.scatter(-1, last[..., None], 1.0)
    return z.detach(), log_prob


def without_replacement(u: torch.Tensor, samples: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """k of n, one after another; ``(*batch, n)`` to ``(samples, *batch, n)`` and ``(samples, *batch)``."""
    z, log_prob = greedy(u.reshape(-1, u.shape[-1]), k, lambda z, last: z == 0, samples)
    return z.reshape(samples, *u.shape), log_prob.reshape(samples, *u.shape[:-1])


def drawn_structures(value: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor, samples: int) -> torch.Tensor:
    """``(samples, *u.shape)`` by a program in sums that are ``drawn``, for u ``(*batch, ...)``."""
    return maximizer(value, finite(u).expand(samples, *u.shape))


def maximizer(value: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor) -> torch.Tensor:
    """The gradient of a best value ``(*batch,)`` with respect to w."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = w.detach().clone().requires_grad_()  # a copy: an inference tensor cannot require a gradient
        best = value(leaf).sum()
        if not best.requires_grad:  # a single structure, whatever w
            return torch.zeros_like(w)
        return torch.autograd.grad(best, leaf)[0]


def gradient(value: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    """The gradient, of the shape of u ``(*batch, ...)``, of the sum of ``value`` ``(*batch,)``: differentiable by
    autograd and under ``torch.func`` transforms."""
    with torch.enable_grad():
        return torch.func.grad(lambda v: value(v).sum())(u)


def times_hessian(value: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The derivative of ``gradient`` along g ``(*batch, ...)``, of its shape, itself differentiable."""
    with torch.enable_grad():
        return torch.func.vjp(lambda v: gradient(value, v), u)[1](g)[0]

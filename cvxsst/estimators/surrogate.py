"""Structures in the forward direction, a gradient of one's own choice in the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from cvxsst.errors import ArgumentTypeError
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem

Rule = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(w: torch.Tensor, z: torch.Tensor, rule: Rule) -> torch.Tensor:
        return z.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        w, _, ctx.rule = inputs
        ctx.save_for_backward(w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (w,) = ctx.saved_tensors
        return ctx.rule(g, w).to(w.dtype).masked_fill(w == -torch.inf, 0.0), None, None


def surrogate(w: torch.Tensor, z: torch.Tensor, rule: Rule) -> torch.Tensor:
    """z ``(*batch, *P.shape)``, whose backward pass gives w the gradient ``rule(g, w)``, once; 0 where w is -inf."""
    return _Surrogate.apply(w, z.detach(), rule)


def checked(P: Polytope, w: torch.Tensor) -> None:
    """Raise a ValueError unless w are utilities over P."""
    Problem.posed(P, w, None, 1.0).inspected()


def checked_strength(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: must be positive and finite, got {value}")
    return float(value)


def inner(P: Polytope, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """<a, b> over the dimensions of P, ``(*batch,)``."""
    return P.flat(a * b).sum(-1)

"""Laplacian systems of small dense graphs, a batch at once: what Newton's method on transport polytopes solves.

    L = diag(W 1) - W,     W >= 0 symmetric, zero diagonal,     L x = f

L is singular, L 1 = 0, and f sums to 0 over every connected component: x is known up to a constant on each, and only
differences within a component are used. The weights may range over hundreds of orders of magnitude: Cholesky's
factorization does not mind, since it makes the same relative errors whatever scales rows and columns alike.

Cost O(n^3).
"""

from __future__ import annotations

from typing import Any

import torch

SEPARATE = 1e-200  # weights below join nothing
# Share of a node's weights by which it is tied to 0 as well. A component's f sums to 0 up to rounding only: without
# ties that would drive apart components that weights of 1e-15 hold together, and pivots would round to 0 or below.
TIE = 1e-13
TRUSTED = 1e-6  # least pivot of a factorization without ties: no component is all but separate


def grounded(diagonal: torch.Tensor) -> torch.Tensor:
    """The diagonal of L ``(B, n)`` with the last node tied to 0: that fixes the constant and changes no difference."""
    diagonal = diagonal.clone()
    diagonal[:, -1] *= 2
    return diagonal


def by_cholesky(L: torch.Tensor, f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x ``(B, n)`` for a grounded L, and whether it can be trusted ``(B,)``."""
    R, _ = torch.linalg.cholesky_ex(L)
    least = R.diagonal(dim1=-2, dim2=-1).amin(-1)
    return torch.cholesky_solve(f[..., None], R)[..., 0], least.square() >= TRUSTED


def solve(W: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """x ``(B, n)``, however weakly the components hang together."""
    weights = W.sum(-1)
    diagonal = torch.where(weights > SEPARATE, (1 + TIE) * weights, 1.0)
    return by_cholesky(torch.diag_embed(grounded(diagonal)) - W, f)[0]


def potentials(W: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """x with L x = f, differentiable any number of times in W (symmetric) and f."""
    return _Potentials.apply(W, f)


class _Potentials(torch.autograd.Function):
    """x = L^+ f:   dx = L^+ (df - dL x),   (dL x)_j = sum_k dW_jk (x_j - x_k)."""

    @staticmethod
    def forward(W: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return solve(W, f)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        W, x = ctx.saved_tensors
        y = potentials(W, e)
        return -0.5 * _differences(y) * _differences(x), y

    @staticmethod
    def jvp(ctx: Any, dW: torch.Tensor | None, df: torch.Tensor | None) -> torch.Tensor:
        W, x = ctx.saved_tensors
        right = torch.zeros_like(x) if df is None else df
        return potentials(W, right if dW is None else right - (dW * _differences(x)).sum(-1))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, W: torch.Tensor, f: torch.Tensor) -> tuple[torch.Tensor, int]:
        size = info.batch_size
        W, f = (
            (t.movedim(dim, 0) if dim is not None else t.expand(size, *t.shape)).flatten(0, 1)
            for t, dim in zip((W, f), in_dims, strict=True)
        )
        return _Potentials.apply(W, f).unflatten(0, (size, -1)), 0


def _differences(x: torch.Tensor) -> torch.Tensor:
    return x[..., :, None] - x[..., None, :]

"""Laplacian systems of small dense graphs, a batch at once: what Newton's method on transport polytopes solves.

    L = diag(W 1) - W,     W >= 0 symmetric, zero diagonal,     L x = f

L is singular, L 1 = 0, and f sums to 0 over every connected component: x is known up to a constant on each, and only
differences within a component are used.

    Cholesky      quick; the error is 1e-16 / (least pivot): of no use where components are all but separate
    elimination   without a single subtraction, so exact however widely the weights range: node k, of weights w to the
                  others, becomes edges w_i w_j / sum w between its neighbours (Grassmann, Taksar and Heyman 1985)

Cost O(n^3) each; the elimination takes n steps for the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch

DOUBTFUL = 1e-6  # least pivot of a Cholesky factorization that is trusted; weights are at most of order 1
SEPARATE = 1e-200  # weights below join nothing
# Share of a node's weights by which it is tied to 0 as well: f sums to 0 over a component up to rounding only, which
# would drive apart components that weights of 1e-15 hold together.
TIE = 1e-13


def tied_last(diagonal: torch.Tensor) -> torch.Tensor:
    """The diagonal of L ``(B, n)`` with the last node tied to 0: that fixes the constant and changes no difference."""
    diagonal = diagonal.clone()
    diagonal[:, -1] *= 2
    return diagonal


def by_cholesky(L: torch.Tensor, f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x ``(B, n)`` and the factor, for L with a tie: NaN or small pivots where it is still nearly singular."""
    R, _ = torch.linalg.cholesky_ex(L)
    return torch.cholesky_solve(f[..., None], R)[..., 0], R


def is_trusted(R: torch.Tensor) -> torch.Tensor:
    """Whether the factorization is: ``(B,)``."""
    return R.diagonal(dim1=-2, dim2=-1).amin(-1).square() >= DOUBTFUL


def by_elimination(W: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """x ``(B, n)``."""
    W, f = (t.movedim(0, -1).clone(memory_format=torch.contiguous_format) for t in (W, f))
    tie, shares, pivots = TIE * W.sum(0), [], []
    for k in range(len(f) - 1, -1, -1):
        weights = W[:k, k]
        pivot = weights.sum(0) + tie[k]
        pivot = torch.where(pivot > SEPARATE, pivot, torch.inf)
        share = weights / pivot
        W[:k, :k] += share[:, None] * weights
        tie[:k] += share * tie[k]
        f[:k] += share * f[k]
        shares.append(share)
        pivots.append(pivot)
    x = torch.zeros_like(f)
    for k, share, pivot in zip(range(len(f)), reversed(shares), reversed(pivots), strict=True):
        x[k] = f[k] / pivot + (share * x[:k]).sum(0)
    return x.movedim(-1, 0)


def solve(W: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """x ``(B, n)``, the quick way where it can be trusted, else the exact one."""
    x, R = by_cholesky(torch.diag_embed(tied_last(W.sum(-1))) - W, f)
    doubtful = (~is_trusted(R)).nonzero().flatten()
    if len(doubtful):
        x[doubtful] = by_elimination(W[doubtful], f[doubtful])
    return x


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

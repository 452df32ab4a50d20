"""Laplacian systems of small dense graphs, a batch at once: what Newton's method on transport polytopes solves.

    L = diag(W 1) - W,     W >= 0 symmetric, zero diagonal,     L x = f

L is singular, L 1 = 0, and f sums to 0 over every connected component: x is known up to a constant on each, and only
differences within a component are used. The weights may range over hundreds of orders of magnitude: Cholesky's
factorization does not mind, since it makes the same relative errors whatever scales rows and columns alike.

Cost O(n^3).
"""

from __future__ import annotations

import torch

from cvxsst.autograd import SymmetricSystem

SEPARATE = 1e-200  # weights below join nothing
# Share of a node's weights by which it is tied to 0 as well. A component's f sums to 0 up to rounding only: without
# ties that would drive apart components that weights of 1e-15 hold together, and pivots would round to 0 or below.
TIE = 1e-13
TRUSTED = 1e-6  # least pivot of a factorization without ties: no component is all but separate


def grounded(diagonal: torch.Tensor, ground: torch.Tensor | None = None) -> torch.Tensor:
    """The diagonal of L ``(B, n)`` with one node of each component tied to 0: that fixes the constants and changes no
    difference. ``ground``: which nodes, ``(B, n)``, bool; by default the last, of a single component."""
    diagonal = diagonal.clone()
    if ground is None:
        diagonal[:, -1] *= 2
        return diagonal
    return torch.where(ground, 2 * diagonal.clamp_min(SEPARATE), diagonal)


def by_cholesky(L: torch.Tensor, f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x ``(B, n)`` for a grounded L ``(B, n, n)`` and f ``(B, n)``, and whether it can be trusted ``(B,)``."""
    R, _ = torch.linalg.cholesky_ex(L)
    least = R.diagonal(dim1=-2, dim2=-1).amin(-1)
    return torch.cholesky_solve(f[..., None], R)[..., 0], least.square() >= TRUSTED


def solve(f: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """x ``(B, n)`` for f ``(B, n)`` and W ``(B, n, n)``, however weakly the components hang together."""
    weights = W.sum(-1)
    diagonal = torch.where(weights > SEPARATE, (1 + TIE) * weights, 1.0)
    return by_cholesky(torch.diag_embed(grounded(diagonal)) - W, f)[0]


def _differences(x: torch.Tensor) -> torch.Tensor:
    """x_j - x_k, ``(B, n, n)`` for x ``(B, n)``."""
    return x[..., :, None] - x[..., None, :]


# x with L x = f, called with f and W (symmetric) and differentiable any number of times in both:
# (L x)_j = sum_k W_jk (x_j - x_k),   <y, L x> = sum_jk W_jk (y_j - y_k) (x_j - x_k) / 2
potentials = SymmetricSystem(
    solve,
    times=lambda dW, x: (dW * _differences(x)).sum(-1),
    pairing=lambda y, x: 0.5 * _differences(y) * _differences(x),
)

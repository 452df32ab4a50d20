"""Move what n places have to where m places want it: transport plans, with marginals that may be learned.

    P(r, c) = {z >= 0, z 1 = r, z'1 = c},      sum r = sum c

r and c are parameters: ``transport(3, 4).at(r=r, c=c)``, tensors with batch dimensions and gradients. With r = c = 1
it is the Birkhoff polytope; its vertices are plans whose support is a forest (Klee and Witzgall 1968).

    CategoricalEntropy   z = exp(u - a 1' - 1 b'): Sinkhorn's sweeps, finished by Newton on the dual b: entropic
                         optimal transport (Cuturi 2013) with costs -w at the temperature T

*Newton.* With a eliminated z_ij = r_i p_ij, p the softmax of the rows of u - 1 b'; the columns' sums are right where

    L db = z'1 - c,      L the Laplacian of a graph, W_jk = sum_i r_i p_ij p_ik

*Derivative.* Two of these steps from the solution are differentiated by autograd: they move nothing, and each doubles
the order of the derivatives in u, r and c that are right (here the first three).
"""

from __future__ import annotations

import cvxpy as cp
import torch

from cvxsst import CategoricalEntropy, polytope
from cvxsst.autograd import without_derivative
from cvxsst.values import holds
from polytopes._arguments import require_size
from polytopes._potentials import potentials

STEPS = 60
TOLERANCE = 1e-13  # of the columns' sums, relative to the whole
ACCEPTED = 1e-12
PROGRESS = 0.5  # what a Newton step must leave at most of what is missing; else a sweep is made
DIFFERENTIATED = 2


@polytope
def transport(n: int, m: int):
    """The transport polytope: plans z ``(n, m)`` with row sums r and column sums c.

    Args:
        n, m: how many places have something, and want something; at least 1.

    Shape ``(n, m)``; parameters ``r`` ``(n,)`` and ``c`` ``(m,)``, nonnegative, with equal sums (a difference by
    rounding is taken off both, and gradients are those along equal sums).

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import transport
        >>> P = transport(2, 2).at(r=torch.tensor([0.5, 0.5]), c=torch.tensor([0.75, 0.25]))
        >>> cvxsst.argmax(P, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([[0.2500, 0.2500],
                [0.5000, 0.0000]])
    """
    require_size("n", n, 1)
    require_size("m", m, 1)
    z, r, c = cp.Variable((n, m)), cp.Parameter(n, nonneg=True, name="r"), cp.Parameter(m, nonneg=True, name="c")
    return z, [z >= 0, cp.sum(z, axis=1) == r, cp.sum(z, axis=0) == c]


@transport.softmax(CategoricalEntropy)
def sinkhorn(u: torch.Tensor, n: int, m: int, r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """``(*batch, n, m)`` to the same; NaN where it does not arrive, as at marginals of 0."""
    batch = u.shape[:-2]
    flat = u.reshape(-1, n, m), r.expand(*batch, n).reshape(-1, n), c.expand(*batch, m).reshape(-1, m)
    b = without_derivative(_dual, *(part.detach() for part in flat))
    return _plan(*flat, b).reshape(u.shape)


def _plan(u: torch.Tensor, r: torch.Tensor, c: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """z ``(B, n, m)`` for the right b ``(B, m)``, with the derivatives of its dependence on the others."""
    for _ in range(DIFFERENTIATED):
        b = b + _step(_rows(u, b), r, c)
    return r[..., None] * _rows(u, b)


def _rows(u: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """p ``(B, n, m)``."""
    return torch.softmax(u - b[..., None, :], -1)


def _step(p: torch.Tensor, r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Newton's step in b ``(B, m)``."""
    off_diagonal = 1 - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    W = off_diagonal * (p.mT @ (r[..., None] * p))
    return potentials(_columns(p, r) - c, W)


def _columns(p: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    return (r[..., None] * p).sum(-2)


def _dual(u: torch.Tensor, r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """b ``(B, m)``: Newton's steps where they help, Sinkhorn's sweeps where they do not; NaN where neither arrives."""
    b, total = torch.zeros_like(c), c.sum(-1, keepdim=True).clamp_min(1e-300)

    def missing(b: torch.Tensor) -> torch.Tensor:
        return ((_columns(_rows(u, b), r) - c).abs().amax(-1, keepdim=True) / total).nan_to_num(nan=torch.inf)

    left = missing(b)
    for _ in range(STEPS):
        if not holds(left > TOLERANCE):
            break
        newton = b + _step(_rows(u, b), r, c)
        after = missing(newton)
        sweep = b + _columns(_rows(u, b), r).log() - c.log()
        b = torch.where(left <= TOLERANCE, b, torch.where(after <= PROGRESS * left, newton, sweep))
        left = missing(b)
    return torch.where(left <= ACCEPTED, b, torch.nan)

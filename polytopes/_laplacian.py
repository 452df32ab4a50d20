"""The matrix-tree theorem without subtractions: sums over all arborescences rooted at node 0.

    A(u) = log sum over arborescences z of exp <u, z> = log det L,     L: the Laplacian of exp u without the root
                                                                       (Tutte 1948; undirected: Kirchhoff 1847)

Gaussian elimination loses everything where the weights span many orders of magnitude: the diagonal of L is a sum of
weights, the pivots are what subtraction leaves of it. But the Schur complement of a Laplacian is a Laplacian again. So
only the weights w need to be carried along, and all operations are on positive numbers (Grassmann, Taksar and Heyman
1985; in electrical terms the star-mesh transform):

    eliminate k = n-1, ..., 1:      s_k = sum_i w_ik,   p_i = w_ik / s_k,   w_ij += p_i w_kj     (i, j < k)      (1)

    A = sum_k log s_k

The derivative R = dA / dw, by which z = w R, is found on the way back:

    R_kj = sum_i p_i R_ij,      R_ik = (1 + sum_j (R_ij - R_kj) w_kj) / s_k                                      (2)

in which errors stay in proportion to 1 / w, hence small in z. Each is n steps of O(n^2) for all instances at once.

Where the inverse M of L has no large entries few digits are lost, and none of this is needed:

    R_ij = M_jj - M_ji,     dM = -M dL M        (M = 0 for the root)                                             (3)

Weights that underflow are done once more with logarithms in place of weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from cvxsst.autograd import SymmetricMap
from cvxsst.values import holds
from polytopes._programs import IMPOSSIBLE, choice, gradient, times_hessian

TAME = 100.0  # entries of M up to which (3) loses no more than four digits
LEAST = 1e-280  # a smaller sum of weights may have lost a part by underflow


def log_partition(u: torch.Tensor) -> torch.Tensor:
    """A(u) for u ``(*batch, n, n)``, u[i, j] for the arc from i to j, IMPOSSIBLE where there is none: (1) in logs, or
    log det L, where no derivative is asked for and M has no large entries."""
    if not torch.is_grad_enabled() and u.shape[-1] > 1:
        return _log_determinant(u.reshape(-1, *u.shape[-2:])).reshape(u.shape[:-2])
    return _eliminated(u)


def _log_determinant(u: torch.Tensor) -> torch.Tensor:
    """A ``(B,)`` for u ``(B, n, n)``."""
    flat, shift = _shifted(u)
    L = _laplacian(flat.exp())
    found = torch.linalg.inv_ex(L)
    A = torch.linalg.slogdet(L).logabsdet + shift[:, 0, 1:].sum(1)
    lost = ~((found.info == 0) & (found.inverse.abs().flatten(1).amax(1) <= TAME))
    if holds(lost):
        A[lost] = _eliminated(u[lost])
    return A


def _shifted(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """u ``(B, n, n)`` with IMPOSSIBLE where no arc can be, less the largest of each column, and that ``(B, 1, n)``: z
    does not change when all arcs into a node get the same bonus."""
    outside = torch.eye(u.shape[-1], dtype=torch.bool, device=u.device)
    outside[:, 0] = True
    u = u.masked_fill(outside, IMPOSSIBLE)
    largest = u.amax(-2, keepdim=True).detach().clamp_min(IMPOSSIBLE / 2)
    return u - largest, largest


def _eliminated(u: torch.Tensor) -> torch.Tensor:
    """(1) in logs: A for u ``(*batch, n, n)``."""
    n = u.shape[-1]
    A = u.new_zeros(u.shape[:-2])
    for k in range(n - 1, 0, -1):
        column, row = u[..., :k, k], u[..., k, :k]
        log_s = column.logsumexp(-1)
        A = A + log_s
        through_k = (column - log_s[..., None])[..., :, None] + row[..., None, :]
        u = torch.stack([u[..., :k, :k], through_k]).logsumexp(0)  # logaddexp has no second derivative at IMPOSSIBLE
    return A


def softmax(u: torch.Tensor) -> torch.Tensor:
    """z = grad A(u) for u ``(*batch, n, n)`` as in ``log_partition``; diagonal and column 0 are 0.

    NaN where the arcs that are possible leave no arborescence.
    """
    n = u.shape[-1]
    if n == 1:
        return torch.zeros_like(u) * u.nan_to_num()  # no arc at all
    return _MARGINALS(_shifted(u.reshape(-1, n, n))[0]).reshape(u.shape)


def sample(u: torch.Tensor, samples: int) -> torch.Tensor:
    """Heads ``(samples, B, n)`` of random arborescences, p(z) ~ exp <u, z>, for u ``(B, n, n)`` as in
    ``log_partition``; the root's own head is 0.

    The elimination (1) in reverse. An arc from i to j in the graph without k stands for the arc itself, or for the way
    by k, in proportion to w_ij and p_i w_kj. So, given a tree without k, each of its nodes becomes a child of k with
    this probability; cut off from their heads they leave a part R with the root, and the head of k is i in R with
    probability p_i / p(R). That this is exact is Cayley's formula with weights: over all heads i_1 ... i_m that make a
    tree of R and m parts, the sum of p_(i_1) ... p_(i_m) is p(R) (as sum p = 1), whatever the parts are.

    Without subtractions, for weights of any range, where random walks (Wilson 1996) take forever.
    Cost: O(n^3) an instance, O(n^2 log n) a sample.
    """
    B, n = u.shape[:2]
    steps = []
    for k in range(n - 1, 0, -1):
        column, row, rest = u[:, :k, k], u[:, k, :k], u[:, :k, :k]
        p = column - column.logsumexp(-1, keepdim=True)
        by_k = p[:, :, None] + row[:, None, :]
        steps.append((k, p, (by_k - rest).sigmoid()))
        u = torch.logaddexp(rest, by_k).clamp_min(IMPOSSIBLE)
    head = torch.zeros(samples, B, n, dtype=torch.long, device=u.device)
    for k, p, chance in reversed(steps):
        before = head[:, :, :k]
        child = torch.bernoulli(chance.expand(samples, B, k, k).gather(2, before[:, :, None])[:, :, 0]).bool()
        child[:, :, 0] = False
        outside_R = _below(before, child)
        head[:, :, k] = choice(p.expand(samples, B, k).masked_fill(outside_R, -torch.inf), -1)
        head[:, :, :k] = torch.where(child, k, before)
    return head


def _below(head: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    """Which nodes are marked or have a marked ancestor: ``(..., k)`` heads and marks, the root its own head."""
    for _ in range(head.shape[-1].bit_length()):
        marked, head = marked | marked.gather(-1, head), head.gather(-1, head)
    return marked


def marginals(u: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """z for u ``(B, n, n)`` with a largest weight of 1 into each node; then M, if it will do, else the elimination."""
    w = u.exp()
    M = inverse(w)
    if not holds(~(M.abs().flatten(1).amax(1) <= TAME)):
        return w * _from_inverse(M), M, *Elimination.none(w)
    e = Elimination.of(w)
    z = w * e.R
    lost = ~torch.isfinite(z).flatten(1).all(1)
    if holds(lost):
        z[lost] = in_logs(u[lost])
    return z, M[:, :0], *e


def times_covariance(
    g: torch.Tensor, u: torch.Tensor, z: torch.Tensor, M: torch.Tensor, *elimination: torch.Tensor
) -> torch.Tensor:
    """J g for g, u and z ``(B, n, n)``; itself differentiable, by way of logarithms, where autograd asks for it."""
    if torch.is_grad_enabled():
        return times_hessian(log_partition, u, g)
    e, w = Elimination(*elimination), u.exp()
    if not e.R.numel():
        return z * g + w * _from_inverse(-M @ _laplacian(w * g) @ M)
    Jg = e.derivative(w, g)
    lost = ~torch.isfinite(Jg).flatten(1).all(1)
    if holds(lost):
        Jg[lost] = times_hessian(log_partition, u[lost], g[lost])
    return Jg


_MARGINALS = SymmetricMap(marginals, times_covariance)


def _laplacian(w: torch.Tensor) -> torch.Tensor:
    """L without the root, ``(B, n - 1, n - 1)``, for w ``(B, n, n)``."""
    return torch.diag_embed(w[:, :, 1:].sum(1)) - w[:, 1:, 1:]


def inverse(w: torch.Tensor) -> torch.Tensor:
    """M ``(B, n - 1, n - 1)`` for w ``(B, n, n)``; NaN where L is singular."""
    found = torch.linalg.inv_ex(_laplacian(w))
    return torch.where((found.info == 0)[:, None, None], found.inverse, torch.nan)


def _from_inverse(M: torch.Tensor) -> torch.Tensor:
    """R ``(B, n, n)``, R_ij = M_jj - M_ji, for M ``(B, n - 1, n - 1)``."""
    R = M.diagonal(dim1=1, dim2=2)[:, None, :] - torch.nn.functional.pad(M.mT, (0, 0, 1, 0))
    return torch.nn.functional.pad(R, (1, 0))


def in_logs(u: torch.Tensor) -> torch.Tensor:
    """z for u ``(B, n, n)``, NaN where no arborescence is possible."""
    possible = log_partition(u) > IMPOSSIBLE / 2
    return gradient(log_partition, u).where(possible[:, None, None], torch.nan)


class Elimination(NamedTuple):
    """(1) and (2) carried out: s ``(B, n)``, R ``(B, n, n)``, and in one matrix ``(B, n, n)`` the p as columns (above
    the diagonal) and the w_kj as rows (below it)."""

    s: torch.Tensor
    p_and_w: torch.Tensor
    R: torch.Tensor

    @staticmethod
    def none(w: torch.Tensor) -> Elimination:
        """Of no use to any instance of w ``(B, n, n)``."""
        return Elimination(w[:, 0, :0], w[:, :0], w[:, :0])

    @staticmethod
    def of(w: torch.Tensor) -> Elimination:
        """For w ``(B, n, n)``; NaN where no arborescence is left, or a sum is too small to be trusted."""
        w, n = w.clone(), w.shape[-1]
        sums = w.new_zeros(w.shape[:2])
        for k in range(n - 1, 0, -1):
            s = w[:, :k, k].sum(1, keepdim=True)
            sums[:, k : k + 1] = torch.where(s > LEAST, s, torch.nan)
            w[:, :k, k] /= sums[:, k : k + 1]
            w[:, :k, :k].addcmul_(w[:, :k, k, None], w[:, k, None, :k])
        R = torch.zeros_like(w)
        for k in range(1, n):
            p, row, inner = w[:, :k, k], w[:, k, :k], R[:, :k, :k]
            q = (p[:, None, :] @ inner)[:, 0]
            R[:, k, :k] = q
            R[:, :k, k] = (1 + _times(inner, row) - _dot(q, row)) / sums[:, k : k + 1]
        return Elimination(sums, w, R)

    def derivative(self, w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """J g for w and g ``(B, n, n)``: the tangents of (1) and (2) along dw = w g, in the same places."""
        n = w.shape[-1]
        dw, ds = w * g, torch.zeros_like(self.s)
        for k in range(n - 1, 0, -1):
            s, p, row = self._step(k)
            ds[:, k] = dw[:, :k, k].sum(1)
            dw[:, :k, k] = (dw[:, :k, k] - p * ds[:, k : k + 1]) / s
            dw[:, :k, :k].addcmul_(dw[:, :k, k, None], row[:, None, :]).addcmul_(p[:, :, None], dw[:, k, None, :k])
        dR = torch.zeros_like(w)
        for k in range(1, n):
            (s, p, row), dp, drow = self._step(k), dw[:, :k, k], dw[:, k, :k]
            R, q, inner = self.R[:, :k, :k], self.R[:, k, :k], dR[:, :k, :k]
            dq = (dp[:, None, :] @ R + p[:, None, :] @ inner)[:, 0]
            dR[:, k, :k] = dq
            moved = _times(inner, row) + _times(R, drow) - _dot(dq, row) - _dot(q, drow)
            dR[:, :k, k] = (moved - self.R[:, :k, k] * ds[:, k : k + 1]) / s
        return w * self.R * g + w * dR

    def _step(self, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.s[:, k : k + 1], self.p_and_w[:, :k, k], self.p_and_w[:, k, :k]


def _times(M: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """M v ``(B, k)`` for M ``(B, k, k)``, v ``(B, k)``."""
    return (M @ v[:, :, None])[:, :, 0]


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``(B, 1)`` for a, b ``(B, k)``."""
    return (a * b).sum(1, keepdim=True)

"""dz/du on the face on which the solution lies.

With R the rows of the affine hull and of the tight inequalities, and H = 1 / phi'', 0 where z is at a bound:

    dz = H (du - R'dmu),      (R H R') dmu = R H du

The tight inequalities whose multiplier is positive need not span the face: at u = 0 all facets of a symmetric polytope
may be tight, and as many multipliers as there are dimensions tell z. So the others that are tight join them, as far as
they are independent as far as H can tell.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from cvxsst.autograd import SymmetricSystem
from cvxsst.engines.facets.newton import Found, Program
from cvxsst.engines.facets.rows import Factor, Rows

TIGHT, DIGITS = 1e-12, 10.0  # slack up to which an inequality is tight: in units of z, and of the residual
INDEPENDENT = 1e-10  # of its square in H: what is left of a row beside the others
DOUBTFUL = 1e-8  # from here on that is looked at again, by elimination
REGULARIZATION = 1e-14
REFINEMENTS, MOST_REFINEMENTS = 2, 10  # so many, and then until the last moves dz by DONE of H g at most
DONE = 1e-12
ACCURACY = 1e-7  # of R dz = 0, for g of largest entry 1, and of the last refinement


def face(program: Program, found: Found) -> torch.Tensor:
    """Rows ``(B, K, n)`` that with E span the normals of the face of z, independent; the rest of them zeros."""
    count = int((found.lam > 0).sum(1).amax()) if found.lam.numel() else 0
    if not count:
        return found.W[:, :0]
    lam, order = found.lam.topk(count, dim=1)
    W = found.W.gather(1, order[..., None].expand(-1, -1, found.W.shape[2])).masked_fill((lam <= 0)[..., None], 0.0)
    H = program.slope(found.z, found.inside)
    W = _independent(program.E, W, H)
    some, generator = (lam[:, 0] > 0).nonzero()[:, 0], torch.Generator().manual_seed(0)
    slack = (DIGITS * found.residual).clamp_min(TIGHT * program.size)[:, None]
    for _ in range(W.shape[2]):
        z, slope = found.z[some], H[some]
        d = torch.randn(z.shape[1], generator=generator, dtype=z.dtype).to(z.device)
        v = _normal_to(Rows(program.E, W[some]), slope)(d.expand_as(z))
        v = v / (slope * v).abs().amax(1, keepdim=True).clamp_min(1e-300)
        d = slope * v  # <row, d> is 0 for the rows so far, as far as H can tell
        more = program.inequalities.tight(z, slack[some], d)
        new = (more * d).sum(1) > INDEPENDENT * slope.amax(1) * (v * d).sum(1)
        if not bool(new.any()):
            break
        some = some[new]
        W = torch.nn.functional.pad(W, (0, 0, 0, 1))
        W[some, -1] = torch.nn.functional.normalize(more[new])
    return W


def times_jacobian(
    program: Program, g: torch.Tensor, z: torch.Tensor, W: torch.Tensor, inside: torch.Tensor
) -> torch.Tensor:
    """(dz/du) g for g, z ``(B, n)`` and the rows of ``face``; NaN where that leaves the face."""
    H = program.slope(z, inside)
    if not len(program.e) and not W.shape[1]:
        return H * g
    size = g.abs().amax(1, keepdim=True).clamp_min(1e-300)
    g = g / size
    return size * (H * (g - _projected(H * g, H, W, program)))


def _project(c: torch.Tensor, H: torch.Tensor, W: torch.Tensor, program: Program) -> torch.Tensor:
    """R'(R H R')^-1 R c."""
    chunks = zip(*(x.tensor_split(program.chunks(len(c), W.shape[1])) for x in (c, H, W)), strict=True)
    return torch.cat([_projection(Rows(program.E, W), c, H) for c, H, W in chunks])


def _projection(rows: Rows, c: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    S = _regular(rows.normal_matrix(H))
    factor, right = Factor(S, REGULARIZATION), rows.times(c)
    x, missed, size = torch.zeros_like(right), right, c.abs().amax(1)
    for step in range(1 + MOST_REFINEMENTS):
        dx = factor.solve(missed)
        x = x + dx
        missed = right - (S @ x[..., None])[..., 0]
        last = (H * rows.transposed(dx)).abs().amax(1)
        if step >= REFINEMENTS and bool((last <= DONE * size).all()):
            break
    right_enough = (missed.abs().amax(1) <= ACCURACY) & (last <= ACCURACY * size)
    return rows.transposed(x).masked_fill(~right_enough[:, None], torch.nan)


def _regular(S: torch.Tensor) -> torch.Tensor:
    """1 on the diagonal for rows along which nothing moves."""
    diagonal = S.diagonal(dim1=1, dim2=2)
    diagonal.add_((diagonal == 0).to(S))
    return S


def _normal_to(rows: Rows, H: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """v ``(B, n)`` to what is left of it beside the rows: R H v = 0."""
    factor = Factor(_regular(rows.normal_matrix(H)), REGULARIZATION)
    return lambda v: v - rows.transposed(factor.solve(rows.times(H * v)))


def _independent(E: torch.Tensor, W: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """The rows of W ``(B, K, n)``, zeros in place of those that depend on E and the rows before them."""
    m = len(E)
    pivots = Factor(_regular(Rows(E, W).normal_matrix(H)), REGULARIZATION).L.diagonal(dim1=1, dim2=2)[:, m:].square()
    doubtful = (pivots < DOUBTFUL).any(1).nonzero()[:, 0]
    if not len(doubtful):
        return W
    rows = W[doubtful]
    S = Rows(E, rows).normal_matrix(H[doubtful])
    own = S.diagonal(dim1=1, dim2=2).clone()
    keep = torch.zeros_like(own, dtype=torch.bool)
    for j in range(m + W.shape[1]):  # elimination, row by row
        pivot = S[:, j, j]
        keep[:, j] = pivot > INDEPENDENT * own[:, j]
        column = S[:, :, j] * torch.where(keep[:, j], pivot.clamp_min(1e-300).rsqrt(), 0.0)[:, None]
        S = S - column[:, :, None] * column[:, None]
    return W.index_put((doubtful,), rows.masked_fill(~keep[:, m:, None], 0.0))


_projected = SymmetricSystem(_project)

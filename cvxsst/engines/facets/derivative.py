"""dz/du on the face on which the solution lies.

With R the rows of the affine hull and of the tight inequalities, and H = 1 / phi'', 0 where z is at a bound:

    dz = H (du - R'dmu),      (R H R') dmu = R H du

The tight inequalities whose multiplier is positive need not span the face: at u = 0 all facets of a symmetric polytope
may be tight, and as many multipliers as there are dimensions tell z. So the others that are tight join them, as far as
they are independent as far as H can tell.
"""

from __future__ import annotations

import torch

from cvxsst.autograd import SymmetricSystem
from cvxsst.engines.facets.newton import Found, Program

TIGHT = 1e-10  # slack, in units of z, up to which an inequality is tight
INDEPENDENT = 1e-10  # of its square in H: what is left of a row beside the others
DOUBTFUL = 1e-8  # from here on that is looked at again, by elimination
REGULARIZATION = 1e-14


def slopes(program: Program, z: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
    """H: how z moves with its own utility, 0 where it is clamped; differentiable in z."""
    H = program.f.slope(z) * ((z > program.low) & (z < program.high))
    return H if forbidden is None else H.masked_fill(forbidden, 0.0)


def face(program: Program, found: Found, forbidden: torch.Tensor | None) -> torch.Tensor:
    """Rows ``(B, K, n)`` that with E span the normals of the face of z, independent; the rest of them zeros."""
    count = int((found.lam > 0).sum(1).amax()) if found.lam.numel() else 0
    if not count:
        return found.W[:, :0]
    lam, order = found.lam.topk(count, dim=1)
    W = found.W.gather(1, order[..., None].expand(-1, -1, found.W.shape[2])).masked_fill((lam <= 0)[..., None], 0.0)
    H = slopes(program, found.z, forbidden)
    W = _independent(program.E, W, H)
    some, generator = (lam[:, 0] > 0).nonzero()[:, 0], torch.Generator().manual_seed(0)
    for _ in range(W.shape[2]):
        z, rows, slope = found.z[some], W[some], H[some]
        d = torch.randn(z.shape[1], generator=generator, dtype=torch.float64).to(z).expand_as(z)
        more = program.inequalities.tight(z, TIGHT * program.size, d - _project(slope * d, slope, rows, program))
        length = (slope * more.square()).sum(1)
        outside = more - _project(slope * more, slope, rows, program)
        new = (slope * outside.square()).sum(1) > INDEPENDENT * length
        if not bool(new.any()):
            break
        some = some[new]
        W = torch.nn.functional.pad(W, (0, 0, 0, 1))
        W[some, -1] = more[new] / more[new].norm(dim=1, keepdim=True)
    return W


def times_jacobian(
    program: Program, g: torch.Tensor, z: torch.Tensor, W: torch.Tensor, forbidden: torch.Tensor | None
) -> torch.Tensor:
    """(dz/du) g for g, z ``(B, n)`` and the rows of ``face``."""
    H = slopes(program, z, forbidden)
    if not len(program.e) and not W.shape[1]:
        return H * g
    size = g.abs().amax(1, keepdim=True).clamp_min(1e-300)
    g = g / size
    return size * (H * (g - _projected(H * g, H, W, program)))


def _project(c: torch.Tensor, H: torch.Tensor, W: torch.Tensor, program: Program) -> torch.Tensor:
    """R'(R H R')^-1 R c."""
    L, root, S = _factor(program.E, W, H)
    R = torch.cat([program.E.expand(len(W), -1, -1), W], 1) if W.shape[1] else program.E.expand(len(c), -1, -1)
    right = R @ c[..., None]

    def solve(right: torch.Tensor) -> torch.Tensor:
        return root * torch.cholesky_solve(root * right, L)

    x = solve(right)
    x = x + solve(right - S @ x)
    return (R.mT @ x)[..., 0]


def _factor(E: torch.Tensor, W: torch.Tensor, H: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cholesky factor of R H R' scaled to a diagonal of 1, the scale, and R H R'."""
    R = torch.cat([E.expand(len(H), -1, -1), W], 1) if W.shape[1] else E.expand(len(H), -1, -1)
    S = (R * H[:, None]) @ R.mT
    diagonal = S.diagonal(dim1=1, dim2=2)
    S = S + torch.diag_embed((diagonal == 0).to(S))
    root = S.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()[..., None]
    eye = torch.eye(S.shape[1], dtype=S.dtype, device=S.device)
    L, _ = torch.linalg.cholesky_ex(root * S * root.mT + REGULARIZATION * eye)
    return L, root, S


def _independent(E: torch.Tensor, W: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """The rows of W ``(B, K, n)``, zeros in place of those that depend on E and the rows before them."""
    L, *_ = _factor(E, W, H)
    doubtful = (L.diagonal(dim1=1, dim2=2)[:, len(E) :].square() < DOUBTFUL).any(1).nonzero()[:, 0]
    if not len(doubtful):
        return W
    rows = W[doubtful]
    R = torch.cat([E.expand(len(rows), -1, -1), rows], 1)
    S = (R * H[doubtful, None]) @ R.mT
    own, keep = S.diagonal(dim1=1, dim2=2).clone(), torch.zeros(R.shape[:2], dtype=torch.bool, device=W.device)
    for j in range(R.shape[1]):  # elimination, row by row
        pivot = S[:, j, j]
        keep[:, j] = pivot > INDEPENDENT * own[:, j]
        column = S[:, :, j] * torch.where(keep[:, j], pivot.clamp_min(1e-300).rsqrt(), 0.0)[:, None]
        S = S - column[:, :, None] * column[:, None]
    return W.index_put((doubtful,), rows.masked_fill(~keep[:, len(E) :, None], 0.0))


_projected = SymmetricSystem(_project)

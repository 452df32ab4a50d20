"""dz/du at the solution, by the optimality conditions.

*In general.* With lam the multipliers of G x <= h and s the slacks, w = lam / s is infinite for active constraints
and 0 for the others:

    [ diag(phi'') + G'diag(w) G   A' ] [dx ]   [du]
    [ A                           0  ] [dnu] = [0 ]          z takes part with phi'', y with 0

*Bounds and equalities only.* With H = 1 / phi'', 0 where z is at a bound:

    dz = H (du - A'dnu),       (A H A') dnu = A H du

Both are linear maps of du that are symmetric and depend on z through phi'' or H alone: K(d) g with d = phi'' or d = H.
For such a map the derivative in d costs two more applications, so that one autograd function serves every order:

    K = M^-1:          dK g = -K (dd * K g)          with M' = diag
    R = A'(A H A')^-1 A:   dR c = -R (dH * R c)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cvxsst.engines.kkt.elimination import cholesky
from cvxsst.engines.kkt.interior import EDGE, PROXIMAL, System

if TYPE_CHECKING:
    from cvxsst.engines.kkt.engine import Part

# lam / s beyond this says no more than "active". What is held this firmly still yields by 1 / HEAVY of the curvature,
# times the square of the scale of z; from 1e13 on the factorization loses its digits.
HEAVY = 1e11
REFINEMENTS = 5


def sensitivity(part: Part, g: torch.Tensor, z: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    """(dz/du) g for g, z ``(B, n)``; ``active`` as ``Part.solve`` returns it."""
    box = part.box(z.device)
    if box is None:
        curvature = (1 / part.interior(z.device).entries.slope(z)).clamp_max(1 / EDGE)
        return _Linear.apply(g, curvature, active, part)
    H = box.entries.slope(z) * (1 - active)
    if not len(box.b):
        return H * g
    return H * (g - _Linear.apply(H * g, H, active, part))


class _Linear(torch.autograd.Function):
    """K(d) g: symmetric and linear in g, with the derivative -K (dd * K g) in d."""

    @staticmethod
    def forward(g: torch.Tensor, d: torch.Tensor, active: torch.Tensor, part: Part) -> torch.Tensor:
        # scaled: the incoming gradient may be of any size
        size = g.abs().amax(dim=1, keepdim=True).clamp_min(1e-300)
        apply = _by_elimination if part.box(g.device) is None else _by_equalities
        chunks = zip(*(t.split(part.chunk(g.device)) for t in (g / size, d, active)), strict=True)
        parts = [apply(part, *(t.T for t in chunk)).T for chunk in chunks]
        return torch.cat(parts) * size if parts else g

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        _, d, active, ctx.part = inputs
        ctx.save_for_backward(output, d, active)
        ctx.save_for_forward(output, d, active)

    @staticmethod
    def backward(ctx: Any, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        Kg, d, active = ctx.saved_tensors
        Ke = _Linear.apply(e, d, active, ctx.part)
        return Ke, -Ke * Kg, None, None

    @staticmethod
    def jvp(ctx: Any, dg: torch.Tensor | None, dd: torch.Tensor | None, *_: None) -> torch.Tensor:
        Kg, d, active = ctx.saved_tensors
        change = torch.zeros_like(Kg) if dg is None else dg
        return _Linear.apply(change if dd is None else change - dd * Kg, d, active, ctx.part)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, g: torch.Tensor, d: torch.Tensor, active: torch.Tensor, part: Part):
        size = info.batch_size
        flat = [
            (t.movedim(dim, 0) if dim is not None else t.expand(size, *t.shape)).flatten(0, 1)
            for t, dim in zip((g, d, active), in_dims[:3], strict=True)
        ]
        return _Linear.apply(*flat, part).unflatten(0, (size, -1)), 0


def _by_elimination(part: Part, g: torch.Tensor, curvature: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    program = part.interior(g.device)
    lifted = len(program.start) - program.n
    exact = torch.cat([curvature, curvature.new_zeros(lifted, g.shape[1])])
    regularized = torch.cat([curvature, (PROXIMAL * curvature.amin(dim=0)).expand(lifted, -1)])
    system = System(program, regularized, weight.clamp_max(HEAVY), (exact, 0.0))
    f = torch.cat([g, g.new_zeros(lifted, g.shape[1])])
    v, _ = system.solve(f, g.new_zeros(len(program.b), g.shape[1]), REFINEMENTS)
    return v[: program.n]


def _by_equalities(part: Part, c: torch.Tensor, H: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    program = part.box(c.device)
    assert program is not None
    S = program.normal_matrix(H)
    L = cholesky(S)
    right = (program.A @ c).T[..., None]
    nu = torch.cholesky_solve(right, L)
    nu = nu + torch.cholesky_solve(right - S @ nu, L)
    return program.A.T @ nu[..., 0].T

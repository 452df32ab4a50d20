"""The engine ``"kkt"``: a batch of utilities to z and its derivatives."""

from __future__ import annotations

import torch

from cvxsst.engines.base import LEFT, At, Engine, Solution, without_constraints
from cvxsst.engines.kkt.derivative import by_elimination, by_equalities
from cvxsst.engines.kkt.state import Found, State
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer, Separable

MANY_DIGITS = 1e6  # utilities of this size: z may move with their last digit
EPS = torch.finfo(torch.float64).eps


class KKT(Engine[State]):
    name = "kkt"

    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        if isinstance(f, Separable):
            return without_constraints(self.name, P)
        return f"kkt solves for sums over the entries of z, f(z) = sum phi(z_i), which {f!r} is not"

    def prepare(self, P: Polytope, f: Regularizer) -> State:
        assert isinstance(f, Separable)
        return State(P, f)

    def solve(self, state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        B, device, free = len(u), u.device, state.free.to(u.device)
        z = state.constant.to(device).repeat(B, 1)
        if len(free) and B:
            found = _in_chunks(state, u[:, free], None if forbidden is None else forbidden[:, free])
            z[:, free] = found.x[: len(free)].T + 0.0  # no -0.0
            y, active = found.x[len(free) :], found.active.T
            residual, iterations = found.residual, found.iterations
        else:
            y, active, residual = (u.new_zeros(shape) for shape in ((state.presolved.form.lifted, B), (B, 0), (B,)))
            iterations = torch.zeros(B, dtype=torch.long, device=device)
        if len(free):
            residual = residual.maximum(state.declared(device).violation(torch.cat([z.T, y])))
        residual = residual.maximum(self._rounding(state, u, z, active, forbidden))
        empty = torch.zeros(B, dtype=torch.bool, device=device)
        if forbidden is not None:
            needed = (forbidden & (state.lower.to(device) > LEFT)).any(dim=1)
            empty = needed | _leave_nothing(state, forbidden, residual > state.accepted)
            residual = residual.masked_fill(empty, torch.inf)
        return Solution(z, residual <= state.accepted, residual, iterations, empty, (active,))

    def _rounding(
        self, state: State, u: torch.Tensor, z: torch.Tensor, active: torch.Tensor, forbidden: torch.Tensor | None
    ) -> torch.Tensor:
        """How far z moves with the last digit of u, where u has many: |J e| for e of that size and random signs."""
        moved, size = u.new_zeros(len(u)), u.abs().amax(dim=1) if u.shape[1] else u.new_zeros(len(u))
        wide = (size > MANY_DIGITS).nonzero().flatten()
        if len(wide):
            signs = torch.ones(u.shape[1], dtype=u.dtype, device=u.device)
            signs[1::2] = -1.0
            e = signs * EPS * size[wide, None]
            masks = None if forbidden is None else forbidden[wide]
            e = e if masks is None else e.masked_fill(masks, 0.0)
            at = At(u[wide], z[wide], (active[wide],), masks)
            moved[wide] = self.times_jacobian(state, e, at).abs().amax(dim=1)
        return moved

    def times_jacobian(self, state: State, g: torch.Tensor, at: At) -> torch.Tensor:
        (active,), free, chunk = at.kept, state.free.to(g.device), state.chunk(g.device)
        if not len(free) or not len(g):
            return torch.zeros_like(g)
        whole = len(free) == g.shape[1]
        z = at.z
        if not whole:
            g, z = g.index_select(1, free), z.index_select(1, free)
        box = state.box_program(g.device)
        if box is None:
            found = by_elimination(state.interior_program(g.device), g, z, active, chunk)
        else:
            found = by_equalities(box, g, z, active, chunk)
        return found if whole else torch.zeros_like(at.u).index_copy(1, free, found)


def _in_chunks(state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Found:
    """Chunks of equal sizes; u without its part normal to P, which changes nothing but the rounding."""
    E = state.hull.to(u.device)
    u = u - (u @ E.T) @ E
    count = max(1, round(len(u) / state.chunk(u.device)))
    masks = [None] * count if forbidden is None else [m.T.contiguous() for m in forbidden.tensor_split(count)]
    found = [state.solve(part.T.contiguous(), mask) for part, mask in zip(u.tensor_split(count), masks, strict=True)]
    return Found(*(torch.cat(parts, dim=-1) for parts in zip(*found, strict=True)))


def _leave_nothing(state: State, forbidden: torch.Tensor, failed: torch.Tensor) -> torch.Tensor:
    """Whether -inf leaves no point of P, asked of a linear program where the solve failed."""
    empty = torch.zeros_like(failed)
    for i in failed.nonzero().flatten().tolist():
        zeros = forbidden[i].nonzero().flatten().tolist()
        nothing = state.presolved.linear_program.maximize(state.constant[:0].numpy(), zeros=zeros)
        empty[i] = nothing.status == "infeasible"
    return empty

"""The engine ``"kkt"``: a batch of utilities to z and its derivatives."""

from __future__ import annotations

import torch

from cvxsst.engines.base import Engine, Solution
from cvxsst.engines.kkt.derivative import by_elimination, by_equalities
from cvxsst.engines.kkt.state import LEFT, Found, State
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer, Separable


class KKT(Engine[State]):
    name = "kkt"

    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        if isinstance(f, Separable):
            return None
        return f"kkt solves for sums over the entries of z, f(z) = sum phi(z_i), which {f!r} is not"

    def prepare(self, P: Polytope, f: Regularizer) -> State:
        assert isinstance(f, Separable)
        return State(P, f)

    def solve(self, state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        B, device, free = len(u), u.device, state.free.to(u.device)
        z = state.constant.to(device).expand(B, -1)
        if not len(free) or not B:
            found = Found(u.new_zeros(0, B), u.new_zeros(0, B), u.new_zeros(B), torch.zeros(B, dtype=torch.long))
        else:
            found = _in_chunks(state, u[:, free], None if forbidden is None else forbidden[:, free])
            z = z.index_copy(1, free, found.z.T + 0.0)  # no -0.0
        residual, empty = found.residual, torch.zeros(B, dtype=torch.bool, device=device)
        if forbidden is not None:
            needed = (forbidden & (state.lower.to(device) > LEFT)).any(dim=1)
            empty = needed | _leave_nothing(state, forbidden, residual > state.accepted)
            residual = residual.masked_fill(empty, torch.inf)
        return Solution(z, residual <= state.accepted, residual, found.iterations, empty, (found.active.T,))

    def times_jacobian(
        self,
        state: State,
        g: torch.Tensor,
        u: torch.Tensor,
        z: torch.Tensor,
        kept: tuple[torch.Tensor, ...],
        forbidden: torch.Tensor | None,
    ) -> torch.Tensor:
        (active,), free, chunk = kept, state.free.to(g.device), state.chunk(g.device)
        if not len(free):
            return torch.zeros_like(g)
        whole = len(free) == g.shape[1]
        if not whole:
            g, z = g.index_select(1, free), z.index_select(1, free)
        box = state.box_program(g.device)
        if box is None:
            found = by_elimination(state.interior_program(g.device), g, z, active, chunk)
        else:
            found = by_equalities(box, g, z, active, chunk)
        return found if whole else torch.zeros_like(u).index_copy(1, free, found)


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

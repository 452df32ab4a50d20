"""The engine ``"facets"``: a batch of utilities to z and its derivatives, in the space of z alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cvxsst.engines.base import Engine, Solution
from cvxsst.engines.facets import newton
from cvxsst.engines.facets.derivative import face, times_jacobian
from cvxsst.engines.facets.state import Description, described, program
from cvxsst.geometry.presolve import Presolved
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer, Separable

ACCEPTED = 1e-9  # residual, in units of z relative to the largest entry over P if > 1
LEFT = 1e-9  # an entry with a larger least value is needed


@dataclass
class State:
    """A description of P with a regularizer, on the devices that were asked for."""

    description: Description
    presolved: Presolved
    lower: torch.Tensor
    programs: dict[torch.device, newton.Program] = field(default_factory=dict)

    def program(self, device: torch.device) -> newton.Program:
        if device not in self.programs:
            self.programs[device] = self.programs[torch.device("cpu")].to(device)
        return self.programs[device]


class Facets(Engine[State]):
    name = "facets"

    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        if not isinstance(f, Separable):
            return f"facets solves for sums over the entries of z, f(z) = sum phi(z_i), which {f!r} is not"
        found = described(P)
        return found if isinstance(found, str) else None

    def prepare(self, P: Polytope, f: Regularizer) -> State:
        description = described(P)
        assert isinstance(f, Separable)
        assert isinstance(description, Description)
        return State(
            description, P.presolved, torch.from_numpy(P.bounds[0]), {torch.device("cpu"): program(P, f, description)}
        )

    def solve(self, state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        program, d = state.program(u.device), state.description
        free = d.free.to(u.device)
        z = d.constant.to(u.device).expand(len(u), -1)
        mask = None if forbidden is None else forbidden[:, free]
        found = newton.solve(program, u[:, free], mask) if len(free) and len(u) else newton.Found.nothing(u[:, free])
        z = z.index_copy(1, free, found.z)
        rounding = newton.ROUNDING * (u.amax(1) - u.amin(1)) if u.numel() else 0.0
        converged = found.residual <= ACCEPTED * program.size + rounding
        empty = None
        if forbidden is not None:
            needed = (forbidden & (state.lower.to(u.device) > LEFT)).any(dim=1)
            empty = needed | _leave_nothing(state, forbidden, ~converged & ~needed)
            converged = converged & ~empty
        return Solution(z, converged, found.residual, found.iterations, empty, (face(program, found, mask),))

    def times_jacobian(
        self,
        state: State,
        g: torch.Tensor,
        u: torch.Tensor,
        z: torch.Tensor,
        kept: tuple[torch.Tensor, ...],
        forbidden: torch.Tensor | None,
    ) -> torch.Tensor:
        program, free = state.program(g.device), state.description.free.to(g.device)
        mask = None if forbidden is None else forbidden[:, free]
        found = times_jacobian(program, g[:, free], z[:, free], kept[0], mask)
        return torch.zeros_like(u).index_copy(1, free, found)


def _leave_nothing(state: State, forbidden: torch.Tensor, failed: torch.Tensor) -> torch.Tensor:
    """Whether -inf leaves no point of P, asked of a linear program where the solve failed."""
    empty = torch.zeros_like(failed)
    nothing = torch.zeros(0).numpy()
    for i in failed.nonzero().flatten().tolist():
        zeros = forbidden[i].nonzero().flatten().tolist()
        empty[i] = state.presolved.linear_program.maximize(nothing, zeros=zeros).status == "infeasible"
    return empty

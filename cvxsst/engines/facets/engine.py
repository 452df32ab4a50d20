"""The engine ``"facets"``: a batch of utilities to z and its derivatives, in the space of z alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from cvxsst.engines.base import Engine, Solution
from cvxsst.engines.facets import newton
from cvxsst.engines.facets.derivative import face, times_jacobian
from cvxsst.engines.facets.state import Description, described, program
from cvxsst.geometry.presolve import Presolved
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer, Separable

ACCEPTED = 1e-8  # residual, in units of z relative to the largest entry over P if > 1
FORCED = 1e-8  # a range of values that is one value
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
        free, constant = d.free.to(u.device), d.constant.to(u.device)
        mask = None if forbidden is None else forbidden[:, free]
        if len(free) and len(u):
            found, converged = _solved(program, u[:, free], *_box(program, len(u), mask))
        else:
            found = newton.Found.empty(u[:, free])
            converged = torch.ones_like(found.iterations, dtype=torch.bool)
        empty = None
        if forbidden is not None:
            empty = (forbidden & (state.lower.to(u.device) > LEFT)).any(dim=1)
            for i in (~converged & ~empty).nonzero().flatten().tolist():
                box = _narrowed(state, program, forbidden[i])
                if box is None:
                    empty[i] = True
                    continue
                again, converged[i] = _solved(program, u[i : i + 1, free], *box)
                found = found.put(torch.tensor([i], device=u.device), again)
            converged = converged & ~empty
        z = constant.repeat(len(u), 1)
        z[:, free] = found.z + 0.0  # no -0.0
        kept = (face(program, found), found.inside)
        return Solution(z, converged, found.residual, found.iterations, empty, kept)

    def times_jacobian(
        self,
        state: State,
        g: torch.Tensor,
        u: torch.Tensor,
        z: torch.Tensor,
        kept: tuple[torch.Tensor, ...],
        forbidden: torch.Tensor | None,
    ) -> torch.Tensor:
        free = state.description.free.to(g.device)
        if not len(free):
            return torch.zeros_like(g)
        found = times_jacobian(state.program(g.device), g[:, free], z[:, free], *kept)
        return torch.zeros_like(u).index_copy(1, free, found)


def _solved(
    program: newton.Program, u: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[newton.Found, torch.Tensor]:
    """The solution with, in its residual, how far z moves with the last digit of u; and which have converged."""
    found = newton.solve(program, u, low, high)
    digits = (newton.ROUNDING * u.abs() * program.slope(found.z, found.inside)).amax(1)
    converged = (found.residual <= newton.REACHED * program.size) & (digits <= ACCEPTED * program.size)
    return found._replace(residual=found.residual.maximum(digits)), converged


def _box(program: newton.Program, B: int, forbidden: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The bounds of each instance ``(B, n)``, 0 where forbidden."""
    box = (program.low.expand(B, -1), program.high.expand(B, -1))
    return box if forbidden is None else (box[0].masked_fill(forbidden, 0.0), box[1].masked_fill(forbidden, 0.0))


def _narrowed(
    state: State, program: newton.Program, forbidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The bounds ``(1, n)`` of an instance with entries held at the only value that -inf leaves them; None if it leaves
    nothing. By linear programs: asked where Newton's method fails, as it may where that value is an end of the domain.
    """
    zeros, n = forbidden.nonzero().flatten().tolist(), len(forbidden)
    low, high = (
        bound.clone() for bound in _box(program, 1, forbidden[None, state.description.free.to(forbidden.device)])
    )
    for k, i in enumerate(state.description.free.tolist()):
        unit = np.zeros(n)
        unit[i] = 1.0
        most, least = (state.presolved.linear_program.maximize(sign * unit, zeros=zeros) for sign in (1.0, -1.0))
        if most.x is None or least.x is None:
            return None
        if most.value + least.value < FORCED:
            low[0, k] = high[0, k] = round(most.value) if abs(most.value - round(most.value)) < FORCED else most.value
    return low, high

"""The engine ``"facets"``: a batch of utilities to z and its derivatives, in the space of z alone."""

from __future__ import annotations

import torch

from cvxsst.engines.base import LEFT, At, Engine, Solution, without_constraints
from cvxsst.engines.facets import newton
from cvxsst.engines.facets.derivative import face, times_jacobian
from cvxsst.engines.facets.description import Description, described
from cvxsst.engines.facets.state import State
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer, Separable

ACCEPTED = 1e-8  # residual, in units of z relative to the largest entry over P if > 1
FEW = 5  # general rows of a declaration, up to which an entropy is faster here than with kkt
SMALL = 32, 14  # entries and dimensions of a family's member up to which its facets take no time to be computed


class Facets(Engine[State]):
    name = "facets"

    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        if not isinstance(f, Separable):
            return f"facets solves for sums over the entries of z, f(z) = sum phi(z_i), which {f!r} is not"
        found = without_constraints(self.name, P) or described(P)
        return found if isinstance(found, str) else None

    def preferred(self, P: Polytope, f: Regularizer) -> bool:
        """Where there are few inequalities besides bounds: one, and for entropies ``FEW`` in a declaration without
        lifted columns, any number in a family's own, or in the facets that it tells or that its few structures have;
        1.1 to 80 times as fast as kkt, but for some cold or Euclidean batches, which take up to 1.4 times as long
        (``benchmarks.engines``)."""
        if not P.declared:
            return False
        steep, knowledge = isinstance(f, Separable) and f.steep, P.knowledge
        if steep and knowledge is not None and (knowledge.facets is not None or knowledge.separation is not None):
            return True
        rows = P.form.general
        if P.form.lifted:
            entries, dimensions = SMALL
            listed = steep and knowledge is not None and knowledge.structures is not None and P.size <= entries
            return listed and P.presolved.dimension <= dimensions
        return rows == 1 or (steep and rows > 0 and (rows <= FEW or knowledge is not None))

    def prepare(self, P: Polytope, f: Regularizer) -> State:
        description = described(P)
        assert isinstance(f, Separable)
        assert isinstance(description, Description)
        return State(P, f, description)

    def solve(self, state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        d, B = state.description, len(u)
        program, free = state.program(u.device), d.free.to(u.device)
        z, u = d.constant.to(u.device).repeat(B, 1), u[:, free]
        if not u.numel():
            found = newton.Found.empty(u)
            converged = torch.ones(B, dtype=torch.bool, device=u.device)
        else:
            found, converged = _solved(program, u, *state.box(B, forbidden, u.device))
        empty = None
        if forbidden is not None:
            empty = (forbidden & (state.lower.to(u.device) > LEFT)).any(dim=1)
            for i in (~converged & ~empty).nonzero().flatten().tolist():
                box = state.narrowed(forbidden[i])
                if box is None:
                    empty[i] = True
                    continue
                again, converged[i] = _solved(program, u[i : i + 1], *box)
                found = found.put(torch.tensor([i], device=u.device), again)
            converged = converged & ~empty
        z[:, free] = found.z + 0.0  # no -0.0
        residual = found.residual.maximum(_missed(state, program, z, converged))
        converged = converged & (residual <= ACCEPTED * program.size)
        return Solution(z, converged, residual, found.iterations, empty, (face(program, found), found.inside))

    def times_jacobian(self, state: State, g: torch.Tensor, at: At) -> torch.Tensor:
        free = state.description.free.to(g.device)
        if not len(free):
            return torch.zeros_like(g)
        found = times_jacobian(state.program(g.device), g[:, free], at.z[:, free], *at.kept)
        return torch.zeros_like(at.u).index_copy(1, free, found)


def _solved(
    program: newton.Program, u: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[newton.Found, torch.Tensor]:
    """The solution, in its residual how far z moves with the last digit of u too; and which have converged."""
    found = newton.solve(program, u, low, high)
    accepted = newton.REACHED * program.size
    rows = (~(found.residual <= accepted)).nonzero().flatten()
    if len(rows):
        found = found.put(rows, newton.solve(program, u[rows], low[rows], high[rows], newton.CAREFUL))
    digits = (newton.ROUNDING * u.abs() * program.slope(found.z, found.inside)).amax(1)
    uncertain = digits.maximum(found.still_to_go(program))
    converged = (found.residual <= accepted) & (uncertain <= ACCEPTED * program.size)
    return found._replace(residual=found.residual.maximum(uncertain)), converged


def _missed(state: State, program: newton.Program, z: torch.Tensor, converged: torch.Tensor) -> torch.Tensor:
    """How far z ``(B, n)`` is from the declaration as it was written; 0 where a family says what P is. Where lifted
    columns magnify what is rounding in z a linear program tells."""
    if program.lifting is None:
        return z.new_zeros(len(z))
    missed, presolved = program.lifting.violation(z), state.P.presolved
    if presolved.form.lifted:
        for i in (converged & (missed > ACCEPTED * program.size)).nonzero().flatten().tolist():
            missed[i] = presolved.distance(z[i].cpu().numpy())
    return missed

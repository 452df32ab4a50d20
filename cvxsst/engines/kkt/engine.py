"""The engine ``"kkt"``: a batch of utilities to z and its derivatives."""

from __future__ import annotations

import torch

from cvxsst.engines.base import LEFT, At, Engine, Solution, without_constraints
from cvxsst.engines.kkt.alone import Alone
from cvxsst.engines.kkt.derivative import by_elimination, by_equalities
from cvxsst.engines.kkt.parameters import ParametricState
from cvxsst.engines.kkt.sensitivity import times_hessian
from cvxsst.engines.kkt.state import Asked, Found, State
from cvxsst.errors import EmptyPolytopeError, UnboundedPolytopeError
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem
from cvxsst.regularizers import Regularizer, Separable

MANY_DIGITS = 1e6  # utilities of this size: z may move with their last digit
EPS = torch.finfo(torch.float64).eps


class KKT(Engine[State]):
    name = "kkt"

    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        if isinstance(f, Separable):
            return without_constraints(self.name, P)
        return f"kkt solves for sums over the entries of z, f(z) = sum phi(z_i), which {f!r} is not"

    parametric = True

    def prepare(self, P: Polytope, f: Regularizer) -> State:
        assert isinstance(f, Separable)
        return State(P, f) if P.theta is None else ParametricState(P.unvalued, f)

    def inputs(self, problem: Problem, state: State) -> torch.Tensor:
        """With parameters in coefficients, what answers to y and the multipliers comes last."""
        inputs = problem.inputs
        return torch.nn.functional.pad(inputs, (0, state.more)) if state.more else inputs

    def bound(self, state: State, beside: torch.Tensor) -> State:
        assert isinstance(state, ParametricState)
        return state.at(beside[:, : beside.shape[1] - state.more])

    def solve(self, state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        B, device, free = len(u), u.device, state.free.to(u.device)
        z = state.constant.to(device).expand(B, -1).clone()
        if len(free) and B:
            found = _in_chunks(state, u[:, free], None if forbidden is None else forbidden[:, free])
            z[:, free] = found.x[: len(free)].T + 0.0  # no -0.0
            y, active = found.x[len(free) :], found.active.T
            residual, iterations, multipliers = found.residual, found.iterations, found.multipliers
        else:
            shapes = (state.lifted, B), (B, 0), (B,), (0, B)
            y, active, residual, multipliers = (u.new_zeros(shape) for shape in shapes)
            iterations = torch.zeros(B, dtype=torch.long, device=device)
        if len(free) or state.theta is not None:
            residual = residual.maximum(state.declared(device).violation(torch.cat([z.T, y])))
        solution = Solution(z, None, residual, iterations, None, (active,))
        if isinstance(state, ParametricState):
            return self._with_parameters(state, u, forbidden, solution, torch.cat([y, multipliers]).T.contiguous())
        residual = residual.maximum(self._rounding(state, u, z, active, forbidden))
        empty = torch.zeros(B, dtype=torch.bool, device=device)
        if forbidden is not None:
            needed = (forbidden & (state.lower.to(device) > LEFT)).any(dim=1)
            empty = needed | _leave_nothing(state, forbidden, residual > state.accepted)
            residual = residual.masked_fill(empty, torch.inf)
        return solution._replace(converged=residual <= state.accepted, residual=residual, empty=empty)

    def _with_parameters(
        self,
        state: ParametricState,
        u: torch.Tensor,
        forbidden: torch.Tensor | None,
        solution: Solution,
        beside: torch.Tensor,
    ) -> Solution:
        """What the batch did not solve, each as a declaration of its own; ``beside`` ``(B, .)``: y and the multipliers.

        Where not every P(theta) is known to be bounded, each is looked at.
        """
        assert state.theta is not None
        z, (active,), f = solution.z, solution.kept, state.f
        _, residual, iterations, _ = solution._replace(converged=torch.ones(len(z), dtype=torch.bool)).told()
        untold = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        empty, endless = torch.zeros_like(untold), torch.zeros_like(untold)
        wide = u.abs().amax(dim=1) > MANY_DIGITS if u.shape[1] else torch.zeros_like(untold)
        failed = ~(residual <= state.accepted) | wide
        doubtful = failed | state.is_degenerate(z, active)
        thetas = state.theta.cpu().numpy()
        look = doubtful if state.affine.bounded else torch.ones_like(failed)
        for i in look.nonzero().flatten().tolist():
            endless[i] = state.P.is_endless(thetas[i])
            if endless[i] or not doubtful[i]:
                continue
            one, P = torch.tensor([i], device=z.device), state.P.alone(thetas[i])
            if failed[i]:
                try:
                    alone = self.solve(self.state(P, f), u[one], None if forbidden is None else forbidden[one])
                except EmptyPolytopeError:
                    empty[i] = True
                    continue
                except UnboundedPolytopeError:
                    endless[i] = True
                    continue
                converged, bound, steps, nothing = alone.told()
                z[i], residual[i], empty[i] = alone.z[0], bound[0], nothing[0]
                iterations[i] += steps[0]
                if not converged[0]:
                    continue
            told = Alone.of(state, P, thetas[i], u[i], z[i])
            active[i], untold[i] = told.weight.to(z), told.untold
            if state.more:
                beside[i] = told.beside.to(z)
        residual = residual.masked_fill(empty | endless, torch.inf)
        outputs = torch.cat([torch.zeros_like(state.theta), beside], dim=1) if state.more else None
        converged = residual <= state.accepted
        return Solution(z, converged, residual, iterations, empty, (active, untold[:, None]), outputs)

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
        if isinstance(state, ParametricState):
            return state.with_fixed(g, at, times_hessian)
        (active,), free, chunk = at.kept, state.free.to(g.device), state.chunk(g.device)
        if not len(free) or not len(g):
            return torch.zeros_like(g)
        whole = len(free) == g.shape[1]
        z = at.z
        if not whole:
            g, z = g.index_select(1, free), z.index_select(1, free)
        asked = Asked(g, None)
        box = state.box_program(asked)
        if box is None:
            found = by_elimination(state.interior_program(asked), g, z, active, chunk)
        else:
            found = by_equalities(box, g, z, active, chunk)
        return found if whole else torch.zeros_like(at.u).index_copy(1, free, found)


def _in_chunks(state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Found:
    """Chunks of equal sizes; u without its part normal to P, which changes nothing but the rounding."""
    E = state.hull.to(u.device)
    u = u - (u @ E.T) @ E
    count = max(1, round(len(u) / state.chunk(u.device)))
    masks = [None] * count if forbidden is None else [m.T.contiguous() for m in forbidden.tensor_split(count)]
    thetas = [None] * count if state.theta is None else [t.T.contiguous() for t in state.theta.tensor_split(count)]
    parts = (part.T.contiguous() for part in u.tensor_split(count))
    found = [state.solve(Asked(*asked)) for asked in zip(parts, masks, thetas, strict=True)]
    return Found(*(torch.cat(parts, dim=-1) for parts in zip(*found, strict=True)))


def _leave_nothing(state: State, forbidden: torch.Tensor, failed: torch.Tensor) -> torch.Tensor:
    """Whether -inf leaves no point of P, asked of a linear program where the solve failed."""
    empty = torch.zeros_like(failed)
    for i in failed.nonzero().flatten().tolist():
        empty[i] = state.leaves_nothing(i, forbidden[i].nonzero().flatten().tolist())
    return empty

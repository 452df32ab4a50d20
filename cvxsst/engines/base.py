"""What an engine is: a differentiable map u -> z over a flat batch, and what it tells of how it went."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import torch

from cvxsst.autograd import SymmetricMap
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem
from cvxsst.regularizers import Regularizer
from cvxsst.values import holds, is_finite, plainly

State = TypeVar("State")
FAR = 1e7  # below the best utility: what is worse is forbidden at first
LEFT = 1e-9  # a least value of z up to this is 0
HUGE = 1e100  # what is further from 0 is as far
SIGNS, DIGITS = 3, 16.0  # how many changes of the last digits are tried, and how large: computing with them loses some
MOVED = 1e-8  # of z, by the last digit of utilities that are far apart
# (J g, g, u, forbidden) -> J g: what is done about the instances in which J g is NaN
Refused = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Info:
    """How each instance went; tensors of the batch's shape.

    Attributes:
        converged: bool: the residual is below the tolerance and z is finite.
        residual: an upper bound on the distance from z to the solution (maximum norm), from a certificate;
            NaN where the engine is a closed form, which has none.
        iterations: of the solver, as far as it tells; 0 for a closed form.
        empty: bool: the -inf entries of this instance leave no point of P.
        engine: the name of the engine that z is from, an array of strings of the batch's shape.
    """

    converged: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor
    empty: torch.Tensor
    engine: np.ndarray

    def reshape(self, batch: torch.Size) -> Info:
        return Info(*(getattr(self, field.name).reshape(batch) for field in fields(self)))


class Solution(NamedTuple):
    """z ``(B, n)``, how it went (each ``(B,)``; None: as a closed form goes), and what the derivative needs besides.

    ``beside``: with parameters, the derivative of the optimal value in what stands beside u in the inputs, so that the
    map from the inputs to (z, beside) is symmetric like that from u to z; None for 0, where nobody uses it.
    """

    z: torch.Tensor
    converged: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    iterations: torch.Tensor | None = None
    empty: torch.Tensor | None = None
    kept: tuple[torch.Tensor, ...] = ()
    beside: torch.Tensor | None = None

    def info(self, engine: str) -> Info:
        """The ``Info`` of a batch that this engine solved."""
        converged, residual, iterations, empty = self.told()
        return Info(converged, residual, iterations, empty, np.full(len(self.z), engine))

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All of them, of a solution in which all are told."""
        return *(part for part in self[:5] if part is not None), *self.kept

    def told(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """``converged``, ``residual``, ``iterations``, ``empty``, filled in: a closed form has converged if finite."""
        z = self.z
        return (
            torch.isfinite(z.sum(dim=1)) if self.converged is None else self.converged,
            z.new_full((len(z),), torch.nan) if self.residual is None else self.residual.to(z.dtype),
            torch.zeros(len(z), dtype=torch.long, device=z.device) if self.iterations is None else self.iterations,
            torch.zeros(len(z), dtype=torch.bool, device=z.device) if self.empty is None else self.empty,
        )


class At(NamedTuple):
    """Where a derivative is asked: u and the solution z, ``(B, n)``, what its ``Solution`` kept, and the mask; with
    parameters also what stands beside z."""

    u: torch.Tensor
    z: torch.Tensor
    kept: tuple[torch.Tensor, ...]
    forbidden: torch.Tensor | None
    beside: torch.Tensor | None = None


class Engine(ABC, Generic[State]):
    """Solves argmax over P of <u, z> - f(z), differentiably.

    An engine defines ``name`` and the four methods; the base looks after the cache of states, autograd (backward, jvp,
    vmap), forbidden entries and ``Info``. The identities, tested for every engine:

        solve             z is in P and its certificate's gap is 0; z = 0 where forbidden
        times_jacobian    <g, J h> = <J g, h>,  <g, J g> >= 0,  J g = (z(u + e g) - z(u - e g)) / 2e + O(e^2)
        refusal           None if and only if solve works
    """

    name: ClassVar[str]
    twice: ClassVar[bool] = True  # whether times_jacobian may be differentiated again
    judges: ClassVar[bool] = True  # whether ``solve`` tells by a certificate if z is right; a closed form does not
    parametric: ClassVar[bool] = False  # whether it takes the values of parameters, one set for each instance
    batched: ClassVar[bool] = True  # False for one instance at a time: a validator then asks about a few only

    def __init__(self) -> None:
        self._map = SymmetricMap(self._solve, self._times_jacobian, self.twice)

    @abstractmethod
    def refusal(self, P: Polytope, f: Regularizer) -> str | None:
        """Why this engine cannot solve this problem, in words; None if it can."""

    @abstractmethod
    def prepare(self, P: Polytope, f: Regularizer) -> State:
        """What depends on P and f alone: computed once, kept for later calls."""

    @abstractmethod
    def solve(self, state: State, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        """z for u ``(B, n)``, float64 and finite; ``forbidden`` ``(B, n)``, bool, marks what must be 0.

        Failed and empty instances are told by the ``Solution``, never by an exception: none spoils another.
        """

    @abstractmethod
    def times_jacobian(self, state: State, g: torch.Tensor, at: At) -> torch.Tensor:
        """J g ``(B, n)`` at the solution, NaN in an instance where it cannot be had to 1e-6; with parameters both are
        as wide as the inputs.

        g is 0 where forbidden, and what the result has there does not matter.
        """

    def supports(self, P: Polytope, f: Regularizer) -> bool:
        return self.objection(P, f) is None

    def objection(self, P: Polytope, f: Regularizer) -> str | None:
        """``refusal``, where parameters are no reason for one."""
        if P.parameters and not self.parametric:
            return f"{self.name} takes no parameters, as {P!r} has"
        return self.refusal(P, f)

    def inputs(self, problem: Problem, state: State) -> torch.Tensor:
        """What the map is a function of: ``problem.inputs``, or more."""
        return problem.inputs

    def bound(self, state: State, beside: torch.Tensor) -> State:
        """The state at what stands beside u in the inputs; of a ``parametric`` engine."""
        raise NotImplementedError(f"{self.name} takes no parameters")

    def preferred(self, P: Polytope, f: Regularizer) -> bool:
        """Whether ``engine="auto"`` asks this engine before those that are no specialists: by a rule that is known to
        pay (``benchmarks``), and told without work on P."""
        return False

    def state(self, P: Polytope, f: Regularizer) -> State:
        def make() -> State:
            f.require_domain(P)
            return plainly(lambda: self.prepare(P, f))

        return P.prepared.get((self, f), make)

    def softmax(self, problem: Problem, refused: Refused | None = None) -> tuple[torch.Tensor, Info | None]:
        """z ``(B, n)``, connected by autograd, and how it went; None if all went well and there is nothing to tell.

        ``refused``: what is made of a derivative that cannot be had in all instances; by default it is NaN in those.
        """
        problem = problem.inspected()
        assert problem.f is not None
        state = self.state(problem.P, problem.f)
        if problem.theta is not None:
            problem.f.require_domain(problem.P)  # at these values
        z, *told = self._map.with_kept(self.inputs(problem, state), problem.forbidden, problem.P, state, refused)[:5]
        z = z[:, : problem.P.size] if problem.theta is not None else z
        converged, residual, iterations, empty = told
        return z, Info(converged, residual, iterations, empty, np.full(len(z), self.name))

    def _solve(
        self, inputs: torch.Tensor, forbidden: torch.Tensor | None, P: Polytope, state: State, refused: Refused | None
    ) -> tuple[torch.Tensor, ...]:
        """Entries of utilities far below the others, such as -1e30, are forbidden at first: where that is possible, the
        solution is the same, and no digit of the others is lost. The last tensor tells which were."""
        u, beside = inputs[:, : P.size], inputs[:, P.size :]
        here = state if P.theta is None else self.bound(state, beside)
        low = _far_below(P, u)
        if low is None:
            return *self._found(u, forbidden, here, beside), u.new_zeros((len(u), 0), dtype=torch.bool)
        found = self._found(u.masked_fill(low, 0.0), low if forbidden is None else low | forbidden, here, beside)
        again = (low.any(dim=1) & ~found[1]).nonzero().flatten()
        if len(again):
            masks = None if forbidden is None else forbidden[again]
            here = state if P.theta is None else self.bound(state, beside[again])
            second: tuple[Any, ...] = self._with_rounding(u[again], masks, here, beside[again])
            if any(mine.shape[1:] != theirs.shape[1:] for mine, theirs in zip(found, second, strict=True)):
                second = (torch.nan, False, torch.inf, 0, False)  # what is kept fits not in: told as not converged
            for mine, theirs in zip(found, second, strict=False):
                mine[again] = theirs
            low[again] = False
        return *found, low

    def _found(
        self, u: torch.Tensor, forbidden: torch.Tensor | None, state: State, beside: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        solution = self.solve(state, u, forbidden)
        z = solution.z if forbidden is None else solution.z.masked_fill(forbidden, 0.0)
        if beside.shape[1]:
            z = torch.cat([z, torch.zeros_like(beside) if solution.beside is None else solution.beside], dim=1)
        return z, *solution.told(), *solution.kept

    def _with_rounding(
        self, u: torch.Tensor, forbidden: torch.Tensor | None, state: State, beside: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The same; where z moves with the last digits of u, it has not converged."""
        u = u.clamp(-HUGE, HUGE)
        z, converged, residual, *rest = self._found(u, forbidden, state, beside)
        digit = DIGITS * torch.finfo(u.dtype).eps * u.abs().amax(dim=1, keepdim=True)
        moved = torch.zeros_like(residual) if self.judges else digit.squeeze(1)
        for seed in range(SIGNS):
            signs = torch.empty(u.shape[1], dtype=u.dtype).bernoulli_(generator=torch.Generator().manual_seed(seed))
            other = self._found(u + digit * (2 * signs.to(u.device) - 1), forbidden, state, beside)[0]
            apart = (other - z)[:, : u.shape[1]].abs().amax(dim=1)
            moved = moved.maximum(apart.nan_to_num(nan=torch.inf))
        size = z[:, : u.shape[1]].abs().amax(dim=1).clamp_min(1.0)
        return z, converged & (moved <= MOVED * size), residual.maximum(moved), *rest

    def _times_jacobian(self, g: torch.Tensor, inputs: torch.Tensor, z: torch.Tensor, *rest: Any) -> torch.Tensor:
        *kept, low, forbidden, P, state, refused = rest[4:]
        if low.shape[1]:
            forbidden = low if forbidden is None else low | forbidden
        at = At(inputs, z, tuple(kept), forbidden)
        held = forbidden
        if P.theta is not None:
            u, beside = inputs[:, : P.size], inputs[:, P.size :]
            at = At(u, z[:, : P.size], tuple(kept), forbidden, z[:, P.size :])
            state = self.bound(state, beside)
            held = None if forbidden is None else torch.cat([forbidden, torch.zeros_like(beside, dtype=torch.bool)], 1)
        g = g if held is None else g.masked_fill(held, 0.0)
        product = self.times_jacobian(state, g, at)
        product = product if held is None else product.masked_fill(held, 0.0)
        if is_finite(product):
            return product
        nothing = (g == 0).all(dim=1, keepdim=True)  # asked of an instance that another engine has solved
        product = product.masked_fill(nothing, 0.0)
        return product if refused is None else refused(product, g, inputs, forbidden)


def without_constraints(name: str, P: Polytope) -> str | None:
    """The refusal of an engine that needs constraints; None where there are some."""
    return None if P.declared else f"{name} needs constraints, and {P!r} is known by its argmax oracle alone"


def _far_below(P: Polytope, u: torch.Tensor) -> torch.Tensor | None:
    """Which entries, of those that can be 0 and no less, are below the best by more than FAR; None if none is."""
    if not u.numel():
        return None
    low = u < u.amax(dim=1, keepdim=True) - FAR
    if not holds(low):
        return None
    low = low & (torch.from_numpy(P.bounds[0]).abs() <= LEFT).to(u.device)
    return low if holds(low) else None

"""The engine that solves a problem, and those that take over where it fails: at z, or at its derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cvxsst.engines.base import Engine, Info, Solution
from cvxsst.errors import ConvergenceError
from cvxsst.problem import Problem, named
from cvxsst.values import holds, positions, shown

Solved = tuple[torch.Tensor, Info | None]
BREAKDOWNS = (ConvergenceError, np.linalg.LinAlgError, torch.linalg.LinAlgError)  # not of an instance, of an engine


@dataclass(frozen=True)
class Solver:
    """What ``engine=`` stands for: one engine, or for ``"auto"`` the first that can, with the others behind it.

    Attributes:
        first: the engine that is asked about the whole batch.
        others: those that are asked, in turn, about the instances that are still unsolved then, and about the
            derivative where the engine that found z cannot tell it.
    """

    first: Engine[Any]
    others: Callable[[], Iterator[Engine[Any]]] = lambda: iter(())

    @property
    def name(self) -> str:
        return self.first.name

    def softmax(self, problem: Problem, on_failure: str = "nan") -> Solved:
        """As ``Engine.softmax``; ``info.engine`` tells whose z it is.

        ``on_failure``: what a backward solve does that no engine can do: ``"raise"``, or NaN in its instance.
        """
        broken: Exception | None = None
        try:
            z, info = self.first.softmax(problem, Rescue(self, self.first, problem, None, on_failure))
        except BREAKDOWNS as error:
            broken, z = error, torch.full_like(problem.u.detach(), torch.nan)
            info = Solution(z).info(self.name)
        if info is None or not holds(~info.converged & ~info.empty):
            return z, info
        problem = problem.inspected()
        for engine in self.others():
            try:
                z, info = self._taken_over(engine, problem, on_failure, z, info)
            except BREAKDOWNS:
                continue
            if not holds(~info.converged & ~info.empty):
                return z, info
        if broken is not None:
            raise broken
        return z, info

    def _taken_over(
        self, engine: Engine[Any], problem: Problem, on_failure: str, z: torch.Tensor, info: Info
    ) -> tuple[torch.Tensor, Info]:
        """The unsolved instances by another engine, where it does better; under ``vmap`` it is asked about all."""
        lost = ~info.converged & ~info.empty
        rows = positions(lost)
        rescue = Rescue(self, engine, problem, rows, on_failure)
        other, told = engine.softmax(problem if rows is None else problem.rows(rows), rescue)
        told = Solution(other.detach()).info(engine.name) if told is None else told
        found = [other, told.converged, told.residual, told.iterations, told.empty]
        mine = [z, info.converged, info.residual, info.iterations, info.empty]
        if rows is not None:
            found = [old.detach().index_put((rows,), new) for old, new in zip(mine, found, strict=True)]
        better = lost & (found[1] | found[4])
        # what is lost is a constant: no gradient goes back to the engine that lost it
        mine[0] = torch.where(lost[:, None], z.detach(), z)
        z = torch.where(better[:, None], found[0], mine[0])
        told_now = [torch.where(better, new, old) for new, old in zip(found[1:], mine[1:], strict=True)]
        engines = info.engine if rows is None else np.where(shown(better), engine.name, info.engine)
        converged, residual, iterations, empty = told_now
        return z, Info(converged, residual, iterations, empty, engines)


@dataclass(frozen=True)
class Rescue:
    """(J g, g, inputs, forbidden) -> J g: NaN of the engine that found z by the others, else as ``on_failure`` says.

    Attributes:
        rows: which instances of the problem the engine was asked about; None: all.
    """

    solver: Solver
    engine: Engine[Any]
    problem: Problem
    rows: torch.Tensor | None
    on_failure: str

    def __call__(
        self, product: torch.Tensor, g: torch.Tensor, inputs: torch.Tensor, forbidden: torch.Tensor | None
    ) -> torch.Tensor:
        wide = product.shape[1] - self.problem.inputs.shape[1]  # an engine may have inputs of its own
        if wide:
            product, g, inputs = (t[:, :-wide] for t in (product, g, inputs))
        theta, n = self.problem.theta, self.problem.P.size
        if theta is not None and not theta.requires_grad:  # what is not asked for need not be known
            product = torch.cat([product[:, :n], torch.nan_to_num(product[:, n:])], dim=1)
        problem = replace(self.problem.at(inputs), forbidden=forbidden, batch=inputs.shape[:1])
        for engine in self.solver.others():
            lost = _lost(product, g)
            if engine is self.engine or not holds(lost):
                continue
            try:
                product = _differentiated(engine, problem, product, g, lost)
            except BREAKDOWNS:
                continue
        lost = _lost(product, g)
        if self.on_failure == "raise" and holds(lost):
            self._raise(lost)
        return torch.nn.functional.pad(product, (0, wide)) if wide else product

    def _raise(self, lost: torch.Tensor) -> None:
        if self.rows is not None:
            lost = lost.new_zeros(len(self.problem.u)).index_put((self.rows,), lost)
        instances = self.problem.instances(lost)
        raise ConvergenceError(
            f"the derivative did not reach its accuracy{named(instances, ' in instances ')}; "
            "backward='finite_difference' needs no linear system, on_failure='nan' keeps the others",
            instances,
        )


def _lost(product: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Where J g is NaN though g is not."""
    return ~torch.isfinite(product).all(dim=1) & torch.isfinite(g).all(dim=1)


def _differentiated(
    engine: Engine[Any], problem: Problem, product: torch.Tensor, g: torch.Tensor, lost: torch.Tensor
) -> torch.Tensor:
    """J g with the ``lost`` instances by this engine, at its own z; NaN where it has none, or cannot tell either."""

    def solved(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z, info = engine.softmax(asked.at(inputs))
        return z, torch.isfinite(z.sum(dim=1)) if info is None else info.converged

    rows = positions(lost)
    asked, direction = (problem, g) if rows is None else (problem.rows(rows), g[rows])
    _, pull, converged = torch.func.vjp(solved, asked.inputs, has_aux=True)  # type: ignore[misc]
    n = problem.P.size
    found = pull(direction[:, :n])[0]
    if found.shape[1] > n and holds(direction[:, n:] != 0):  # how z moves with theta, not only what that gives back
        moved = torch.func.jvp(lambda inputs: solved(inputs)[0], (asked.inputs,), (direction,))[1]
        found = torch.cat([moved, found[:, n:]], dim=1)
    found = found.masked_fill(~converged[:, None], torch.nan)
    found = found if rows is None else product.index_put((rows,), found)
    return torch.where(lost[:, None], found, product)

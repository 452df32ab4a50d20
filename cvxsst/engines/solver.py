"""The engine that solves a problem, and those that take over where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cvxsst.engines.base import Engine, Info, Solution
from cvxsst.problem import Problem
from cvxsst.values import holds, positions, shown

Solved = tuple[torch.Tensor, Info | None]


@dataclass(frozen=True)
class Solver:
    """What ``engine=`` stands for: one engine, or for ``"auto"`` the first that can, with the others behind it.

    Attributes:
        first: the engine that is asked about the whole batch.
        others: those that are asked, in turn, about the instances that are still unsolved then.
    """

    first: Engine[Any]
    others: Callable[[], Iterator[Engine[Any]]] = lambda: iter(())

    @property
    def name(self) -> str:
        return self.first.name

    def softmax(self, problem: Problem, on_failure: str = "nan") -> Solved:
        """As ``Engine.softmax``; ``info.engine`` tells whose z it is."""
        z, info = self.first.softmax(problem, on_failure)
        if info is None or not holds(~info.converged & ~info.empty):
            return z, info
        problem = problem.inspected()
        for engine in self.others():
            z, info = _taken_over(engine, problem, on_failure, z, info)
            if not holds(~info.converged & ~info.empty):
                break
        return z, info


def _taken_over(
    engine: Engine[Any], problem: Problem, on_failure: str, z: torch.Tensor, info: Info
) -> tuple[torch.Tensor, Info]:
    """The unsolved instances by another engine, where it does better; under ``vmap`` it is asked about all."""
    lost = ~info.converged & ~info.empty
    rows = positions(lost)
    other, told = engine.softmax(problem if rows is None else problem.rows(rows), on_failure)
    told = Solution(other.detach()).info(engine.name) if told is None else told
    found = [other, told.converged, told.residual, told.iterations]
    mine = [z, info.converged, info.residual, info.iterations]
    if rows is not None:
        found = [old.detach().index_put((rows,), new) for old, new in zip(mine, found, strict=True)]
    better = lost & found[1]
    # what is lost is a constant: no gradient goes back to the engine that lost it
    mine[0] = torch.where(lost[:, None], z.detach(), z)
    z = torch.where(better[:, None], found[0], mine[0])
    told_now = [torch.where(better, new, old) for new, old in zip(found[1:], mine[1:], strict=True)]
    engines = info.engine if rows is None else np.where(shown(better), engine.name, info.engine)
    converged, residual, iterations = told_now
    return z, Info(converged, residual, iterations, info.empty, engines)

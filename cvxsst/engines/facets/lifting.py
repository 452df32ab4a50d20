"""Is z in P, as it was declared? With the lifted columns that z leaves room for, row by row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from cvxsst.engines.kkt.state import Declared
from cvxsst.geometry.canonical import StandardForm
from cvxsst.geometry.facets import Projection


class Stage(NamedTuple):
    """One lifted column: below the least of h - G x where ``above``, above the greatest elsewhere."""

    column: int
    G: torch.Tensor
    h: torch.Tensor
    above: torch.Tensor

    @staticmethod
    def of(column: int, rows: np.ndarray, right: np.ndarray) -> Stage:
        side = rows[:, column]
        G = rows / side[:, None]
        G[:, column] = 0.0
        return Stage(column, *map(torch.from_numpy, (G, right / side, side > 0)))


class Lifting(NamedTuple):
    """The rows of a declaration, and the ``Projection`` that its lifted columns are found by.

    Attributes:
        free: the entries of z that P does not fix, the first columns of the projection, before the lifted ones.
        columns, E, e: the lifted columns that the others determine.
    """

    declared: Declared
    free: torch.Tensor
    stages: tuple[Stage, ...]
    columns: torch.Tensor
    E: torch.Tensor
    e: torch.Tensor

    @staticmethod
    def of(form: StandardForm, free: np.ndarray, found: Projection) -> Lifting:
        parts = map(torch.from_numpy, (found.columns, found.E, found.e))
        stages = tuple(Stage.of(*stage) for stage in found.stages)
        return Lifting(Declared.of(form), torch.from_numpy(free), stages, *parts)

    def to(self, device: torch.device) -> Lifting:
        stages = tuple(Stage(stage.column, *(part.to(device) for part in stage[1:])) for stage in self.stages)
        return Lifting(self.declared.to(device), self.free.to(device), stages, *(part.to(device) for part in self[3:]))

    def violation(self, z: torch.Tensor) -> torch.Tensor:
        """How far z ``(B, n)`` is from its rows, each divided by its length; ``(B,)``."""
        n = len(self.free)
        x = torch.cat([z[:, self.free], z.new_zeros(len(z), self.E.shape[1] - n)], 1)
        for column, G, h, above in self.stages:
            bound = torch.addmm(h, x, G.T, alpha=-1)
            most, least = bound[:, above], bound[:, ~above]
            ends = [most.amin(1) if most.shape[1] else None, least.amax(1) if least.shape[1] else None]
            known = [end for end in ends if end is not None]
            x[:, column] = torch.stack(known).mean(0)
        x[:, self.columns] = self.e - x @ self.E.T
        return self.declared.violation(torch.cat([z, x[:, n:]], 1).T)

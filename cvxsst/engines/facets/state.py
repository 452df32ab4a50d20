"""What the engine prepares for one polytope and one regularizer."""

from __future__ import annotations

import numpy as np
import torch

from cvxsst.engines.facets.description import Description
from cvxsst.engines.facets.newton import Program
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Separable

CAP = 1e4  # on entries without an upper bound, relative to the largest of P: against overflow
FORCED = 1e-8  # a range of values that is one value

Box = tuple[torch.Tensor, torch.Tensor]  # bounds from below and from above


class State:
    """A description of P, and with the regularizer a program on each device that was asked for.

    Attributes:
        lower: the least value of each entry over P.
    """

    def __init__(self, P: Polytope, f: Separable, description: Description):
        self.P, self.description, self.lower = P, description, torch.from_numpy(P.bounds[0])
        self._programs = {torch.device("cpu"): _program(P, f, description)}

    def program(self, device: torch.device) -> Program:
        if device not in self._programs:
            self._programs[device] = self._programs[torch.device("cpu")].to(device)
        return self._programs[device]

    def box(self, B: int, forbidden: torch.Tensor | None, device: torch.device) -> Box:
        """The bounds of each instance in the free entries, each ``(B, n)``; 0 where forbidden."""
        program = self.program(device)
        low, high = program.low.expand(B, -1), program.high.expand(B, -1)
        if forbidden is None:
            return low, high
        mask = forbidden[:, self.description.free.to(device)]
        return low.masked_fill(mask, 0.0), high.masked_fill(mask, 0.0)

    def narrowed(self, forbidden: torch.Tensor) -> Box | None:
        """The same of one instance, ``forbidden`` ``(n,)``, with entries held at the only value that -inf leaves them;
        None if it leaves nothing. By linear programs, two for each entry: asked where Newton's method fails, as it may
        where that value is an end of the domain.
        """
        zeros, program = forbidden.nonzero().flatten().tolist(), self.P.presolved.linear_program
        low, high = (bound.clone() for bound in self.box(1, forbidden[None], forbidden.device))
        for k, i in enumerate(self.description.free.tolist()):
            unit = np.zeros(self.P.size)
            unit[i] = 1.0
            most, least = (program.maximize(sign * unit, zeros=zeros) for sign in (1.0, -1.0))
            if most.x is None or least.x is None:
                return None
            if most.value + least.value < FORCED:
                near = round(most.value)
                low[0, k] = high[0, k] = near if abs(most.value - near) < FORCED else most.value
        return low, high


def _program(P: Polytope, f: Separable, d: Description) -> Program:
    """With phi: bounds that its domain implies are left to it."""
    low, high = f.domain
    size = max(1.0, float(np.abs(P.bounds).max(initial=0.0)))
    least = d.low.masked_fill(d.low <= low, low) if f.steep else d.low.clamp(min=low)
    most = d.high.masked_fill(d.high >= high, high) if f.steep else d.high.clamp(max=high)
    if np.isfinite(low):  # phi*' may grow exponentially
        most = most.clamp(max=CAP * size)
    gram, center = torch.linalg.cholesky(d.E @ d.E.T), f.gradient(d.interior)
    return Program(d.E, d.e, gram, least, most, center, d.inequalities, f, size, d.lifting)

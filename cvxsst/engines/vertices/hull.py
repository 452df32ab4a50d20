"""A polytope as the oracle of its vertices, and what is known of where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

# (g, nudge, forbidden) -> v, a vertex maximizing <g, v>; among several the best for ``nudge()``, if it can tell.
Oracle = Callable[[torch.Tensor, Callable[[], torch.Tensor], torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Hull:
    """conv V; points and vertices count from the centre of its box.

    Attributes:
        oracle: finds vertices.
        center: ``(n,)``, of the box around P. Inner products of 0/1, or of integer, vertices stay exact.
        width: the largest width of the box, 1 if that is 0.
        blur: how far an entry of a vertex may be from where the oracle says.
        generic: ``(n,)``, a direction of length 1: where utilities are nudged to.
    """

    oracle: Oracle
    center: torch.Tensor
    width: float
    blur: float
    generic: torch.Tensor

    @staticmethod
    def between(lower: np.ndarray, upper: np.ndarray, oracle: Oracle, blur: float) -> Hull:
        width = float((upper - lower).max(initial=0.0)) or 1.0
        generic = torch.from_numpy(np.random.default_rng(0).normal(size=len(lower)))
        return Hull(oracle, torch.from_numpy((lower + upper) / 2), width, blur, generic / generic.norm())

    def to(self, device: torch.device) -> Hull:
        return Hull(self.oracle, self.center.to(device), self.width, self.blur, self.generic.to(device))

    def vertex(
        self, g: torch.Tensor, nudge: Callable[[], torch.Tensor], forbidden: torch.Tensor | None
    ) -> torch.Tensor:
        """v ``(L, n)`` maximizing <g, v>, 0 (not counted from the centre) where forbidden if that can be."""
        return self.oracle(g if forbidden is None else g.masked_fill(forbidden, 0.0), nudge, forbidden) - self.center

    def takes(self, v: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
        """Whether v ``(L, n)`` takes something that is forbidden, ``(L,)``."""
        if forbidden is None:
            return torch.zeros(len(v), dtype=torch.bool, device=v.device)
        return (forbidden & (v + self.center != 0)).any(1)

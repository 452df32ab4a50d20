"""A polytope as the oracle of its vertices, and what is known of where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from cvxsst.asking import WORSE, not_maximal
from cvxsst.values import holds

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
        tilt: how far, relative to |u| and the width, the oracle is asked beside g: then vertices that are as good as
            one another are chosen the same way for near utilities, and not by rounding.
        blamed: whose oracle it is, where it is somebody's and may be wrong; else "".
    """

    oracle: Oracle
    center: torch.Tensor
    width: float
    blur: float
    generic: torch.Tensor
    blamed: str = ""
    tilt: float = 0.0

    @staticmethod
    def between(lower: np.ndarray, upper: np.ndarray, oracle: Oracle, blur: float, blamed: str = "") -> Hull:
        width = float((upper - lower).max(initial=0.0)) or 1.0
        generic = torch.from_numpy(np.random.default_rng(0).normal(size=len(lower)))
        return Hull(oracle, torch.from_numpy((lower + upper) / 2), width, blur, generic / generic.norm(), blamed)

    def to(self, device: torch.device) -> Hull:
        return replace(self, center=self.center.to(device), generic=self.generic.to(device))

    def require_maximal(
        self, g: torch.Tensor, v: torch.Tensor, V: torch.Tensor, missed: torch.Tensor, among: torch.Tensor
    ) -> None:
        """Raise where the oracle's answers v ``(L, n)`` to g ``(L, n)`` are worse than its other answers V ``(L, K,
        n)``, by ``missed`` ``(L, K)``; of which those ``among`` ``(L, K)`` count."""
        if not self.blamed:
            return
        missed = missed.masked_fill(~among, -torch.inf)
        wrong = missed.amax(1) > WORSE * self.width * g.abs().sum(1)
        if holds(wrong):
            i = int(wrong.to(torch.uint8).argmax())
            better = V[i, int(missed[i].argmax())]
            told = (g[i], v[i] + self.center, better + self.center)
            raise not_maximal(self.blamed, *(part.cpu().numpy() for part in told))

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

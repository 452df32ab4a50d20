"""The questions that a validator asks: utilities over scales and temperatures, ties, masks.

Everything follows from the polytope and one seed, so that every instance of a report can be had back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cvxsst.maps import argmax
from cvxsst.polytope import Polytope

TIES_EVERY, MASKS_EVERY = 4, 6  # one instance in four has ties, one in six a mask
MASKED = 0.3  # of the entries that may be forbidden


@dataclass(frozen=True)
class Instances:
    """N problems: utilities w ``(N, *P.shape)`` and temperatures T ``(N,)``, float64; -inf in w forbids an entry.

    Attributes:
        u: w / T, what a candidate is given.
        kinds: of each: ``"normal"``, ``"ties"`` (small integers, and 0 everywhere) or ``"mask"``.
        cotangents: the directions g of the vector-Jacobian products, ``(3, N, *P.shape)``, of length 1.
    """

    w: torch.Tensor
    T: torch.Tensor
    u: torch.Tensor
    kinds: tuple[str, ...]
    cotangents: torch.Tensor

    def __len__(self) -> int:
        return len(self.w)

    @property
    def reach(self) -> torch.Tensor:
        """The largest finite |u| of each instance, ``(N,)``: what rounding of u is relative to."""
        finite = self.u.masked_fill(torch.isinf(self.u), 0.0)
        return largest(finite.reshape(len(self), math.prod(self.u.shape[1:])))

    def take(self, rows: list[int]) -> Instances:
        kinds = tuple(self.kinds[i] for i in rows)
        return Instances(self.w[rows], self.T[rows], self.u[rows], kinds, self.cotangents[:, rows])

    def rounded_to(self, dtype: torch.dtype) -> Instances:
        """With u as a candidate of this dtype sees it: that rounding is nobody's error."""
        return replace(self, u=self.u.to(dtype).double())


def largest(rows: torch.Tensor) -> torch.Tensor:
    """The largest absolute entry of each row; 0 where rows have none."""
    return rows.abs().amax(dim=1) if rows.shape[1] else rows.new_zeros(len(rows))


def draw(
    P: Polytope, n: int, temperatures: Sequence[float], scales: Sequence[float], seed: int, masks: bool
) -> Instances:
    """n instances for each temperature: the same n utilities, so that only T differs; scales taken in turn.

    The masks, a new one for each masked instance, are drawn apart: without them the other instances are the same.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [_one(P, i, scales, generator) for i in range(n)]
    if masks:
        generator_of_masks = torch.Generator().manual_seed(seed)
        chosen = [i for i, (_, kind) in enumerate(drawn) if kind == "normal" and i % MASKS_EVERY == MASKS_EVERY - 2]
        for i in chosen:
            drawn[i] = _masked(P, drawn[i][0], generator_of_masks)
    w = torch.stack([utilities for utilities, _ in drawn]).repeat(len(temperatures), *[1] * len(P.shape))
    T = torch.tensor(temperatures, dtype=torch.float64).repeat_interleave(n)
    g = torch.randn(3, len(w), P.size, generator=generator, dtype=torch.float64)
    g = (g / g.norm(dim=2, keepdim=True)).reshape(3, *w.shape)
    u = w / T.reshape(-1, *[1] * len(P.shape))
    return Instances(w, T, u, tuple(kind for _, kind in drawn) * len(temperatures), g)


def _one(P: Polytope, i: int, scales: Sequence[float], generator: torch.Generator) -> tuple[torch.Tensor, str]:
    if i % TIES_EVERY == TIES_EVERY - 1:
        if i == TIES_EVERY - 1:
            return torch.zeros(P.shape, dtype=torch.float64), "ties"
        return torch.randint(-1, 2, P.shape, generator=generator).double(), "ties"
    return scales[i % len(scales)] * torch.randn(P.shape, generator=generator, dtype=torch.float64), "normal"


def _masked(P: Polytope, w: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, str]:
    """w with a mask of its own, such that a vertex is left: none of its entries, and none that can be negative.

    The vertex is found by a linear program where there are constraints: an oracle, which may be wrong, is not asked.
    """
    lower, upper = (torch.from_numpy(np.asarray(bound)).reshape(P.shape) for bound in P.bounds)
    v = argmax(P, torch.randn(P.shape, generator=generator, dtype=torch.float64), engine="lp" if P.declared else "auto")
    chance = torch.rand(P.shape, generator=generator, dtype=torch.float64)
    allowed = (lower.abs() < 1e-9) & (upper > 1e-9) & (v.abs() < 1e-9)
    if not bool(allowed.any()):
        return w, "normal"
    lots = chance.masked_fill(~allowed, torch.inf)
    forbidden = allowed & ((chance < MASKED) | (lots == lots.min()))  # one at least
    return w.masked_fill(forbidden, -torch.inf), "mask"

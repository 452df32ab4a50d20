"""The three separable regularizers entry by entry, on tensors.

primal(v)     phi*'(v) = argmax_z v z - phi(z), over the box: clamped to [low, high]
slope(z)      1 / phi''(z): how primal moves with v where it is not clamped
marginal(z)   phi'(z)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cvxsst.regularizers import BinaryEntropy, CategoricalEntropy, Euclidean, Separable


@dataclass(frozen=True)
class Entries:
    primal: Callable[[torch.Tensor], torch.Tensor]
    slope: Callable[[torch.Tensor], torch.Tensor]
    marginal: Callable[[torch.Tensor], torch.Tensor]


ENTRIES: dict[type[Separable], Entries] = {
    Euclidean: Entries(lambda v: v, torch.ones_like, lambda z: z),
    CategoricalEntropy: Entries(lambda v: torch.exp(v - 1), lambda z: z, lambda z: torch.log(z) + 1),
    BinaryEntropy: Entries(torch.sigmoid, lambda z: z * (1 - z), torch.logit),
}

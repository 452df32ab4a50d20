"""How the order is relaxed, a line of the table each.

Scores are ``(B, n, outputs)``. What a relaxation gives is ``(*, B, n, n)``: the weight of number i at rank j.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.distributions import Gumbel

import cvxsst
from cvxsst import BinaryEntropy, CategoricalEntropy, Euclidean, Polytope, Regularizer
from experiments.runs.gradients import Latent
from polytopes import birkhoff, permutahedron


def ranked(z: torch.Tensor) -> torch.Tensor:
    """``(*, n)`` ranks 1 .. n, or relaxed ones, to ``(*, n, n)``: a number between two ranks is shared by them."""
    rank = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    return (1 - (z[..., None] - rank).abs()).clamp_min(0.0)


def itself(z: torch.Tensor) -> torch.Tensor:
    return z


@dataclass(frozen=True)
class Order:
    """argmax <scores + Gumbel noise, z> over a polytope of orders, its relaxation, and what both say of the ranks."""

    label: str
    polytope: Callable[[int], Polytope]
    regularizer: Regularizer
    at_ranks: Callable[[torch.Tensor], torch.Tensor] = itself
    scalar: bool = False  # a score of each number, not of number x rank

    def latent(self, scores: torch.Tensor, temperature: float, engine: str) -> Latent:
        P, utilities = self.polytope(scores.shape[1]), Gumbel(scores, 1.0)

        def softmax(w: torch.Tensor) -> torch.Tensor:
            return self.at_ranks(cvxsst.softmax(P, w, self.regularizer, temperature, engine))

        event = len(P.shape)
        return Latent(utilities, partial(self.best), softmax, lambda w: utilities.log_prob(w).flatten(-event).sum(-1))

    def best(self, scores: torch.Tensor) -> torch.Tensor:
        """Permutation matrices ``(*, B, n, n)``."""
        n = scores.shape[-1]
        return self.at_ranks(cvxsst.argmax(self.polytope(n), scores))


ORDERS = {
    "sinkhorn": Order("Sinkhorn", birkhoff, CategoricalEntropy()),
    "euclidean": Order("Birkhoff, Euclid.", birkhoff, Euclidean()),
    "binary": Order("Birkhoff, Bin. Ent.", birkhoff, BinaryEntropy()),
    "permutahedron": Order("Permutahedron, Euclid.", permutahedron, Euclidean(), ranked, scalar=True),
}

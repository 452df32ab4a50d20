"""The latent subsets of k of the words of a review, a line of the table each.

Scores are ``(B, n)``, one for each word, and ``(B, n - 1)``, one for each pair of neighbours; subsets are ``(B, n)``.
Padding is never chosen, whatever the noise, except that of reviews of fewer than k words, as many as are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch.distributions import Gumbel

from cvxsst import (
    BinaryEntropy,
    CategoricalEntropy,
    Euclidean,
    ExponentialFamily,
    Polytope,
    Regularizer,
    argmax,
    softmax,
)
from experiments.runs.gradients import Latent
from polytopes import correlated_k_subset, k_subset
from polytopes.padding import padded

Choose = Callable[[Polytope, torch.Tensor], torch.Tensor]


class Scores(NamedTuple):
    """Of words ``(B, n)``, and of pairs of neighbours ``(B, n - 1)``."""

    word: torch.Tensor
    pair: torch.Tensor


@dataclass(frozen=True)
class TopK:
    """The k words of the largest utilities, Gumbel variables about the scores; relaxed over their hull.

    ``has_pairs``: whether the scores of pairs matter, which have no noise: there is no density of all utilities.
    """

    label: str
    regularizer: Regularizer = ExponentialFamily()  # noqa: RUF009 - frozen and without state
    has_pairs: bool = False

    def latent(self, scores: Scores, lengths: torch.Tensor, k: int, temperature: float, engine: str = "auto") -> Latent:
        """The subsets ``(samples, B, n)`` as functions of the utilities ``(samples, B, n)``."""
        utilities = Gumbel(scores.word, 1.0)
        lengths = lengths.clamp(min=k)

        def log_prob(w: torch.Tensor) -> torch.Tensor:
            real = torch.arange(w.shape[-1], device=w.device) < lengths[:, None]
            return torch.where(real, utilities.log_prob(w), 0).sum(-1)

        relaxed = partial(self.relaxed, temperature=temperature, engine=engine)
        chosen = partial(self.chosen, scores.pair, lengths, k)
        return Latent(utilities, partial(chosen, argmax), partial(chosen, relaxed), log_prob)

    def best(self, scores: Scores, lengths: torch.Tensor, k: int) -> torch.Tensor:
        """Without noise, ``(B, n)``."""
        return self.chosen(scores.pair, lengths.clamp(min=k), k, argmax, scores.word)

    def relaxed(self, P: Polytope, w: torch.Tensor, temperature: float, engine: str) -> torch.Tensor:
        return softmax(P, w, self.regularizer, temperature, engine)

    def chosen(
        self, pair: torch.Tensor, lengths: torch.Tensor, k: int, choose: Choose, w: torch.Tensor
    ) -> torch.Tensor:
        """By ``choose(polytope, utilities)``, for w ``(*samples, B, n)``."""
        P = k_subset(w.shape[-1], k)
        return choose(P, padded(P, w, lengths.expand(w.shape[:-1])))


@dataclass(frozen=True)
class CorrelatedTopK(TopK):
    """The scores of the pairs are utilities of both being chosen, without noise (Paulus et al. 2020)."""

    has_pairs: bool = True

    def chosen(
        self, pair: torch.Tensor, lengths: torch.Tensor, k: int, choose: Choose, w: torch.Tensor
    ) -> torch.Tensor:
        n = w.shape[-1]
        P = correlated_k_subset(n, k)
        both = torch.cat([w, pair.expand(*w.shape[:-1], n - 1)], -1)
        return choose(P, padded(P, both, lengths.expand(w.shape[:-1])))[..., :n]


@dataclass(frozen=True)
class SoftSub(TopK):
    """k softmaxes one after the other, each of what the former ones have left (Xie and Ermon 2019).

    The utilities are the scores *plus* Gumbel noise, -log(-log u), and what was taken stays off: a
    published implementation flips the sign and forgets what the softmaxes before the last one took.
    """

    def relaxed(self, P: Polytope, w: torch.Tensor, temperature: float, engine: str) -> torch.Tensor:
        k = P.arguments["k"]
        least = torch.finfo(w.dtype).tiny
        z, chosen = torch.zeros_like(w), torch.zeros_like(w)
        for _ in range(k):
            w = w + torch.log((1 - chosen).clamp(min=least))
            chosen = torch.softmax(w / temperature, -1)
            z = z + chosen
        return z


@dataclass(frozen=True)
class L2X(TopK):
    """The maximum, word by word, of k independent choices of one word (Chen et al. 2018); fewer than k, if they meet.

    The utilities are ``(samples, B, k, n)``. Without noise, the k best words.
    """

    def latent(self, scores: Scores, lengths: torch.Tensor, k: int, temperature: float, engine: str = "auto") -> Latent:
        utilities = Gumbel(scores.word[:, None].expand(-1, k, -1), 1.0)
        real = torch.arange(scores.word.shape[-1], device=lengths.device) < lengths.clamp(min=k)[:, None, None]

        def hard(w: torch.Tensor) -> torch.Tensor:
            best = w.masked_fill(~real, -torch.inf).argmax(-1, keepdim=True)
            return torch.zeros_like(w).scatter(-1, best, 1.0).amax(-2)

        def soft(w: torch.Tensor) -> torch.Tensor:
            return torch.softmax(w.masked_fill(~real, -torch.inf) / temperature, -1).amax(-2)

        def log_prob(w: torch.Tensor) -> torch.Tensor:
            return torch.where(real, utilities.log_prob(w), 0).sum((-2, -1))

        return Latent(utilities, hard, soft, log_prob)


SUBSETS: dict[str, TopK] = {
    "l2x": L2X("L2X"),
    "softsub": SoftSub("SoftSub"),
    "euclidean": TopK("Euclid. top k", Euclidean()),
    "categorical": TopK("Cat. ent. top k", CategoricalEntropy()),
    "binary": TopK("Bin. ent. top k", BinaryEntropy()),
    "exponential": TopK("E.F. ent. top k"),
    "correlated": CorrelatedTopK("Corr. top k"),
}

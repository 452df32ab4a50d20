"""The distributions of the permutations, a line of the table each.

Scores are ``(B, n, n)``, entry [neuron, recorded neuron], and so is ``allowed``, bool: what is not allowed is -inf, in
a pattern of each worm. Structures are permutation matrices P with P[i, j] = 1 where neuron i is recorded as j.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.distributions import Gumbel, Normal, kl_divergence

import cvxsst
from cvxsst import BinaryEntropy, CategoricalEntropy, Euclidean, Regularizer
from experiments.runs.gradients import Latent
from polytopes import birkhoff

SWEEPS = 10  # of the published relaxations
VARIANCES = (0.1, 0.5)  # of the noise of rounding, between which it is learned

Relaxation = Callable[[torch.Tensor, float, str], torch.Tensor]  # of w with -inf, the temperature, an engine


def forbid(w: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    return torch.where(allowed, w, -torch.inf)


def best(w: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """The permutations of w ``(*, B, n, n)``, by the Hungarian method."""
    return cvxsst.argmax(birkhoff(w.shape[-1]), forbid(w, allowed))


def sweeps(u: torch.Tensor, count: int) -> torch.Tensor:
    """exp(u) after so many sweeps of Sinkhorn, rows then columns: what is published, with autograd through each."""
    for _ in range(count):
        u = u - u.logsumexp(-1, keepdim=True)
        u = u - u.logsumexp(-2, keepdim=True)
    return u.exp()


def published(w: torch.Tensor, temperature: float, engine: str) -> torch.Tensor:
    return sweeps((w / temperature).clamp_min(-1e8), SWEEPS)  # so large, not -inf: that has no gradient here


def over_birkhoff(regularizer: Regularizer) -> Relaxation:
    """Exact, with the implicit gradient."""

    def relaxation(w: torch.Tensor, temperature: float, engine: str) -> torch.Tensor:
        return cvxsst.softmax(birkhoff(w.shape[-1]), w, regularizer, temperature, engine)

    return relaxation


@dataclass(frozen=True)
class Perturbed:
    """argmax <scores + Gumbel noise, P>, relaxed."""

    label: str
    relaxation: Relaxation
    temperature: float = 1.0
    learns_noise: bool = False

    def latent(
        self, scores: torch.Tensor, spread: torch.Tensor | None, allowed: torch.Tensor, temperature: float, engine: str
    ) -> Latent:
        utilities = Gumbel(scores, 1.0)
        return Latent(
            utilities,
            partial(best, allowed=allowed),
            lambda w: self.relaxation(forbid(w, allowed), temperature, engine),
            lambda w: torch.where(allowed, utilities.log_prob(w), 0).flatten(-2).sum(-1),
        )

    def mode(self, scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """The permutation matrices without noise."""
        return best(scores, allowed)

    def divergence(self, scores: torch.Tensor, spread: torch.Tensor | None, allowed: torch.Tensor) -> torch.Tensor:
        """``(B,)``: KL of the utilities from those of scores 0, which bounds that of the permutations."""
        kl = kl_divergence(Gumbel(scores, 1.0), Gumbel(torch.zeros_like(scores), 1.0))
        return torch.where(allowed, kl, 0).sum((1, 2))


@dataclass(frozen=True)
class Rounded:
    """T X + (1 - T) argmax <X, P>,  X = S + normal noise, S the scores after Sinkhorn's sweeps (Linderman et al.
    2017)."""

    label: str
    temperature: float = 0.5
    learns_noise: bool = True

    def latent(
        self, scores: torch.Tensor, spread: torch.Tensor | None, allowed: torch.Tensor, temperature: float, engine: str
    ) -> Latent:
        utilities, argmax = self._noisy(scores, spread, allowed), partial(best, allowed=allowed)

        def towards(w: torch.Tensor) -> torch.Tensor:
            return temperature * torch.where(allowed, w, 0) + (1 - temperature) * argmax(w.detach())

        def log_prob(w: torch.Tensor) -> torch.Tensor:
            return torch.where(allowed, utilities.log_prob(w), 0).flatten(-2).sum(-1)

        return Latent(utilities, argmax, towards, log_prob)

    def _noisy(self, scores: torch.Tensor, spread: torch.Tensor | None, allowed: torch.Tensor) -> Normal:
        assert spread is not None
        low, high = VARIANCES
        variance = low + (high - low) * torch.sigmoid(spread)
        return Normal(published(forbid(scores, allowed), 1.0, ""), variance.sqrt())

    def mode(self, scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """The permutation matrices without noise."""
        return best(published(forbid(scores, allowed), 1.0, ""), allowed)

    def divergence(self, scores: torch.Tensor, spread: torch.Tensor | None, allowed: torch.Tensor) -> torch.Tensor:
        """``(B,)``: less the entropy of X, up to a constant; the published prior over its entries is left out."""
        entropy = self._noisy(scores, spread, allowed).entropy()
        return -torch.where(allowed & (allowed.sum(-1, keepdim=True) > 1), entropy, 0).sum((1, 2))


MCMC = "mcmc"  # the row without a relaxation
PERMUTATIONS: dict[str, Perturbed | Rounded] = {
    "rounding": Rounded("Rounding"),
    "gumbel-sinkhorn": Perturbed("Gumbel-Sinkhorn, 10 sweeps", published),
    "sinkhorn": Perturbed("Sinkhorn, exact", over_birkhoff(CategoricalEntropy())),
    "euclidean": Perturbed("Birkhoff, Euclid.", over_birkhoff(Euclidean())),
    "binary": Perturbed("Birkhoff, Bin. Ent.", over_birkhoff(BinaryEntropy())),
}
LABELS = {MCMC: "MCMC", **{name: kind.label for name, kind in PERMUTATIONS.items()}}

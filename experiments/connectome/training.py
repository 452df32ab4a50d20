"""What is trained: W and the permutations by variational inference; and the chain that finds them without gradients."""

from __future__ import annotations

import torch
from torch import nn

from experiments.connectome.config import Config
from experiments.connectome.data import TIMES
from experiments.connectome.mcmc import given_permutations, swapped
from experiments.connectome.model import Weights, log_likelihood, recorded
from experiments.connectome.permutations import MCMC, PERMUTATIONS, best
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS

Batch = dict[str, torch.Tensor]


def measured(P: torch.Tensor, W: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    """Of permutation matrices ``(B, n, n)``: shares of right neurons, known ones included, and of the unknown ones; and
    what the recordings say of them, per time and neuron, with 0 for the true dynamics in the mean."""
    right = P.argmax(-1) == batch["places"]
    unknown = ~batch["known"]
    fit = log_likelihood(recorded(W, P), batch) / (TIMES * P.shape[-1])
    return {
        "accuracy": right.float().mean(1),
        "unknown": (right & unknown).sum(1) / unknown.sum(1).clamp_min(1),
        "fit": fit + 0.5,
    }


class Identification(training.Model):
    """Scores of neuron x recorded neuron for each worm, and q(W). Trained on the recordings; the truth is for the
    accuracy. The checkpoint kept is that of the best fit, with which the truth has nothing to do."""

    settings = Config
    monitor, shown = "fit", ("accuracy",)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.kind, self.gradient = PERMUTATIONS[config.permutations], GRADIENTS[config.gradient]
        shape = (config.worms, config.neurons, config.neurons)
        self.scores = nn.Parameter(torch.zeros(shape))
        self.spread = nn.Parameter(torch.zeros(shape)) if self.kind.learns_noise else None
        self.weights = Weights(config.neurons, config.precision)
        self.estimator = self.gradient.estimator(self._baseline)

    def _baseline(self) -> nn.Module:
        """From the activity of each recorded neuron, as NVIL's context, to a number."""
        return nn.Linear(self.config.neurons, 1)

    def _of(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.scores[batch["worms"]], None if self.spread is None else self.spread[batch["worms"]]

    def loss(self, batch: Batch) -> torch.Tensor:
        """-ELBO, per time, worm and neuron."""
        allowed, (scores, spread) = batch["allowed"], self._of(batch)
        latent = self.kind.latent(scores, spread, allowed, self.config.temperature, self.config.engine)
        W = self.weights.sample(batch["joined"])
        context = batch["past"].diagonal(dim1=1, dim2=2) / TIMES
        cost = self.gradient.cost(
            latent, lambda P: -log_likelihood(recorded(W, P), batch), self.config.samples, self.estimator, context
        ).mean()
        if self.config.regularized:
            cost = cost + self.kind.divergence(scores, spread, allowed).mean()
        cost = cost + self.weights.divergence(batch["joined"]) / self.config.worms
        return cost / (TIMES * self.config.neurons)

    def measure(self, batch: Batch) -> Batch:
        P = self.kind.mode(self._of(batch)[0], batch["allowed"])
        return measured(P, torch.where(batch["joined"], self.weights.mean, 0), batch)


class Chain(training.Model):
    """Gibbs for W, Metropolis for the permutations: a step of training is one of the chain, without a gradient. How
    often a neuron was which, since half of the steps, is what is rounded."""

    settings = Config
    monitor, shown = "fit", ("accuracy",)
    config: Config
    places: torch.Tensor
    W: torch.Tensor
    visits: torch.Tensor
    total: torch.Tensor

    def __init__(self, config: Config):
        super().__init__(config)
        n = config.neurons
        self.nothing = nn.Parameter(torch.zeros(()))  # Lightning counts the steps of an optimizer
        self.register_buffer("places", torch.full((config.worms, n), -1))  # before the first step
        self.register_buffer("W", torch.zeros(n, n))
        self.register_buffer("visits", torch.zeros(config.worms, n, n))
        self.register_buffer("total", torch.zeros(n, n))  # of W, since half of the steps

    @torch.no_grad()
    def loss(self, batch: Batch) -> torch.Tensor:
        if self.config.batch_size != self.config.worms:
            raise ValueError(f"batch_size: {MCMC} looks at all {self.config.worms} worms in every step")
        if bool((self.places < 0).any()):
            self.places.copy_(best(torch.randn_like(self.visits), batch["allowed"]).argmax(-1))
        self.W.copy_(given_permutations(self.places, batch, self.config.precision))
        self.places.copy_(swapped(self.places, self.W, batch))
        if 2 * self.global_step >= self.config.steps:
            self.visits.scatter_add_(2, self.places[..., None], torch.ones_like(self.visits[..., :1]))
            self.total += self.W
        with torch.enable_grad():
            return self.nothing + log_likelihood(recorded(self.W, self._now()), batch).mean() * -1e-6

    def _now(self) -> torch.Tensor:
        return torch.zeros_like(self.visits).scatter_(2, self.places[..., None], 1.0)

    def measure(self, batch: Batch) -> Batch:
        visits = self.visits[batch["worms"]]
        count = visits[0, 0].sum()
        if count == 0:
            return measured(self._now()[batch["worms"]], self.W, batch)
        return measured(best(visits, batch["allowed"]), self.total / count, batch)

"""What is trained: the scores of number x rank, by the squared distance of the ordered list from the sorted one."""

from __future__ import annotations

import torch
from torch import nn

from experiments.runs import training
from experiments.runs.gradients import GRADIENTS
from experiments.runs.seeds import seeded
from experiments.sorting.config import Config
from experiments.sorting.model import Places, Ranks, Scalar, judged, perceptron, placed
from experiments.sorting.permutations import ORDERS


class Sorter(training.Model):
    """Trained on lists and what they are sorted; no permutation is shown."""

    settings = Config
    monitor, shown = "tau", ("any",)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.order, self.gradient = ORDERS[config.order], GRADIENTS[config.gradient]
        with seeded(config.seed):
            self.network = self._network()
            self.estimator = self.gradient.estimator(self._baseline)

    def _network(self) -> nn.Module:
        if self.order.scalar:
            return Scalar(self.config.hidden)
        if self.config.network == "places":
            return Places(self.config.hidden)
        return Ranks(self.config.numbers, self.config.hidden)

    def _baseline(self) -> nn.Module:
        """From the least number of a list, all that sorting leaves to know of it, to a number."""
        return perceptron(self.config.hidden, 1)

    def relative(self, x: torch.Tensor) -> torch.Tensor:
        """In units of the range: a list times ten is sorted as it is."""
        return (x - self.config.low) / (self.config.high - self.config.low)

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        x = self.relative(batch)
        truth = x.sort(-1).values
        latent = self.order.latent(self.network(x), self.config.temperature, self.config.engine)

        def distance(Z: torch.Tensor) -> torch.Tensor:
            return (placed(Z, x) - truth).square().sum(-1)

        return self.gradient.cost(latent, distance, self.config.samples, self.estimator, truth[:, :1]).mean()

    def measure(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        n = batch.shape[-1]
        if n != self.config.numbers and isinstance(self.network, Ranks):
            raise ValueError(
                f"--numbers: {n}, but this network has an output for each of {self.config.numbers} ranks; "
                "train one with --network places"
            )
        Z = self.order.best(self.network(self.relative(batch)))
        return judged(placed(Z, batch), batch)

"""What is trained: the scores of tile x place, by the pixels of the restored image."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributions import Gumbel

from cvxsst import softmax
from experiments.jigsaw.config import REGULARIZERS, Config
from experiments.jigsaw.data import pixels, right_places, shuffle
from experiments.jigsaw.model import Scorer, best, placed
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS, Latent
from experiments.runs.orders import kendalls_tau
from experiments.runs.seeds import seeded
from polytopes import birkhoff


class Jigsaw(training.Model):
    """Trained on images; every step shuffles its tiles anew."""

    settings = Config
    monitor, shown = "tau", ("any",)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.gradient, self.tiles = GRADIENTS[config.gradient], config.grid**2
        self.regularizer = REGULARIZERS[config.order][0]
        with seeded(config.seed):
            self.scorer = Scorer(self.tiles, pixels(config.images, config.grid), config.hidden)
            self.estimator = self.gradient.estimator(self._baseline)

    def _baseline(self) -> nn.Module:
        """From the tiles, in any order, to a number."""
        inputs, width = pixels(self.config.images, self.config.grid) * self.tiles, self.config.hidden
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 1))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / self.config.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        """|Z' tiles - truth|^2, the mean over the batch."""
        tiles, _ = shuffle(batch)
        theta = self.scorer(tiles + self.config.noise * torch.randn_like(tiles))
        return self.gradient.cost(
            self.latent(theta),
            lambda Z: (placed(Z, tiles) - batch).square().sum(dim=(-2, -1)),
            self.config.samples,
            self.estimator,
            tiles,
        ).mean()

    def latent(self, theta: torch.Tensor) -> Latent:
        utilities, P = Gumbel(theta, 1.0), birkhoff(self.tiles)
        relaxed = partial(
            softmax,
            P,
            regularizer=self.regularizer,
            temperature=self.config.temperature,
            engine=self.config.engine,
        )
        return Latent(utilities, best, relaxed, lambda w: utilities.log_prob(w).sum((-2, -1)))

    def measure(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """By pixels, but for tau: that is of the places."""
        tiles, place = shuffle(batch)
        Z = best(self.scorer(tiles))
        restored = placed(Z, tiles)
        right, off = right_places(restored, batch), restored - batch
        belongs = place.gather(1, Z.argmax(1))  # of the tile that lies at each place
        return {
            "wrong": 1 - right.float().mean(1),
            "any": 1 - right.all(1).float(),
            "tau": kendalls_tau(belongs),
            "l1": off.abs().mean((1, 2)),
            "l2": off.square().mean((1, 2)),
        }


def rate(progress: float) -> float:
    """Learning rate, relative: a linear warm-up (attention needs one), then half a cosine down to zero."""
    return min(1.0, 0.05 + progress / 0.15) * (1 + math.cos(math.pi * progress)) / 2

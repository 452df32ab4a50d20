"""A network that scores tile x position, and a stochastic softmax that makes a relaxed permutation of the scores.

    theta = scorer(tiles)                                theta[i, j]: how well tile i suits position j
    Z     ~ StochasticSoftmax(Gumbel(theta, 1), B_4)     training: a random doubly stochastic matrix, differentiable
    Z     = argmax over B_4 of <theta, Z>                use: a permutation matrix

The image is restored as Z' tiles. The loss compares its pixels with those of the true image: no permutation is ever
shown to the network, it is a latent variable, and the gradient reaches theta through Z.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributions import Gumbel

import cvxsst
from experiments.jigsaw.data import PIXELS, TILES, shuffled
from polytopes import birkhoff

BATCH = 48
LEARNING_RATE = 1.5e-3
# A Euclidean solution at a vertex has gradient zero, and at T = 1 most soon are there. T = 8 keeps Z inside for longer;
# at the end it is sharp all the same, because the network has learned scores of that size.
TEMPERATURE = 8.0
NOISE = 0.1  # of the pixels, in [0, 1], in training: 1,500 digits are few


class Scorer(nn.Module):
    """Utilities theta ``(batch, 4, 4)`` of tile x position from tiles ``(batch, 4, 16)``.

    The same network for every tile, which sees the others by attention. Nothing tells it the order of the tiles, so
    it is equivariant: tiles in another order give the same rows of theta, in that order.
    """

    def __init__(self, width: int = 96):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(PIXELS, width), nn.ReLU(), nn.Linear(width, width))
        block = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.attend = nn.TransformerEncoder(block, num_layers=2, enable_nested_tensor=False)
        self.score = nn.Linear(width, TILES)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.score(self.attend(self.embed(tiles)))


def placed(Z: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
    """Z' tiles: at position j the tiles i, each with weight Z[i, j]; with a permutation matrix just the right one."""
    return Z.mT @ tiles


def reconstruction_error(scorer: nn.Module, tiles: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """|Z' tiles - truth|^2, the mean over the batch, for one relaxed permutation Z per image."""
    theta = scorer(tiles + NOISE * torch.randn_like(tiles))
    q = cvxsst.StochasticSoftmax(
        Gumbel(theta, 1.0), birkhoff(TILES), regularizer=cvxsst.Euclidean(), temperature=TEMPERATURE
    )
    Z = q.rsample()
    return (placed(Z, tiles) - truth).square().sum(dim=(1, 2)).mean()


def train(scorer: nn.Module, truth: torch.Tensor, steps: int) -> Iterator[float]:
    """Fits the scorer to the true tiles ``(n, 4, 16)``, shuffled anew each time; yields the loss of every step."""
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    for _, batch in zip(range(steps), _batches(len(truth)), strict=False):
        loss = reconstruction_error(scorer, shuffled(truth[batch]), truth[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


def _rate(progress: float) -> float:
    """Learning rate, relative: a linear warm-up (attention needs one), then half a cosine down to zero."""
    return min(1.0, 0.05 + progress / 0.15) * (1 + math.cos(math.pi * progress)) / 2


def _batches(n: int) -> Iterator[torch.Tensor]:
    """Indices of batches for ever: in each epoch every digit at most once (the last, incomplete batch is left out)."""
    while True:
        order = torch.randperm(n)
        yield from (batch for batch in order.split(min(BATCH, n)) if len(batch) == min(BATCH, n))


@torch.no_grad()
def restore(scorer: nn.Module, tiles: torch.Tensor) -> torch.Tensor:
    """The tiles in the most likely order: the argmax over permutations, without noise."""
    return placed(cvxsst.argmax(birkhoff(TILES), scorer(tiles)), tiles)


@torch.no_grad()
def restore_by_means(training: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
    """The baseline without a network: theta[i, j] = -|tile i - mean training tile at j|^2.

    Far above chance, because the corners of a digit look different: what the network must beat.
    """
    theta = -(tiles[:, :, None] - training.mean(dim=0)).square().sum(dim=3)
    return placed(cvxsst.argmax(birkhoff(TILES), theta), tiles)

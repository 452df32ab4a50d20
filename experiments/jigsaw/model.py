"""A network that scores tile x place, and how an image is put together.

    theta = scorer(tiles)                                theta[i, j]: how well tile i suits place j
    Z     ~ argmax <theta + Gumbel noise, Z>, relaxed    training: a random doubly stochastic matrix, differentiable
    Z     = argmax over the permutations of <theta, Z>   use: a permutation matrix

The image is restored as Z' tiles. The loss compares its pixels with those of the true image: no permutation is ever
shown to the network, it is a latent variable, and the gradient reaches theta through Z.
"""

from __future__ import annotations

import torch
from torch import nn

import cvxsst
from polytopes import birkhoff


class Scorer(nn.Module):
    """Utilities theta ``(batch, n, n)`` of tile x place from tiles ``(batch, n, pixels)``.

    The same network for every tile, which sees the others by attention. Nothing tells it the order of the tiles, so
    it is equivariant: tiles in another order give the same rows of theta, in that order.
    """

    def __init__(self, tiles: int = 4, pixels: int = 16, width: int = 96):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, width))
        block = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.attend = nn.TransformerEncoder(block, num_layers=2, enable_nested_tensor=False)
        self.score = nn.Linear(width, tiles)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.score(self.attend(self.embed(tiles)))


def placed(Z: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
    """Z' tiles: at place j the tiles i, each with weight Z[i, j]; with a permutation matrix just the right one."""
    return Z.mT @ tiles


@torch.no_grad()
def best(scores: torch.Tensor) -> torch.Tensor:
    """Permutation matrices, by the Hungarian method."""
    return cvxsst.argmax(birkhoff(scores.shape[-1]), scores)


@torch.no_grad()
def restore(scorer: nn.Module, tiles: torch.Tensor) -> torch.Tensor:
    """The tiles in the most likely order, without noise."""
    return placed(best(scorer(tiles)), tiles)


@torch.no_grad()
def restore_by_means(training: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
    """The baseline without a network: theta[i, j] = -|tile i - mean training tile at j|^2.

    Far above chance, because the corners of a digit look different: what the network must beat.
    """
    theta = -(tiles[:, :, None] - training.mean(dim=0)).square().sum(dim=3)
    return placed(best(theta), tiles)

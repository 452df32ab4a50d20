"""Digits of 8x8 pixels cut into 2x2 tiles: images ``(batch, 8, 8)``, tiles ``(batch, 4, 16)`` in reading order."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch

GRID, SIDE = 2, 4  # tiles along each edge of the image, pixels along each edge of a tile
TILES, PIXELS = GRID**2, SIDE**2

HELD_OUT = 297  # of 1797; 1500 remain for training


def to_tiles(images: torch.Tensor) -> torch.Tensor:
    """(batch, 8, 8) to (batch, 4, 16)."""
    blocks = images.reshape(-1, GRID, SIDE, GRID, SIDE)  # image, tile row, pixel row, tile column, pixel column
    return blocks.transpose(2, 3).reshape(-1, TILES, PIXELS)


def to_images(tiles: torch.Tensor) -> torch.Tensor:
    """(batch, 4, 16) to (batch, 8, 8), the inverse of ``to_tiles``."""
    blocks = tiles.reshape(-1, GRID, GRID, SIDE, SIDE)  # image, tile row, tile column, pixel row, pixel column
    return blocks.transpose(2, 3).reshape(-1, GRID * SIDE, GRID * SIDE)


def split_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """(training, held-out) tiles of the 1,797 digits that scikit-learn ships, in [0, 1]; the same split every time.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    tiles = to_tiles(torch.from_numpy(load_digits().images / 16).float())
    training, held_out = split_indices(len(tiles))
    return tiles[training], tiles[held_out]


def split_indices(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(training, held-out): which of n digits are for what, whatever the seed of the experiment."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[HELD_OUT:], order[:HELD_OUT]


def shuffled(tiles: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """The tiles of each image in an order of its own, uniformly random."""
    order = torch.rand(tiles.shape[:2], generator=generator).argsort(dim=1)
    return tiles.gather(1, order[..., None].expand_as(tiles))


def right_places(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(batch, 4) booleans: where the pixels are the true ones, so that identical (blank) tiles are interchangeable."""
    return (restored == truth).all(dim=2)


class Shares(NamedTuple):
    """What part of all tiles, and of all images, is right."""

    tiles: float
    images: float


def shares(right: torch.Tensor) -> Shares:
    """The shares of right tiles and of entirely right images, from ``right_places``."""
    return Shares(right.float().mean().item(), right.all(dim=1).float().mean().item())


def chance(truth: torch.Tensor) -> Shares:
    """The expected shares under a uniformly random order: 1/4 and 1/24, and more where tiles are identical."""
    orders = itertools.permutations(range(TILES))
    return shares(torch.cat([right_places(truth[:, order], truth) for order in map(list, orders)]))

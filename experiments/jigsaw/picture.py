"""A picture: one image a column; scrambled, restored, true."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from experiments.jigsaw.data import right_places, shares, to_images
from experiments.runs.files import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST, MISTAKES = 8, 4  # columns: the first held-out digits, then mistakes (if any) among the others
FORMATS = (".png", ".pdf", ".svg")
RED = "#d62728"


def draw(scrambled: torch.Tensor, restored: torch.Tensor, truth: torch.Tensor) -> Figure:
    """Three rows of images, wrong tiles framed in red; the title says how many are right in all."""
    # The object, not pyplot: no window, no global state.
    from matplotlib.figure import Figure

    right = right_places(restored, truth)
    first, mistakes = columns(right)
    figure = Figure(figsize=(11, 4), dpi=130)
    rows = {"scrambled": scrambled, "restored": restored, "truth": truth}
    for row, (label, tiles) in enumerate(rows.items()):
        for place, i in _places(first, mistakes):
            axes = figure.add_axes((place, 0.525 - 0.255 * row, 0.065, 0.065 * 11 / 4))
            _image(axes, tiles[i], right[i] if label == "restored" else None)
        figure.text(0.105, 0.615 - 0.255 * row, label, ha="right", va="center", fontsize=13)
    _headings(figure, right, first, mistakes)
    return figure


def columns(right: torch.Tensor) -> tuple[list[int], list[int]]:
    """Which images to show: the first ones, not selected; then mistakes from the rest."""
    wrong = (~right.all(dim=1)).nonzero().flatten().tolist()
    return list(range(min(FIRST, len(right)))), [i for i in wrong if i >= FIRST][:MISTAKES]


def _places(first: list[int], mistakes: list[int]) -> list[tuple[float, int]]:
    """(left edge, image) of every column; a gap stands between the two groups."""
    return [(0.12 + 0.071 * k + (0.02 if k >= len(first) else 0.0), i) for k, i in enumerate(first + mistakes)]


def _image(axes: Axes, tiles: torch.Tensor, right: torch.Tensor | None) -> None:
    """One image with its cuts; red frames around the tiles that are not right."""
    from matplotlib.patches import Rectangle

    image = to_images(tiles[None], colours(tiles))[0]
    grid = round(len(tiles) ** 0.5)
    side = len(image) // grid
    axes.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("0.7")
    for cut in range(side, grid * side, side):
        axes.axhline(cut - 0.5, color="0.7", linewidth=0.8)
        axes.axvline(cut - 0.5, color="0.7", linewidth=0.8)
    wrong = [] if right is None else (~right).nonzero().flatten().tolist()
    for place in wrong:
        row, column = divmod(place, grid)
        # A quarter of a pixel inside, so that neighbouring frames do not cover each other.
        corner = (column * side - 0.25, row * side - 0.25)
        axes.add_patch(Rectangle(corner, side - 0.5, side - 0.5, fill=False, edgecolor=RED, linewidth=2))


def colours(tiles: torch.Tensor) -> int:
    """1 or 3, of square tiles ``(..., pixels)``."""
    return 1 if round(tiles.shape[-1] ** 0.5) ** 2 == tiles.shape[-1] else 3


def _headings(figure: Figure, right: torch.Tensor, first: list[int], mistakes: list[int]) -> None:
    of_tiles, of_images = shares(right)
    title = f"Jigsaws never trained on: {of_images:.1%} of {len(right)} images restored, {of_tiles:.1%} of their tiles"
    figure.text(0.12, 0.9, title, fontsize=15)
    figure.text(0.12, 0.765, f"the first {len(first)}", fontsize=12)
    if mistakes:
        wrong = int((~right.all(dim=1)).sum())
        left = _places(first, mistakes)[len(first)][0]
        figure.text(left, 0.765, f"mistakes: {len(mistakes)} of all {wrong}", fontsize=12, color=RED)


def save(figure: Figure, path: Path) -> None:
    """Whole or not at all."""
    with whole(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix("."), facecolor="white")

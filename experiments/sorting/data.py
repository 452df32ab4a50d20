"""Lists of numbers, uniform in a range, drawn anew by every run from a seed of its own kind of part."""

from __future__ import annotations

from dataclasses import dataclass

import torch

LISTS = {"train": 10_000, "valid": 500, "test": 1000}


@dataclass(frozen=True)
class Lists:
    """``numbers`` ``(N, n)``."""

    numbers: torch.Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        return self.numbers[rows]


def draw(numbers: int, low: float, high: float) -> dict[str, Lists]:
    """The parts, the same in every call.

    Raises:
        ValueError: an empty range.
    """
    if not low < high:
        raise ValueError(f"low, high: {low} is not less than {high}")
    found = {}
    for part, (name, count) in enumerate(LISTS.items()):
        shares = torch.rand(count, numbers, generator=torch.Generator().manual_seed(part))
        found[name] = Lists(low + (high - low) * shares)
    return found

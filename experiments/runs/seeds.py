"""Random numbers that a seed decides, not what the process drew before, nor how many processes share the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

Piece = TypeVar("Piece")
Made = TypeVar("Made")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generator begins at the seed; afterwards the caller's goes on where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fix(*numbers: int) -> None:
    """Begin torch's generators anew at a place that all these numbers decide, on every device."""
    high, low = np.random.SeedSequence(numbers).generate_state(2)
    torch.manual_seed(int(high) << 32 | int(low))


def in_pieces(
    make: Callable[[Piece, np.random.SeedSequence], Made],
    pieces: Sequence[Piece],
    seed: int | Sequence[int],
    processes: int | None = None,
) -> Iterator[Made]:
    """``make(piece, its own seed)`` for every piece, in order, as they are ready; by default a process a core."""
    seeds = np.random.SeedSequence(seed).spawn(len(pieces))
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        yield from pool.map(make, pieces, seeds)

"""Expressions of ListOps of the depths 1 to 5, as many of each, no expression twice.

The mixture of Paulus et al. 2020, not the same random numbers. An expression of depth d is drawn with d as the greatest
depth, and again until it has just this depth and 10 to 49 tokens (at depth 1, where there are no longer ones, up to 7).
Of depth 1 ten times as many are drawn as are used: so the few short ones are rare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from experiments.listops.language import PADDING, Expression, draw, parse
from experiments.runs.files import read_arrays, write_arrays
from experiments.runs.seeds import in_pieces

DEEPEST = 5
LENGTHS = range(10, 50)  # of the expressions with inner lists
SPLITS = {"train": 20_000, "valid": 2_000, "test": 2_000}  # of each depth
SMALL = {"train": 400, "valid": 100, "test": 100}
OF_DEPTH_1 = 10  # one of so many is used
CHUNK = 2_000  # expressions a task
NARROWEST = 20  # of batches: smaller polytopes are presolved when they are declared, which costs more than padding
NAMES = ("tokens", "heads", "values", "depths")


class Batch(NamedTuple):
    """Expressions, padded to one width: ``tokens`` and ``heads`` ``(B, n)``, the others ``(B,)``."""

    tokens: torch.Tensor
    heads: torch.Tensor
    values: torch.Tensor
    depths: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        return (self.tokens != PADDING).sum(1)

    @property
    def arcs(self) -> torch.Tensor:
        """The true tree ``(B, n, n)``: 1 at [head, dependent]."""
        node = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        has_head = (self.tokens != PADDING) & (node > 0)
        return ((node[:, None] == self.heads[:, None]) & has_head[:, None]).float()

    def where(self, rows: torch.Tensor) -> Batch:
        return Batch(*(part[rows] for part in self))


@dataclass(frozen=True)
class Expressions:
    """A part of the data, whole: as a batch, but in the small types that it is stored in."""

    whole: Batch

    def __len__(self) -> int:
        return len(self.whole.tokens)

    def batch(self, rows: torch.Tensor) -> Batch:
        found = self.whole.where(rows)
        longest = int(found.lengths.max()) if len(rows) else 0
        width = max(longest, NARROWEST)
        tokens, heads = (F.pad(part[:, :longest].long(), (0, width - longest)) for part in found[:2])
        return Batch(tokens, heads, found.values.long(), found.depths.long())


def generate(
    sizes: Mapping[str, int], deepest: int, seed: int, processes: int | None = None
) -> Iterator[list[list[str]]]:
    """For each depth from 1 on, as it is ready, the texts of its splits, which have these sizes.

    The seed alone decides the result, not the number of processes.
    """
    for depth in range(1, deepest + 1):
        every = OF_DEPTH_1 if depth == 1 else 1
        counts = [every * size for size in sizes.values()]
        found = _distinct(depth, sum(counts), seed, processes)
        yield [found[start:end:every] for start, end in pairwise([0, *accumulate(counts)])]


def _distinct(depth: int, count: int, seed: int, processes: int | None) -> list[str]:
    """The first ``count`` different expressions that are drawn."""
    found: dict[str, None] = {}
    attempt = 0
    while len(found) < count:
        pieces = [(depth, CHUNK)] * -(-(count - len(found)) // CHUNK)
        for texts in in_pieces(_draw, pieces, (seed, depth, attempt), processes):
            found.update(dict.fromkeys(texts))
        attempt += 1
    return list(found)[:count]


def _draw(piece: tuple[int, int], seed: np.random.SeedSequence) -> list[str]:
    """So many expressions of a depth, not all different."""
    (depth, count), random = piece, Random(seed.generate_state(4).tobytes())
    found: list[str] = []
    while len(found) < count:
        words = list(draw(random, depth))
        if depth == 1 or (len(words) in LENGTHS and parse(words).depth == depth):
            found.append(" ".join(words))
    return found


def save(path: Path, shares: Sequence[Sequence[Sequence[str]]], names: Sequence[str], seed: int) -> str:
    """Writes the data set whole or not at all, every split in random order; returns its checksum.

    Args:
        shares: of each depth, the texts of each split.
        names: of the splits.
    """
    random = Random(seed)
    splits = [[text for part in parts for text in part] for parts in zip(*shares, strict=True)]
    for split in splits:
        random.shuffle(split)
    arrays = _arrays([parse(text.split()) for split in splits for text in split])
    return write_arrays(path, arrays, splits=list(names), sizes=[len(split) for split in splits], seed=seed)


def _arrays(expressions: Sequence[Expression]) -> dict[str, np.ndarray]:
    shape = len(expressions), max(len(expression.tokens) for expression in expressions)
    tokens, heads = np.full(shape, PADDING, dtype=np.int16), np.zeros(shape, dtype=np.int16)
    for row, expression in enumerate(expressions):
        tokens[row, : len(expression.tokens)] = expression.tokens
        heads[row, : len(expression.heads)] = expression.heads
    numbers = ([getattr(expression, name) for expression in expressions] for name in ("value", "depth"))
    return dict(zip(NAMES, (tokens, heads, *(np.array(column, dtype=np.int16) for column in numbers)), strict=True))


def load(path: Path) -> dict[str, Expressions]:
    """The splits of an ``.npz`` file of ``cvxsst data listops``; of any other file, read as published, ``test``.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: another file, or a damaged one.
    """
    if path.suffix != ".npz" and path.exists():
        return {"test": Expressions(_batch(_arrays(read(path))))}
    stored = read_arrays(path, NAMES, "expressions", "cvxsst data listops")
    sizes = stored["sizes"].tolist()
    columns = [torch.from_numpy(stored[name]).split(sizes) for name in NAMES]
    return {name: Expressions(Batch(*part)) for name, *part in zip(stored["splits"].tolist(), *columns, strict=True)}


def _batch(arrays: Mapping[str, np.ndarray]) -> Batch:
    return Batch(*(torch.from_numpy(arrays[name]) for name in NAMES))


def read(path: Path) -> list[Expression]:
    """A file in the published form: in every line the value, a tab, the expression; round brackets do not matter.

    Raises:
        ValueError: another file, an expression that is none or has another value; with the number of the line.
    """
    found = []
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}); what cvxsst data listops writes has a name in .npz") from error
    for number, line in enumerate(lines, 1):
        label, tab, text = line.partition("\t")
        try:
            expression = parse(text.replace("(", " ").replace(")", " ").split())
            if not tab or label.strip() != str(expression.value):
                raise ValueError(f"it comes to {expression.value}, the line begins with {label!r}")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; expected a value, a tab and an expression") from error
        found.append(expression)
    if not found:
        raise ValueError(f"{path} has no lines")
    return found

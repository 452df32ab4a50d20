"""Layouts of random trees: positions of the nodes, frame by frame, while springs pull them into place.

    tree       maximum spanning tree under independent Gumbel(0, 1) weights of the V (V - 1) / 2 pairs
    frame 0    N(0, 1) positions after one iteration of Fruchterman and Reingold's method (networkx.spring_layout)
    frame t    frame t - 1 after one more iteration; networkx rescales every frame

The same generator as that of Paulus et al. 2020, not the same random numbers. A trajectory of T frames is the first T
of the 20 that are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
import torch
from torch.distributions import Gumbel

import cvxsst
from experiments.runs.files import read_arrays, write_arrays
from experiments.runs.seeds import in_pieces, seeded
from polytopes import spanning_tree

NODES = 10
FRAMES = 20
SPLITS = {"train": 50_000, "valid": 10_000, "test": 10_000}
SMALL = {"train": 512, "valid": 200, "test": 200}
CHUNK = 250  # layouts a task: small enough for a smooth progress bar


@dataclass(frozen=True)
class Layouts:
    """Positions ``(N, V, T, 2)``, scaled to [-1, 1] by the extremes of the training set; trees ``(N, pairs)``."""

    positions: torch.Tensor
    trees: torch.Tensor

    def __len__(self) -> int:
        return len(self.trees)

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.positions[rows], self.trees[rows]


def generate(sizes: dict[str, int], seed: int, processes: int | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yields ``("trees", (N, pairs))`` once, then ``("frames", (chunk, FRAMES, V, 2))`` in order, as they are ready.

    The seed alone decides the result, not the number of processes: every chunk has its own random numbers.
    """
    total = sum(sizes.values())
    with seeded(seed):
        weights = Gumbel(torch.zeros(total, NODES * (NODES - 1) // 2), 1.0)
        trees = cvxsst.StochasticArgmax(weights, spanning_tree(NODES)).sample().to(torch.uint8).numpy()
    yield "trees", trees
    chunks = [trees[start : start + CHUNK] for start in range(0, total, CHUNK)]
    for frames in in_pieces(_lay_out, chunks, seed, processes):
        yield "frames", frames


def _lay_out(trees: np.ndarray, seed: np.random.SeedSequence) -> np.ndarray:
    """``(n, FRAMES, V, 2)``, single precision."""
    random = np.random.default_rng(seed)
    sender, receiver = np.triu_indices(NODES, 1)
    frames = np.empty((len(trees), FRAMES, NODES, 2), dtype=np.float32)
    for tree, trajectory in zip(trees, frames, strict=True):
        graph = nx.empty_graph(NODES)
        graph.add_edges_from(zip(sender[tree == 1].tolist(), receiver[tree == 1].tolist(), strict=True))
        position = dict(enumerate(random.standard_normal((NODES, 2))))
        for frame in trajectory:
            position = nx.spring_layout(graph, pos=position, iterations=1, threshold=1e-10)
            frame[:] = [position[node] for node in range(NODES)]
    return frames


def save(path: Path, frames: np.ndarray, trees: np.ndarray, sizes: dict[str, int], seed: int) -> str:
    """Writes the data set whole or not at all; returns its checksum."""
    arrays = {"frames": frames, "trees": trees}
    return write_arrays(path, arrays, splits=list(sizes), sizes=list(sizes.values()), seed=seed)


def load(path: Path, length: int) -> dict[str, Layouts]:
    """The splits, each with the first ``length`` frames.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: another file than ``cvxsst data graph-layout`` writes, or a damaged one; a length not in 2..20.
    """
    if not 2 <= length <= FRAMES:
        raise ValueError(f"length: {length} frames; the stored trajectories have {FRAMES}, and at least 2 are needed")
    stored = read_arrays(path, ("frames", "trees"), "layouts", "cvxsst data graph-layout")
    counts = stored["sizes"].tolist()
    positions = torch.from_numpy(np.ascontiguousarray(stored["frames"][:, :length].swapaxes(1, 2)))
    low, high = positions[: counts[0]].aminmax()
    positions = (positions - low) * (2 / (high - low)) - 1
    trees = torch.from_numpy(stored["trees"]).float()
    parts = zip(positions.split(counts), trees.split(counts), strict=True)
    return {name: Layouts(*part) for name, part in zip(stored["splits"].tolist(), parts, strict=True)}

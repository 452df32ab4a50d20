"""Polytopes known by an argmax oracle alone: how often it is asked, and the time beside the enumerated hull.

    python -m benchmarks.oracles                  T = 10, 1, .1; medians in ms of forward and backward
    python -m benchmarks.oracles --batch 64

A *call* is one structure found for one instance; the engine asks for all instances at once. *hull*: CVXPY with
Clarabel on minimize |V'p - w / T|^2 over p in the simplex, V all structures, one instance after another, forward only;
*off*: its largest difference from ours.
"""

from __future__ import annotations

import itertools
import statistics
import time
from functools import partial
from typing import Annotated

import cvxpy as cp
import networkx as nx
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

import cvxsst
from benchmarks.measuring import Batch, Rounds, Threads, forward_and_backward, normal, on_threads, save

TEMPERATURES = (10.0, 1.0, 0.1)


def tours(n: int) -> np.ndarray:
    """The edges of all tours of n cities, ``((n - 1)! / 2, n (n - 1) / 2)``."""
    edge = {pair: e for e, pair in enumerate(itertools.combinations(range(n), 2))}
    found = []
    for rest in itertools.permutations(range(1, n)):
        if rest[0] < rest[-1]:
            z = np.zeros(len(edge))
            for pair in itertools.pairwise((0, *rest, 0)):
                z[edge[min(pair), max(pair)]] = 1.0
            found.append(z)
    return np.array(found)


def matchings(n: int) -> np.ndarray:
    """All matchings of the complete graph, perfect or not."""
    pairs = list(itertools.combinations(range(n), 2))

    def extended(nodes: frozenset[int]) -> list[list[tuple[int, int]]]:
        if not nodes:
            return [[]]
        first, rest = min(nodes), nodes - {min(nodes)}
        free = extended(rest)
        return free + [[(first, other), *m] for other in sorted(rest) for m in extended(rest - {other})]

    return np.array([[float(pair in m) for pair in pairs] for m in extended(frozenset(range(n)))])


def blossom(w: np.ndarray) -> np.ndarray:
    """The best matching of the complete graph with these weights, by networkx."""
    n = round((1 + (1 + 8 * len(w)) ** 0.5) / 2)
    pairs = list(itertools.combinations(range(n), 2))
    graph = nx.Graph()
    graph.add_weighted_edges_from(
        (i, j, weight) for (i, j), weight in zip(pairs, w.tolist(), strict=True) if weight > 0
    )
    chosen = {tuple(sorted(pair)) for pair in nx.max_weight_matching(graph)}
    return np.array([float(pair in chosen) for pair in pairs])


def listed(V: np.ndarray) -> cvxsst.Polytope:
    structures = torch.from_numpy(V)
    return cvxsst.Polytope.from_oracle(lambda w: structures[(w @ structures.T).argmax(-1)], V.shape[1])


def cases() -> dict[str, tuple[cvxsst.Polytope, np.ndarray | None]]:
    """The polytope and its structures, where there are few."""
    return {
        "tours of 6 cities": (listed(tours(6)), tours(6)),
        "tours of 8 cities": (listed(tours(8)), tours(8)),
        "matchings of 6, blossom": (cvxsst.Polytope.from_oracle(blossom, 15, each=map), matchings(6)),
        "matchings of 16, blossom": (cvxsst.Polytope.from_oracle(blossom, 120, each=map), None),
    }


def by_hull(V: np.ndarray, u: torch.Tensor) -> tuple[torch.Tensor, float]:
    """z, and the milliseconds for all instances."""
    p, target = cp.Variable(len(V), nonneg=True), cp.Parameter(V.shape[1])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(V.T @ p - target)), [cp.sum(p) == 1])
    start, found = time.perf_counter(), []
    for row in u.numpy():
        target.value = row
        problem.solve(solver="CLARABEL")
        found.append(V.T @ p.value)
    return torch.from_numpy(np.array(found)), 1e3 * (time.perf_counter() - start)


def main(
    batch: Batch = 16,
    rounds: Rounds = 3,
    threads: Threads = 1,
    seed: int = 0,
    name: Annotated[str, typer.Option(help="Under which the figures are kept.")] = "oracles",
) -> None:
    """The table: calls of the oracle for one instance, and milliseconds of a batch."""
    shown = Table("polytope", "T", "calls", "ours, ms", "hull, ms", "off")
    kept = []
    with on_threads(threads):
        for case, (P, V) in cases().items():
            w, g = normal(2, batch, P.size, seed=seed)
            for T in TEMPERATURES:
                u = w / T
                z, info = cvxsst.softmax(P, u, return_info=True)
                times = [forward_and_backward(partial(cvxsst.softmax, P), u, g)[2] for _ in range(rounds)]
                calls, ours = info.iterations.double().mean().item(), statistics.median(times)
                hull, off = None, None
                if V is not None:
                    other, hull = by_hull(V, u)
                    off = (other - z).abs().max().item()
                told = ["-", "-"] if hull is None or off is None else [f"{hull:.3g}", f"{off:.0e}"]
                shown.add_row(case, f"{T:g}", f"{calls:.1f}", f"{ours:.3g}", *told)
                kept.append([case, T, calls, ours, hull, off])
    Console(width=100).print(shown)
    save(name, kept, batch=batch, threads=threads, seed=seed)


if __name__ == "__main__":
    typer.run(main)

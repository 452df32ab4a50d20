"""Milliseconds of a training step for each relaxation, beside Sinkhorn's sweeps unrolled; of the Hungarian method.

python -m experiments.connectome.timing --data out/connectome.npz

Four worms, scores as in training after a while: normal, of standard deviation ``--spread``, and larger by ``--margin``
at the true permutation. The relaxations take turns, the median of the rounds is kept in ``results/timing.json``, from
where ``cvxsst table connectome`` takes it. How far the column sums of unrolled sweeps are from 1 is printed beside.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from experiments.connectome.commands import DATA
from experiments.connectome.config import Config
from experiments.connectome.data import load
from experiments.connectome.permutations import PERMUTATIONS, Perturbed, best, sweeps
from experiments.connectome.report import COMMITTED, TIMING
from experiments.connectome.training import Batch, Identification
from experiments.runs.files import write_json

UNROLLED = (10, 100)
WAYS = ("sinkhorn relaxed", "sinkhorn straight-through", "euclidean relaxed", "binary relaxed", "rounding relaxed")
SETTINGS = ((110, 0.05), (25, 0.1))  # known neurons, radius: the easiest and the hardest of the table


def unrolled(count: int) -> Perturbed:
    def relaxation(w: torch.Tensor, temperature: float, engine: str) -> torch.Tensor:
        return sweeps((w / temperature).clamp_min(-1e8), count)

    return Perturbed(f"{count} sweeps, unrolled", relaxation)


def steps(config: Config, batch: Batch, scores: torch.Tensor, rounds: int) -> dict[str, float]:
    """Milliseconds by relaxation and gradient."""
    ways: dict[str, Callable[[], object]] = {}
    for name in WAYS:
        permutations, gradient = name.split()
        ways[name] = _step(Config(**vars(config) | _way(permutations, gradient)), batch, scores)
    for count in UNROLLED:
        ways[f"unrolled-{count} relaxed"] = _step(config, batch, scores, unrolled(count))
    ways["hungarian"] = lambda: best(scores, batch["allowed"])
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first warms up
        for name, step in ways.items():
            start = time.perf_counter()
            step()
            if number:
                found[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def _way(permutations: str, gradient: str) -> dict[str, object]:
    return {"permutations": permutations, "gradient": gradient, "temperature": PERMUTATIONS[permutations].temperature}


def _step(config: Config, batch: Batch, scores: torch.Tensor, kind: Perturbed | None = None) -> Callable[[], None]:
    module = Identification(config)
    module.kind = kind or module.kind
    with torch.no_grad():
        module.scores.copy_(scores)
        module.weights.mean.normal_(0, 0.1)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-6)  # so that all rounds are alike

    def step() -> None:
        loss = module.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


@torch.no_grad()
def missing(batch: Batch, scores: torch.Tensor) -> dict[str, float]:
    """How far the row sums are from 1 at most, after so many sweeps, of which the last was one of the columns."""
    w = torch.where(batch["allowed"], scores, -1e8)
    return {f"unrolled-{count}": float((sweeps(w, count).sum(-1) - 1).abs().max()) for count in UNROLLED}


def main(
    data: Path = DATA,
    spread: float = 2.0,
    margin: float = 4.0,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    torch.set_num_threads(threads)
    milliseconds: dict[str, float] = {}
    off: dict[str, float] = {}
    for known, radius in SETTINGS:
        torch.manual_seed(0)
        worms = load(data, 0, known, radius)
        batch = worms.batch(torch.arange(len(worms)))
        scores = spread * torch.randn(worms.allowed.shape)
        scores.scatter_add_(2, worms.places[..., None], torch.full_like(scores[..., :1], margin))
        config = Config(known=known, radius=radius, neurons=scores.shape[-1], worms=len(worms))
        for name, value in steps(config, batch, scores, rounds).items():
            milliseconds[f"{name} {known} {radius}"] = value
        for name, value in missing(batch, scores).items():
            off[f"{name} {known} {radius}"] = value
    about = {"spread": spread, "margin": margin, "rounds": rounds, "threads": threads, "torch": torch.__version__}
    COMMITTED.mkdir(exist_ok=True)
    write_json(
        COMMITTED / TIMING,
        {"about": about | {"machine": f"{platform.machine()} CPU"}, "milliseconds": milliseconds, "row sums off": off},
    )
    for name, value in milliseconds.items():
        print(f"{name:40} {value:7.1f} ms")
    for name, value in off.items():
        print(f"{name:40} row sums off by {value:.1e}")


if __name__ == "__main__":
    typer.run(main)

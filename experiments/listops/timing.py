"""Seconds of the processor of a training step for each row of the table, and the share of its latent graphs.

python -m experiments.listops.timing [DATA]

The rows take turns, the median of the rounds is kept in ``results/timing.json``. The share is that of the relaxation
alone, there and back: noise, softmax, and the derivative by the scores.
"""

from __future__ import annotations

import platform
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track

from experiments.listops.commands import DATA
from experiments.listops.config import Config
from experiments.listops.data import Batch, load
from experiments.listops.edges import EDGES, LABELS
from experiments.listops.report import COMMITTED, TIMING
from experiments.listops.training import ListOps
from experiments.runs.files import write_json


def step(module: ListOps, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    start = time.process_time()
    optimizer.zero_grad()
    module.loss(batch).backward()
    optimizer.step()
    return time.process_time() - start


def latent(module: ListOps, batch: Batch) -> float:
    assert module.kind is not None
    theta = torch.randn(*batch.tokens.shape, batch.tokens.shape[1], requires_grad=True)
    start = time.process_time()
    graphs = module.kind.latent(theta, batch.lengths, module.config.temperature, module.config.engine)
    z = graphs.softmax(graphs.utilities.rsample(torch.Size([1])))
    torch.autograd.grad(z, theta, torch.ones_like(z))
    return time.process_time() - start


def main(
    data: Annotated[Path, typer.Argument(help="What `cvxsst data listops` wrote.")] = DATA,
    rows: Annotated[list[str] | None, typer.Option(help="Of the table. Default: all that train at this size.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    batch = load(data)["train"].batch(torch.arange(100))
    generic = {name for name, edges in EDGES.items() if edges.engine != "auto"}
    models = {name: ListOps(Config(edges=name)) for name in rows or [n for n in LABELS if n not in generic]}
    optimizers = {name: module.configure_optimizers() for name, module in models.items()}
    seconds: dict[str, dict[str, list[float]]] = {name: {"step": [], "latent": []} for name in models}
    for number in track(range(rounds + 1), "Timing"):  # the first round warms up
        for name, module in models.items():
            times = {"step": step(module, optimizers[name], batch)}
            if module.kind is not None:
                times["latent"] = latent(module, batch)
            for what, value in times.items() if number else ():
                seconds[name][what].append(value)
    medians = {name: {w: statistics.median(s) for w, s in lists.items() if s} for name, lists in seconds.items()}
    about: dict[str, Any] = {
        "tokens": list(batch.tokens.shape),
        "rounds": rounds,
        "threads": threads,
        "torch": torch.__version__,
    }
    COMMITTED.mkdir(exist_ok=True)
    about["machine"] = f"{platform.machine()} CPU"
    write_json(COMMITTED / TIMING, {"about": about, "seconds": medians})
    for name, found in medians.items():
        print(f"{name:26}", *(f"{what} {value:.3f}" for what, value in found.items()))


if __name__ == "__main__":
    typer.run(main)

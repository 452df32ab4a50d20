"""Seconds of a training step for each edge distribution, with the fast path and with the kkt engine.

python -m experiments.graph_layout.timing

On random trajectories: what a step costs does not depend on the data, but for the kkt engine's iterations a little. The
distributions take turns, the median of the rounds is kept in ``results/timing.json``, from where ``cvxsst table
graph-layout`` takes it.
"""

from __future__ import annotations

import platform
import statistics
import time
from typing import Annotated, Any

import torch
import typer
from rich.progress import track

from cvxsst.errors import NoFastPathError
from experiments.graph_layout.config import Config
from experiments.graph_layout.data import NODES
from experiments.graph_layout.edges import EDGES
from experiments.graph_layout.report import COMMITTED, TIMING
from experiments.graph_layout.training import RelationalInference
from experiments.runs.files import write_json

ENGINES = ("fast", "kkt")


def time_steps(config: Config, trajectories: torch.Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds by edges and engine, where that engine solves that relaxation."""
    models = {(edges, engine): _model(config, edges, engine) for edges in EDGES for engine in ENGINES}
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in track([None, *range(rounds)], "Timing"):  # the first round warms up
        for key, (module, optimizer) in models.items():
            start = time.perf_counter()
            try:
                loss = module.objective(trajectories)
            except NoFastPathError:
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if number is not None:
                seconds.setdefault(key, []).append(time.perf_counter() - start)
    found: dict[str, dict[str, float]] = {edges: {} for edges in EDGES}
    for (edges, engine), values in seconds.items():
        found[edges][engine] = statistics.median(values)
    return found


def _model(config: Config, edges: str, engine: str) -> tuple[RelationalInference, torch.optim.Optimizer]:
    module = RelationalInference(Config(**vars(config) | {"edges": edges, "engine": engine}))
    return module, torch.optim.Adam(module.parameters(), lr=1e-4)


def main(
    hidden: int = 64,
    length: int = 10,
    batch_size: int = 128,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = Config(hidden=hidden, length=length, batch_size=batch_size, temperature=1.0)
    seconds = time_steps(config, torch.rand(batch_size, NODES, length, 2) * 2 - 1, rounds)
    about: dict[str, Any] = {"hidden": hidden, "length": length, "batch_size": batch_size, "rounds": rounds}
    about |= {"threads": threads, "torch": torch.__version__, "machine": f"{platform.machine()} CPU"}
    COMMITTED.mkdir(exist_ok=True)
    write_json(COMMITTED / TIMING, {"about": about, "seconds": seconds})
    for edges, values in seconds.items():
        print(f"{edges:26}", *(f"{engine} {values[engine]:.3f}" for engine in ENGINES if engine in values))


if __name__ == "__main__":
    typer.run(main)

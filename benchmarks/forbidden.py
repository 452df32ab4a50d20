"""Sinkhorn with forbidden entries, and the assignment of a batch, up to n = 1000.

    python -m benchmarks.forbidden run        every solver and case in a process of its own, on one thread
    python -m benchmarks.forbidden table      the last results, in Markdown

    maximize <u, z> - sum z log z   over doubly stochastic z that are 0 where u = -inf

Entry [i, j] is allowed where i and j lie within a radius on a line, as neurons that may be confused, in an order of
columns that hides it. Milliseconds are of the processor, forward and, where there is a gradient, backward. *off*: how
far the row and column sums of z are from 1 at most. z is exp(u - a 1' - 1 b') in all solvers, so that this is its whole
error. *gradient*: relative to the implicit one of the exact z.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import typer
from scipy.optimize import linear_sum_assignment

import cvxsst
from benchmarks.measuring import RESULTS, peer, save
from cvxsst import CategoricalEntropy
from experiments.connectome.permutations import sweeps
from experiments.runs.files import read_json
from polytopes import birkhoff

app = typer.Typer(help=__doc__, no_args_is_help=True)
SIZES, BATCH = (100, 279, 1000), {100: 4, 279: 4, 1000: 1}
TEMPERATURES = (1.0,)
RADIUS = 0.1
ROUNDS = 3
MOST_SWEEPS = 1000  # of POT, as by default

Solve = Callable[[torch.Tensor], torch.Tensor]


def utilities(n: int, temperature: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(n, generator=generator, dtype=torch.float64)
    w = torch.randn(BATCH[n], n, n, generator=generator, dtype=torch.float64) / temperature
    for instance in w:
        order = torch.randperm(n, generator=generator)
        instance[(place[:, None] - place[order]).abs() >= RADIUS] = -torch.inf
    return w


def exact(u: torch.Tensor) -> torch.Tensor:
    return cvxsst.softmax(birkhoff(u.shape[-1]), u, CategoricalEntropy())


def unrolled(count: int) -> Solve:
    return lambda u: sweeps(u.clamp_min(-1e8), count)


def pot(method: str, tolerance: float) -> Solve:
    """One instance at a time, on NumPy; what is forbidden costs 1e8. Without a gradient."""
    package = peer("ot")

    def solve(u: torch.Tensor) -> torch.Tensor:
        ones = np.ones(u.shape[-1])
        costs = -u.detach().clamp_min(-1e8).numpy()
        plans = [
            package.sinkhorn(ones, ones, cost, 1.0, method, numItermax=MOST_SWEEPS, stopThr=tolerance, warn=False)
            for cost in costs
        ]
        return torch.from_numpy(np.array(plans))

    return solve


SOLVERS: dict[str, tuple[Callable[[], Solve], bool]] = {  # and whether it has a gradient
    "cvxsst": (lambda: exact, True),
    "unrolled, 10 sweeps": (lambda: unrolled(10), True),
    "unrolled, 100 sweeps": (lambda: unrolled(100), True),
    "POT, sinkhorn_log": (lambda: pot("sinkhorn_log", 1e-9), False),
    "cvxsst argmax": (lambda: lambda u: cvxsst.argmax(birkhoff(u.shape[-1]), u), False),
    "scipy, one by one": (lambda: hungarian, False),
}


def hungarian(u: torch.Tensor) -> torch.Tensor:
    z = np.zeros(u.shape)
    for instance, values in zip(z, u.numpy(), strict=True):
        instance[linear_sum_assignment(values, maximize=True)] = 1
    return torch.from_numpy(z)


@app.command(hidden=True)
def one(solver: str, n: int, temperature: float) -> None:
    """One measurement, printed."""
    torch.set_num_threads(1)
    build, differentiable = SOLVERS[solver]
    solve, u = build(), utilities(n, temperature)
    g = torch.randn(u.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact(utilities(100, 1.0))  # loads what is loaded once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, z, gradient = [], u, None
    for _ in range(ROUNDS):
        leaf = u.clone().requires_grad_(differentiable)
        start = time.process_time()
        z = solve(leaf)
        gradient = torch.autograd.grad(z, leaf, g)[0] if differentiable else None
        seconds.append(time.process_time() - start)
        if seconds[0] > 10:
            break
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    off = max(float((z.sum(dim) - 1).abs().max()) for dim in (-1, -2))
    wrong = "" if gradient is None else f"{_error(gradient, u, g):.0e}"
    print("FOUND", min(seconds), used, off, wrong)


def _error(gradient: torch.Tensor, u: torch.Tensor, g: torch.Tensor) -> float:
    leaf = u.clone().requires_grad_()
    (right,) = torch.autograd.grad(exact(leaf), leaf, g)
    return float((gradient.nan_to_num() - right).norm() / right.norm())


@app.command()
def run() -> None:
    """Measure, print, and keep the results."""
    found: list[dict[str, Any]] = []
    for n in SIZES:
        for temperature in TEMPERATURES:
            for solver in SOLVERS:
                command = [sys.executable, "-m", "benchmarks.forbidden", "one", solver, str(n), str(temperature)]
                try:
                    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
                except subprocess.TimeoutExpired:
                    continue
                lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
                if not lines:
                    print(f"not measured: {solver}: {(done.stderr.splitlines() or ['?'])[-1]}")
                    continue
                seconds, used, off, *wrong = lines[0].split()[1:]
                row = {"n": n, "batch": BATCH[n], "T": temperature, "solver": solver}
                row |= {"ms": 1e3 * float(seconds), "MiB": float(used), "off": float(off)}
                found.append(row | {"gradient": wrong[0] if wrong else ""})
                print(row)
    save("forbidden", found, threads=1, radius=RADIUS, rounds=ROUNDS)
    table()


@app.command()
def table() -> None:
    """The last results in Markdown."""
    saved = read_json(RESULTS / "forbidden.json")
    print("| n | batch | T | solver | ms | MiB | off | gradient |\n|---|---|---|---|---|---|---|---|")
    for row in saved["results"]:
        shown = [row["n"], row["batch"], row["T"], row["solver"], f"{row['ms']:.3g}", f"{row['MiB']:.0f}"]
        print("| " + " | ".join(map(str, [*shown, f"{row['off']:.0e}", row["gradient"]])) + " |")
    print(f"\n{saved['about']}")


if __name__ == "__main__":
    app()

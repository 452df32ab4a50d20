"""What the library adds to a closed form, and what patterns of -inf cost.

    python -m benchmarks.overhead                         the tables; processor's time on one thread, medians of rounds
    python -m benchmarks.overhead --before /tmp/older     a softmax beside that of another checkout, run in turns

Small problems, on which the time goes into Python: sparsemax over simplex(50) beside entmax's, forward and backward,
and a softmax of 32 x 3 beside torch's. Then one batch of 400 instances, each with its own pattern of -inf, beside the
same batch without: forward and backward of the fast paths, and the argmax by the family's oracle.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import cvxsst
import polytopes
from benchmarks.cases import BINARY, CATEGORICAL, EUCLIDEAN

PATTERNS = 400
SHARE = 0.3  # of the entries forbidden
ROUNDS = 9
FAMILY = cvxsst.ExponentialFamily()

Run = Callable[[], object]


def quickest(run: Run, calls: int) -> float:
    """Microseconds of the processor's time in the quickest of so many calls: all else that the machine does adds."""
    times = []
    for _ in range(calls):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e6 * min(times)


def in_turns(runs: dict[str, Run], calls: int) -> dict[str, list[float]]:
    """The quickest call of each in every round, after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, run in runs.items():
            microseconds = quickest(run, calls)
            if round_:
                found[name].append(microseconds)
    return found


def both_ways(solve: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor) -> Run:
    """Forward and backward along a fixed gradient."""
    g = torch.randn(w.shape, generator=torch.Generator().manual_seed(1), dtype=w.dtype)

    def run() -> None:
        leaf = w.clone().requires_grad_()
        torch.autograd.grad(solve(leaf), leaf, g)

    return run


def small() -> list[list[str]]:
    """Rows of case, ours, theirs, ratio."""
    entmax = import_module("entmax")
    generator = torch.Generator().manual_seed(0)
    w, thin = torch.randn(128, 50, generator=generator), torch.randn(32, 3, generator=generator)
    P, P3 = polytopes.simplex(50), polytopes.simplex(3)
    cases = {
        "sparsemax (128, 50), forward + backward: ours, entmax": (
            both_ways(lambda v: cvxsst.softmax(P, v, EUCLIDEAN), w),
            both_ways(lambda v: entmax.sparsemax(v, -1), w),
        ),
        "softmax (32, 3): ours, torch": (lambda: cvxsst.softmax(P3, thin, CATEGORICAL), lambda: thin.softmax(-1)),
    }
    return [_row(name, *in_turns({"a": a, "b": b}, 200).values()) for name, (a, b) in cases.items()]


def masked(P: cvxsst.Polytope, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Utilities ``(PATTERNS, *P.shape)`` with and without -inf, each pattern once, a structure left in each."""
    found: dict[tuple, torch.Tensor] = {}
    while len(found) < PATTERNS:
        w = torch.randn(P.shape, generator=generator, dtype=torch.float64)
        pattern = torch.rand(P.shape, generator=generator) < SHARE
        try:
            cvxsst.argmax(P, w.masked_fill(pattern, -torch.inf))
        except cvxsst.errors.EmptyPolytopeError:
            continue
        found[tuple(pattern.flatten().tolist())] = torch.stack([w.masked_fill(pattern, -torch.inf), w])
    with_inf, without = torch.stack(list(found.values())).unbind(1)
    return with_inf, without


def patterns() -> list[list[str]]:
    """Rows of case, with -inf, without, ratio."""
    rows = []
    for P, regularizers in (
        (polytopes.birkhoff(6), [CATEGORICAL]),
        (polytopes.k_subset(20, 5), [EUCLIDEAN, CATEGORICAL, BINARY, FAMILY]),
        (polytopes.spanning_tree(6), [FAMILY]),
    ):
        batches = masked(P, torch.Generator().manual_seed(0))
        runs: list[Run] = [lambda w=w, P=P: cvxsst.argmax(P, w, engine="fast") for w in batches]  # type: ignore[misc]
        rows.append(_row(f"{P!r} argmax", *in_turns(dict(zip("ab", runs, strict=True)), 10).values()))
        for f in regularizers:
            runs = [both_ways(lambda v, P=P, f=f: cvxsst.softmax(P, v, f, engine="fast"), w) for w in batches]  # type: ignore[misc]
            rows.append(_row(f"{P!r} {f!r}", *in_turns(dict(zip("ab", runs, strict=True)), 10).values()))
    return rows


def _row(name: str, ours: list[float], theirs: list[float]) -> list[str]:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return [name, f"{statistics.median(ours):.0f}", f"{statistics.median(theirs):.0f}", f"{ratio:.2f}"]


# Plain Python, as the other checkout has no file like this one.
SMALL_SOFTMAX = """
import time, torch, cvxsst, polytopes
torch.set_num_threads(1)
w, P, f = torch.randn(32, 3), polytopes.simplex(3), cvxsst.CategoricalEntropy()
times = []
for _ in range(3000):
    start = time.process_time()
    cvxsst.softmax(P, w, f)
    times.append(time.process_time() - start)
print(1e6 * min(times))
"""


def beside(checkout: Path) -> list[str]:
    """The softmax of 32 x 3 here and there: each in processes of its own, in turns."""
    roots = (Path(__file__).resolve().parents[1], checkout.resolve())
    found: list[list[float]] = [[], []]
    for _ in range(5):
        for root, times in zip(roots, found, strict=True):
            ran = subprocess.run(
                [sys.executable, "-c", SMALL_SOFTMAX],
                env={**os.environ, "PYTHONPATH": str(root)},
                cwd=root,
                capture_output=True,
                check=True,
                text=True,
            )
            times.append(float(ran.stdout))
    return _row("softmax (32, 3): here, there", *found)


def main(before: Annotated[Path | None, typer.Option(help="Another checkout of this repository.")] = None) -> None:
    torch.set_num_threads(1)
    rows = small()
    if before is not None:
        rows.append(beside(before))
    for title, found in (("overhead, us", rows), (f"{PATTERNS} patterns of -inf, us: with, without", patterns())):
        table = Table(title=title)
        for header in ("case", "first", "second", "ratio"):
            table.add_column(header, justify="left" if header == "case" else "right")
        for row in found:
            table.add_row(*row)
        Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)

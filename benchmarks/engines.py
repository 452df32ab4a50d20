"""The generic engines beside one another and beside their peers: forward and backward, every answer judged.

    python -m benchmarks.engines peers                the table: batch 128, every solver that is installed
    python -m benchmarks.engines batches              time and memory against the batch, CvxpyLayer at batch 1
    python -m benchmarks.engines sizes                time against n
    python -m benchmarks.engines large                declarations larger than a page shows: time and memory
    python -m benchmarks.engines stress               random instances over six decades of w and T: how many converge
    python -m benchmarks.engines table engines_peers  a measurement of the first once more, as Markdown

*generic* is what ``engine="auto"`` takes for a declaration without a fast path. The figures are kept in
``benchmarks/results``. The solvers take turns within each round, so that a slow moment of the machine meets all of
them; the ratios are medians over the rounds. z and gradient are compared with the refined, certified reference engine:
a solver that is off by more than 1e-3 in z or 1 % in the gradient, in any instance, is printed as wrong, however fast.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cvxsst
import polytopes
from benchmarks.cases import BINARY, CATEGORICAL, EUCLIDEAN, FLAT, LARGE, LIFTED, Case
from benchmarks.measuring import (
    Batch,
    Measurement,
    Rounds,
    Solve,
    Threads,
    beside,
    built,
    forward_and_backward,
    normal,
    on_threads,
    print_markdown,
    print_table,
    save,
    save_measurements,
    softmax_by,
)
from benchmarks.peers import PEERS
from cvxsst.engines import ENGINES, able
from cvxsst.regularizers import Separable

CASES = {case.name: case for case in [*FLAT, *LIFTED, *LARGE]}
GENERIC = "cvxsst generic"
MOST_MEMORY = 10 * 2**30  # bytes: what asks for more fails, and not the machine
OURS = ("kkt", "facets", "vertices")
Cases = Annotated[list[str] | None, typer.Option("--case", help="Cases whose names contain this; default: all.")]
app = typer.Typer(help=__doc__, rich_markup_mode=None)


def generic(P: cvxsst.Polytope, f: Separable) -> str:
    """The engine that auto would take if the family had no fast path."""
    return next(engine.name for engine in able(P, f) if engine.name != "fast")


def builders(case: Case) -> dict[str, Callable[[], Solve]]:
    """Our engines that can, and the peers, by name."""
    P, f = case.build(), case.f
    ours = [name for name in OURS if ENGINES[name].supports(P, f)]
    return {
        GENERIC: lambda: softmax_by(generic(P, f), P, f),
        **{f"cvxsst {name}": partial(softmax_by, name, P, f) for name in ours},
        **{peer: partial(build, P, f) for peer, build in PEERS.items()},
    }


def chosen(cases: Sequence[Case], words: list[str] | None) -> list[Case]:
    return [case for case in cases if not words or any(word in case.name for word in words)]


@app.command()
def peers(
    batch: Batch = 128,
    rounds: Rounds = 5,
    threads: Threads = 1,
    seed: int = 0,
    cases: Cases = None,
    name: Annotated[str, typer.Option(help="Under which the figures are kept.")] = "engines_peers",
) -> None:
    """The table: milliseconds of forward and backward, and how many times as long as the generic engine."""
    found: list[Measurement] = []
    missing: dict[str, str] = {}
    with on_threads(threads):
        for case in track(chosen([*FLAT, *LIFTED], cases), "measuring", console=Console(stderr=True)):
            u, g = normal(2, batch, case.build().size, seed=seed)
            reference = softmax_by("cvxpylayer", case.build(), case.f)
            found += beside(case.name, built(builders(case), missing), reference, u, g, rounds)
    print_table(found, list(dict.fromkeys([GENERIC, *(m.solver for m in found)])), missing)
    save_measurements(name, found, batch=batch, threads=threads, seed=seed)


@app.command()
def table(name: str) -> None:
    """A measurement that was kept, as Markdown, with the worst errors of every solver."""
    print_markdown(name)


@app.command()
def batches(
    sizes: Annotated[list[int] | None, typer.Option("--batch", min=1, help="Default: 1, 8, 64, 512, 4096.")] = None,
    threads: Threads = 1,
    seed: int = 0,
    cases: Cases = None,
) -> None:
    """Milliseconds of the generic engine against the batch; CvxpyLayer at batch 1; memory of the largest batch."""
    sizes = sizes or [1, 8, 64, 512, 4096]
    shown = Table("case", "engine", *map(str, sizes), f"MiB at {sizes[-1]}", "CvxpyLayer at 1")
    rows: list[list[Any]] = []
    for case in track(chosen([*FLAT, *LIFTED], cases), "measuring", console=Console(stderr=True)):
        runs = [apart(case, GENERIC, batch, threads, seed) for batch in sizes]
        layer = apart(case, "CvxpyLayer", 1, threads, seed)
        ms = [run["milliseconds"] for run in runs]
        ratio = layer["milliseconds"] / ms[0]
        told = [f"{layer['milliseconds']:.3g} ({ratio:.3g}x)"] if sizes[0] == 1 else [f"{layer['milliseconds']:.3g}"]
        name = generic(case.build(), case.f)
        shown.add_row(case.name, name, *(f"{x:.3g}" for x in ms), f"{runs[-1]['MiB']:.0f}", *told)
        rows.append([case.name, name, ms, runs[-1]["MiB"], layer["milliseconds"]])
    Console(width=150).print(shown)
    save("engines_batches", rows, batches=sizes, threads=threads, seed=seed)


@app.command()
def sizes(threads: Threads = 1, seed: int = 0) -> None:
    """Milliseconds of the generic engine against n at batch 128."""
    families: dict[str, tuple[Callable[[int], cvxsst.Polytope], Separable, tuple[int, ...]]] = {
        "birkhoff(n) Euclidean": (polytopes.birkhoff, EUCLIDEAN, (3, 5, 10, 20, 40)),
        "birkhoff(n) CategoricalEntropy": (polytopes.birkhoff, CATEGORICAL, (3, 5, 10, 20, 40)),
        "k_subset(n, n / 5) Euclidean": (lambda n: polytopes.k_subset(n, n // 5), EUCLIDEAN, (10, 50, 250, 1250)),
        "spanning_tree(n) Euclidean": (polytopes.spanning_tree, EUCLIDEAN, (4, 6, 8, 10, 12)),
        "spanning_tree(n) BinaryEntropy": (polytopes.spanning_tree, BINARY, (4, 6, 8, 10, 12)),
    }
    shown = Table("", "n: ms", title="forward + backward of the generic engine, batch 128")
    found: dict[str, list[tuple[int, float]]] = {}
    with on_threads(threads):
        for name, (family, f, ns) in families.items():
            found[name] = [(n, _milliseconds(generic(family(n), f), family(n), f, 128, seed)) for n in ns]
            shown.add_row(name, "  ".join(f"{n}: {ms:.3g}" for n, ms in found[name]))
    Console(width=120).print(shown)
    save("engines_sizes", found, threads=threads, seed=seed)


def _milliseconds(engine: str, P: cvxsst.Polytope, f: Separable, batch: int, seed: int) -> float:
    u, g = normal(2, batch, P.size, seed=seed)
    solve = softmax_by(engine, P, f)
    return statistics.median([forward_and_backward(solve, u, g)[2] for _ in range(4)][1:])


@app.command()
def large(
    solvers: Annotated[
        list[str] | None, typer.Option("--solver", help="Default: ours, CvxpyLayer with Clarabel.")
    ] = None,
    threads: Threads = 1,
    seed: int = 0,
    limit: Annotated[float, typer.Option(help="Seconds for each.")] = 300.0,
    cases: Cases = None,
) -> None:
    """Each case and solver in a process of its own: seconds to prepare, to go forward and backward, peak memory."""
    names = solvers or [f"cvxsst {name}" for name in ("fast", *OURS)] + ["CvxpyLayer, Clarabel"]
    shown = Table("case", "batch", *names, title="seconds to prepare + forward and backward of the batch, peak MiB")
    rows = []
    for case in chosen(LARGE, cases):
        found = {name: apart(case, name, case.instances, threads, seed, limit) for name in names}
        told = [_told(run) for run in found.values()]
        print(case.name, *told, sep="; ", flush=True)  # each takes minutes
        shown.add_row(case.name, str(case.instances), *told)
        rows.append([case.name, case.instances, found])
    Console(width=60 + 24 * len(names)).print(shown)
    save("engines_large", rows, threads=threads, seed=seed, limit=limit)


def _told(run: dict[str, Any]) -> str:
    if "why" in run:
        return str(run["why"])
    lost = "" if run["solved"] else ", some unsolved"
    return f"{run['seconds']:.3g} + {run['milliseconds'] / 1e3:.3g} s, {run['MiB']:.0f} MiB{lost}"


def apart(case: Case, solver: str, batch: int, threads: int, seed: int, limit: float = 600.0) -> dict[str, Any]:
    """``one`` in a process of its own; its answer, or ``why`` there is none."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.engines",
        "one",
        case.name,
        solver,
        str(batch),
        str(threads),
        str(seed),
    ]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"why": f"> {limit:g} s"}
    if ran.returncode:
        return {"why": (ran.stderr.strip().splitlines() or [f"ended by signal {-ran.returncode}"])[-1][:60]}
    return json.loads(ran.stdout.splitlines()[-1])


@app.command(hidden=True)
def one(name: str, solver: str, batch: int, threads: int, seed: int) -> None:
    """One case by one solver: seconds to prepare (first instance), milliseconds of the batch, MiB above the start."""
    case = CASES[name]
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with on_threads(threads):
        P = case.build()
        u, g = normal(2, batch, P.size, seed=seed)
        engine = solver.removeprefix("cvxsst ")
        solve = softmax_by(engine, P, case.f) if engine in ENGINES else builders(case)[solver]()
        first = forward_and_backward(solve, u[:1], g[:1])[2]
        warm = forward_and_backward(solve, u[:1], g[:1])[2]
        z, _, milliseconds = forward_and_backward(solve, u, g)
        if milliseconds < 2000:
            milliseconds = min(milliseconds, *(forward_and_backward(solve, u, g)[2] for _ in range(4)))
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    solved = bool(torch.isfinite(z).all())
    seconds = max(first - warm, 0.0) / 1e3
    print(json.dumps({"seconds": seconds, "milliseconds": milliseconds, "MiB": used, "solved": solved}))


@app.command()
def stress(
    instances: Annotated[int, typer.Option(min=1)] = 10_000,
    engine: Annotated[str, typer.Option(help="One of the generic engines.")] = "kkt",
    seed: int = 0,
) -> None:
    """Random instances over the zoo, |w| and T from 1e-3 to 1e3, with ties and zeros: which fail."""
    generator = torch.Generator().manual_seed(seed)
    families = [getattr(polytopes, name) for name in polytopes.__all__]
    problems = [
        (P, f)
        for P in (family(*example) for family in families for example in family.examples)
        for f in (EUCLIDEAN, CATEGORICAL, BINARY)
        if ENGINES[engine].supports(P, f) and _is_defined(P, f)
    ]
    each, failed = -(-instances // len(problems)), 0
    for P, f in track(problems, "solving"):
        w, T = extreme_instances(P, each, generator)
        _, info = cvxsst.softmax(P, w, f, T, engine=engine, on_failure="nan", return_info=True)
        for i in (~info.converged).nonzero().flatten().tolist():
            failed += 1
            print(f"{P!r} {f!r}: |w| {w[i].abs().max():.1e}, T {T[i]:.1e}, residual {info.residual[i]:.1e}")
    print(f"{each * len(problems)} instances, {failed} failed")


def _is_defined(P: cvxsst.Polytope, f: Separable) -> bool:
    try:
        f.require_domain(P)
    except ValueError:
        return False
    return True


def extreme_instances(P: cvxsst.Polytope, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(w, T), |w| and T log-uniform over [1e-3, 1e3]; a tenth of the w rounded to integers (ties), a few zero."""
    sizes, T = (10 ** (6 * torch.rand(n, generator=generator, dtype=torch.float64) - 3) for _ in range(2))
    w = torch.randn(n, *P.shape, generator=generator, dtype=torch.float64) * sizes.reshape(-1, *[1] * len(P.shape))
    w[: n // 10] = w[: n // 10].round()
    w[n // 10 : n // 8] = 0
    return w, T


if __name__ == "__main__":
    from cvxsst.cli import main

    main(app)

"""The vertices engine beside the kkt engine and CvxpyLayer, Euclidean, on lifted polytopes: forward and backward.

    python -m benchmarks.vertices measure        the table, batches of 1 to 1,024; kept in ``benchmarks/results``
    python -m benchmarks.vertices calls          how often the oracle is asked, by temperature
    python -m benchmarks.vertices table          the last measurement once more, as Markdown

The solvers take turns within each round; the ratios are medians over the rounds. The vertices engine is also the judge:
the tests hold it against linear programs and central differences. A solver that would take longer than ``--most``
seconds, by its time on the batch before, is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cvxsst
import polytopes
from benchmarks.measuring import (
    Measurement,
    Rounds,
    Solve,
    Threads,
    beside,
    built,
    normal,
    on_threads,
    print_markdown,
    print_table,
    save_measurements,
    softmax_by,
)
from benchmarks.peers import PEERS

EUCLIDEAN = cvxsst.Euclidean()
CASES = [
    *(polytopes.spanning_tree(n) for n in (8, 10, 12)),
    polytopes.permutahedron(6),
    polytopes.matching(6),
    polytopes.correlated_k_subset(10, 3),
    polytopes.arborescence(5),
    polytopes.projective_tree(5),
]
SOLVERS = ["vertices", "kkt", "CvxpyLayer"]
Batches = Annotated[list[int] | None, typer.Option(min=1, help="Default: 1, 32, 128, 1024.")]
app = typer.Typer(help=__doc__, rich_markup_mode=None)


@app.command()
def measure(
    batches: Batches = None,
    temperature: float = 1.0,
    rounds: Rounds = 5,
    threads: Threads = 1,
    seed: int = 0,
    most: Annotated[float, typer.Option(help="Seconds that a solver may take for one batch.")] = 30.0,
) -> None:
    """The table: milliseconds of forward and backward, and how many times as long as the vertices engine."""
    found: list[Measurement] = []
    missing: dict[str, str] = {}
    sizes = sorted(batches or (1, 32, 128, 1024))
    with on_threads(threads):
        for P in track(CASES, "measuring", console=Console(stderr=True)):
            solvers = _solvers(P, missing)
            for batch, following in zip(sizes, [*sizes[1:], sizes[-1]], strict=True):
                u, g = normal(2, batch, P.size, seed=seed)
                here = beside(f"{P!r} {batch}", solvers, solvers["vertices"], u / temperature, g, rounds)
                quick = {m.solver for m in here if min(m.milliseconds) * following / batch <= 1e3 * most}
                solvers = {name: solve for name, solve in solvers.items() if name in quick | {"vertices"}}
                found += here
    print_table(found, SOLVERS, missing)
    save_measurements("vertices", found, temperature=temperature, threads=threads, seed=seed)


def _solvers(P: cvxsst.Polytope, missing: dict[str, str]) -> dict[str, Solve]:
    builders: dict[str, Callable[[], Solve]] = {
        "vertices": partial(softmax_by, "vertices", P, EUCLIDEAN),
        "kkt": partial(softmax_by, "kkt", P, EUCLIDEAN),
        "CvxpyLayer": partial(PEERS["CvxpyLayer"], P, EUCLIDEAN),
    }
    return built(builders, missing)


@app.command()
def calls(batch: Annotated[int, typer.Option(min=1)] = 1000, seed: int = 0) -> None:
    """Calls of the oracle for an instance, mean and most, at temperatures from 10 to 0.01; how many failed."""
    temperatures = (10.0, 1.0, 0.1, 0.01)
    shown = Table("", *(f"T = {T:g}" for T in temperatures), title="calls of the oracle: mean (most)")
    for P in CASES:
        (w,) = normal(1, batch, *P.shape, seed=seed)
        cells = []
        for T in temperatures:
            _, info = cvxsst.softmax(P, w, EUCLIDEAN, T, engine="vertices", on_failure="nan", return_info=True)
            failed = int((~info.converged).sum())
            told = f"{info.iterations.double().mean():.1f} ({int(info.iterations.max())})"
            cells.append(told + (f", {failed} failed" if failed else ""))
        shown.add_row(repr(P), *cells)
    Console().print(shown)


@app.command()
def table() -> None:
    """The table of the last measurement, as Markdown."""
    print_markdown("vertices", SOLVERS)


if __name__ == "__main__":
    app()

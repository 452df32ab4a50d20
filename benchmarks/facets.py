"""The facets engine beside the kkt engine on lifted polytopes: forward and backward, one thread.

    python -m benchmarks.facets measure         the table, batches of 1 to 1,024; kept in ``benchmarks/results``
    python -m benchmarks.facets table           the last measurement once more, as Markdown

The engines take turns within each round; the ratios are medians over the rounds. kkt is also the judge.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

import cvxsst
import polytopes
from benchmarks.measuring import (
    Measurement,
    Rounds,
    Threads,
    beside,
    normal,
    on_threads,
    print_markdown,
    print_table,
    save_measurements,
    softmax_by,
)
from cvxsst.regularizers import Separable

EUCLIDEAN, CATEGORICAL, BINARY = cvxsst.Euclidean(), cvxsst.CategoricalEntropy(), cvxsst.BinaryEntropy()
CASES: list[tuple[cvxsst.Polytope, Separable]] = [
    *[(polytopes.spanning_tree(n), BINARY) for n in (8, 10, 12, 14)],
    (polytopes.arborescence(5), CATEGORICAL),
    (polytopes.matching(6), CATEGORICAL),
    (polytopes.projective_tree(5), CATEGORICAL),
    (polytopes.permutahedron(6), EUCLIDEAN),
    (polytopes.correlated_k_subset(10, 3), BINARY),
]
SOLVERS = ["facets", "kkt"]
Batches = Annotated[list[int] | None, typer.Option(min=1, help="Default: 1, 32, 128, 1024.")]
app = typer.Typer(help=__doc__, rich_markup_mode=None)


@app.command()
def measure(
    batches: Batches = None, temperature: float = 1.0, rounds: Rounds = 5, threads: Threads = 1, seed: int = 0
) -> None:
    """The table: milliseconds of forward and backward, and how many times as long kkt takes."""
    found: list[Measurement] = []
    problems = [(P, f, batch) for P, f in CASES for batch in batches or (1, 32, 128, 1024)]
    with on_threads(threads):
        for P, f, batch in track(problems, "measuring", console=Console(stderr=True)):
            u, g = normal(2, batch, P.size, seed=seed)
            solvers = {engine: softmax_by(engine, P, f) for engine in SOLVERS}
            found += beside(f"{P!r} {f.name} {batch}", solvers, solvers["kkt"], u / temperature, g, rounds)
    print_table(found, SOLVERS, {})
    save_measurements("facets", found, temperature=temperature, threads=threads, seed=seed)


@app.command()
def table() -> None:
    """The table of the last measurement, as Markdown."""
    print_markdown("facets", SOLVERS)


if __name__ == "__main__":
    app()

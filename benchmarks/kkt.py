"""The kkt engine beside its peers: forward and backward, the same utilities, every answer judged.

    python -m benchmarks.kkt peers               the table: batch 128, every solver that is installed
    python -m benchmarks.kkt scaling             time against n and against the batch, as a table and a plot
    python -m benchmarks.kkt stress              random instances over six decades of w and T: how many converge
    python -m benchmarks.kkt table               the last measurement of the first once more, as Markdown

The figures are kept in ``benchmarks/results``. The solvers take turns within each round, so that a slow moment of the
machine meets all of them; the ratios are medians over the rounds. z and gradient are compared with the refined,
certified reference engine: a peer that is off by more than 1e-3 in z or 1 % in the gradient, in any instance, is
printed as wrong, however fast it is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cvxsst
import polytopes
from benchmarks.measuring import (
    RESULTS,
    Batch,
    Measurement,
    Rounds,
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
from cvxsst.installed import require
from cvxsst.regularizers import Separable

EUCLIDEAN, CATEGORICAL, BINARY = cvxsst.Euclidean(), cvxsst.CategoricalEntropy(), cvxsst.BinaryEntropy()
CASES: list[tuple[cvxsst.Polytope, Separable]] = [
    (polytopes.birkhoff(10), EUCLIDEAN),
    (polytopes.birkhoff(10), CATEGORICAL),
    (polytopes.k_subset(50, 10), EUCLIDEAN),
    (polytopes.k_subset(50, 10), CATEGORICAL),
    (polytopes.k_subset(50, 10), BINARY),
    (polytopes.simplex(50), EUCLIDEAN),
    (polytopes.cube(50), BINARY),
    (polytopes.correlated_k_subset(10, 3), BINARY),
    (polytopes.permutahedron(6), EUCLIDEAN),
    (polytopes.matching(6), CATEGORICAL),
    (polytopes.path(6, [(i, j) for i in range(6) for j in range(i + 1, 6)]), CATEGORICAL),
    (polytopes.arborescence(5), CATEGORICAL),
    (polytopes.projective_tree(5), CATEGORICAL),
    (polytopes.spanning_tree(10), BINARY),
]
app = typer.Typer(help=__doc__, rich_markup_mode=None)


def measure(
    P: cvxsst.Polytope, regularizer: Separable, batch: int, rounds: int, seed: int, missing: dict[str, str]
) -> list[Measurement]:
    u, g = normal(2, batch, P.size, seed=seed)
    solvers = built({peer: partial(build, P, regularizer) for peer, build in PEERS.items()}, missing)
    reference = softmax_by("cvxpylayer", P, regularizer)
    return beside(f"{P!r} {regularizer.name}", solvers, reference, u, g, rounds)


@app.command()
def peers(batch: Batch = 128, rounds: Rounds = 5, threads: Threads = 2, seed: int = 0) -> None:
    """The table: milliseconds of forward and backward, and how many times as long as the kkt engine."""
    found: list[Measurement] = []
    missing: dict[str, str] = {}
    with on_threads(threads):
        for P, regularizer in track(CASES, "measuring", console=Console(stderr=True)):
            found.extend(measure(P, regularizer, batch, rounds, seed, missing))
    print_table(found, list(PEERS), missing)
    save_measurements("kkt_peers", found, batch=batch, threads=threads, seed=seed)


@app.command()
def table() -> None:
    """The table of the last measurement, as Markdown, with the worst errors of every solver."""
    print_markdown("kkt_peers", list(PEERS))


Series = dict[str, list[tuple[int, float]]]  # by name: n or the batch, and milliseconds


@app.command()
def scaling(threads: Threads = 2, seed: int = 0) -> None:
    """Time of the kkt engine against n (batch 128) and against the batch (1 to 4096)."""
    require("matplotlib", "cvxsst[plot]")
    families: dict[str, tuple[Callable[[int], cvxsst.Polytope], Separable, tuple[int, ...]]] = {
        "birkhoff, Euclidean": (polytopes.birkhoff, EUCLIDEAN, (3, 5, 10, 20, 40)),
        "birkhoff, categorical": (polytopes.birkhoff, CATEGORICAL, (3, 5, 10, 20, 40)),
        "k_subset(n, n / 5), Euclidean": (lambda n: polytopes.k_subset(n, n // 5), EUCLIDEAN, (10, 50, 250, 1250)),
        "spanning_tree, binary": (polytopes.spanning_tree, BINARY, (4, 6, 8, 10, 12)),
    }
    by_n: Series = {}
    by_batch: Series = {}
    with on_threads(threads):
        for name, (family, regularizer, sizes) in families.items():
            by_n[name] = [(n, _time(family(n), regularizer, 128, seed)) for n in sizes]
            by_batch[name] = [(B, _time(family(10), regularizer, B, seed)) for B in (1, 8, 64, 512, 4096)]
    shown = Table("", "ms at (n or batch)", title="forward + backward of the kkt engine")
    for title, series in (("n, batch 128", by_n), ("batch, n = 10", by_batch)):
        for name, points in series.items():
            shown.add_row(f"{name}: {title}", "  ".join(f"{x}: {ms:.3g}" for x, ms in points))
    Console(width=160).print(shown)
    _draw(by_n, by_batch)
    save("kkt_scaling", {"n": by_n, "batch": by_batch}, threads=threads, seed=seed)


def _draw(by_n: Series, by_batch: Series) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, series, label in ((left, by_n, "n (batch 128)"), (right, by_batch, "batch (n = 10)")):
        for name, points in series.items():
            axes.loglog(*zip(*points, strict=True), marker="o", label=name)
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
    left.set(ylabel="forward + backward, ms")
    right.legend(fontsize=8)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "kkt_scaling.png")


def _time(P: cvxsst.Polytope, regularizer: Separable, batch: int, seed: int) -> float:
    u, g = normal(2, batch, P.size, seed=seed)
    solve = softmax_by("kkt", P, regularizer)
    return statistics.median([forward_and_backward(solve, u, g)[2] for _ in range(4)][1:])


@app.command()
def stress(instances: Annotated[int, typer.Option(min=1)] = 10_000, seed: int = 0) -> None:
    """Random instances over the zoo, |w| and T from 1e-3 to 1e3, with ties and zeros: which fail."""
    generator = torch.Generator().manual_seed(seed)
    families = [getattr(polytopes, name) for name in polytopes.__all__]
    problems = [
        (P, regularizer)
        for P in (family(*example) for family in families for example in family.examples)
        for regularizer in (EUCLIDEAN, CATEGORICAL, BINARY)
        if _is_defined(P, regularizer)
    ]
    each, failed = -(-instances // len(problems)), 0
    for P, regularizer in track(problems, "solving"):
        w, T = extreme_instances(P, each, generator)
        _, info = cvxsst.softmax(P, w, regularizer, T, engine="kkt", on_failure="nan", return_info=True)
        for i in (~info.converged).nonzero().flatten().tolist():
            failed += 1
            print(f"{P!r} {regularizer!r}: |w| {w[i].abs().max():.1e}, T {T[i]:.1e}, residual {info.residual[i]:.1e}")
    print(f"{each * len(problems)} instances, {failed} failed")


def _is_defined(P: cvxsst.Polytope, regularizer: Separable) -> bool:
    try:
        regularizer.require_domain(P)
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

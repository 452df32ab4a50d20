"""The fast paths beside the generic engine and beside other libraries, forward and backward.

    python -m benchmarks.fast run           the tables: batch 128, every peer that is installed
    python -m benchmarks.fast table         the last measurement once more, as Markdown

Peers (extra ``benchmarks``): entmax (sparsemax), POT (batched Sinkhorn), torch-struct (Eisner, matrix-tree), networkx
and scipy (trees one by one), a NumPy dynamic program differentiated by differences. z and gradient of each are compared
with ours, which the tests prove against enumeration.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import networkx as nx
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

import cvxsst
import polytopes
from benchmarks.cases import BINARY, CATEGORICAL, EUCLIDEAN, complete
from benchmarks.measuring import (
    RESULTS,
    Batch,
    Measurement,
    Rounds,
    Solve,
    Threads,
    beside,
    built,
    forward,
    measured,
    normal,
    on_threads,
    peer,
    print_markdown,
    print_table,
    save_measurements,
    softmax_by,
)
from cvxsst.engines import ENGINES
from cvxsst.installed import require

FAMILY = cvxsst.ExponentialFamily()
OURS, KKT = "cvxsst fast", "cvxsst kkt"
app = typer.Typer(help=__doc__, rich_markup_mode=None)


@dataclass
class Case:
    """A polytope and regularizer (None: the argmax), and the other libraries' functions u -> z by name."""

    P: cvxsst.Polytope
    regularizer: cvxsst.Regularizer | None
    peers: Mapping[str, Callable[[int], Solve]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.P!r} {self.regularizer.name if self.regularizer is not None else 'argmax'}"

    def ours(self, engine: str) -> Solve:
        if self.regularizer is None:
            return lambda u: cvxsst.argmax(self.P, u, engine=engine)
        return softmax_by(engine, self.P, self.regularizer)


def sparsemax(n: int) -> Solve:
    package = peer("entmax")
    return lambda u: package.sparsemax(u, -1)


def unrolled_sinkhorn(n: int) -> Solve:
    """100 sweeps in logarithms, differentiated by autograd."""

    def solve(u: torch.Tensor) -> torch.Tensor:
        for _ in range(100):
            u = u - u.logsumexp(-1, keepdim=True)
            u = u - u.logsumexp(-2, keepdim=True)
        return u.exp()

    return solve


def pot_sinkhorn(n: int) -> Solve:
    """POT's batched solver to a marginal tolerance of 1e-10, differentiated by autograd."""
    package = peer("ot.batch")

    def solve(u: torch.Tensor) -> torch.Tensor:
        ones = u.new_ones(len(u), n)
        return package.solve_batch(-u, reg=1.0, a=ones, b=ones, grad="autodiff", tol=1e-10).plan

    return solve


def numpy_subsets(k: int) -> Callable[[int], Solve]:
    """Forward-backward over (item, count) in NumPy; derivative by central differences."""

    def marginals(u: np.ndarray) -> np.ndarray:
        forwards, backwards = _counts(u, k), _counts(u[:, ::-1], k)[::-1]
        A, z = forwards[-1][:, k], np.empty_like(u)
        for i in range(u.shape[1]):
            terms = forwards[i][:, :k] + backwards[i + 1][:, :k][:, ::-1] + u[:, i : i + 1] - A[:, None]
            z[:, i] = np.exp(terms).sum(1)
        return z

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            ctx.save_for_backward(u)
            return torch.from_numpy(marginals(u.detach().numpy()))

        @staticmethod
        def backward(ctx, g):
            (u,) = ctx.saved_tensors
            up, down = (marginals((u + s * 1e-4 * g).numpy()) for s in (1.0, -1.0))
            return torch.from_numpy((up - down) / 2e-4)

    return lambda n: Function.apply


def _counts(u: np.ndarray, k: int) -> np.ndarray:
    a = np.full((u.shape[1] + 1, len(u), k + 1), -np.inf)
    a[0, :, 0] = 0
    for i, column in enumerate(u.T):
        a[i + 1] = a[i]
        a[i + 1][:, 1:] = np.logaddexp(a[i][:, 1:], a[i][:, :-1] + column[:, None])
    return a


def torch_struct(distribution: str, answer: str = "marginals") -> Callable[[int], Solve]:
    """Dependency trees: arcs between words, and those from the root on the diagonal."""

    def build(n: int) -> Solve:
        package = peer("torch_struct")

        def solve(u: torch.Tensor) -> torch.Tensor:
            scores = u[:, 1:, 1:].masked_fill(torch.eye(n - 1, dtype=torch.bool), 0.0) + torch.diag_embed(u[:, 0, 1:])
            scores = scores if scores.requires_grad else scores.requires_grad_() + 0  # its argmax refuses a leaf
            found = getattr(getattr(package, distribution)(scores, multiroot=True), answer)
            inner = found.masked_fill(torch.eye(n - 1, dtype=torch.bool), 0.0)
            whole = torch.cat([found.diagonal(dim1=1, dim2=2)[:, None, :], inner], 1)
            return torch.nn.functional.pad(whole, (1, 0))

        return solve

    return build


def networkx_trees(n: int) -> Solve:
    i, j = np.triu_indices(n, 1)

    def solve(u: torch.Tensor) -> torch.Tensor:
        z = torch.zeros_like(u)
        for instance, weights in zip(z, u.tolist(), strict=True):
            graph = nx.Graph()
            graph.add_weighted_edges_from(zip(i.tolist(), j.tolist(), weights, strict=True))
            index = {(a, b): e for e, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True))}
            for a, b in nx.maximum_spanning_edges(graph, data=False):
                instance[index[min(a, b), max(a, b)]] = 1
        return z

    return solve


def scipy_trees(n: int) -> Solve:
    from scipy.sparse.csgraph import minimum_spanning_tree

    i, j = np.triu_indices(n, 1)
    position = np.zeros((n, n), dtype=int)
    position[i, j] = np.arange(len(i))

    def solve(u: torch.Tensor) -> torch.Tensor:
        z = torch.zeros_like(u)
        matrix = np.zeros((n, n))
        for instance, weights in zip(z, u.numpy(), strict=True):
            matrix[i, j] = weights.max() + 1 - weights  # positive: zeros would be missing edges
            instance[position[minimum_spanning_tree(matrix).nonzero()]] = 1
        return z

    return solve


def cases() -> Iterator[Case]:
    yield Case(polytopes.simplex(50), EUCLIDEAN, {"entmax": sparsemax})
    yield Case(polytopes.simplex(50), BINARY)
    yield Case(polytopes.cube(50), EUCLIDEAN)
    yield Case(polytopes.cube(50), BINARY)
    for regularizer in (EUCLIDEAN, CATEGORICAL, BINARY):
        yield Case(polytopes.k_subset(50, 10), regularizer)
    yield Case(polytopes.k_subset(45, 9), FAMILY, {"NumPy, differences": numpy_subsets(9)})
    yield Case(polytopes.k_subset(5000, 50), FAMILY)
    yield Case(polytopes.correlated_k_subset(45, 9), FAMILY)
    for n in (10, 30):
        yield Case(polytopes.birkhoff(n), EUCLIDEAN)
        yield Case(polytopes.birkhoff(n), BINARY)
    yield Case(
        polytopes.birkhoff(10), CATEGORICAL, {"unrolled, 100 sweeps": unrolled_sinkhorn, "POT batch": pot_sinkhorn}
    )
    for regularizer in (EUCLIDEAN, CATEGORICAL):
        yield Case(polytopes.permutahedron(6), regularizer)
    yield Case(polytopes.path(10, complete(10)), FAMILY)
    yield Case(polytopes.spanning_tree(10), FAMILY)
    for n in (10, 20):
        yield Case(polytopes.arborescence(n), FAMILY, {"torch-struct": torch_struct("NonProjectiveDependencyCRF")})
    for n in (10, 20, 40):
        yield Case(polytopes.projective_tree(n), FAMILY, {"torch-struct": torch_struct("DependencyCRF")})
    yield Case(polytopes.spanning_tree(10), None, {"networkx": networkx_trees, "scipy": scipy_trees})
    for n in (10, 20, 40):
        yield Case(polytopes.projective_tree(n), None, {"torch-struct": torch_struct("DependencyCRF", "argmax")})


def measure(case: Case, batch: int, rounds: int, seed: int, missing: dict[str, str]) -> list[Measurement]:
    u, g = normal(2, batch, *case.P.shape, seed=seed)
    ours = {OURS: case.ours("fast")}
    if case.regularizer is not None and ENGINES["kkt"].supports(case.P, case.regularizer):
        ours[KKT] = case.ours("kkt")
    n = case.P.arguments["n"]
    solvers = ours | built({name: partial(build, n) for name, build in case.peers.items()}, missing)
    if case.regularizer is not None:
        return beside(case.name, solvers, solvers[OURS], u, g, rounds)
    runs = {name: partial(forward, solve, u) for name, solve in solvers.items()}
    (best, _) = forward(solvers[OURS], u)
    return measured(case.name, runs, lambda z: (((best - z) * u).flatten(1).sum(1).abs().max().item(), 0.0), rounds)


def run_cases(batch: int, rounds: int, seed: int, missing: dict[str, str]) -> tuple[list[Measurement], list[str]]:
    """All measurements, and the names of the solvers in the order of their columns."""
    found: list[Measurement] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' deprecations
        for case in track(list(cases()), "measuring", console=Console(stderr=True)):
            found.extend(measure(case, batch, rounds, seed, missing))
    return found, list(dict.fromkeys([OURS, KKT, *(m.solver for m in found)]))


def bench(
    output: Annotated[Path, typer.Option(help="Where to save the plot.")] = Path("bench.png"),
    batch: Batch = 128,
    rounds: Rounds = 9,
    threads: Threads = 2,
    seed: int = 0,
) -> list[Measurement]:
    """Time the fast paths beside the kkt engine and the peers that are installed; a minute or two.

    Forward and backward (argmax: forward) in milliseconds, and how many times as long as the fast path. Peers: entmax,
    POT, torch-struct (`pip install 'cvxsst[benchmarks]'`), networkx, scipy. Examples:

    - `cvxsst bench`
    - `cvxsst bench --batch 1024 --rounds 3 --output times.png`
    """
    require("matplotlib.figure", "cvxsst[plot]")
    from matplotlib.figure import Figure

    if not output.parent.is_dir():
        raise ValueError(f"--output: no such directory: {output.parent}")
    missing: dict[str, str] = {}
    with on_threads(threads):
        found, solvers = run_cases(batch, rounds, seed, missing)
    print_table(found, solvers, missing)
    figure = Figure(figsize=(9, 0.3 * len({m.case for m in found}) + 1), dpi=130, layout="constrained")
    draw(figure, found, solvers)
    figure.savefig(output)
    print(f"written: {output}")
    return found


def draw(figure: Any, found: list[Measurement], solvers: list[str]) -> Any:
    """A row for each case, a point for each solver on a logarithmic axis of milliseconds; returns the axes."""
    axes = figure.subplots()
    names = list(dict.fromkeys(m.case for m in found))[::-1]
    markers = "osD^vP*X"
    for k, solver in enumerate(solvers):
        points = [(statistics.median(m.milliseconds), names.index(m.case)) for m in found if m.solver == solver]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=markers[k % len(markers)], label=solver, zorder=3)
    axes.set(xscale="log", xlabel="milliseconds", yticks=range(len(names)), yticklabels=names)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return axes


@app.command()
def run(batch: Batch = 128, rounds: Rounds = 9, threads: Threads = 2, seed: int = 0) -> None:
    """The table and the plot of `cvxsst bench`, kept in `benchmarks/results`."""
    RESULTS.mkdir(exist_ok=True)
    found = bench(RESULTS / "fast.png", batch, rounds, threads, seed)
    save_measurements("fast", found, batch=batch, threads=threads, seed=seed)


@app.command()
def table() -> None:
    """The tables of the last measurement, as Markdown."""
    print_markdown("fast")


if __name__ == "__main__":
    from cvxsst.cli import main

    main(app)

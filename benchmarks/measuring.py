"""Solvers side by side: what is measured, how it is compared, printed and kept.

The first solver of a table is the one that the others are compared with. The solvers take turns within each round, so
that a slow moment of the machine meets all of them; ratios are medians over the rounds.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import cvxsst
from cvxsst.installed import require

Solve = Callable[[torch.Tensor], torch.Tensor]

Batch = Annotated[int, typer.Option(min=1)]
Rounds = Annotated[int, typer.Option(min=1, help="Timed rounds; the median is reported.")]
Threads = Annotated[int, typer.Option(min=1)]

RESULTS = Path(__file__).parent / "results"
# An answer is wrong when in its worst instance z is off by more, or the gradient by more relative to its norm.
WRONG_Z, WRONG_GRADIENT = 1e-3, 1e-2
ONCE_IS_ENOUGH = 3000.0  # milliseconds
A_TURN = 100.0  # milliseconds: what is shorter is run again, or it would be timed with the caches of its neighbour
PACKAGES = (
    "cvxsst torch numpy scipy cvxpy cvxpylayers diffcp moreau proxsuite entmax pot torch-struct networkx".split()  # noqa: SIM905
)


class NotApplicableError(Exception):
    """The peer does not solve this kind of problem."""


def peer(module: str) -> Any:
    """A module of the extra ``benchmarks``.

    Raises:
        ModuleNotFoundError: it is not installed, with the cure.
    """
    require(module, "cvxsst[benchmarks]")
    return import_module(module)


def built(builders: Mapping[str, Callable[[], Solve]], missing: dict[str, str]) -> dict[str, Solve]:
    """The solvers that apply; why others are missing is noted by name."""
    solvers = {}
    for name, build in builders.items():
        try:
            solvers[name] = build()
        except NotApplicableError:
            continue
        except ImportError as error:
            missing[name] = str(error)
    return solvers


def softmax_by(engine: str, P: cvxsst.Polytope, regularizer: cvxsst.Regularizer) -> Solve:
    """The library's own softmax, utilities flat or not."""

    def solve(u: torch.Tensor) -> torch.Tensor:
        return cvxsst.softmax(P, u.reshape(-1, *P.shape), regularizer, engine=engine).reshape(u.shape)

    return solve


def normal(count: int, *shape: int, seed: int) -> tuple[torch.Tensor, ...]:
    """So many tensors of standard normal numbers, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(count))


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Measurement:
    """One solver on one case; times in milliseconds, errors of the worst instance."""

    case: str
    solver: str
    milliseconds: list[float]
    error: float
    gradient_error: float

    @property
    def right(self) -> bool:
        return self.error <= WRONG_Z and self.gradient_error <= WRONG_GRADIENT


def forward_and_backward(solve: Solve, u: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """z, the vector-Jacobian product with g, and the milliseconds they took."""
    leaf = u.clone().requires_grad_()
    start = time.perf_counter()
    z = solve(leaf)
    (gradient,) = torch.autograd.grad(z, leaf, g)
    return z.detach(), gradient, 1e3 * (time.perf_counter() - start)


def forward(solve: Solve, u: torch.Tensor) -> tuple[torch.Tensor, float]:
    """z and the milliseconds it took."""
    start = time.perf_counter()
    z = solve(u)
    return z, 1e3 * (time.perf_counter() - start)


def errors(true_z: torch.Tensor, true_gradient: torch.Tensor, z: torch.Tensor, gradient: torch.Tensor):
    """Of z, and of the gradient relative to its norm, in the worst instance."""
    scale = true_gradient.flatten(1).norm(dim=1).clamp_min(1e-3)
    off = ((gradient - true_gradient).flatten(1).norm(dim=1) / scale).max().item()
    return (z - true_z).abs().max().item(), off


def measured(
    case: str,
    runs: Mapping[str, Callable[[], tuple]],
    judge: Callable[..., tuple[float, float]],
    rounds: int,
) -> list[Measurement]:
    """A measurement of each solver.

    Args:
        case: its name.
        runs: by solver; each returns its answer and, last, the milliseconds it took.
        judge: the errors of z and of the gradient, from an answer.
        rounds: in which the solvers take turns, after one to warm up and to be judged.
    """
    found = {name: Measurement(case, name, [], *judge(*run()[:-1])) for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            times = found[name].milliseconds
            if not times or times[0] <= ONCE_IS_ENOUGH:
                times.append(_turn(run))
    return list(found.values())


def _turn(run: Callable[[], tuple]) -> float:
    """Milliseconds: the median over what fits into one turn, at least one run and at most nine."""
    times: list[float] = []
    while not times or (len(times) < 9 and sum(times) < A_TURN):
        times.append(run()[-1])
    return statistics.median(times)


def beside(
    case: str, solvers: Mapping[str, Solve], truth: Solve, u: torch.Tensor, g: torch.Tensor, rounds: int
) -> list[Measurement]:
    """Forward and backward of each solver; z and gradient judged by those of ``truth``."""
    runs = {name: partial(forward_and_backward, solve, u, g) for name, solve in solvers.items()}
    return measured(case, runs, partial(errors, *forward_and_backward(truth, u, g)[:2]), rounds)


def ratios(found: Sequence[Measurement], solver: str, first: str) -> dict[str, float]:
    """case -> how many times the first solver's time this one takes, round by round, median."""
    times = {(m.case, m.solver): m.milliseconds for m in found}
    return {
        case: statistics.median(a / b for a, b in zip(times[case, solver], times[case, first], strict=False))
        for case in dict.fromkeys(m.case for m in found)
        if (case, solver) in times
    }


def rows(found: Sequence[Measurement], solvers: Sequence[str]) -> list[list[str]]:
    by = {(m.case, m.solver): m for m in found}
    compared = {solver: ratios(found, solver, solvers[0]) for solver in solvers}

    def cell(case: str, solver: str) -> str:
        m = by.get((case, solver))
        if m is None:
            return "-"
        ratio = "" if solver == solvers[0] else f" ({compared[solver][case]:.3g}x)"
        wrong = "" if m.right else f" wrong: {m.error:.0e}, {m.gradient_error:.0e}"
        return f"{statistics.median(m.milliseconds):.3g}{ratio}{wrong}"

    return [[case, *(cell(case, solver) for solver in solvers)] for case in dict.fromkeys(m.case for m in found)]


def summary(found: Sequence[Measurement], solvers: Sequence[str]) -> list[str]:
    lines = []
    for solver in solvers[1:]:
        values = list(ratios(found, solver, solvers[0]).values())
        if values:
            mean = statistics.geometric_mean(values)
            lines.append(f"{solver}: {mean:.1f} times as long in the geometric mean, at least {min(values):.1f} times")
    return lines


def print_table(found: Sequence[Measurement], solvers: Sequence[str], missing: Mapping[str, str]) -> None:
    """The measurements, what they say in the mean, and which solvers are missing, why."""
    shown = Table(title=f"forward + backward, ms (in brackets: times {solvers[0]}; wrong: errors of z and gradient)")
    for header in ("case", *solvers):
        shown.add_column(header, justify="left" if header == "case" else "right")
    for row in rows(found, solvers):
        shown.add_row(*row)
    Console(width=max(80, 40 + 24 * len(solvers))).print(shown)
    print("\n".join([*summary(found, solvers), *(f"not measured: {name}: {why}" for name, why in missing.items())]))


def print_markdown(name: str, solvers: Sequence[str] | None = None) -> None:
    """The table of the last measurement kept under this name; columns as given, else as they come."""
    saved = json.loads((RESULTS / f"{name}.json").read_text())
    found = [Measurement(**m) for m in saved["results"]]
    solvers = solvers or list(dict.fromkeys(m.solver for m in found))
    print("| case | " + " | ".join(solvers) + " |\n|---|" + "---|" * len(solvers))
    for row in rows(found, solvers):
        print("| " + " | ".join(row) + " |")
    print()
    for line in summary(found, solvers):
        print(f"- {line}")
    print(f"\n{saved['about']}")


def save_measurements(name: str, found: Sequence[Measurement], **configuration: object) -> None:
    save(name, [asdict(measurement) for measurement in found], **configuration)


def save(name: str, results: object, **configuration: object) -> None:
    """Keep results with the configuration and the versions that they come from."""
    about = {"python": platform.python_version(), "machine": platform.machine(), **configuration}
    for package in PACKAGES:
        try:
            about[package] = version(package)
        except PackageNotFoundError:
            about[package] = None  # not measured
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    print(f"written: {path}")

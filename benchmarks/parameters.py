"""Declarations with parameters: one value for each instance of a batch, beside the same with numbers and CvxpyLayer.

    python -m benchmarks.parameters                  forward and backward, for w and the parameters; medians in ms
    python -m benchmarks.parameters --batch 512

``numbers`` is the kkt engine on the declaration with the first instance's values in place of the parameters, and no
gradient for them: what it would cost if parameters cost nothing. CvxpyLayer takes u and the same parameters.
Its largest differences from ours, in z and in the gradient for the parameters, stand beside its time.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import cvxpy as cp
import torch
import typer
from cvxpylayers.torch import CvxpyLayer
from rich.console import Console
from rich.table import Table

import cvxsst
from benchmarks.cases import BINARY, EUCLIDEAN

Values = dict[str, torch.Tensor]
Declare = Callable[[dict[str, Any]], tuple[cp.Variable, list[cp.Constraint]]]
D = torch.float64


class Case(NamedTuple):
    declare: Declare
    draw: Callable[[int], Values]


def _budget(p: dict[str, Any]) -> tuple[cp.Variable, list[cp.Constraint]]:
    z = cp.Variable(30)
    return z, [z >= 0, z <= 1, cp.sum(z) <= p["k"]]


def _knapsack(p: dict[str, Any]) -> tuple[cp.Variable, list[cp.Constraint]]:
    z = cp.Variable(30)
    return z, [z >= 0, z <= 1, p["c"] @ z <= p["k"]]


def _transport(p: dict[str, Any]) -> tuple[cp.Variable, list[cp.Constraint]]:
    z = cp.Variable((6, 6))
    return z, [z >= 0, z <= 1, cp.sum(z, axis=1) == p["r"], cp.sum(z, axis=0) == p["c"]]


CASES = {
    "budget, k": Case(_budget, lambda B: {"k": 5 + 10 * torch.rand(B, dtype=D)}),
    "knapsack, costs and k": Case(
        _knapsack, lambda B: {"c": 0.5 + torch.rand(B, 30, dtype=D), "k": 5 + 10 * torch.rand(B, dtype=D)}
    ),
    "transport, marginals": Case(
        _transport, lambda B: {name: torch.softmax(torch.randn(B, 6, dtype=D), -1) for name in ("r", "c")}
    ),
}


def _layer(case: Case, values: Values, f: cvxsst.Regularizer) -> Callable[..., torch.Tensor]:
    parameters = {name: cp.Parameter(tuple(value.shape[1:]), name=name) for name, value in values.items()}
    z, constraints = case.declare(parameters)
    u = cp.Parameter(z.shape)
    problem = cp.Problem(cp.Minimize(f.expression(z) - cp.sum(cp.multiply(u, z))), constraints)
    layer = CvxpyLayer(problem, parameters=[u, *parameters.values()], variables=[z])

    def solve(w: torch.Tensor, **values: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return layer(w, *values.values(), solver_args={"solve_method": "Clarabel"})[0]

    return solve


def _timed(solve: Callable[..., torch.Tensor], w: torch.Tensor, g: torch.Tensor, values: Values, rounds: int):
    """Milliseconds, z, and the gradients for w and the values."""
    spent = []
    for _ in range(rounds):
        leaf, learned = w.clone().requires_grad_(), {name: x.clone().requires_grad_() for name, x in values.items()}
        start = time.perf_counter()
        z = solve(leaf, **learned)
        gradients = torch.autograd.grad((z * g).sum(), [leaf, *learned.values()])
        spent.append(1e3 * (time.perf_counter() - start))
    return statistics.median(spent), z.detach(), gradients


def main(
    batch: Annotated[int, typer.Option(min=1)] = 128,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seed: int = 0,
) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    table = Table("problem", "f", "kkt", "numbers", "CvxpyLayer", "its z off by", "its gradient", box=None)
    for name, case in CASES.items():
        values = case.draw(batch)
        shapes = {key: cp.Parameter(tuple(x.shape[1:]), name=key) for key, x in values.items()}
        P = cvxsst.Polytope(*case.declare(shapes), name)
        first = cvxsst.Polytope(*case.declare({k: x[0].numpy() for k, x in values.items()}), recognize=False)
        for f in (EUCLIDEAN, BINARY):
            w, g = torch.randn(2, batch, *P.shape, dtype=D)

            def ours(w: torch.Tensor, P: cvxsst.Polytope = P, f: Any = f, **values: torch.Tensor) -> torch.Tensor:
                return cvxsst.softmax(P.at(**values) if values else P, w, f, engine="kkt")

            mine, z, gradients = _timed(ours, w, g, values, rounds)
            plain, *_ = _timed(lambda w, ours=ours, first=first: ours(w, first), w, g, {}, rounds)
            theirs, their_z, their_gradients = _timed(_layer(case, values, f), w, g, values, 1)
            off = max(float((a - b).abs().max()) for a, b in zip(gradients[1:], their_gradients[1:], strict=True))
            shown = f"{mine:.0f} ms", f"{plain:.0f} ms", f"{theirs:.0f} ms"
            table.add_row(name, f.name, *shown, f"{float((z - their_z).abs().max()):.0e}", f"{off:.0e}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

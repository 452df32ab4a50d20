"""Seconds of the processor of a training step for each subset at 350 words, and of the subset's part in it.

python -m experiments.l2x.timing [OPTIONS]

Two rows are as published: SoftSub, k softmaxes one after the other; and a correlated top k whose marginals are those of
a NumPy dynamic program, word by word, with the derivative by a central difference along the incoming gradient. The rows
take turns, the median of the rounds is kept in ``results/timing.json``.
"""

from __future__ import annotations

import platform
import statistics
import time
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track

from cvxsst import Polytope
from experiments.l2x.config import Config
from experiments.l2x.data import VOCABULARY, Batch
from experiments.l2x.report import COMMITTED, TIMING
from experiments.l2x.subsets import SUBSETS, CorrelatedTopK, TopK
from experiments.l2x.training import Explainer
from experiments.runs.files import write_json

STEP = 1e-3  # of the difference


class Differences(torch.autograd.Function):
    """Marginals of the correlated k-subsets by ``marginals``, and their derivative by a central difference."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, n: int, k: int) -> torch.Tensor:
        ctx.save_for_backward(u)
        ctx.n, ctx.k = n, k
        return torch.from_numpy(marginals(u.detach().double().numpy(), n, k)).to(u)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (u,) = ctx.saved_tensors
        move = STEP * g.double() / g.abs().max().clamp(min=1e-30)
        up, down = (marginals((u.double() + sign * move).numpy(), ctx.n, ctx.k) for sign in (1, -1))
        return (torch.from_numpy(up - down) * (g.abs().max() / (2 * STEP))).to(g), None, None


def marginals(u: np.ndarray, n: int, k: int) -> np.ndarray:
    """E[z] for u ``(*batch, 2n - 1)``, item by item."""
    ending, turned = _ending(u[..., :n], u[..., n:], k), _ending(u[..., n - 1 :: -1], u[..., : n - 1 : -1], k)
    starting = turned[::-1, ..., ::-1]  # at [i, c], of k + 1 - c chosen from i on, i one of them
    weights = ending[..., 1:] + starting[..., :k]
    A = np.logaddexp.reduce(np.logaddexp.reduce(weights - np.moveaxis(u[..., :n], -1, 0)[..., None], -1), 0) - np.log(k)
    items = np.exp(weights - np.moveaxis(u[..., :n], -1, 0)[..., None] - A[..., None]).sum(-1)
    pairs = ending[:-1, ..., 1:k] + starting[1:, ..., 1:k]
    neighbours = np.exp(pairs + np.moveaxis(u[..., n:], -1, 0)[..., None] - A[..., None]).sum(-1)
    return np.moveaxis(np.concatenate([items, neighbours]), 0, -1)


def _ending(item: np.ndarray, pair: np.ndarray, k: int) -> np.ndarray:
    """``(n, *batch, k + 1)``: the log of the sum over the choices of c of the first i + 1 items, i one of them."""
    out = np.full((*item.shape[:-1], k + 1), -1e300)
    out[..., 0], taken, found = 0.0, np.full_like(out, -1e300), []
    for i in range(item.shape[-1]):
        run = np.logaddexp(out, taken + pair[..., i - 1, None]) if i else out
        out = np.logaddexp(out, taken)
        taken = np.full_like(out, -1e300)
        taken[..., 1:] = run[..., :-1] + item[..., i, None]
        found.append(taken)
    return np.stack(found)


class AsPublished(CorrelatedTopK):
    def relaxed(self, P: Polytope, w: torch.Tensor, temperature: float, engine: str) -> torch.Tensor:
        w = (w / temperature).nan_to_num(neginf=-1e9)
        return Differences.apply(w, P.arguments["n"], P.arguments["k"])


ROWS: dict[str, TopK] = {**SUBSETS, "correlated, as published": AsPublished("")}


def step(module: Explainer, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    start = time.process_time()
    optimizer.zero_grad()
    module.loss(batch).backward()
    optimizer.step()
    return time.process_time() - start


def latent(module: Explainer, batch: Batch) -> float:
    """Of noise, relaxation, and the derivative by the scores."""
    with torch.no_grad():
        scores = module.scores(batch)[1]
    leaf = type(scores)(*(part.clone().requires_grad_() for part in scores))
    start = time.process_time()
    subsets = module.latent(leaf, batch)
    z = subsets.softmax(subsets.utilities.rsample(torch.Size([1])))
    torch.autograd.grad(z, leaf, torch.randn_like(z), allow_unused=True)
    return time.process_time() - start


def main(
    words: Annotated[int, typer.Option(min=2)] = 350,
    k: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=1)] = 40,
    network: Annotated[str, typer.Option(help="simple or complex.")] = "simple",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokens, none = torch.randint(2, VOCABULARY, (batch_size, words)), torch.zeros(batch_size, words)
    batch = Batch(tokens, torch.rand(batch_size), none, none, torch.zeros(batch_size, words, 0))
    models = {}
    for name, kind in ROWS.items():
        models[name] = Explainer(Config(subset=name if name in SUBSETS else "correlated", k=k, network=network))
        models[name].kind = kind
    optimizers = {name: module.configure_optimizers() for name, module in models.items()}
    seconds: dict[str, dict[str, list[float]]] = {name: {"step": [], "latent": []} for name in models}
    for number in track(range(rounds + 1), "Timing"):  # the first round warms up
        for name, module in models.items():
            times = {"step": step(module, optimizers[name], batch), "latent": latent(module, batch)}
            for what, value in times.items() if number else ():
                seconds[name][what].append(value)
    medians = {name: {what: statistics.median(s) for what, s in lists.items()} for name, lists in seconds.items()}
    about = {"words": words, "k": k, "batch": batch_size, "network": network, "rounds": rounds, "threads": threads}
    machine = {"torch": torch.__version__, "machine": f"{platform.machine()} CPU"}
    COMMITTED.mkdir(exist_ok=True)
    write_json(COMMITTED / TIMING, {"about": about | machine, "seconds": medians})
    for name, found in medians.items():
        print(f"{name:26}", *(f"{what} {value:.3f}" for what, value in found.items()))


if __name__ == "__main__":
    typer.run(main)

"""Estimators of the gradient of an expected cost over structures: bias, spread and time, polytope by polytope.

    python -m benchmarks.estimators run           the table and the picture, kept in benchmarks/results
    python -m benchmarks.estimators table         the last measurement once more, as Markdown

    F(w) = E[c(z)],   p(z) ~ exp <w, z>,   c(z) = (<a, z> - b)^2        w, a normal numbers, b a typical <a, z>

The gradient of F is exact, by enumeration. What estimators say of it, relative to its length:

    bias      |mean of the estimates - gradient|, and what chance alone would make of it (+-)
    spread    root mean square distance of the estimates from their mean
    ms        for one estimate, of many made together

Score functions of a ``Gibbs`` are unbiased for F. Others have another distribution in mind, the argmax of w + Gumbel
noise: on the simplex the same, elsewhere near; that is part of what counts as bias here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track
from torch.distributions import Gumbel

import cvxsst
import polytopes
from benchmarks.measuring import RESULTS, Threads, on_threads, save
from cvxsst import Gibbs, StochasticArgmax, StochasticSoftmax
from cvxsst.autograd import straight_through
from cvxsst.estimators import (
    LeaveOneOut,
    Reinforce,
    SumOfGamma,
    blackbox,
    identity,
    implicit_mle,
    perturbed_argmax,
    sample_trace,
)
from cvxsst.installed import require

Cost = Callable[[torch.Tensor], torch.Tensor]
Estimator = Callable[[cvxsst.Polytope, torch.Tensor, int, Cost], torch.Tensor]
FAMILY, GUMBEL, FEW = cvxsst.ExponentialFamily(), Gumbel(0.0, 1.0), 2**21
SAMPLES = (1, 4, 16)
MARKS = [f"C{k}" for k in range(10)] + ["black", "navy"]

app = typer.Typer(help=__doc__, rich_markup_mode=None)


def cases() -> list[cvxsst.Polytope]:
    """Four families, three sizes each, all of which can be enumerated."""
    return [
        *(polytopes.k_subset(n, k) for n, k in ((6, 2), (10, 3), (14, 5))),
        *(polytopes.spanning_tree(n) for n in (4, 5, 6)),
        *(polytopes.projective_tree(n) for n in (4, 5, 6)),
        *(polytopes.birkhoff(n) for n in (3, 4, 5)),
    ]


def over_structures(rule: Reinforce) -> Estimator:
    def estimate(P: cvxsst.Polytope, w: torch.Tensor, samples: int, cost: Cost) -> torch.Tensor:
        p = Gibbs(w, P, validate_args=False)
        z = p.sample((samples,))
        return rule(cost(z), p.log_prob(z))

    return estimate


def over_utilities(P: cvxsst.Polytope, w: torch.Tensor, samples: int, cost: Cost) -> torch.Tensor:
    q = StochasticArgmax(Gumbel(w, 1.0), P)
    z, noisy = q.sample_with_utilities((samples,))
    return LeaveOneOut()(cost(z), q.utilities.log_prob(noisy).flatten(2).sum(-1))


def over_traces(P: cvxsst.Polytope, w: torch.Tensor, samples: int, cost: Cost) -> torch.Tensor:
    z, log_prob = sample_trace(P, w, (samples,))
    return LeaveOneOut()(cost(z), log_prob)


def exact_sample_straight_through(P: cvxsst.Polytope, w: torch.Tensor, samples: int, cost: Cost) -> torch.Tensor:
    """SIMPLE (Ahmed, Zeng, Niepert and Van den Broeck 2023): an exact sample forward, the mean backward."""
    p = Gibbs(w, P, validate_args=False)
    z = p.sample((samples,))
    return cost(straight_through(p.mean.expand(z.shape), z))


def relaxed(hard: bool) -> Estimator:
    def estimate(P: cvxsst.Polytope, w: torch.Tensor, samples: int, cost: Cost) -> torch.Tensor:
        return cost(StochasticSoftmax(Gumbel(w, 1.0), P, FAMILY, hard=hard).rsample((samples,)))

    return estimate


def of_noisy(estimate: Callable[[cvxsst.Polytope, torch.Tensor], torch.Tensor]) -> Estimator:
    def estimator(P: cvxsst.Polytope, w: torch.Tensor, samples: int, cost: Cost) -> torch.Tensor:
        noisy = w + GUMBEL.sample((samples, *w.shape)).to(w)
        return cost(estimate(P, noisy))

    return estimator


def implicit(gamma: bool) -> Estimator:
    def estimate(P: cvxsst.Polytope, w: torch.Tensor, samples: int, cost: Cost) -> torch.Tensor:
        taken = int(P.vertices().sum(1).max())
        noise = SumOfGamma(taken) if gamma else GUMBEL
        return cost(implicit_mle(P, w.expand(samples, *w.shape), noise, central=True))

    return estimate


def perturbed(P: cvxsst.Polytope, w: torch.Tensor, samples: int, cost: Cost) -> torch.Tensor:
    return cost(perturbed_argmax(P, w, GUMBEL, samples=samples))[None]


# the estimate, and how many samples it needs at least
ESTIMATORS: dict[str, tuple[Estimator, int]] = {
    "score function": (over_structures(Reinforce()), 1),
    "score function, leave one out": (over_structures(LeaveOneOut()), 2),
    "traces, leave one out": (over_traces, 2),
    "utilities, leave one out": (over_utilities, 2),
    "exact-sample straight-through": (exact_sample_straight_through, 1),
    "straight-through": (relaxed(hard=True), 1),
    "relaxed": (relaxed(hard=False), 1),
    "implicit MLE, Gumbel": (implicit(gamma=False), 1),
    "implicit MLE, sum of gamma": (implicit(gamma=True), 1),
    "perturbed argmax": (perturbed, 1),
    "blackbox": (of_noisy(blackbox), 1),
    "identity": (of_noisy(identity), 1),
}


@dataclass
class Found:
    """One estimator with so many samples on one polytope; relative to the length of the gradient."""

    case: str
    estimator: str
    samples: int
    bias: float
    chance: float
    spread: float
    milliseconds: float


def posed(P: cvxsst.Polytope, seed: int) -> tuple[torch.Tensor, Cost, torch.Tensor]:
    """w, the cost, and the exact gradient."""
    generator = torch.Generator().manual_seed(seed)
    w, a = torch.randn(2, *P.shape, generator=generator, dtype=torch.float64)
    V = torch.from_numpy(P.vertices())
    values = V @ a.reshape(-1)
    b = values.mean() + values.std()

    def cost(z: torch.Tensor) -> torch.Tensor:
        return ((z * a).flatten(z.dim() - len(P.shape)).sum(-1) - b) ** 2

    leaf = w.clone().requires_grad_()
    expected = ((V @ leaf.reshape(-1)).softmax(0) * cost(V.reshape(-1, *P.shape))).sum()
    return w, cost, torch.autograd.grad(expected, leaf)[0].reshape(-1)


def judged(P: cvxsst.Polytope, name: str, samples: int, repetitions: int, seed: int) -> Found:
    """``repetitions`` estimates, a part of them at a time."""
    w, cost, exact = posed(P, seed)
    torch.manual_seed(seed)
    estimate, _ = ESTIMATORS[name]
    gradients, start = [], time.perf_counter()
    part = max(1, min(repetitions, FEW // (samples * P.size)))
    for first in range(0, repetitions, part):
        leaf = w.expand(min(part, repetitions - first), *P.shape).clone().requires_grad_()
        costs = estimate(P, leaf, samples, cost)  # each sample has the gradient of its own cost, as if it were alone
        gradients.append(torch.autograd.grad(costs.sum(), leaf)[0].reshape(len(leaf), -1) / len(costs))
    milliseconds = 1e3 * (time.perf_counter() - start) / repetitions
    g = torch.cat(gradients)
    spread = g.var(0).sum().sqrt()
    off, length = torch.linalg.vector_norm(g.mean(0) - exact), torch.linalg.vector_norm(exact)
    chance = spread / math.sqrt(repetitions)
    bias, of_chance, wide = (float(x / length) for x in (off, chance, spread))
    return Found(P.name, name, samples, bias, of_chance, wide, milliseconds)


def applies(P: cvxsst.Polytope, name: str, samples: int) -> bool:
    return samples >= ESTIMATORS[name][1] and not (name.startswith("traces") and P.family.tracer is None)


def markdown(found: Sequence[Found]) -> str:
    """A row for each polytope and estimator: bias (+- chance) and spread for each number of samples, ms for most."""
    counts = sorted({f.samples for f in found})
    by = {(f.case, f.estimator, f.samples): f for f in found}
    heads = [f"{s} sample{'s' * (s > 1)}: bias, spread" for s in counts]
    lines = ["| polytope | estimator | " + " | ".join(heads) + " | ms |", "|---" * (len(counts) + 3) + "|"]
    for case, name in dict.fromkeys((f.case, f.estimator) for f in found):
        cells = [by.get((case, name, s)) for s in counts]
        shown = ["-" if f is None else f"{f.bias:.2f} ± {f.chance:.2f}, {f.spread:.2f}" for f in cells]
        last = [f for f in cells if f is not None][-1]
        lines.append(f"| {case} | {name} | " + " | ".join(shown) + f" | {last.milliseconds:.2g} |")
    return "\n".join(lines)


def draw(figure: Any, found: Sequence[Found], samples: int) -> Any:
    """Bias against spread, a panel for each polytope, a mark for each estimator; both axes logarithmic."""
    names = list(dict.fromkeys(f.case for f in found))
    columns = min(3, len(names))
    axes = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharex=True, sharey=True)
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    for panel, case in zip(axes.flat, names, strict=False):
        for k, name in enumerate(ESTIMATORS):
            for f in (f for f in found if (f.case, f.estimator, f.samples) == (case, name, samples)):
                # no bias is told from chance below what chance makes of it
                look = {"marker": "osD^vP*X<>hp"[k], "color": MARKS[k]}
                panel.scatter(max(f.bias, f.chance), f.spread, label=name, zorder=3, **look)
        panel.set(xscale="log", yscale="log", title=case, xlabel="bias", ylabel="spread")
        panel.grid(alpha=0.3)
    handles = dict(zip(*axes.flat[0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return axes


def estimators(
    polytope: Annotated[
        list[str] | None, typer.Option(help="As in `cvxsst validate`: k_subset(8, 3). Default: twelve.")
    ] = None,
    samples: Annotated[list[int] | None, typer.Option(min=1, help="Of each estimate. Default: 1, 4 and 16.")] = None,
    repetitions: Annotated[int, typer.Option(min=2, help="Estimates of each.")] = 1000,
    output: Annotated[Path, typer.Option(help="The picture.")] = Path("estimators.png"),
    threads: Threads = 1,
    seed: int = 0,
) -> list[Found]:
    """Bias, spread and time of gradient estimators against the exact gradient, as Markdown and as a picture.

    A few minutes for all; the polytopes must be small enough to be enumerated. Examples:

    - `cvxsst estimators`
    - `cvxsst estimators --polytope "k_subset(8, 3)" --samples 2 --samples 8`
    """
    require("matplotlib.figure", "cvxsst[plot]")
    from matplotlib.figure import Figure

    from cvxsst.cli import polytopes_called

    if not output.parent.is_dir():
        raise ValueError(f"--output: no such directory: {output.parent}")
    chosen = [P for name in polytope for P in polytopes_called(name)] if polytope else cases()
    counts = samples or list(SAMPLES)
    work = [(P, name, s) for P in chosen for name in ESTIMATORS for s in counts if applies(P, name, s)]
    with on_threads(threads):
        found = [judged(*one, repetitions, seed) for one in track(work, "Estimating", transient=True)]
    print(markdown(found))
    figure = Figure(figsize=(10, 2 + 2.2 * -(-len(chosen) // 3)), dpi=110, layout="constrained")
    draw(figure, found, max(counts))
    figure.savefig(output)
    print(f"\nwritten: {output}")
    return found


@app.command()
def run(repetitions: int = 1000, threads: Threads = 1, seed: int = 0) -> None:
    """The table and the picture of `cvxsst estimators`, kept in `benchmarks/results`."""
    RESULTS.mkdir(exist_ok=True)
    found = estimators(None, None, repetitions, RESULTS / "estimators.png", threads, seed)
    save("estimators", [asdict(f) for f in found], repetitions=repetitions, threads=threads, seed=seed)


@app.command()
def table() -> None:
    """The table of the last measurement, as Markdown."""
    saved = json.loads((RESULTS / "estimators.json").read_text())
    print(markdown([Found(**f) for f in saved["results"]]))
    print(f"\n{saved['about']}")


if __name__ == "__main__":
    from cvxsst.cli import main

    main(app)

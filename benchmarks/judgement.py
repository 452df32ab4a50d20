"""Is an engine right where it says that it converged? Value and gradient of whole batches, on any declaration.

- *value*: ``cvxsst.certificate`` on the declaration as it was written: the distance to P and the gap, by linear
  programs. A sample is held against the declaration once more, by a linear program that CVXPY makes of the author's
  constraints: nothing that the library computed about P takes part in it.
- *gradient*: dz/du is symmetric, so the vector-Jacobian product with g is the derivative along g, and central
  differences of the engine's own z show that. Two step sizes must agree, else there is a kink; kinks are counted apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cvxpy as cp
import numpy as np
import torch

import cvxsst
from benchmarks.corpora import Declaration, solve_linear

REGULARIZERS = {
    "euclidean": cvxsst.Euclidean(),
    "categorical": cvxsst.CategoricalEntropy(),
    "binary": cvxsst.BinaryEntropy(),
}
TEMPERATURES = (10.0, 1.0, 0.1, 0.01)
# Relative to the size of P, and of <u, z> over it. Certified: as an engine promises. Wrong: beyond any doubt.
CERTIFIED, WRONG = 1e-7, 1e-5
STEP, FINE = 1e-4, 0.25  # of the differences in u, and the second step as a share of the first
SMOOTH = 1e-3  # the share by which the two differences, and those to both sides, may differ
WRONG_GRADIENT = 1e-2  # relative, beyond what the two differences differ by
FLOOR = 1e-3  # of the size to which an error of a gradient is relative, for g of length 1
BESIDE = 1e-6  # how far from u a gradient that contradicts the differences is asked again
HUGE = 1e3


@dataclass
class Tally:
    """One row of the table: what became of the instances of one cell, or of several."""

    corpus: str
    regularizer: str
    temperature: float
    instances: int = 0
    solved: int = 0
    certified: int = 0
    wrong: int = 0
    gradients: int = 0
    gradient_wrong: int = 0
    kinks: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Answers given as right that are not."""
        return self.wrong + self.gradient_wrong

    def __iadd__(self, other: Tally) -> Tally:
        for name in ("instances", "solved", "certified", "wrong", "gradients", "gradient_wrong", "kinks", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.notes += other.notes
        return self


@dataclass(frozen=True)
class Answer:
    """z and vjp ``(B, n)``, whether each instance is said to be right, the seconds, and what was raised."""

    z: torch.Tensor
    vjp: torch.Tensor
    converged: torch.Tensor
    seconds: float
    error: str = ""


def utilities(P: cvxsst.Polytope, batch: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """``(B, n)``, and the kind of each: normal; in units of the size of P; ties, 0 among them; of huge size."""
    generator = torch.Generator().manual_seed(seed)
    size = float(np.abs(P.bounds).max(initial=0.0)) or 1.0
    rows, kinds = [], []
    for i in range(batch):
        normal = torch.randn(P.size, generator=generator, dtype=torch.float64)
        kind, w = (
            ("normal", normal),
            ("sized", size * normal),
            ("ties", normal.sign() if i > 3 else 0 * normal),
            ("huge", HUGE * normal),
        )[i % 4 if i % 8 < 4 else 0]
        rows.append(w)
        kinds.append(kind)
    return torch.stack(rows), kinds


def ask(
    P: cvxsst.Polytope, f: cvxsst.Regularizer, T: float, engine: str, w: torch.Tensor, g: torch.Tensor | None
) -> Answer:
    """The engine's answers; an exception is the failure of all. Without g no gradient is asked for."""
    leaf = w.reshape(-1, *P.shape).clone().requires_grad_(g is not None)
    nothing, start = torch.full_like(w, torch.nan), time.perf_counter()
    try:
        z, info = cvxsst.softmax(P, leaf, f, T, engine=engine, on_failure="nan", return_info=True)
        vjp = nothing if g is None else torch.autograd.grad(z, leaf, g.reshape(z.shape))[0].reshape(w.shape)
    except Exception as error:  # whatever it is, it is what a user would get
        seconds = time.perf_counter() - start
        return Answer(
            nothing, nothing, torch.zeros(len(w), dtype=torch.bool), seconds, f"{type(error).__name__}: {error}"
        )
    seconds = time.perf_counter() - start
    return Answer(z.detach().reshape(w.shape), vjp, info.converged, seconds)


def judge(
    declaration: Declaration,
    f: cvxsst.Regularizer,
    T: float,
    engine: str,
    batch: int,
    seed: int,
    corpus: str = "",
    gradients: int | None = None,
) -> Tally:
    """One cell: a batch of one declaration, at one temperature; of ``gradients`` of them the gradient is judged."""
    P = declaration.P
    w, kinds = utilities(declaration.judge, batch, seed)
    g = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    g = g / g.norm(dim=1, keepdim=True)
    answer = ask(P, f, T, engine, w, g)
    name = next(name for name, known in REGULARIZERS.items() if known == f)
    tally = Tally(corpus, name, T, batch, int(answer.converged.sum()), seconds=answer.seconds)
    where = f"{declaration.name} | {name} T={T:g}"
    if answer.error:
        tally.notes.append(f"{where}: raised {answer.error.splitlines()[0][:200]}")
    elif tally.solved < batch:
        failed = [f"{i} {kinds[i]}" for i in (~answer.converged).nonzero().flatten().tolist()]
        tally.notes.append(f"{where}: {len(failed)} of {batch} not solved ({', '.join(failed[:6])})")
    rows = answer.converged.nonzero().flatten().tolist()
    right = _judge_values(declaration, f, T, w, kinds, answer, rows, tally, where)
    # A gradient is judged where z is right: a wrong z is told already.
    if gradients is not None:
        right = right[:gradients]
    if right:
        _judge_gradients(declaration, f, T, engine, w, g, kinds, answer, right, tally, where)
    return tally


def _judge_values(declaration, f, T, w, kinds, answer: Answer, rows: list[int], tally: Tally, where: str) -> list[int]:
    """Those of the rows that are not wrong."""
    right = []
    size = float(np.abs(declaration.judge.bounds).max(initial=0.0)) or 1.0
    low, high = f.domain
    for i in rows:
        z = answer.z[i]
        inside = z.clamp(low, high)
        moved = float((inside - z).abs().max())
        try:
            found = cvxsst.certificate(
                declaration.judge, inside.reshape(declaration.P.shape), w[i].reshape(declaration.P.shape), f, T
            )
            far, gap = max(float(found.infeasibility), moved), float(found.gap) / T
        except cvxsst.ConvergenceError as error:
            tally.notes.append(f"{where}: instance {i} {kinds[i]} could not be judged: {error}")
            continue
        if i == rows[0]:
            far = max(far, distance_as_written(declaration, z.numpy()))
        # An error of z costs as much in <u, z>; and the curvature of f over P is of the order of its size.
        worth = size * (1 + float(w[i].abs().max()) / T)
        off = max(far / size, gap / worth)
        tally.certified += off <= CERTIFIED
        if off <= WRONG:
            right.append(i)
        else:
            tally.wrong += 1
        if off > CERTIFIED:
            word = "WRONG" if off > WRONG else "not certified"
            tally.notes.append(
                f"{where}: {word}: instance {i} {kinds[i]}, infeasibility {far:.1e}, gap {gap:.1e} (size {size:.1e})"
            )
    return right


def distance_as_written(declaration: Declaration, z: np.ndarray) -> float:
    """The distance from z to the set that the author's constraints describe, maximum norm: CVXPY and HiGHS; 0 if that
    does not know."""
    variable, constraints = (declaration.plain or declaration.declare)()
    r = cp.Variable(nonneg=True)
    size = np.abs(z).max(initial=0.0) or 1.0
    near = cp.abs(cp.vec(variable, order="C") - z) <= size * r
    problem = cp.Problem(cp.Minimize(r), [*constraints, near])
    try:
        solve_linear(problem)
    except cp.error.SolverError:
        return 0.0
    return size * float(np.asarray(r.value)) if problem.status == cp.OPTIMAL else 0.0


def _judge_gradients(declaration, f, T, engine, w, g, kinds, answer, rows: list[int], tally: Tally, where: str) -> None:
    P = declaration.P
    size = float(np.abs(declaration.judge.bounds).max(initial=0.0)) or 1.0
    # An entropy bends where u changes by 1; the others where z, and so u, changes by the size of P.
    h = T * STEP * (1.0 if np.isfinite(f.domain).any() else size)
    w, g, z = w[rows], g[rows], answer.z[rows]
    points = torch.cat([w + h * g, w - h * g, w + FINE * h * g, w - FINE * h * g])
    moved = ask(P, f, T, engine, points, None)
    known = moved.converged.reshape(4, -1).all(0)
    z4 = moved.z.reshape(4, *w.shape)
    coarse, fine = (z4[0] - z4[1]) / (2 * h), (z4[2] - z4[3]) / (2 * FINE * h)
    jump = _largest(z4[2] - 2 * z + z4[3]) / (FINE * h)
    scale = torch.maximum(_largest(fine), torch.full((len(rows),), FLOOR / T))
    uncertain = _largest(coarse - fine)
    smooth = known & (uncertain <= SMOOTH * scale) & (jump <= 10 * SMOOTH * scale)
    error = _largest(answer.vjp[rows] - fine)
    error = torch.where(error.isfinite(), error, torch.inf)
    wrong = smooth & (error > WRONG_GRADIENT * scale + 10 * uncertain)
    for k in wrong.nonzero().flatten().tolist():
        if _right_beside(P, f, T, engine, w[k], g[k], fine[k], float(scale[k]), h):
            wrong[k], smooth[k] = False, False
            continue
        tally.notes.append(
            f"{where}: WRONG GRADIENT: instance {rows[k]} {kinds[rows[k]]}, relative error {error[k] / scale[k]:.1e}"
        )
    tally.gradients += int(smooth.sum())
    tally.gradient_wrong += int(wrong.sum())
    tally.kinks += int((known & ~smooth).sum())


def _right_beside(P, f, T, engine, w, g, wanted, scale: float, h: float) -> bool:
    """Whether the gradient is right a little beside w, in two directions: then w is on a kink too narrow to be seen."""
    d = torch.randn(2, len(w), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    beside = ask(P, f, T, engine, w + BESIDE / STEP * h * d, g.expand(2, -1))
    return bool(((beside.vjp - wanted).abs().amax(dim=1) <= WRONG_GRADIENT * scale).all())


def _largest(rows: torch.Tensor) -> torch.Tensor:
    return rows.abs().amax(dim=1)


def supported(declaration: Declaration, names: Sequence[str], engine: str) -> Iterator[cvxsst.Regularizer]:
    """Those of the regularizers that are defined on the declaration and that the engine takes."""
    for name in names:
        f = REGULARIZERS[name]
        try:
            f.require_domain(declaration.judge)
        except ValueError:
            continue
        if engine == "auto" or cvxsst.engines.ENGINES[engine].supports(declaration.P, f):
            yield f

"""Is an engine right where it says that it converged? Value and gradient of whole batches, on any declaration.

- *certified*: ``cvxsst.certificate`` on the declaration: the distance to P and the gap, by linear programs.
- *wrong*: beyond doubt. The distance is too large for that linear program, and for another that CVXPY makes of the
  author's constraints, in which nothing takes part that the library computed about P (it also looks at a sample of what
  was certified). Or Clarabel, by way of CVXPY, found a point of P that is better. A gap alone is an upper bound, and
  proves nothing.
- *gradient wrong*: dz/du is symmetric, so the vector-Jacobian product with g is the derivative along g, which central
  differences of the engine's own z show. Where two step sizes and both sides do not agree there is a *kink*, or z is
  too rough to tell; those are counted apart.
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
from cvxsst.engines import ENGINES
from cvxsst.regularizers import Separable

REGULARIZERS: dict[str, Separable] = {
    "euclidean": cvxsst.Euclidean(),
    "categorical": cvxsst.CategoricalEntropy(),
    "binary": cvxsst.BinaryEntropy(),
}
TEMPERATURES = (10.0, 1.0, 0.1, 0.01)
# Relative to the size of P, for a gap times that of u; but linear programs resolve no less than RESOLUTION.
CERTIFIED, WRONG, RESOLUTION = 1e-7, 1e-5, 1e-8
STEP, FINE = 1e-4, 0.25  # of the differences in u, and the second step as a share of the first
SMOOTH = 1e-3  # the share by which the two differences may differ; ten times that, those to both sides
WRONG_GRADIENT = 1e-2  # relative, beyond what the two differences differ by
FLOOR = 1e-2  # what an error of a gradient is relative to, at least: the length of g is 1
BESIDE = 1e-2  # times the step: how far away a gradient that contradicts the differences is asked again
HUGE = 1e3
COUNTS = ("instances", "solved", "certified", "wrong", "gradients", "gradient_wrong", "kinks", "seconds")


@dataclass
class Tally:
    """What became of the instances of one cell, or of several; ``notes``: each fault in words."""

    corpus: str
    declaration: str
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
        """Answers that were given as right and are not."""
        return self.wrong + self.gradient_wrong

    def add(self, other: Tally) -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.notes += other.notes


@dataclass(frozen=True)
class Answer:
    """z and vjp ``(B, n)``, which instances are said to be right, the seconds, and what was raised."""

    z: torch.Tensor
    vjp: torch.Tensor
    converged: torch.Tensor
    seconds: float
    error: str = ""


def utilities(n: int, size: float, batch: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """``(B, n)``, and the kind of each: normal; in units of the size of P; ties, 0 among them; huge."""
    generator = torch.Generator().manual_seed(seed)
    rows, kinds = [], []
    for i in range(batch):
        normal = torch.randn(n, generator=generator, dtype=torch.float64)
        kind = ("normal", "sized", "ties", "huge")[i % 4] if i % 8 < 4 else "normal"
        ties = normal.sign() if i > 3 else torch.zeros_like(normal)
        rows.append({"normal": normal, "sized": size * normal, "ties": ties, "huge": HUGE * normal}[kind])
        kinds.append(kind)
    return torch.stack(rows), kinds


def ask(
    P: cvxsst.Polytope, f: cvxsst.Regularizer, T: float, engine: str, w: torch.Tensor, g: torch.Tensor | None = None
) -> Answer:
    """The engine's answers to w ``(B, n)``; an exception is the failure of all. Without g no gradient is asked for."""
    leaf = w.reshape(-1, *P.shape).clone().requires_grad_(g is not None)
    nothing, start = torch.full_like(w, torch.nan), time.perf_counter()
    try:
        z, info = cvxsst.softmax(P, leaf, f, T, engine=engine, on_failure="nan", return_info=True)
        vjp = nothing if g is None else torch.autograd.grad(z, leaf, g.reshape(z.shape))[0].reshape(w.shape)
    except Exception as error:  # whatever it is, it is what a user would get
        told = f"{type(error).__name__}: {brief(error)}"
        return Answer(nothing, nothing, torch.zeros(len(w), dtype=torch.bool), time.perf_counter() - start, told)
    return Answer(z.detach().reshape(w.shape), vjp, info.converged, time.perf_counter() - start)


def brief(error: Exception) -> str:
    """Its message in one line."""
    return " ".join(str(error).split())[:200]


@dataclass(frozen=True)
class Cell:
    """A batch of one declaration at one temperature, and how an engine did.

    Attributes:
        w, g: utilities and, of length 1, cotangents ``(B, n)``; ``kinds`` of the utilities.
    """

    declaration: Declaration
    f: Separable
    T: float
    engine: str
    w: torch.Tensor
    kinds: list[str]
    g: torch.Tensor
    tally: Tally

    def ask(self, w: torch.Tensor, g: torch.Tensor | None = None) -> Answer:
        return ask(self.declaration.P, self.f, self.T, self.engine, w, g)

    def note(self, text: str, i: int | None = None) -> None:
        which = "" if i is None else f" instance {i} ({self.kinds[i]})"
        where = f"{self.declaration.name} | {self.tally.regularizer} T={self.T:g}{which}"
        self.tally.notes.append(f"{where}: {text}")


def judge(
    declaration: Declaration,
    f: Separable,
    T: float,
    engine: str,
    batch: int,
    seed: int = 0,
    gradients: int | None = None,
    corpus: str = "",
) -> Tally:
    """A batch of one declaration; of the first ``gradients`` whose z is right (None: all) also the gradient."""
    n = declaration.P.size
    w, kinds = utilities(n, declaration.size, batch, seed)
    g = torch.randn(batch, n, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    g = g / g.norm(dim=1, keepdim=True)
    tally = Tally(corpus, declaration.name, f.name, T, batch)
    cell = Cell(declaration, f, T, engine, w, kinds, g, tally)
    answer = cell.ask(w, g)
    tally.solved, tally.seconds = int(answer.converged.sum()), answer.seconds
    failed = (~answer.converged).nonzero().flatten().tolist()
    if answer.error:
        cell.note(f"raised {answer.error}")
    elif failed:
        cell.note(f"{len(failed)} of {batch} not solved: {', '.join(f'{i} ({kinds[i]})' for i in failed[:8])}")
    solved = answer.converged.nonzero().flatten().tolist()
    # A gradient where z is wrong is told already.
    right = [i for i in solved if _value_is_right(cell, i, answer.z[i], sample=i == solved[0])]
    if right[:gradients]:
        _judge_gradients(cell, answer, right[:gradients])
    return tally


def _value_is_right(cell: Cell, i: int, z: torch.Tensor, sample: bool) -> bool:
    """Judges one z that is said to be right; False if it is wrong beyond doubt."""
    size, (low, high) = cell.declaration.size, cell.f.domain
    reach = 1 + float(cell.w[i].abs().max()) / cell.T  # an error of z costs as much in <u, z>
    inside = z.clamp(low, high)
    try:
        found = cvxsst.certificate(
            cell.declaration.judge, _shaped(cell, inside), _shaped(cell, cell.w[i]), cell.f, cell.T
        )
        far, gap = max(float(found.infeasibility), float((inside - z).abs().max())), float(found.gap) / cell.T
    except (RuntimeError, AssertionError) as error:
        far, gap = np.inf, np.inf
        cell.note(f"no certificate: {type(error).__name__}: {brief(error)}", i)

    def within(share: float) -> bool:
        allowed = share * size + RESOLUTION
        return far <= allowed and gap <= allowed * reach

    certified = within(CERTIFIED)
    cell.tally.certified += certified
    if certified and not sample:
        return True
    proof = _disproof(cell, i, z, inside, gap > (WRONG * size + RESOLUTION) * reach)
    if proof:
        cell.tally.wrong += 1
        cell.note(f"WRONG: {proof}; certificate: infeasibility {far:.1e}, gap {gap:.1e}, size {size:.1e}", i)
        return False
    if not certified:
        cell.note(f"not certified: infeasibility {far:.1e}, gap {gap:.1e}, size {size:.1e}", i)
    return True


def _disproof(cell: Cell, i: int, z: torch.Tensor, inside: torch.Tensor, gap: bool) -> str:
    """Why z is wrong, without the library's help; nothing if that cannot be shown."""
    size = cell.declaration.size
    allowed = WRONG * size + RESOLUTION
    distance = distance_as_written(cell.declaration, z.numpy())
    if distance > allowed:
        return f"{distance:.1e} away from the declaration"
    if not gap:
        return ""
    u = cell.w[i] / cell.T
    better = solved_by_clarabel(cell.declaration, cell.f, u)
    if better is None or distance_as_written(cell.declaration, better.numpy()) > CERTIFIED * size + RESOLUTION:
        return ""
    better = better.clamp(*cell.f.domain)
    gain = float(u @ (better - inside) - (cell.f.value(better) - cell.f.value(inside)).sum())
    return f"a point that is better by {gain:.1e}" if gain > allowed * (1 + float(u.abs().max())) else ""


def _shaped(cell: Cell, x: torch.Tensor) -> torch.Tensor:
    return x.reshape(cell.declaration.P.shape)


def distance_as_written(declaration: Declaration, z: np.ndarray) -> float:
    """The distance from z ``(n,)`` to the set that the author's constraints describe, maximum norm, by CVXPY and HiGHS;
    0 where those do not know."""
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


def solved_by_clarabel(declaration: Declaration, f: Separable, u: torch.Tensor) -> torch.Tensor | None:
    """The maximizer of <u, z> - f(z), as CVXPY finds it; None where it does not."""
    variable, constraints = (declaration.plain or declaration.declare)()
    utility = cp.vec(variable, order="C") @ u.numpy() - f.expression(variable)
    try:
        cp.Problem(cp.Maximize(utility), constraints).solve(solver=cp.CLARABEL)
    except cp.error.SolverError:
        return None
    return None if variable.value is None else torch.from_numpy(variable.value.ravel())


def _judge_gradients(cell: Cell, answer: Answer, rows: list[int]) -> None:
    # An entropy bends where u changes by 1; the Euclidean softmax where z, and so u, changes by the size of P.
    h = cell.T * STEP * (1.0 if np.isfinite(cell.f.domain).any() else cell.declaration.size)
    w, g, z = cell.w[rows], cell.g[rows], answer.z[rows]
    moved = cell.ask(torch.cat([w + h * g, w - h * g, w + FINE * h * g, w - FINE * h * g]))
    known = moved.converged.reshape(4, -1).all(dim=0)
    up, down, fine_up, fine_down = moved.z.reshape(4, *w.shape)
    coarse, fine = (up - down) / (2 * h), (fine_up - fine_down) / (2 * FINE * h)
    scale = _largest(fine).clamp(min=FLOOR / cell.T)
    uncertain, jump = _largest(coarse - fine), _largest(fine_up - 2 * z + fine_down) / (FINE * h)
    smooth = known & (uncertain <= SMOOTH * scale) & (jump <= 10 * SMOOTH * scale)
    error = _largest(answer.vjp[rows] - fine).nan_to_num(nan=torch.inf)
    wrong = smooth & (error > WRONG_GRADIENT * scale + 10 * uncertain)
    for k in wrong.nonzero().flatten().tolist():
        # Right a little beside w, in two directions: w is on a kink that is too narrow to be seen.
        d = torch.randn(2, w.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        beside = cell.ask(w[k] + BESIDE * h * d, g[k].expand(2, -1)).vjp
        if bool(((beside - fine[k]).abs() <= WRONG_GRADIENT * scale[k]).all()):
            wrong[k], smooth[k] = False, False
            continue
        cell.note(f"WRONG GRADIENT: relative error {error[k] / scale[k]:.1e}", rows[k])
    cell.tally.gradients += int(smooth.sum())
    cell.tally.gradient_wrong += int(wrong.sum())
    cell.tally.kinks += int((known & ~smooth).sum())


def _largest(rows: torch.Tensor) -> torch.Tensor:
    return rows.abs().amax(dim=1)


def supported(declaration: Declaration, names: Sequence[str], engine: str) -> Iterator[Separable]:
    """Those of the regularizers that are defined on the declaration and that the engine takes."""
    for name in names:
        f = REGULARIZERS[name]
        try:
            f.require_domain(declaration.judge)
        except ValueError:
            continue
        if engine == "auto" or ENGINES[engine].supports(declaration.P, f):
            yield f

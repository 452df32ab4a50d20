"""Polytopes that nobody here chose: what the generic engines are held against beside the zoo.

Three corpora, each a sequence of ``Declaration``s, every one of them had again by its name (and seed):

- ``files``: linear programs of Netlib and MIPLIB, where ``../shared/data/mps`` is there; z in units of its bounds;
- ``generated``: small declarations of many kinds, each plain and in every *twist*: rows of very different sizes,
  redundant rows, thin, flat, degenerate, dense, in other units;
- ``drawn``: small integer systems around a point, with slacks down to 0 and atoms that lift, drawn choice by choice, so
  that hypothesis can draw them too, and shrink them.

A declaration that was rewritten without another meaning (rows scaled, rows repeated) is judged by its plain version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import cvxpy as cp
import highspy
import numpy as np
import scipy.sparse as sp

import cvxsst

MPS = Path(__file__).parent.parent.parent / "shared" / "data" / "mps"
EMPTY = ("bgetam", "forest6", "vol1")  # of the files: without a feasible point
WIDEST = 1e4  # the bound that is added where neither the file nor a linear program gives a smaller one

Constraints = list[cp.Constraint]
Build = Callable[[cp.Expression], Constraints]  # the constraints on x, an affine expression of the variable
Kind = Callable[[np.random.Generator], tuple[int, Build]]
Pick = Callable[[Sequence[Any]], Any]  # one of these: a random generator's choice, or hypothesis's


@dataclass(frozen=True)
class Declaration:
    """What somebody wrote.

    Attributes:
        name: which of its corpus.
        declare: the variable and the constraints, new ones at every call.
        plain: the same set, written so that a linear program can be trusted; None: as ``declare`` writes it.
    """

    name: str
    declare: Callable[[], tuple[cp.Variable, Constraints]]
    plain: Callable[[], tuple[cp.Variable, Constraints]] | None = None

    @cached_property
    def P(self) -> cvxsst.Polytope:  # noqa: N802
        return cvxsst.Polytope(*self.declare(), name=self.name, recognize=False)

    @cached_property
    def judge(self) -> cvxsst.Polytope:
        """The polytope by which answers are judged."""
        if self.plain is None:
            return self.P
        return cvxsst.Polytope(*self.plain(), name=f"{self.name}, plain", recognize=False)

    @cached_property
    def size(self) -> float:
        """The largest entry over P."""
        return float(np.abs(self.judge.bounds).max(initial=0.0)) or 1.0


# Files.


def files() -> Iterator[Declaration]:
    """The linear programs of the folder, the small ones first; none where it is not there."""
    for path in sorted(MPS.glob("*.mps"), key=lambda path: path.stat().st_size):
        yield Declaration(path.stem, partial(declared_by_file, path))


def declared_by_file(path: Path) -> tuple[cp.Variable, Constraints]:
    """The feasible set of a linear program, z = (x - lower) / (upper - lower) in [0, 1]; integrality is relaxed."""
    highs = _quiet()
    highs.readModel(str(path))
    lp = highs.getLp()
    lp.integrality_ = []
    highs.passModel(lp)
    A = lp.a_matrix_
    A = sp.csc_array((A.value_, A.index_, A.start_), shape=(lp.num_row_, lp.num_col_)).tocsr()
    least, most = np.array(lp.row_lower_), np.array(lp.row_upper_)
    lower, upper = _bounded(highs)
    z = cp.Variable(lp.num_col_, name="z")
    x = lower + cp.multiply(np.where(upper > lower, upper - lower, 1.0), z)
    equal, above = least == most, np.isfinite(most) & (least != most)
    below = np.isfinite(least) & (least != most)
    constraints: Constraints = [z >= 0, z <= (upper > lower)]
    constraints += [A[equal] @ x == least[equal]] if equal.any() else []
    constraints += [A[above] @ x <= most[above]] if above.any() else []
    constraints += [A[below] @ x >= least[below]] if below.any() else []
    return z, constraints


def _bounded(highs: highspy.Highs) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on every column: the file's, else those that the rows imply, else ``WIDEST`` away from a feasible point.

    Of a program without a feasible point the rows imply nothing.
    """
    lp = highs.getLp()
    n, sides = lp.num_col_, (np.array(lp.col_lower_), np.array(lp.col_upper_))
    highs.changeColsCost(n, np.arange(n, dtype=np.int32), np.zeros(n))
    highs.run()
    feasible = highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    point = np.array(highs.getSolution().col_value) if feasible else np.zeros(n)
    for side, sense in zip(sides, (highspy.ObjSense.kMinimize, highspy.ObjSense.kMaximize), strict=True):
        highs.changeObjectiveSense(sense)
        sign = 1.0 if sense == highspy.ObjSense.kMaximize else -1.0
        for j in np.flatnonzero(~np.isfinite(side)):
            side[j] = point[j] + sign * WIDEST
            if not feasible:
                continue
            highs.changeColCost(int(j), 1.0)
            highs.run()
            if highs.getModelStatus() == highspy.HighsModelStatus.kOptimal:
                implied = highs.getSolution().col_value[j]
                side[j] = sign * min(sign * side[j], sign * implied)
            highs.changeColCost(int(j), 0.0)
    return sides


def _quiet() -> highspy.Highs:
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    return highs


# Kinds: all sets within [0, 1]^n.


def capped_simplex(rng: np.random.Generator) -> tuple[int, Build]:
    n, cap = int(rng.integers(3, 13)), rng.choice([0.1, 0.03, 0.003, 3e-4])
    return n, lambda x: [x >= 0, cp.sum(x) == 1, x[0] + x[1] <= cap]


def transport(rng: np.random.Generator) -> tuple[int, Build]:
    rows, columns = (int(k) for k in rng.integers(2, 6, size=2))
    supply, demand = rng.multinomial(12, [1 / rows] * rows) / 12, rng.multinomial(12, [1 / columns] * columns) / 12
    cost = rng.integers(0, 5, size=rows * columns)
    most = cost @ np.outer(supply, demand).ravel() + 0.1 * rng.uniform()

    def build(x: cp.Expression) -> Constraints:
        X = cp.reshape(x, (rows, columns), order="C")
        return [X >= 0, cp.sum(X, axis=1) == supply, cp.sum(X, axis=0) == demand, cost @ x <= most]

    return rows * columns, build


def knapsack(rng: np.random.Generator) -> tuple[int, Build]:
    n, rows = int(rng.integers(2, 16)), int(rng.integers(1, 4))
    weights = rng.integers(1, 10, size=(rows, n))
    capacity = np.maximum(1, (weights.sum(axis=1) * rng.uniform(0.1, 0.7)).astype(int))
    return n, lambda x: [x >= 0, x <= 1, weights @ x <= capacity]


def half_spaces(rng: np.random.Generator) -> tuple[int, Build]:
    n = int(rng.integers(2, 9))
    G, center = rng.normal(size=(int(rng.integers(1, 4 * n)), n)), rng.uniform(0.2, 0.8, n)
    h = G @ center + rng.choice([0.01, 0.1, 1.0]) * rng.uniform(size=len(G))
    return n, lambda x: [x >= 0, x <= 1, G @ x <= h]


def slab(rng: np.random.Generator) -> tuple[int, Build]:
    n, thickness = int(rng.integers(2, 11)), 10.0 ** -rng.uniform(2, 6)
    c = rng.normal(size=n)
    level = c @ rng.uniform(0.2, 0.8, n)
    return n, lambda x: [x >= 0, x <= 1, cp.abs(c @ x - level) <= thickness]


def precedences(rng: np.random.Generator) -> tuple[int, Build]:
    n = int(rng.integers(3, 13))
    pairs = [pair for pair in combinations(range(n), 2) if rng.uniform() < 0.4] or [(0, 1)]
    first, second = np.array(pairs).T
    k = rng.integers(1, n)
    budget = bool(rng.integers(2))
    return n, lambda x: [x >= 0, x <= 1, x[first] >= x[second], *([cp.sum(x) == k] if budget else [])]


def cuts(rng: np.random.Generator) -> tuple[int, Build]:
    """The metric polytope: three inequalities that say "not around", one "not all three", for each triangle."""
    nodes = int(rng.integers(3, 7))
    edge = {pair: e for e, pair in enumerate(combinations(range(nodes), 2))}
    rows: list[np.ndarray] = []
    h: list[int] = []
    for a, b, c in combinations(range(nodes), 3):
        at = [edge[a, b], edge[a, c], edge[b, c]]
        for signs, most in (((1, -1, -1), 0), ((-1, 1, -1), 0), ((-1, -1, 1), 0), ((1, 1, 1), 2)):
            row = np.zeros(len(edge))
            row[at] = signs
            rows.append(row)
            h.append(most)
    return len(edge), lambda x: [x >= 0, x <= 1, np.array(rows) @ x <= np.array(h)]


def total_variation(rng: np.random.Generator) -> tuple[int, Build]:
    n, most = int(rng.integers(3, 16)), rng.choice([0.5, 1.0, 2.0])
    mean, has_mean = rng.uniform(0.2, 0.8), bool(rng.integers(2))
    return n, lambda x: [x >= 0, x <= 1, cp.norm1(cp.diff(x)) <= most, *([cp.sum(x) == n * mean] if has_mean else [])]


def flow(rng: np.random.Generator) -> tuple[int, Build]:
    """From corner to corner of a grid, rightwards, downwards and across; one equality is dependent."""
    rows, columns = (int(k) for k in rng.integers(2, 5, size=2))
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    arcs = [
        ((i, j), (i + a, j + b))
        for i, j in cells
        for a, b in ((0, 1), (1, 0), (1, 1))
        if i + a < rows and j + b < columns
    ]
    incidence = np.array([[(cell == tail) - (cell == head) for tail, head in arcs] for cell in cells], dtype=float)
    sent = np.zeros(len(cells))
    sent[0], sent[-1] = 1, -1
    capacity = rng.choice([1.0, 0.5])
    return len(arcs), lambda x: [x >= 0, x <= capacity, incidence @ x == sent]


def intersection(rng: np.random.Generator) -> tuple[int, Build]:
    """Choose k of n, with bounds on how many of each part, twice; a point that satisfies all is known."""
    n = int(rng.integers(4, 13))
    k = int(rng.integers(1, n))
    inside = np.full(n, k / n)
    parts = np.array([rng.integers(0, 3, size=n) == part for _ in range(2) for part in range(3)], dtype=float)
    most = np.ceil(parts @ inside)
    return n, lambda x: [x >= 0, x <= 1, cp.sum(x) == k, parts @ x <= most]


def hull(rng: np.random.Generator) -> tuple[int, Build]:
    """The hull of points, by their weights, which are lifted; integer points make it degenerate."""
    n, count = int(rng.integers(1, 7)), int(rng.integers(2, 20))
    points = rng.integers(0, 3, size=(count, n)) / 2 if rng.integers(2) else rng.uniform(size=(count, n))

    def build(x: cp.Expression) -> Constraints:
        weights = cp.Variable(count)
        return [x == weights @ points, weights >= 0, cp.sum(weights) == 1]

    return n, build


def largest(rng: np.random.Generator) -> tuple[int, Build]:
    """What is convex without being affine: sums of the largest, maxima, distances."""
    n = int(rng.integers(3, 10))
    center, k = rng.uniform(0.3, 0.7, n), int(rng.integers(1, n))
    radius, most = rng.uniform(0.2, 1.5), rng.uniform(0.7, 0.95) * k
    return n, lambda x: [x >= 0, cp.max(x) <= 1, cp.sum_largest(x, k) <= most, cp.norm1(x - center) <= radius]


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        capped_simplex,
        transport,
        knapsack,
        half_spaces,
        slab,
        precedences,
        cuts,
        total_variation,
        flow,
        intersection,
        hull,
        largest,
    )
}


# Twists: a kind's constraints, rewritten or with more of them.


def scaled_rows(rng: np.random.Generator, n: int, build: Build) -> Build:
    """The same set: every row times its own factor, 1e-6 to 1e6."""
    seed = int(rng.integers(2**31))

    def scaled(x: cp.Expression) -> Constraints:
        factors, constraints = np.random.default_rng(seed), []
        for constraint in build(x):
            factor = 10.0 ** factors.uniform(-6, 6, constraint.shape)
            left = cp.multiply(factor, constraint.expr)
            constraints.append(left == 0 if isinstance(constraint, cp.constraints.Equality) else left <= 0)
        return constraints

    return scaled


def repeated_rows(rng: np.random.Generator, n: int, build: Build) -> Build:
    """The same set: everything twice, with twice the size, and sums of constraints."""

    def repeated(x: cp.Expression) -> Constraints:
        constraints = build(x)
        equal = [isinstance(c, cp.constraints.Equality) for c in constraints]
        doubled = [2 * c.expr == 0 if e else 2 * c.expr <= 0 for c, e in zip(constraints, equal, strict=True)]
        sums = [cp.sum(a.expr) + cp.sum(b.expr) <= 0 for a, b in pairwise(constraints)]
        return [*constraints, *doubled, *sums]

    return repeated


def solve_linear(problem: cp.Problem) -> None:
    """By HiGHS; CVXPY, which looks for bounds that it might pass on, warns of 0 times inf."""
    with np.errstate(invalid="ignore"):
        problem.solve(solver=cp.HIGHS)


def extreme_points(rng: np.random.Generator, n: int, build: Build, count: int) -> np.ndarray:
    """Maximizers of random objectives, ``(count, n)``: points of the boundary, and their mean is between them."""
    x, c = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Maximize(c @ x), build(x))
    found = []
    for _ in range(count):
        c.value = rng.normal(size=n)
        solve_linear(problem)
        found.append(x.value)
    return np.array(found)


def thin(rng: np.random.Generator, n: int, build: Build) -> Build:
    """Between two parallel planes, 1e-2 to 1e-6 apart, through the middle."""
    c, middle = rng.normal(size=n), extreme_points(rng, n, build, 4).mean(axis=0)
    thickness = 10.0 ** -rng.uniform(2, 6)
    return lambda x: [*build(x), c @ x <= c @ middle + thickness, c @ x >= c @ middle]


def flat(rng: np.random.Generator, n: int, build: Build) -> Build:
    """On a plane through the middle, said by two inequalities."""
    c, middle = rng.integers(-3, 4, size=n).astype(float), extreme_points(rng, n, build, 4).mean(axis=0)
    return lambda x: [*build(x), c @ x <= c @ middle, c @ x >= c @ middle]


def degenerate(rng: np.random.Generator, n: int, build: Build) -> Build:
    """Many more half-spaces through one vertex, all of which leave the middle in."""
    corner, *others = extreme_points(rng, n, build, 4)
    away = np.mean(others, axis=0) - corner
    rows = rng.normal(size=(2 * n, n))
    rows *= np.where(rows @ away > 0, -1.0, 1.0)[:, None]
    return lambda x: [*build(x), rows @ x <= rows @ corner]


def dense(rng: np.random.Generator, n: int, build: Build) -> Build:
    """One more inequality in all entries, which cuts off a part."""
    c, points = rng.uniform(0.1, 1, n), extreme_points(rng, n, build, 4)
    level = points @ c
    return lambda x: [*build(x), c @ x <= level.mean()]


REWRITINGS = {"scaled rows": scaled_rows, "repeated rows": repeated_rows}
ADDITIONS = {"thin": thin, "flat": flat, "degenerate": degenerate, "dense": dense}
UNITS = {"large": (1e4, 1e4), "small": (1e-4, 1e-4), "mixed units": (1e-4, 1.0)}
TWISTS = ("plain", *REWRITINGS, *ADDITIONS, *UNITS)


def generated(seed: int, count: int) -> Iterator[Declaration]:
    """The first ``count``; after ``len(KINDS) * len(TWISTS)`` of them every kind had every twist."""
    for index in range(count):
        yield generate(seed, index)


def generate(seed: int, index: int) -> Declaration:
    """The declaration ``index`` of a seed, whatever the others are."""
    kind = list(KINDS)[index % len(KINDS)]
    twist = TWISTS[index // len(KINDS) % len(TWISTS)]
    rng = np.random.default_rng((seed, index))
    n, build = KINDS[kind](rng)
    name = f"{seed}:{index} {kind}, {twist}"
    if twist in REWRITINGS:
        return Declaration(name, _declare(n, REWRITINGS[twist](rng, n, build)), _declare(n, build))
    if twist in ADDITIONS:
        return Declaration(name, _declare(n, ADDITIONS[twist](rng, n, build)))
    if twist in UNITS:
        unit = rng.choice(UNITS[twist], size=n)
        return Declaration(name, _declare(n, lambda x: build(cp.multiply(1 / unit, x))))
    return Declaration(name, _declare(n, build))


def _declare(n: int, build: Build) -> Callable[[], tuple[cp.Variable, Constraints]]:
    def declare() -> tuple[cp.Variable, Constraints]:
        z = cp.Variable(n, name="z")
        return z, build(z)

    return declare


# Drawn.

SIZES = (1.0, 1e-3, 1e3, 1e-6, 1e6)


def drawn(seed: int, count: int) -> Iterator[Declaration]:
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        yield draw(f"{seed}:{index} drawn", partial(_pick, rng))


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def draw(name: str, pick: Pick, sizes: Sequence[float] = SIZES) -> Declaration:
    """A system of small integers around a point of [0, 1]^n that satisfies it, every choice made by ``pick``.

    The first option is always the simplest. ``sizes``: what a row may be multiplied by.
    """
    n = pick(range(1, 6))
    point = np.array([pick((0.5, 0.0, 1.0, 0.25, 1 / 3)) for _ in range(n)])
    inequalities, equalities = (_rows(pick, n, most) for most in (6, 2))
    slack = np.array([pick((1.0, 0.1, 0.0, 1e-3, 1e-6)) for _ in inequalities])
    factor = np.array([pick(sizes) for _ in inequalities])
    radius = pick((None, 1.0, 0.1, 1e-3))
    biggest = pick((None, 1))

    def declare(factor: np.ndarray) -> tuple[cp.Variable, Constraints]:
        z = cp.Variable(n, name="z")
        constraints: Constraints = [z >= 0, z <= 1]
        if len(inequalities):
            constraints.append((factor[:, None] * inequalities) @ z <= factor * (inequalities @ point + slack))
        if len(equalities):
            constraints.append(equalities @ z == equalities @ point)
        if radius is not None:
            constraints.append(cp.norm1(z - point) <= radius)
        if biggest is not None:
            constraints.append(cp.sum_largest(z, biggest) <= point.max())
        return z, constraints

    return Declaration(name, lambda: declare(factor), lambda: declare(np.ones_like(factor)))


def _rows(pick: Pick, n: int, most: int) -> np.ndarray:
    rows = [[pick((0, 1, -1, 2, -3)) for _ in range(n)] for _ in range(pick(range(most + 1)))]
    return np.array(rows, dtype=float).reshape(len(rows), n)

"""Linear programs with warm starts: the same answers as from scratch, also where HiGHS gives up at first."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cvxpy as cp
import highspy
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import cvxsst
from cvxsst.geometry.linear_program import ATTEMPTS, DEFAULTS, LinearProgram

UNSURE = [
    highspy.HighsModelStatus.kUnknown,
    highspy.HighsModelStatus.kSolveError,
    highspy.HighsModelStatus.kIterationLimit,
    highspy.HighsModelStatus.kUnboundedOrInfeasible,
]


class Unsure:
    """A model that does not know the outcome of some of its runs; it records the settings of each."""

    def __init__(self, highs: highspy.Highs, failures: range, status: highspy.HighsModelStatus):
        self._highs, self._failures, self._status = highs, failures, status
        self.runs: list[tuple[bool, dict[str, Any]]] = []
        self._cold = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._highs, name)

    def clearSolver(self) -> None:  # noqa: N802 - HiGHS' own name
        self._cold = True
        self._highs.clearSolver()

    def settings(self) -> dict[str, Any]:
        return {name: self._highs.getOptionValue(name)[1] for name in DEFAULTS}

    def run(self) -> None:
        self.runs.append((self._cold, self.settings()))
        self._cold = False
        self._highs.run()

    def getModelStatus(self) -> highspy.HighsModelStatus:  # noqa: N802 - HiGHS' own name
        return self._status if len(self.runs) - 1 in self._failures else self._highs.getModelStatus()


@contextmanager
def unsure(program: LinearProgram, failures: range, status: highspy.HighsModelStatus) -> Iterator[Unsure]:
    highs = program._highs
    program._highs = model = Unsure(highs, failures, status)  # type: ignore[assignment]
    yield model
    program._highs = highs


def knapsack() -> LinearProgram:
    n, weights = 4, np.array([[2.0, 3.0, 1.0, 2.0]])
    G = sp.vstack([-sp.eye_array(n), sp.eye_array(n), sp.csr_array(weights)])
    return LinearProgram(sp.csr_array((0, n)), np.zeros(0), G, np.array([0.0] * n + [1.0] * n + [5.0]), n)


C = np.array([3.0, 4.0, 1.0, 2.5])


@pytest.mark.parametrize("status", UNSURE)
@pytest.mark.parametrize("failures", range(len(ATTEMPTS) + 1))
def test_every_attempt_finds_the_solution(failures: int, status: highspy.HighsModelStatus) -> None:
    program = knapsack()
    expected = knapsack().maximize(C)
    with unsure(program, range(failures), status) as model:
        found = program.maximize(C)
    assert found.status == "optimal"
    assert found.x == pytest.approx(expected.x, abs=1e-9)
    assert found.value == pytest.approx(expected.value, abs=1e-9)
    asked = [(False, DEFAULTS), *[(True, DEFAULTS | settings) for settings in ATTEMPTS]]
    assert model.runs == asked[: failures + 1]
    assert model.settings() == DEFAULTS


def test_a_program_that_no_attempt_solves_says_so_and_is_as_before() -> None:
    program = knapsack()
    before = program.vertex(C)
    with (
        unsure(program, range(100), highspy.HighsModelStatus.kUnknown),
        pytest.raises(cvxsst.ConvergenceError, match=r"kUnknown.*Rescale the constraints"),
    ):
        program.vertex(C, zeros=[0, 1])
    after = program.vertex(C)
    assert after.x == pytest.approx(before.x, abs=1e-12)
    assert before.x is not None
    assert before.x[:2].min() > 0  # the entries that were held at zero are free again


def test_a_failing_tie_break_leaves_the_bounds_as_they_were() -> None:
    program = knapsack()
    with unsure(program, range(1, 100), UNSURE[0]), pytest.raises(cvxsst.ConvergenceError):
        program.vertex(np.array([1.0, 0.0, 0.0, 0.0]))
    for c in np.eye(4):
        assert program.maximize(c).value == pytest.approx(1, abs=1e-9)
        assert program.maximize(-c).value == pytest.approx(0, abs=1e-9)


def greedy(w: np.ndarray, cost: np.ndarray, capacity: float) -> np.ndarray:
    """The greatest <w, z> over 0 <= z <= 1, <cost, z> <= capacity: by Dantzig's rule."""
    order = np.argsort(-w / cost, axis=1, kind="stable")
    costs, gains = cost[order], np.take_along_axis(w, order, axis=1)
    left = np.maximum(capacity - (np.cumsum(costs, axis=1) - costs), 0.0)
    return (np.maximum(gains, 0.0) * np.minimum(1.0, left / costs)).sum(1)


@pytest.mark.parametrize("seed", range(20))
def test_knapsacks_with_near_ties(seed: int) -> None:
    """1,000 argmaxes each, on one model: as good as Dantzig's rule, and vertices."""
    random = np.random.default_rng(seed)
    n = int(random.integers(5, 60))
    cost = random.integers(1, 6 if seed % 2 else 1000, n).astype(float)
    capacity = np.floor(cost.sum() * random.uniform(0.2, 0.8))
    z = cp.Variable(n)
    P = cvxsst.Polytope(z, [z >= 0, z <= 1, cost @ z <= capacity], recognize=False)
    noise = random.normal(size=(1000, n)) * 10.0 ** -random.integers(2, 16, (1000, 1))
    w = np.where(random.random((1000, 1)) < 0.5, cost, random.integers(-2, 4, (1000, n))) + noise
    forbidden = random.random((1000, n)) < random.choice([0.0, 0.2], (1000, 1))
    found = cvxsst.argmax(P, torch.from_numpy(np.where(forbidden, -np.inf, w)), engine="lp").numpy()

    assert np.all(found[forbidden] == 0)
    assert np.all((found >= 0) & (found <= 1))
    assert np.all(found @ cost <= capacity * (1 + 1e-9))
    assert np.all(((found > 0) & (found < 1)).sum(1) <= 1)  # a vertex has one fractional entry at most
    best = greedy(np.where(forbidden, -1.0, w), cost, capacity)
    error = np.abs((np.where(forbidden, 0.0, w) * found).sum(1) - best)
    assert np.all(error <= 1e-9 * n * np.abs(w).max(1))  # each reduced cost is right to HiGHS' tolerance


@pytest.mark.parametrize("zeros", [[], [0, 3]])
def test_exact_ties_do_not_depend_on_what_was_solved_before(zeros: list[int]) -> None:
    random = np.random.default_rng(0)
    z = cp.Variable(12)
    cost = random.integers(1, 6, 12).astype(float)
    P = cvxsst.Polytope(z, [z >= 0, z <= 1, cost @ z <= 17, cp.sum(z) <= 7], recognize=False)
    form, program = P.presolved.form, P.presolved.linear_program
    ties = random.integers(-1, 3, (100, 12)) / 3.0
    ties[::2] = cost * random.integers(0, 2, (50, 12))
    for c in ties:
        cold = LinearProgram(form.A, form.b, form.G, form.h, form.n).vertex(c, zeros=zeros)
        warm = program.vertex(c, zeros=zeros)
        assert warm.x == pytest.approx(cold.x, abs=1e-9)


def test_a_vertex_is_optimal_whatever_the_units_of_the_rows() -> None:
    """A row in other units has a multiplier in other units: small ones count too when ties are broken."""
    random = np.random.default_rng(0)
    z = cp.Variable(3)
    rows = [1e6 * (z[0] + z[1] + 3 * z[2]) >= 1e6, 1e3 * (z[0] + z[1] - z[2]) <= -1e3 / 3 + 1]
    P = cvxsst.Polytope(z, [z >= 0, z <= 1, z[0] == 0, *rows], recognize=False)
    program = P.presolved.linear_program
    for small in random.normal(size=(300, 3)):
        c = np.array([0.0, 1.0, -1.0]) + 1e-4 * small  # the second row, and 1e-4 of the first: 1e-10 in its units
        some, best = program.maximize(c).x, program.vertex(c).x
        assert some is not None
        assert best is not None
        assert c @ (some - best) <= 1e-9


def test_a_vertex_may_be_the_best_for_a_second_objective() -> None:
    z, second = cp.Variable(4), np.array([0.0, -1.0, 3.0, 2.0])
    program = cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 1], recognize=False).presolved.linear_program
    assert program.vertex(np.array([1.0, 1.0, 0.0, 1.0]), then=second).x == pytest.approx([0, 0, 0, 1])
    assert program.vertex(np.array([1.0, 1.0, 0.0, 1.0]), then=-second).x == pytest.approx([0, 1, 0, 0])
    assert program.vertex(np.array([1.0, 2.0, 0.0, 1.0]), then=second).x == pytest.approx([0, 1, 0, 0])

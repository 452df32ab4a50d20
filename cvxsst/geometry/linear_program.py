"""Linear programs over one fixed polytope: many objectives, one model, warm starts (HiGHS, simplex).

    maximize <c, z>   over   {(z, y) : A (z, y) = b,  G (z, y) <= h}

A simplex method returns a vertex of the set in (z, y), which one of several depends on where it started. So where the
optimum may not be unique a second program maximizes a fixed generic objective over the optimal face: its solution is
unique in z, hence a vertex of P, the same one every time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import highspy
import numpy as np
import scipy.sparse as sp

from cvxsst.errors import ConvergenceError

TOLERANCE = 1e-9  # of HiGHS, on feasibility; of what is 0 among reduced costs. Objectives are scaled to max |c| = 1
FINEST = 1e-10  # of HiGHS, on reduced costs: the least that it takes
STATUS = {
    highspy.HighsModelStatus.kOptimal: "optimal",
    highspy.HighsModelStatus.kModelEmpty: "optimal",
    highspy.HighsModelStatus.kInfeasible: "infeasible",
    highspy.HighsModelStatus.kUnbounded: "unbounded",
}
DEFAULTS: dict[str, str | int] = {"presolve": "choose", "solver": "choose", "simplex_strategy": 1}
# What is tried from scratch where HiGHS says neither "optimal" nor why not: on near-ties a warm start may end in
# "unknown"; presolve may prove "unbounded or infeasible" without telling which.
ATTEMPTS: tuple[dict[str, str | int], ...] = (
    {},
    {"presolve": "off"},
    {"presolve": "off", "simplex_strategy": 4},  # the primal simplex method
    {"presolve": "on", "solver": "ipm"},
    {"presolve": "off", "solver": "ipm"},
)


@dataclass
class LPSolution:
    """``status`` is "optimal", "infeasible" or "unbounded"; ``x`` is None unless optimal."""

    status: str
    x: np.ndarray | None = None
    value: float = np.nan


class LinearProgram:
    """The model max <c, x> over A x = b, G x <= h, lower <= x <= upper, for any number of objectives c.

    Args:
        A, b, G, h: sparse matrices and right-hand sides; rows of G with one entry become bounds.
        n: how many leading columns are z; the rest is lifted.
        lower, upper: further bounds on the columns, if any.
        keep_rows: leave every row of G a row (A's rows come first), so that ``set_row_upper`` can drop it.
    """

    def __init__(self, A, b, G, h, n: int, lower=None, upper=None, keep_rows: bool = False):
        columns = A.shape[1]
        self.n, self.columns = n, columns
        self.lower = np.full(columns, -np.inf) if lower is None else np.array(lower, dtype=float)
        self.upper = np.full(columns, np.inf) if upper is None else np.array(upper, dtype=float)
        G = sp.csr_array(G)
        rows = np.arange(G.shape[0]) if keep_rows else self._take_bounds(G, np.asarray(h, dtype=float))
        matrix = sp.csr_array(sp.vstack([sp.csr_array(A), G[rows]]))
        self.row_upper = np.concatenate([b, np.asarray(h)[rows]])
        self.row_lower = np.concatenate([b, np.full(len(rows), -np.inf)])
        self._row_size = np.abs(matrix).max(axis=1).toarray().ravel() if matrix.shape[1] else np.zeros(matrix.shape[0])
        self._generic = np.random.default_rng(0).uniform(1, 2, n)
        self._lock = threading.Lock()
        self._zeros = np.zeros(0, dtype=np.int32)  # columns held at 0 for the time of one call
        self._highs = self._model(matrix)

    def _take_bounds(self, G: sp.csr_array, h: np.ndarray) -> np.ndarray:
        """Turn rows a x_j <= h into bounds on x_j; the indices of the other rows."""
        entries = np.diff(G.indptr)
        single = np.flatnonzero(entries == 1)
        column, a = G.indices[G.indptr[single]], G.data[G.indptr[single]]
        single, column, a = single[a != 0], column[a != 0], a[a != 0]
        ratio = h[single] / a
        np.minimum.at(self.upper, column[a > 0], ratio[a > 0])
        np.maximum.at(self.lower, column[a < 0], ratio[a < 0])
        return np.setdiff1d(np.arange(G.shape[0]), single)

    def _model(self, matrix: sp.csr_array) -> highspy.Highs:
        lp = highspy.HighsLp()
        lp.num_row_, lp.num_col_ = matrix.shape
        lp.col_cost_ = np.zeros(self.columns)
        lp.col_lower_, lp.col_upper_ = self.lower, self.upper
        lp.row_lower_, lp.row_upper_ = self.row_lower, self.row_upper
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
        lp.sense_ = highspy.ObjSense.kMaximize
        highs = highspy.Highs()
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("threads", 1)
        highs.setOptionValue("primal_feasibility_tolerance", TOLERANCE)
        highs.setOptionValue("dual_feasibility_tolerance", FINEST)
        highs.passModel(lp)
        return highs

    def maximize(self, c: np.ndarray, zeros: Sequence[int] = (), last_rows: np.ndarray | None = None) -> LPSolution:
        """Maximize <c, x>, c over the first len(c) columns; some optimal x, a vertex of the set in (z, y).

        Args:
            zeros: columns that must be 0.
            last_rows: new right-hand sides of the last rows of G that are no bounds.
        """
        with self._lock, self._held_at_zero(zeros):
            if last_rows is not None:
                self._set_last_rows(last_rows)
            return self._maximize(c)

    def vertex(self, c: np.ndarray, zeros: Sequence[int] = (), then: np.ndarray | None = None) -> LPSolution:
        """Maximize <c, z>; the optimal z is a vertex of P (where ``zeros`` are 0), the same one for the same c.

        Among several it is the best for ``then``, by default for a fixed generic objective.
        """
        with self._lock, self._held_at_zero(zeros):
            best = self._maximize(c)
            if best.status != "optimal" or self._is_unique():
                return best
            tied = self._break_tie(best, self._generic if then is None else then)
            assert best.x is not None
            assert tied.x is not None
            lost = c @ (best.x - tied.x)[: len(c)]
            return tied if lost <= TOLERANCE * np.abs(c).max(initial=0.0) * max(1.0, np.abs(best.x).max()) else best

    def set_bounds(self, column: int, lower: float, upper: float) -> None:
        with self._lock:
            self._highs.changeColBounds(column, lower, upper)
            self.lower[column], self.upper[column] = lower, upper

    def set_row_upper(self, row: int, upper: float) -> None:
        with self._lock:
            self.row_upper[row] = upper
            self._highs.changeRowBounds(row, self.row_lower[row], upper)

    def _set_last_rows(self, upper: np.ndarray) -> None:
        rows = np.arange(len(self.row_upper) - len(upper), len(self.row_upper))
        self.row_upper[rows] = upper
        for row, value in zip(rows, upper, strict=True):
            self._highs.changeRowBounds(int(row), -np.inf, float(value))

    @contextmanager
    def _held_at_zero(self, columns: Sequence[int]) -> Iterator[None]:
        self._zeros = np.array(columns, dtype=np.int32)
        if not len(self._zeros):
            yield
            return
        zeros, nothing = self._zeros, np.zeros(len(self._zeros))
        self._highs.changeColsBounds(len(zeros), zeros, nothing, nothing)
        try:
            yield
        finally:
            self._highs.changeColsBounds(len(zeros), zeros, self.lower[zeros], self.upper[zeros])
            self._zeros = self._zeros[:0]

    def _maximize(self, c: np.ndarray) -> LPSolution:
        scale = np.abs(c).max(initial=0.0) or 1.0
        cost = np.zeros(self.columns)
        cost[: len(c)] = np.asarray(c) / scale
        self._highs.changeColsCost(self.columns, np.arange(self.columns, dtype=np.int32), cost)
        status = self._run()
        if status != "optimal":
            return LPSolution(status)
        x = np.array(self._highs.getSolution().col_value)
        return LPSolution(status, x, float(cost @ x) * scale)

    def _run(self) -> str:
        """Warm, as the last solve left it; where HiGHS then does not know, from scratch and by its other algorithms."""
        for settings in (None, *ATTEMPTS):
            status = self._attempt(settings)
            if status in STATUS:
                return STATUS[status]
        raise ConvergenceError(
            f"HiGHS stopped with status {status.name} on a linear program over the polytope, by every one of its "
            "algorithms: coefficients or right-hand sides of very different sizes? Rescale the constraints, so that "
            "the entries of z and the coefficients are near 1"
        )

    def _attempt(self, settings: dict[str, str | int] | None) -> highspy.HighsModelStatus:
        """From scratch with these settings; None: warm, with the usual ones."""
        changed = settings or {}
        for option, value in changed.items():
            self._highs.setOptionValue(option, value)
        if settings is not None:
            self._highs.clearSolver()
        try:
            self._highs.run()
        finally:
            for option in changed:
                self._highs.setOptionValue(option, DEFAULTS[option])
        return self._highs.getModelStatus()

    def _is_unique(self) -> bool:
        """Whether the last solution is known to be the only optimal one."""
        basis, solution = self._highs.getBasis(), self._highs.getSolution()
        statuses = [*basis.col_status, *basis.row_status]
        duals = np.concatenate([solution.col_dual, self._row_size * solution.row_dual])
        nonbasic = np.array([status != highspy.HighsBasisStatus.kBasic for status in statuses], dtype=bool)
        # Every move away from the vertex along a nonbasic direction loses: strict reduced costs.
        return bool(np.all(np.abs(duals[nonbasic]) > TOLERANCE))

    def _break_tie(self, best: LPSolution, then: np.ndarray) -> LPSolution:
        """Maximize another objective over the optimal face.

        The face is described without a tolerance on the value: by complementary slackness, what has a
        nonzero reduced cost stays at its bound in every optimal solution.
        """
        solution = self._highs.getSolution()
        columns = np.flatnonzero(np.abs(solution.col_dual) > TOLERANCE).astype(np.int32)
        columns = np.setdiff1d(columns, self._zeros).astype(np.int32)  # these stand still anyway
        # Of rows in other units too: what a dual says is what its whole row adds to the objective.
        rows = np.flatnonzero(self._row_size * np.abs(solution.row_dual) > TOLERANCE).astype(np.int32)
        at_columns, at_rows = np.array(solution.col_value)[columns], np.array(solution.row_value)[rows]
        at_columns = np.where(
            np.abs(at_columns - self.lower[columns]) < np.abs(at_columns - self.upper[columns]),
            self.lower[columns],
            self.upper[columns],
        )
        highs = self._highs
        highs.changeColsBounds(len(columns), columns, at_columns, at_columns)
        for row, value in zip(rows, at_rows, strict=True):
            highs.changeRowBounds(int(row), value, value)
        try:
            tied = self._maximize(then)
        finally:
            highs.changeColsBounds(len(columns), columns, self.lower[columns], self.upper[columns])
            for row in rows:
                highs.changeRowBounds(int(row), self.row_lower[row], self.row_upper[row])
        if tied.x is None:  # the face was closed off by rounding: the first solution is still optimal
            return best
        return LPSolution("optimal", tied.x, best.value)

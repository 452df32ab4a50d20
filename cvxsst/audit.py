"""Is the declaration what its author meant?

A relaxation is right when its vertices are exactly the structures: a missing constraint shows as a fractional vertex, a
wrong one as a structure that is cut off. Random objectives find such vertices; where the family lists Z, both
directions are compared. Rows that say nothing, entries that cannot move, and flat directions are reported too: none is
an error, all are worth knowing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from cvxsst.arguments import checked_polytope
from cvxsst.errors import EmptyPolytopeError, NoFastPathError, UnboundedPolytopeError, some
from cvxsst.geometry.linear_program import LinearProgram
from cvxsst.geometry.presolve import Presolved
from cvxsst.polytope import Polytope
from cvxsst.recognition import known

INTEGRAL = 1e-6  # an entry of a vertex this close to an integer is one
REDUNDANCY_UP_TO = 2_000  # rows up to which each inequality is tested by a linear program of its own


@dataclass(frozen=True)
class Audit:
    """What ``audit`` found; prints as a report.

    Attributes:
        polytope: its name.
        problem: why it is no polytope (empty, unbounded), or None; then nothing else is known.
        entries, lifted, equalities, inequalities: sizes of the standard form, as declared.
        dimension: affine dimension of P; less than ``entries`` when P is flat (equalities make it so).
        implied: inequalities that hold with equality all over P, as text.
        dependent: how many equalities follow from the others.
        redundant: inequalities that follow from the others, as text; None if there were too many to test.
        fixed: indices (row by row) of entries of z that cannot move.
        objectives: how many random objectives were maximized.
        fractional: a vertex with an entry that is no integer, in the shape of z; None if none was found.
        objective: the objective that it maximizes.
        cut_off: a structure of the family's Z that violates the constraints, or None.
        stranger: a vertex that is none of the family's structures, or None.
        recognized: the member of a known family that the declaration is, by name, or None.
        structures: how many structures the family lists; None where it lists none or too many.
    """

    polytope: str
    problem: str | None = None
    entries: int = 0
    lifted: int = 0
    equalities: int = 0
    inequalities: int = 0
    dimension: int = 0
    implied: list[str] = field(default_factory=list)
    dependent: int = 0
    redundant: list[str] | None = field(default_factory=list)
    fixed: list[int] = field(default_factory=list)
    objectives: int = 0
    fractional: np.ndarray | None = None
    objective: np.ndarray | None = None
    cut_off: np.ndarray | None = None
    stranger: np.ndarray | None = None
    structures: int | None = None
    recognized: str | None = None

    @property
    def integral(self) -> bool:
        """Whether every vertex found was integral."""
        return self.problem is None and self.fractional is None

    @property
    def passed(self) -> bool:
        """Integral, and equal to conv(Z) as far as was tested."""
        return self.integral and self.cut_off is None and self.stranger is None

    def __str__(self) -> str:
        return "\n".join([f"audit of {self.polytope}: {'passed' if self.passed else 'FAILED'}", *self._lines()])

    def _lines(self) -> list[str]:
        if self.problem is not None:
            return [f"  {self.problem}"]
        flat = "full-dimensional" if self.dimension == self.entries else "flat"
        lines = [
            f"  size        {self.entries} entries, {self.lifted} lifted columns, {self.equalities} equalities, "
            f"{self.inequalities} inequalities",
            f"  dimension   {self.dimension} of {self.entries} ({flat})",
        ]
        if self.recognized is not None:
            lines.append(f"  recognized  as {self.recognized}: its fast paths are taken")
        if self.fixed:
            lines.append(f"  fixed       entries {some(self.fixed)} cannot move")
        if self.implied:
            lines.append(f"  implied     always equalities: {some(self.implied)}")
        if self.dependent:
            lines.append(f"  dependent   {self.dependent} equalities follow from the others")
        if self.redundant is None:
            lines.append(f"  redundant   not tested: more than {REDUNDANCY_UP_TO} inequalities")
        elif self.redundant:
            lines.append(f"  redundant   follow from the others: {some(self.redundant)}")
        if self.fractional is None:
            lines.append(f"  vertices    {self.objectives} random objectives, all vertices integral")
        else:
            lines.append(f"  vertices    FRACTIONAL vertex {_shown(self.fractional)}")
            lines.append(
                f"              it maximizes {_shown(self.objective)}: the constraints are not those of conv(Z)"
            )
        if self.structures is not None:
            lines.append(f"  structures  {self.structures} listed by the family, all compared")
        if self.cut_off is not None:
            lines.append(f"  structures  CUT OFF: {_shown(self.cut_off)} is in Z but violates the constraints")
        if self.stranger is not None:
            lines.append(f"  structures  STRANGER: the vertex {_shown(self.stranger)} is not in Z")
        return lines


def audit(P: Polytope, objectives: int = 200, seed: int = 0) -> Audit:
    """Check a declaration: what shape it has, what it says twice, and whether its vertices are the structures.

    Args:
        P: the polytope.
        objectives: how many random objectives to maximize in search of a fractional vertex (normal entries, and one in
            four with small integers, where many constraints are tight at once).
        seed: of the random objectives.

    Returns:
        An ``Audit``: ``print`` it, or ask ``.passed``, ``.fractional``, ``.redundant`` ... A polytope whose vertices
        are meant to be fractional fails, and the report shows the vertex.

    Finding nothing is evidence, not proof: a rare fractional vertex can be missed. Cost: ``objectives`` linear
    programs, one more per inequality and, where the family lists its structures, one per structure.

    Example:
        >>> import cvxpy as cp, cvxsst
        >>> z = cp.Variable(3, nonneg=True)
        >>> pairs = cvxsst.Polytope(z, [z[0] + z[1] <= 1, z[1] + z[2] <= 1, z[0] + z[2] <= 1], "independent set")
        >>> cvxsst.audit(pairs).fractional
        array([0.5, 0.5, 0.5])
    """
    checked_polytope(P)
    if objectives < 1:
        raise ValueError(f"objectives: at least 1, got {objectives}")
    try:
        presolved = P.presolved
    except (EmptyPolytopeError, UnboundedPolytopeError) as error:
        return Audit(P.name, problem=str(error))
    found, fractional, objective = _search_fractional(P, presolved, objectives, seed)
    cut_off, stranger, structures = _compare_with_structures(P, presolved, found)
    source = presolved.source
    return Audit(
        polytope=P.name,
        entries=P.size,
        lifted=source.lifted,
        equalities=source.A.shape[0],
        inequalities=source.G.shape[0],
        dimension=presolved.dimension,
        implied=[_row_text(P, source.G[[i]], source.h[i]) for i in presolved.implied],
        dependent=len(presolved.dependent),
        redundant=_redundant(P, presolved),
        fixed=presolved.fixed.tolist(),
        objectives=objectives,
        fractional=fractional,
        objective=objective,
        cut_off=cut_off,
        stranger=stranger,
        structures=structures,
        recognized=None if known(P) in (None, P) else repr(known(P)),
    )


def _search_fractional(
    P: Polytope, presolved: Presolved, objectives: int, seed: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The vertices found, and the first fractional one with its objective."""
    generator = np.random.default_rng(seed)
    found = []
    for k in range(objectives):
        w = generator.integers(-2, 3, P.size) if k % 4 == 3 else generator.normal(size=P.size)
        solution = presolved.linear_program.vertex(w.astype(float))
        assert solution.x is not None
        z = solution.x[: P.size]
        found.append(z)
        if np.abs(z - np.round(z)).max(initial=0.0) > INTEGRAL:
            return np.array(found), z.reshape(P.shape), w.reshape(P.shape)
    return np.array(found), None, None


def _compare_with_structures(
    P: Polytope, presolved: Presolved, found: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None, int | None]:
    if P.family is None or P.family.structure_list is None:
        return None, None, None
    try:
        Z = P.vertices()
    except NoFastPathError:
        return None, None, None
    cut_off = next((z for z in Z if presolved.distance(z) > INTEGRAL), None)
    listed = {z.tobytes() for z in np.round(Z) + 0.0}
    stranger = next((z for z in found if (np.round(z) + 0.0).tobytes() not in listed), None)
    shaped = [None if z is None else z.reshape(P.shape) for z in (cut_off, stranger)]
    return shaped[0], shaped[1], len(Z)


def _redundant(P: Polytope, presolved: Presolved) -> list[str] | None:
    """Inequalities that the others imply: dropped one by one, so that of two equal rows one stays."""
    form = presolved.form
    rows, equalities = form.G.shape[0], form.A.shape[0]
    if rows > REDUNDANCY_UP_TO:
        return None
    program = LinearProgram(form.A, form.b, form.G, form.h, form.n, keep_rows=True)
    redundant = []
    for i in range(rows):
        row = form.G[[i]].toarray()[0]
        program.set_row_upper(equalities + i, np.inf)
        highest = program.maximize(row)
        if highest.status == "optimal" and highest.value <= form.h[i] + 1e-7 * max(1.0, abs(form.h[i])):
            redundant.append(_row_text(P, form.G[[i]], form.h[i]))
        else:
            program.set_row_upper(equalities + i, form.h[i])
    return redundant


def _row_text(P: Polytope, row: sp.csr_array, right: float) -> str:
    """A row of G x <= h in words: ``z[0, 1] - z[2, 1] <= 1``, lifted columns as y[k]."""
    terms = []
    for column, a in sorted(zip(row.indices, row.data, strict=True)):
        if column < P.size:
            index = ", ".join(str(i) for i in np.unravel_index(column, P.shape)) if P.shape else ""
            name = f"z[{index}]" if index else "z"
        else:
            name = f"y[{column - P.size}]"
        terms.append(f"{'-' if a < 0 else '+'} {'' if abs(a) == 1 else f'{abs(a):g} '}{name}")
    shown = " ".join(terms[:6]) + (" ..." if len(terms) > 6 else "")
    return f"{shown.removeprefix('+ ')} <= {right + 0.0:g}"


def _shown(z: np.ndarray | None) -> str:
    text = np.array2string(np.asarray(z), precision=4, suppress_small=True, threshold=60, separator=", ")
    return " ".join(text.split())

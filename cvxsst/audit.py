"""Is the declaration what its author meant?

A relaxation is right when its vertices are exactly the structures: a missing constraint shows as a fractional vertex, a
wrong one as a structure that is cut off. Random objectives find such vertices; where the family lists Z, both
directions are compared, and where it registers an argmax oracle that is held against the linear program. Rows that say
nothing, entries that cannot move, and flat directions are reported too: none is an error, all are worth knowing.

Of a polytope that is known by its oracle alone there is nothing to hold the oracle against but itself, and the family's
list where there is one: the report says what that cannot prove.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import scipy.sparse as sp
import torch

from cvxsst.arguments import checked_polytope
from cvxsst.asking import answers, beaten, changed
from cvxsst.errors import EmptyPolytopeError, NoFastPathError, UnboundedPolytopeError, some
from cvxsst.geometry.linear_program import LinearProgram
from cvxsst.geometry.presolve import Presolved
from cvxsst.oracles import solved_by_linear_programs
from cvxsst.polytope import Map, Polytope
from cvxsst.recognition import knowledge_of, known

INTEGRAL = 1e-6  # an entry of a vertex this close to an integer is one
REDUNDANCY_UP_TO = 2_000  # rows up to which each inequality is tested by a linear program of its own
WIDTH, LABEL = 80, 14  # columns of a printed report, and of what stands before its texts
UNBROKEN = "\N{NO-BREAK SPACE}"
DIGITS = 9  # in which two vertices differ that are two
SHORT = 12  # vectors of more entries are shown by their support, if they have few values


@dataclass(frozen=True)
class Refutation:
    """An answer of the family's own code that cannot be right.

    Attributes:
        function: as what the family registers the code: ``"argmax"``; ``"oracle"`` where that is all that is known.
        w: the first of the random utilities that show it, in the shape of z.
        z: the answer, or None where there was none.
        why: what is wrong with it.
    """

    function: str
    w: np.ndarray
    z: np.ndarray | None
    why: str

    def __str__(self) -> str:
        answer = "" if self.z is None else f", where it returns {_shown(self.z)}"
        who = "the oracle" if self.function == "oracle" else f"@family.{self.function}"
        return f"{who} is WRONG: {self.why}. First at w = {_shown(self.w)}{answer}"


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
        held: which of the family's own functions were held against the linear program: ``["argmax"]`` or none.
        refuted: those of them that are wrong, each with the first utilities that show it.
        answers: how many different vertices an oracle alone returned; None where there are constraints. Then
            ``dimension`` is that of these, the least that it can be, and nothing is said of rows.
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
    held: list[str] = field(default_factory=list)
    refuted: list[Refutation] = field(default_factory=list)
    answers: int | None = None

    @property
    def integral(self) -> bool:
        """Whether every vertex found was integral."""
        return self.problem is None and self.fractional is None

    @property
    def passed(self) -> bool:
        """Integral, equal to conv(Z), and its oracle right, as far as was tested."""
        return self.integral and self.cut_off is None and self.stranger is None and not self.refuted

    def __str__(self) -> str:
        head = textwrap.fill(f"audit of {self.polytope}: {'passed' if self.passed else 'FAILED'}", WIDTH)
        return "\n".join([head, *(_wrapped(label, text) for label, text in self._said())])

    def _said(self) -> Iterator[tuple[str, str]]:
        """Label and text of what is known of the constraints, then of the vertices."""
        if self.problem is not None:
            yield "", self.problem
            return
        if self.answers is not None:
            yield "size", f"{self.entries} entries, no constraints: known by its argmax oracle alone"
            yield "dimension", f"at least {self.dimension} of {self.entries}"
            yield from self._said_of_vertices()
            return
        yield (
            "size",
            f"{self.entries} entries, {self.lifted} lifted columns, {self.equalities} equalities, "
            f"{self.inequalities} inequalities",
        )
        flat = "full-dimensional" if self.dimension == self.entries else "flat"
        yield "dimension", f"{self.dimension} of {self.entries} ({flat})"
        if self.recognized is not None:
            yield "recognized", f"as {self.recognized}: its fast paths are taken"
        if self.fixed:
            yield "fixed", f"entries {some(self.fixed)} cannot move"
        if self.implied:
            yield "implied", f"always equalities: {_rows(self.implied)}"
        if self.dependent:
            yield "dependent", f"{self.dependent} equalities follow from the others"
        if self.redundant is None:
            yield "redundant", f"not tested: more than {REDUNDANCY_UP_TO} inequalities"
        elif self.redundant:
            yield "redundant", f"follow from the others: {_rows(self.redundant)}"
        yield from self._said_of_vertices()

    def _said_of_vertices(self) -> Iterator[tuple[str, str]]:
        """Label and text of what random objectives, the family's list and its oracle showed."""
        if self.answers is not None:
            yield "vertices", f"{self.objectives} random objectives, {self.answers} different answers"
        elif self.fractional is None:
            yield "vertices", f"{self.objectives} random objectives, all vertices integral"
        else:
            yield "vertices", f"FRACTIONAL vertex {_shown(self.fractional)}"
            yield "", f"it maximizes {_shown(self.objective)}: the constraints are not those of conv(Z)"
        if self.structures is not None:
            yield "structures", f"{self.structures} listed by the family, all compared"
        if self.cut_off is not None:
            yield "structures", f"CUT OFF: in Z, but violates the constraints: {_shown(self.cut_off)}"
        if self.stranger is not None:
            yield "structures", f"STRANGER: a vertex that is not in Z: {_shown(self.stranger)}"
        wrong = {refutation.function: str(refutation) for refutation in self.refuted}
        right = "as good as the linear program for each of these objectives"
        if self.answers is not None:
            right = "the same answers when asked twice, each as good as any other answer" + (
                " and any structure listed" if self.structures is not None else ""
            )
        for function in self.held:
            yield function, wrong.get(function, right)
        if self.passed:
            yield "passed", self._meaning()

    def _meaning(self) -> str:
        """What "passed" says, and what it cannot say."""
        if self.answers is not None and self.structures is None:
            return (
                "no answer contradicts another. An oracle alone proves neither that its answers are maximal, a "
                "structure that it never returns is missing everywhere, in certificates too, nor that they are the "
                "structures that you mean: register @family.structures, for small sizes, or declare constraints that "
                "it can be held against"
            )
        if self.answers is not None:
            return (
                f"for {self.objectives} objectives the answer is a structure of the list, and none of the list is "
                "better; whether the list is right, and the oracle for other objectives, they do not say"
            )
        if self.structures is not None:
            return (
                f"every structure listed satisfies the constraints, and {self.objectives} objectives led to no other "
                "vertex; one that is optimal for few objectives may have been missed"
            )
        return (
            f"{self.objectives} objectives led to no fractional vertex. One that is optimal for few objectives may "
            "have been missed; and whether the vertices are the structures that you mean, no list says: look at "
            "P.vertices(), or register @family.structures"
        )


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

    Finding nothing is evidence, not proof: a vertex that is optimal for few objectives can be missed, and without a
    list of the structures (``@family.structures``) nothing says that integral vertices are the right ones. The argmax
    oracle of the family (also of one that an anonymous declaration is recognized as) is asked the same objectives.

    A polytope known by its oracle alone (``Polytope.from_oracle``): each objective is asked twice, and each answer held
    against all others and against the list of the structures, where there is one. That is all that can be seen of it.

    Cost: ``objectives`` linear programs, one more per inequality and, where the family lists its structures, one per
    structure; over a polytope with lifted variables another one per answer of the oracle.

    Example:
        >>> import cvxpy as cp, cvxsst
        >>> z = cp.Variable(3, nonneg=True)
        >>> pairs = cvxsst.Polytope(z, [z[0] + z[1] <= 1, z[1] + z[2] <= 1, z[0] + z[2] <= 1], "independent set")
        >>> cvxsst.audit(pairs).fractional
        array([0.5, 0.5, 0.5])
    """
    checked_polytope(P, single=True)
    if objectives < 1:
        raise ValueError(f"objectives: at least 1, got {objectives}")
    if not P.declared:
        return _audit_by_oracle(P, _objectives(P.size, objectives, seed))
    try:
        presolved = P.presolved
    except (EmptyPolytopeError, UnboundedPolytopeError) as error:
        return Audit(P.name, problem=str(error))
    W = _objectives(P.size, objectives, seed)
    found = solved_by_linear_programs(P, torch.from_numpy(W), None).numpy()
    broken = next(iter(np.flatnonzero(np.abs(found - np.round(found)).max(axis=1, initial=0.0) > INTEGRAL)), None)
    cut_off, stranger, structures = _compare_with_structures(P, presolved, found)
    source, member, knowledge = presolved.source, known(P), knowledge_of(P)
    oracle = None if knowledge is None else knowledge.argmax
    refutation = None if oracle is None else _refuted_argmax(P, oracle, W, found)
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
        fractional=None if broken is None else found[broken].reshape(P.shape),
        objective=None if broken is None else W[broken].reshape(P.shape),
        cut_off=cut_off,
        stranger=stranger,
        structures=structures,
        recognized=None if member in (None, P) else repr(member),
        held=["argmax"] * (oracle is not None),
        refuted=[] if refutation is None else [refutation],
    )


def _objectives(n: int, count: int, seed: int) -> np.ndarray:
    """``(count, n)``: normal ones, one in four of small integers."""
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(-2, 3, n) if k % 4 == 3 else generator.normal(size=n) for k in range(count)]
    return np.array(drawn, dtype=float)


def _compare_with_structures(
    P: Polytope, presolved: Presolved, found: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None, int | None]:
    """A structure that is cut off, a vertex that is none, and how many structures there are."""
    if P.knowledge is None or P.knowledge.structures is None:
        return None, None, None
    try:
        Z = P.vertices()
    except NoFastPathError:
        return None, None, None
    listed = {z.tobytes() for z in np.round(Z) + 0.0}
    cut_off = (z.reshape(P.shape) for z in Z if presolved.distance(z) > INTEGRAL)
    stranger = (z.reshape(P.shape) for z in found if (np.round(z) + 0.0).tobytes() not in listed)
    return next(cut_off, None), next(stranger, None), len(Z)


def _audit_by_oracle(P: Polytope, W: np.ndarray) -> Audit:
    """What the answers of an oracle that is all that is known say of one another."""
    assert P.knowledge is not None
    assert P.knowledge.argmax is not None
    try:
        z, again = (_answered(P, P.knowledge.argmax, w) for w in (W, W[::-1]))
    except ValueError as error:
        wrong = Refutation("oracle", W[0].reshape(P.shape), None, str(error))
        return Audit(P.name, entries=P.size, objectives=len(W), answers=0, held=["oracle"], refuted=[wrong])
    listed = None if P.knowledge.structures is None else P._vertices
    why = {
        "asked twice it gives two answers": changed(z, again[::-1]),
        "another of its answers is better": beaten(W, z),
    }
    stranger = None
    if listed is not None:
        why["a structure of the family's list is better"] = beaten(W, z, listed)
        known_structures = {row.tobytes() for row in np.round(listed, DIGITS) + 0.0}
        stranger = next((row for row in z if (np.round(row, DIGITS) + 0.0).tobytes() not in known_structures), None)
    refuted = [
        Refutation("oracle", W[first].reshape(P.shape), z[first].reshape(P.shape), reason)
        for reason, wrong_at in why.items()
        for first in np.flatnonzero(wrong_at)[:1]
    ]
    return Audit(
        polytope=P.name,
        entries=P.size,
        dimension=int(np.linalg.matrix_rank(z - z[0], tol=INTEGRAL * max(1.0, np.abs(z).max()))),
        objectives=len(W),
        stranger=None if stranger is None else stranger.reshape(P.shape),
        structures=None if listed is None else len(listed),
        held=["oracle"],
        refuted=refuted[:1],
        answers=len(np.unique(np.round(z, DIGITS), axis=0)),
    )


def _answered(P: Polytope, oracle: Map, W: np.ndarray) -> np.ndarray:
    return answers(oracle, torch.from_numpy(W.copy()).reshape(-1, *P.shape), P.name).reshape(W.shape).numpy()


@torch.no_grad()
def _refuted_argmax(P: Polytope, oracle: Map, W: np.ndarray, vertices: np.ndarray) -> Refutation | None:
    """The first of the objectives W for which the oracle returns no vertex of P, or one that is worse than that of the
    linear program, ``vertices``."""
    w = torch.from_numpy(W).reshape(-1, *P.shape)
    first = W[0].reshape(P.shape)
    try:
        answers = oracle(w)
    except Exception as error:  # whatever an author's function may raise is a finding
        return Refutation("argmax", first, None, f"for w of shape {tuple(w.shape)} {type(error).__name__}: {error}")
    if not isinstance(answers, torch.Tensor) or answers.shape != w.shape:
        got = tuple(answers.shape) if isinstance(answers, torch.Tensor) else type(answers).__name__
        return Refutation("argmax", first, None, f"for w of shape {tuple(w.shape)} it returns {got}")
    distance = cache(lambda z: P.presolved.distance(np.frombuffer(z)))
    for wi, z, v in zip(W, answers.double().cpu().numpy().reshape(W.shape), vertices, strict=True):
        why = _misses(distance, wi, z, v)
        if why:
            return Refutation("argmax", wi.reshape(P.shape), z.reshape(P.shape), why)
    return None


def _misses(distance: Callable[[bytes], float], w: np.ndarray, z: np.ndarray, v: np.ndarray) -> str:
    """Why z is not as good as the vertex v; nothing if it is."""
    if not np.all(np.isfinite(z)):
        return "the answer is not finite"
    if distance(z.tobytes()) > INTEGRAL:
        return f"the answer lies {distance(z.tobytes()):.2g} outside of the polytope"
    if w @ v - w @ z > INTEGRAL * (1 + np.abs(w) @ np.abs(v)):
        return f"it reaches <w, z> = {w @ z + 0.0:.4g} where the linear program reaches {w @ v:.4g}"
    if np.abs(v - np.round(v)).max(initial=0.0) <= INTEGRAL < np.abs(z - np.round(z)).max(initial=0.0):
        return "the answer is between several vertices, and none of them"
    return ""


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
        name = f"y[{column - P.size}]"
        if column < P.size:
            index = ", ".join(str(i) for i in np.unravel_index(column, P.shape)) if P.shape else ""
            name = f"z[{index}]" if index else "z"
        terms.append(f"{'-' if a < 0 else '+'} {'' if abs(a) == 1 else f'{abs(a):g} '}{name}")
    shown = " ".join(terms[:6]) + (" ..." if len(terms) > 6 else "")
    shown = f"-{shown[2:]}" if shown.startswith("- ") else shown.removeprefix("+ ")
    return f"{shown} <= {right + 0.0:g}"


def _wrapped(label: str, text: str) -> str:
    wrapper = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    wrapper.initial_indent, wrapper.subsequent_indent = f"  {label}".ljust(LABEL), " " * LABEL
    return wrapper.fill(text).replace(UNBROKEN, " ")


def _rows(rows: list[str]) -> str:
    """The first few rows of constraints; short ones are not broken at the end of a line."""
    return some([row.replace(" ", UNBROKEN) if len(row) < WIDTH // 2 else row for row in rows])


def _shown(z: np.ndarray | None) -> str:
    """A long vector of few values by its support, ``entries 0, 3, 7 are 1, the others 0``; any other by its entries."""
    z = np.round(np.asarray(z, dtype=float), 4) + 0.0
    values = [value for value in np.unique(z) if value != 0]
    if (z.size > SHORT and len(values) <= 3) or np.isin(z, (0.0, 1.0)).all():
        return _support(z, values)
    text = np.array2string(z, precision=4, suppress_small=True, threshold=60, separator=", ")
    return " ".join(text.split()).replace("[ ", "[")


def _support(z: np.ndarray, values: list[float]) -> str:
    if z.min() == z.max():
        return f"{z.min():g} everywhere"
    said = []
    for value in values:
        at = [index if len(index) > 1 else index[0] for index in map(tuple, np.argwhere(z == value).tolist())]
        words = ("entry", "is") if len(at) == 1 else ("entries", "are")
        said.append(f"{words[0]} {some(at, 40)} {words[1]} {value:g}")
    return ", ".join([*said, "the others 0"] if np.any(z == 0) else said)

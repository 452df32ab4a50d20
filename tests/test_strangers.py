"""Polytopes that nobody here chose: whatever an engine says that it solved is right, its gradient too.

The declarations and the judgement are the benchmark's (``python -m benchmarks.strangers``), which looks at far more.
"""

import json
import re

import cvxpy as cp
import numpy as np
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import cvxsst
from benchmarks import corpora, measuring, strangers
from benchmarks.corpora import KINDS, TWISTS, UNITS, Declaration
from benchmarks.judgement import REGULARIZERS, TEMPERATURES, Tally, distance_as_written, judge, supported
from cvxsst.engines import ENGINES
from cvxsst.engines.kkt import KKT

CYCLE = list(corpora.generated(0, len(KINDS) * len(TWISTS)))  # every kind in every twist
FILES = {declaration.name: declaration for declaration in corpora.files()}
with_files = pytest.mark.skipif(not FILES, reason=f"{corpora.MPS} is not there")


def of(kind: str, twist: str = "plain") -> Declaration:
    return CYCLE[list(KINDS).index(kind) + len(KINDS) * TWISTS.index(twist)]


# The corpora are what they say.


def test_a_declaration_depends_on_its_seed_and_index_alone():
    form, again, other = (corpora.generate(seed, 39).P.form for seed in (0, 0, 1))
    assert np.array_equal(form.G.toarray(), again.G.toarray())
    assert np.array_equal(form.h, again.h)
    assert not np.array_equal(form.h, other.h)


@pytest.mark.parametrize("twist", TWISTS)
def test_every_generated_declaration_is_a_polytope_in_its_units(twist):
    for kind in KINDS:
        size = of(kind, twist).size
        assert 0 < size <= max(UNITS.get(twist, (1.0,))) * (1 + 1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_rows_say_the_same(kind):
    scaled = of(kind, "scaled rows")
    assert scaled.plain is not None
    (z, mine), (x, plain) = scaled.declare(), scaled.plain()
    rng = np.random.default_rng(0)
    for _ in range(20):
        z.value = x.value = rng.uniform(-0.2, 1.2, x.size)
        for one, other in zip(_other_variables(mine, z), _other_variables(plain, x), strict=True):
            one.value = other.value = rng.uniform(-0.2, 1.2, one.shape)
        for one, other in zip(mine, plain, strict=True):
            clear = np.abs(other.expr.value) > 1e-12
            assert np.array_equal(np.sign(one.expr.value[clear]), np.sign(other.expr.value[clear]))


def _other_variables(constraints, z):
    return sorted({v for c in constraints for v in c.variables()} - {z}, key=lambda v: v.id)


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_rows_leave_every_point_in(kind):
    repeated = of(kind, "repeated rows")
    assert repeated.plain is not None
    x, plain = repeated.plain()
    cp.Problem(cp.Maximize(np.arange(x.size) @ x), plain).solve(solver=cp.CLARABEL)
    assert x.value is not None
    assert distance_as_written(Declaration("repeated", repeated.declare), x.value) < 1e-7


def test_a_drawn_declaration_holds_the_point_around_which_it_was_drawn():
    """And the first of all choices is the simplest, so that hypothesis shrinks to it."""
    simplest = corpora.draw("simplest", lambda options: options[0])
    assert simplest.P.size == 1
    assert len(simplest.declare()[1]) == 2
    assert np.array_equal(simplest.P.bounds, [[0], [1]])
    assert len({declaration.judge.form.G.shape for declaration in corpora.drawn(0, 12)}) > 6


FILE = """NAME small
ROWS
 N  cost
 L  row
COLUMNS
    MARK  'MARKER'  'INTORG'
    x  row  2.0
    MARK  'MARKER'  'INTEND'
    y  cost  1.0
    fixed  row  1.0
RHS
    rhs  row  5.0
BOUNDS
 PL  bound  x
 FX  bound  fixed  2.0
ENDATA
"""


def test_bounds_of_a_file_are_its_own_or_implied_or_the_widest(tmp_path):
    """2 x + fixed <= 5, fixed = 2, y without a bound: x <= 1.5, integer or not, and y <= WIDEST."""
    path = tmp_path / "small.mps"
    path.write_text(FILE)
    z, constraints = corpora.declared_by_file(path)
    assert np.allclose(cvxsst.Polytope(z, constraints, recognize=False).bounds, [[0, 0, 0], [1, 1, 0]])
    z.value = np.array([0.5, 1.0, 0.0])
    assert np.allclose(constraints[-1].expr.value, 0.5 * 2 * 1.5 + 2 - 5)


@with_files
def test_files_without_a_point_say_so():
    for name in corpora.EMPTY:
        with pytest.raises(cvxsst.EmptyPolytopeError, match=f"{name}: .* no point satisfies them all"):
            _ = FILES[name].P


@with_files
@pytest.mark.parametrize(("name", "n"), [("qap04", 88), ("rgn", 180), ("sp150x300d", 600), ("israel", 142)])
def test_files_are_in_units_of_their_bounds(name, n):
    P = FILES[name].P
    lower, upper = P.bounds
    assert P.shape == (n,)
    assert lower.min() >= -1e-8
    assert 1 - 1e-6 <= upper.max() <= 1 + 1e-8


# The judgement finds what is wrong, and nothing else.


class Liar(KKT):
    """Says that it converged, whatever is made of its z and of its gradient."""

    def __init__(self, spoil=lambda z: z, factor: float = 1.0, claims: bool = True):
        super().__init__()
        self.spoil, self.factor, self.claims = spoil, factor, claims

    def solve(self, state, u, forbidden):
        solution = super().solve(state, u, forbidden)
        z = self.spoil(solution.z)
        return solution._replace(z=z, converged=solution.converged if self.claims else torch.isfinite(z).all(dim=1))

    def times_jacobian(self, *arguments):
        return self.factor * super().times_jacobian(*arguments)


def told_of(liar: Liar, monkeypatch, f: str = "binary") -> Tally:
    monkeypatch.setitem(ENGINES, "liar", liar)
    return judge(of("knapsack"), REGULARIZERS[f], 1.0, "liar", batch=8)


@pytest.mark.parametrize("f", REGULARIZERS)
def test_an_honest_engine_is_certified(f, monkeypatch):
    tally = told_of(Liar(), monkeypatch, f)
    assert (tally.solved, tally.certified, tally.wrong, tally.gradient_wrong) == (8, 8, 0, 0)
    assert tally.gradients + tally.kinks == 8
    assert tally.gradients >= 6
    assert tally.notes == []


def test_a_z_outside_is_wrong(monkeypatch):
    tally = told_of(Liar(lambda z: z * (1 + 1e-4)), monkeypatch, "euclidean")
    assert tally.wrong >= 6
    assert re.search(r"instance 0 \(normal\): WRONG: .* away from the declaration", tally.notes[0])


def test_a_z_inside_that_is_not_the_best_is_wrong(monkeypatch):
    tally = told_of(Liar(lambda z: 0.9 * z), monkeypatch)
    assert tally.wrong == 8
    assert "a point that is better by" in tally.notes[0]


def test_a_z_that_is_nearly_right_is_not_certified(monkeypatch):
    tally = told_of(Liar(lambda z: z * (1 - 3e-6)), monkeypatch)
    assert tally.wrong == 0
    assert tally.certified < 8
    assert "not certified" in tally.notes[0]


@pytest.mark.parametrize("factor", [1.03, 0.0, float("nan")])
def test_a_wrong_gradient_is_found(factor, monkeypatch):
    tally = told_of(Liar(factor=factor), monkeypatch)
    assert (tally.certified, tally.wrong) == (8, 0)
    assert tally.gradient_wrong >= 6
    assert "WRONG GRADIENT" in tally.notes[0]


def test_what_the_engine_does_not_claim_is_no_fault(monkeypatch):
    tally = told_of(
        Liar(lambda z: z.masked_fill(torch.arange(len(z))[:, None] == 0, torch.nan), claims=False), monkeypatch
    )
    assert (tally.solved, tally.certified, tally.wrong, tally.gradient_wrong) == (7, 7, 0, 0)
    assert tally.notes == [f"{of('knapsack').name} | BinaryEntropy T=1: 1 of 8 not solved: 0 (normal)"]


def test_an_exception_is_a_failure_of_all(monkeypatch):
    def burst(z):
        raise RuntimeError("it burst")

    tally = told_of(Liar(burst), monkeypatch)
    assert tally.solved == 0
    assert tally.notes[0].endswith("raised RuntimeError: it burst")


def test_the_tool_fails_where_something_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setitem(ENGINES, "liar", Liar(factor=2.0))
    monkeypatch.setitem(ENGINES, "honest", Liar())
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    app = typer.Typer()
    app.command()(strangers.main)
    chosen = [
        "--only",
        of("knapsack").name,
        "--corpus",
        "generated",
        "--count",
        "3",
        "--temperature",
        "1",
        "--batch",
        "4",
    ]
    wrong = CliRunner().invoke(app, [*chosen, "--engine", "liar", "--save", "liar"])
    right = CliRunner().invoke(app, [*chosen, "--engine", "honest"])
    assert (wrong.exit_code, right.exit_code) == (1, 0), wrong.output + right.output
    assert "WRONG GRADIENT" in wrong.output
    saved = json.loads((tmp_path / "liar.json").read_text())
    assert [row["gradient_wrong"] > 0 for row in saved["results"]["table"]] == [True] * 3
    unknown = CliRunner().invoke(app, [*chosen, "--engine", "nix"])
    assert unknown.exit_code == 2
    assert "--engine: unknown 'nix'" in unknown.output


# Whatever an engine says that it solved is right.

ABLE = [name for name in ENGINES if any(supported(of("knapsack"), list(REGULARIZERS), name))]
TWISTED = [twist for twist in TWISTS if twist not in UNITS]


@pytest.mark.parametrize("twist", TWISTED)
@pytest.mark.parametrize("engine", ABLE)
def test_converged_implies_right(engine, twist):
    """Each kind at one of the temperatures, whichever; those of an engine that takes no batch are fewer."""
    told = Tally("", "", "all", 0.0)
    batch, gradients, every = (8, 8, 1) if ENGINES[engine].batched else (4, 1, 3)
    for i, kind in enumerate(list(KINDS)[TWISTED.index(twist) % every :: every]):
        declaration = of(kind, twist)
        for k, f in enumerate(supported(declaration, list(REGULARIZERS), engine)):
            told.add(judge(declaration, f, TEMPERATURES[(i + k) % 4], engine, batch, gradients=gradients))
    assert told.faults == 0, "\n".join(told.notes)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_converged_implies_right_whatever_is_drawn(data):
    declaration = corpora.draw("drawn", lambda options: data.draw(st.sampled_from(options)))
    T = data.draw(st.sampled_from(TEMPERATURES))
    for f in supported(declaration, list(REGULARIZERS), "auto"):
        told = judge(declaration, f, T, "auto", batch=8)
        assert told.faults == 0, "\n".join(told.notes)


@with_files
def test_converged_implies_right_on_a_file():
    for f in REGULARIZERS.values():
        told = judge(FILES["qap04"], f, 1.0, "auto", batch=8)
        assert (told.solved, told.certified, told.faults) == (8, 8, 0), "\n".join(told.notes)


@pytest.mark.parametrize("twist", [*TWISTED, "small", "mixed units"])
def test_all_is_solved(twist):
    told = Tally("", "", "all", 0.0)
    for i, kind in enumerate(KINDS):
        for k, f in enumerate(supported(of(kind, twist), list(REGULARIZERS), "auto")):
            told.add(judge(of(kind, twist), f, TEMPERATURES[(i + k + 1) % 4], "auto", batch=8, gradients=0))
    assert told.solved == told.certified == told.instances, "\n".join(told.notes)


@pytest.mark.parametrize(
    ("kind", "twist", "f", "T"),
    [
        ("transport", "mixed units", "binary", 0.1),
        ("capped_simplex", "large", "categorical", 1.0),
        ("cuts", "plain", "categorical", 0.01),
        ("knapsack", "mixed units", "binary", 0.01),
        ("half_spaces", "mixed units", "categorical", 0.01),
        ("flow", "large", "categorical", 0.01),
    ],
)
def test_the_reference_solves_all_of_these_too(kind, twist, f, T):
    told = judge(of(kind, twist), REGULARIZERS[f], T, "cvxpylayer", batch=3, gradients=1)
    assert (told.solved, told.certified, told.faults) == (3, 3, 0), "\n".join(told.notes)

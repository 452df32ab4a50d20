"""Declarations that are members of a family are recognized by their matrices, and nothing else is."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cvxsst
import polytopes
from cvxsst import recognition
from cvxsst.family import GUESSING
from cvxsst.recognition import known
from polytopes._incidence import graph_of

EUCLIDEAN = cvxsst.Euclidean()
RENUMBERED = ((0, 2), (0, 1), (2, 1), (2, 3), (1, 3))  # nodes come in the order of their rows
DIAMOND = ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3))


def doubly_stochastic(n: int, **options) -> cvxsst.Polytope:
    Z = cp.Variable((n, n))
    return cvxsst.Polytope(Z, [Z >= 0, cp.sum(Z, axis=0) == 1, cp.sum(Z, axis=1) == 1], **options)


def spelled_differently() -> list[tuple[cvxsst.Polytope, cvxsst.Polytope]]:
    """(as a user might write it, what it is)"""
    x, y, z, v = cp.Variable(5), cp.Variable(5, nonneg=True), cp.Variable(5, bounds=[0, 1]), cp.Variable(4)
    w, X, e = cp.Variable(4), cp.Variable((4, 4), nonneg=True), cp.Variable(6)
    at = np.array([[1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]])
    Z, B = cp.Variable((3, 3), nonneg=True), cp.Variable((6, 6), bounds=[0, 1])
    reordered = [cp.sum(X, axis=1) == 1, w == X @ np.arange(1, 5), -2 * cp.sum(X, axis=0) == -2]
    flow = cp.Variable(5, nonneg=True)
    balance = np.array([[1, 1, 0, 0, 0], [-1, 0, 1, 1, 0], [0, -1, -1, 0, 1], [0, 0, 0, -1, -1]])
    demand = np.array([1, 0, 0, -1])
    return [
        (cvxsst.Polytope(x, [cp.sum(x) <= 1, cp.sum(x) >= 1, -3 * x <= 0]), polytopes.simplex(5)),
        (cvxsst.Polytope(y, [2 * cp.sum(y) == 2, y <= 1]), polytopes.simplex(5)),
        (cvxsst.Polytope(y, [cp.sum(y) == 1, y <= 7]), polytopes.simplex(5)),
        (cvxsst.Polytope(z, [cp.sum(z) == 2]), polytopes.k_subset(5, 2)),
        (cvxsst.Polytope(z, [cp.sum(z[:2]) == 3 - cp.sum(z[2:])]), polytopes.k_subset(5, 3)),
        (cvxsst.Polytope(z, []), polytopes.cube(5)),
        (cvxsst.Polytope(v, [2 * v - 1 <= 1, 1 - 2 * v <= 1]), polytopes.cube(4)),
        (doubly_stochastic(4), polytopes.birkhoff(4)),
        (cvxsst.Polytope(Z, [Z @ np.ones(3) == 1, np.ones(3) @ Z == 1, Z <= 1]), polytopes.birkhoff(3)),
        (
            cvxsst.Polytope(w, [w == X @ np.arange(1, 5), cp.sum(X, axis=0) == 1, cp.sum(X, axis=1) == 1]),
            polytopes.permutahedron(4),
        ),
        (cvxsst.Polytope(w, [*reordered, X <= 1]), polytopes.permutahedron(4)),
        (cvxsst.Polytope(e, [e >= 0, at @ e == 1]), polytopes.matching(4)),
        (cvxsst.Polytope(B, [cp.sum(B, axis=0) == 1, cp.sum(B, axis=1) == 1]), polytopes.birkhoff(6)),
        (cvxsst.Polytope(flow, [balance @ flow == demand]), polytopes.path(4, DIAMOND)),
        (
            cvxsst.Polytope(flow, [3 * balance[[2, 0, 1]] @ flow == 3 * demand[[2, 0, 1]]]),
            polytopes.path(4, RENUMBERED),
        ),
    ]


@pytest.mark.parametrize(("P", "what"), spelled_differently(), ids=lambda P: repr(P))
def test_equal_declarations_are_recognized(
    P: cvxsst.Polytope, what: cvxsst.Polytope, generator: torch.Generator
) -> None:
    recognized: cvxsst.Polytope | None = known(P)
    assert recognized is what
    w = torch.randn(4, *P.shape, generator=generator, dtype=torch.float64)
    assert torch.equal(cvxsst.argmax(P, w), cvxsst.argmax(what, w))
    assert torch.equal(cvxsst.argmax(P, w), cvxsst.argmax(P, w, engine="lp"))
    z = cvxsst.softmax(P, w, EUCLIDEAN)
    assert (z - cvxsst.softmax(what, w, EUCLIDEAN)).abs().max() <= 1e-9
    assert (z - cvxsst.softmax(P, w, EUCLIDEAN, engine="kkt")).abs().max() <= 1e-7
    assert cvxsst.certificate(P, z, w, EUCLIDEAN).gap.max() <= 1e-8
    if cvxsst.which_engine(what, EUCLIDEAN) == "fast":
        assert cvxsst.which_engine(P, EUCLIDEAN) == "fast"
    assert f"recognized  as {what!r}" in str(cvxsst.audit(P, objectives=5))


def near_misses() -> list[cvxsst.Polytope]:
    x, Z, w = cp.Variable(5, nonneg=True), cp.Variable((3, 3), nonneg=True), cp.Variable(3)
    X, e = cp.Variable((3, 3), nonneg=True), cp.Variable(6, nonneg=True)
    at = np.array([[1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]])
    column, u = cp.Variable((5, 1), nonneg=True), cp.Variable(5)
    almost = np.ones(5)
    almost[2] += 1e-6
    return [
        cvxsst.Polytope(x, [cp.sum(x) == 2]),
        cvxsst.Polytope(x, [almost @ x == 1]),
        cvxsst.Polytope(x, [cp.sum(x) == 1, x <= 0.9]),
        cvxsst.Polytope(x, [cp.sum(x) == 1, x[0] >= 1e-6]),
        cvxsst.Polytope(x, [cp.sum(x) <= 1]),
        cvxsst.Polytope(x, [cp.sum(x) == 2, x <= 1 + 1e-6]),
        cvxsst.Polytope(x, [x <= 1, x[0] + x[1] <= 1]),
        cvxsst.Polytope(x, [x <= np.array([1, 1, 1, 1, 2])]),
        cvxsst.Polytope(Z, [cp.sum(Z, axis=0) == 1, cp.sum(Z, axis=1) <= 1.5]),
        cvxsst.Polytope(Z, [cp.sum(Z, axis=0) == 1, cp.sum(Z, axis=1) == 1, Z[0, 0] <= 0.5]),
        cvxsst.Polytope(w, [w == X @ np.array([1, 2, 4]), cp.sum(X, axis=0) == 1, cp.sum(X, axis=1) == 1]),
        cvxsst.Polytope(w, [w == np.arange(1, 4) @ X, cp.sum(X, axis=0) == 1, cp.sum(X, axis=1) == 1]),
        cvxsst.Polytope(e, [at[:, [1, 0, 2, 3, 4, 5]] @ e == 1]),  # its edges in another order
        cvxsst.Polytope(column, [cp.sum(column) == 1]),
        cvxsst.Polytope(u, [cp.sum(u) == 1, u[1:] >= 0, u <= 1]),  # u[0] >= -3
        cvxsst.Polytope(u, [cp.sum(u) == 1, u[1:] >= 0, u[0] <= 0, u[0] >= -1]),  # a row upside down
    ]


@pytest.mark.parametrize("P", near_misses(), ids=lambda P: "; ".join(map(str, P.constraints)))
def test_near_misses_are_not(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    assert known(P) is None
    assert cvxsst.which_engine(P, EUCLIDEAN) == ("facets" if P.form.general == 1 else "kkt")
    w = torch.randn(3, *P.shape, generator=generator, dtype=torch.float64)
    z = cvxsst.softmax(P, w, EUCLIDEAN)
    assert cvxsst.certificate(P, z, w, EUCLIDEAN).gap.max() <= 1e-8


def test_it_can_be_switched_off_and_travels() -> None:
    entropy = cvxsst.CategoricalEntropy()
    P, plain = doubly_stochastic(4), doubly_stochastic(4, recognize=False)
    assert cvxsst.which_engine(P, entropy) == "fast"
    assert known(P) is polytopes.birkhoff(4)
    assert cvxsst.which_engine(plain, entropy) == "kkt"
    w = torch.zeros(4, 4, dtype=torch.float64)
    w[0, 1] = -torch.inf
    assert torch.allclose(cvxsst.softmax(P, w, entropy), cvxsst.softmax(plain, w, entropy), atol=1e-8)
    for Q, name, member in ((P, "fast", polytopes.birkhoff(4)), (plain, "kkt", None)):
        travelled = pickle.loads(pickle.dumps(Q))
        assert cvxsst.which_engine(travelled, entropy) == name
        assert known(travelled) is member
        assert copy.deepcopy(Q) is Q
    with pytest.raises(cvxsst.NoFastPathError, match="fast"):
        cvxsst.softmax(plain, w, entropy, engine="fast")
    with pytest.raises(ValueError, match="unroll"):
        cvxsst.softmax(plain, w, entropy, backward="unroll")
    z = cvxsst.softmax(P, torch.zeros(4, 4), entropy, backward="unroll")
    assert torch.allclose(z, torch.full((4, 4), 0.25))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 6))
def test_rows_in_any_order_and_scale(seed: int, n: int) -> None:
    """Random positive multiples, plus random multiples of the equality: the same set."""
    generator = np.random.default_rng(seed)
    z = cp.Variable(n)
    scale = generator.uniform(0.1, 10, 2 * n)
    G = np.vstack([-np.eye(n), np.eye(n)]) * scale[:, None]
    k = int(generator.integers(1, n))
    h = np.concatenate([np.zeros(n), np.ones(n)]) * scale
    shift = generator.normal(size=2 * n)
    G, h = G + shift[:, None], h + k * shift
    order = generator.permutation(2 * n)
    P = cvxsst.Polytope(z, [G[order] @ z <= h[order], -2.5 * cp.sum(z) == -2.5 * k])
    assert known(P) is (polytopes.simplex(n) if k == 1 else polytopes.k_subset(n, k))
    wrong = h.copy()
    wrong[n] -= 0.1 * scale[n]  # z[0] <= 0.9
    assert known(cvxsst.Polytope(z, [G[order] @ z <= wrong[order], cp.sum(z) == k])) is None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), off=st.sampled_from([-1e-6, -1e-2, 0.0, 1e-6, 1.0]))
def test_a_further_row_changes_nothing_or_something(seed: int, off: float) -> None:
    """<a, z> <= its maximum over the permutations + off says nothing new if and only if off >= 0."""
    generator = np.random.default_rng(seed)
    a = generator.normal(size=(3, 3)) * generator.integers(0, 2, (3, 3))
    a[0, 0] += 2.0
    Z = cp.Variable((3, 3), nonneg=True)
    most = max((a * z).sum() for z in polytopes.birkhoff.structure_list(n=3))  # type: ignore[misc]
    constraints = [cp.sum(Z, axis=0) == 1, cp.sum(Z, axis=1) == 1, cp.sum(cp.multiply(a, Z)) <= most + off]
    spread = most - min((a * z).sum() for z in polytopes.birkhoff.structure_list(n=3))  # type: ignore[misc]
    same = off >= 0 or spread == 0
    assert known(cvxsst.Polytope(Z, constraints)) is (polytopes.birkhoff(3) if same else None)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 7), split=st.booleans())
def test_graphs_are_read_off_their_balances(seed: int, n: int, split: bool) -> None:
    """Balances in any order, scale and sign, one left out or none, parallel edges, edges that no path uses."""
    generator = np.random.default_rng(seed)
    pairs = np.stack(np.triu_indices(n, 1), 1)
    edges = pairs[generator.integers(0, len(pairs), generator.integers(1, len(pairs) + 3))].tolist()
    try:
        what = polytopes.path(n, edges)
    except ValueError:  # no path
        return
    B, demand = np.zeros((n, len(edges))), np.zeros(n)
    for e, (i, j) in enumerate(edges):
        B[i, e], B[j, e] = 1, -1
    demand[[0, -1]] = 1, -1
    rows = generator.permutation(n)[generator.integers(0, 2) :]
    scale = generator.choice([-3.0, -1.0, 1.0, 0.3], len(rows))
    B, demand = scale[:, None] * B[rows], scale * demand[rows]
    z = cp.Variable(len(edges), nonneg=True)
    P = cvxsst.Polytope(z, [B @ z <= demand, B @ z >= demand] if split else [B @ z == demand])
    assert known(P) is not None
    w = torch.from_numpy(generator.normal(size=(5, len(edges))))
    assert torch.equal(cvxsst.argmax(P, w), cvxsst.argmax(what, w))


def test_flows_that_are_no_paths_are_not_recognized() -> None:
    z = cp.Variable(4, bounds=[0, 1])
    two_sources = np.array([[1, 0, 1, 0], [0, 1, -1, 0], [-1, -1, 0, 0]])
    assert known(cvxsst.Polytope(z, [two_sources @ z == np.array([1, 1, -2])])) is None
    cycle = np.array([[1, 0, 0, 0], [-1, 1, -1, 1], [0, -1, 1, 0], [0, 0, 0, -1]])  # 1 -> 2 -> 1 as well as 0 -> 1 -> 3
    assert known(cvxsst.Polytope(z, [cycle @ z == np.array([1, 0, 0, -1])])) is None
    transport = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [-1, 0, -1, 0], [0, -1, 0, -1]])
    assert graph_of(transport, np.array([1, 1, -1, -1])) is None


def test_lazily_and_without_importing_the_zoo() -> None:
    script = """if True:
        import sys, cvxpy as cp, cvxsst
        z = cp.Variable(3, nonneg=True)
        P = cvxsst.Polytope(z, [cp.sum(z) == 1])
        print("polytopes" in sys.modules, cvxsst.which_engine(P, cvxsst.Euclidean()), cvxsst.recognition.known(P))
    """
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False fast simplex(3)"


def test_what_is_large_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognition, "LARGEST", 8)
    assert known(doubly_stochastic(3)) is None
    z = cp.Variable(3, nonneg=True)
    constraints = [cp.sum(z) == 1, z[0] + 2 * z[1] <= 2]  # the last row takes a linear program
    assert known(cvxsst.Polytope(z, constraints)) is polytopes.simplex(3)
    monkeypatch.setattr(recognition, "MOST_PROGRAMS", 0)
    assert known(cvxsst.Polytope(z, constraints)) is None
    assert known(cvxsst.Polytope(z, [cp.sum(z) == 1, z <= 1])) is polytopes.simplex(3)  # this takes none


@pytest.fixture
def own() -> Iterator[None]:
    """Families of one's own, forgotten afterwards."""
    before = dict(GUESSING)
    yield
    GUESSING.clear()
    GUESSING.update(before)


def define_box():
    @cvxsst.polytope
    def box(n: int, width: float):
        z = cp.Variable(n)
        return z, [z >= 0, z <= width]

    @box.softmax(cvxsst.Euclidean)
    def clamp(u: torch.Tensor, n: int, width: float) -> torch.Tensor:
        return u.clamp(0.0, width)

    @box.guess
    def by_bound(shape, form):
        if len(shape) == 1 and not form.A.shape[0]:
            yield shape[0], float(form.h.max())

    return box


@pytest.mark.usefixtures("own")
def test_a_family_of_ones_own_guesses_too() -> None:
    box, z = define_box(), cp.Variable(3, nonneg=True)
    P = cvxsst.Polytope(z, [z <= 2.5])
    assert cvxsst.which_engine(P, EUCLIDEAN) == "fast"
    assert known(P) is box(3, 2.5)
    assert cvxsst.softmax(P, torch.tensor([3.0, 1.0, -1.0])).tolist() == [2.5, 1.0, 0.0]
    assert known(cvxsst.Polytope(z, [z <= 1])) is box(3, 1.0)  # before the cube
    cvxsst.polytope(box.declare).guess(box.guess_function)  # of the same name: as when a cell of a notebook runs again
    assert known(cvxsst.Polytope(z, [z <= 1])) is not box(3, 1.0)

    @cvxsst.polytope
    def unit(n: int):
        z = cp.Variable(n)
        return z, [z >= 0, z <= 1]

    unit.guess(lambda shape, form: [shape])
    assert known(cvxsst.Polytope(z, [z <= 1])) is unit(3)
    again = define_box()
    assert known(cvxsst.Polytope(z, [z <= 1])) is again(3, 1.0)  # the latest first


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("guess", "error"),
    [
        (lambda shape, form: 1 / 0, ZeroDivisionError),
        (lambda shape, form: None, TypeError),
        (lambda shape, form: [3], TypeError),
        (lambda shape, form: [(3, 1.0, "more")], TypeError),
        (lambda shape, form: [({3}, 1.0)], TypeError),
    ],
    ids=["raises", "nothing", "no tuple", "too many", "unhashable"],
)
def test_errors_of_a_guess_are_shown_with_their_origin(guess, error: type) -> None:
    define_box().guess(guess)
    z = cp.Variable(3, nonneg=True)
    for _ in range(2):  # not only the first time
        with pytest.raises(error) as caught:
            cvxsst.softmax(cvxsst.Polytope(z, [z <= 2]), torch.zeros(3))
        assert "polytope family box" in caught.value.__notes__[0]
        assert "recognize=False" in caught.value.__notes__[0]
    assert cvxsst.softmax(cvxsst.Polytope(z, [z <= 2], recognize=False), torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.usefixtures("own")
def test_members_that_do_not_exist_or_have_another_shape_are_passed_over() -> None:
    define_box().guess(lambda shape, form: [(3, -1.0), (4, 2.0), (3, 2.0)])  # empty; of another shape; right
    z = cp.Variable(3, nonneg=True)
    assert repr(known(cvxsst.Polytope(z, [z <= 2]))) == "box(3, 2.0)"
    column = cp.Variable((3, 1), nonneg=True)
    assert known(cvxsst.Polytope(column, [column <= 2])) is None

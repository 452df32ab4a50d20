"""Declarations: what CVXPY constraints become, and what is refused."""

import copy
import pickle
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
from cvxsst import EmptyPolytopeError, NotPolyhedralError, Polytope, UnboundedPolytopeError
from cvxsst.geometry.linear_program import LinearProgram

from .table import POLYTOPES


def box(n: int = 3) -> Polytope:
    z = cp.Variable(n)
    return Polytope(z, [z >= 0, z <= 1], name="box")


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
def test_standard_form_is_the_declaration(P: Polytope) -> None:
    """The maximum of random objectives over the standard form is CVXPY's over the constraints as written."""
    assert P.variable is not None
    generator = np.random.default_rng(3)
    for _ in range(3):
        w = generator.normal(size=P.shape)
        problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(w, P.variable))), P.constraints)
        problem.solve(solver=cp.HIGHS)
        ours = P.presolved.linear_program.maximize(w.reshape(-1)).value
        assert ours == pytest.approx(problem.value, abs=1e-7)


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
def test_presolve_leaves_an_interior_and_the_true_dimension(P: Polytope) -> None:
    form, x = P.presolved.form, P.presolved.interior
    assert np.abs(form.A @ x - form.b).max(initial=0) <= 1e-9
    assert (form.h - form.G @ x).min(initial=1) > 1e-6
    assert np.linalg.matrix_rank(form.A.toarray()) == form.A.shape[0]
    vertices = P.vertices()
    assert P.presolved.dimension == np.linalg.matrix_rank(vertices - vertices[0], tol=1e-7)
    lower, upper = P.bounds
    assert np.abs(lower - vertices.min(0)).max(initial=0) <= 1e-7
    assert np.abs(upper - vertices.max(0)).max(initial=0) <= 1e-7
    assert set(P.presolved.fixed) == set(np.flatnonzero(np.ptp(vertices, axis=0) == 0))


@pytest.mark.parametrize(
    "attributes",
    [{"nonneg": True}, {"bounds": [0, None]}, {"bounds": [np.zeros((2, 3)), np.inf]}, {}],
    ids=["nonneg", "bound", "bounds", "plain"],
)
def test_attributes_count_as_constraints_without_lifting(attributes: dict) -> None:
    z = cp.Variable((2, 3), **attributes)
    constraints = [cp.sum(z, axis=1) == 1, *([] if attributes else [z >= 0])]
    P = Polytope(z, constraints)
    assert P.presolved.form.lifted == 0
    w = torch.tensor([[0.3, 2.0, 1.0], [5.0, -1.0, 0.0]])
    assert torch.equal(cvxsst.argmax(P, w), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))


def test_diagonal_variable_has_fixed_entries() -> None:
    z = cp.Variable((2, 2), diag=True)
    P = Polytope(z, [z >= 0, cp.trace(z) == 1])
    assert list(P.presolved.fixed) == [1, 2]
    assert torch.equal(cvxsst.softmax(P, torch.zeros(2, 2)), torch.eye(2) / 2)


def test_scalar_polytope_has_the_empty_shape() -> None:
    z = cp.Variable()
    P = Polytope(z, [cp.abs(z - 1) <= 2])
    assert P.shape == ()
    assert torch.equal(cvxsst.argmax(P, torch.tensor([1.0, -1.0])), torch.tensor([3.0, -1.0]))
    assert torch.equal(cvxsst.softmax(P, torch.tensor([0.5, 9.0])), torch.tensor([0.5, 3.0]))


def test_columns_of_a_matrix_come_row_by_row() -> None:
    z = cp.Variable((2, 3))
    P = Polytope(z, [z >= 0, z <= np.arange(6.0).reshape(2, 3)])
    assert torch.equal(cvxsst.argmax(P, torch.ones(2, 3)), torch.arange(6.0).reshape(2, 3))


def test_implied_equalities_and_dependent_ones_are_found() -> None:
    z = cp.Variable(3)
    P = Polytope(z, [z >= 0, z[0] <= 0, z[1] + z[2] <= 1, z[1] + z[2] >= 1, 2 * z[1] + 2 * z[2] == 2])
    assert P.presolved.dimension == 1
    assert P.presolved.form.A.shape[0] == 2
    assert list(P.presolved.fixed) == [0]


def test_equalities_in_other_units_are_kept() -> None:
    """A unit flow through six nodes, each balance in units of its own: none of them follows from the others."""
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    balance = np.zeros((6, len(pairs)))
    for column, (i, j) in enumerate(pairs):
        balance[[i, j], column] = -1, 1
    units, right = 10.0 ** np.array([6, -5, 0, -6, 3, -2]), np.array([-1.0, 0, 0, 0, 0, 1])
    z = cp.Variable(len(pairs))
    P = Polytope(z, [z >= 0, np.diag(units) @ balance @ z == units * right], recognize=False)
    assert P.presolved.form.A.shape[0] == 5
    assert P.presolved.dimension == len(pairs) - 5
    for w in torch.randn(20, len(pairs), generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        assert np.abs(balance @ cvxsst.argmax(P, w).numpy() - right).max() <= 1e-9


def test_single_point() -> None:
    z = cp.Variable(2)
    P = Polytope(z, [z == np.array([0.25, 0.75])])
    w = torch.randn(4, 2, requires_grad=True)
    out = cvxsst.softmax(P, w, cvxsst.CategoricalEntropy())
    assert torch.equal(out.detach(), torch.tensor([0.25, 0.75]).expand(4, 2))
    out.sum().backward()
    assert torch.equal(w.grad, torch.zeros(4, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declare", "error", "says"),
    [
        (
            lambda z: [z >= 0, z <= 1, cp.sum(z) >= 4, z[0] <= 0.5],
            EmptyPolytopeError,
            r"constraints\[1\].*constraints\[2\]",
        ),
        (lambda z: [z >= 0, z[1:] <= 1], UnboundedPolytopeError, "0 from above"),
        (lambda z: [z <= 1, z[2] >= 0], UnboundedPolytopeError, "0 from below, 1 from below"),
        (lambda z: [cp.norm2(z) <= 1], NotPolyhedralError, r"constraints\[0\].*curved"),
        (lambda z: [z <= 1, cp.sum_squares(z) <= 1], NotPolyhedralError, r"constraints\[1\]"),
        (lambda z: [cp.abs(z) >= 1], NotPolyhedralError, "DCP"),
        (lambda z: [z >= 0, z <= 1 + cp.square(cp.Parameter(3))], NotPolyhedralError, "not affine in its p"),
        (lambda z: [z == cp.Variable(3, integer=True), z >= 0, z <= 1], NotPolyhedralError, "integer"),
        (lambda z: [z >= 0, True], TypeError, r"constraints\[1\]"),
        (lambda z: z >= 0, TypeError, "list"),
    ],
    ids=["empty", "above", "below", "norm2", "squares", "dcp", "parameter", "integer", "bool", "bare"],
)
def test_refused_with_cause_and_place(declare, error: type, says: str) -> None:
    z = cp.Variable(3)
    with pytest.raises(error, match=says):
        Polytope(z, declare(z))


def test_conflict_is_minimal() -> None:
    z = cp.Variable(3)
    with pytest.raises(EmptyPolytopeError) as caught:
        Polytope(z, [z >= 0, z <= 1, cp.sum(z) >= 4, z[0] <= 0.5])
    assert "constraints[0]" not in str(caught.value)
    assert "constraints[3]" not in str(caught.value)


@pytest.mark.parametrize("attributes", [{"boolean": True}, {"integer": True}, {"complex": True}, {"PSD": True}])
def test_variables_of_other_kinds_are_refused(attributes: dict) -> None:
    z = cp.Variable((2, 2), **attributes)
    with pytest.raises(NotPolyhedralError):
        Polytope(z, [] if "complex" in attributes else [cp.sum(z) <= 1])


def test_every_error_is_a_value_error() -> None:
    for error in (EmptyPolytopeError, UnboundedPolytopeError, NotPolyhedralError, cvxsst.NoFastPathError):
        assert issubclass(error, ValueError)
    assert issubclass(cvxsst.ArgumentTypeError, ValueError)
    assert issubclass(cvxsst.ArgumentTypeError, TypeError)


@cvxsst.polytope(examples=[(3,)])
def triangle(n: int, corners: tuple = (1, 2)):
    """A family at module level, so that pickle finds it."""
    z = cp.Variable(n)
    return z, [z >= 0, cp.sum(z) == 1]


def test_family_caches_by_argument() -> None:
    assert triangle(3) is triangle(n=np.int64(3))
    assert triangle(3) is triangle(3, [1, 2])
    assert triangle(3) is not triangle(4)
    assert repr(triangle(3)) == "triangle(3)"
    assert repr(triangle(3, [7])) == "triangle(3, corners=(7,))"
    assert triangle.__doc__ is not None
    with pytest.raises(TypeError, match="hashable"):
        triangle({3})


def test_family_travels_by_name_and_ad_hoc_by_value() -> None:
    assert pickle.loads(pickle.dumps(triangle(3))) is triangle(3)
    assert pickle.loads(pickle.dumps(triangle)) is triangle
    assert copy.deepcopy(triangle(3)) is triangle(3)
    P = box()
    again = pickle.loads(pickle.dumps(P))
    w = torch.tensor([0.2, 3.0, -1.0])
    assert repr(again) == "box"
    assert torch.equal(cvxsst.softmax(again, w), cvxsst.softmax(P, w))


def test_local_family_travels_by_value() -> None:
    @cvxsst.polytope
    def local(n):
        z = cp.Variable(n)
        return z, [z >= 0, z <= 2]

    again = pickle.loads(pickle.dumps(local(2)))
    assert torch.equal(cvxsst.argmax(again, torch.ones(2)), torch.full((2,), 2.0))


def test_large_declarations_are_checked_at_first_use() -> None:
    z = cp.Variable(6000)
    P = Polytope(z, [z >= 1, z <= 0], name="large")
    with pytest.raises(EmptyPolytopeError, match="large"):
        cvxsst.argmax(P, torch.zeros(6000))


def test_registered_functions_are_used_and_get_the_arguments() -> None:
    @cvxsst.polytope
    def choice(n, scale=1):
        z = cp.Variable(n)
        return z, [z >= 0, cp.sum(z) == 1]

    calls = []

    @choice.softmax(cvxsst.CategoricalEntropy)
    def soft(u, n, scale):
        calls.append((n, scale))
        return torch.softmax(u, -1)

    @choice.log_partition
    def log_partition(u, n, scale):
        return torch.logsumexp(u, -1)

    P = choice(4)
    assert cvxsst.which_engine(P, cvxsst.CategoricalEntropy()) == "fast"
    assert cvxsst.which_engine(P, cvxsst.ExponentialFamily()) == "fast"
    assert cvxsst.which_engine(P, cvxsst.Euclidean()) == "kkt"
    w = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    for regularizer in (cvxsst.CategoricalEntropy(), cvxsst.ExponentialFamily()):
        z = cvxsst.softmax(P, w, regularizer, 0.5)
        assert torch.allclose(z, torch.softmax(w / 0.5, -1))
        (gradient,) = torch.autograd.grad(z, w, torch.ones_like(w))
        assert torch.allclose(gradient, torch.zeros_like(w), atol=1e-12)
    assert calls == [(4, 1)]
    masked = torch.tensor([0.0, -torch.inf, 0.0, 0.0])
    assert cvxsst.softmax(P, masked, cvxsst.CategoricalEntropy()).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    second = torch.autograd.functional.hessian(
        lambda u: cvxsst.softmax(P, u, cvxsst.ExponentialFamily())[0], torch.zeros(4, dtype=torch.float64)
    )
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0.01


def test_presolve_of_a_set_around_its_middle_asks_no_linear_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simplex pivots on 40,000 columns take minutes; that z = 1 / n is strictly inside needs none."""
    asked, maximize = [], LinearProgram.maximize

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(1)
        return maximize(*arguments, **options)

    monkeypatch.setattr(LinearProgram, "maximize", counted)
    z = cp.Variable((9, 7), nonneg=True)
    P = cvxsst.Polytope(z, [cp.sum(z, axis=0) == 1 / 7, cp.sum(z, axis=1) == 1 / 9])
    assert P.presolved.interior == pytest.approx(np.full(63, 1 / 63))
    assert len(P.presolved.implied) == 0
    assert not asked
    least, greatest = P.bounds  # an entry is at most its row's and its column's sum
    assert np.abs(least).max() <= 1e-9
    assert greatest == pytest.approx(np.full(63, 1 / 9))
    assert len(asked) <= 40, "one program for each of 63 entries and side, where a few bring all to their bounds"

"""Declarations at their edges: NaN, infinite numbers, no entries at all; families and oracles that return nonsense."""

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
import polytopes

nan, inf = np.nan, np.inf
Constraints = Callable[[cp.Variable], list]


def declared(more: Constraints, n: int = 3) -> cvxsst.Polytope:
    z = cp.Variable(n)
    return cvxsst.Polytope(z, [z >= 0, z <= 1, *more(z)])


NOT_NUMBERS: dict[str, Constraints] = {
    "z <= nan": lambda z: [z <= nan],
    "z >= nan": lambda z: [z >= nan],
    "one bound": lambda z: [z <= np.array([1, nan, 1])],
    "== nan": lambda z: [cp.sum(z) == nan],
    "a coefficient": lambda z: [np.array([1, nan, 1]) @ z <= 1],
    "within an atom": lambda z: [cp.norm1(z - nan) <= 1],
    "inf - inf": lambda z: [z + inf <= inf],
    "an infinite coefficient": lambda z: [np.array([1, inf, 1]) @ z <= 1],
    "a coefficient of 1e20": lambda z: [np.array([1, 1e20, 1]) @ z <= 1],
}


@pytest.mark.parametrize("case", NOT_NUMBERS)
def test_what_is_no_number_is_refused_by_the_name_of_its_constraint(case: str) -> None:
    with pytest.raises(ValueError, match=r"constraints\[3\] \(.*\) holds (nan|inf|1e\+20), (not a|too large)"):
        declared(lambda z: [cp.sum(z) <= 2, *NOT_NUMBERS[case](z)])


def test_nan_beside_attributes_is_refused() -> None:
    z = cp.Variable((2, 2), symmetric=True)
    with pytest.raises(ValueError, match=r"constraints\[0\]"):
        cvxsst.Polytope(z, [z <= nan])


SAYS_NOTHING: dict[str, Constraints] = {
    "z <= inf": lambda z: [z <= inf],
    "z >= -inf": lambda z: [z >= -inf],
    "one row": lambda z: [z <= np.array([1, inf, 1])],
    "a sum": lambda z: [cp.sum(z) <= inf],
    "an atom": lambda z: [cp.norm_inf(z) <= inf, cp.max(z) <= inf],
    "1e20": lambda z: [cp.sum(z) <= 1e20],
}


@pytest.mark.parametrize("case", SAYS_NOTHING)
def test_infinite_bounds_say_nothing(case: str) -> None:
    P, cube = declared(SAYS_NOTHING[case]), declared(lambda z: [])
    w = torch.tensor([[0.3, -1.0, 4.0], [-1.0, -2.0, -3.0]], dtype=torch.float64)
    assert torch.equal(cvxsst.argmax(P, w), cvxsst.argmax(cube, w))
    torch.testing.assert_close(cvxsst.softmax(P, w), cvxsst.softmax(cube, w), atol=1e-9, rtol=0)
    assert cvxsst.audit(P).passed


def test_bounds_with_infinite_ends() -> None:
    z = cp.Variable(2, bounds=[np.array([0, -inf]), np.array([1, inf])])
    with pytest.raises(cvxsst.UnboundedPolytopeError, match="1 from above, 1 from below"):
        cvxsst.Polytope(z, [])
    assert cvxsst.Polytope(z, [cp.abs(z[1]) <= z[0]]).bounds[1] == pytest.approx([1, 1])


def test_an_infinite_bound_bounds_nothing() -> None:
    z = cp.Variable(2)
    with pytest.raises(cvxsst.UnboundedPolytopeError, match="0 from above, 1 from above"):
        cvxsst.Polytope(z, [z >= 0, z <= inf])


SAYS_TOO_MUCH: dict[str, Constraints] = {
    "z <= -inf": lambda z: [z <= -inf],
    "z >= inf": lambda z: [z >= inf],
    "== inf": lambda z: [cp.sum(z) == inf],
    "== -inf": lambda z: [z == -inf],
    "an atom": lambda z: [cp.max(z) <= -inf],
    "one row": lambda z: [z <= np.array([1, -inf, 1])],
    "-1e20": lambda z: [cp.sum(z) <= -1e20],
}


@pytest.mark.parametrize("case", SAYS_TOO_MUCH)
def test_what_no_number_satisfies_is_named(case: str) -> None:
    with pytest.raises(
        cvxsst.EmptyPolytopeError, match=r"because of constraints\[3\] \([^)]*\)*[^)]*\) alone: relax it"
    ):
        declared(lambda z: [cp.sum(z) <= 2, *SAYS_TOO_MUCH[case](z)])


def test_attributes_and_infinite_bounds_together() -> None:
    z = cp.Variable(3, nonneg=True)
    P = cvxsst.Polytope(z, [cp.sum(z) <= 1, z <= inf])
    assert cvxsst.argmax(P, torch.tensor([1.0, 2.0, 0.0])).tolist() == [0, 1, 0]


# Without entries: Z = {()}, one structure. CVXPY allows such variables; so do we, wherever the constraints can hold.


@pytest.mark.parametrize("batch", [(), (3,), (0,), (2, 3)])
@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_a_variable_without_entries(shape: tuple[int, ...], batch: tuple[int, ...]) -> None:
    z = cp.Variable(shape)
    P = cvxsst.Polytope(z, [z >= 0, z <= 1])
    w = torch.zeros(*batch, *shape, requires_grad=True)
    assert cvxsst.argmax(P, w).shape == w.shape
    assert cvxsst.argmax(P, w, engine="enumeration").shape == w.shape
    for f in (cvxsst.Euclidean(), cvxsst.CategoricalEntropy(), cvxsst.ExponentialFamily()):
        found, info = cvxsst.softmax(P, w, f, return_info=True)
        found.sum().backward()
        assert found.shape == w.shape
        assert w.grad is not None
        assert w.grad.shape == w.shape
        assert info.converged.shape == batch
        assert bool(info.converged.all())
        judged = cvxsst.certificate(P, found, w, f)
        assert judged.gap.shape == judged.infeasibility.shape == batch
        assert torch.equal(judged.gap, torch.zeros(batch, dtype=torch.float64))
        assert torch.equal(judged.infeasibility, torch.zeros(batch, dtype=torch.float64))
    assert cvxsst.audit(P).passed
    assert P.vertices().shape == (1, 0)


def test_without_entries_the_constraints_still_count() -> None:
    z, y = cp.Variable(0), cp.Variable(2)
    assert cvxsst.argmax(cvxsst.Polytope(z, [y >= 0, cp.sum(y) == 1]), torch.zeros(4, 0)).shape == (4, 0)
    with pytest.raises(cvxsst.EmptyPolytopeError, match=r"constraints\[0\]"):
        cvxsst.Polytope(z, [cp.sum(z) == 1])


# Families and oracles.


@pytest.mark.parametrize("returned", [3, (1, 2, 3)], ids=["int", "three"])
def test_a_family_that_returns_a_shape_needs_an_argmax(returned: Any) -> None:
    family = cvxsst.polytope(lambda n: returned)
    with pytest.raises(TypeError, match=r"a shape and no constraints.*argmax, or return \(variable, constraints\)"):
        family(2)


@pytest.mark.parametrize("returned", [None, [1, 2], cp.Variable(2)], ids=["None", "list", "variable"])
def test_a_family_that_returns_no_declaration(returned: Any) -> None:
    family = cvxsst.polytope(lambda n: returned)
    with pytest.raises(TypeError, match=r"must return \(variable, constraints\).*end it with: return z, \["):
        family(2)


@pytest.mark.parametrize(("returned", "says"), [((1, []), "variable: expected a cvxpy.Variable, got int")])
def test_a_family_that_returns_no_variable(returned: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        cvxsst.polytope(lambda n: returned)(2)


@pytest.mark.parametrize(
    ("oracle", "got"),
    [
        (lambda w, n: w.sum(-1), r"\(4,\)"),
        (lambda w, n: w[..., :-1], r"\(4, 2\)"),
        (lambda w, n: w.numpy(), "ndarray"),
        (lambda w, n: None, "NoneType"),
    ],
)
def test_an_oracle_that_returns_another_shape(oracle: Callable, got: str) -> None:
    @cvxsst.polytope
    def cube(n: int) -> Any:
        z = cp.Variable(n)
        return z, [z >= 0, z <= 1]

    cube.argmax(oracle)
    cube.softmax(cvxsst.Euclidean)(oracle)
    w = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=rf"argmax oracle of cube\(3\) returned {got} for utilities of shape \(4, 3\)"):
        cvxsst.argmax(cube(3), w)
    with pytest.raises(ValueError, match=rf"path registered for cube\(3\) returned {got} for utilities of shape"):
        cvxsst.softmax(cube(3), w)


def test_arguments_of_a_family_are_constants() -> None:
    family = cvxsst.polytope(lambda c: (z := cp.Variable(2), [z >= 0, np.array(c) @ z <= 1]))
    c = torch.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"c: a family's arguments are constants.*requires a gradient.*detached"):
        family(c)
    with pytest.raises(TypeError, match="c: a family's arguments are constants"):
        family([c[0], c[1]])
    assert family(c.detach()) is family((1.0, 2.0))
    with pytest.raises(TypeError, match="c: a family's arguments must be hashable, got dict"):
        family({})


def test_the_zoo_says_how_small_it_goes() -> None:
    with pytest.raises(ValueError, match="n: at least 1, got 0"):
        polytopes.cube(0)

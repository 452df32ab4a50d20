"""Declarations that are members of a family are recognized by their matrices, and nothing else is."""

import copy
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cvxsst
import polytopes
from cvxsst.polytope import GUESSING

EUCLIDEAN = cvxsst.Euclidean()


def doubly_stochastic(n: int, **options) -> cvxsst.Polytope:
    Z = cp.Variable((n, n))
    return cvxsst.Polytope(Z, [Z >= 0, cp.sum(Z, axis=0) == 1, cp.sum(Z, axis=1) == 1], **options)


def spelled_differently() -> list[tuple[cvxsst.Polytope, cvxsst.Polytope]]:
    """(as a user might write it, what it is)"""
    x, y, z, v = cp.Variable(5), cp.Variable(5, nonneg=True), cp.Variable(5, bounds=[0, 1]), cp.Variable(4)
    w, X, e = cp.Variable(4), cp.Variable((4, 4), nonneg=True), cp.Variable(6)
    at = np.array([[1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]])
    Z = cp.Variable((3, 3), nonneg=True)
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
        (cvxsst.Polytope(e, [e >= 0, at @ e == 1]), polytopes.matching(4)),
    ]


@pytest.mark.parametrize(("P", "what"), spelled_differently(), ids=lambda P: repr(P))
def test_equal_declarations_are_recognized(P, what, generator: torch.Generator) -> None:
    assert P.known is what
    w = torch.randn(4, *P.shape, generator=generator, dtype=torch.float64)
    assert torch.equal(cvxsst.argmax(P, w), cvxsst.argmax(what, w))
    z = cvxsst.softmax(P, w, EUCLIDEAN)
    assert (z - cvxsst.softmax(what, w, EUCLIDEAN)).abs().max() <= 1e-9
    assert cvxsst.certificate(P, z, w, EUCLIDEAN).gap.max() <= 1e-8
    if cvxsst.which_engine(what, EUCLIDEAN) == "fast":
        assert cvxsst.which_engine(P, EUCLIDEAN) == f"fast ({what!r})"
    assert f"recognized  as {what!r}" in str(cvxsst.audit(P, objectives=5))


def near_misses() -> list[cvxsst.Polytope]:
    x, Z, w = cp.Variable(5, nonneg=True), cp.Variable((3, 3), nonneg=True), cp.Variable(3)
    X = cp.Variable((3, 3), nonneg=True)
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
    ]


@pytest.mark.parametrize("P", near_misses(), ids=lambda P: "; ".join(map(str, P.constraints)))
def test_near_misses_are_not(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    assert P.known is None
    assert cvxsst.which_engine(P, EUCLIDEAN) == "kkt"
    w = torch.randn(3, *P.shape, generator=generator, dtype=torch.float64)
    z = cvxsst.softmax(P, w, EUCLIDEAN)
    assert cvxsst.certificate(P, z, w, EUCLIDEAN).gap.max() <= 1e-8


def test_it_can_be_switched_off_and_travels() -> None:
    entropy = cvxsst.CategoricalEntropy()
    P, plain = doubly_stochastic(4), doubly_stochastic(4, recognize=False)
    assert cvxsst.which_engine(P, entropy) == "fast (birkhoff(4))"
    assert cvxsst.which_engine(plain, entropy) == "kkt"
    w = torch.zeros(4, 4, dtype=torch.float64)
    w[0, 1] = -torch.inf
    assert torch.allclose(cvxsst.softmax(P, w, entropy), cvxsst.softmax(plain, w, entropy), atol=1e-8)
    for Q, name in ((P, "fast (birkhoff(4))"), (plain, "kkt")):
        assert cvxsst.which_engine(pickle.loads(pickle.dumps(Q)), entropy) == name
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
    assert P.known is (polytopes.simplex(n) if k == 1 else polytopes.k_subset(n, k))
    wrong = h.copy()
    wrong[n] *= 0.9
    assert cvxsst.Polytope(z, [G[order] @ z <= wrong[order], cp.sum(z) == k]).known is None or abs(shift[n]) > 1e6


def test_a_family_of_ones_own_guesses_too() -> None:
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

    try:
        z = cp.Variable(3, nonneg=True)
        P = cvxsst.Polytope(z, [z <= 2.5])
        assert cvxsst.which_engine(P, EUCLIDEAN) == "fast (box(3, 2.5))"
        assert cvxsst.softmax(P, torch.tensor([3.0, 1.0, -1.0])).tolist() == [2.5, 1.0, 0.0]
    finally:
        GUESSING.remove(box)

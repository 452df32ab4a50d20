"""The batched KKT engine beyond the laws: extreme scales, derivatives of every order, its linear algebra."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import cvxsst
import polytopes
from benchmarks.engines import extreme_instances
from cvxsst.engines.kkt.elimination import DELTA, Pattern
from cvxsst.engines.kkt.matrix import Matrix
from cvxsst.geometry.canonical import StandardForm

from .table import POLYTOPES, in_domain, utilities

REGULARIZERS = (cvxsst.Euclidean(), cvxsst.CategoricalEntropy(), cvxsst.BinaryEntropy())
SMOOTH = [
    (P, regularizer)
    for P in (
        polytopes.birkhoff(3),
        polytopes.k_subset(5, 2),
        polytopes.spanning_tree(4),
        polytopes.matching(4),
        polytopes.cube(3),
    )
    for regularizer in REGULARIZERS
]


def solve(P: cvxsst.Polytope, w: torch.Tensor, regularizer: cvxsst.Regularizer, T=0.7) -> torch.Tensor:
    return cvxsst.softmax(P, w, regularizer, T, engine="kkt")


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
def test_random_instances_over_six_decades_are_right(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """Ties, zeros, |w| and T from 1e-3 to 1e3: none fails, and the certificates of some are small."""
    for regularizer in REGULARIZERS:
        if not in_domain(P, regularizer):
            continue
        w, T = extreme_instances(P, 60, generator)
        z, info = cvxsst.softmax(P, w, regularizer, T, engine="kkt", return_info=True)
        assert info.converged.all()
        judged = cvxsst.certificate(P, z[::12], w[::12], regularizer, T[::12])
        size = w[::12].abs().flatten(1).amax(1) + T[::12]
        assert judged.infeasibility.max() <= 1e-8
        assert (judged.gap / size).max() <= 1e-8


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
def test_agrees_with_the_reference(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """z to 1e-8 of an engine that shares nothing with it, the gradient to 1e-6."""
    for regularizer in REGULARIZERS:
        if not in_domain(P, regularizer):
            continue
        w = utilities(P, 6, generator=generator).requires_grad_()
        g = utilities(P, 6, generator=generator)
        results = []
        for engine in ("kkt", "cvxpylayer"):
            z = cvxsst.softmax(P, w, regularizer, 0.5, engine=engine)
            (gradient,) = torch.autograd.grad(z, w, g)
            results.append((z.detach(), gradient))
        assert (results[0][0] - results[1][0]).abs().max() <= 1e-8
        assert (results[0][1] - results[1][1]).abs().max() <= 1e-6


def test_masks_over_six_decades(generator: torch.Generator) -> None:
    P = polytopes.birkhoff(4)
    for regularizer in REGULARIZERS:
        w, T = extreme_instances(P, 40, generator)
        w[torch.rand(w.shape, generator=generator) < 0.2] = -torch.inf
        z, info = cvxsst.softmax(P, w, regularizer, T, engine="kkt", on_failure="nan", return_info=True)
        assert torch.equal(info.converged, ~info.empty)
        ok = info.converged
        assert ok.sum() >= 20
        assert (z[ok][w[ok] == -torch.inf] == 0).all()
        assert cvxsst.certificate(P, z[ok], w[ok], regularizer, T[ok]).infeasibility.max() <= 1e-8


def test_entropic_gradients_at_low_temperature(generator: torch.Generator) -> None:
    """Birkhoff(5), T = 0.05, where cone programs lose the gradient: relative 1e-6 in every instance."""
    P, T = polytopes.birkhoff(5), 0.05
    w = utilities(P, 64, generator=generator).requires_grad_()
    g = utilities(P, 64, generator=generator)
    for regularizer in REGULARIZERS[1:]:
        (gradient,) = torch.autograd.grad(solve(P, w, regularizer, T), w, g)
        h = 1e-5 * T
        with torch.no_grad():
            sides = [solve(P, w + s * h * g, regularizer, T) for s in (2, 1, -1, -2)]
        central = (-sides[0] + 8 * sides[1] - 8 * sides[2] + sides[3]) / (12 * h)  # fourth order
        error = (gradient - central).flatten(1).norm(dim=1)
        noise = 1e-14 / h  # of the differences
        assert (error <= 1e-6 * central.flatten(1).norm(dim=1) + 10 * noise).all()


@pytest.mark.parametrize(("P", "regularizer"), SMOOTH, ids=str)
def test_function_transforms(P: cvxsst.Polytope, regularizer, generator: torch.Generator) -> None:
    w = utilities(P, 4, generator=generator)

    def f(x: torch.Tensor) -> torch.Tensor:
        return solve(P, x, regularizer)

    n = P.size
    torch.testing.assert_close(torch.func.vmap(f)(w), f(w), atol=1e-12, rtol=0)
    nested = torch.func.vmap(torch.func.vmap(f))(w.reshape(2, 2, *P.shape))
    torch.testing.assert_close(nested.reshape(w.shape), f(w), atol=1e-12, rtol=0)
    J = torch.func.jacrev(f)(w[0]).reshape(n, n)
    torch.testing.assert_close(torch.func.jacfwd(f)(w[0]).reshape(n, n), J, atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(f))(w)[0].reshape(n, n), J, atol=1e-9, rtol=0)
    v = utilities(P, generator=generator)
    moved = torch.func.jvp(f, (w[0],), (v,))[1]
    torch.testing.assert_close(moved.reshape(-1), J @ v.reshape(-1), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("P", "regularizer"), SMOOTH, ids=str)
def test_second_derivative_is_the_difference_of_the_first(P, regularizer, generator: torch.Generator) -> None:
    w, v = utilities(P, generator=generator), utilities(P, generator=generator)
    n, h = P.size, 1e-5

    def gradient(x: torch.Tensor) -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad((solve(P, leaf, regularizer) * v).sum(), leaf)[0].reshape(-1)

    def value(x: torch.Tensor) -> torch.Tensor:
        return (solve(P, x, regularizer) * v).sum()

    H = torch.func.hessian(value)(w).reshape(n, n)  # forward over reverse
    twice = torch.autograd.functional.hessian(value, w)  # reverse over reverse
    assert isinstance(twice, torch.Tensor)
    assert (H - twice.reshape(n, n)).abs().max() <= 1e-8
    steps = [h * e.reshape(P.shape) for e in torch.eye(n, dtype=torch.float64)]
    differences = torch.stack([(gradient(w + s) - gradient(w - s)) / (2 * h) for s in steps])
    assert (H - differences).abs().max() <= 1e-5
    if not isinstance(regularizer, cvxsst.Euclidean) and P.presolved.dimension:
        assert H.abs().max() > 1e-3  # there is something to get right


def test_values_are_checked_under_transforms() -> None:
    P = polytopes.birkhoff(2)
    w = torch.zeros(3, 2, 2)
    w[1, 0, 1] = torch.nan
    with pytest.raises(ValueError, match="nan"):
        torch.func.vmap(lambda x: cvxsst.softmax(P, x))(w)


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
def test_elimination_solves_the_system(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """Whichever rows stay apart: none of those that are short, or every other one."""
    form, B = P.presolved.form, 5
    steep = np.arange(form.G.shape[0]) % 2 == 0
    for pattern in (Pattern(form.A, form.G), Pattern(form.A, form.G, steep)):
        solves_the_system(pattern, form, B, generator)


def solves_the_system(pattern: Pattern, form: StandardForm, B: int, generator: torch.Generator) -> None:
    D = torch.rand(pattern.N, B, generator=generator, dtype=torch.float64) + 0.1
    W = 10 ** (6 * torch.rand(form.G.shape[0], B, generator=generator, dtype=torch.float64) - 3)
    sizes = pattern.N, pattern.m, len(W)
    right = [torch.randn(k, B, generator=generator, dtype=torch.float64) for k in sizes]
    found = torch.cat(pattern.factor(D, W).solve(*right))
    A, G = torch.from_numpy(form.A.toarray()), torch.from_numpy(form.G.toarray())
    for i in range(B):
        rows = torch.cat([A, G])
        below = -torch.cat([torch.full((len(A),), DELTA, dtype=torch.float64), 1 / W[:, i]]).diag()
        M = torch.cat([torch.cat([D[:, i].diag(), rows.T], 1), torch.cat([rows, below], 1)])
        expected = torch.linalg.solve(M, torch.cat(right)[:, i])
        assert (found[:, i] - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("density", [0.02, 0.5])
def test_matrix_products(density: float) -> None:
    M = sp.random_array((90, 70), density=density, rng=np.random.default_rng(0), format="csr")
    x, y = (np.random.default_rng(1).normal(size=(k, 3)) for k in (70, 90))
    matrix = Matrix(M)
    assert (matrix.dense is None) == (density < 0.1)
    np.testing.assert_allclose((matrix @ torch.from_numpy(x)).numpy(), M @ x, atol=1e-12)
    np.testing.assert_allclose((matrix.T @ torch.from_numpy(y)).numpy(), M.T @ y, atol=1e-12)
    np.testing.assert_allclose((matrix.square().T @ torch.from_numpy(y)).numpy(), (M * M).T @ y, atol=1e-12)


def test_one_instance_does_not_disturb_another(generator: torch.Generator) -> None:
    P = polytopes.spanning_tree(4)
    w = utilities(P, 6, generator=generator)
    harsh = w.clone()
    harsh[2] *= 1e6
    for regularizer in REGULARIZERS:
        calm, shaken = (solve(P, x, regularizer) for x in (w, harsh))
        others = [0, 1, 3, 4, 5]
        assert (calm[others] - shaken[others]).abs().max() <= 1e-9


@pytest.mark.parametrize("regularizer", [cvxsst.Euclidean(), cvxsst.CategoricalEntropy()], ids=repr)
def test_active_constraints_do_not_yield(regularizer, generator: torch.Generator) -> None:
    """On a permutahedron, where entries are of order n and the hull is lifted: the gradient of isotonic regression."""
    P = polytopes.permutahedron(12)
    w, g = (utilities(P, 10, generator=generator) for _ in range(2))
    found = []
    for engine in ("kkt", "fast"):
        leaf = w.clone().requires_grad_()
        z = cvxsst.softmax(P, leaf, regularizer, 0.1, engine=engine)
        found.append(torch.autograd.grad(z, leaf, g)[0])
    off = (found[0] - found[1]).norm(dim=1) / found[1].norm(dim=1).clamp_min(1)
    assert off.max() <= 1e-6

"""Tsallis entropies on the simplex are alpha-entmax; the laws of every regularizer are in ``test_laws``."""

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
import polytopes
from cvxsst import Tsallis

from .table import utilities

ALPHAS = (1.05, 1.3, 1.5, 1.9, 2.0)
P = polytopes.simplex(8)


def entmax(u: torch.Tensor, alpha: float) -> torch.Tensor:
    """[(alpha - 1) u - tau]_+^(1 / (alpha - 1)) with sum 1 (Peters et al. 2019, equation 11): tau by bisection."""
    x = (alpha - 1) * u
    low, high = x.amax(-1, keepdim=True) - 1, x.amax(-1, keepdim=True)
    for _ in range(100):
        tau = (low + high) / 2
        enough = ((x - tau).clamp_min(0.0) ** (1 / (alpha - 1))).sum(-1, keepdim=True) > 1
        low, high = torch.where(enough, tau, low), torch.where(enough, high, tau)
    return (x - tau).clamp_min(0.0) ** (1 / (alpha - 1))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("engine", ["kkt", "cvxpylayer"])
def test_value_and_gradient_are_those_of_entmax(alpha: float, engine: str, generator: torch.Generator) -> None:
    """J = diag(s) - s s' / sum s,  s = z^(2 - alpha) on the support (Peters et al. 2019, proposition 2)."""
    batch = 500 if engine == "kkt" else 10
    u = (2 * utilities(P, batch, generator=generator)).requires_grad_()
    g = utilities(P, batch, generator=generator)
    z = cvxsst.softmax(P, u, Tsallis(alpha), engine=engine)
    assert (z - entmax(u, alpha)).abs().max() <= 1e-9
    (gradient,) = torch.autograd.grad(z, u, g)
    s = torch.where(z > 0, z.detach() ** (2 - alpha), 0.0)
    expected = s * (g - (s * g).sum(1, keepdim=True) / s.sum(1, keepdim=True))
    assert (gradient - expected).abs().max() <= 1e-8


def test_the_package_entmax_agrees(generator: torch.Generator) -> None:
    package = pytest.importorskip("entmax", reason="a peer of the benchmarks; the formula itself is tested above")
    u = (2 * utilities(P, 100, generator=generator)).requires_grad_()
    g = utilities(P, 100, generator=generator)
    ours, theirs = cvxsst.softmax(P, u, Tsallis(1.5)), package.entmax15(u)
    assert (ours - theirs).abs().max() <= 1e-9
    assert (torch.autograd.grad(ours, u, g)[0] - torch.autograd.grad(theirs, u, g)[0]).abs().max() <= 1e-8


@pytest.mark.parametrize("alpha", [1.3, 1.5, 1.9])
def test_second_derivative_is_the_difference_of_the_first(alpha: float, generator: torch.Generator) -> None:
    for Q in (P, polytopes.birkhoff(3), polytopes.spanning_tree(4)):
        u, v = utilities(Q, generator=generator), utilities(Q, generator=generator)

        def first(x: torch.Tensor, Q: cvxsst.Polytope = Q, v: torch.Tensor = v) -> torch.Tensor:
            return torch.func.grad(lambda y: (cvxsst.softmax(Q, y, Tsallis(alpha), engine="kkt") * v).sum())(x)

        H = torch.func.jacrev(first)(u).reshape(Q.size, Q.size)
        twice = torch.func.jacfwd(first)(u).reshape(Q.size, Q.size)
        h = 1e-5
        steps = [h * e.reshape(Q.shape) for e in torch.eye(Q.size, dtype=torch.float64)]
        differences = torch.stack([(first(u + s) - first(u - s)).reshape(-1) / (2 * h) for s in steps])
        assert (H - differences).abs().max() <= 1e-5 * differences.abs().max().clamp_min(1.0)
        assert (H - twice).abs().max() <= 1e-8 * H.abs().max().clamp_min(1.0)
        assert H.abs().max() > 1e-3  # there is something to get right


def test_two_is_the_projection_and_one_the_softmax(generator: torch.Generator) -> None:
    u = utilities(P, 50, generator=generator)
    assert (cvxsst.softmax(P, u, Tsallis(2.0)) - cvxsst.softmax(P, u, cvxsst.Euclidean())).abs().max() <= 1e-9
    off = [(cvxsst.softmax(P, u, Tsallis(a)) - torch.softmax(u, 1)).abs().max() for a in (1.1, 1.01, 1.001)]
    assert off[0] > off[1] > off[2]
    assert off[2] <= 1e-3


@pytest.mark.parametrize("alpha", ALPHAS)
def test_formulas_belong_to_one_function(alpha: float) -> None:
    f, z = Tsallis(alpha), torch.tensor([0.0, 1e-9, 0.3, 1.0, 7.0], dtype=torch.float64)
    assert (f.primal(f.gradient(z)) - z).abs().max() <= 1e-9 * 7
    inside = z[2:].clone().requires_grad_()
    (slope,) = torch.autograd.grad(f.value(inside).sum(), inside, create_graph=True)
    assert torch.allclose(slope, f.gradient(z[2:]), atol=1e-12)
    (curvature,) = torch.autograd.grad(slope.sum(), inside)
    assert torch.allclose(1 / curvature, f.slope(z[2:]), rtol=1e-10)
    assert f.slope(z)[0] == 0
    assert torch.isinf(f.value(torch.tensor([-0.1]))).all()
    x, y = z[:, None], z[None, 1:]
    bregman = f.value(x) - f.value(y) - f.gradient(y) * (x - y)
    assert (f.divergence(x, y) - bregman).abs().max() <= 1e-11
    near = torch.tensor(0.3, dtype=torch.float64)
    for d in (1e-3, 1e-6, 1e-9):  # no cancellation: half of phi'' d^2
        expected = 0.5 * near ** (alpha - 2) * d * d
        assert abs(f.divergence(near + d, near).item() / expected.item() - 1) <= 2 * d / 0.3 + 1e-6
    p = torch.linspace(-5, 3, 50, dtype=torch.float64)
    conjugate = p * f.primal(p) - f.value(f.primal(p))
    assert (f.excess(z[:, None], p) - (f.value(z)[:, None] + conjugate - p * z[:, None])).abs().max() <= 1e-11
    assert f.curvature_up_to(4.0) <= (1 / f.slope(torch.tensor([1e-3, 1.0, 4.0]))).min() + 1e-6
    v = cp.Variable(5)
    v.value = z.numpy()
    assert np.isclose(float(f.expression(v).value or 0.0), f.value(z).sum().item(), atol=1e-9)


def test_it_is_sparse_and_validated() -> None:
    z = cvxsst.softmax(polytopes.spanning_tree(4), 3 * torch.arange(6.0), Tsallis(1.5))
    assert (z <= 1e-9).any()
    assert (cvxsst.softmax(P, 3 * torch.arange(8.0), Tsallis(1.5)) == 0).any()
    for Q in (P, polytopes.matching(4)):
        report = cvxsst.validate("kkt", Q, Tsallis(1.5), n=6, temperatures=(1.0, 0.1))
        assert report.passed, str(report)
    compared = cvxsst.compare("kkt", lambda u: entmax(u, 1.5), P, Tsallis(1.5), names=("kkt", "mine"), masks=False, n=6)
    assert set(compared.verdicts.values()) == {"mine is wrong"}  # autograd takes its tau for a constant
    assert compared.a.passed
    assert compared.b["value"].passed


@pytest.mark.parametrize("alpha", [1, 1.0, 0.5, 2.5, np.inf, np.nan])
def test_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha: must be above 1"):
        Tsallis(alpha)


def test_alpha_of_the_wrong_type_and_a_domain_that_does_not_fit() -> None:
    with pytest.raises(cvxsst.ArgumentTypeError, match="alpha"):
        Tsallis("1.5")  # type: ignore[arg-type]
    z = cp.Variable(2)
    with pytest.raises(ValueError, match="defined for entries in"):
        cvxsst.softmax(cvxsst.Polytope(z, [cp.abs(z) <= 1]), torch.zeros(2), Tsallis())

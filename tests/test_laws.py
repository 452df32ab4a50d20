"""The laws of the softmax, on every row of the table polytope x regularizer x engine."""

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
from cvxsst.regularizers import Separable

from .table import ASYMMETRY, CASES, DEVICES, GAP, REGULARIZERS, Case, all_vertices, utilities, value

each_case = pytest.mark.parametrize("case", CASES, ids=str)
TEMPERATURES = (1.0, 0.2)
ENTROPIC = (cvxsst.CategoricalEntropy, cvxsst.BinaryEntropy, cvxsst.ExponentialFamily)


@each_case
def test_solution_is_feasible_and_certified_optimal(case: Case, generator: torch.Generator) -> None:
    w = utilities(case.P, 3, generator=generator)
    for T in TEMPERATURES:
        z = case.solve(w, T)
        certificate = case.judge(z, w, T)
        assert certificate.infeasibility.max() <= 1e-9
        assert certificate.gap.abs().max() <= GAP[case.engine]


@each_case
def test_cold_softmax_is_close_to_the_argmax(case: Case, generator: torch.Generator) -> None:
    """z is no worse than the best vertex v: <w, v - z> <= T (f(v) - f(z)). So as T falls z is drawn to v.

    w is chosen so that v is the only maximizer by a margin: w = 2 v - 1 where all vertices are 0/1, else from samples.
    """
    V = all_vertices(case.P).reshape(-1, case.P.size)
    if bool(((V == 0) | (V == 1)).all()):
        w = 2 * V[torch.randint(len(V), (1,), generator=generator)] - 1
    else:
        samples = utilities(case.P, 100, generator=generator).reshape(100, -1)
        w = samples[_margins(samples, V).argmax()][None]
    v = V[(w @ V.T).argmax()][None]
    shaped = w.reshape(1, *case.P.shape)
    assert torch.equal(cvxsst.argmax(case.P, shaped).reshape(1, -1), v)
    distances = []
    for T in (1.0, 0.5, 0.2):
        z = case.solve(shaped, T).reshape(1, -1)
        distances.append((z - v).abs().max().item())
        if isinstance(case.regularizer, Separable):
            assert (w * (v - z)).sum() <= T * (value(case.regularizer, v) - value(case.regularizer, z)) + 1e-9
    assert distances[0] >= distances[1] - 1e-9
    assert distances[1] >= distances[2] - 1e-9
    if isinstance(case.regularizer, cvxsst.Euclidean):
        assert distances[-1] <= 1e-9  # reaches the vertex at a positive temperature
    else:
        assert distances[-1] <= 0.05 * max(1.0, v.abs().max().item())


def _margins(w: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """By how much the best vertex beats the second, for each row of w."""
    values = (w @ V.T).sort(dim=1, descending=True).values
    return values[:, 0] - values[:, min(1, len(V) - 1)]


@each_case
def test_hot_softmax_minimizes_the_regularizer(case: Case, generator: torch.Generator) -> None:
    """As T grows, z tends to argmin f over P: the mean of all structures, or what CVXPY finds on its own."""
    w = utilities(case.P, generator=generator)
    z = case.solve(w, 1e7).numpy()
    if isinstance(case.regularizer, cvxsst.ExponentialFamily):
        expected = all_vertices(case.P).mean(0).numpy()
    else:
        assert isinstance(case.regularizer, Separable)
        assert case.P.variable is not None
        problem = cp.Problem(cp.Minimize(case.regularizer.expression(case.P.variable)), case.P.constraints)
        with np.errstate(invalid="ignore"):  # CVXPY evaluates f at its answer, which rounding may leave outside
            problem.solve(solver=cp.CLARABEL)
        expected = np.asarray(case.P.variable.value)
    assert np.abs(z - expected).max() <= 3e-4  # CVXPY's answer is right to the square root of its tolerance


@each_case
def test_derivative_is_symmetric_positive_and_the_central_difference(case: Case, generator: torch.Generator) -> None:
    n = case.P.size
    w = utilities(case.P, generator=generator).reshape(-1)
    eye = torch.eye(n, dtype=torch.float64)

    def solve(rows: torch.Tensor) -> torch.Tensor:
        return case.solve(rows.reshape(-1, *case.P.shape), 0.5).reshape(-1, n)

    rows = w.expand(n, n).clone().requires_grad_()
    (J,) = torch.autograd.grad(solve(rows), rows, eye)
    h = 1e-4
    difference = (solve(w + h * eye) - solve(w - h * eye)) / (2 * h)
    assert (J - J.T).abs().max() <= ASYMMETRY[case.engine]
    assert torch.linalg.eigvalsh((J + J.T) / 2).min() >= -ASYMMETRY[case.engine]
    assert (J - difference).abs().max() <= 1e-5 * max(1.0, J.abs().max().item())


@each_case
def test_finite_difference_backward_agrees(case: Case, generator: torch.Generator) -> None:
    w = utilities(case.P, 2, generator=generator).requires_grad_()
    g = utilities(case.P, 2, generator=generator)
    (implicit,) = torch.autograd.grad(case.solve(w), w, g)
    (central,) = torch.autograd.grad(case.solve(w, backward="finite_difference"), w, g)
    assert (implicit - central).abs().max() <= 1e-5


@each_case
def test_batch_is_the_stack_of_its_instances(case: Case, generator: torch.Generator) -> None:
    w = utilities(case.P, 2, 3, generator=generator)
    together = case.solve(w, 0.5)
    apart = torch.stack([torch.stack([case.solve(w[i, j], 0.5) for j in range(3)]) for i in range(2)])
    assert together.shape == w.shape
    assert (together - apart).abs().max() <= 1e-9
    assert case.solve(w[:0]).shape == w[:0].shape


@each_case
@pytest.mark.parametrize("device", DEVICES)
def test_dtype_and_device_are_those_of_the_utilities(case: Case, device: str, generator: torch.Generator) -> None:
    w = utilities(case.P, 2, generator=generator).float()
    reference = case.solve(w.double())
    z = case.solve(w.to(device))
    assert z.dtype == torch.float32
    assert z.device.type == device
    assert (z.cpu() - reference).abs().max() <= 1e-6 * max(1.0, reference.abs().max().item())


@each_case
def test_ties_shifts_and_extreme_scales(case: Case, generator: torch.Generator) -> None:
    """w = 0 is a tie of all structures; adding a normal vector of the affine hull changes nothing."""
    w = utilities(case.P, generator=generator)
    zero = torch.zeros_like(w)
    assert case.judge(case.solve(zero), zero).gap.abs() <= GAP[case.engine]
    E = torch.from_numpy(case.P.presolved.hull[0])
    if len(E):
        shift = (E.T @ torch.randn(len(E), generator=generator, dtype=torch.float64)).reshape(case.P.shape)
        assert (case.solve(w + 10 * shift) - case.solve(w)).abs().max() <= 1e-7
    assert (case.solve(1e9 * w, 1e9) - case.solve(w)).abs().max() <= 1e-7
    assert (case.solve(1e-9 * w, 1e-9) - case.solve(w)).abs().max() <= 1e-7


@each_case
def test_minus_infinity_forbids_an_entry(case: Case, generator: torch.Generator) -> None:
    """The limit of lower and lower utilities: z = 0 there, no gradient, the rest solved on the face."""
    V = all_vertices(case.P).reshape(-1, case.P.size)
    used = (V != 0).any(0) & (V >= 0).all(0) & (V == 0).any(0)
    if not bool(used.any()):
        pytest.skip("no entry can be forbidden: each is needed, unused, or can be negative")
    entry = int(used.nonzero().flatten()[0])
    w = utilities(case.P, 2, generator=generator).reshape(2, -1)
    w[0, entry] = -torch.inf
    shaped = w.reshape(2, *case.P.shape).requires_grad_()
    z = case.solve(shaped, 0.5)
    g = utilities(case.P, 2, generator=generator)
    (gradient,) = torch.autograd.grad(z, shaped, g)
    flat = z.detach().reshape(2, -1)
    assert flat[0, entry] == 0
    assert gradient.reshape(2, -1)[0, entry] == 0
    assert torch.isfinite(gradient).all()
    certificate = case.judge(z.detach(), shaped.detach(), 0.5)
    assert certificate.infeasibility.max() <= 1e-9
    assert certificate.gap.abs().max() <= GAP[case.engine]
    distances = []
    for low in (-2.0, -4.0, -8.0):
        w[0, entry] = low
        near = case.solve(w.reshape(2, *case.P.shape), 0.5).reshape(2, -1)
        distances.append((near - flat).abs().max())
    assert distances[0] >= distances[1] - 1e-9
    assert distances[1] >= distances[2] - 1e-9
    assert distances[2] <= 0.1


@each_case
def test_temperature_has_the_gradient_of_the_chain_rule(case: Case, generator: torch.Generator) -> None:
    w = utilities(case.P, 2, generator=generator)
    g = utilities(case.P, 2, generator=generator)
    T = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((case.solve(w, T) * g).sum(), T)
    h = 1e-5
    with torch.no_grad():
        sides = [(case.solve(w, T + s * h) * g).reshape(2, -1).sum(1) for s in (1, -1)]
    assert (gradient - (sides[0] - sides[1]) / (2 * h)).abs().max() <= 1e-4


def test_every_regularizer_and_engine_is_on_the_table() -> None:
    from cvxsst.engines import ENGINES

    assert {case.engine for case in CASES} >= set(ENGINES) - {"fast"}
    assert {case.regularizer for case in CASES} == set(REGULARIZERS)
    assert {type(f) for f in REGULARIZERS} >= {cvxsst.Euclidean, *ENTROPIC}

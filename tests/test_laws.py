"""The laws of the softmax, on every row of the table polytope x regularizer x engine."""

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
from cvxsst.engines import ENGINES
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


# On many instances at once: an error in one of a thousand is an error.

MANY, COLDEST, SEEN, STEP = 1000, 0.01, 1e-6, 1e-4
BATCHED = [case for case in CASES if ENGINES[case.engine].batched]


@pytest.mark.parametrize("case", BATCHED, ids=str)
def test_a_thousand_instances_and_their_gradients(case: Case, generator: torch.Generator) -> None:
    """At T = 10 to .01: z is in P and optimal; J g is the central difference of z where that exists,
    <g, J h> = <J g, h>, <g, J g> >= 0."""
    P, n = case.P, case.P.size
    T = torch.tensor((10.0, 1.0, 0.1, COLDEST), dtype=torch.float64).repeat(MANY // 4)
    w, g, h = (utilities(P, MANY, generator=generator) for _ in range(3))
    size, step = max(1.0, float(np.abs(P.bounds).max(initial=0.0))), (T * STEP).reshape(-1, *[1] * len(P.shape))

    def solve(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z, info = case.solve(w, T, on_failure="nan", return_info=True)
        return z, info.converged

    leaf = w.clone().requires_grad_()
    z, solved = solve(leaf)
    assert solved.double().mean() >= 0.99
    flat, u = z.detach().reshape(MANY, n), w.reshape(MANY, n) / T[:, None]
    wrong = solved & ~right(case, flat, u, size, generator)
    assert not wrong.any(), f"{int(wrong.sum())} of {MANY} at T = {set(T[wrong].tolist())}"

    Jg, Jh = (torch.autograd.grad(z, leaf, x, retain_graph=True)[0].reshape(MANY, n) for x in (g, h))
    sides = {s: solve(w + s * step * g) for s in (1.0, -1.0, 0.25, -0.25)}
    known = solved & torch.stack([converged for _, converged in sides.values()]).all(dim=0)
    moved = {s: side.reshape(MANY, n) for s, (side, _) in sides.items()}
    coarse = (moved[1.0] - moved[-1.0]) / (2 * STEP * T[:, None])
    fine = (moved[0.25] - moved[-0.25]) / (0.5 * STEP * T[:, None])
    jump = (moved[0.25] - 2 * flat + moved[-0.25]) / (0.25 * STEP * T[:, None])
    scale = fine.abs().amax(dim=1).clamp_min(1e-2 / T * size)
    smooth = known & (most(coarse - fine) <= 1e-3 * scale) & (most(jump) <= 1e-2 * scale)
    wrong = smooth & ~(most(Jg - fine) <= 1e-2 * scale)
    assert not wrong.any(), f"gradients of {int(wrong.sum())} of {MANY} at T = {set(T[wrong].tolist())}"
    G, H = g.reshape(MANY, n), h.reshape(MANY, n)
    asymmetry = ((G * Jh).sum(1) - (Jg * H).sum(1)).abs() / scale
    assert (asymmetry[smooth] <= SEEN).all()
    assert (((G * Jg).sum(1) / scale)[solved] >= -SEEN).all()


def most(rows: torch.Tensor) -> torch.Tensor:
    return rows.abs().amax(dim=1)


def right(case: Case, z: torch.Tensor, u: torch.Tensor, size: float, generator: torch.Generator) -> torch.Tensor:
    """``(B,)``: z is in P, and its gap by all vertices small; what that leaves open (an entropy's gradient at its
    end) ``certificate`` tells. An exponential family's z is a sum over all structures."""
    P, f, V = case.P, case.regularizer, all_vertices(case.P).reshape(-1, case.P.size)
    if isinstance(f, cvxsst.ExponentialFamily):
        return most(z - torch.softmax(u @ V.T, dim=1) @ V) <= SEEN * size
    allowed, inside = SEEN * size * (1 + most(u)), z.clamp(*f.domain)
    proved = torch.zeros(len(z), dtype=torch.bool)
    for g, D in f.bounds(P, u, inside, torch.zeros_like(z, dtype=torch.bool)):
        proved |= ((g @ V.T).amax(dim=1) - (g * inside).sum(1) + D) <= allowed
    # in P, if none of many directions tells it from P: axes, random ones, all the utilities
    directions = [torch.eye(P.size, dtype=u.dtype), torch.randn(500, P.size, generator=generator, dtype=u.dtype)]
    axes = torch.cat([*directions, u / most(u)[:, None]])
    axes = torch.cat([axes, -axes])
    far = (z @ axes.T - (axes @ V.T).amax(dim=1)).amax(dim=1) > SEEN * size
    for i in (~proved).nonzero().flatten().tolist():
        found = case.judge(inside[i].reshape(P.shape), u[i].reshape(P.shape))
        proved[i] = bool(found.gap <= allowed[i])
    return proved & ~far

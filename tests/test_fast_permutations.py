"""The fast paths of the Birkhoff polytope and the permutahedron, beyond the laws."""

import mpmath  # type: ignore[import-untyped]  # comes with torch
import pytest
import torch

import cvxsst
import polytopes
from benchmarks.engines import extreme_instances
from cvxsst import BinaryEntropy, CategoricalEntropy, Euclidean
from polytopes._transport import _by_scaling, entropic
from polytopes.birkhoff import sinkhorn

from .table import utilities

BOTH = (Euclidean(), CategoricalEntropy())
ENTRYWISE = (*BOTH, BinaryEntropy())
BIRKHOFF = [(polytopes.birkhoff, n, regularizer) for n in (1, 2, 3, 5, 10) for regularizer in ENTRYWISE]
PERMUTAHEDRON = [(polytopes.permutahedron, n, regularizer) for n in (1, 2, 3, 6) for regularizer in BOTH]
each = pytest.mark.parametrize(
    ("family", "n", "regularizer"), [*BIRKHOFF, *PERMUTAHEDRON], ids=lambda x: getattr(x, "name", None) or str(x)
)
ENTROPY = CategoricalEntropy()


def solved(P, w, regularizer, T=1.0, engine="fast", g=None, **options):
    """z and the vector-Jacobian product with g, by default a fixed one."""
    leaf = w.clone().requires_grad_()
    if g is None:
        g = torch.randn(w.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z = cvxsst.softmax(P, leaf, regularizer, T, engine=engine, **options)
    (gradient,) = torch.autograd.grad(z, leaf, g)
    return z.detach(), gradient, g


@each
def test_agrees_with_kkt_over_six_decades(family, n, regularizer, generator: torch.Generator) -> None:
    """|w| and T from 1e-3 to 1e3, ties, zeros."""
    P = family(n)
    w, T = extreme_instances(P, 60, generator)
    fast, kkt = (cvxsst.softmax(P, w, regularizer, T, engine=engine) for engine in ("fast", "kkt"))
    assert (fast - kkt).abs().max() <= 1e-8 * n


@each
@pytest.mark.parametrize("scale", [1e6, 1e3, 1e-6, 0.0])
def test_certified_at_any_scale(family, n, regularizer, scale: float, generator: torch.Generator) -> None:
    P = family(n)
    w = utilities(P, 3, generator=generator, scale=scale)
    w[1] = w[1].round(decimals=-5 if scale == 1e6 else 0)  # ties
    z = cvxsst.softmax(P, w, regularizer, engine="fast")
    judged = cvxsst.certificate(P, z, w, regularizer)
    assert judged.infeasibility.max() <= 1e-9
    assert judged.gap.abs().max() <= 1e-10 * max(1.0, scale)


@each
def test_gradient_is_the_central_difference(family, n, regularizer, generator: torch.Generator) -> None:
    P = family(n)
    w = utilities(P, 8, generator=generator)
    for T in (1.0, 0.3):
        _, gradient, g = solved(P, w, regularizer, T)
        h = 1e-5
        sides = [cvxsst.softmax(P, w + s * h * g, regularizer, T, engine="fast") for s in (1, -1)]
        assert (gradient - (sides[0] - sides[1]) / (2 * h)).abs().max() <= 1e-6


@each
def test_second_derivative_is_the_difference_of_the_first(family, n, regularizer, generator: torch.Generator) -> None:
    P = family(n)
    w, v = utilities(P, generator=generator, scale=0.3), utilities(P, generator=generator)

    def value(x: torch.Tensor) -> torch.Tensor:
        return (cvxsst.softmax(P, x, regularizer, engine="fast") * v).sum()

    def first(x: torch.Tensor) -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(value(leaf), leaf)[0]

    hessian = torch.autograd.functional.hessian(value, w)
    assert isinstance(hessian, torch.Tensor)
    h = 1e-5
    difference = (first(w + h * v) - first(w - h * v)) / (2 * h)
    assert (hessian.reshape(P.size, P.size) @ v.reshape(-1) - difference.reshape(-1)).abs().max() <= 1e-6
    if isinstance(regularizer, CategoricalEntropy) and n >= 3:
        assert difference.abs().max() > 1e-3  # there is something to get right


@each
def test_float32_goes_in_and_comes_out(family, n, regularizer, generator: torch.Generator) -> None:
    P = family(n)
    path = P.family.softmax_paths[type(regularizer)]
    w = utilities(P, 2, 3, generator=generator)
    z = path(w.float(), n)
    assert z.dtype == torch.float32
    assert (z - path(w.float().double(), n)).abs().max() <= 1e-6 * n
    assert path(w[:0].float(), n).shape == w[:0].shape
    assert (path(w[0, 0], n) - path(w, n)[0, 0]).abs().max() <= 1e-12 * n


@each
def test_function_transforms(family, n, regularizer, generator: torch.Generator) -> None:
    P = family(n)
    w, v = utilities(P, 4, generator=generator), utilities(P, generator=generator)

    def f(x: torch.Tensor) -> torch.Tensor:
        return cvxsst.softmax(P, x, regularizer, 0.7, engine="fast")

    torch.testing.assert_close(torch.func.vmap(f)(w), f(w), atol=1e-10, rtol=0)
    nested = torch.func.vmap(torch.func.vmap(f))(w.reshape(2, 2, *P.shape))
    torch.testing.assert_close(nested.reshape(w.shape), f(w), atol=1e-10, rtol=0)
    J = torch.func.jacrev(f)(w[0]).reshape(P.size, P.size)
    torch.testing.assert_close(torch.func.jacfwd(f)(w[0]).reshape(P.size, P.size), J, atol=1e-10, rtol=0)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(f))(w)[0].reshape(J.shape), J, atol=1e-10, rtol=0)
    forward_over_reverse = torch.func.hessian(lambda x: (f(x) ** 2).sum())(w[0])
    reverse_twice = torch.autograd.functional.hessian(lambda x: (f(x) ** 2).sum(), w[0])
    torch.testing.assert_close(forward_over_reverse, reverse_twice, atol=1e-9, rtol=0)
    moved = torch.func.jvp(f, (w[0],), (v,))[1]
    torch.testing.assert_close(moved.reshape(-1), J @ v.reshape(-1), atol=1e-10, rtol=0)


def with_forbidden(w: torch.Tensor, allowed: list[list[int]]) -> torch.Tensor:
    return w.masked_fill(torch.tensor(allowed) == 0, -torch.inf)


TOTAL = [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]]  # each allowed entry is in a permutation
FORCED = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]  # entries forced to 1, separate components
NOT_TOTAL = [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]  # one permutation; above it all forced to 0
PARTLY = [[1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1]]  # two entries forced to 0, the rest free
NONE = [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]  # no permutation
NO_ROW = [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("regularizer", ENTRYWISE, ids=str)
def test_masks_of_every_kind_on_birkhoff(regularizer, scale: float, generator: torch.Generator) -> None:
    P = polytopes.birkhoff(4)
    w = utilities(P, 4, generator=generator, scale=scale)
    w = torch.stack([with_forbidden(x, m) for x, m in zip(w, (TOTAL, FORCED, NOT_TOTAL, PARTLY), strict=True)])
    (z, gradient, _), (z2, gradient2, _) = (solved(P, w, regularizer, engine=engine) for engine in ("fast", "kkt"))
    assert (z - z2).abs().max() <= 1e-8
    assert (gradient - gradient2).abs().max() <= 1e-6
    assert (z[w == -torch.inf] == 0).all()
    assert (gradient[w == -torch.inf] == 0).all()
    assert torch.equal(z[2], torch.eye(4, dtype=torch.float64))
    assert gradient[2].abs().max() <= 1e-12


@pytest.mark.parametrize("unroll", [False, True])
def test_a_mask_that_leaves_no_permutation_is_nan_alone(unroll: bool, generator: torch.Generator) -> None:
    w = utilities(polytopes.birkhoff(4), 4, generator=generator)
    masked = w.clone()
    masked[1], masked[3] = with_forbidden(w[1], NONE), with_forbidden(w[3], NO_ROW)
    leaf = masked.requires_grad_()
    z = sinkhorn(leaf, 4, unroll=unroll)
    (gradient,) = torch.autograd.grad(z[[0, 2]].square().sum(), leaf)
    assert torch.isnan(z[[1, 3]]).all()
    assert (z[[0, 2]] - sinkhorn(w, 4)[[0, 2]]).abs().max() <= 1e-11
    assert torch.isfinite(gradient[[0, 2]]).all()


@pytest.mark.parametrize("regularizer", ENTRYWISE, ids=str)
def test_random_masks_over_six_decades(regularizer, generator: torch.Generator) -> None:
    P = polytopes.birkhoff(4)
    w, T = extreme_instances(P, 24, generator)
    w[torch.rand(w.shape, generator=generator) < 0.2] = -torch.inf
    fast, kkt = (cvxsst.softmax(P, w, regularizer, T, engine=engine, on_failure="nan") for engine in ("fast", "kkt"))
    assert torch.equal(torch.isnan(fast), torch.isnan(kkt))
    assert not torch.isnan(kkt).all()
    assert (fast - kkt).nan_to_num().abs().max() <= 1e-8


@pytest.mark.parametrize("regularizer", ENTRYWISE, ids=str)
@pytest.mark.parametrize("n", [5, 20, 60])
def test_patterns_that_leave_little_choice(n: int, regularizer, generator: torch.Generator) -> None:
    """A pattern for each instance: next to nothing beside a permutation, bands, many a forced entry."""
    P, i = polytopes.birkhoff(n), torch.arange(n)
    w = utilities(P, 24, generator=generator, scale=3.0)
    allowed = torch.rand(w.shape, generator=generator) < 1.5 / n + 0.1 * torch.arange(24)[:, None, None] / 24
    allowed[::2] |= (i[:, None] - i).abs() < 2 + n // 8
    for m, own in enumerate(allowed):
        known = torch.randperm(n, generator=generator)[: 1 + m * n // 24]  # at least one: each is taken out
        own[known], own[:, known] = False, False
        own[i, i] = True
    w = w.masked_fill(~allowed, -torch.inf)[:, :, torch.randperm(n, generator=generator)]
    z = cvxsst.softmax(P, w, regularizer, engine="fast", on_failure="nan")
    judged = cvxsst.certificate(P, z, w, regularizer)
    assert judged.infeasibility.max() <= 1e-9
    assert judged.gap.abs().max() <= 1e-9 * n


def test_minus_infinity_on_the_permutahedron_is_nan_alone() -> None:
    u = torch.tensor([[1.0, -torch.inf, 2.0], [0.0, 3.0, 1.0]])
    for path in set(polytopes.permutahedron.softmax_paths.values()):
        z = path(u, 3)
        assert torch.isnan(z[0]).all()
        assert torch.isfinite(z[1]).all()


@pytest.mark.parametrize("T", [1.0, 0.05, 0.01, 1e-3, 1e-5])
def test_two_by_two_has_a_closed_form_at_any_temperature(T: float, generator: torch.Generator) -> None:
    """z_11 = sigmoid((w_11 + w_22 - w_12 - w_21) / 2 T): z and gradient to 1e-9 of their size, however small."""
    w = utilities(polytopes.birkhoff(2), 50, generator=generator)
    z, gradient, g = solved(polytopes.birkhoff(2), w, ENTROPY, T)
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    expected = torch.sigmoid((w * sign).sum((1, 2), keepdim=True) / (2 * T) * sign)
    slope = (expected[:, 0, 0] * expected[:, 0, 1] / (2 * T))[:, None, None] * (g * sign).sum((1, 2), keepdim=True)
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-90)
    torch.testing.assert_close(gradient, slope * sign, rtol=1e-9, atol=1e-90)


def test_columns_far_below_the_others(generator: torch.Generator) -> None:
    """What leaves the range of exp(u) is solved in the log domain."""
    w = utilities(polytopes.birkhoff(5), 6, generator=generator)
    depth = torch.tensor([0.0, 200.0, 500.0, 700.0, 740.0, 3000.0], dtype=torch.float64)
    low = w.clone()
    low[:, :, 1] -= depth[:, None]
    assert _by_scaling(low)[1].tolist() == [True, True, True, False, False, False]
    assert (cvxsst.softmax(polytopes.birkhoff(5), low, ENTROPY) - sinkhorn(w, 5)).abs().max() <= 1e-12


def test_what_shares_little_is_left_to_the_careful_way() -> None:
    """Where columns share 1e-7, sums of order 1 are too coarse."""
    w = torch.tensor([[[0.0, -9.0], [-9.0, 0.0]], [[0.0, -17.0], [-17.0, 0.0]]], dtype=torch.float64)
    assert _by_scaling(w)[1].tolist() == [True, False]


@pytest.mark.parametrize("n", [1, 2, 3, 10, 25])
def test_finite_utilities_need_no_other_engine(n: int, generator: torch.Generator) -> None:
    for T in (1e3, 1.0, 0.1, 0.05, 0.01, 1e-3, 1e-4, 1e-6):
        z = entropic(utilities(polytopes.birkhoff(n), 300 // n, generator=generator) / T)
        for dimension in (1, 2):
            assert (z.sum(dimension) - 1).abs().max() <= 1e-11


@pytest.mark.parametrize("T", [0.05, 0.01])
def test_gradients_at_low_temperature_against_sixty_digits(T: float, generator: torch.Generator) -> None:
    """Of every instance to 1e-6 of its size, however small that is."""
    P = polytopes.birkhoff(4)
    w = utilities(P, 8, generator=generator)
    _, gradient, g = solved(P, w, ENTROPY, T)
    for i in range(len(w)):
        exact = exact_gradient(w[i], g[i], T)
        assert (gradient[i] - exact).norm() <= 1e-6 * exact.norm()


def exact_gradient(w: torch.Tensor, g: torch.Tensor, T: float) -> torch.Tensor:
    """The difference quotient of Newton's method on the dual, in arithmetic that needs no care."""
    n, h = len(w), mpmath.mpf(10) ** -100
    with mpmath.workdps(300):
        start = sinkhorn(w / T, n).clamp_min(1e-300).log() - w / T
        z = []
        for sign in (1, -1):
            u = mpmath.matrix(n, n)
            for i in range(n):
                for j in range(n):
                    u[i, j] = (mpmath.mpf(w[i, j].item()) + sign * h * mpmath.mpf(g[i, j].item())) / mpmath.mpf(T)
            z.append(exact_sinkhorn(u, [float(x) for x in start[0]]))
        return torch.tensor([[float((z[0][i, j] - z[1][i, j]) / (2 * h)) for j in range(n)] for i in range(n)]).double()


def exact_sinkhorn(u, b):
    """exp(u + a + b) with rows and columns that sum to 1, by Newton on b."""
    n, b = u.rows, [mpmath.mpf(x) for x in b]
    for _ in range(60):
        z = mpmath.matrix(n, n)
        for i in range(n):
            row = [mpmath.exp(u[i, j] + b[j]) for j in range(n)]
            for j in range(n):
                z[i, j] = row[j] / sum(row)
        miss = mpmath.matrix([sum(z[i, j] for i in range(n)) - 1 for j in range(n - 1)])
        L = mpmath.matrix(n - 1, n - 1)
        for j in range(n - 1):
            for k in range(n - 1):
                L[j, k] = sum(z[i, j] * ((j == k) - z[i, k]) for i in range(n))
        step = mpmath.lu_solve(L, miss)
        for j in range(n - 1):
            b[j] -= step[j]
        if max(abs(s) for s in step) < mpmath.mpf(10) ** -130:
            return z
    raise AssertionError("no convergence")


@pytest.mark.parametrize("T", [0.05, 0.01, 1e-3])
def test_larger_birkhoff_at_low_temperature(T: float, generator: torch.Generator) -> None:
    """The gradient, to 1e-6 of its size where it is no smaller than what the engines may be off by."""
    P = polytopes.birkhoff(10)
    w = utilities(P, 32, generator=generator)
    (z, gradient, _), (z2, gradient2, _) = (solved(P, w, ENTROPY, T, engine=engine) for engine in ("fast", "kkt"))
    assert (z - z2).abs().max() <= 1e-8
    size = gradient2.flatten(1).norm(dim=1)
    assert ((gradient - gradient2).flatten(1).norm(dim=1) <= 1e-6 * size + 1e-8 / T).all()


def test_columns_that_share_next_to_nothing_at_a_tie() -> None:
    """Components joined by weights far below rounding: their potentials must not run away and spoil the others."""
    w = torch.full((4, 4), -40.0, dtype=torch.float64)
    w[:2, :2], w[2:, 2:] = 0.0, 0.0
    z, gradient, g = solved(polytopes.birkhoff(4), w, ENTROPY)
    half = torch.kron(torch.eye(2), torch.full((2, 2), 0.5)).double()
    assert (z - half).abs().max() <= 1e-12
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    for part in (slice(0, 2), slice(2, 4)):
        expected = (g[part, part] * sign).sum() * sign / 8
        assert (gradient[part, part] - expected).abs().max() <= 1e-9


@pytest.mark.parametrize(("n", "T"), [(100, 10.0), (100, 1.0), (100, 0.1), (50, 0.01), (50, 1e-6), (200, 1.0)])
def test_large_projections_prove_themselves(n: int, T: float, generator: torch.Generator) -> None:
    """No permutation has more of u - z than z has, so z is nearest; the derivative is a projection that keeps row and
    column sums, and the difference quotient of the projection."""
    P = polytopes.birkhoff(n)
    w = utilities(P, 4, generator=generator)
    w[1] = 200 * torch.rand(n, n, generator=generator, dtype=torch.float64) - 100
    z, gradient, g = solved(P, w, Euclidean(), T)
    assert z.min() >= 0
    assert (z.sum(-1) - 1).abs().max() <= 1e-12
    assert (z.sum(-2) - 1).abs().max() <= 1e-12
    normal = w / T - z
    gap = ((cvxsst.argmax(P, normal) - z) * normal).sum((1, 2))
    assert gap.abs().max() <= 1e-13 * n * (1 + normal.abs().max())
    again = solved(P, w, Euclidean(), T, g=gradient * T)[1]
    assert (again - gradient).abs().max() <= 1e-10 / T
    assert max(gradient.sum(-1).abs().max(), gradient.sum(-2).abs().max()) <= 1e-10 / T
    h = 1e-7 * T
    sides = [cvxsst.softmax(P, w + s * h * g, Euclidean(), T) for s in (1, -1)]
    smooth = ((sides[0] > 0) == (sides[1] > 0)).flatten(1).all(1)
    assert smooth.sum() >= 3
    assert (gradient - (sides[0] - sides[1]) / (2 * h))[smooth].abs().max() <= 1e-6 / T


def test_projections_at_ties_and_in_blocks(generator: torch.Generator) -> None:
    """Utilities of 0 and 1 times any scale, and blocks far apart: components whose prices are undetermined."""
    P = polytopes.birkhoff(6)
    w = (torch.rand(200, 6, 6, generator=generator) < 0.5).double()
    w[100:, :3, :3] += 50
    for T in (10.0, 1.0, 0.1, 0.01):
        z, gradient, _ = solved(P, w, Euclidean(), T)
        normal = w / T - z
        assert ((cvxsst.argmax(P, normal) - z) * normal).sum((1, 2)).abs().max() <= 1e-11
        assert (z.sum(-2) - 1).abs().max() <= 1e-14 * 6
        assert gradient.isfinite().all()
        assert (gradient[z == 0] == 0).all()


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_binary_prices_at_ties(scale: float, generator: torch.Generator) -> None:
    """Whole utilities far apart: faces of many permutations, joined by next to nothing."""
    P = polytopes.birkhoff(20)
    w = utilities(P, 60, generator=generator).round() * scale
    z, gradient, _ = solved(P, w, BinaryEntropy())
    assert max((z.sum(-1) - 1).abs().max(), (z.sum(-2) - 1).abs().max()) <= 1e-11
    value = ((cvxsst.argmax(P, w) - z) * w).sum((1, 2))
    assert value.max() <= 20 * 20  # the entropy gives that much, T = 1
    assert gradient.isfinite().all()
    assert (solved(P, w + scale, BinaryEntropy())[0] - z).abs().max() <= 1e-9


@pytest.mark.parametrize("T", [1.0, 0.1])
def test_birkhoff_of_forty(T: float, generator: torch.Generator) -> None:
    P = polytopes.birkhoff(40)
    w = utilities(P, 3, generator=generator)
    z, gradient, g = solved(P, w, ENTROPY, T)
    assert cvxsst.certificate(P, z, w, ENTROPY, T).gap.abs().max() <= 1e-10
    h = 1e-5 * T
    sides = [cvxsst.softmax(P, w + s * h * g, ENTROPY, T) for s in (1, -1)]
    assert (gradient - (sides[0] - sides[1]) / (2 * h)).abs().max() <= 1e-6 / T


@pytest.mark.parametrize("regularizer", [Euclidean(), ENTROPY], ids=str)
@pytest.mark.parametrize("T", [1.0, 0.01])
def test_permutahedron_of_three_hundred(regularizer, T: float, generator: torch.Generator) -> None:
    """Optimal: z is majorized by the ranks, and u - f'(z) falls only where partial sums of both are equal."""
    n = 300
    w = utilities(polytopes.permutahedron(n), 5, generator=generator)
    z, gradient, _ = solved(polytopes.permutahedron(n), w, regularizer, T)
    order = w.argsort(-1, descending=True)
    s, sorted_z = (w / T).gather(-1, order), z.gather(-1, order)
    slack = torch.arange(n, 0, -1).double().cumsum(0) - sorted_z.cumsum(-1)
    v = s - (sorted_z if isinstance(regularizer, Euclidean) else sorted_z.log())
    assert slack.min() >= -1e-8
    assert slack[:, -1].abs().max() <= 1e-8
    assert (sorted_z.diff(dim=-1) <= 1e-10).all()
    assert (v.diff(dim=-1) <= 1e-10).all()
    assert (v.diff(dim=-1) * slack[:, :-1]).abs().max() <= 1e-6
    assert gradient.sum(-1).abs().max() <= 1e-9 / T


def test_unrolled_sweeps_give_the_implicit_gradient(generator: torch.Generator) -> None:
    P = polytopes.birkhoff(5)
    w = utilities(P, 2, 3, generator=generator)
    z, gradient, _ = solved(P, w, ENTROPY)
    z2, gradient2, _ = solved(P, w, ENTROPY, backward="unroll")
    assert (z - z2).abs().max() <= 1e-11
    assert (gradient - gradient2).abs().max() <= 1e-10
    assert (z2.sum(-2) - 1).abs().max() <= 1e-12
    single = cvxsst.softmax(P, w[0, 0].float(), ENTROPY, backward="unroll")
    assert single.dtype == torch.float32
    vmapped = torch.func.vmap(lambda x: cvxsst.softmax(P, x, ENTROPY, backward="unroll"))(w[0])
    assert (vmapped - z[0]).abs().max() <= 1e-11


def test_unrolled_sweeps_that_are_too_slow_say_so(generator: torch.Generator) -> None:
    P = polytopes.birkhoff(5)
    w = utilities(P, 2, generator=generator)
    w[1] *= 1000
    with pytest.raises(cvxsst.ConvergenceError, match="instances"):
        cvxsst.softmax(P, w, ENTROPY, backward="unroll")
    z = cvxsst.softmax(P, w, ENTROPY, backward="unroll", on_failure="nan")
    assert torch.isnan(z[1]).all()
    assert torch.isfinite(z[0]).all()


@pytest.mark.parametrize(
    ("P", "regularizer", "engine"),
    [
        (polytopes.birkhoff(3), ENTROPY, "kkt"),
        (polytopes.birkhoff(3), cvxsst.BinaryEntropy(), "auto"),
        (polytopes.permutahedron(3), Euclidean(), "fast"),
    ],
    ids=str,
)
def test_what_cannot_be_unrolled_is_refused_by_name(P, regularizer, engine: str) -> None:
    has = "has none" if P.family.name == "permutahedron" else r"has CategoricalEntropy\(\)"
    with pytest.raises(ValueError, match=rf"backward='unroll'.*{has}.*use backward='implicit'"):
        cvxsst.softmax(P, torch.zeros(P.shape), regularizer, engine=engine, backward="unroll")
    with pytest.raises(ValueError, match="unroll"):
        cvxsst.SoftmaxLayer(P, regularizer, engine=engine, backward="unroll")
    with pytest.raises(ValueError, match="'unroll', got"):
        cvxsst.softmax(P, torch.zeros(P.shape), regularizer, backward="unrolled")


def test_a_path_that_replaces_an_unrollable_one_is_not_taken_for_one() -> None:
    @cvxsst.polytope
    def family(n):
        import cvxpy as cp

        z = cp.Variable(n)
        return z, [z >= 0, cp.sum(z) == 1]

    @family.softmax(ENTROPY.__class__)
    def loop(u, n, unroll=False):
        return u.softmax(-1)

    assert family.unrollable == {CategoricalEntropy}

    @family.softmax(CategoricalEntropy)
    def closed(u, n):
        return u.softmax(-1)

    assert family.unrollable == set()

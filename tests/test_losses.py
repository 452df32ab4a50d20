"""smooth_max and Fenchel-Young losses: laws on every row of the table, and the losses that have names."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

import cvxsst
import polytopes
from cvxsst import ExponentialFamily, FenchelYoungLoss, fenchel_young_loss, smooth_max
from cvxsst.regularizers import Separable

from .table import CASES, GAP, Case, all_vertices, utilities, value

each_case = pytest.mark.parametrize("case", CASES, ids=str)
NEAR = 1e-6
NODES, WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(3))
TARGET_LOSS = 1e-12  # that is to be right in its first digits: to 1 %, and what 1e-15 of the utilities is


def loss(case: Case, w: torch.Tensor, z: torch.Tensor, T: float | torch.Tensor = 1.0, **options) -> torch.Tensor:
    return fenchel_young_loss(case.P, w, z, case.regularizer, T, case.engine, **options)


def pairing(a: torch.Tensor, b: torch.Tensor, case: Case) -> torch.Tensor:
    return (a * b).flatten(a.dim() - len(case.P.shape)).sum(-1) if case.P.shape else a * b


def targets(case: Case, count: int, generator: torch.Generator) -> torch.Tensor:
    """Vertices, and means of three of them, in turn."""
    V = all_vertices(case.P)
    drawn = V[torch.randint(len(V), (count, 3), generator=generator)]
    middle = torch.arange(count) % 2 == 1
    return torch.where(middle.reshape(-1, *[1] * len(case.P.shape)), drawn.mean(1), drawn[:, 0])


@each_case
def test_a_small_loss_is_right_in_its_first_digits(case: Case, generator: torch.Generator) -> None:
    """L(w + d; softmax(w)) = integral of <softmax(w + t d) - softmax(w), d> over 0 < t < 1: no difference of losses."""
    w, d = utilities(case.P, 2, generator=generator), NEAR * utilities(case.P, 2, generator=generator)
    z = case.solve(w)
    t = ((NODES + 1) / 2).reshape(-1, *[1] * w.dim())
    moved = pairing(case.solve(w + t * d) - z, d.expand(3, *d.shape), case)
    expected = (WEIGHTS[:, None] / 2 * moved).sum(0)
    found = loss(case, torch.cat([w + d, w]), torch.cat([z, z]))
    assert (found >= 0).all()
    assert ((found[:2] - expected).abs() <= 0.01 * expected + 2e-15).all()
    assert (found[2:] <= 1e-15).all()
    assert (expected < 20 * TARGET_LOSS).all()


@pytest.mark.parametrize("f", [cvxsst.CategoricalEntropy(), cvxsst.BinaryEntropy(), cvxsst.Euclidean()], ids=repr)
def test_tiny_losses_too_where_z_is_exact(f: cvxsst.Regularizer, generator: torch.Generator) -> None:
    """On the cube, where no equality rounds: losses of 1e-18, by the integral of the derivative of the softmax."""
    case = Case(polytopes.cube(5), f, "fast")
    w = utilities(case.P, 3, generator=generator).clamp(0.1, 0.9).requires_grad_()
    d = 1e-9 * utilities(case.P, 3, generator=generator)
    z = case.solve(w)
    (Jd,) = torch.autograd.grad(z, w, d)
    found = loss(case, (w + d).detach(), z.detach())
    assert torch.allclose(found, (d * Jd).sum(1) / 2, rtol=0.02, atol=1e-20)


@each_case
def test_gradient_convexity_and_definition(case: Case, generator: torch.Generator) -> None:
    P, T = case.P, 0.7
    ends, z = utilities(P, 2, generator=generator), targets(case, 2, generator)
    w = torch.cat([ends, ends.mean(0, keepdim=True)]).requires_grad_()
    best = case.solve(w, T)
    for target in z:
        found = loss(case, w, target, T)
        (gradient,) = torch.autograd.grad(found.sum(), w)
        assert torch.allclose(gradient, best - target, rtol=0, atol=1e-14)
        assert (found >= 0).all()
        assert found[2] <= found[:2].mean() + 1e-9
        # f is strongly convex: 0 only where z is the softmax
        distance = pairing(best - target, best - target, case).detach()
        assert (found >= T * case.regularizer.convexity(P) * distance / 2 - 1e-9).all()
    highest = smooth_max(P, w, case.regularizer, T, case.engine)
    assert torch.allclose(torch.autograd.grad(highest.sum(), w)[0], best, rtol=0, atol=1e-14)
    if isinstance(case.regularizer, Separable):
        points = torch.cat([z, best.detach()])
        f = value(case.regularizer, points.clamp(*case.regularizer.domain).reshape(len(points), -1))
        bound = pairing(w[:, None], points.expand(3, *points.shape), case) - T * f
        assert (highest[:, None] >= bound - GAP[case.engine]).all()  # the maximum over P, attained at the softmax
        assert ((highest - bound[:, 2:].diagonal()).abs() <= 1e-12).all()
        assert torch.allclose(loss(case, w, z[1], T), (highest - bound[:, 1]).clamp_min(0), atol=1e-8)
    else:
        V = all_vertices(P).reshape(-1, P.size)
        assert torch.allclose(highest, T * (w.reshape(3, -1) @ V.T / T).logsumexp(1), rtol=1e-12, atol=1e-12)


# of the rows that differ in the engine only the first, and all of one polytope
FIRST = [
    case
    for i, case in enumerate(CASES)
    if case.P is polytopes.k_subset(5, 2) or case.regularizer not in [c.regularizer for c in CASES[:i] if c.P is case.P]
]
each_first = pytest.mark.parametrize("case", FIRST, ids=str)


@each_first
def test_the_second_derivative_is_that_of_the_softmax(case: Case, generator: torch.Generator) -> None:
    w, g = utilities(case.P, generator=generator).requires_grad_(), utilities(case.P, generator=generator)
    (Jg,) = torch.autograd.grad(case.solve(w), w, g)
    for function in (smooth_max(case.P, w, case.regularizer, 1.0, case.engine), loss(case, w, case.solve(w.detach()))):
        (gradient,) = torch.autograd.grad(function, w, create_graph=True)
        (product,) = torch.autograd.grad(gradient, w, g)
        assert torch.allclose(product, Jg, atol=1e-12)


@each_first
def test_cold_smooth_max_is_the_maximum(case: Case, generator: torch.Generator) -> None:
    """max <w, z> - T max f <= smooth_max <= max <w, z> - T min f."""
    w = utilities(case.P, generator=generator)
    V = all_vertices(case.P).reshape(-1, case.P.size)
    highest = (V @ w.reshape(-1)).max()
    if isinstance(case.regularizer, Separable):
        f = value(case.regularizer, V)
        middle = case.solve(w, 1e7).reshape(-1)
        low, high = value(case.regularizer, middle.clamp(*case.regularizer.domain)), f.max()
    else:
        low, high = torch.tensor(-math.log(len(V))), torch.tensor(0.0)
    for T in (1.0, 0.1, 0.01):
        found = smooth_max(case.P, w, case.regularizer, T, case.engine)
        assert highest - T * high - 1e-7 <= found <= highest - T * low + 1e-7


@each_first
def test_forbidden_entries(case: Case, generator: torch.Generator) -> None:
    """The loss on the face that -inf leaves: the limit of lower and lower utilities; inf where the target leaves it."""
    V = all_vertices(case.P).reshape(-1, case.P.size)
    used = (V != 0).any(0) & (V >= 0).all(0) & (V == 0).any(0)
    if not bool(used.any()):
        pytest.skip("no entry can be forbidden: each is needed, unused, or can be negative")
    entry = int(used.nonzero().flatten()[0])
    w = utilities(case.P, generator=generator).reshape(-1)
    inside, outside = V[V[:, entry] == 0][0], V[V[:, entry] != 0][0]
    low = w.clone()
    low[entry], w[entry] = -200.0, -torch.inf
    w = w.reshape(case.P.shape).requires_grad_()
    z = torch.stack([inside, outside]).reshape(2, *case.P.shape)
    found = loss(case, w.expand(2, *case.P.shape), z)
    assert found[1] == torch.inf
    assert torch.allclose(found[0], loss(case, low.reshape(case.P.shape), z[0]), atol=1e-6)
    (gradient,) = torch.autograd.grad(found[0], w)
    assert gradient.reshape(-1)[entry] == 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("f", [cvxsst.Euclidean(), cvxsst.BinaryEntropy(), ExponentialFamily()])
def test_batches_types_and_temperatures(f: cvxsst.Regularizer, generator: torch.Generator) -> None:
    P, T = polytopes.k_subset(5, 2), torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    w = utilities(P, 3, 2, generator=generator)
    z = all_vertices(P)[[0, 4]]
    together = fenchel_young_loss(P, w, z, f, T)
    assert together.shape == (3, 2)
    for i in range(2):
        assert torch.allclose(together[1, i], fenchel_young_loss(P, w[1, i], z[i], f, T[i].item()))
    (gradient,) = torch.autograd.grad(together[1].sum(), T)
    h = 1e-6
    sides = [fenchel_young_loss(P, w[1], z, f, T.detach() + s * h) for s in (1, -1)]
    assert torch.allclose(gradient, (sides[0] - sides[1]) / (2 * h), atol=1e-7)
    single = fenchel_young_loss(P, w.float(), z.float(), f)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), fenchel_young_loss(P, w.float().double(), z, f), rtol=1e-6)
    assert fenchel_young_loss(P, w[:0], z, f).shape == (0, 2)
    assert smooth_max(P, w[:0], f).shape == (0, 2)
    assert fenchel_young_loss(P, w[:1, :1], z, f).shape == (1, 2)
    for reduction in ("mean", "sum"):
        module = FenchelYoungLoss(P, f, 0.5, reduction)
        assert torch.allclose(module(w, z), getattr(fenchel_young_loss(P, w, z, f, 0.5), reduction)())
    assert torch.equal(FenchelYoungLoss(P, f, reduction="none")(w, z), fenchel_young_loss(P, w, z, f))
    assert "reduction='sum'" in repr(FenchelYoungLoss(P, f, reduction="sum"))


@pytest.mark.parametrize("f", [cvxsst.Euclidean(), cvxsst.CategoricalEntropy(), ExponentialFamily()])
def test_transforms(f: cvxsst.Regularizer, generator: torch.Generator) -> None:
    P = polytopes.spanning_tree(4)
    w, d = utilities(P, 3, generator=generator), utilities(P, 3, generator=generator)
    z = all_vertices(P)[:3]

    def one(w: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return fenchel_young_loss(P, w, z, f) + smooth_max(P, w, f)

    assert torch.allclose(torch.vmap(one)(w, z), one(w, z), atol=1e-12)
    gradient = 2 * cvxsst.softmax(P, w, f) - z
    assert torch.allclose(torch.vmap(torch.func.grad(one))(w, z), gradient, atol=1e-12)
    assert torch.allclose(torch.func.jvp(lambda w: one(w, z), (w,), (d,))[1], (gradient * d).sum(1), atol=1e-12)


def test_on_the_simplex_they_are_cross_entropy_sparsemax_and_entmax_losses(generator: torch.Generator) -> None:
    """Martins and Astudillo 2016, equation 23; Peters, Niculae and Martins 2019, equation 13."""
    P, label = polytopes.simplex(5), torch.tensor([0, 3, 4])
    w, z = 3 * utilities(P, 3, generator=generator), one_hot(torch.tensor([0, 3, 4]), 5).double()
    for f in (ExponentialFamily(), cvxsst.CategoricalEntropy()):
        assert torch.allclose(fenchel_young_loss(P, w, z, f), cross_entropy(w, label, reduction="none"), atol=1e-12)
    p = cvxsst.softmax(P, w)
    tau = ((w - p) * (p > 0)).sum(1, keepdim=True) / (p > 0).sum(1, keepdim=True)
    sparsemax = -(w * z).sum(1) + ((w**2 - tau**2) * (p > 0)).sum(1) / 2 + 0.5
    assert torch.allclose(fenchel_young_loss(P, w, z), sparsemax, atol=1e-12)
    for alpha in (1.2, 1.5, 2.0):
        entmax = cvxsst.Tsallis(alpha)
        p = cvxsst.softmax(P, w, entmax)
        entropy = (1 - (p**alpha).sum(1)) / (alpha * (alpha - 1))
        assert torch.allclose(fenchel_young_loss(P, w, z, entmax), ((p - z) * w).sum(1) + entropy, atol=1e-9)


@pytest.mark.parametrize(
    "P",
    [
        polytopes.correlated_k_subset(6, 3),
        polytopes.path(4, ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3))),
        polytopes.spanning_tree(5),
        polytopes.arborescence(4),
        polytopes.projective_tree(5),
    ],
    ids=repr,
)
def test_the_exponential_family_gives_the_crf_loss(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """-log p(z) of chains and trees, by enumeration; p(z) near 1 too: log1p of what the others weigh."""
    V = all_vertices(P).reshape(-1, P.size)
    for scale in (1.0, 30.0):
        v = V[1::7]
        w = torch.randn(len(v), P.size, generator=generator, dtype=torch.float64) / 3 + scale * (2 * v - 1)
        others = ((w @ V.T) - (w * v).sum(1, keepdim=True)).exp()
        others[torch.arange(len(v)), torch.arange(len(V))[1::7]] = 0
        found = fenchel_young_loss(P, w.reshape(-1, *P.shape), v.reshape(-1, *P.shape), ExponentialFamily())
        expected = others.sum(1).log1p()
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-14)


def test_far_targets_keep_their_loss() -> None:
    """softmax underflows to 0 at the target: the loss is still what is between the utilities."""
    P, w, z = polytopes.simplex(3), torch.tensor([0.0, -2000.0, -3000.0]), torch.tensor([0.0, 1.0, 0.0])
    for f in (cvxsst.CategoricalEntropy(), ExponentialFamily()):
        assert fenchel_young_loss(P, w, z, f).item() == pytest.approx(2000.0)


def test_marginals_of_an_exponential_family(generator: torch.Generator) -> None:
    """KL(p_z || p_w), p_z the distribution of greatest entropy with mean z: on the cube the binary divergences."""
    P, w = polytopes.cube(4), torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)
    z = torch.tensor([0.2, 0.0, 1.0, 0.7], dtype=torch.float64)
    q = w.sigmoid()
    divergence = torch.special.xlogy(z, z / q) + torch.special.xlogy(1 - z, (1 - z) / (1 - q))
    assert fenchel_young_loss(P, w, z, ExponentialFamily()).item() == pytest.approx(divergence.sum().item(), abs=1e-12)


@pytest.mark.parametrize(
    "P", [polytopes.k_subset(30, 12), polytopes.arborescence(7), polytopes.projective_tree(8)], ids=repr
)
def test_marginals_of_more_structures_than_can_be_listed(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """At z = E_v[z] the loss is KL(p_v || p_w), near v as well as far from it; with what z leaves at 0 forbidden."""
    v, d = utilities(P, 2, generator=generator)
    v.reshape(-1)[torch.randperm(P.size, generator=generator)[: P.size // 5]] = -torch.inf
    z = cvxsst.softmax(P, v, ExponentialFamily())
    for distance in (2.0, 1e-5):
        w = (v + distance * d).nan_to_num(neginf=-2.0)
        found = fenchel_young_loss(P, w, z, ExponentialFamily())
        exact = torch.distributions.kl_divergence(cvxsst.Gibbs(v, P), cvxsst.Gibbs(w, P))
        assert torch.allclose(found, exact, rtol=1e-6, atol=1e-12)
    w, d = v.nan_to_num(neginf=0.0), NEAR * d
    z = cvxsst.softmax(P, w, ExponentialFamily())
    t = ((NODES + 1) / 2).reshape(-1, *[1] * len(P.shape))
    moved = ((cvxsst.softmax(P, w + t * d, ExponentialFamily()) - z) * d).flatten(1).sum(1)
    found = fenchel_young_loss(P, w + d, z, ExponentialFamily())
    assert found.item() == pytest.approx((WEIGHTS / 2 * moved).sum().item(), rel=1e-3, abs=0)


def quartic(z: cp.Expression) -> cp.Expression:
    return cp.sum(cp.power(z, 4)) / 4 + cp.sum_squares(z) / 2


def test_a_custom_regularizer() -> None:
    P, f = polytopes.k_subset(4, 2), cvxsst.Custom(quartic)
    generator = torch.Generator().manual_seed(0)
    w, d = utilities(P, generator=generator) / 3, utilities(P, generator=generator)
    z = cvxsst.softmax(P, w, f)
    for step in (1e-2, 1e-7):
        t = (NODES + 1)[:, None] / 2
        moved = ((cvxsst.softmax(P, w + step * t * d, f) - z) * step * d).sum(1)
        expected = (WEIGHTS / 2 * moved).sum()
        assert fenchel_young_loss(P, w + step * d, z, f).item() == pytest.approx(expected.item(), rel=1e-3, abs=0)


def test_failed_instances_are_nan_and_alone() -> None:
    w = torch.zeros(2, 3, requires_grad=True)
    z = torch.tensor([1.0, 0.0, 0.0])
    masked = w.masked_fill(torch.tensor([[True] * 3, [False] * 3]), -torch.inf)
    with pytest.raises(cvxsst.EmptyPolytopeError, match="forbid every structure"):
        fenchel_young_loss(polytopes.simplex(3), masked, z)
    found = fenchel_young_loss(polytopes.simplex(3), masked, z, on_failure="nan")
    assert found.isnan().tolist() == [True, False]
    for f in (cvxsst.Euclidean(), ExponentialFamily()):
        assert smooth_max(polytopes.simplex(3), masked, f, on_failure="nan").isnan().tolist() == [True, False]
    (gradient,) = torch.autograd.grad(found[1], w)
    assert gradient[1].isfinite().all()


P3, W3 = polytopes.simplex(3), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fenchel_young_loss(P3, W3, [1.0, 0, 0]), "z: expected a torch.Tensor"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: fenchel_young_loss(P3, W3, torch.ones(4)), r"z: the last dimensions .* \(3,\), got \(4,\)"),
        (lambda: fenchel_young_loss(P3, W3, torch.ones(3, 3) / 3), r"\(3,\) does not broadcast .* \(2,\)"),
        (lambda: fenchel_young_loss(P3, W3, torch.ones(3, requires_grad=True)), "detach"),
        (
            lambda: fenchel_young_loss(P3, W3, torch.tensor([2.0, -1.0, 0.0])),
            r"point of simplex\(3\).*instances \(0,\)",
        ),
        (lambda: fenchel_young_loss(P3, W3, torch.tensor([1.0, 1.0, 0.0])), "is not in it"),
        (lambda: fenchel_young_loss(P3, W3, torch.tensor([torch.nan, 1.0, 0.0])), "is not in it"),
        (lambda: fenchel_young_loss(P3, W3 + torch.nan, torch.tensor([0.0, 1.0, 0.0])), "w: nan"),
        (lambda: fenchel_young_loss(P3, W3, torch.tensor([0.0, 1.0, 0.0]), temperature=0.0), "positive"),
        (lambda: FenchelYoungLoss(P3, reduction="average"), "'none', 'mean' or 'sum', got 'average'"),
        (lambda: smooth_max(polytopes.birkhoff(12), torch.zeros(12, 12), ExponentialFamily()), "log_partition"),
    ],
)
def test_bad_input(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()

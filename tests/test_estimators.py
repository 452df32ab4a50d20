"""Estimators: each against that of which it says to be the gradient, by enumeration or in closed form.

Means of samples are held against exact values at level FALSE_ALARM, the probability that a right implementation fails a
comparison, for whatever seed; entries of a vector share it.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch.distributions import Gumbel, Normal, Uniform

import cvxsst
import polytopes
from benchmarks import estimators as benchmark
from cvxsst.estimators import (
    AdaptiveStrength,
    BatchMean,
    LeaveOneOut,
    MovingAverage,
    Reinforce,
    SumOfGamma,
    blackbox,
    identity,
    implicit_mle,
    perturbed_argmax,
    perturbed_loss,
    regret,
    sample_trace,
    spo_plus_loss,
    straight_through,
)

from .table import all_vertices, utilities, zoo
from .test_distributions import FALSE_ALARM

DISCRETE: dict[str, Callable] = {
    "straight_through": straight_through,
    "identity": identity,
    "identity, projected": lambda P, w: identity(P, w, project=True),
    "blackbox": blackbox,
    "implicit_mle": implicit_mle,
    "implicit_mle, central": lambda P, w: implicit_mle(P, w, central=True, strength=AdaptiveStrength()),
    "perturbed_argmax": perturbed_argmax,
    "perturbed_argmax, multiplicative": lambda P, w: perturbed_argmax(P, w, multiplicative=True),
}
GUMBEL = Gumbel(0.0, 1.0)


def assert_mean(samples: torch.Tensor, exact: torch.Tensor) -> None:
    """The mean over the first dimension is ``exact``, at level FALSE_ALARM."""
    error = samples.std(0) / math.sqrt(len(samples))
    allowed = stats.norm.isf(FALSE_ALARM / 2 / max(1, exact.numel()))
    assert ((samples.mean(0) - exact).abs() <= allowed * error + 1e-12).all()


def gradients(z: torch.Tensor, w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(z, w, g.expand(z.shape))[0]


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("P", zoo(), ids=repr)
def test_all_take_the_place_of_the_softmax(P: cvxsst.Polytope, name: str, generator: torch.Generator) -> None:
    V = all_vertices(P).reshape(-1, P.size)
    for batch in ((), (2,), (0,)):
        w = utilities(P, *batch, generator=generator).float().requires_grad_()
        z = DISCRETE[name](P, w)
        gradient = gradients(z, w, torch.ones_like(z))
        assert z.shape == gradient.shape == w.shape
        assert z.dtype == gradient.dtype == torch.float32
        assert gradient.isfinite().all()
        if not name.startswith("perturbed") and z.numel():
            assert torch.cdist(z.detach().reshape(-1, P.size).double(), V).amin(1).max() <= 1e-6
    entry = ((V != 0).any(0) & (V >= 0).all(0) & (V == 0).any(0)).nonzero().flatten()
    if len(entry):
        w = utilities(P, generator=generator).reshape(-1).index_fill(0, entry[:1], -torch.inf)
        w = w.reshape(P.shape).requires_grad_()
        z = DISCRETE[name](P, w)
        gradient = gradients(z, w, torch.ones_like(z)).reshape(-1)
        assert z.reshape(-1)[entry[0]] == gradient[entry[0]] == 0
        assert gradient.isfinite().all()


def test_straight_through_has_the_gradient_of_the_softmax(generator: torch.Generator) -> None:
    P, f = polytopes.birkhoff(3), cvxsst.CategoricalEntropy()
    w, g = utilities(P, 2, generator=generator).requires_grad_(), utilities(P, 2, generator=generator)
    z = straight_through(P, w, f, 0.5)
    assert torch.equal(z, cvxsst.argmax(P, w))
    assert torch.equal(gradients(z, w, g), gradients(cvxsst.softmax(P, w, f, 0.5), w, g))


def test_the_identity_is_a_direction_of_descent(generator: torch.Generator) -> None:
    P = polytopes.spanning_tree(5)
    w, g = utilities(P, 50, generator=generator).requires_grad_(), utilities(P, 50, generator=generator)
    for project in (False, True):
        z = identity(P, w, project)
        gradient = gradients(z, w, g)
        for step in (0.1, 1.0, 10.0):
            moved = cvxsst.argmax(P, w - step * gradient)
            assert ((g * moved).sum(1) <= (g * z).sum(1) + 1e-12).all()
    assert torch.equal(gradients(identity(P, w), w, g), g)
    # the affine hull is sum z = n - 1
    assert torch.allclose(gradients(identity(P, w, True), w, g), g - g.mean(1, keepdim=True))


@pytest.mark.parametrize("P", [polytopes.k_subset(6, 2), polytopes.birkhoff(4)], ids=repr)
def test_blackbox_is_the_gradient_of_its_interpolation(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    w, g = utilities(P, 20, generator=generator).requires_grad_(), utilities(P, 20, generator=generator)
    V = all_vertices(P).reshape(-1, P.size)
    for s in (0.1, 3.0):
        highest = (w.reshape(20, -1) @ V.T).amax(1) - ((w - s * g).reshape(20, -1) @ V.T).amax(1)
        exact = gradients(highest / s, w, torch.ones(20, dtype=torch.float64))
        assert torch.allclose(gradients(blackbox(P, w, s), w, g), exact, atol=1e-12)


def inclusion(theta: torch.Tensor, k: int) -> torch.Tensor:
    """E[z] of the k largest of theta + Gumbel, summed over all orders in which they are drawn."""
    n, mean = theta.shape[-1], torch.zeros_like(theta)
    for order in itertools.permutations(range(n), k):
        left, log_probability = list(range(n)), torch.zeros(theta.shape[:-1], dtype=theta.dtype)
        for item in order:
            log_probability = log_probability + theta[..., item] - theta[..., left].logsumexp(-1)
            left.remove(item)
        chosen = torch.zeros(n, dtype=theta.dtype)
        chosen[list(order)] = 1
        mean = mean + log_probability.exp()[..., None] * chosen
    return mean


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("central", [False, True])
def test_implicit_mle_is_unbiased_for_its_target(k: int, central: bool, generator: torch.Generator) -> None:
    P, s, scale = polytopes.k_subset(4, k), 1.5, 0.7
    w, g = utilities(P, 2, generator=generator)
    leaf = w.expand(20_000, 4).clone().requires_grad_()
    z = implicit_mle(P, leaf, GUMBEL, scale, s, central)
    assert_mean(z.detach(), inclusion(w / scale, k))
    here, below, above = (inclusion((w + step * g) / scale, k) for step in (0.0, -s, s))
    exact = (above - below) / (2 * s) if central else (here - below) / s
    assert_mean(gradients(z, leaf, g), exact)


def test_a_small_step_of_implicit_mle_is_the_derivative(generator: torch.Generator) -> None:
    """Central: of second order in s."""
    w, g = utilities(polytopes.k_subset(4, 2), 2, generator=generator)
    leaf = w.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(inclusion(leaf, 2), leaf, g)
    coarse, fine = ((inclusion(w + s * g, 2) - inclusion(w - s * g, 2)) / (2 * s) - derivative for s in (0.2, 0.1))
    assert fine.abs().max() <= 0.3 * coarse.abs().max()


def test_the_adaptive_strength_reaches_the_wanted_density(generator: torch.Generator) -> None:
    P, strength = polytopes.k_subset(10, 3), AdaptiveStrength(start=0.01, rate=0.01, density=0.2)
    shares = []
    for _ in range(400):
        w = utilities(P, 32, generator=generator).requires_grad_()
        g = 100 * utilities(P, 32, generator=generator)
        shares.append((gradients(implicit_mle(P, w, SumOfGamma(3), strength=strength), w, g) != 0).double().mean())
    assert torch.stack(shares[:5]).mean() < 0.1
    assert abs(torch.stack(shares[-100:]).mean() - 0.2) < 0.05
    before = strength.eval().scale.clone()
    w = utilities(P, generator=generator).requires_grad_()
    gradients(implicit_mle(P, w, strength=strength), w, torch.ones(10, dtype=torch.float64))
    assert torch.equal(strength.scale, before)
    assert "scale" in strength.state_dict()


@pytest.mark.parametrize("k", [1, 3])
def test_sum_of_gamma_sums_to_a_gumbel(k: int) -> None:
    """Of many terms: Kolmogorov and Smirnov's test at level FALSE_ALARM. Of ten: its own mean and variance."""
    total = SumOfGamma(k, terms=200).sample((4000, k)).sum(1)
    assert stats.kstest(total.numpy(), stats.gumbel_r.cdf).pvalue >= FALSE_ALARM
    noise = SumOfGamma(k)
    x = noise.sample((50_000,))
    assert_mean(x, noise.mean)
    assert_mean((x - noise.mean) ** 2, noise.variance)


def perturbed(samples: int, leaf: torch.Tensor, g: torch.Tensor, P: cvxsst.Polytope, *args) -> tuple[torch.Tensor, ...]:
    noise, scale = args or (Normal(0.0, 1.0), 1.0)
    z = perturbed_argmax(P, leaf, noise, scale, samples)
    return z.detach(), gradients(z, leaf, g)


@pytest.mark.parametrize("samples", [1, 5])
def test_perturbed_argmax_and_its_derivative_are_unbiased(samples: int, generator: torch.Generator) -> None:
    w, g = utilities(polytopes.simplex(4), 2, generator=generator)
    leaf, s = w.expand(20_000, 4).clone().requires_grad_(), 0.8
    z, gradient = perturbed(samples, leaf, g, polytopes.simplex(4), GUMBEL, s)
    p = (w / s).softmax(0)
    assert_mean(z, p)
    assert_mean(gradient, p * (g - (p * g).sum()) / s)
    z, gradient = perturbed(samples, leaf, g, polytopes.k_subset(4, 2), GUMBEL, s)
    one = w.clone().requires_grad_()
    mean = inclusion(one / s, 2)
    assert_mean(z, mean.detach())
    assert_mean(gradient, torch.autograd.grad(mean, one, g)[0])
    z, gradient = perturbed(samples, leaf, g, polytopes.cube(4), Normal(0.0, 1.0), s)
    normal = torch.distributions.Normal(0.0, 1.0)
    assert_mean(z, normal.cdf(w / s))
    assert_mean(gradient, g * normal.log_prob(w / s).exp() / s)


def test_multiplicative_noise_keeps_signs_and_is_unbiased() -> None:
    """P(a exp(s e) > b exp(s e')) = Phi(log(a / b) / (s sqrt 2))."""
    w, g, s = torch.tensor([2.0, 1.5], dtype=torch.float64), torch.tensor([1.0, -0.5], dtype=torch.float64), 0.6
    leaf, one = w.expand(20_000, 2).clone().requires_grad_(), w.clone().requires_grad_()
    z = perturbed_argmax(polytopes.simplex(2), leaf, scale=s, samples=4, multiplicative=True)
    first = torch.special.ndtr((one[0] / one[1]).log() / (s * math.sqrt(2)))
    exact = torch.stack([first, 1 - first])
    assert_mean(z.detach(), exact.detach())
    assert_mean(gradients(z, leaf, g), torch.autograd.grad(exact, one, g)[0])
    signs = torch.tensor([1.0, -1.0, 0.5, -0.1])
    assert torch.equal(perturbed_argmax(polytopes.cube(4), signs, scale=3.0, multiplicative=True), (signs > 0).float())


def test_the_baseline_lowers_the_variance(generator: torch.Generator) -> None:
    P = polytopes.k_subset(6, 2)
    leaf = utilities(P, generator=generator).expand(2000, 6).clone().requires_grad_()
    g = torch.ones(6, dtype=torch.float64) + utilities(P, generator=generator)
    with_baseline = perturbed(4, leaf, g, P)[1].var(0).sum()
    single = perturbed(1, leaf.detach().repeat(4, 1).requires_grad_(), g, P)[1].reshape(4, 2000, 6)
    assert with_baseline < 0.7 * single.mean(0).var(0).sum()


def test_perturbed_loss_is_cross_entropy_in_the_mean(generator: torch.Generator) -> None:
    P, s = polytopes.simplex(4), 0.7
    w, z = utilities(P, generator=generator), torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    leaf = w.expand(20_000, 4).clone().requires_grad_()
    loss = perturbed_loss(P, leaf, z, GUMBEL, s, samples=2)
    assert (loss >= 0).all()
    assert_mean(loss.detach(), s * (w / s).logsumexp(0) - w[2])
    assert_mean(torch.autograd.grad(loss.sum(), leaf)[0], (w / s).softmax(0) - z)
    assert perturbed_loss(P, w, z, multiplicative=True) >= 0


def test_spo_plus_bounds_the_regret(generator: torch.Generator) -> None:
    P = polytopes.path(5, ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)))
    w, c = utilities(P, 200, generator=generator).requires_grad_(), utilities(P, 200, generator=generator)
    loss, lost = spo_plus_loss(P, w, c), regret(P, w, c)
    best = cvxsst.argmax(P, c)
    assert (lost >= 0).all()
    assert (lost > 0).any()
    assert (loss >= lost - 1e-12).all()
    assert torch.equal(loss, spo_plus_loss(P, w, c, best))
    assert torch.equal(spo_plus_loss(P, c, c), torch.zeros(200, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss.sum(), w)
    assert torch.equal(gradient, 2 * (cvxsst.argmax(P, 2 * w.detach() - c) - best))
    # definition 3 of the paper, with costs: max over z of <k, z> - 2 <k', z>  +  2 <k', z*> - <k, z*>, k = -c, k' = -w
    V = all_vertices(P)
    definition = ((2 * w - c) @ V.T).amax(1) - 2 * (w * best).sum(1) + (c * best).sum(1)
    assert torch.allclose(loss, definition, atol=1e-12)


@pytest.mark.parametrize(
    "P", [polytopes.k_subset(5, 2), polytopes.arborescence(4), polytopes.projective_tree(4)], ids=repr
)
@pytest.mark.parametrize("estimator", [Reinforce(), LeaveOneOut(), BatchMean(), MovingAverage()])
def test_score_functions_over_structures(P: cvxsst.Polytope, estimator: Reinforce, generator: torch.Generator) -> None:
    """grad E[c(z)] of a Gibbs distribution, by enumeration; the batch's mean shrinks it by 1 - 1/B."""
    V = all_vertices(P)
    w, weight = utilities(P, 2, generator=generator)

    def cost(z: torch.Tensor) -> torch.Tensor:
        return ((z * weight).flatten(z.dim() - len(P.shape)).sum(-1) + 2) ** 2

    one = w.clone().requires_grad_()
    expected = ((V.reshape(len(V), -1) @ one.reshape(-1)).softmax(0) * cost(V)).sum()
    (exact,) = torch.autograd.grad(expected, one)
    repetitions, samples = 4000, 4
    leaf = w.expand(repetitions, *P.shape).clone().requires_grad_()
    p = cvxsst.Gibbs(leaf, P)
    z = p.sample((samples,))
    if isinstance(estimator, MovingAverage):
        estimator.advantage(cost(V), None)
        estimator.eval()
    found = gradients(estimator(cost(z), p.log_prob(z)).mean(0), leaf, torch.ones((), dtype=torch.float64))
    shrunk = 1 - 1 / (samples * repetitions) if isinstance(estimator, BatchMean) else 1.0
    assert_mean(found, shrunk * exact)
    assert (found.std(0) / math.sqrt(repetitions)).max() < 0.2 * exact.abs().max()  # else the line above says nothing


def kruskal_law(theta: torch.Tensor, n: int) -> dict[tuple[int, ...], torch.Tensor]:
    """Probability of each tree: over all orders of edges, each chosen among those between two components."""
    ends = list(itertools.combinations(range(n), 2))
    law: dict[tuple[int, ...], torch.Tensor] = {}

    def onward(component: list[int], chosen: tuple[int, ...], p: torch.Tensor) -> None:
        free = [e for e, (i, j) in enumerate(ends) if component[i] != component[j]]
        if not free:
            key = tuple(sorted(chosen))
            law[key] = law.get(key, torch.zeros(())) + p
        for e, q in zip(free, theta[free].softmax(0), strict=True):
            i, j = (component[end] for end in ends[e])
            onward([j if c == i else c for c in component], (*chosen, e), p * q)

    onward(list(range(n)), (), torch.ones((), dtype=theta.dtype))
    return law


@pytest.mark.parametrize("P", [polytopes.simplex(4), polytopes.k_subset(4, 2), polytopes.spanning_tree(4)], ids=repr)
def test_traces_have_the_law_of_the_argmax_and_less_variance(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    theta, weight = utilities(P, 2, generator=generator)

    def cost(z: torch.Tensor) -> torch.Tensor:
        return (z @ weight + 1) ** 2

    one = theta.clone().requires_grad_()
    if P is polytopes.spanning_tree(4):
        trees = kruskal_law(one, 4)
        V = torch.stack([torch.zeros(6).double().index_fill(0, torch.tensor(tree), 1.0) for tree in trees])
        p = torch.stack(list(trees.values()))
    else:
        V = all_vertices(P)
        orders = [
            torch.stack([order_probability(one, o) for o in itertools.permutations(v.nonzero()[:, 0])]) for v in V
        ]
        p = torch.stack([found.sum() for found in orders])
    assert p.sum().item() == pytest.approx(1.0)
    (exact,) = torch.autograd.grad((p * cost(V)).sum(), one)
    S = 20_000
    leaf = theta.expand(S, P.size).clone().requires_grad_()
    z, log_prob = sample_trace(P, leaf)
    assert_mean(z, p.detach() @ V)
    found = gradients(Reinforce()(cost(z), log_prob), leaf, torch.ones((), dtype=torch.float64))
    assert_mean(found, exact)
    q = cvxsst.StochasticArgmax(Gumbel(leaf, 1.0), P)
    z, w = q.sample_with_utilities()
    other = gradients(Reinforce()(cost(z), q.utilities.log_prob(w).sum(-1)), leaf, torch.ones((), dtype=torch.float64))
    assert found.var(0).sum() < 0.8 * other.var(0).sum()
    batch = sample_trace(P, theta.float().expand(2, 3, P.size), (4,))
    assert batch[0].shape == (4, 2, 3, P.size)
    assert batch[1].shape == (4, 2, 3)
    assert batch[1].dtype == torch.float32


def order_probability(theta: torch.Tensor, order: tuple[torch.Tensor, ...]) -> torch.Tensor:
    left, log_probability = list(range(len(theta))), torch.zeros((), dtype=theta.dtype)
    for item in order:
        log_probability = log_probability + theta[item] - theta[left].logsumexp(0)
        left.remove(int(item))
    return log_probability.exp()


def test_traces_keep_off_what_is_forbidden() -> None:
    theta = torch.tensor([0.0, -torch.inf, 0.0, 0.0], requires_grad=True)
    z, log_prob = sample_trace(polytopes.k_subset(4, 2), theta, (50,))
    assert (z[:, 1] == 0).all()
    assert torch.allclose(log_prob, torch.tensor(1 / 6).log())
    (gradient,) = torch.autograd.grad(log_prob.sum(), theta)
    assert gradient.isfinite().all()
    with pytest.raises(cvxsst.EmptyPolytopeError):
        sample_trace(polytopes.k_subset(4, 2), torch.tensor([0.0] + [-torch.inf] * 3))


def test_the_table_of_estimators(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Score functions of structures have no bias but chance; a relaxation has, and less spread."""
    found = benchmark.estimators(["k_subset(5, 2)"], [2], 400, tmp_path / "picture.png")
    by = {f.estimator: f for f in found}
    assert set(by) == set(benchmark.ESTIMATORS)
    for name in ("score function", "score function, leave one out"):
        assert by[name].bias <= 5 * by[name].chance
    assert by["relaxed"].bias > 5 * by["relaxed"].chance
    assert by["relaxed"].spread < by["score function"].spread
    assert "| k_subset(5, 2) | relaxed |" in capsys.readouterr().out
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="no such directory"):
        benchmark.estimators(output=tmp_path / "nowhere" / "picture.png")


P3, W3 = polytopes.simplex(3), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: blackbox(P3, W3, 0.0), "strength: must be positive"),
        (lambda: blackbox(P3, W3, "1"), "strength: expected a number"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: blackbox(P3, W3 + torch.nan), "w: nan"),
        (lambda: identity(P3, torch.zeros(4)), r"\(3,\)"),
        (lambda: implicit_mle(P3, W3, noise=1.0), "noise: expected a torch.distributions"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: implicit_mle(P3, W3, noise=Gumbel(torch.zeros(3), 1.0)), r"batch_shape \(3,\)"),
        (lambda: implicit_mle(P3, W3, scale=-1.0), "scale: must be positive"),
        (lambda: AdaptiveStrength(rate=0.0), "rate: must be positive"),
        (lambda: SumOfGamma(0), "k: expected a positive integer"),
        (lambda: perturbed_argmax(P3, W3, SumOfGamma(2)), r"noise: SumOfGamma.*has no log_prob.*implicit_mle"),
        (lambda: perturbed_argmax(P3, W3, samples=0), "samples: at least 1"),
        (lambda: perturbed_argmax(P3, W3, samples=2.0), "samples: expected an integer"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: perturbed_argmax(P3, W3, GUMBEL, multiplicative=True), "multiplicative noise"),
        (lambda: perturbed_loss(P3, W3, torch.zeros(4)), r"z: the last dimensions .*\(3,\)"),
        (lambda: spo_plus_loss(P3, W3, torch.zeros(3)), r"c: expected the shape of w, \(2, 3\)"),
        (lambda: sample_trace(polytopes.birkhoff(3), torch.zeros(3, 3)), r"@family\.trace"),
        (lambda: regret(P3, W3, W3.clone().fill_(-torch.inf)), "finite|forbid"),
    ],
)
def test_bad_input(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_noise_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="has no gradient"):
        perturbed_argmax(P3, W3, Uniform(-1.0, 1.0))


def test_the_old_name_is_still_there() -> None:
    assert cvxsst.score_function.LeaveOneOut is cvxsst.estimators.LeaveOneOut

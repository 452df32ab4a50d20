"""StochasticArgmax, StochasticSoftmax, NegativeExponential: torch.distributions in behaviour and in law."""

import itertools
import math

import cvxpy as cp
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Exponential, Gumbel, Independent, MultivariateNormal, Normal, kl_divergence

import cvxsst
import polytopes
from cvxsst import NegativeExponential, StochasticArgmax, StochasticSoftmax

FALSE_ALARM = 1e-6  # probability that a right implementation fails one of the statistical tests, for whatever seed


def assert_frequencies(counts: torch.Tensor, probabilities: torch.Tensor) -> None:
    """Pearson's chi-square test at level FALSE_ALARM."""
    expected = probabilities * counts.sum()
    assert expected.min() >= 20, "too few samples for the chi-square approximation"
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic <= stats.chi2.isf(FALSE_ALARM, len(counts) - 1)


def test_gumbel_max_on_the_simplex_is_categorical() -> None:
    theta = torch.tensor([0.5, -1.0, 0.0, 1.5])
    z = StochasticArgmax(Gumbel(theta, 1.0), polytopes.simplex(4)).sample((40_000,))
    assert_frequencies(z.sum(0), torch.softmax(theta, 0))


def test_straight_through_has_the_law_of_the_argmax() -> None:
    theta = torch.tensor([0.3, 0.0, -0.6])
    q = StochasticSoftmax(Gumbel(theta, 1.0), polytopes.simplex(3), cvxsst.CategoricalEntropy(), 0.7, hard=True)
    assert_frequencies(q.rsample((4_000,)).sum(0), torch.softmax(theta, 0))


def test_top_k_of_gumbels_is_sampling_without_replacement() -> None:
    """P(subset) = sum over its orders of the Plackett-Luce probabilities."""
    theta = torch.tensor([0.5, 0.0, -0.5, 0.2])
    weight = theta.exp()
    pairs = list(itertools.combinations(range(4), 2))

    def in_order(i: int, j: int) -> float:
        return float(weight[i] / weight.sum() * weight[j] / (weight.sum() - weight[i]))

    law = torch.tensor([in_order(i, j) + in_order(j, i) for i, j in pairs])
    z = StochasticArgmax(Gumbel(theta, 1.0), polytopes.k_subset(4, 2)).sample((30_000,))
    counts = torch.stack([(z[:, i] * z[:, j]).sum() for i, j in pairs])
    assert_frequencies(counts, law)


def test_only_the_order_matters_on_a_matroid() -> None:
    """Exponentials of rate e^theta, negated, and Gumbels of location theta are monotone transforms of each other."""
    theta = torch.tensor([0.5, 0.0, -0.5])
    z = StochasticArgmax(NegativeExponential(theta.exp()), polytopes.simplex(3)).sample((30_000,))
    assert_frequencies(z.sum(0), torch.softmax(theta, 0))


def test_uniform_utilities_make_permutations_uniform() -> None:
    z = StochasticArgmax(Normal(torch.zeros(3, 3), 1.0), polytopes.birkhoff(3)).sample((6_000,))
    code = (z * torch.arange(9.0).reshape(3, 3).exp2()).sum((1, 2))
    counts = torch.unique(code, return_counts=True)[1]
    assert len(counts) == 6
    assert_frequencies(counts, torch.full((6,), 1 / 6))


def test_relaxed_samples_give_the_gradient_of_the_expected_sample() -> None:
    """d/dtheta E[z_T], pathwise, against the finite difference of the mean with common random numbers."""
    theta = torch.tensor([0.2, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    P = polytopes.simplex(3)

    def mean(shift: float) -> torch.Tensor:
        torch.manual_seed(3)
        moved = theta + shift * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        return StochasticSoftmax(Gumbel(moved, 1.0), P, cvxsst.CategoricalEntropy(), 0.7).rsample((400,)).mean(0)[0]

    (gradient,) = torch.autograd.grad(mean(0.0), theta)
    with torch.no_grad():
        difference = (mean(1e-4) - mean(-1e-4)) / 2e-4
    assert gradient[0].item() == pytest.approx(difference.item(), abs=1e-6)


@pytest.mark.parametrize("make", [StochasticArgmax, StochasticSoftmax])
def test_shapes_follow_torch(make) -> None:
    P = polytopes.birkhoff(3)
    d = make(Gumbel(torch.zeros(5, 2, 3, 3), 1.0), P)
    assert d.batch_shape == (5, 2)
    assert d.event_shape == (3, 3)
    assert d.sample().shape == (5, 2, 3, 3)
    assert d.sample((4,)).shape == d.sample(torch.Size([4])).shape == (4, 5, 2, 3, 3)
    assert d.sample((0,)).shape == (0, 5, 2, 3, 3)
    assert d.expand((7, 5, 2)).sample().shape == (7, 5, 2, 3, 3)
    assert bool(d.support.check(d.sample()).all())
    assert not bool(d.support.check(torch.ones(3, 3)))
    assert "birkhoff(3)" in repr(d)
    z, w = d.sample_with_utilities((2,))
    assert w.shape == z.shape == (2, 5, 2, 3, 3)
    if make is StochasticArgmax:
        assert torch.equal(z, cvxsst.argmax(P, w))
    with pytest.raises(NotImplementedError, match="log_prob"):
        d.log_prob(z)


@pytest.mark.parametrize(
    "utilities",
    [
        Independent(Normal(torch.zeros(2, 3), 1.0), 1),
        MultivariateNormal(torch.zeros(2, 3), torch.eye(3)),
        Independent(Gumbel(torch.zeros(2, 3), torch.ones(3)), 1),
        NegativeExponential(torch.ones(2, 3)),
    ],
    ids=lambda d: type(d).__name__,
)
def test_any_utilities_distribution(utilities) -> None:
    q = StochasticSoftmax(utilities, polytopes.simplex(3))
    assert q.batch_shape == (2,)
    assert q.event_shape == (3,)
    assert q.rsample((4,)).shape == (4, 2, 3)
    assert q.expand((5, 2)).rsample().shape == (5, 2, 3)


def test_the_temperature_broadcasts_and_learns() -> None:
    T = torch.tensor([0.5, 2.0], requires_grad=True)
    q = StochasticSoftmax(Gumbel(torch.zeros(2, 3), 1.0), polytopes.simplex(3), cvxsst.CategoricalEntropy(), T)
    (gradient,) = torch.autograd.grad((q.rsample((3,)) ** 2).sum(), T)
    assert (gradient < 0).all()  # warmer is closer to uniform


def test_hard_samples_are_vertices_with_the_relaxed_gradient() -> None:
    theta = torch.randn(6, 3, 3, dtype=torch.float64, requires_grad=True)
    P = polytopes.birkhoff(3)
    g = torch.randn(6, 3, 3, dtype=torch.float64)
    gradients, samples = [], []
    for hard in (False, True):
        torch.manual_seed(0)
        z = StochasticSoftmax(Gumbel(theta, 1.0), P, cvxsst.CategoricalEntropy(), 0.5, hard=hard).rsample()
        samples.append(z.detach())
        gradients.append(torch.autograd.grad(z, theta, g)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert set(samples[1].unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(samples[0], samples[1])


def test_sample_has_no_gradient_and_rsample_has() -> None:
    theta = torch.zeros(3, requires_grad=True)
    q = StochasticSoftmax(Gumbel(theta, 1.0), polytopes.simplex(3))
    assert q.has_rsample
    assert not q.sample().requires_grad
    assert q.rsample().requires_grad
    assert not StochasticArgmax(Gumbel(theta, 1.0), polytopes.simplex(3)).has_rsample


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda P: StochasticArgmax(torch.zeros(3), P), "Distribution"),  # type: ignore[arg-type]
        (lambda P: StochasticArgmax(Gumbel(torch.zeros(4), 1.0), P), r"\(3,\)"),
        (lambda P: StochasticArgmax(Gumbel(0.0, 1.0), P), r"\(3,\)"),
        (lambda P: StochasticArgmax(Independent(Normal(torch.zeros(2, 3), 1.0), 2), P), "event_shape"),
        (lambda P: StochasticSoftmax(Categorical(torch.ones(3, 2)), P), "rsample"),
        (lambda P: StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), P, temperature=0.0), "positive"),
        (lambda P: StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), P, temperature=torch.ones(2)), "broadcast"),
        (lambda P: StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), P, cvxsst.Euclidean), r"Euclidean\(\)"),  # type: ignore[arg-type]
        (lambda P: StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), P, engine="magic"), "unknown engine"),
        (lambda P: StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), P, engine="enumeration"), "exponential family"),
        (lambda P: StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), P, backward="magic"), "backward"),
        (lambda P: StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), P, on_failure="ignore"), "on_failure"),
        (lambda P: StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), polytopes.simplex), "family"),  # type: ignore[arg-type]
        (lambda P: NegativeExponential(-1.0), "rate"),
    ],
)
def test_wrong_arguments_are_refused(build, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(polytopes.simplex(3))


def test_negative_exponential_is_a_mirrored_exponential() -> None:
    rate = torch.tensor([0.5, 2.0])
    d, e = NegativeExponential(rate), Exponential(rate)
    w = torch.tensor([-0.3, -1.2])
    assert torch.equal(d.log_prob(w), e.log_prob(-w))
    assert torch.allclose(d.cdf(w), 1 - e.cdf(-w))
    assert torch.allclose(d.icdf(d.cdf(w)), w)
    assert torch.equal(d.mean, -e.mean)
    assert torch.equal(d.variance, e.variance)
    assert torch.equal(d.stddev, e.stddev)
    assert torch.equal(d.entropy(), e.entropy())
    assert torch.equal(d.mode, torch.zeros(2))
    assert d.expand((3, 2)).batch_shape == (3, 2)
    with pytest.raises(ValueError, match="support"):
        d.log_prob(torch.tensor([0.1, -1.0]))
    samples = d.sample((20_000,))
    assert (samples <= 0).all()
    deviation = (samples.mean(0) - d.mean).abs() / (d.stddev / math.sqrt(20_000))
    assert deviation.max() <= stats.norm.isf(FALSE_ALARM / 2)


def test_negative_exponential_is_reparametrized_and_has_a_divergence() -> None:
    rate = torch.tensor(2.0, requires_grad=True)
    w = NegativeExponential(rate).rsample((5,))
    (gradient,) = torch.autograd.grad(w.sum(), rate)
    assert gradient.item() == pytest.approx(-w.sum().item() / 2.0, rel=1e-5)  # w = -E / rate
    p, q = NegativeExponential(torch.tensor(2.0)), NegativeExponential(torch.tensor(0.5))
    expected = kl_divergence(Exponential(torch.tensor(2.0)), Exponential(torch.tensor(0.5)))
    assert kl_divergence(p, q).item() == pytest.approx(expected.item())
    w = p.sample((40_000,))
    ratio = p.log_prob(w) - q.log_prob(w)
    assert abs(ratio.mean() - expected) <= stats.norm.isf(FALSE_ALARM / 2) * ratio.std() / 200


def test_ad_hoc_polytope_with_lifted_variables_samples() -> None:
    z = cp.Variable(4)
    P = cvxsst.Polytope(z, [z >= 0, cp.sum_largest(z, 2) <= 1], name="sum-largest")
    q = StochasticSoftmax(Normal(torch.zeros(4), 1.0), P, temperature=0.5)
    assert bool(q.support.check(q.sample((5,))).all())


def test_negative_exponential_at_the_ends_of_its_support() -> None:
    q = NegativeExponential(torch.tensor(2.0), validate_args=False)
    assert q.cdf(torch.tensor(1.0)) == 1
    assert bool(q.support.check(torch.tensor(0.0)))
    assert not bool(q.support.check(torch.tensor(0.1)))


def test_an_entropy_beyond_its_domain_is_refused_when_built() -> None:
    utilities = Gumbel(torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        StochasticSoftmax(utilities, polytopes.permutahedron(3), cvxsst.BinaryEntropy())


def test_the_support_is_the_polytope_up_to_its_tolerance() -> None:
    support = StochasticArgmax(Gumbel(torch.zeros(3), 1.0), polytopes.simplex(3)).support
    inside = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    for offset, dtype, expected in (
        (1e-3, torch.float32, False),
        (3e-5, torch.float32, True),
        (1e-5, torch.float64, False),
        (1e-7, torch.float64, True),
    ):
        assert bool(support.check((inside + offset).to(dtype))) == expected
    assert not bool(support.check(torch.tensor([torch.nan, 0.5, 0.5])))


def test_expanded_distributions_validate_as_the_original_does() -> None:
    for validate in (True, False):
        utilities = Gumbel(torch.zeros(3), 1.0)
        for d in (
            StochasticArgmax(utilities, polytopes.simplex(3), validate_args=validate),
            StochasticSoftmax(utilities, polytopes.simplex(3), validate_args=validate),
            NegativeExponential(torch.ones(3), validate_args=validate),
        ):
            assert d.expand((4, 3) if isinstance(d, NegativeExponential) else (4,))._validate_args == validate


def test_what_has_no_formula_says_what_to_do_instead() -> None:
    hard = StochasticArgmax(Gumbel(torch.zeros(3), 1.0), polytopes.simplex(3))
    soft = StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), polytopes.simplex(3))
    with pytest.raises(NotImplementedError, match=r"derivative 0.*StochasticSoftmax\(.*hard=True\).*score_function"):
        hard.rsample((2,))
    for d, draw in ((hard, "sample"), (soft, "rsample")):
        for what, call in (("mean", "mean"), ("variance", "var")):
            with pytest.raises(
                NotImplementedError, match=rf"{what} .* no closed form.*d\.{draw}\(\(1000,\)\)\.{call}\(0"
            ):
                getattr(d, what)
        with pytest.raises(NotImplementedError, match="utilities"):
            d.log_prob(torch.zeros(3))

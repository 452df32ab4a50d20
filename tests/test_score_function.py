"""Score-function estimators: unbiased against enumeration, baselines as defined, bad input."""

import math
from itertools import permutations

import pytest
import torch
from torch.distributions import Gumbel

import cvxsst
from cvxsst.estimators import NVIL, BatchMean, LeaveOneOut, MovingAverage, Reinforce
from polytopes import k_subset

THETA = torch.tensor([0.4, -0.3, 1.1, 0.0], dtype=torch.float64)
COSTS = torch.tensor([3.0, -1.0, 2.5, 7.0], dtype=torch.float64)
K = 2


def cost(z: torch.Tensor) -> torch.Tensor:
    """Not linear in z: what k-subsets have together, squared."""
    return (z @ COSTS) ** 2


def exact_gradient() -> torch.Tensor:
    """Of E[c(X)], X the k items of largest Gumbel(theta, 1): sampling without replacement, summed over all orders."""
    theta = THETA.clone().requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for order in permutations(range(len(theta)), K):
        left, log_probability = list(range(len(theta))), torch.zeros((), dtype=torch.float64)
        for item in order:
            log_probability = log_probability + theta[item] - theta[left].logsumexp(0)
            left.remove(item)
        z = torch.zeros_like(theta)
        z[list(order)] = 1
        expected = expected + log_probability.exp() * cost(z)
    return torch.autograd.grad(expected, theta)[0]


def gradients(estimator: Reinforce, repetitions: int, samples: int, context: torch.Tensor | None = None):
    """(repetitions, 4): the estimator's gradient from ``samples`` samples, again and again."""
    theta = THETA.expand(repetitions, -1).clone().requires_grad_()
    q = cvxsst.StochasticArgmax(Gumbel(theta, 1.0), k_subset(4, K))
    z, w = q.sample_with_utilities((samples,))
    estimated = estimator(cost(z), q.utilities.log_prob(w).sum(-1), context)
    return torch.autograd.grad(estimated.mean(0).sum(), theta)[0]


@pytest.mark.parametrize("estimator", [Reinforce(), LeaveOneOut(), MovingAverage(), NVIL(torch.nn.Linear(3, 1))])
def test_the_mean_of_the_gradients_is_the_exact_gradient(estimator: Reinforce) -> None:
    torch.manual_seed(0)
    estimator.double()
    context = torch.randn(20_000, 3, dtype=torch.float64)
    if isinstance(estimator, MovingAverage):  # the first batch is its own baseline
        gradients(estimator, 20_000, 4, context)
    estimator.eval()  # the baseline of all that follow comes from the past alone
    scale = 1.0
    if isinstance(estimator, NVIL):  # in units of the standard deviation
        scale = max(1.0, float(estimator._moments(torch.zeros(1, dtype=torch.float64))[1]))
    found = scale * gradients(estimator, 20_000, 4, context)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - exact_gradient()).abs() < 4 * error).all()
    assert (error < 0.1 * exact_gradient().abs().max()).all()  # else the line above says nothing


def test_the_batch_mean_shrinks_the_gradient_by_one_over_the_batch() -> None:
    torch.manual_seed(0)
    found = torch.stack([gradients(BatchMean(), 1, 4)[0] for _ in range(4000)])
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - 0.75 * exact_gradient()).abs() < 4 * error).all()


def test_baselines_lower_the_variance() -> None:
    torch.manual_seed(0)
    plain, other = gradients(Reinforce(), 5000, 4).var(0).sum(), gradients(LeaveOneOut(), 5000, 4).var(0).sum()
    assert other < 0.7 * plain


def test_the_value_is_the_cost_and_its_own_gradient_flows() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    log_prob = torch.zeros(3, 5, requires_grad=True)
    raw = torch.arange(15.0).reshape(3, 5)
    for estimator in (Reinforce(), BatchMean(), LeaveOneOut(), MovingAverage(), NVIL(torch.nn.Linear(2, 1))):
        value = estimator(scale * raw, log_prob, torch.zeros(5, 2))
        assert torch.equal(value, scale * raw)
        (gradient,) = torch.autograd.grad(value.sum(), scale)
        assert gradient == raw.sum()


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    values = torch.tensor([[1.0, 10.0], [4.0, 20.0], [7.0, 60.0]])
    advantage, _ = LeaveOneOut().advantage(values, None)
    assert torch.allclose(advantage[:, 0], torch.tensor([1 - 5.5, 4 - 4.0, 7 - 2.5]))
    assert torch.allclose(advantage[:, 1], torch.tensor([10 - 40.0, 20 - 35.0, 60 - 15.0]))


def test_the_moving_average_forgets_geometrically_and_only_in_training() -> None:
    estimator = MovingAverage(decay=0.5)
    first, _ = estimator.advantage(torch.tensor([2.0, 4.0]), None)
    assert torch.equal(first, torch.tensor([-1.0, 1.0]))  # its own mean: there is no past
    second, _ = estimator.advantage(torch.tensor([9.0]), None)
    assert torch.allclose(second, torch.tensor([6.0]))  # the past is 3
    for module in (estimator.eval(), estimator):
        third, _ = module.advantage(torch.tensor([0.0]), None)
        assert torch.allclose(third, torch.tensor([-(3 * 0.25 + 9 * 0.5) / 0.75]))
    restored = MovingAverage(decay=0.5)
    restored.load_state_dict(estimator.state_dict())
    assert torch.equal(
        restored.advantage(torch.tensor([1.0]), None)[0], estimator.advantage(torch.tensor([1.0]), None)[0]
    )


def test_nvil_learns_to_predict_the_cost_of_an_instance() -> None:
    torch.manual_seed(0)
    estimator = NVIL(torch.nn.Linear(1, 1), decay=0.9)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.05)
    for _ in range(300):
        context = torch.randn(64, 1)
        costs = 1e4 + 300 * context[:, 0]
        optimizer.zero_grad()
        estimator(costs, torch.zeros(64, requires_grad=True), context).mean().backward()
        optimizer.step()
    context = torch.randn(64, 1)
    advantage, _ = estimator.eval().advantage(1e4 + 300 * context[:, 0], context)
    assert advantage.abs().mean() < 0.1  # in units of the standard deviation, 300


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: Reinforce()(torch.zeros(3), torch.zeros(3, 2, requires_grad=True)),
            "sum the log_prob of the utilities",
        ),
        (lambda: Reinforce()(torch.zeros(3), torch.zeros(3)), "log_prob: has no gradient"),
        (lambda: Reinforce()(torch.zeros(0), torch.zeros(0, requires_grad=True)), "cost: is empty"),
        (lambda: LeaveOneOut()(torch.zeros(1, 4), torch.zeros(1, 4, requires_grad=True)), "needs 2 samples or more"),
        (lambda: LeaveOneOut()(torch.zeros(()), torch.zeros((), requires_grad=True)), "needs 2 samples or more"),
        (lambda: MovingAverage(decay=1.0), r"decay: 1.0 is not in \[0, 1\)"),
        (lambda: NVIL(torch.nn.Linear(2, 1))(torch.zeros(3), torch.zeros(3, requires_grad=True)), "context: NVIL"),
        (
            lambda: NVIL(torch.nn.Linear(2, 5))(torch.zeros(3), torch.zeros(3, requires_grad=True), torch.zeros(3, 2)),
            "one number for every instance",
        ),
    ],
)
def test_bad_input(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()

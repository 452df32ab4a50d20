"""Score-function gradients, in the space of the utilities or of the structures, with the usual baselines.

A cost c(X) of a structure X = argmax over z in P of <w, z>, w ~ q_theta, has no useful pathwise gradient: X is
piecewise constant in w. Its expectation is smooth all the same,

    grad E[c(X)] = E[(c(X) - b) grad log q_theta(w)]        for any b that does not depend on this w,

and log q_theta(w), unlike the law of X, is always at hand. Where the law of the structures is a ``Gibbs`` one its
``log_prob(z)`` takes the place of log q_theta(w), and less variance is to be expected: nothing is said of the utilities
but what matters. The closer b is to c, the smaller the variance. Unbiased, unless said otherwise below. Every estimator
is a module: ``estimator(cost, log_prob)`` has the values of ``cost`` and the gradient above, to be minimized
like any loss. Where the cost itself depends on parameters, their pathwise gradient is in it too.

    Reinforce        b = 0
    MovingAverage    exponential moving average of the mean cost of earlier batches
    BatchMean        mean cost of the batch; it contains the cost itself, so the gradient shrinks by 1 - 1/B
    LeaveOneOut      mean cost of the other samples for the same instance
    NVIL             moving average and a network of the instance; costs in units of their moving standard deviation

References: Williams 1992 (REINFORCE); Mnih and Gregor 2014 (NVIL); Kool, van Hoof and Welling 2019 (leave one out). In
utility space: Paulus et al. 2020. Cost: one oracle call, or one exact sample, for each sample, besides NVIL's network.

Example:
    >>> import torch, cvxsst
    >>> from cvxsst.estimators import LeaveOneOut
    >>> from polytopes import k_subset
    >>> theta = torch.zeros(5, requires_grad=True)
    >>> q = cvxsst.StochasticArgmax(torch.distributions.Gumbel(theta, 1.0), k_subset(5, 2))
    >>> z, w = q.sample_with_utilities((1000,))
    >>> estimator = LeaveOneOut()
    >>> estimator(cost=z[:, 0], log_prob=q.utilities.log_prob(w).sum(-1)).mean().backward()
    >>> bool(theta.grad[0] > 0.1)
    True
    >>> p = cvxsst.Gibbs(theta, k_subset(5, 2))
    >>> z = p.sample((1000,))
    >>> estimator(cost=z[:, 0], log_prob=p.log_prob(z)).mean().backward()
"""

from __future__ import annotations

import torch
from torch import nn


class Reinforce(nn.Module):
    """The score-function estimator without a baseline; the others are its subclasses, and differ in ``advantage``."""

    def forward(self, cost: torch.Tensor, log_prob: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """The cost, with the gradient of the estimator.

        Args:
            cost: c(X), ``(*sample, *batch)``, at least one entry; no entry may depend on the w of another.
            log_prob: log q_theta(w), the same shape: the sum over the dimensions of the event, at a w without gradient.
            context: what NVIL's network sees, ``(*batch, ...)``; the others ignore it.

        Raises:
            ValueError: shapes that differ; an empty cost; log_prob without a gradient where gradients are on.
        """
        if cost.shape != log_prob.shape:
            raise ValueError(
                f"log_prob: shape {tuple(log_prob.shape)} is not that of cost, {tuple(cost.shape)}; sum the "
                "log_prob of the utilities over the dimensions of the event"
            )
        if cost.numel() == 0:
            raise ValueError("cost: is empty; a gradient needs at least one sample")
        if torch.is_grad_enabled() and not log_prob.requires_grad:
            raise ValueError("log_prob: has no gradient; compute it as utilities.log_prob(w) from the parameters")
        advantage, fit = self.advantage(cost.detach(), context)
        # x - x.detach() is zero and has the gradient of x
        return cost + advantage.detach() * (log_prob - log_prob.detach()) + (fit - fit.detach())

    def advantage(self, cost: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """c - b, and the loss that fits the baseline (zeros where there is none to fit), both of the cost's shape."""
        return cost, torch.zeros_like(cost)


class BatchMean(Reinforce):
    """The mean cost of the batch as baseline. Not quite unbiased: each cost is in its own baseline, with weight 1/B."""

    def advantage(self, cost: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return cost - cost.mean(), torch.zeros_like(cost)


class LeaveOneOut(Reinforce):
    """The mean cost of the other samples of the same instance: the first dimension of cost counts the samples."""

    def advantage(self, cost: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        samples = cost.shape[0] if cost.dim() else 1
        if samples < 2:
            raise ValueError(
                f"cost: shape {tuple(cost.shape)}; leave-one-out needs 2 samples or more of every instance in the "
                "first dimension, as q.sample_with_utilities((2,)) gives them"
            )
        # c - (sum - c) / (K - 1) = K (c - mean) / (K - 1)
        return (cost - cost.mean(0)) * samples / (samples - 1), torch.zeros_like(cost)


class MovingAverage(Reinforce):
    """The exponential moving average of the mean costs of earlier batches.

    Args:
        decay: weight of the past, in [0, 1). Averages are corrected for their start at zero, as Adam's are. The first
            batch has no past and takes its own mean. In evaluation mode the averages stay as they are.
    """

    mean: torch.Tensor
    square: torch.Tensor
    weight: torch.Tensor

    def __init__(self, decay: float = 0.99):
        if not 0 <= decay < 1:
            raise ValueError(f"decay: {decay} is not in [0, 1)")
        super().__init__()
        self.decay = decay
        for name in ("mean", "square", "weight"):
            # double precision: the variance is the difference of two averages
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def advantage(self, cost: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        mean, _ = self._moments(cost)
        return cost - mean, torch.zeros_like(cost)

    def _moments(self, cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of earlier costs; then learns this batch."""
        mean, square = cost.double().mean(), cost.double().square().mean()
        past = self.weight.clamp(min=1 - self.decay)
        known = self.weight > 0
        average, second = torch.where(known, self.mean / past, mean), torch.where(known, self.square / past, square)
        if self.training:
            for moment, value in ((self.mean, mean), (self.square, square), (self.weight, torch.ones_like(mean))):
                moment.lerp_(value, 1 - self.decay)
        return average.to(cost), (second - average.square()).clamp(min=0).sqrt().to(cost)

    def extra_repr(self) -> str:
        return f"decay={self.decay}"


class NVIL(MovingAverage):
    """Neural variational inference and learning: b = m + s B(x), advantage (c - b) / max(1, s).

    m and s are the moving mean and standard deviation of the costs, B is fitted to (c - m) / s by least squares. Unlike
    in the paper B predicts in units of s: a network does not have to grow to the size of the costs first.

    Args:
        network: from a context ``(*batch, ...)`` to ``(*batch)`` or ``(*batch, 1)``. Give its parameters
            (``estimator.parameters()``) to the optimizer.
        decay: as in ``MovingAverage``.

    Raises:
        ValueError: no context; a network whose output does not have one number for every instance.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99):
        super().__init__(decay)
        self.network = network

    def advantage(self, cost: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        if context is None:
            raise ValueError("context: NVIL's network needs the instances; pass estimator(cost, log_prob, context)")
        predicted = self.network(context)
        if predicted.shape != cost.shape[cost.dim() - predicted.dim() :] and predicted.shape[-1:] == (1,):
            predicted = predicted.squeeze(-1)
        if predicted.shape != cost.shape[cost.dim() - predicted.dim() :]:
            raise ValueError(
                f"network: gives shape {tuple(predicted.shape)} for a cost of shape {tuple(cost.shape)}; it must give "
                "one number for every instance"
            )
        mean, deviation = self._moments(cost)
        residual = (cost - mean) / torch.where(deviation > 0, deviation, 1) - predicted
        return residual * torch.where(deviation > 0, deviation / deviation.clamp(min=1), 1), residual.square()

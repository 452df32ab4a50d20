"""Noise on utilities: draws, and what the gradients of perturbed maps need of its density."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.distributions import Distribution, Gamma, Normal, constraints

from cvxsst.errors import ArgumentTypeError

NORMAL = Normal(0.0, 1.0)


class SumOfGamma(Distribution):
    """Noise of which the sum of k independent copies is Gumbel(0, 1): for structures that take k entries.

        X = (sum_{i=1}^s Gamma(1/k, scale k/i) - log s) / k,    mean (H_s - log s) / k,    variance sum_{i<=s} 1/i^2 / k

    As s grows; for a finite s the sum is Gumbel up to its tail. With it the perturbed argmax over k-subsets is near the
    Gibbs distribution, as with Gumbel noise over one of n.

    Args:
        k: how many entries of a structure are 1.
        terms: s; default 10, that of the paper.

    Reference: Niepert, Minervini and Franceschi 2021 (Implicit MLE), lemma 1.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's own interface
    support = constraints.real

    def __init__(self, k: int, terms: int = 10, validate_args: bool | None = None):
        for name, value in (("k", k), ("terms", terms)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        self.k, self.terms = k, terms
        super().__init__(validate_args=validate_args)

    @property
    def mean(self) -> torch.Tensor:
        return torch.tensor((sum(1 / i for i in range(1, self.terms + 1)) - math.log(self.terms)) / self.k)

    @property
    def variance(self) -> torch.Tensor:
        return torch.tensor(sum(1 / i**2 for i in range(1, self.terms + 1)) / self.k)

    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008 - torch's own interface
        rate = torch.arange(1.0, self.terms + 1) / self.k
        gammas = Gamma(torch.full_like(rate, 1 / self.k), rate).sample(torch.Size(sample_shape))
        return (gammas.sum(-1) - math.log(self.terms)) / self.k

    def __repr__(self) -> str:
        return f"SumOfGamma(k={self.k}, terms={self.terms})"


def checked_noise(noise: Distribution) -> Distribution:
    if not isinstance(noise, Distribution):
        raise ArgumentTypeError(
            f"noise: expected a torch.distributions.Distribution, got {type(noise).__name__}; for example "
            "Normal(0.0, 1.0) or Gumbel(0.0, 1.0)"
        )
    if noise.batch_shape or noise.event_shape:
        raise ValueError(
            f"noise: expected a distribution of one number, drawn for every entry of w, got batch_shape "
            f"{tuple(noise.batch_shape)} and event_shape {tuple(noise.event_shape)}"
        )
    return noise


def draws(noise: Distribution, samples: int, like: torch.Tensor) -> torch.Tensor:
    """``(samples, *like.shape)``, in the dtype of ``like`` and on its device."""
    return noise.sample(torch.Size([samples, *like.shape])).to(like)


def score(noise: Distribution, x: torch.Tensor) -> torch.Tensor:
    """-d log density / dx, of the shape of x."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        try:
            log_density = noise.log_prob(leaf)
        except NotImplementedError:
            raise ValueError(
                f"noise: {noise!r} has no log_prob, from which the gradient is made; use Normal or Gumbel, or "
                "implicit_mle, which needs none"
            ) from None
        if not log_density.requires_grad:
            raise ValueError(f"noise: the density of {noise!r} is flat and has no gradient; use Normal or Gumbel")
        return -torch.autograd.grad(log_density.sum(), leaf)[0]

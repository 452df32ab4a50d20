"""Stochastic argmax and softmax as ``torch.distributions``.

    X   = argmax over z in P of <w, z>,              w ~ utilities       StochasticArgmax (perturb and maximize)
    X_T = argmax over z in P of <w, z> - T f(z),     w ~ utilities       StochasticSoftmax, its relaxation

On the simplex with ``Gumbel(theta, 1)`` utilities X is the categorical law with logits theta (the Gumbel-max trick) and
X_T under ``CategoricalEntropy`` the Gumbel-softmax. In general neither law has a tractable density on P: ``log_prob``
is that of the utilities. By the data processing inequality the divergence between utilities bounds that between
structures, KL(q(X) || p(X)) <= KL(q(w) || p(w)): use ``torch.distributions.kl_divergence(q.utilities, p.utilities)``.

Reference: Paulus et al. 2020, "Gradient Estimation with Stochastic Softmax Tricks".
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch.distributions import AffineTransform, Distribution, Exponential, TransformedDistribution, constraints

from cvxsst.arguments import checked_polytope, checked_temperature
from cvxsst.autograd import straight_through
from cvxsst.errors import ArgumentTypeError
from cvxsst.maps import argmax, checked_options, softmax
from cvxsst.membership import distances
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Euclidean, Regularizer


class Membership(constraints.Constraint):
    """A constraint on points of a polytope's shape."""

    def __init__(self, P: Polytope):
        self.P = P
        super().__init__()

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        return len(self.P.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.P!r})"


class InPolytope(Membership):
    """The constraint z in P, up to 1e-4 in float32 and 1e-6 in float64: the support of the distributions below."""

    is_discrete = False

    def check(self, value: torch.Tensor) -> torch.Tensor:
        batch = value.shape[: value.dim() - self.event_dim]
        rows = value.detach().to("cpu", torch.float64).reshape(batch.numel(), self.P.size)
        near, tolerance = (rows.abs() < 1e9).all(dim=1), 1e-6 if value.dtype == torch.float64 else 1e-4
        inside, polytopes = near.clone(), self.P.instances(batch)
        places: dict[Polytope, list[int]] = {}
        for i in near.nonzero().flatten().tolist():
            places.setdefault(polytopes[i], []).append(i)
        for P, which in places.items():  # all at once where there are no parameters
            z = rows[which]
            inside[which] = distances(P, z, torch.zeros_like(z, dtype=torch.bool)) <= tolerance
        return inside.reshape(batch).to(value.device)


class _Perturbed(Distribution):
    """What both have in common: utilities w, of which the last ``len(P.shape)`` dimensions become the event."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's own interface

    def __init__(self, utilities: Distribution, P: Polytope, validate_args: bool | None = None):
        checked_polytope(P)
        if not isinstance(utilities, Distribution):
            raise ArgumentTypeError(
                f"utilities: expected a torch.distributions.Distribution, got {type(utilities).__name__}; "
                "wrap a tensor theta as torch.distributions.Gumbel(theta, 1.0)"
            )
        whole = utilities.batch_shape + utilities.event_shape
        event = len(P.shape)
        if len(whole) < event or tuple(whole[len(whole) - event :]) != P.shape:
            raise ValueError(
                f"utilities: batch_shape + event_shape is {tuple(whole)}; its last dimensions must be the shape "
                f"{P.shape} of {P!r}"
            )
        if len(utilities.event_shape) > event:
            raise ValueError(
                f"utilities: event_shape {tuple(utilities.event_shape)} has more dimensions than {P!r}, {P.shape}"
            )
        batch, inner = whole[: len(whole) - event], whole[len(whole) - event :]
        joined = torch.broadcast_shapes(batch, P.batch)
        if joined != batch:
            utilities = utilities.expand(joined + inner[: event - len(utilities.event_shape)])
        self.utilities, self.P = utilities, P
        self._settings: dict[str, Any] = {}  # the other arguments
        super().__init__(joined, torch.Size(P.shape), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        inner = self.event_shape[: len(self.event_shape) - len(self.utilities.event_shape)]
        utilities = self.utilities.expand(torch.Size(batch_shape) + inner)
        return type(self)(utilities, self.P, **self._settings, validate_args=self._validate_args)

    def __repr__(self) -> str:
        shown = {"utilities": type(self.utilities).__name__, "P": self.P, **self._shown_settings()}
        said = ", ".join(f"{name}: {value}" for name, value in shown.items())
        return f"{type(self).__name__}({said}, batch_shape: {tuple(self.batch_shape)})"

    def _shown_settings(self) -> dict[str, Any]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        return InPolytope(self.P)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Not available: the law of X has no tractable density.

        Raises:
            NotImplementedError: always; use ``utilities.log_prob(w)`` with the w of ``sample_with_utilities``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no tractable log_prob; estimators use the density of the utilities: "
            "z, w = d.sample_with_utilities(); d.utilities.log_prob(w)"
        )

    @property
    def mean(self) -> torch.Tensor:
        """Not available in closed form.

        Raises:
            NotImplementedError: always; says how to estimate it.
        """
        raise NotImplementedError(self._estimate("mean", "mean(0)"))

    @property
    def variance(self) -> torch.Tensor:
        """Not available in closed form, as ``mean``."""
        raise NotImplementedError(self._estimate("variance", "var(0)"))

    def _estimate(self, what: str, call: str) -> str:
        draw = "rsample" if self.has_rsample else "sample"
        return (
            f"{type(self).__name__}: the {what} of a perturbed argmax has no closed form; estimate it from samples, "
            f"d.{draw}((1000,)).{call}"
        )


class StochasticArgmax(_Perturbed):
    """X = argmax over z in P of <w, z>, w ~ utilities: a random vertex of P.

    Args:
        utilities: any distribution over w, for example ``Gumbel(theta, 1)``; the last ``len(P.shape)`` dimensions of
            its batch and event shapes together must be P.shape, and become the event.
        P: the polytope.

    ``sample`` gives vertices, in the dtype of the utilities; ``sample_with_utilities`` also the w that they come from.
    Samples have no gradient; ``StochasticSoftmax`` has one.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> d = cvxsst.StochasticArgmax(torch.distributions.Gumbel(torch.zeros(4, 3), 1.0), simplex(3))
        >>> d
        StochasticArgmax(utilities: Gumbel, P: simplex(3), batch_shape: (4,))
        >>> d.sample((2,)).shape
        torch.Size([2, 4, 3])
    """

    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008 - torch's own interface
        """Vertices, ``(*sample_shape, *batch_shape, *event_shape)``."""
        return self.sample_with_utilities(sample_shape)[0]

    def rsample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008 - torch's own interface
        """Not available: a vertex does not move with the parameters, until it jumps to another.

        Raises:
            NotImplementedError: always; names the estimators there are.
        """
        raise NotImplementedError(
            "StochasticArgmax has no rsample: a vertex has derivative 0 in the parameters, almost everywhere. For "
            "vertices with the gradient of a relaxation use StochasticSoftmax(utilities, P, hard=True), for unbiased "
            "gradients of expectations cvxsst.score_function, for vertices alone sample()"
        )

    @torch.no_grad()
    def sample_with_utilities(self, sample_shape: Any = torch.Size()) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: B008
        """(z, w): vertices and the utilities that they maximize."""
        w = self.utilities.sample(torch.Size(sample_shape))
        return argmax(self.P, w), w


class StochasticSoftmax(_Perturbed):
    """X_T = argmax over z in P of <w, z> - T f(z), w ~ utilities: a random point of P, reparametrized.

    Args:
        utilities: any distribution over w with ``rsample``, for example ``Gumbel(theta, 1)`` or ``Normal(theta, 1)``.
        P: the polytope.
        regularizer: f; default ``Euclidean()``.
        temperature: T > 0, a float, or a tensor that broadcasts with ``batch_shape`` and may require a gradient.
        hard: straight-through: ``rsample`` returns the vertex argmax <w, z> with the gradient of the relaxed sample,
            as ``torch.nn.functional.gumbel_softmax(hard=True)`` does.
        engine, backward, on_failure: as in ``cvxsst.softmax``.

    ``rsample`` is differentiable in the parameters of utilities and in the temperature.

    Raises:
        ValueError: utilities of another shape than P, or without ``rsample``; a temperature that does not fit;
            wrong options; an entropy over a polytope that leaves its domain.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import k_subset
        >>> theta = torch.zeros(5, requires_grad=True)
        >>> q = cvxsst.StochasticSoftmax(torch.distributions.Gumbel(theta, 1.0), k_subset(5, 2), temperature=0.5)
        >>> z = q.rsample((10,))
        >>> bool(torch.allclose(z.sum(-1), torch.tensor(2.0))), z.requires_grad
        (True, True)
    """

    has_rsample = True

    def __init__(
        self,
        utilities: Distribution,
        P: Polytope,
        regularizer: Regularizer = Euclidean(),  # noqa: B008 - frozen and without state
        temperature: float | torch.Tensor = 1.0,
        hard: bool = False,
        *,
        engine: str = "auto",
        backward: str = "implicit",
        on_failure: str = "raise",
        validate_args: bool | None = None,
    ):
        super().__init__(utilities, P, validate_args=validate_args)
        if not utilities.has_rsample:
            raise ValueError(
                f"utilities: {type(utilities).__name__} has no rsample, so there is no gradient to its parameters; "
                "use StochasticArgmax, or another distribution"
            )
        shape = torch.as_tensor(checked_temperature(temperature, torch.device("cpu"))).shape
        try:
            fits = torch.broadcast_shapes(shape, self.batch_shape) == self.batch_shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"temperature: shape {tuple(shape)} does not broadcast to the batch shape {tuple(self.batch_shape)}"
            )
        checked_options(P, regularizer, engine, backward, on_failure)
        regularizer.require_domain(P)
        self.regularizer, self.temperature, self.hard = regularizer, temperature, hard
        self._options: dict[str, Any] = {"engine": engine, "backward": backward, "on_failure": on_failure}
        self._settings = {"regularizer": regularizer, "temperature": temperature, "hard": hard, **self._options}

    def rsample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008 - torch's own interface
        """Relaxed samples (``hard``: vertices with their gradient), ``(*sample_shape, *batch_shape, *event_shape)``."""
        return self.rsample_with_utilities(sample_shape)[0]

    def rsample_with_utilities(self, sample_shape: Any = torch.Size()) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: B008
        """(z, w): the samples and the utilities that they come from, both differentiable."""
        w = self.utilities.rsample(torch.Size(sample_shape))
        z = softmax(self.P, w, self.regularizer, self.temperature, **self._options)
        return (straight_through(z, argmax(self.P, w)) if self.hard else z), w

    @torch.no_grad()
    def sample_with_utilities(self, sample_shape: Any = torch.Size()) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: B008
        """(z, w) without gradients."""
        return self.rsample_with_utilities(sample_shape)

    def _shown_settings(self) -> dict[str, Any]:
        T = self.temperature
        shown = f"tensor of shape {tuple(T.shape)}" if isinstance(T, torch.Tensor) else T
        return {"regularizer": self.regularizer, "temperature": shown, "hard": self.hard}


class NegativeExponential(TransformedDistribution):
    """W = -E, E ~ Exponential(rate): density rate * exp(rate * w) for w <= 0.

    The utilities of the arborescence experiments of Paulus et al. 2020: maximizing sums of -E is minimizing sums of
    exponential weights. -log E is Gumbel(log rate), a monotone transform, so where only the order of the utilities
    matters (simplex, k-subsets, spanning trees) the argmax has the same law as under ``Gumbel(rate.log(), 1)``.

    Args:
        rate: positive; a float or a tensor.
    """

    arg_constraints = {"rate": constraints.positive}  # noqa: RUF012 - torch's own interface
    support = constraints.interval(-torch.inf, 0.0)  # torch's own "less than" leaves 0 out

    def __init__(self, rate: float | torch.Tensor, validate_args: bool | None = None):
        exponential = Exponential(rate, validate_args=False)
        self.rate = exponential.rate
        super().__init__(exponential, AffineTransform(0.0, -1.0), validate_args=validate_args)

    @property
    def mean(self) -> torch.Tensor:
        return -self.base_dist.mean

    @property
    def mode(self) -> torch.Tensor:
        return torch.zeros_like(self.rate)

    @property
    def variance(self) -> torch.Tensor:
        return self.base_dist.variance

    @property
    def stddev(self) -> torch.Tensor:
        return self.base_dist.stddev

    def cdf(self, value: torch.Tensor) -> torch.Tensor:
        """P(W <= value) = exp(rate * value)."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.exp(self.rate * value).clamp(max=1)

    def icdf(self, value: torch.Tensor) -> torch.Tensor:
        return torch.log(value) / self.rate

    def entropy(self) -> torch.Tensor:
        return self.base_dist.entropy()

    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeExponential:
        return type(self)(self.rate.expand(torch.Size(batch_shape)), validate_args=self._validate_args)

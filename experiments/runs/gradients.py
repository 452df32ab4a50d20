"""How the gradient reaches the scores of a latent structure: a word on the command line, a line in ``GRADIENTS``.

A model says what its latent structure is (``Latent``) and what a structure costs; ``Gradient.cost`` is what is to be
minimized, with the gradient that its name says. A further one is a subclass, or another estimator, and its line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import typer
from torch import nn
from torch.distributions import Distribution

from cvxsst import score_function
from cvxsst.autograd import straight_through
from experiments.runs.settings import Settings, one_of, worked_out

Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Latent:
    """A random structure, a maximizer of random utilities w, for each instance of a batch.

    Args:
        utilities: the distribution of w ``(*batch, ...)``.
        argmax: w ``(samples, *batch, ...)`` to structures.
        softmax: the same to relaxed structures, differentiable.
        log_prob: the same to ``(samples, *batch)``, the density of all that the structure depends on.
    """

    utilities: Distribution
    argmax: Map
    softmax: Map
    log_prob: Map


@dataclass(frozen=True)
class Gradient(ABC):
    """``label`` in the table; ``samples``: how many of each instance it needs at least; ``needs_density``: whether it
    asks for ``Latent.log_prob``."""

    label: str
    samples: int = 1
    needs_density: ClassVar[bool] = False

    def estimator(self, network: Callable[[], nn.Module]) -> nn.Module | None:
        """What the model keeps for it, if anything; ``network()`` is one from a context to a number."""
        return None

    @abstractmethod
    def cost(
        self, latent: Latent, cost: Map, samples: int, estimator: nn.Module | None, context: torch.Tensor
    ) -> torch.Tensor:
        """The costs ``(samples, *batch)``, as ``cost`` says it of structures ``(samples, *batch, ...)``."""


@dataclass(frozen=True)
class Relaxed(Gradient):
    """Of the relaxation, in forward direction too; or (``hard``) straight-through it."""

    hard: bool = False

    def cost(
        self, latent: Latent, cost: Map, samples: int, estimator: nn.Module | None, context: torch.Tensor
    ) -> torch.Tensor:
        w = latent.utilities.rsample(torch.Size([samples]))
        z = latent.softmax(w)
        return cost(straight_through(z, latent.argmax(w.detach())) if self.hard else z)


@dataclass(frozen=True)
class ScoreFunction(Gradient):
    """Of the expectation itself, by the density of the utilities."""

    needs_density = True
    kind: type[score_function.Reinforce] = score_function.Reinforce

    def estimator(self, network: Callable[[], nn.Module]) -> nn.Module:
        return score_function.NVIL(network()) if self.kind is score_function.NVIL else self.kind()

    def cost(
        self, latent: Latent, cost: Map, samples: int, estimator: nn.Module | None, context: torch.Tensor
    ) -> torch.Tensor:
        assert estimator is not None
        w = latent.utilities.sample(torch.Size([samples]))
        return estimator(cost(latent.argmax(w)), latent.log_prob(w), context)


GRADIENTS: dict[str, Gradient] = {
    "relaxed": Relaxed(""),
    "straight-through": Relaxed("straight-through", hard=True),
    "reinforce-ema": ScoreFunction("REINFORCE, moving average", kind=score_function.MovingAverage),
    "reinforce-batch": ScoreFunction("REINFORCE, batch mean", kind=score_function.BatchMean),
    "reinforce-loo": ScoreFunction("REINFORCE, leave one out", kind=score_function.LeaveOneOut, samples=2),
    "nvil": ScoreFunction("NVIL", kind=score_function.NVIL),
}


# the two settings of a config that has them, the default of the second, and what must hold of both
Word = Annotated[str, one_of(GRADIENTS), typer.Option(help=f"How the scores are trained: {', '.join(GRADIENTS)}.")]
Samples = Annotated[
    int,
    typer.Option(min=1, help="Latent graphs of each example. Default: 1; 2 for reinforce-loo.", show_default=False),
]
ENOUGH: Any = worked_out(lambda config: GRADIENTS[config.gradient].samples if config.gradient in GRADIENTS else 1)


class LatentSettings(Settings):
    """Of an experiment with a latent structure: its ``samples`` are enough for its ``gradient``."""

    gradient: str
    samples: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < GRADIENTS[self.gradient].samples:
            raise ValueError(f"samples: {self.gradient} needs at least {GRADIENTS[self.gradient].samples}")

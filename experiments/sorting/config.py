"""What decides a run of the sorting experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from experiments.runs.gradients import ENOUGH, LatentSettings, Samples, Word
from experiments.runs.settings import (
    BatchSize,
    Engine,
    Hidden,
    LearningRate,
    Seed,
    Steps,
    Temperature,
    ValidateEvery,
    one_of,
    worked_out,
)
from experiments.sorting.permutations import ORDERS

NETWORKS = ("ranks", "places")
Numbers = Annotated[int, typer.Option(min=1, help="n, of each list.")]
Low = Annotated[float, typer.Option(help="The least number.")]
High = Annotated[float, typer.Option(help="The greatest number.")]


@dataclass(frozen=True)
class Config(LatentSettings):
    """The settings; each is an option of ``cvxsst train sorting``.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    order: Annotated[str, one_of(ORDERS), typer.Option(help=f"The relaxation: {', '.join(ORDERS)}.")] = "sinkhorn"
    gradient: Word = "relaxed"
    numbers: Numbers = 10
    low: Low = 0.0
    high: High = 1.0
    network: Annotated[
        str,
        one_of(NETWORKS),
        typer.Option(help="ranks: an output for each, as published; places: for lists of any length."),
    ] = "ranks"
    steps: Steps = 500
    batch_size: BatchSize = 10
    hidden: Hidden = 32
    learning_rate: LearningRate = 0.1
    temperature: Temperature = 1.0
    seed: Seed = 0
    validate_every: ValidateEvery = worked_out(lambda config: min(50, config.steps))
    samples: Samples = ENOUGH
    engine: Engine = "auto"

    @property
    def name(self) -> str:
        span = "" if (self.low, self.high) == (0.0, 1.0) else f"-{self.low:g}to{self.high:g}"
        return f"{self.order}-{self.gradient}-{self.network}-n{self.numbers}{span}-steps{self.steps}-seed{self.seed}"

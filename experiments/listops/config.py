"""What decides a run of the ListOps experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from experiments.listops.edges import LABELS
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
    positive,
    worked_out,
)


@dataclass(frozen=True)
class Config(LatentSettings):
    """The settings; each is an option of ``cvxsst train listops``.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    edges: Annotated[str, one_of(LABELS), typer.Option(help=f"The latent graph, or none: {', '.join(LABELS)}.")] = (
        "arborescence"
    )
    gradient: Word = "relaxed"
    steps: Steps = 100_000
    batch_size: BatchSize = 100
    hidden: Hidden = 60
    learning_rate: LearningRate = 1.03e-3
    weight_decay: Annotated[float, positive, typer.Option(help="Of AdamW.")] = 4.06e-5
    temperature: Temperature = 1.22
    seed: Seed = 0
    validate_every: ValidateEvery = worked_out(lambda config: min(500, config.steps))
    samples: Samples = ENOUGH
    engine: Engine = "auto"

    @property
    def name(self) -> str:
        return f"{self.edges}-{self.gradient}-h{self.hidden}-steps{self.steps}-seed{self.seed}"

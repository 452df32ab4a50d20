"""What decides a run of the graph layout experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from experiments.graph_layout.data import FRAMES
from experiments.graph_layout.edges import EDGES
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


@dataclass(frozen=True)
class Config(LatentSettings):
    """The settings; each is an option of ``cvxsst train graph-layout``.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    edges: Annotated[str, one_of(EDGES), typer.Option(help=f"The edge distribution: {', '.join(EDGES)}.")] = (
        "spanning-tree"
    )
    gradient: Word = "relaxed"
    length: Annotated[int, typer.Option(min=2, max=FRAMES, help="T, the frames of a trajectory.")] = 10
    steps: Steps = 50_000
    batch_size: BatchSize = 128
    hidden: Hidden = 256
    learning_rate: LearningRate = 1.2e-3
    temperature: Temperature = 3.9
    seed: Seed = 0
    validate_every: ValidateEvery = worked_out(lambda config: min(500, config.steps))
    samples: Samples = ENOUGH
    engine: Engine = "auto"

    @property
    def name(self) -> str:
        return f"{self.edges}-{self.gradient}-T{self.length}-h{self.hidden}-seed{self.seed}"

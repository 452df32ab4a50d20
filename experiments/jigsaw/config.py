"""What decides a run of the jigsaw experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from cvxsst import BinaryEntropy, CategoricalEntropy, Euclidean, Regularizer
from experiments.jigsaw.data import SOURCES
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

# A Euclidean solution at a vertex has gradient zero, and at T = 1 most soon are there. T = 8 keeps Z inside for longer;
# at the end it is sharp all the same, because the network has learned scores of that size.
REGULARIZERS: dict[str, tuple[Regularizer, float]] = {
    "euclidean": (Euclidean(), 8.0),
    "sinkhorn": (CategoricalEntropy(), 1.0),
    "binary": (BinaryEntropy(), 1.0),
}
LABELS = {"euclidean": "Birkhoff, Euclid.", "sinkhorn": "Sinkhorn", "binary": "Birkhoff, Bin. Ent."}


def _own_temperature(config: Config) -> float:
    return REGULARIZERS[config.order][1] if config.order in REGULARIZERS else 1.0


@dataclass(frozen=True)
class Config(LatentSettings):
    """The settings; each is an option of ``cvxsst train jigsaw``.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    images: Annotated[str, one_of(SOURCES), typer.Option(help=f"What is cut: {', '.join(SOURCES)}.")] = "digits"
    grid: Annotated[int, typer.Option(min=1, max=6, help="p, of p x p tiles.")] = 2
    order: Annotated[str, one_of(REGULARIZERS), typer.Option(help=f"The relaxation: {', '.join(REGULARIZERS)}.")] = (
        "euclidean"
    )
    gradient: Word = "relaxed"
    steps: Steps = 1200
    batch_size: BatchSize = 48
    hidden: Hidden = 96
    learning_rate: LearningRate = 1.5e-3
    weight_decay: Annotated[float, positive, typer.Option(help="Of AdamW.")] = 0.05
    noise: Annotated[float, typer.Option(min=0, help="Of the pixels, in [0, 1], in training.")] = 0.1
    temperature: Temperature = worked_out(_own_temperature)
    seed: Seed = 0
    validate_every: ValidateEvery = worked_out(lambda config: min(200, config.steps))
    samples: Samples = ENOUGH
    engine: Engine = "auto"

    @property
    def name(self) -> str:
        return f"{self.images}-{self.grid}x{self.grid}-{self.order}-{self.gradient}-steps{self.steps}-seed{self.seed}"

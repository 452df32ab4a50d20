"""What decides a run of the connectome experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from experiments.connectome.data import NEURONS, RADII
from experiments.connectome.permutations import LABELS, PERMUTATIONS
from experiments.runs.gradients import ENOUGH, LatentSettings, Samples, Word
from experiments.runs.settings import (
    Engine,
    LearningRate,
    Steps,
    Temperature,
    ValidateEvery,
    one_of,
    positive,
    worked_out,
)


def _own_temperature(config: Config) -> float:
    return PERMUTATIONS[config.permutations].temperature if config.permutations in PERMUTATIONS else 1.0


@dataclass(frozen=True)
class Config(LatentSettings):
    """The settings; each is an option of ``cvxsst train connectome``.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    permutations: Annotated[
        str, one_of(LABELS), typer.Option(help=f"The distribution of the permutations: {', '.join(LABELS)}.")
    ] = "sinkhorn"
    gradient: Word = "relaxed"
    regularized: Annotated[bool, typer.Option(help="With the divergence of the permutations from their prior.")] = True
    known: Annotated[int, typer.Option(min=0, max=NEURONS, help="Known neurons of each worm.")] = 110
    radius: Annotated[
        float, positive, typer.Option(help=f"How far neurons may be confused: {RADII['easy']} easy, .1 hard.")
    ] = RADII["easy"]
    neurons: Annotated[int, typer.Option(min=1, max=NEURONS, help="Of the data.")] = NEURONS
    worms: Annotated[int, typer.Option(min=1, help="Of the data.")] = 4
    steps: Steps = 500
    batch_size: Annotated[int, typer.Option(min=1, help="Worms a step. Default: all.", show_default=False)] = (
        worked_out(lambda config: config.worms)
    )
    learning_rate: LearningRate = 0.1
    precision: Annotated[float, positive, typer.Option(help="Of the prior of W.")] = 100.0
    temperature: Temperature = worked_out(_own_temperature)
    seed: Annotated[int, typer.Option(min=0, help="Of the noise; and which simulation, counted cyclically.")] = 0
    validate_every: ValidateEvery = worked_out(lambda config: min(50, config.steps))
    samples: Samples = ENOUGH
    engine: Engine = "auto"

    @property
    def name(self) -> str:
        free = "" if self.regularized else "-free"
        where = f"known{self.known}-radius{self.radius}"
        return f"{self.permutations}-{self.gradient}{free}-{where}-steps{self.steps}-seed{self.seed}"

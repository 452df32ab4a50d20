"""What decides a run of the experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from experiments.l2x.model import SELECTORS
from experiments.l2x.reviews import ASPECTS
from experiments.l2x.subsets import SUBSETS
from experiments.runs.gradients import ENOUGH, GRADIENTS, LatentSettings, Samples, Word
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
    """The settings; each is an option of ``cvxsst train l2x``.

    Raises:
        ValueError: an unknown name, a number out of range, a gradient that the subset does not have.
    """

    subset: Annotated[str, one_of(SUBSETS), typer.Option(help=f"The latent subset: {', '.join(SUBSETS)}.")] = (
        "correlated"
    )
    gradient: Word = "relaxed"
    k: Annotated[int, typer.Option(min=1, help="How many words are chosen.")] = 10
    corpus: Annotated[str, one_of(ASPECTS), typer.Option(help=f"Of reviews: {', '.join(ASPECTS)}.")] = "cebab"
    aspect: Annotated[
        str, typer.Option(help="Whose rating is predicted. Default: aroma, or of cebab food.", show_default=False)
    ] = worked_out(lambda config: "aroma" if "aroma" in ASPECTS.get(config.corpus, ()) else "food")
    network: Annotated[str, one_of(SELECTORS), typer.Option(help=f"That chooses: {', '.join(SELECTORS)}.")] = "simple"
    embedding: Annotated[int, typer.Option(min=1, help="Dimensions of a word.")] = 200
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Embeddings are those in the file (BeerAdvocate), not learned.")
    ] = False
    steps: Steps = 20_000
    batch_size: BatchSize = 40
    hidden: Hidden = 100
    learning_rate: LearningRate = 1e-3
    temperature: Temperature = 0.5
    seed: Seed = 0
    validate_every: ValidateEvery = worked_out(lambda config: min(500, config.steps))
    samples: Samples = ENOUGH
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aspect not in ASPECTS[self.corpus]:
            raise ValueError(f"aspect: {self.corpus} has {', '.join(ASPECTS[self.corpus])}, not {self.aspect!r}")
        if GRADIENTS[self.gradient].needs_density and SUBSETS[self.subset].has_pairs:
            raise ValueError(
                f"gradient: {self.gradient} needs a density of all utilities, the pairs of {self.subset} have none; "
                "take relaxed or straight-through"
            )

    @property
    def name(self) -> str:
        size = f"h{self.hidden}-steps{self.steps}-seed{self.seed}"
        return f"{self.corpus}-{self.aspect}-k{self.k}-{self.subset}-{self.gradient}-{self.network}-{size}"

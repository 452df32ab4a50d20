"""The model that is trained: scores, latent subset, the rating of what was chosen; and what is measured of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from experiments.l2x.config import Config
from experiments.l2x.data import PADDING, Batch
from experiments.l2x.model import Embedding, Rating, Selector
from experiments.l2x.subsets import SUBSETS, Scores
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS, Latent
from experiments.runs.seeds import seeded

OVER_ANNOTATED = ("precision", "chance", "frequent")  # hits among what is chosen, pooled over all annotated reviews


class Explainer(training.Model):
    """Trained on the ratings alone; what is marked is for the evaluation. Validated and tested without noise."""

    settings = Config
    monitor, mode, shown = "error", "min", ("precision",)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.kind, self.gradient = SUBSETS[config.subset], GRADIENTS[config.gradient]
        with seeded(config.seed):
            self.embedding = Embedding(config.embedding, config.frozen)
            self.selector = Selector(config.network, config.embedding, config.hidden)
            self.rating = Rating(config.embedding, 5 * config.hidden // 2)
            self.estimator = self.gradient.estimator(self._baseline)
            if not self.kind.has_pairs:
                self.selector.pair.requires_grad_(False)

    def _baseline(self) -> nn.Module:
        return Baseline(self.config.embedding)

    def scores(self, batch: Batch) -> tuple[torch.Tensor, Scores]:
        """The embeddings, and the scores of them."""
        e = self.embedding(batch)
        return e, self.selector(e, batch.tokens != PADDING)

    def latent(self, scores: Scores, batch: Batch) -> Latent:
        return self.kind.latent(scores, batch.lengths, self.config.k, self.config.temperature, self.config.engine)

    def loss(self, batch: Batch) -> torch.Tensor:
        e, scores = self.scores(batch)

        def errors(z: torch.Tensor) -> torch.Tensor:
            return (self.rating(e, z, self.config.k) - batch.ratings).square()

        costs = self.gradient.cost(self.latent(scores, batch), errors, self.config.samples, self.estimator, e.detach())
        return costs.mean()

    def chosen(self, batch: Batch) -> torch.Tensor:
        """The k words of each review, ``(B, n)``."""
        return self.kind.best(self.scores(batch)[1], batch.lengths, self.config.k)

    def measure(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Squared error where there is a rating; where words are marked, how many of those chosen are, of those chosen
        at random, of those that are most often marked; and in what runs they are chosen."""
        real, k = batch.tokens != PADDING, self.config.k
        z = self.chosen(batch)
        rated, annotated = ~batch.ratings.isnan(), batch.marked.any(1).float()
        error = (self.rating(self.embedding(batch), z, k) - batch.ratings.nan_to_num()).square()
        z = z * real
        often = torch.where(real, batch.familiar, -torch.inf).topk(min(k, real.shape[1]), -1).indices
        share = (batch.marked.sum(1) / real.sum(1).clamp(min=1)) * real.sum(1).clamp(max=k)
        hits = (z * batch.marked).sum(1), share, batch.marked.gather(1, often).sum(1)
        values = {f"hits/{name}": hit for name, hit in zip(OVER_ANNOTATED, hits, strict=True)}
        starts = z.sum(1) - (z[:, 1:] * z[:, :-1]).sum(1)
        return values | {
            "hits": annotated * z.sum(1).clamp(min=k),
            "rated/error": rated * error,
            "rated": rated.float(),
            "words": z.sum(1),
            "runs": starts,
        }

    def summary(self, mean: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {
            "error": 100 * mean["rated/error"] / mean["rated"],
            "run": mean["words"] / mean["runs"].clamp(min=1e-9),
        }
        if mean["hits"] > 0:
            found |= {name: mean[f"hits/{name}"] / mean["hits"] for name in OVER_ANNOTATED}
        return found


class Baseline(nn.Module):
    """A number for each review, of its embeddings ``(B, n, d)``."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, e: torch.Tensor) -> torch.Tensor:
        return self.linear(e.mean(1))


def load_best(folder: Path) -> Explainer:
    """The model of a run with the least validation error, ready to be evaluated.

    Raises:
        FileNotFoundError: not a run, or one that has not been validated yet.
    """
    return training.load_best(Explainer, folder)

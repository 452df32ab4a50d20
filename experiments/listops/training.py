"""The model that is trained: scores, latent graph, messages along it, the result."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from experiments.listops.config import Config
from experiments.listops.data import DEEPEST, Batch
from experiments.listops.edges import EDGES, LSTM
from experiments.listops.language import END, NUMBER
from experiments.listops.model import Classifier, MessagePassing, Reader, Scores
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS, Latent
from experiments.runs.graphs import precision_and_recall
from experiments.runs.seeds import seeded


class ListOps(training.Model):
    """Trained on the results alone; the true trees are for the evaluation, and for the row that is given them."""

    settings = Config
    monitor, shown = "accuracy", ("precision",)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.kind, self.gradient = EDGES.get(config.edges), GRADIENTS[config.gradient]
        with seeded(config.seed):
            if config.edges == LSTM:
                self.network: nn.Module = nn.Sequential(Reader(config.hidden), Classifier(config.hidden))
                return
            self.network = MessagePassing(config.hidden)
            if self.kind is not None:
                self.scores = Scores(config.hidden)
                self.estimator = self.gradient.estimator(self._baseline)

    def _baseline(self) -> nn.Module:
        return nn.Sequential(Reader(self.config.hidden), nn.Linear(self.config.hidden, 1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.config.learning_rate, weight_decay=self.config.weight_decay)

    def latent(self, batch: Batch) -> Latent:
        assert self.kind is not None
        theta = self.scores(batch.tokens)
        return self.kind.latent(theta, batch.lengths, self.config.temperature, self.config.engine)

    def loss(self, batch: Batch) -> torch.Tensor:
        if self.kind is None:
            return F.cross_entropy(self._logits(batch, batch.arcs[None])[0], batch.values)

        def errors(graphs: torch.Tensor) -> torch.Tensor:
            logits = self._logits(batch, graphs)
            return F.cross_entropy(logits.movedim(-1, 1), batch.values.expand(logits.shape[:2]), reduction="none")

        return self.gradient.cost(self.latent(batch), errors, self.config.samples, self.estimator, batch.tokens).mean()

    def _logits(self, batch: Batch, graphs: torch.Tensor) -> torch.Tensor:
        """``(samples, B, 10)`` for graphs ``(samples, B, n, n)``."""
        if self.config.edges == LSTM:
            return self.network(batch.tokens)[None]
        tokens = batch.tokens.repeat(len(graphs), 1)
        return self.network(tokens, graphs.flatten(0, 1)).unflatten(0, graphs.shape[:2])

    def graphs(self, batch: Batch) -> torch.Tensor:
        """A sampled graph of each expression, ``(B, n, n)``; the true ones where none are latent."""
        if self.kind is None:
            return batch.arcs
        latent = self.latent(batch)
        return latent.argmax(latent.utilities.sample(torch.Size([1])))[0]

    def truth(self, batch: Batch) -> torch.Tensor:
        """What the graphs are held against: the true arcs, of undirected edges in both directions."""
        undirected = self.kind is not None and self.kind.undirected
        return batch.arcs + batch.arcs.mT if undirected else batch.arcs

    def measure(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Accuracy, of each depth too; precision and recall of the edges, without those that touch "]" and of all."""
        graph = self.graphs(batch)
        right = (self._logits(batch, graph[None])[0].argmax(-1) == batch.values).float()
        values = {"accuracy": right}
        for depth in range(1, DEEPEST + 1):
            values[f"share/{depth}"] = (batch.depths == depth).float()
            values[f"right/{depth}"] = right * values[f"share/{depth}"]
        if self.config.edges == LSTM:
            return values
        truth = self.truth(batch)
        inner = (batch.tokens != NUMBER[END]).float()
        inner = inner[:, :, None] * inner[:, None]
        values["precision"], values["recall"] = precision_and_recall(graph * inner, truth * inner)
        values["all/precision"], values["all/recall"] = precision_and_recall(graph, truth)
        return values

    def summary(self, mean: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        depths = range(1, DEEPEST + 1)
        shares = {depth: (mean.pop(f"right/{depth}"), mean.pop(f"share/{depth}")) for depth in depths}
        return mean | {f"accuracy/{depth}": right / share for depth, (right, share) in shares.items() if share > 0}


def load_best(folder: Path) -> ListOps:
    """The model of a run with the best validation accuracy, ready to be evaluated.

    Raises:
        FileNotFoundError: not a run, or one that has not been validated yet.
    """
    return training.load_best(ListOps, folder)

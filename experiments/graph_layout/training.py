"""The variational autoencoder that is trained: encoder, edge distribution, decoder, ELBO."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from experiments.graph_layout.config import Config
from experiments.graph_layout.data import NODES
from experiments.graph_layout.edges import EDGES, kl_to_prior
from experiments.graph_layout.model import HORIZON, Decoder, Encoder, negative_log_likelihood
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS
from experiments.runs.graphs import precision_and_recall
from experiments.runs.seeds import seeded

Batch = tuple[torch.Tensor, torch.Tensor]  # positions, trees


class RelationalInference(training.Model):
    """Trained on positions alone; the trees are for the evaluation."""

    settings = Config
    monitor, shown, packages = "elbo", ("precision",), ("networkx",)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.kind, self.gradient = EDGES[config.edges], GRADIENTS[config.gradient]
        with seeded(config.seed):
            self.encoder = Encoder(NODES, config.length, config.hidden, self.kind.outputs)
            self.decoder = Decoder(2, config.hidden)
            self.estimator = self.gradient.estimator(self._baseline)

    def _baseline(self) -> nn.Module:
        """From trajectories to a number."""
        inputs, width = NODES * self.config.length * 2, self.config.hidden
        return nn.Sequential(nn.Flatten(-3), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 1))

    def scores(self, trajectories: torch.Tensor) -> torch.Tensor:
        return self.kind.symmetric(self.encoder(trajectories))

    def loss(self, batch: Batch) -> torch.Tensor:
        positions, _ = batch
        return self.objective(positions)

    def objective(self, trajectories: torch.Tensor) -> torch.Tensor:
        """-ELBO of the relaxed model, the mean over the batch; by the score function, of the model itself."""
        theta = self.scores(trajectories)
        latent = self.kind.latent(theta, self.config.temperature, self.config.engine)
        cost = self.gradient.cost(
            latent, lambda z: self._errors(z, trajectories), self.config.samples, self.estimator, trajectories
        )
        return cost.mean() + kl_to_prior(theta).mean()

    def _errors(self, z: torch.Tensor, trajectories: torch.Tensor) -> torch.Tensor:
        """``(samples, batch)``: negative log-likelihoods without teacher forcing."""
        graphs = self.kind.graph(z, NODES).flatten(0, 1)
        repeated = trajectories.repeat(self.config.samples, 1, 1, 1)
        predictions = self.decoder.predict(repeated, graphs, min(HORIZON, self.config.length - 1))
        return negative_log_likelihood(predictions, repeated).unflatten(0, (self.config.samples, -1))

    def measure(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One graph for each trajectory, every frame predicted from the true one before it."""
        positions, trees = batch
        theta = self.scores(positions)
        graphs = self.kind.graph(self.kind.argmax(theta).sample(), NODES)
        nll = negative_log_likelihood(self.decoder.predict(positions, graphs, 1), positions)
        values = {"nll": nll, "kl": kl_to_prior(theta)}
        truth = EDGES["spanning-tree"].graph(trees, NODES)[:, 1]
        for number, kind in enumerate(("none", "edge")):
            values[f"{kind}/precision"], values[f"{kind}/recall"] = precision_and_recall(graphs[:, number], truth)
        return values

    def summary(self, mean: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What type of edge is *the* edge nobody told the model: the more precise one is."""
        kind = "edge" if mean["edge/precision"] >= mean["none/precision"] else "none"
        return {
            "elbo": -mean["nll"] - mean["kl"],
            "precision": mean[f"{kind}/precision"],
            "recall": mean[f"{kind}/recall"],
            "nll": mean["nll"],
            "kl": mean["kl"],
        }


def load_best(folder: Path) -> RelationalInference:
    """The model of a run with the best validation ELBO, ready to be evaluated.

    Raises:
        FileNotFoundError: not a run, or one that has not been validated yet.
    """
    return training.load_best(RelationalInference, folder)

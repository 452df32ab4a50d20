"""Training with Lightning: the objective, checkpoints, resuming, logs, devices.

A run is a folder: ``config.json``, ``checkpoints/last.ckpt`` and ``best.ckpt`` (by validation ELBO), ``logs/`` (CSV, a
version for each launch), at the end ``result.json``. The same command continues a run that was cut off, at any moment,
with the result of an unbroken one: the step alone decides the batch and the random numbers, and checkpoints are
replaced whole.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from cvxsst import score_function
from experiments.graph_layout.data import NODES, Layouts
from experiments.graph_layout.edges import EDGES, GRADIENTS, kl_to_prior
from experiments.graph_layout.model import HORIZON, Decoder, Encoder, negative_log_likelihood, precision_and_recall

EVALUATION_BATCH = 100
STAGES = {"train": 0, "valid": 1, "test": 2}


@dataclass(frozen=True)
class Config:
    """What decides the result of a run.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    edges: str = "spanning-tree"
    gradient: str = "relaxed"
    length: int = 10
    steps: int = 50_000
    batch_size: int = 128
    hidden: int = 256
    learning_rate: float = 1.2e-3
    temperature: float = 3.9
    seed: int = 0
    validate_every: int = 500
    samples: int = 1
    engine: str = "auto"

    def __post_init__(self) -> None:
        for name, choices in (("edges", EDGES), ("gradient", GRADIENTS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("length", "steps", "batch_size", "hidden", "learning_rate", "temperature", "validate_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not positive")
        if self.steps % self.validate_every:
            raise ValueError(
                f"validate_every: {self.steps} steps are not a multiple of {self.validate_every}; the last ones would "
                "never be validated"
            )
        if self.samples < GRADIENTS[self.gradient].samples:
            raise ValueError(f"samples: {self.gradient} needs at least {GRADIENTS[self.gradient].samples}")

    @property
    def name(self) -> str:
        return f"{self.edges}-{self.gradient}-T{self.length}-h{self.hidden}-seed{self.seed}"


class RelationalInference(lightning.LightningModule):
    """The variational autoencoder: encoder, edge distribution, decoder, ELBO."""

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.kind, self.gradient = config, EDGES[config.edges], GRADIENTS[config.gradient]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = Encoder(NODES, config.length, config.hidden, self.kind.outputs)
            self.decoder = Decoder(2, config.hidden)
            self.estimator = self._estimator()
        self.sums: dict[str, torch.Tensor] = {}

    def _estimator(self) -> score_function.Reinforce | None:
        if self.gradient.estimator is not score_function.NVIL:
            return self.gradient.estimator() if self.gradient.estimator else None
        inputs, width = NODES * self.config.length * 2, self.config.hidden
        layers = (nn.Flatten(-3), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 1))
        return score_function.NVIL(nn.Sequential(*layers))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)

    def scores(self, trajectories: torch.Tensor) -> torch.Tensor:
        return self.kind.symmetric(self.encoder(trajectories))

    def _fix_random_numbers(self, stage: str, number: int) -> None:
        """The run's seed, the step and the process decide the noise: a resumed run draws what an unbroken one does."""
        words = np.random.SeedSequence([self.config.seed, STAGES[stage], number, self.global_rank]).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))

    def training_step(self, trajectories: torch.Tensor, index: int) -> torch.Tensor:
        self._fix_random_numbers("train", self.global_step)
        loss = self.objective(trajectories)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def objective(self, trajectories: torch.Tensor) -> torch.Tensor:
        """-ELBO of the relaxed model, the mean over the batch; by the score function, of the model itself."""
        theta, samples = self.scores(trajectories), (self.config.samples,)
        if self.estimator is None:
            q = self.kind.softmax(theta, self.config.temperature, self.gradient.hard, self.config.engine)
            cost = self._errors(q.rsample(samples), trajectories)
        else:
            p = self.kind.argmax(theta)
            z, w = p.sample_with_utilities(samples)
            log_prob = p.utilities.log_prob(w).flatten(2).sum(-1)
            cost = self.estimator(self._errors(z, trajectories), log_prob, trajectories)
        return cost.mean() + kl_to_prior(theta).mean()

    def _errors(self, z: torch.Tensor, trajectories: torch.Tensor) -> torch.Tensor:
        """``(samples, batch)``: negative log-likelihoods without teacher forcing."""
        graphs = self.kind.graph(z, NODES).flatten(0, 1)
        repeated = trajectories.repeat(self.config.samples, 1, 1, 1)
        predictions = self.decoder.predict(repeated, graphs, min(HORIZON, self.config.length - 1))
        return negative_log_likelihood(predictions, repeated).unflatten(0, (self.config.samples, -1))

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        self._evaluate("valid", batch, index)

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        self._evaluate("test", batch, index)

    def _evaluate(self, stage: str, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        """Adds up over the examples: one graph each, every frame predicted from the true one before it."""
        self._fix_random_numbers(stage, index)
        positions, trees = batch
        theta = self.scores(positions)
        graphs = self.kind.graph(self.kind.argmax(theta).sample(), NODES)
        nll = negative_log_likelihood(self.decoder.predict(positions, graphs, 1), positions)
        values = {"nll": nll, "kl": kl_to_prior(theta), "count": torch.ones_like(nll)}
        truth = EDGES["spanning-tree"].graph(trees, NODES)[:, 1]
        for number, kind in enumerate(("none", "edge")):
            values[f"{kind}/precision"], values[f"{kind}/recall"] = precision_and_recall(graphs[:, number], truth)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.double().sum()

    def on_validation_epoch_end(self) -> None:
        self._report("valid")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, stage: str) -> None:
        """Means over all processes. What type of edge is *the* edge nobody told the model: the more precise one is."""
        totals = {name: cast(torch.Tensor, self.all_gather(total)).sum() for name, total in self.sums.items()}
        self.sums = {}
        mean = {name: total / totals["count"] for name, total in totals.items()}
        kind = "edge" if mean["edge/precision"] >= mean["none/precision"] else "none"
        results = {
            "elbo": -mean["nll"] - mean["kl"],
            "precision": mean[f"{kind}/precision"],
            "recall": mean[f"{kind}/recall"],
            "nll": mean["nll"],
            "kl": mean["kl"],
        }
        for name, value in results.items():
            self.log(f"{stage}/{name}", value.float(), prog_bar=name in ("elbo", "precision"), sync_dist=False)


class TrainingBatches(IterableDataset):
    """Batches of positions for ever, in the order of the data (which is random): step t takes B rows from t B on,
    cyclically. Of B rows every process takes its share. Begins at the step where the run goes on.
    """

    def __init__(self, layouts: Layouts, module: RelationalInference):
        self.layouts, self.module = layouts, module

    def __iter__(self) -> Iterator[torch.Tensor]:
        size, step = self.module.config.batch_size, self.module.global_step
        while True:
            own = slice(self.module.global_rank, None, self.module.trainer.world_size)
            rows = torch.arange(step * size, (step + 1) * size)[own]
            yield self.layouts.positions[rows % len(self.layouts)]
            step += 1


class EvaluationBatches(IterableDataset):
    """All layouts once, ``(positions, trees)``, every process its share."""

    def __init__(self, layouts: Layouts, module: RelationalInference):
        self.layouts, self.module = layouts, module

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        own = slice(self.module.global_rank, None, self.module.trainer.world_size)
        positions, trees = self.layouts.positions[own], self.layouts.trees[own]
        yield from zip(positions.split(EVALUATION_BATCH), trees.split(EVALUATION_BATCH), strict=True)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside, then renames: whenever the process is killed, the old or the new checkpoint is there, whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        partial = Path(f"{path}.partial")
        super().save_checkpoint(checkpoint, partial, storage_options)
        os.replace(partial, path)


class TimeUp(Exception):  # noqa: N818 - no error
    """The minutes of this launch are over."""


class Clock(Checkpoint):
    """Seconds of training, without validation, over all launches: ``state["seconds"]`` for ``state["steps"]``.

    Ends the launch at the first validation after so many minutes, its checkpoint written: Lightning lets checkpoint
    callbacks go last, in their order. (``max_time`` counts all launches together, ``should_stop`` validates once more
    than an unbroken run, and a run that stopped when a validation was due would lose it.)
    """

    def __init__(self, minutes: float | None) -> None:
        self.state: dict[str, float] = {"seconds": 0.0, "steps": 0}
        self.deadline = time.perf_counter() + 60 * minutes if minutes else float("inf")

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.state["seconds"] += time.perf_counter() - self._start
        self.state["steps"] += 1

    def on_validation_end(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        late = time.perf_counter() > self.deadline and trainer.global_step < trainer.max_steps
        if trainer.strategy.reduce_boolean_decision(late, all=False):
            raise TimeUp

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = dict(state_dict)


def train(
    config: Config,
    layouts: dict[str, Layouts],
    folder: Path,
    *,
    accelerator: str = "auto",
    devices: str | int = 1,
    strategy: str = "auto",
    minutes: float | None = None,
    progress: bool = True,
    callbacks: tuple[lightning.Callback, ...] = (),
) -> dict[str, Any] | None:
    """Trains, or goes on, then tests the best checkpoint; returns what ``result.json`` says, or None if time was up.

    Args:
        config: what decides the result. A folder with another config is refused.
        layouts: ``train``, ``valid``, ``test``.
        folder: of the run.
        accelerator, devices, strategy: as Lightning's Trainer takes them; all devices share one ``batch_size``.
        minutes: stop at the first validation after so many; the same call goes on from there.
        progress: show a progress bar.
        callbacks: further ones.

    Raises:
        ValueError: another config in the folder; a batch size that the processes cannot share.
    """
    _claim(folder, config)
    finished = folder / "result.json"
    if finished.exists():
        return json.loads(finished.read_text())
    module, clock = RelationalInference(config), Clock(minutes)
    best = ModelCheckpoint(
        folder / "checkpoints",
        filename="best",
        monitor="valid/elbo",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    with warnings.catch_warnings():
        # The data lie in memory; the loaders know the step at which they begin; one process writes to one folder.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*dataloader is not resumable.*")
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            max_steps=config.steps,
            val_check_interval=config.validate_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=max(1, config.validate_every // 10),
            use_distributed_sampler=False,
            logger=CSVLogger(folder, name="logs"),
            callbacks=[best, clock, *([RichProgressBar()] if progress else []), *callbacks],
            enable_progress_bar=progress,
            enable_model_summary=False,
            plugins=[WholeCheckpoints()],
        )
        if config.batch_size % trainer.world_size:
            raise ValueError(f"batch_size: {config.batch_size} is not a multiple of the {trainer.world_size} processes")
        last = folder / "checkpoints" / "last.ckpt"
        try:
            trainer.fit(
                module,
                _loader(TrainingBatches(layouts["train"], module)),
                _loader(EvaluationBatches(layouts["valid"], module)),
                ckpt_path=str(last) if last.exists() else None,
            )
        except TimeUp:
            return None
        tests = _loader(EvaluationBatches(layouts["test"], module))
        (tested,) = trainer.test(module, tests, ckpt_path=str(folder / "checkpoints" / "best.ckpt"), verbose=False)
    result = {
        "config": asdict(config),
        "test": {name.removeprefix("test/"): value for name, value in tested.items()},
        "valid": {"elbo": float(best.best_model_score)} if best.best_model_score is not None else {},
        "history": history(folder),
        "seconds_per_step": clock.state["seconds"] / max(1, clock.state["steps"]),
        "processes": trainer.world_size,
        "hardware": hardware(trainer),
        "versions": {name: version(name) for name in ("cvxsst", "torch", "lightning", "networkx")},
        "data": {name: len(part) for name, part in layouts.items()},
    }
    if trainer.is_global_zero:
        write_json(finished, result)
    return result


def _loader(batches: IterableDataset) -> DataLoader:
    return DataLoader(batches, batch_size=None)


def history(folder: Path) -> list[dict[str, float]]:
    """The validations of a run, in order. What a later launch repeats of one that was cut off replaces it."""
    lines: dict[int, dict[str, float]] = {}
    for log in sorted(folder.glob("logs/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("valid/elbo"):
                    values = {
                        name.removeprefix("valid/"): float(row[name]) for name in row if name.startswith("valid/")
                    }
                    lines[int(row["step"]) + 1] = {"step": int(row["step"]) + 1, **values}
    return [lines[step] for step in sorted(lines)]


def load_best(folder: Path) -> RelationalInference:
    """The model of a run with the best validation ELBO, ready to be evaluated.

    Raises:
        FileNotFoundError: not a run, or one that has not been validated yet.
    """
    config = Config(**json.loads((folder / "config.json").read_text()))
    module = RelationalInference(config)
    stored = torch.load(folder / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    module.load_state_dict(stored["state_dict"])
    return module.eval()


def _claim(folder: Path, config: Config) -> None:
    """The folder is this config's, or becomes so."""
    path, own = folder / "config.json", asdict(config)
    if path.exists():
        stored = json.loads(path.read_text())
        differing = [
            f"{name} {stored.get(name)!r} there, {own.get(name)!r} here"
            for name in own | stored
            if stored.get(name) != own.get(name)
        ]
        if differing:
            raise ValueError(f"{folder} holds another run ({'; '.join(differing)}); choose another folder or delete it")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, own)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def hardware(trainer: lightning.Trainer) -> str:
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.get_device_name(trainer.strategy.root_device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads a process"

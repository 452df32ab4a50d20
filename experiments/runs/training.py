"""Training with Lightning: checkpoints, resuming, logs, devices, tests.

A run is a folder: ``config.json``, ``checkpoints/last.ckpt`` and ``best.ckpt`` (by the model's ``monitor``, in
validation), ``logs/`` (CSV, a version for each launch), at the end ``result.json``. The same call continues a run that
was cut off, at any moment, with the result of an unbroken one: the step alone decides the batch and the random numbers,
and checkpoints are replaced whole.
"""

from __future__ import annotations

import csv
import os
import platform
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader, IterableDataset

from experiments.runs.files import read_json, whole, write_json
from experiments.runs.options import Launch
from experiments.runs.seeds import fix
from experiments.runs.settings import Settings

EVALUATION_BATCH = 100
STAGES = {"train": 0, "valid": 1, "test": 2}
BEST, LAST, RESULT = Path("checkpoints/best.ckpt"), Path("checkpoints/last.ckpt"), "result.json"

M = TypeVar("M", bound="Model")


class Split(Protocol):
    """A part of the data, in random order: training goes through it cyclically as it stands."""

    def __len__(self) -> int: ...

    def batch(self, rows: torch.Tensor) -> Any:
        """The examples of these rows: a tensor, or a tuple, list or dict of tensors, which goes to the device."""


class Model(LightningModule):
    """What an experiment trains. It must define ``loss`` and ``measure``, and name its settings and its ``monitor``.

    Whatever it draws in ``loss`` and ``measure`` from torch's generators is decided by the run's seed, the stage, the
    number of the step or batch, and the process. The networks are best made under ``seeded(config.seed)``.
    """

    settings: ClassVar[type[Settings]]
    monitor: ClassVar[str]  # a name of ``summary``, which decides in validation
    mode: ClassVar[str] = "max"  # the larger, the better; or "min"
    shown: ClassVar[tuple[str, ...]] = ()  # further names beside the progress bar
    packages: ClassVar[tuple[str, ...]] = ()  # whose versions the result tells, besides ours, torch and Lightning
    config: Settings

    def __init__(self, config: Settings):
        super().__init__()
        self.config = config
        self.sums: dict[str, torch.Tensor] = {}

    @abstractmethod
    def loss(self, batch: Any) -> torch.Tensor:
        """What a step minimizes: a number, the mean over the batch."""

    @abstractmethod
    def measure(self, batch: Any) -> dict[str, torch.Tensor]:
        """What validation and test look at: a value for each example ``(n,)``, by name."""

    def summary(self, mean: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The metrics, from the means of ``measure`` over all examples and processes."""
        return mean

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=cast(Any, self.config).learning_rate)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self._fix_random_numbers("train", self.global_step)
        loss = self.loss(batch)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self._evaluate("valid", batch, index)

    def test_step(self, batch: Any, index: int) -> None:
        self._evaluate("test", batch, index)

    def on_validation_epoch_end(self) -> None:
        self._report("valid")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _fix_random_numbers(self, stage: str, number: int) -> None:
        fix(self.config.seed, STAGES[stage], number, self.global_rank)

    def _evaluate(self, stage: str, batch: Any, index: int) -> None:
        self._fix_random_numbers(stage, index)
        values = self.measure(batch)
        values["count"] = torch.ones_like(next(iter(values.values())))
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.double().sum()

    def _report(self, stage: str) -> None:
        totals = {name: cast(torch.Tensor, self.all_gather(total)).sum() for name, total in self.sums.items()}
        self.sums = {}
        count = totals.pop("count")
        for name, value in self.summary({name: total / count for name, total in totals.items()}).items():
            shown = name == self.monitor or name in self.shown
            self.log(f"{stage}/{name}", value.float(), prog_bar=shown, sync_dist=False)


class TrainingBatches(IterableDataset):
    """Batches for ever, in the order of the data: step t takes B rows from t B on, cyclically. Of B rows every process
    takes its share. Begins at the step where the run goes on.
    """

    def __init__(self, split: Split, module: Model):
        self.split, self.module = split, module

    def __iter__(self) -> Iterator[Any]:
        size, step = self.module.config.batch_size, self.module.global_step
        while True:
            own = slice(self.module.global_rank, None, self.module.trainer.world_size)
            rows = torch.arange(step * size, (step + 1) * size)[own]
            yield self.split.batch(rows % len(self.split))
            step += 1


class EvaluationBatches(IterableDataset):
    """All examples once, every process its share."""

    def __init__(self, split: Split, module: Model):
        self.split, self.module = split, module

    def __iter__(self) -> Iterator[Any]:
        own = slice(self.module.global_rank, None, self.module.trainer.world_size)
        for rows in torch.arange(len(self.split))[own].split(EVALUATION_BATCH):
            yield self.split.batch(rows)


class WholeCheckpoints(TorchCheckpointIO):
    """Whenever the process is killed, the old or the new checkpoint is there, whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with whole(Path(path)) as partial:
            super().save_checkpoint(checkpoint, partial, storage_options)


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

    def on_validation_end(self, trainer: Trainer, *arguments: Any) -> None:
        late = time.perf_counter() > self.deadline and trainer.global_step < trainer.max_steps
        if trainer.strategy.reduce_boolean_decision(late, all=False):
            raise TimeUp

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = dict(state_dict)


def train(
    kind: type[Model],
    config: Settings,
    data: Mapping[str, Split],
    folder: Path,
    launch: Launch = Launch(),
    *,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any] | None:
    """Trains, or goes on, then tests the best checkpoint; returns what ``result.json`` says, or None if time was up.

    Args:
        kind: of model, made from ``config``.
        config: what decides the result. A folder with another config is refused.
        data: ``train``, ``valid``, ``test``.
        folder: of the run.
        launch: minutes, after which the same call goes on; devices, which share one ``batch_size``.
        progress: show a progress bar.
        callbacks: further ones.

    Raises:
        ValueError: another config in the folder; a batch size that the processes cannot share.
    """
    config.claim(folder)
    if (folder / RESULT).exists():
        return read_json(folder / RESULT)
    module, clock, best = kind(config), Clock(launch.minutes), _best(folder, kind)
    with _no_warnings_about_the_data():
        trainer = _trainer(
            launch,
            progress,
            max_steps=config.steps,
            val_check_interval=config.validate_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=max(1, config.validate_every // 10),
            logger=CSVLogger(folder, name="logs"),
            callbacks=[best, _last(folder), clock, *callbacks],  # the last one holds what the best one has become
            plugins=[WholeCheckpoints()],
        )
        if config.batch_size % trainer.world_size:
            raise ValueError(f"batch_size: {config.batch_size} is not a multiple of the {trainer.world_size} processes")
        if not _is_fitted(trainer, module, data, folder / LAST):
            return None
        tested = _tested(trainer, module, data["test"], folder / BEST)
    result = {
        "config": config.to_json(),
        "test": tested,
        "valid": {kind.monitor: float(best.best_model_score)} if best.best_model_score is not None else {},
        "history": history(folder, kind.monitor),
        "seconds_per_step": clock.state["seconds"] / max(1, clock.state["steps"]),
        "data": {name: len(part) for name, part in data.items()},
        **_circumstances(trainer, kind),
    }
    if trainer.is_global_zero:
        write_json(folder / RESULT, result)
    return result


def evaluate(kind: type[Model], folder: Path, split: Split, launch: Launch = Launch()) -> dict[str, float]:
    """The metrics of a run's best checkpoint on any data.

    Raises:
        FileNotFoundError: not a run, or one that has not been validated yet.
    """
    module = load_best(kind, folder)
    with _no_warnings_about_the_data():
        trainer = _trainer(launch, progress=False, logger=False, enable_checkpointing=False)
        return _tested(trainer, module, split, None)


def load_best(kind: type[M], folder: Path) -> M:
    """The model of a run that was the best in validation, ready to be evaluated.

    Raises:
        FileNotFoundError: not a run, or one that has not been validated yet.
    """
    module = kind(kind.settings.of(folder))
    stored = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    module.load_state_dict(stored["state_dict"])
    return module.eval()


def history(folder: Path, monitor: str) -> list[dict[str, float]]:
    """The validations of a run, in order. What a later launch repeats of one that was cut off replaces it."""
    lines: dict[int, dict[str, float]] = {}
    for log in sorted(folder.glob("logs/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get(f"valid/{monitor}"):
                    step = int(row["step"]) + 1
                    values = {name: float(row[name]) for name in row if name.startswith("valid/")}
                    lines[step] = {"step": step, **_unprefixed(values)}
    return [lines[step] for step in sorted(lines)]


def _circumstances(trainer: Trainer, kind: type[Model]) -> dict[str, Any]:
    device = trainer.strategy.root_device
    cores = f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads a process"
    return {
        "processes": trainer.world_size,
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else cores,
        "versions": {name: version(name) for name in ("cvxsst", "torch", "lightning", *kind.packages)},
    }


def _is_fitted(trainer: Trainer, module: Model, data: Mapping[str, Split], last: Path) -> bool:
    """Trains, from the last checkpoint on if there is one; False if time was up before."""
    try:
        trainer.fit(
            module,
            _loader(TrainingBatches(data["train"], module)),
            _loader(EvaluationBatches(data["valid"], module)),
            ckpt_path=str(last) if last.exists() else None,
        )
    except TimeUp:
        return False
    return True


def _trainer(launch: Launch, progress: bool, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    return Trainer(
        callbacks=[*callbacks, *([RichProgressBar()] if progress else [])],
        accelerator=launch.accelerator,
        devices=int(launch.devices) if launch.devices.isdecimal() else launch.devices,
        strategy=launch.strategy,
        use_distributed_sampler=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        **options,
    )


def _best(folder: Path, kind: type[Model]) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder / BEST.parent,
        filename=BEST.stem,
        monitor=f"valid/{kind.monitor}",
        mode=kind.mode,
        enable_version_counter=False,
    )


def _last(folder: Path) -> ModelCheckpoint:
    """Of every validation. (``save_last=True`` above would write it only when a validation was the best so far.)"""
    return ModelCheckpoint(folder / LAST.parent, filename=LAST.stem, enable_version_counter=False)


def _tested(trainer: Trainer, module: Model, split: Split, checkpoint: Path | None) -> dict[str, float]:
    path = None if checkpoint is None else str(checkpoint)
    (tested,) = trainer.test(module, _loader(EvaluationBatches(split, module)), ckpt_path=path, verbose=False)
    return _unprefixed(tested)


def _unprefixed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.partition("/")[2]: value for name, value in metrics.items()}


def _loader(batches: IterableDataset) -> DataLoader:
    return DataLoader(batches, batch_size=None)


@contextmanager
def _no_warnings_about_the_data() -> Iterator[None]:
    """The data lie in memory; the loaders know the step at which they begin; one process writes to one folder."""
    with warnings.catch_warnings():
        for about in ("does not have many workers", "dataloader is not resumable", "exists and is not empty"):
            warnings.filterwarnings("ignore", f".*{about}.*")
        yield

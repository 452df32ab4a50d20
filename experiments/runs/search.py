"""Random search over some settings with Ray Tune, log-uniform.

Every trial is a run of its own (training.py) in a folder of its own, so the same call goes on with a search that was
cut off: finished runs return their result at once, a broken one continues from its checkpoint. A trial whose training
fails, by numbers out of range for example, counts as one that found nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from rich import box
from rich.table import Table

from experiments.runs.files import read_json, write_json
from experiments.runs.settings import Settings
from experiments.runs.tables import Metric
from experiments.runs.training import RESULT

C = TypeVar("C", bound=Settings)


@dataclass(frozen=True)
class Search(Generic[C]):
    """Trials around a config.

    Args:
        base: what the trials share; its seed decides them, and more trials begin with the same ones.
        ranges: the settings that they do not share, low and high.
        run: trains a config in a folder, or goes on, and returns its result.
        folder: of the search.
        trials: how many.
        monitor: the metric by whose value in validation they are sorted, the best first.
    """

    base: C
    ranges: Mapping[str, tuple[float, float]]
    run: Callable[[C, Path], dict[str, Any] | None]
    folder: Path
    trials: int
    monitor: Metric

    def configs(self) -> list[C]:
        low, high = np.log(list(self.ranges.values())).T
        random = np.random.default_rng(self.base.seed)
        drawn = np.exp(random.uniform(low, high, (self.trials, len(self.ranges)))).tolist()
        return [replace(self.base, **dict(zip(self.ranges, values, strict=True))) for values in drawn]

    def search(self, concurrent: int = 1, gpus: float = 0, address: str | None = None) -> list[dict[str, Any]]:
        """All trials, the best in validation first; also written to ``search.json``.

        Args:
            concurrent: trials at a time.
            gpus: of each trial.
            address: of a Ray cluster that shares the file system; default this machine.

        Raises:
            RuntimeError: all trials failed; with what the first one said.
        """
        errors = self._tune(concurrent, gpus, address)
        if len(errors) == self.trials:
            raise RuntimeError(f"all {self.trials} trials failed, the first with: {errors[0]}")
        found = [self._outcome(number, config) for number, config in enumerate(self.configs())]
        sign = 1 if self.monitor.lower else -1
        found.sort(key=lambda trial: sign * trial["valid"].get(self.monitor.name, sign * np.inf))
        write_json(self.folder / "search.json", found)
        return found

    def _tune(self, concurrent: int, gpus: float, address: str | None) -> Sequence[Any]:
        import ray
        from ray import tune

        ray.init(
            address=address, num_cpus=None if address else concurrent, include_dashboard=False, log_to_driver=False
        )
        try:
            tuner = tune.Tuner(
                tune.with_resources(self._trial, {"cpu": 1, "gpu": gpus}),
                param_space={"number": tune.grid_search(list(range(self.trials)))},
                tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
                run_config=tune.RunConfig(name="ray", storage_path=str(self.folder)),
            )
            return tuner.fit().errors
        finally:
            ray.shutdown()

    def _place(self, number: int) -> Path:
        return self.folder / f"trial-{number:02}"

    def _trial(self, choice: dict[str, int]) -> dict[str, float]:
        result = self.run(self.configs()[choice["number"]], self._place(choice["number"]))
        assert result is not None  # no limit of time was set
        return {self.monitor.name: result["valid"][self.monitor.name]}

    def _outcome(self, number: int, config: C) -> dict[str, Any]:
        finished = self._place(number) / RESULT
        if not finished.exists():
            return {"trial": number, "config": config.to_json(), "valid": {}, "test": {}}
        result = read_json(finished)
        return {"trial": number, **{name: result[name] for name in ("config", "valid", "test", "seconds_per_step")}}

    def report(self, found: list[dict[str, Any]], metrics: Sequence[Metric]) -> Table:
        """The trials in the order of ``found``: what was searched, the first metric in validation, all in the test."""
        table = Table(
            title=f"The best validation {metrics[0].label} first",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        searched = [name.replace("_", " ") for name in self.ranges]
        for header in ("trial", *searched, f"valid {metrics[0].header}", *(f"test {m.header}" for m in metrics)):
            table.add_column(header, justify="right")
        for trial in found:
            values = [f"{trial['config'][name]:.3g}" for name in self.ranges]
            scores = ["failed"] * (1 + len(metrics))
            if trial["test"]:
                scores = [metrics[0].text(trial["valid"]), *(metric.text(trial["test"]) for metric in metrics)]
            table.add_row(str(trial["trial"]), *values, *scores)
        return table

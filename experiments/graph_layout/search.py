"""Random search over learning rate and temperature with Ray Tune: log-uniform in [1e-4, 1e-2] and [0.1, 10].

Every trial is a run of its own (training.py) in a folder of its own, so the same call goes on with a search that was
cut off: finished runs return their result at once, a broken one continues from its checkpoint. A trial whose training
fails, by numbers out of range for example, counts as one that found nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from experiments.graph_layout.data import load
from experiments.graph_layout.training import Config, train, write_json

LEARNING_RATES = (1e-4, 1e-2)
TEMPERATURES = (1e-1, 1e1)


@dataclass(frozen=True)
class Search:
    """Trials around a config, all of whose settings they share but the learning rate and the temperature."""

    base: Config
    data: Path
    folder: Path
    trials: int

    def configs(self) -> list[Config]:
        """Decided by the seed of ``base``; more trials begin with the same ones."""
        low, high = np.log([LEARNING_RATES, TEMPERATURES]).T
        drawn = np.exp(np.random.default_rng(self.base.seed).uniform(low, high, (self.trials, 2)))
        return [replace(self.base, learning_rate=float(rate), temperature=float(T)) for rate, T in drawn]

    def run(self, concurrent: int = 1, gpus: float = 0, address: str | None = None) -> list[dict[str, Any]]:
        """All trials, the best validation ELBO first; also written to ``search.json``.

        Args:
            concurrent: trials at a time.
            gpus: of each trial.
            address: of a Ray cluster that shares the file system; default this machine.
        """
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
            errors = tuner.fit().errors
        finally:
            ray.shutdown()
        if len(errors) == self.trials:
            raise RuntimeError(f"all {self.trials} trials failed, the first with: {errors[0]}")
        found = [self._outcome(number, config) for number, config in enumerate(self.configs())]
        found.sort(key=lambda trial: -trial["valid"].get("elbo", -np.inf))
        write_json(self.folder / "search.json", found)
        return found

    def _place(self, number: int) -> Path:
        return self.folder / f"trial-{number:02}"

    def _trial(self, choice: dict[str, int]) -> dict[str, float]:
        config = self.configs()[choice["number"]]
        result = train(config, load(self.data, config.length), self._place(choice["number"]), progress=False)
        assert result is not None  # no limit of time was set
        return {"elbo": result["valid"]["elbo"]}

    def _outcome(self, number: int, config: Config) -> dict[str, Any]:
        finished = self._place(number) / "result.json"
        if not finished.exists():
            return {"trial": number, "config": asdict(config), "valid": {}, "test": {}}
        result = json.loads(finished.read_text())
        return {"trial": number, **{name: result[name] for name in ("config", "valid", "test", "seconds_per_step")}}


def report(found: list[dict[str, Any]]) -> Table:
    """The trials in the order of ``found``."""
    table = Table(title="The best validation ELBO first")
    for header in ("trial", "learning rate", "temperature", "validation ELBO", "test ELBO", "precision %", "recall %"):
        table.add_column(header, justify="right")
    for trial in found:
        config, test = trial["config"], trial["test"]
        scores = ["failed"] * 4
        if test:
            elbos = (trial["valid"]["elbo"], test["elbo"])
            scores = [f"{elbo:.0f}" for elbo in elbos] + [f"{100 * test[name]:.1f}" for name in ("precision", "recall")]
        table.add_row(str(trial["trial"]), f"{config['learning_rate']:.2e}", f"{config['temperature']:.2f}", *scores)
    return table

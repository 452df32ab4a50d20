"""What the commands of an experiment do: train, test, search, table. Lightning and Ray are imported when needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rich.console import Console

from cvxsst.installed import require
from experiments.runs.options import Launch, Tuning
from experiments.runs.settings import Settings
from experiments.runs.tables import Comparison, Metric, Result, results

if TYPE_CHECKING:
    from experiments.runs.training import Model, Split

EXTRA = "cvxsst[experiments]"
C = TypeVar("C", bound=Settings)
P = TypeVar("P", bound=Path | None)


@dataclass(frozen=True)
class Experiment(Generic[C]):
    """An experiment by its parts; its command functions hand their arguments on to the methods.

    Args:
        name: on the command line; its runs are below ``out/NAME``.
        settings: of a run.
        prepare: the class of the model, and the splits ``train``, ``valid``, ``test`` for these settings from a file.
            A function of a module, for the processes of a search; the place to import Lightning.
        table: of the results.
        metrics: of the test, the first of which decides in validation (the model's ``monitor``).
        ranges: of the settings that a search draws, log-uniform.
        published: the folder of the results that the repository holds, if any.
        data: what ``cvxsst data`` calls its data, if not by the name.
    """

    name: str
    settings: type[C]
    prepare: Callable[[C, Path], tuple[type[Model], Mapping[str, Split]]]
    table: Comparison
    metrics: Sequence[Metric]
    ranges: Mapping[str, tuple[float, float]]
    published: Path | None = None
    data: str | None = None

    @property
    def runs(self) -> Path:
        return Path("out") / self.name

    def run(
        self, config: C, folder: Path, data: Path, launch: Launch = Launch(), progress: bool = True
    ) -> Result | None:
        """One run, or the rest of it: the result, or None if time was up."""
        from experiments.runs.training import train

        kind, splits = self.prepare(config, data)
        if missing := ", ".join({"train", "valid", "test"} - splits.keys()):
            raise ValueError(
                f"--data: {data} has no {missing} part; make one with: cvxsst data {self.data or self.name}"
            )
        return train(kind, config, splits, folder, launch, progress=progress)

    def train(self, config: C, launch: Launch, data: Path, output: Path | None) -> None:
        require("lightning", EXTRA)
        folder = output or self.runs / config.name
        result = self.run(config, folder, data, launch)
        if result is None:
            print(f"not finished; the same command goes on: {folder}")
        else:
            self._tell(result["test"], folder)

    def test(self, folder: Path, data: Path, others: Mapping[str, Any] | None = None) -> None:
        """``others``: settings of the data that are to be not as in training; those that are None are as they were."""
        require("lightning", EXTRA)
        from experiments.runs.training import evaluate

        changed = {name: value for name, value in (others or {}).items() if value is not None}
        kind, splits = self.prepare(replace(self.settings.of(folder), **changed), data)
        self._tell(evaluate(kind, folder, splits["test"]), folder)

    def search(self, config: C, tuning: Tuning, data: Path, output: Path | None) -> None:
        require("lightning", EXTRA)
        require("ray", "cvxsst[search]")
        from experiments.runs.search import Search

        folder = (output or self.runs / f"search-{config.name}").absolute()
        run = partial(self.run, data=data.absolute(), progress=False)
        search = Search(config, self.ranges, run, folder, tuning.trials, self.metrics[0])
        found = search.search(tuning.concurrent, tuning.gpus, tuning.address)
        Console().print(search.report(found, self.metrics[:3]))  # as many as 80 columns hold
        print(f"written: {folder / 'search.json'}")

    def show(self, folders: Sequence[Path] | None, markdown: bool) -> tuple[list[Result], list[Path]]:
        """Prints the table; returns the results in it, and the folders they are from."""
        usual = [place for place in (self.published, self.runs) if place is not None and place.exists()]
        places = usual if folders is None else list(folders)
        found = results(places)
        if not found:
            asked = ", ".join(map(str, places or [self.runs]))
            raise ValueError(f"no finished run below {asked}; cvxsst train {self.name} makes one")
        if markdown:
            print(self.table.markdown(found))
        else:
            Console().print(self.table.table(found))
        return found, places

    def draw(
        self,
        save: Callable[[Path, list[Result], list[Path], P], None],
        shown: tuple[list[Result], list[Path]],
        pictures: Path | None,
        data: P,
    ) -> None:
        """The pictures of what was shown, if a folder is given for them: ``save(pictures, results, places, data)``."""
        if pictures is None:
            return
        require("lightning", EXTRA)
        require("matplotlib", "cvxsst[plot]")
        save(pictures, *shown, data)
        print(f"written: {pictures}")

    def _tell(self, test: Mapping[str, Any], folder: Path) -> None:
        print(f"test {', '.join(metric.said(test) for metric in self.metrics if metric.name in test)}: {folder}")

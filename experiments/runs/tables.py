"""Finished runs as a table: the seeds of a setting together, beside what was published."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from experiments.runs.files import read_json

Result = dict[str, Any]  # what result.json holds


@dataclass(frozen=True)
class Metric:
    """A number of the test: its name in the results, and how it is printed; ``lower``: the smaller, the better."""

    name: str
    label: str
    percent: bool = False
    digits: int = 0
    lower: bool = False

    @property
    def header(self) -> str:
        return f"{self.label} %" if self.percent else self.label

    def text(self, values: Mapping[str, float]) -> str:
        """Of one run, a digit more than in the table; empty where it has none."""
        return f"{self._scaled(values):.{self.digits + 1}f}" if self.name in values else ""

    def said(self, values: Mapping[str, float]) -> str:
        return f"{self.label} {self.text(values)}{' %' if self.percent else ''}"

    def spread(self, group: Sequence[Result]) -> str:
        """Mean ± standard deviation over the runs of a group; of a single one its value; empty where it has none."""
        if self.name not in group[0]["test"]:
            return ""
        values = [self._scaled(result["test"]) for result in group]
        mean = f"{statistics.mean(values):.{self.digits}f}"
        return f"{mean} ± {statistics.stdev(values):.{self.digits}f}" if len(values) > 1 else mean

    def _scaled(self, values: Mapping[str, float]) -> float:
        return values[self.name] * (100 if self.percent else 1)


Cell = Callable[[list[Result]], str]


@dataclass(frozen=True)
class Column:
    """A column of the table: what it says of the runs of a group, and what was published, where there is such a figure.

    ``words``: of the name of a row; on the screen the columns of words are one. ``setting``: on the screen it stands
    above the table where all rows have the same.
    """

    header: str
    cell: Cell
    published: Cell | None = None
    words: bool = False
    setting: bool = False


def of(name: str) -> Cell:
    """A setting of the group."""

    def cell(group: list[Result]) -> str:
        value = group[0]["config"][name]
        return f"{value:,}" if isinstance(value, int) else str(value)

    return cell


def runs(group: list[Result]) -> str:
    """How many runs, that is seeds, the group has."""
    return str(len(group))


@dataclass(frozen=True)
class Comparison:
    """The table of an experiment, ours beside the published.

    Args:
        title: above it.
        source: of the published figures.
        columns: from left to right.
        order: of the rows: a key made of the config.
    """

    title: str
    source: str
    columns: Sequence[Column]
    order: Callable[[dict[str, Any]], tuple]

    def groups(self, found: Iterable[Result]) -> list[list[Result]]:
        """The runs that differ in their seed alone, together."""
        groups: dict[str, list[Result]] = defaultdict(list)
        for result in found:
            groups[json.dumps(result["config"] | {"seed": None}, sort_keys=True)].append(result)
        return sorted(groups.values(), key=lambda group: self.order(group[0]["config"]))

    def markdown(self, found: Iterable[Result]) -> str:
        """Every column, then the published figures in columns of their own."""
        compared = [column for column in self.columns if column.published is not None]
        headers = [column.header for column in self.columns] + [column.header.removesuffix(" %") for column in compared]
        headers[len(self.columns)] = f"paper: {headers[len(self.columns)]}"
        lines = [headers, ["---"] * len(headers)]
        for group in self.groups(found):
            ours = [column.cell(group) for column in self.columns]
            lines.append(ours + [column.published(group) for column in compared if column.published])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def table(self, found: Iterable[Result]) -> Group:
        """For the screen, 80 columns wide: published figures stand below ours, what all rows share above the table."""
        groups = self.groups(found)
        words = [column for column in self.columns if column.words]
        shared = {c.header: c.cell(groups[0]) for c in self.columns if c.setting and self._is_shared(c, groups)}
        shown = [
            column
            for column in self.columns
            if not column.words and column.header not in shared and any(column.cell(group) for group in groups)
        ]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
        table.add_column(", ".join(column.header for column in words))
        for column in shown:
            table.add_column(column.header.replace(" ", "\n"), justify="right")
        for group in groups:
            name = ", ".join(filter(None, (column.cell(group) for column in words)))
            table.add_row(Text(name), *(_two_lines(column, group) for column in shown))
        about = [self.title, f"mean ± standard deviation over seeds; second lines: {self.source}"]
        about += (
            [f"in all rows: {'; '.join(f'{header} {value}' for header, value in shared.items())}"] if shared else []
        )
        return Group(*about, "", table)

    @staticmethod
    def _is_shared(column: Column, groups: Sequence[list[Result]]) -> bool:
        return len({column.cell(group) for group in groups}) == 1


def _two_lines(column: Column, group: list[Result]) -> Text:
    text = Text(column.cell(group), no_wrap=True)
    published = column.published(group) if column.published is not None else ""
    return text.append(f"\n{published}", style="dim") if published else text


def results(places: Iterable[Path]) -> list[Result]:
    """What the finished runs below the folders say, each once."""
    found: dict[str, Result] = {}
    for content in _contents(places):
        if isinstance(content, dict) and "test" in content and "config" in content:
            found.setdefault(json.dumps(content["config"], sort_keys=True), content)
    return list(found.values())


def _contents(places: Iterable[Path]) -> Iterator[Any]:
    for place in places:
        for file in sorted(place.rglob("*.json")):
            yield read_json(file)

"""Findings as text: what ``print`` shows, in color where the terminal has it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from cvxsst.validation.findings import Findings, number

COLORS = {"pass": "green", "FAIL": "bold red", "-": "dim"}


def of_findings(found: Findings) -> Iterator[RenderableType]:
    """The headline, the table of laws, who is blamed, the proofs."""
    color = "green" if found.passed else "red"
    yield f"[bold]{escape(found.title)}[/bold]: [{color}]{escape(found.headline)}[/{color}]"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("law", "", "error", "allowed", "of", "remarks"):
        right = header in ("error", "allowed", "of")
        table.add_column(header, justify="right" if right else "left", no_wrap=header != "remarks")
    for law in found.laws:
        verdict = f"[{COLORS[law.verdict]}]{law.verdict}[/]"
        count = f"{law.judged}/{law.instances}"
        table.add_row(law.name, verdict, number(law.error), number(law.tolerance), count, escape(law.note))
    yield table
    for proof in found.blamed.values():
        yield f"[yellow]{escape(proof)}[/yellow]"
    for law in found.laws:
        if law.passed is False:
            yield f"[red]{law.name}[/red]: {escape(law.detail)}"
    yield f"[dim]{escape(found.footer)}[/dim]"


def of_pair(a: Findings, b: Findings, verdicts: dict[float, str]) -> Iterator[RenderableType]:
    """The verdicts by temperature, then both."""
    names = escape(a.candidate), escape(b.candidate)
    yield f"[bold]{' beside '.join(names)}[/bold] on {escape(a.polytope)}, {escape(a.regularizer)}: who is right?"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("T", f"{names[0]}: z", "vjp", f"{names[1]}: z", "vjp", "verdict"):
        table.add_column(header, justify="left" if header == "verdict" else "right")
    for T, verdict in verdicts.items():
        table.add_row(f"{T:g}", *a.worst_errors(T), *b.worst_errors(T), escape(verdict))
    yield table
    yield "[dim]largest errors, kinks left out, against certified references, ! where wrong; then all laws[/dim]\n"
    yield from of_findings(a)
    yield ""
    yield from of_findings(b)


def plain(lines: Iterator[RenderableType]) -> str:
    """As ``print`` shows them: plain, as wide as the terminal, at most 120 columns."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(Group(*lines))
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())

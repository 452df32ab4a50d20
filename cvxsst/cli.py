"""The command line: ``cvxsst list``, ``cvxsst audit``, and what other packages add (``cvxsst demo``).

Families are found through the entry points ``cvxsst.families`` (modules that hold them) and subcommands through
``cvxsst.commands``, so that neither is known here by name.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from importlib.metadata import entry_points
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from cvxsst.audit import audit as audit_polytope
from cvxsst.engines import which_engine
from cvxsst.errors import ConvergenceError, NoFastPathError
from cvxsst.polytope import Declaration, Family, Polytope, polytope
from cvxsst.recognition import installed_families
from cvxsst.regularizers import BinaryEntropy, CategoricalEntropy, Euclidean, ExponentialFamily, Regularizer

REGULARIZERS: tuple[Regularizer, ...] = (Euclidean(), CategoricalEntropy(), BinaryEntropy(), ExponentialFamily())

app = typer.Typer(
    help="Differentiable, stochastic softmax over structures: polytopes declared with CVXPY constraints.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)


def engine_table(progress: bool = False) -> list[list[str]]:
    """The rows of ``cvxsst list``: polytope, shape, argmax, then the engine for each regularizer."""
    rows = []
    listed = installed_families().values()
    for family in track(listed, "Asking every engine", transient=True) if progress else listed:
        P = family(*family.examples[0])
        rows.append(
            [
                P.name,
                str(P.shape),
                "oracle" if family.argmax_oracle is not None else "lp",
                *(_engine_cell(P, regularizer) for regularizer in REGULARIZERS),
            ]
        )
    return rows


def _engine_cell(P: Polytope, regularizer: Regularizer) -> str:
    try:
        name = which_engine(P, regularizer)
        if name != "fast":
            regularizer.require_domain(P)
    except (ValueError, NoFastPathError):
        return "-"
    return name


HEADERS = ["polytope", "shape", "argmax", *(type(regularizer).__name__ for regularizer in REGULARIZERS)]


def markdown_table() -> str:
    """The table of ``cvxsst list`` as it stands in the README."""
    rows = [HEADERS, ["---"] * len(HEADERS), *engine_table()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


@app.command("list")
def list_families(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table in Markdown, as in the README.")
    ] = False,
) -> None:
    """List the polytopes, and which engine solves the softmax for each regularizer.

    The engine is the one that `engine="auto"` takes at the size shown; `-` where the regularizer is not defined on the
    polytope. Examples:

    - `cvxsst list`
    - `cvxsst list --markdown`
    """
    if markdown:
        print(markdown_table())
        return
    table = Table(padding=(0, 0, 0, 1))
    for header in HEADERS:
        # class names in two lines, and long polytopes folded: the table fits 80 columns
        table.add_column(re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", header), overflow="fold")
    for row in engine_table(progress=True):
        table.add_row(*map(escape, row))
    Console().print(table)


@app.command("audit")
def audit_families(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="A polytope of `cvxsst list`, as `k_subset` or `'k_subset(5, 2)'`, or your own as `module:name` (a "
            "family, a Polytope, or a function that returns variable and constraints). Default: all that are listed.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="The arguments of the family, separated by commas: `--size 5,2`. Default: its examples."),
    ] = None,
    objectives: Annotated[int, typer.Option(min=1, help="How many random objectives to maximize.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the random objectives.")] = 0,
) -> None:
    """Check declarations: empty, unbounded, flat, redundant rows, fractional vertices.

    Exits with status 1 if a declaration fails. Examples:

    - `cvxsst audit`
    - `cvxsst audit spanning_tree --size 5`
    - `cvxsst audit 'k_subset(6, 3)' --objectives 1000`
    - `cvxsst audit my_module:my_polytope --size 4`
    """
    polytopes = [P for name in names or installed_families() for P in _named(name, size)]
    failed = 0
    for P in track(polytopes, "Auditing", transient=True, disable=len(polytopes) == 1):
        report = audit_polytope(P, objectives=objectives, seed=seed)
        print(report)
        failed += not report.passed
    if failed:
        raise ValueError(f"{failed} of {len(polytopes)} declarations failed the audit")


def _named(name: str, size: str | None) -> list[Polytope]:
    """The polytopes that a name on the command line stands for."""
    name, call = _split_call(name)
    arguments = _literal(call if call is not None else size)
    target = _own(name) if ":" in name else installed_families().get(name)
    if target is None:
        raise ValueError(
            f"NAME: no polytope is called {name!r}; choose one of {', '.join(installed_families())}, or module:name"
        )
    if isinstance(target, Polytope):
        return [target]
    family = target if isinstance(target, Family) else polytope(cast(Declaration, target))
    if arguments is not None:
        choices = [arguments]
    elif family.examples:
        choices = family.examples
    elif not inspect.signature(family.declare).parameters:
        choices = [()]
    else:
        raise ValueError(f"--size: {name} needs arguments {inspect.signature(family.declare)} and gives no examples")
    try:
        return [family(*choice) for choice in choices]
    except TypeError as error:
        raise ValueError(f"{name}{family.signature}: {error}") from None


def _split_call(name: str) -> tuple[str, str | None]:
    if name.endswith(")") and "(" in name:
        head, _, rest = name.partition("(")
        return head.strip(), rest[:-1]
    return name.strip(), None


def _literal(text: str | None) -> tuple | None:
    if text is None:
        return None
    try:
        return ast.literal_eval(f"({text},)") if text.strip() else ()
    except (ValueError, SyntaxError):
        raise ValueError(f"--size: cannot read {text!r}; write numbers or lists, for example 5,2") from None


def _own(name: str) -> object:
    module, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"NAME: cannot import {name!r}: {error}") from None
    finally:
        sys.path.remove(os.getcwd())
    if not callable(target) and not isinstance(target, Polytope):
        raise ValueError(f"NAME: {name} is neither a family, nor a Polytope, nor a function")
    return target


def _add_commands() -> None:
    for entry in entry_points(group="cvxsst.commands"):
        app.command(entry.name)(entry.load())


_add_commands()


def main() -> None:
    """Run the command line; a user's error is one line on stderr and exit status 1, not a traceback."""
    try:
        app()
    except (ValueError, ConvergenceError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(1)

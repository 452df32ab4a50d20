"""The command line: ``cvxsst list``, ``audit``, ``validate``, and what other packages add (``cvxsst demo``).

Families are found through the entry points ``cvxsst.families`` (modules that hold them) and subcommands through
``cvxsst.commands``, so that neither is known here by name.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from cvxsst.audit import audit as audit_polytope
from cvxsst.doctor import examine
from cvxsst.engines import ENGINES, which_engine
from cvxsst.errors import ConvergenceError
from cvxsst.family import Declaration, Family, polytope
from cvxsst.installed import entries
from cvxsst.polytope import Polytope
from cvxsst.recognition import installed_families
from cvxsst.regularizers import BinaryEntropy, CategoricalEntropy, Euclidean, ExponentialFamily, Regularizer
from cvxsst.validation import validate
from cvxsst.validation.page import check_writable, save
from cvxsst.validation.run import Candidate

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
    for family in track(
        [installed_families()[name] for name in _exemplified()],
        "Asking every engine",
        transient=True,
        disable=not progress,
    ):
        P, argmax = family(*family.examples[0]), "lp" if family.argmax_oracle is None else "oracle"
        rows.append([P.name, str(P.shape), argmax, *(_engine_cell(P, f) for f in REGULARIZERS)])
    return rows


def _exemplified() -> list[str]:
    """The names of the families that have examples; one whose members need values of parameters has none."""
    return [name for name, family in installed_families().items() if family.examples]


def _engine_cell(P: Polytope, regularizer: Regularizer) -> str:
    try:
        return which_engine(P, regularizer)
    except ValueError:
        return "-"


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
    polytopes = [P for name in names or _exemplified() for P in _named(name, size)]
    failed = 0
    for P in track(polytopes, "Auditing", transient=True, disable=len(polytopes) == 1):
        report = audit_polytope(P, objectives=objectives, seed=seed)
        print(report)
        failed += not report.passed
    if failed:
        raise ValueError(f"{failed} of {len(polytopes)} declarations failed the audit")


@app.command("validate")
def validate_solvers(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Polytopes of `cvxsst list`, as `k_subset` or `'k_subset(5, 2)'`, whose fast paths are validated; "
            "default: all. With --polytope: your own solver, as `module:function`.",
            show_default=False,
        ),
    ] = None,
    polytope: Annotated[
        str | None, typer.Option(help="What NAME solves: `'k_subset(20, 5)'`, or your own as `module:name`.")
    ] = None,
    regularizer: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(type(r).__name__ for r in REGULARIZERS)}. Default: each that has a fast path."),
    ] = None,
    engine: Annotated[str, typer.Option(help="Validate this engine instead of the fast paths.")] = "fast",
    instances: Annotated[int, typer.Option(min=1, help="Utilities at each temperature.")] = 24,
    temperatures: Annotated[str, typer.Option(help="Separated by commas.")] = "1,0.1,0.05",
    seed: Annotated[int, typer.Option(help="Seed of the utilities.")] = 0,
    tolerance: Annotated[float | None, typer.Option(help="On z. Default: 1e-6.", show_default=False)] = None,
    masks: Annotated[bool, typer.Option(help="Also utilities of -inf, which forbid an entry.")] = True,
    gradients: Annotated[bool, typer.Option(help="Also gradients.")] = True,
    float32: Annotated[bool, typer.Option(help="Also in float32.")] = True,
    shapes: Annotated[bool, typer.Option(help="Also without a batch, and in a batch of two dimensions.")] = True,
    report: Annotated[str | None, typer.Option(metavar="FILE.html", help="Write a page with pictures.")] = None,
) -> None:
    """Hold a solver against independent references and certificates: value, gradient, limits, batches, time.

    Exits with status 1 if a law fails. Examples:

    - `cvxsst validate`
    - `cvxsst validate k_subset 'simplex(10)' --report report.html`
    - `cvxsst validate birkhoff --engine kkt --regularizer Euclidean`
    - `cvxsst validate my_module:my_solver --polytope 'k_subset(20, 5)' --regularizer BinaryEntropy`
    - `cvxsst validate my_module:my_solver ... --no-gradients --no-masks --no-float32 --no-shapes`
    """
    if report is not None:
        check_writable(report)
    options: dict[str, Any] = {"n": instances, "temperatures": _numbers(temperatures), "seed": seed}
    options |= {"tolerance": tolerance, "masks": masks, "gradients": gradients, "float32": float32, "shapes": shapes}
    jobs = _own_solver(names, polytope, regularizer) if polytope else _fast_paths(names, regularizer, engine)
    reports = []
    for P, f, candidate, name in track(jobs, "Validating", transient=True, disable=len(jobs) == 1):
        found = validate(candidate, P, f, name=name, progress=len(jobs) == 1, **options)
        reports.append(found)
        Console().print(found if len(jobs) == 1 or not found.passed else f"{escape(found.title)}: {found.headline}")
    if report is not None:
        save(reports, report)
        Console().print(f"written: {escape(report)}")
    failed = sum(not found.passed for found in reports)
    if failed:
        raise ValueError(f"{failed} of {len(reports)} validations failed")


Job = tuple[Polytope, Regularizer, Candidate, str | None]  # of ``validate``: the problem, the candidate, its name


def _own_solver(names: list[str] | None, polytope: str, regularizer: str | None) -> list[Job]:
    if not names or len(names) != 1:
        raise ValueError("NAME: with --polytope exactly one solver, as module:function")
    chosen = _regularizers(regularizer)
    if len(chosen) != 1:
        raise ValueError("--regularizer: say which one the solver computes")
    candidate = cast(Candidate, _own(names[0]) if ":" in names[0] else names[0])
    return [(P, chosen[0], candidate, names[0]) for P in _named(polytope, None)]


def _fast_paths(names: list[str] | None, regularizer: str | None, engine: str) -> list[Job]:
    """Every polytope, and regularizer that is defined there, for which this engine can be asked."""
    if engine not in ENGINES:
        raise ValueError(f"--engine: unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    for name in names or ():
        if ":" in name and not isinstance(_own(name), Family | Polytope):
            raise ValueError(f"--polytope: say what {name} solves, for example --polytope 'k_subset(20, 5)'")
    jobs: list[Job] = [
        (P, f, engine, None)
        for name in names or _exemplified()
        for P in _named(name, None)
        for f in _regularizers(regularizer)
        if ENGINES[engine].supports(P, f) and _engine_cell(P, f) != "-"
    ]
    if not jobs:
        asked = ", ".join(names or _exemplified())
        raise ValueError(
            f"NAME: nothing to validate, the engine {engine!r} solves none of {asked}; "
            "--engine kkt validates the generic engine there"
        )
    return jobs


def _regularizers(name: str | None) -> list[Regularizer]:
    chosen = [f for f in REGULARIZERS if name is None or type(f).__name__.lower() == name.removesuffix("()").lower()]
    if not chosen:
        known = ", ".join(type(f).__name__ for f in REGULARIZERS)
        raise ValueError(f"--regularizer: no regularizer is called {name!r}; choose one of {known}")
    return chosen


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--temperatures: cannot read {text!r}; write numbers, for example 1,0.1,0.05") from None


def polytopes_called(name: str) -> list[Polytope]:
    """Those that a name on the command line stands for: ``k_subset(20, 5)``, ``k_subset`` or ``my_module:mine``."""
    return _named(name, None)


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
    choices = family.examples if arguments is None else [arguments]
    if not choices and family.signature.parameters:
        raise ValueError(f"--size: {name} needs arguments {family.signature} and gives no examples")
    try:
        return [family(*choice) for choice in choices or [()]]
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


@app.command("doctor")
def doctor() -> None:
    """Check the installation: versions, and every engine on problems with known answers.

    Exits with status 1 if something is missing, too old or wrong. Example:

    - `cvxsst doctor`
    """
    table = Table("", "", "", show_header=False, box=None, padding=(0, 1, 0, 0))
    findings = list(examine())
    for finding in findings:
        mark = "[green]ok[/green]" if finding.well else "[red]FAILED[/red]"
        table.add_row(mark, escape(finding.subject), escape(finding.remark))
    Console().print(table)
    failed = [finding.subject for finding in findings if not finding.well]
    if failed:
        raise ValueError(f"{len(failed)} of {len(findings)} checks failed: {'; '.join(failed)}")


def _add_commands() -> None:
    for entry in entries("cvxsst.commands"):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


_add_commands()


def main(commands: typer.Typer = app) -> None:
    """Run the command line; a user's error is one line on stderr and exit status 1, not a traceback."""
    try:
        commands()
    except (ValueError, ConvergenceError, OSError, ModuleNotFoundError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(1)

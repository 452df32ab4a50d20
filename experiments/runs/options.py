"""The options of a command, from dataclasses; and those that every experiment's commands have."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Output = Annotated[
    Path | None,
    typer.Option(help="The folder to write. Default: one below out/, named after the settings.", show_default=False),
]
Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Runs, or folders of them. Default: the published results, and those below out/.", show_default=False
    ),
]
Pictures = Annotated[
    Path | None, typer.Option(help="Write pictures to this folder, too; some need checkpoints.", show_default=False)
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Default: as many as cores.", show_default=False)]


@dataclass(frozen=True)
class Launch:
    """Where and how long a run is carried out: what does not decide its result."""

    minutes: Annotated[
        float | None,
        typer.Option(help="Stop at the first validation after so many; the same command goes on.", show_default=False),
    ] = None
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu ..., as Lightning names them.")] = "auto"
    devices: Annotated[str, typer.Option(help="How many, or which: 2, '0,1', auto.")] = "1"
    strategy: Annotated[str, typer.Option(help="auto, ddp ..., as Lightning names them.")] = "auto"


@dataclass(frozen=True)
class Tuning:
    """How a search is carried out."""

    trials: Annotated[int, typer.Option(min=1, help="How many settings to try.")] = 20
    concurrent: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1
    gpus: Annotated[float, typer.Option(min=0, help="Of each trial.")] = 0
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster that shares the file system. Default: this machine.", show_default=False),
    ] = None


def options(without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parameters annotated with a dataclass become an option for each of its fields, but for those ``without``.

    The command is called with the dataclasses; Typer sees the options. Fields that are left out keep their default.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[Parameter] = []
        made: dict[str, tuple[type, list[str]]] = {}
        for parameter in signature(command).parameters.values():
            hint = hints[parameter.name]
            if is_dataclass(hint) and isinstance(hint, type):
                own = [_option(hint, field) for field in fields(hint) if field.name not in without]
                made[parameter.name] = hint, [option.name for option in own]
                parameters += own
            else:
                parameters.append(parameter.replace(annotation=hint, kind=Parameter.KEYWORD_ONLY))

        @wraps(command)
        def called(**given: Any) -> None:
            for name, (kind, names) in made.items():
                given[name] = kind(**{option: given.pop(option) for option in names})
            command(**given)

        vars(called)["__signature__"] = Signature(parameters)
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def _option(kind: type, field: Any) -> Parameter:
    hint = get_type_hints(kind, include_extras=True)[field.name]
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hint)

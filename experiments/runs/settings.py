"""The settings of a run: what decides its result, and nothing else, as a frozen dataclass.

    @dataclass(frozen=True)
    class Config(Settings):
        edges: Annotated[str, one_of(EDGES), typer.Option(help="The edge distribution.")] = "spanning-tree"
        steps: Steps = 50_000
        validate_every: ValidateEvery = worked_out(lambda config: min(500, config.steps))

A field is at once an option of the command line (``options.py``), an entry of ``config.json`` and checked, by the
bounds of its ``typer.Option`` and by every function in its annotation that names what is wrong with a value. Its
default stands here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from experiments.runs.files import read_json, write_json

CONFIG = "config.json"
Check = Callable[[Any], str | None]


def positive(value: float) -> str | None:
    return None if value > 0 else f"{value} is not positive"


def one_of(choices: Iterable[str]) -> Check:
    known = tuple(choices)
    return lambda value: None if value in known else f"{value!r} is not one of {', '.join(known)}"


def worked_out(rule: Callable[[Any], Any]) -> Any:
    """A default that depends on the other settings."""
    return field(default=None, metadata={"rule": rule})


Steps = Annotated[int, typer.Option(min=1, help="Training steps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples a step, of all devices together.")]
LearningRate = Annotated[float, positive, typer.Option(help="Of the optimizer.")]
Temperature = Annotated[float, positive, typer.Option(help="T of the relaxation.")]
Engine = Annotated[str, typer.Option(help="Of the relaxation: auto, fast, kkt ...")]
Hidden = Annotated[int, typer.Option(min=1, help="Width of the networks.")]
Seed = Annotated[int, typer.Option(min=0, help="Of initial weights and noise.")]
ValidateEvery = Annotated[
    int, typer.Option(min=1, help="Steps between validations. Default: 500, or all.", show_default=False)
]


class Settings:
    """The base of a config; a subclass is a frozen dataclass with at least these four fields.

    Raises:
        ValueError: a value is out of bounds or unknown; the name of the setting comes first.
    """

    steps: int
    batch_size: int
    seed: int
    validate_every: int
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        for setting in fields(self):
            if getattr(self, setting.name) is None and "rule" in setting.metadata:
                object.__setattr__(self, setting.name, setting.metadata["rule"](self))
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for complaint in _complaints(getattr(self, name), get_args(hint)[1:]):
                raise ValueError(f"{name}: {complaint}")
        if self.steps % self.validate_every:
            raise ValueError(
                f"validate_every: {self.steps} steps are not a multiple of {self.validate_every}; the last ones would "
                "never be validated"
            )

    @property
    def name(self) -> str:
        """Of the run's folder: the settings that are not the default ones. An experiment may say it better."""
        default = type(self)().to_json()
        changed = [f"{name}-{value}" for name, value in self.to_json().items() if value != default[name]]
        return "-".join(changed) or "default"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Of the run in a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: one of another experiment, or of another version of it.
        """
        stored = read_json(folder / CONFIG)
        unknown = sorted(stored.keys() - {setting.name for setting in fields(cls)})
        if unknown:
            raise ValueError(f"{folder / CONFIG} is not of this experiment: it has no setting {', '.join(unknown)}")
        return cls(**stored)

    def claim(self, folder: Path) -> None:
        """The folder is this config's, or becomes so.

        Raises:
            ValueError: it is another config's; names what differs.
        """
        path, own = folder / CONFIG, self.to_json()
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, own)
            return
        differing = _differences(read_json(path), own)
        if differing:
            raise ValueError(f"{folder} holds another run ({differing}); choose another folder or delete it")


def _complaints(value: Any, annotations: Iterable[Any]) -> Iterator[str]:
    for annotation in annotations:
        if isinstance(annotation, OptionInfo):
            if annotation.min is not None and value < annotation.min:
                yield f"{value} is less than {annotation.min}"
            if annotation.max is not None and value > annotation.max:
                yield f"{value} is more than {annotation.max}"
        elif callable(annotation) and (complaint := annotation(value)) is not None:
            yield complaint


def _differences(stored: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {stored.get(name)!r} there, {own.get(name)!r} here"
        for name in {**own, **stored}
        if stored.get(name) != own.get(name)
    )

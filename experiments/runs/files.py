"""Files that are whole or not there, whenever the process is killed; arrays with their checksum."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at ``path``: renamed at the end of the block, removed if that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def checksum(*arrays: np.ndarray) -> str:
    """Of the arrays, one after the other, not of a file that holds them: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def write_arrays(path: Path, arrays: Mapping[str, Any], **about: Any) -> str:
    """An .npz file of the arrays, with what is to be known about them, and their checksum, which is returned."""
    digest = checksum(*arrays.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays, **about, checksum=digest)
    return digest


def read_arrays(path: Path, names: tuple[str, ...], what: str, command: str) -> dict[str, np.ndarray]:
    """All of what ``write_arrays`` wrote.

    Args:
        path: the file.
        names: of the arrays under the checksum, in their order.
        what: they are, for the messages: ``"layouts"``.
        command: that makes them: ``"cvxsst data graph-layout"``.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: another kind of file, or a damaged one.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {what} at {path}; make them with: {command} --output {path}")
    cure = f"delete it, then make it anew with: {command}"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            content = dict(stored)
        found, expected = checksum(*(content[name] for name in names)), str(content["checksum"])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a file of {what} ({error}); {cure}") from error
    if found != expected:
        raise ValueError(f"{path} is damaged: its checksum is not {expected}; {cure}")
    return content

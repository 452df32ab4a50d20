"""What is installed beside cvxsst: the entry points of other packages, and the packages behind an extra.

An entry point is a promise that a distribution makes about a name, ``polytopes`` for example; what Python imports under
that name is the first on ``sys.path``, which may be a user's own ``polytopes.py`` in the working directory. ``entries``
yields those whose module is the distribution's own, and finds out without running it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


def entries(group: str) -> Iterator[EntryPoint]:
    """The entry points of a group that would load what their distribution installed.

    Passed over: those of a package that something else of that name hides, and those of one that is not there, as the
    experiments of this repository in an installation from a wheel. Nothing is imported.
    """
    for entry in entry_points(group=group):
        top = entry.module.partition(".")[0]
        spec = _found(top)
        if spec is not None and entry.dist is not None and _is_of(spec, top, entry.dist):
            yield entry


def require(package: str, extra: str) -> None:
    """An error that names the cure, before anything is done that takes time.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    if _found(package.partition(".")[0]) is None or _found(package) is None:
        raise ModuleNotFoundError(f"this needs {package}, which is not installed: pip install '{extra}'")


def _found(module: str) -> ModuleSpec | None:
    """What an import would find; None also for what stands in ``sys.modules`` without saying where it is from."""
    try:
        return find_spec(module)
    except ValueError:
        return None


def _is_of(spec: ModuleSpec, top: str, distribution: Distribution) -> bool:
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    found = [_real(place) for place in places]
    checkout = _checkout(distribution)
    if checkout is not None:
        return any(place.is_relative_to(checkout) for place in found)
    own = [file for file in distribution.files or () if file.parts[0].partition(".")[0] == top]
    return any(_real(str(file.locate())).is_relative_to(place) for file in own for place in found)


def _checkout(distribution: Distribution) -> Path | None:
    """The folder from which modules are taken where no list of files says so, after ``pip install --editable``."""
    stated = distribution.read_text("direct_url.json")
    origin = json.loads(stated) if stated else {}
    if origin.get("dir_info", {}).get("editable"):
        return _real(url2pathname(urlsplit(origin["url"]).path))
    if distribution.read_text("RECORD") is None:  # metadata that a build left beside the sources
        return _real(str(distribution.locate_file("")))
    return None


def _real(place: str) -> Path:
    return Path(os.path.realpath(place))

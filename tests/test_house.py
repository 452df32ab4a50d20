"""The house: imports run one way, type-only imports and those inside functions included; functions fit on a screen."""

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("cvxsst", "polytopes", "experiments", "benchmarks")
MAY_IMPORT = {
    "cvxsst": {"cvxsst"},
    "polytopes": {"cvxsst", "polytopes"},
    "experiments": {"cvxsst", "polytopes", "experiments"},
    "benchmarks": set(FLOORS),
}
LONGEST = 60  # lines of a function, its docstring not counted


def modules(root: Path, packages: tuple[str, ...]) -> dict[str, Path]:
    """Every module of the packages by its dotted name; a package's ``__init__`` has the package's."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that one module imports, wherever in its text; those that are not known by their full names.

    ``from package import name`` is the submodule of that name where there is one, else the package's ``__init__``.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (above, node.module) if part)
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield submodule if submodule in known else source


def import_graph(root: Path, packages: tuple[str, ...]) -> nx.DiGraph:
    known = modules(root, packages)
    edges = {(name, target) for name, path in known.items() for target in imported(name, path, known)}
    return nx.DiGraph([(source, target) for source, target in edges if target in known])


def circles(graph: nx.DiGraph) -> list[str]:
    """One circle of each knot of modules that import one another, in words."""
    found = []
    for knot in nx.strongly_connected_components(graph):
        inside = graph.subgraph(knot)
        if not nx.is_directed_acyclic_graph(inside):
            around = [source for source, _ in nx.find_cycle(inside, min(knot))]
            found.append(" -> ".join([*around, around[0]]) + f"  ({len(knot)} modules hang together)")
    return sorted(found)


def test_no_module_imports_itself_by_way_of_others():
    assert circles(import_graph(ROOT, FLOORS)) == []


@pytest.mark.parametrize("floor", FLOORS)
def test_floors_import_downwards_only(floor):
    known = modules(ROOT, (floor,))
    wrong = {
        f"{name} imports {target}"
        for name, path in known.items()
        for target in imported(name, path, known)
        if (top := target.partition(".")[0]) in {*FLOORS, "tests", "notebooks"} and top not in MAY_IMPORT[floor]
    }
    assert wrong == set()


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, the docstring not counted."""
    first = function.body[0]
    assert function.end_lineno is not None
    whole = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return whole
    assert first.end_lineno is not None
    return whole - (first.end_lineno - first.lineno + 1)


def long_functions(source: str) -> list[tuple[str, int]]:
    functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return [(function.name, lines) for function in functions if (lines := code_lines(function)) > LONGEST]


@pytest.mark.parametrize("package", ["cvxsst", "polytopes"])
def test_functions_fit_on_a_screen(package):
    known = modules(ROOT, (package,))
    assert {name: long for name, path in known.items() if (long := long_functions(path.read_text()))} == {}


# The same on small made-up houses, so that what the tests above look for is known to be found.


def house(tmp_path: Path, **files: str) -> Path:
    """A package ``p``; ``a="..."`` is p/a.py, ``a__b`` is p/a/b.py, ``init`` p/__init__.py."""
    for name, text in {"init": "", **files}.items():
        parts = ["__init__" if part == "init" else part for part in name.split("__")]
        path = tmp_path.joinpath("p", *parts).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return tmp_path


TYPES_ONLY = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import A\n"


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        ({"a": "import p.b", "b": "from p import a"}, "p.a -> p.b -> p.a"),
        ({"a": "from .b import x", "b": "def f():\n    from . import a\n"}, "p.a -> p.b -> p.a"),
        ({"a": "from p.b import x", "b": TYPES_ONLY}, "p.a -> p.b -> p.a"),
        ({"init": "from p.a import A", "a": "from p import x"}, "p -> p.a -> p"),
        ({"init": "from p.a import A", "a": "from p.b import y", "b": "from . import A"}, "p -> p.a -> p.b -> p"),
        ({"a": "import p.sub.c", "sub__c": "from .. import a"}, "p.a -> p.sub.c -> p.a"),
    ],
)
def test_a_circle_is_found_and_named(tmp_path, files, circle):
    (found,) = circles(import_graph(house(tmp_path, **files), ("p",)))
    assert found.startswith(circle + "  (")


@pytest.mark.parametrize(
    "files",
    [
        {"init": "from p import a, b", "a": "from p.b import x", "b": ""},  # siblings, and a package that shows them
        {"init": "from p.a import A", "a": "from .b import x\nimport numpy", "b": "import p_other"},
    ],
)
def test_a_straight_house_has_no_circle(tmp_path, files):
    assert circles(import_graph(house(tmp_path, **files), ("p",))) == []


def test_lines_are_counted_without_the_docstring():
    body = "    x = 1\n" * LONGEST
    assert long_functions(f'def f():\n    """Says\n\n    much."""\n{body}') == [("f", LONGEST + 1)]
    assert long_functions(f'def f():\n    """Says much."""\n{body[10:]}') == []

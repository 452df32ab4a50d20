"""The README and the examples in the docstrings say what the code does."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import cvxsst
import polytopes
from cvxsst.cli import markdown_table

README = Path(__file__).parent.parent / "README.md"


def test_readme_example_runs(capsys: pytest.CaptureFixture) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    namespace: dict = {}
    exec(compile(code, str(README), "exec"), namespace)
    assert namespace["theta"].grad.abs().max() > 0
    assert namespace["z"].shape == (16, 8)
    assert "schedule(8): passed" in capsys.readouterr().out


def test_readme_table_is_that_of_cvxsst_list() -> None:
    (table,) = re.findall(r"<!-- cvxsst list --markdown -->\n(.*?)\n<!-- end -->", README.read_text(), re.DOTALL)
    assert table == markdown_table()


def modules() -> list[str]:
    packages = (cvxsst, polytopes)
    inside = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
    return [name for name in inside if not name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    examples = [test for test in finder.find(module, name) if test.examples]
    for family in (getattr(polytopes, n) for n in polytopes.__all__):
        if family.__module__ == name:  # a family is an object, which the finder passes over
            examples += [t for t in finder.find(family.declare, f"{name}.{family.name}", globs={}) if t.examples]
    for test in {test.name: test for test in examples}.values():
        assert runner.run(test).failed == 0, f"the example of {test.name} is wrong"


def test_public_names_have_docstrings() -> None:
    for name in cvxsst.__all__:
        assert getattr(cvxsst, name).__doc__, name


def test_the_engine_room_knows_no_polytope() -> None:
    """Delete the zoo and cvxsst still stands: nothing in it but examples in docstrings mentions a polytope's page."""
    for path in Path(cvxsst.__file__).parent.rglob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) polytopes.*$", path.read_text(), re.MULTILINE)
        assert imports == [], path

"""What is installed, and what is not: the wheel, and modules of the user's own under the names of ours."""

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import PathDistribution, distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from cvxsst import installed
from cvxsst.installed import entries, require

ROOT = Path(__file__).parent.parent
OURS = ("bench", "data", "demo", "search", "table", "test", "train")
UNDECORATED = """
import cvxpy as cp, cvxsst, torch
z = cp.Variable(3, nonneg=True)
print(cvxsst.softmax(cvxsst.Polytope(z, [cp.sum(z) == 1]), torch.zeros(3)).tolist())
"""
WOULD_SAY = "print('executed'); raise SystemExit('executed')"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the site-packages into which the wheel was installed."""
    if {"setuptools", "pip"} - {distribution.name for distribution in distributions()}:
        pytest.skip("setuptools and pip build the wheel")
    place = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    for name in ("cvxsst", "polytopes", "experiments", "benchmarks"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    built = run("-m", "pip", "wheel", *options, "--wheel-dir", "built", ".", cwd=place)
    assert built.returncode == 0, built.stderr
    (wheel,) = (place / "built").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Python in a process of its own."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def commands(shown: str) -> set[str]:
    """Those that ``cvxsst --help`` lists."""
    return {line.split()[1] for line in shown.splitlines() if line.startswith(("│ ", "| ")) and line[2] != " "}


def test_the_wheel_holds_the_library_and_the_zoo_only(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"cvxsst", "polytopes"}
    assert (unpacked / "cvxsst" / "py.typed").exists()


def test_installed_from_the_wheel_there_are_no_experiments_and_no_errors(unpacked: Path, tmp_path: Path) -> None:
    shown = run("-m", "cvxsst", "--help", cwd=tmp_path, PYTHONPATH=str(unpacked))
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    assert commands(shown.stdout) >= {"list", "audit", "validate", "doctor"}
    assert not commands(shown.stdout) & {*OURS}
    listed = run("-m", "cvxsst", "list", "--markdown", cwd=tmp_path, PYTHONPATH=str(unpacked))
    assert "| simplex(" in listed.stdout


def test_in_a_checkout_the_experiments_have_their_commands(tmp_path: Path) -> None:
    shown = run("-m", "cvxsst", "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert commands(shown.stdout) >= {"list", *OURS}


@pytest.mark.parametrize("kind", ["wheel", "checkout"])
def test_a_users_own_polytopes_are_not_executed(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "polytopes.py").write_text(WOULD_SAY)
    path = {"PYTHONPATH": str(request.getfixturevalue("unpacked"))} if kind == "wheel" else {}
    done = run("-c", UNDECORATED, cwd=tmp_path, **path)
    assert done.returncode == 0, done.stderr
    assert [round(z, 6) for z in map(float, done.stdout.strip("[]\n").split(","))] == [0.333333] * 3


@pytest.mark.parametrize("kind", ["wheel", "checkout"])
@pytest.mark.parametrize("module", ["experiments/commands.py", "experiments/__init__.py", "benchmarks.py"])
def test_a_users_own_experiments_are_not_executed(
    kind: str, module: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / module).parent.mkdir(exist_ok=True)
    (tmp_path / module).write_text(WOULD_SAY)
    path = {"PYTHONPATH": str(request.getfixturevalue("unpacked"))} if kind == "wheel" else {}
    shown = run("-m", "cvxsst", "--help", cwd=tmp_path, **path)
    assert shown.returncode == 0, shown.stderr
    assert "executed" not in shown.stdout + shown.stderr
    assert "audit" in commands(shown.stdout)


# ------------------------------------------------------------------------------------------- other people's packages

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lays a distribution with an entry point ``own.group`` out in a folder on the path; returns the folder."""

    def lay(place: str, metadata: str, entry: str, files: dict[str, str]) -> Path:
        folder = tmp_path / place
        for name, text in {f"{metadata}/entry_points.txt": f"[own.group]\nname = {entry}\n", **files}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        (folder / metadata / ("PKG-INFO" if metadata.endswith("egg-info") else "METADATA")).write_text("Name: other\n")
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        return folder

    return lay


def found() -> list[str]:
    return [entry.value for entry in entries("own.group")]


def test_the_files_that_a_distribution_lists_are_its_own(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    record = "other_module.py,,\nother-1.dist-info/RECORD,,\n"
    files = {"other_module.py": "", "other-1.dist-info/RECORD": record}
    folder = install("site", "other-1.dist-info", "other_module:thing", files)
    assert found() == ["other_module:thing"]
    hiding = folder.parent / "project"
    hiding.mkdir()
    (hiding / "other_module.py").write_text(WOULD_SAY)
    monkeypatch.syspath_prepend(str(hiding))
    assert found() == []


def test_a_module_that_is_no_file_of_its_distribution_is_passed_over(install: Install) -> None:
    install("site", "other-1.dist-info", "other_absent", {"other-1.dist-info/RECORD": "other-1.dist-info/RECORD,,\n"})
    assert found() == []


def test_a_namespace_package_is_of_those_who_have_files_in_it(install: Install) -> None:
    record = "other_space/part.py,,\nother-1.dist-info/RECORD,,\n"
    files = {"other_space/part.py": "", "other-1.dist-info/RECORD": record}
    install("site", "other-1.dist-info", "other_space.part", files)
    assert found() == ["other_space.part"]


@pytest.mark.parametrize("metadata", ["other-1.dist-info", "other.egg-info"])
def test_of_a_checkout_are_the_modules_below_it(metadata: str, install: Install) -> None:
    files = {"other_source.py": ""}
    if metadata.endswith("dist-info"):
        files[f"{metadata}/RECORD"] = f"{metadata}/RECORD,,\n"
    folder = install("check out", metadata, "other_source", files)
    url = f'{{"dir_info": {{"editable": true}}, "url": "{folder.as_uri()}"}}'
    if metadata.endswith("dist-info"):
        assert found() == []
        (folder / metadata / "direct_url.json").write_text(url)
    assert found() == ["other_source"]
    elsewhere = PathDistribution(folder / metadata)
    spec = find_spec("zipfile")
    assert spec is not None
    assert not installed._is_of(spec, "zipfile", elsewhere)


def test_what_stands_among_the_modules_without_an_origin_is_nobodys(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = "other_module.py,,\nother-1.dist-info/RECORD,,\n"
    files = {"other_module.py": "", "other-1.dist-info/RECORD": record}
    install("site", "other-1.dist-info", "other_module", files)
    stand_in = type(sys)("other_module")
    assert stand_in.__spec__ is None
    monkeypatch.setitem(sys.modules, "other_module", stand_in)
    assert found() == []


def test_what_is_required_and_missing_is_named_with_its_cure() -> None:
    require("numpy.linalg", "cvxsst[plot]")
    for package in ("no_such_package", "no_such_package.part", "numpy.no_such_part"):
        with pytest.raises(ModuleNotFoundError, match=rf"this needs {package}.* pip install 'cvxsst\[plot\]'"):
            require(package, "cvxsst[plot]")

"""The command line as a user meets it: output, exit status, errors without tracebacks."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import cvxsst
import polytopes
from benchmarks import fast, measuring
from cvxsst import cli

OWN = """
import cvxpy as cp, cvxsst

def pairs(n):
    z = cp.Variable(n, nonneg=True)
    return z, [z[i] + z[j] <= 1 for i in range(n) for j in range(i)]

z = cp.Variable(2, nonneg=True)
triangle = cvxsst.Polytope(z, [cp.sum(z) <= 1], name="triangle")
wide = cvxsst.polytope(lambda n: (cp.Variable(n), []))
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return "mine"


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of ``cvxsst arguments``, in this process."""
    monkeypatch.setattr(sys, "argv", ["cvxsst", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, " ".join(err.split())


def test_list_names_the_whole_zoo(monkeypatch, capsys) -> None:
    status, out, _ = run(monkeypatch, capsys, "list", "--markdown")
    assert status == 0
    for name in cli._exemplified():
        assert f"| {name}(" in out


def test_the_engines_listed_are_those_that_solve(generator: torch.Generator) -> None:
    """By the name in the cell, and where there is none not even by ``engine="auto"``."""
    for family in (cli.installed_families()[name] for name in cli._exemplified()):
        P = family(*family.examples[0])
        w = torch.randn(2, *P.shape, generator=generator, dtype=torch.float64)
        for f in cli.REGULARIZERS:
            name = cli._engine_cell(P, f)
            if name == "-":
                with pytest.raises(ValueError, match=f.name):
                    cvxsst.softmax(P, w, f)
            else:
                z = cvxsst.softmax(P, w, f, engine=name)
                assert (z - cvxsst.softmax(P, w, f)).abs().max() <= 1e-12


def test_audit_passes_and_fails_with_the_exit_status(monkeypatch, capsys, own: str) -> None:
    assert run(monkeypatch, capsys, "audit", "k_subset(5, 2)")[0] == 0
    assert run(monkeypatch, capsys, "audit", "k_subset", "--size", "4,2")[0] == 0
    assert run(monkeypatch, capsys, "audit", f"{own}:triangle")[0] == 0
    status, out, err = run(monkeypatch, capsys, "audit", f"{own}:pairs", "--size", "3")
    assert status == 1
    assert "FRACTIONAL vertex [0.5, 0.5, 0.5]" in out
    assert "1 of 1 declarations failed" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit", "nobody"], "choose one of simplex"),
        (["audit", "simplex", "--size", "x"], "cannot read 'x'"),
        (["audit", "simplex", "--size", "1,2,3"], "too many positional arguments"),
        (["audit", "k_subset(3, 5)"], "k"),
        (["audit", "nowhere:thing"], "cannot import"),
        (["audit", "mine:missing"], "cannot import"),
        (["audit", "mine:number"], "neither"),
        (["audit", "mine:pairs"], "needs arguments"),
        (["audit", "mine:wide", "--size", "2"], "no bound"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_user_errors_are_one_line_and_status_one(arguments, says, monkeypatch, capsys, own: str) -> None:
    status, _, err = run(monkeypatch, capsys, *arguments)
    assert status == 1
    assert says in err
    assert "Traceback" not in err


def test_help_has_examples() -> None:
    for command in ("list", "audit", "demo"):
        result = CliRunner().invoke(cli.app, [command, "--help"])
        assert result.exit_code == 0
        assert f"cvxsst {command}" in result.output


def test_unknown_commands_and_options_are_usage_errors() -> None:
    assert CliRunner().invoke(cli.app, ["dance"]).exit_code == 2
    assert CliRunner().invoke(cli.app, ["audit", "--objectives", "0"]).exit_code == 2


def test_console_script_runs() -> None:
    result = subprocess.run([sys.executable, "-m", "cvxsst", "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "audit" in result.stdout


def test_bench_prints_a_table_and_saves_a_plot(monkeypatch, capsys, tmp_path) -> None:
    first = next(fast.cases())
    monkeypatch.setattr(fast, "cases", lambda: iter([first]))
    plot = tmp_path / "times.png"
    status, out, _ = run(monkeypatch, capsys, "bench", "--batch", "4", "--rounds", "1", "--output", str(plot))
    assert status == 0
    assert first.name in out
    assert "cvxsst kkt" in out
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_peers_that_are_missing_are_named_and_those_that_do_not_apply_are_not(monkeypatch, capsys, tmp_path) -> None:
    def applies_elsewhere(n: int) -> measuring.Solve:
        raise measuring.NotApplicableError

    peers = {"ghost": lambda n: measuring.peer("no_such.package"), "elsewhere": applies_elsewhere}
    first = replace(next(fast.cases()), peers=peers)
    monkeypatch.setattr(fast, "cases", lambda: iter([first]))
    status, out, _ = run(monkeypatch, capsys, "bench", "--batch", "4", "--rounds", "1", "--output", f"{tmp_path}/a.png")
    assert status == 0
    assert "not measured: ghost: this needs no_such.package, which is not installed: pip install" in out
    assert "elsewhere" not in out


@pytest.mark.parametrize("argmax", [False, True])
def test_a_wrong_peer_is_told(argmax: bool) -> None:
    """What is off by a hundredth in z, or by a tenth in the gradient, of softmax and argmax."""
    P = polytopes.simplex(4)

    def far_in_value(n: int) -> measuring.Solve:
        return lambda u: (cvxsst.argmax(P, u) if argmax else cvxsst.softmax(P, u)) - 0.01 * torch.ones(4)

    def far_in_gradient(n: int) -> measuring.Solve:
        return lambda u: (z := cvxsst.softmax(P, u)).detach() + 1.1 * (z - z.detach())

    peers = {"value": far_in_value} | ({} if argmax else {"gradient": far_in_gradient})
    case = fast.Case(P, None if argmax else cvxsst.Euclidean(), peers)
    found = {m.solver: m for m in fast.measure(case, batch=3, rounds=2, seed=0, missing={})}
    assert all(len(m.milliseconds) == 2 for m in found.values())
    assert found.pop(fast.OURS).right
    assert argmax or found.pop(fast.KKT).right
    assert not any(m.right for m in found.values())


def test_bench_complains_before_it_measures(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(fast, "cases", lambda: pytest.fail("measured"))
    status, _, err = run(monkeypatch, capsys, "bench", "--output", str(tmp_path / "absent" / "times.png"))
    assert status == 1
    assert "no such directory" in err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = run(monkeypatch, capsys, "bench")
    assert status == 1
    assert "pip install 'cvxsst[plot]'" in err

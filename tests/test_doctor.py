"""The doctor finds installations that compute something else."""

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, requires, version

import cvxpy as cp
import pytest
import torch
from cvxpylayers.torch import CvxpyLayer

import cvxsst
from cvxsst import doctor
from cvxsst.engines import ENGINES
from cvxsst.engines.base import Solution
from cvxsst.geometry.linear_program import LinearProgram
from polytopes import simplex

from .test_cli import run


def test_a_healthy_installation(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    status, out, _ = run(monkeypatch, capsys, "doctor")
    assert status == 0
    assert "FAILED" not in out
    for engine in ENGINES:
        if engine != "facets":  # refuses the doctor's simplex, which has no family
            assert f"{engine}, " in out
    assert re.search(r"ok +torch +2\.", out)
    assert max(len(line) for line in out.splitlines()) <= 80


def solves(change):
    """An engine's ``solve`` with ``change`` applied to its answer."""

    def patch(engine):
        whole = engine.solve
        return lambda state, u, forbidden: change(whole(state, u, forbidden), u)

    return "solve", patch


def multiplies(change):
    """An engine's ``times_jacobian`` with ``change`` applied to its answer: right forwards, wrong backwards."""

    def patch(engine):
        whole = engine.times_jacobian
        return lambda *arguments: change(whole(*arguments))

    return "times_jacobian", patch


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("kkt", solves(lambda s, u: s._replace(z=u - (u.sum(1, keepdim=True) - 1) / 4))),  # z >= 0 is lost
        ("cvxpylayer", multiplies(lambda product: 1.01 * product)),
        ("kkt", multiplies(lambda product: 2 * product)),
        ("enumeration", solves(lambda s, u: Solution(s.z * torch.nan))),
        ("enumeration", solves(lambda s, u: s._replace(z=torch.softmax(u, 1)))),  # right but where -inf forbids
    ],
)
def test_a_broken_engine_is_named(name: str, method, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    attribute, patch = method
    monkeypatch.setattr(ENGINES[name], attribute, patch(ENGINES[name]))
    status, out, err = run(monkeypatch, capsys, "doctor")
    assert status == 1
    failed = {line.split()[1].rstrip(",") for line in out.splitlines() if line.startswith("FAILED")}
    assert failed == {name}
    assert name in err


def test_a_broken_page_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(simplex.softmax_paths, cvxsst.Euclidean, lambda u, n: 1 / 0)
    (failed,) = [finding for finding in doctor.examine() if not finding.well]
    assert failed.subject == "fast, Euclidean"
    assert "ZeroDivisionError" in failed.remark


def test_a_gpu_is_examined_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch says that there is one; if it cannot be used, that is found and named."""
    usable = torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {finding.subject: finding.well for finding in doctor.examine()}
    here = {subject for subject in found if ", " in subject and not subject.endswith(" on cuda")}
    assert {subject for subject in found if subject.endswith(" on cuda")} == {f"{subject} on cuda" for subject in here}
    assert all(found[subject] for subject in here)
    assert all(found[f"{subject} on cuda"] == usable for subject in here)


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["torch>=99.1", "no-such-package>=1.0", 'also-missing>=2; extra == "plot"', "numpy>=1.0"]
    monkeypatch.setattr(doctor, "requires", lambda _: required)
    found = {finding.subject: finding for finding in doctor._versions()}
    assert not found["torch"].well
    assert "needs 99.1" in found["torch"].remark
    assert not found["no-such-package"].well
    assert "also-missing" not in found
    assert found["numpy"].well


def test_a_wrong_gradient_of_a_right_projection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the simplex; at the vertex, where the gradient is 0, nothing shows."""
    attribute, patch = multiplies(lambda product: 2 * product)
    monkeypatch.setattr(ENGINES["kkt"], attribute, patch(ENGINES["kkt"]))
    assert {f.subject for f in doctor.examine() if not f.well} == {"kkt, Euclidean", "kkt, CategoricalEntropy"}


def test_an_engine_that_cannot_even_say_what_it_supports_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a package that registers families is broken."""
    monkeypatch.setattr(ENGINES["fast"], "refusal", lambda P, f: 1 / 0)
    failed = [finding for finding in doctor.examine() if not finding.well]
    assert {finding.subject.split(",")[0] for finding in failed} == {"fast"}
    assert "ZeroDivisionError" in failed[0].remark


def test_broken_linear_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = LinearProgram.vertex
    monkeypatch.setattr(LinearProgram, "vertex", lambda self, c: solve(self, -c))  # minimizes
    assert [finding.subject for finding in doctor.examine() if not finding.well] == ["lp, argmax"]


def test_the_utilities_show_the_known_broken_gradient() -> None:
    """Moreau behind CvxpyLayer: right forwards, wrong by a factor of five backwards; at most vectors it is right."""
    if importlib.util.find_spec("moreau") is None or version("moreau") != "0.4.1":
        pytest.skip("Moreau 0.4.1 is not installed")
    z, u = cp.Variable(4), cp.Parameter(4)
    problem = cp.Problem(cp.Minimize(-cp.sum(cp.entr(z)) - u @ z), [z >= 0, cp.sum(z) == 1])
    w = (torch.tensor(doctor.UTILITIES, dtype=torch.float64) / doctor.LOW).expand(4, 4).clone().requires_grad_()
    eye = torch.eye(4, dtype=torch.float64)
    try:
        (found,) = CvxpyLayer(problem, [u], [z], solver="MOREAU")(w)
        (gradient,) = torch.autograd.grad(found, w, eye)
    except Exception as error:  # a licence, for example
        pytest.skip(f"Moreau does not run here: {error}")
    exact = torch.softmax(w.detach()[0], 0)
    assert (found.detach() - exact).abs().max() <= 1e-3
    assert (gradient - exact.diag() + exact.outer(exact)).abs().max() > 0.1


def test_python_is_a_requirement_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    assert [finding.subject for finding in doctor._versions() if not finding.well] == ["python"]


def test_without_metadata_the_cure_is_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    (finding,) = doctor._versions()
    assert not finding.well
    assert "pip install" in finding.remark


def test_what_only_tests_need_is_not_shown_and_solvers_are() -> None:
    shown = {finding.subject for finding in doctor._versions()}
    assert not shown & {"pytest", "ruff", "mypy"}
    assert shown >= {"cvxsst", "python", "cvxpy", "clarabel"}


def test_versions_compare_as_numbers() -> None:
    for found, least in (("2.13.0+cpu", "2.4"), ("2.0", "2.0.0"), ("2", "2.0"), ("2.4.1.post1", "2.4.1")):
        assert doctor._compared("torch", found, least, "").well
    assert not doctor._compared("torch", "2.4", "2.13", "pip").well


def test_a_version_is_read_behind_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ['numpy[own]>=999.0; extra == "search"'])
    (numpy,) = [finding for finding in doctor._versions() if finding.subject == "numpy"]
    assert not numpy.well
    assert "needs 999.0" in numpy.remark


def test_the_requirements_are_of_the_form_that_is_read() -> None:
    for line in requires("cvxsst") or []:
        assert re.fullmatch(r"[\w-]+(\[[\w,]+\])?(>=[\d.]+)?(; extra == \"\w+\")?", line), line

"""The validator is validated: planted errors are caught and blamed on the right side, correct solvers pass."""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cvxpy as cp
import matplotlib as mpl
import pytest
import torch
from cvxpylayers.torch import CvxpyLayer

import cvxsst
from cvxsst import cli
from cvxsst.engines import ENGINES
from cvxsst.geometry.linear_program import LinearProgram
from cvxsst.regularizers import Separable
from cvxsst.testing import assert_valid
from cvxsst.validation.evidence import Witness, value_status
from cvxsst.validation.instances import draw
from cvxsst.validation.solvers import Solver
from polytopes import birkhoff, cube, k_subset, simplex, spanning_tree

from .test_cli import run

mpl.use("Agg")
import matplotlib.pyplot as plt

E, C, B, X = cvxsst.Euclidean(), cvxsst.CategoricalEntropy(), cvxsst.BinaryEntropy(), cvxsst.ExponentialFamily()
QUICK: dict[str, Any] = {"n": 8, "temperatures": (1.0, 0.1)}


def softmax(u: torch.Tensor) -> torch.Tensor:
    return torch.softmax(u, dim=-1)


def sparsemax(u: torch.Tensor) -> torch.Tensor:
    """The projection onto the simplex, by sorting."""
    ordered = u.sort(dim=-1, descending=True).values
    above = ordered.masked_fill(torch.isinf(ordered), 0).cumsum(-1) - 1
    count = torch.arange(1, u.shape[-1] + 1, dtype=u.dtype)
    support = (ordered * count > above).sum(-1, keepdim=True)
    return (u - above.gather(-1, support - 1) / support).clamp(min=0)


def sinkhorn(u: torch.Tensor, sweeps: int = 20) -> torch.Tensor:
    for _ in range(sweeps):
        u = u - u.logsumexp(-1, keepdim=True)
        u = u - u.logsumexp(-2, keepdim=True)
    return u.exp()


@cvxsst.polytope(examples=[(3,)])
def switches(n: int):
    z = cp.Variable(n)
    return z, [z >= 0, z <= 1]


@switches.softmax(cvxsst.BinaryEntropy)
def switch(u: torch.Tensor, n: int) -> torch.Tensor:
    return u.sigmoid()


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small batches lose more to threads that fight for the cores than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- planted errors -------------------------------------------------------------------------------------------------


def with_vjp_times(factor: float, where: Callable[[torch.Tensor], torch.Tensor] = torch.ones_like):
    """softmax with a wrong gradient and the right value."""

    def candidate(u: torch.Tensor) -> torch.Tensor:
        z = softmax(u)
        wrong = 1 + (factor - 1) * where(u)
        return z.detach() + wrong * (z - z.detach())

    return candidate


def nudged(z: torch.Tensor, by: float = 1e-4) -> torch.Tensor:
    """z moved within the simplex, towards its centre; the gradient stays."""
    support = (z > 0).to(z)
    direction = support / support.sum(-1, keepdim=True) - z.detach()
    return z + by * direction / direction.abs().amax(-1, keepdim=True).clamp(min=0.1)


def ties(u: torch.Tensor) -> torch.Tensor:
    """1 where all utilities are equal, or two are, for each row."""
    ordered = u.sort(dim=-1).values
    return ((ordered.diff(dim=-1) == 0) & ~torch.isinf(ordered[..., 1:])).any(-1, keepdim=True).to(u)


def only_in_float32(u: torch.Tensor) -> torch.Tensor:
    return nudged(softmax(u), 1e-3) if u.dtype == torch.float32 else softmax(u)


def only_in_batches(u: torch.Tensor) -> torch.Tensor:
    return nudged(softmax(u)) if u.dim() > 1 and u.shape[0] > 1 else softmax(u)


def unless_dimensions(d: int):
    def candidate(u: torch.Tensor) -> torch.Tensor:
        if u.dim() == d:
            raise RuntimeError(f"not of {d} dimensions")
        return softmax(u)

    return candidate


def only_at_ties(u: torch.Tensor) -> torch.Tensor:
    return torch.where(ties(u) > 0, nudged(softmax(u)), softmax(u))


def only_under_masks(u: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isinf(u).any(-1, keepdim=True), softmax(u.clamp(min=-5.0)), softmax(u))


PLANTED = {
    "sign of the gradient": (with_vjp_times(-1.0), {"gradient", "symmetric"}, "-1 times as long"),
    "factor 2 in the gradient": (with_vjp_times(2.0), {"gradient"}, "2 times as long"),
    "1e-4 in z, feasible": (lambda u: nudged(softmax(u)), {"value"}, "certified gap"),
    "1e-4 in z, infeasible": (lambda u: softmax(u) + 1e-4, {"feasible", "value"}, "outside P"),
    "float32": (only_in_float32, {"float32"}, "the z differ"),
    "batches": (only_in_batches, {"value", "batch"}, "certified gap"),
    "without a batch": (unless_dimensions(1), {"batch"}, "RuntimeError: not of 1 dimensions"),
    "in a batch of two dimensions": (unless_dimensions(3), {"batch"}, "RuntimeError: not of 3 dimensions"),
    "ties": (only_at_ties, {"value"}, "(ties at"),
    "gradient at ties": (with_vjp_times(2.0, ties), {"gradient"}, "(ties at"),
    "masks": (only_under_masks, {"feasible", "value", "gradient", "symmetric"}, "(mask at"),
}


@pytest.mark.parametrize("error", PLANTED)
def test_planted_errors_are_caught_and_blamed_on_the_candidate(error: str) -> None:
    candidate, broken, says = PLANTED[error]
    report = cvxsst.validate(candidate, simplex(4), C, **QUICK)
    assert not report.passed
    assert broken <= set(report.failed) <= broken | {"optimal", "cold", "value"}
    assert any(says in report[law].detail for law in broken)
    if "value" in broken or "gradient" in broken:
        assert any("the candidate is wrong" in report[law].detail for law in broken)
        assert any("kkt and " in report[law].detail for law in broken), "the second reference was asked too"
    assert report.blamed == {}


def test_twenty_sweeps_of_sinkhorn_are_not_enough_when_cold() -> None:
    options: dict[str, Any] = {"n": 6, "scales": (1.0,), "float32": False}
    cold = cvxsst.validate(sinkhorn, birkhoff(3), C, temperatures=(0.05,), **options)
    assert {"feasible", "value"} <= set(cold.failed)
    assert "outside P" in cold["value"].detail
    many = cvxsst.validate(lambda u: sinkhorn(u, 400), birkhoff(3), C, temperatures=(1.0,), **options)
    assert many.failed == ["cold"], "enough at T = 1, and never as T -> 0"


def raises(u: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("on purpose")


MISBEHAVING = {
    "raises": (raises, "answers", "ZeroDivisionError: on purpose"),
    "shape": (lambda u: softmax(u)[..., :-1], "answers", "returned the shape (8, 3) for u of shape (8, 4)"),
    "no tensor": (lambda u: softmax(u).tolist(), "answers", "returned list"),
    "dtype": (lambda u: softmax(u).float(), "answers", "returned torch.float32 for u of torch.float64"),
    "NaN": (lambda u: softmax(u) * torch.nan, "answers", "NaN"),
    "no gradient": (lambda u: softmax(u.detach()), "gradient", "no gradient: RuntimeError"),
    "NaN gradient": (lambda u: softmax(u) + 0 * (u - u.detach()).abs().sqrt(), "gradient", "NaN or infinite gradient"),
    "some raise": (lambda u: raises(u) if bool(torch.isinf(u).any()) else softmax(u), "answers", "masks=False"),
}


@pytest.mark.parametrize("how", MISBEHAVING)
def test_a_candidate_that_misbehaves_fails_a_law_and_not_the_validator(how: str) -> None:
    candidate, law, says = MISBEHAVING[how]
    report = cvxsst.validate(candidate, simplex(4), C, **QUICK)
    assert law in report.failed
    said = report[law].detail.replace("(1, 3) for u of shape (1, 4)", "(8, 3) for u of shape (8, 4)")
    assert says in said
    if how == "some raise":  # the others are judged all the same
        assert report["value"].passed
        assert cvxsst.validate(candidate, simplex(4), C, masks=False, **QUICK).passed


# --- correct solvers ------------------------------------------------------------------------------------------------


CORRECT: dict[str, tuple[Any, cvxsst.Polytope, cvxsst.Regularizer]] = {
    "kkt": ("kkt", birkhoff(3), E),
    "kkt, lifted": ("kkt", spanning_tree(4), B),
    "cvxpylayer": ("cvxpylayer", simplex(3), E),
    "enumeration": ("enumeration", birkhoff(3), X),
    "fast": ("fast", switches(3), B),
    "softmax": (softmax, simplex(4), C),
    "softmax, as a family": (softmax, simplex(4), X),
    "sparsemax": (sparsemax, simplex(4), E),
    "sigmoid": (torch.sigmoid, cube(3), B),
    "layer": (cvxsst.SoftmaxLayer(simplex(3), E), simplex(3), E),
    "auto": ("auto", simplex(1), E),
}


@pytest.mark.parametrize("which", CORRECT)
def test_correct_solvers_pass(which: str) -> None:
    candidate, P, regularizer = CORRECT[which]
    report = cvxsst.validate(candidate, P, regularizer, n=12, temperatures=(1.0, 0.1))
    assert report.passed, str(report)
    assert report.blamed == {}, str(report)
    judges = set(report.references)
    assert len(judges - {report.candidate}) == len(judges) >= (2 if regularizer != X else 1)
    assert all(law.passed for law in report.laws), "every law was judged"


def test_a_custom_regularizer() -> None:
    f = cvxsst.Custom(lambda z: cp.sum_squares(z) / 2)
    report = cvxsst.validate(sparsemax, simplex(3), f, n=5, temperatures=(1.0,))
    assert report.passed, str(report)
    wrong = cvxsst.validate(softmax, simplex(3), f, n=5, temperatures=(1.0,))
    assert {"optimal", "value"} <= set(wrong.failed)


@dataclasses.dataclass(frozen=True)
class Quartic(Separable):
    """sum z^2 / 2 + z^4 / 12, a regularizer of a user's: the library knows nothing of it."""

    steep: ClassVar[bool] = False

    def value(self, z: torch.Tensor) -> torch.Tensor:
        return z**2 / 2 + z**4 / 12

    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        return z + z**3 / 3

    def primal(self, u: torch.Tensor) -> torch.Tensor:
        root = (1.5 * u.abs() + (2.25 * u**2 + 1).sqrt()) ** (1 / 3)
        return u.sign() * (root - 1 / root)

    def slope(self, z: torch.Tensor) -> torch.Tensor:
        return 1 / (1 + z**2)

    def divergence(self, z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        return (z - z0) ** 2 * (6 + z**2 + 2 * z * z0 + 3 * z0**2) / 12

    def curvature_up_to(self, bound: float) -> float:
        return 1.0

    def expression(self, z: cp.Expression) -> cp.Expression:
        return cp.sum_squares(z) / 2 + cp.sum(cp.power(z, 4)) / 12


@pytest.mark.parametrize("P", [simplex(4), k_subset(5, 2), spanning_tree(4)], ids=repr)
def test_a_separable_regularizer_of_her_own(P: cvxsst.Polytope) -> None:
    report = cvxsst.validate("kkt", P, Quartic(), **QUICK)
    assert report.passed, str(report)
    assert report.regularizer == "Quartic"
    assert report.references == ["facets", "cvxpylayer"]
    assert report["gradient"].kinks < 8

    def euclidean(u: torch.Tensor) -> torch.Tensor:
        return cvxsst.softmax(P, u, E)

    compared = cvxsst.compare(euclidean, "kkt", P, Quartic(), n=4, temperatures=(1.0,), names=("hers", "kkt"))
    assert compared.verdicts == {1.0: "hers is wrong"}


def test_where_references_are_too_few_the_declaration_itself_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ENGINES, "facets")
    report = cvxsst.validate("kkt", simplex(4), Quartic(), **QUICK)
    assert report.passed, str(report)
    assert report.references == ["cvxpylayer", "scs"]


def test_in_float32_throughout() -> None:
    assert cvxsst.validate(softmax, simplex(4), C, dtype=torch.float32, **QUICK).passed
    report = cvxsst.validate(lambda u: nudged(softmax(u), 1e-3), simplex(4), C, dtype=torch.float32, **QUICK)
    assert "value" in report.failed
    worst = cvxsst.validate(softmax, simplex(4), C, dtype=torch.float32, n=1, temperatures=(0.1,)).worst("value").u
    assert torch.equal(worst, worst.float().double()), "the reference is asked what the candidate was"


def plainly(u: torch.Tensor) -> torch.Tensor:
    """z without a gradient, for one batch dimension."""
    if u.dim() != 2:
        raise RuntimeError("one batch dimension, please")
    return softmax(u.detach())


def test_gradients_and_shapes_are_skipped_on_demand() -> None:
    asked = []

    def candidate(u: torch.Tensor) -> torch.Tensor:
        asked.append(u.requires_grad)
        return plainly(u)

    assert {"gradient", "batch"} <= set(cvxsst.validate(plainly, simplex(4), C, **QUICK).failed)
    report = cvxsst.validate(candidate, simplex(4), C, gradients=False, shapes=False, **QUICK)
    assert report.passed, str(report)
    assert [law.name for law in report.laws] == ["answers", "feasible", "optimal", "value", "cold", "float32"]
    assert not any(asked)
    assert report["float32"].kinks == 0
    assert {p.vjp_verdict for p in report.points} == {"not asked"}
    assert not any(timing.backward for timing in report.times)
    assert cvxsst.Report.from_json(report.to_json()).to_json() == report.to_json()
    wrong = cvxsst.validate(lambda u: nudged(plainly(u)), simplex(4), C, gradients=False, shapes=False, **QUICK)
    assert "value" in wrong.failed
    both = cvxsst.compare(plainly, "kkt", simplex(4), C, gradients=False, shapes=False, names=("mine", "kkt"), **QUICK)
    assert set(both.verdicts.values()) == {"both right"}


def test_a_candidate_without_a_gradient_is_asked_in_batches_and_timed_forward() -> None:
    sizes = []

    def candidate(u: torch.Tensor) -> torch.Tensor:
        sizes.append(len(u) if u.dim() == 2 else None)
        return softmax(u.detach())

    report = cvxsst.validate(candidate, simplex(4), C, shapes=False, **QUICK)
    assert report.failed == ["gradient"]
    assert len(sizes) < 40, "never one instance after another"
    assert {timing.backward for timing in report.times} == {False}
    assert "at batch 64 (forward)" in report.footer
    axes = report.plot()
    assert axes[1].get_ylabel() == "seconds, forward"
    assert {text.get_text() for text in axes[1].get_legend().get_texts()} == {"candidate (forward)", "kkt (forward)"}
    plt.close(axes[0].figure)


@pytest.mark.parametrize("P", [simplex(3), switches(3), spanning_tree(4)], ids=repr)
def test_the_engine_that_auto_takes_is_a_candidate_by_its_name(P: cvxsst.Polytope) -> None:
    name = cvxsst.which_engine(P, B)
    report = cvxsst.validate(name, P, B, n=4, temperatures=(1.0,))
    assert report.passed, str(report)
    assert report.candidate == name
    assert name not in report.references


def test_what_linear_programs_cannot_judge_is_no_exception(monkeypatch) -> None:
    """HiGHS that gives up on one z leaves that z without a certificate, and the others with theirs."""
    right = LinearProgram.maximize

    def moody(self, c, *args, **kwargs):
        if bool((abs(c[:4]) > 1e8).any()):
            raise RuntimeError("HiGHS stopped with status kUnknown")
        return right(self, c, *args, **kwargs)

    monkeypatch.setattr(LinearProgram, "maximize", moody)
    report = cvxsst.validate(lambda u: torch.where(ties(u) > 0, 1e9, 1.0) * sparsemax(u), simplex(4), E, **QUICK)
    assert {"feasible", "value"} <= set(report.failed)
    assert {p.kind for p in report.points if p.z_verdict == "wrong"} == {"ties"}


def test_a_kink_is_called_a_kink() -> None:
    """Integer utilities on the cube lie on its kinks: 0 and 1 are right there, and so is anything between."""

    def half(u: torch.Tensor) -> torch.Tensor:
        return (u.clamp(0, 1) + (u - 1e-300).clamp(0, 1)) / 2

    for candidate in (lambda u: u.clamp(0, 1), half):
        report = cvxsst.validate(candidate, cube(3), E, n=12, temperatures=(1.0,))
        assert report.passed, str(report)
        assert report["gradient"].kinks >= 2
        assert "at a kink" in str(report)
        assert {p.kind for p in report.points if p.vjp_verdict == "kink"} == {"ties"}


def test_kinks_narrower_than_any_difference() -> None:
    """u = (-20, -20, 0, 20, 20), k = 2: two entries reach 1 together, but for 1e-9, and only there is dz/du not 0."""
    report = cvxsst.validate("cvxpylayer", k_subset(5, 2), C, n=8, temperatures=(0.05,), scales=(1.0,), seed=5)
    assert report["gradient"].passed, str(report)
    assert [p.kind for p in report.points if p.vjp_verdict == "kink"] == ["ties"]


def test_an_entropy_keeps_its_bounds_to_itself() -> None:
    """On the simplex no entropic problem has a kink; on k_subset one has where an entry reaches 1."""
    z = torch.tensor([[1.0, 0.7, 0.3, 0.0, 0.0]], dtype=torch.float64)
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    assert C.may_kink(k_subset(5, 2), z, nothing).all()
    assert not B.may_kink(k_subset(5, 2), z, nothing).any()
    assert E.may_kink(k_subset(5, 2), z, nothing).all()
    assert not X.may_kink(k_subset(5, 2), z, nothing).any()
    assert not C.may_kink(simplex(5), z / 2, nothing).any()


def test_what_a_mask_holds_fast_is_no_kink() -> None:
    """With all but two entries forbidden the others are 1, whatever u; with all but three they may reach 1."""
    z = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64).expand(2, 5)
    forbidden = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
    assert E.may_kink(k_subset(5, 2), z, forbidden).tolist() == [False, True]


@pytest.mark.parametrize(("engine", "f"), [("kkt", E), ("enumeration", X)])
def test_a_variable_of_size_zero_has_one_solution(engine: str, f: cvxsst.Regularizer, tmp_path: Path) -> None:
    P = cvxsst.Polytope(cp.Variable((0,)), [])
    report = cvxsst.validate(engine, P, f, **QUICK)
    assert report.passed, str(report)
    report.save(tmp_path / "report.html")
    assert "answers" in cvxsst.validate(raises, P, f, **QUICK).failed


# --- who is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["z", "gradient"])
@pytest.mark.parametrize("name", ["kkt", "cvxpylayer"])
def test_a_broken_reference_is_told_from_a_broken_candidate(what: str, name: str, monkeypatch) -> None:
    engine = type(ENGINES[name])
    right = engine.softmax

    def broken(self, problem, on_failure="nan"):
        z, info = right(self, problem, on_failure)
        return (nudged(z) if what == "z" else 2 * z - z.detach()), info

    monkeypatch.setattr(engine, "softmax", broken)
    report = cvxsst.validate(softmax, simplex(4), C, **QUICK)
    assert report.passed, str(report)
    assert set(report.blamed) == {name}
    assert report["value"].error < 1e-6, "the error of the candidate, not of the reference"
    assert f"the reference {name} is wrong: its {what}" in str(report)
    assert "gradient" in cvxsst.validate(with_vjp_times(-1.0), simplex(4), C, **QUICK).failed, "both are wrong"


@pytest.mark.parametrize(("d", "e", "verdict"), [(1e-7, 1.0, "right"), (1e-3, 1e-5, "wrong"), (1e-3, 2e-3, "limited")])
def test_the_verdict_on_a_disagreement_of_d_where_the_arbiter_is_certain_to_e(d: float, e: float, verdict: str) -> None:
    x, arbiter = (Witness.silent(Solver(name, softmax, simplex(2)), 1, 1) for name in ("x", "arbiter"))
    for witness, z in ((x, d), (arbiter, 0.0)):
        witness.answer.z[:], witness.answer.why[0] = z, ""
    arbiter.bound[0] = e
    assert value_status(x, arbiter, 0, 1e-6) == verdict
    assert value_status(x, None, 0, 1e-6) == "limited"


def test_what_the_references_cannot_tell_is_neither_right_nor_wrong(monkeypatch) -> None:
    """All references good to 1e-3 only, and so uncertified; the candidate is not certified either, and is close."""

    def vague(self, problem, on_failure="nan"):
        z, info = ENGINES["fast"].softmax(problem)
        return nudged(z, 1e-3), info

    for name in ("kkt", "cvxpylayer", "facets", "vertices"):
        monkeypatch.setattr(type(ENGINES[name]), "softmax", vague)
    monkeypatch.setitem(switches.softmax_paths, cvxsst.Euclidean, lambda u, n: u.clamp(0.25, 0.75))
    report = cvxsst.validate(lambda u: nudged(u.clamp(0.25, 0.75), 2e-3), switches(3), E, **QUICK)
    assert report["value"].limited > 0
    assert "limited by the reference's tolerance" in " ".join(str(report).split())


# --- the report -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failed() -> cvxsst.Report:
    return cvxsst.validate(only_under_masks, simplex(4), C, seed=3, **QUICK)


def timeless(report: cvxsst.Report) -> str:
    return dataclasses.replace(report, times=[]).to_json()


def test_the_same_seed_gives_the_same_report_and_the_worst_instance_can_be_had_back(failed: cvxsst.Report) -> None:
    again = cvxsst.validate(only_under_masks, simplex(4), C, seed=3, **QUICK)
    assert timeless(again) == timeless(failed)
    assert all(float(f"{law.error:.9g}") == law.error for law in again.laws), "no digits of rounding"
    other = cvxsst.validate(only_under_masks, simplex(4), C, seed=4, **QUICK)
    assert timeless(other) != timeless(failed)
    worst = failed.worst("value")
    assert worst.kind == "mask"
    assert torch.equal(worst.w / worst.temperature, worst.u)
    assert torch.equal(only_under_masks(worst.u), worst.z)
    assert (softmax(worst.u) - worst.expected).abs().max() < 1e-9
    assert abs((worst.z - worst.expected).abs().max() - failed["value"].error) < 1e-6
    wrong = cvxsst.validate(with_vjp_times(2.0), simplex(4), C, **QUICK).worst("gradient")
    u = wrong.u.clone().requires_grad_()
    (vjp,) = torch.autograd.grad(softmax(u), u, wrong.cotangent)
    assert (vjp - wrong.expected).abs().max() < 1e-6
    assert (2 * vjp - wrong.z).abs().max() < 1e-9


def test_asking_for_what_is_not_there(failed: cvxsst.Report) -> None:
    with pytest.raises(KeyError, match="there are answers, feasible"):
        failed["beauty"]
    silent = cvxsst.validate(raises, simplex(3), C, n=1, temperatures=(1.0,))
    assert not silent.passed
    with pytest.raises(ValueError, match="not judged"):
        silent.worst("value")


def test_json_round_trip(failed: cvxsst.Report) -> None:
    text = failed.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    read = cvxsst.Report.from_json(text)
    assert read.to_json() == text
    assert str(read) == str(failed)
    assert torch.equal(read.worst("value").w, failed.worst("value").w)  # with its -inf
    assert read.failed == failed.failed


def test_it_prints_as_a_table_in_100_columns(failed: cvxsst.Report) -> None:
    lines = str(failed).splitlines()
    assert lines[0].startswith("only_under_masks on simplex(4), CategoricalEntropy: FAILED: feasible")
    assert max(map(len, lines)) <= 120
    for law in failed.laws:
        assert sum(line.startswith(f" {law.name} ") for line in lines) == 1
    assert "<section>" in failed._repr_html_()


def test_the_page_is_self_contained_and_written_whole(failed: cvxsst.Report, tmp_path, monkeypatch) -> None:
    path = failed.save(tmp_path / "report.html")
    text = path.read_text()
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", text))
    assert text.count("data:image/png;base64,") == 2
    assert "&lt;w, v - z&gt;" in text
    assert 'name="viewport"' in text
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        failed.save(tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == text
    with pytest.raises(FileNotFoundError, match="no folder"):
        failed.save(tmp_path / "missing" / "report.html")


def test_the_names_of_candidates_are_text_on_the_page(tmp_path) -> None:
    report = cvxsst.validate(softmax, simplex(2), C, n=1, temperatures=(1.0,), name="<script>[bold]")
    assert "<script>" not in report.save(tmp_path / "report.html").read_text()
    assert "<script>[bold] on" in str(report)


def test_plot_takes_and_returns_axes(failed: cvxsst.Report) -> None:
    figure, axes = plt.subplots(2, 1)
    errors, times = failed.plot(axes)
    assert (errors, times) == (axes[0], axes[1])
    assert errors.get_yscale() == "log"
    assert times.get_xlabel() == "batch"
    assert [t.get_text() for t in errors.texts] == ["T = 1", "T = 0.1"]
    plt.close(figure)
    with pytest.raises(ValueError, match="two matplotlib axes"):
        failed.plot(errors)
    plt.close(failed.plot()[0].figure)


def test_without_matplotlib_the_message_names_the_extra(failed: cvxsst.Report, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw_it in (failed.plot, lambda: failed.save(tmp_path / "report.html")):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'cvxsst\[plot\]'"):
            draw_it()
    assert list(tmp_path.iterdir()) == []
    assert "FAILED" in str(failed)


# --- compare, testing, the arguments --------------------------------------------------------------------------------


def test_compare_says_who_is_right() -> None:
    compared = cvxsst.compare(with_vjp_times(2.0), softmax, simplex(3), C, names=("twice", "mine"), **QUICK)
    assert compared.verdicts == {1.0: "twice is wrong", 0.1: "twice is wrong"}
    assert not compared.passed
    assert compared.b.passed
    assert cvxsst.Comparison.from_json(compared.to_json()).verdicts == compared.verdicts
    same = cvxsst.compare(softmax, "kkt", simplex(3), C, **QUICK)
    assert same.passed
    assert set(same.verdicts.values()) == {"both right"}
    assert "who is right?" in str(same)


def test_comparisons_are_drawn_and_saved(tmp_path) -> None:
    compared = cvxsst.compare(softmax, "kkt", simplex(3), C, n=2, temperatures=(1.0,))
    text = compared.save(tmp_path / "compared.html").read_text()
    assert text.count("<section>") == 2
    assert "both right" in text
    axes = compared.plot()
    assert axes[0].get_xlabel() == "a: softmax     b: kkt"
    plt.close(axes[0].figure)


def test_two_right_looking_solvers_and_who_is_right() -> None:
    """cvxpylayers #120, as a notebook replays it: a cone program and 20 sweeps agree on values, not on gradients."""
    n, P = 4, birkhoff(4)
    z, u = cp.Variable((n, n)), cp.Parameter((n, n))
    objective = cp.Maximize(cp.sum(cp.multiply(u, z)) + cp.sum(cp.entr(z)))
    layer = CvxpyLayer(cp.Problem(objective, [cp.sum(z, axis=0) == 1, cp.sum(z, axis=1) == 1]), [u], [z])

    def cone_program(u: torch.Tensor) -> torch.Tensor:
        return layer(u.reshape(-1, n, n), solver_args={"solve_method": "Clarabel"})[0].reshape(u.shape)

    options: dict[str, Any] = {"n": 6, "scales": (1.0,), "masks": False, "float32": False, "tolerance": 1e-4}
    compared = cvxsst.compare(cone_program, sinkhorn, P, C, **options)
    assert compared.verdicts == {1.0: "both right", 0.1: "both wrong", 0.05: "both wrong"}
    assert compared.a["value"].passed
    assert not compared.a["gradient"].passed
    assert not compared.b["feasible"].passed
    assert cvxsst.validate("kkt", P, C, **options | {"tolerance": 1e-6}).passed


def test_one_line_in_a_test() -> None:
    assert assert_valid(softmax, simplex(3), C, **QUICK).passed
    with pytest.raises(AssertionError, match=r"FAILED: gradient[\s\S]*2 times as long"):
        assert_valid(with_vjp_times(2.0), simplex(3), C, **QUICK)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((3, simplex(3), C), {}, "candidate: expected a function"),
        (("nobody", simplex(3), C), {}, "unknown engine 'nobody'"),
        (("fast", switches(3), C), {}, "no fast path"),
        ((softmax, simplex, C), {}, "simplex"),
        ((softmax, simplex(3), cvxsst.Euclidean), {}, "pass an instance"),
        ((softmax, simplex(3), C), {"n": 0}, "n: a whole number"),
        ((softmax, simplex(3), C), {"temperatures": ()}, "temperatures: a list of positive"),
        ((softmax, simplex(3), C), {"temperatures": (0.0,)}, "temperatures: a list of positive"),
        ((softmax, simplex(3), C), {"scales": 1.0}, "scales: a list of positive"),
        ((softmax, simplex(3), C), {"dtype": torch.float16}, "dtype"),
        ((softmax, simplex(3), C), {"tolerance": 0.0}, "tolerance"),
        ((softmax, birkhoff(8), X), {}, "judged by enumeration"),
    ],
)
def test_wrong_arguments_raise(arguments: tuple, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        cvxsst.validate(*arguments, **options)


def test_each_masked_instance_has_a_mask_of_its_own() -> None:
    P = birkhoff(4)
    drawn, plain = (draw(P, 48, (1.0,), (1.0, 5.0), seed=0, masks=masks) for masks in (True, False))
    rows = [i for i, kind in enumerate(drawn.kinds) if kind == "mask"]
    assert len(rows) == 8
    assert len({torch.isinf(drawn.w[i]).numpy().tobytes() for i in rows}) == len(rows)
    others = [i for i in range(48) if i not in rows]
    assert torch.equal(drawn.w[others], plain.w[others]), "masks change nothing else"
    assert torch.equal(drawn.cotangents, plain.cotangents)


@pytest.mark.parametrize("P", [birkhoff(3), k_subset(5, 2), simplex(1), spanning_tree(4)], ids=repr)
def test_masks_leave_a_structure_and_every_kind_is_drawn(P: cvxsst.Polytope) -> None:
    drawn = draw(P, 24, (1.0, 0.1), (1.0, 5.0), seed=0, masks=True)
    assert len(drawn) == 48
    assert torch.equal(drawn.w[:24], drawn.w[24:])
    masked = torch.isinf(drawn.w).reshape(48, -1).any(1)
    assert {k for k, m in zip(drawn.kinds, masked.tolist(), strict=True) if m} <= {"mask"}
    assert cvxsst.argmax(P, drawn.w).shape == drawn.w.shape  # raises where nothing is left
    assert set(drawn.kinds) == {"normal", "ties", "mask"} - ({"mask"} if P.size == 1 else set())
    assert not torch.isinf(draw(P, 24, (1.0,), (1.0,), seed=0, masks=False).w).any()
    for seed in range(30):
        cvxsst.argmax(P, draw(P, 12, (1.0,), (1.0,), seed, masks=True).w)


# --- the command line -----------------------------------------------------------------------------------------------


OWN = """
import torch, cvxpy as cp, cvxsst

def right(u):
    return torch.softmax(u, dim=-1)

def wrong(u):
    z = right(u)
    return 2 * z - z.detach()

@cvxsst.polytope(examples=[(2,), (3,)])
def switches(n):
    z = cp.Variable(n)
    return z, [z >= 0, z <= 1]

@switches.softmax(cvxsst.BinaryEntropy)
def switch(u, n):
    return u.sigmoid() + (n == 3) * 1e-3
"""


@pytest.fixture
def own(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "hers", raising=False)
    return tmp_path


FEW = ("--instances", "5", "--temperatures", "1")


def test_a_solver_of_her_own_on_the_command_line(monkeypatch, capsys, own: Path) -> None:
    problem = ("--polytope", "simplex(3)", "--regularizer", "CategoricalEntropy", *FEW)
    status, out, _ = run(monkeypatch, capsys, "validate", "hers:right", *problem, "--report", "report.html")
    assert status == 0
    assert "hers:right on simplex(3), CategoricalEntropy: passed" in out
    assert (own / "report.html").read_text().startswith("<!DOCTYPE html>")
    status, out, err = run(monkeypatch, capsys, "validate", "hers:wrong", *problem)
    assert status == 1
    assert "FAILED: gradient" in out
    assert "1 of 1 validations failed" in err


def test_skipping_on_the_command_line(monkeypatch, capsys, own: Path) -> None:
    problem = ("--polytope", "simplex(3)", "--regularizer", "CategoricalEntropy", *FEW)
    status, out, _ = run(monkeypatch, capsys, "validate", "hers:wrong", *problem, "--no-gradients", "--no-shapes")
    assert status == 0, out
    judged = {line.split()[0] for line in out.splitlines() if " pass " in line}
    assert judged == {"answers", "feasible", "optimal", "value", "cold", "float32"}


def test_fast_paths_on_the_command_line(monkeypatch, capsys, own: Path) -> None:
    status, out, err = run(monkeypatch, capsys, "validate", "hers:switches", *FEW)
    assert status == 1
    assert "fast on switches(2), BinaryEntropy: passed" in out
    assert "fast on switches(3), BinaryEntropy: FAILED" in out
    assert "1 of 2 validations failed" in err
    monkeypatch.setattr(cli, "installed_families", lambda: {"switches": switches})
    status, out, _ = run(monkeypatch, capsys, "validate", *FEW)
    assert status == 0
    assert "fast on switches(3), BinaryEntropy: passed" in out
    status, out, _ = run(monkeypatch, capsys, "validate", "switches(2)", "--engine", "kkt", *FEW)
    assert status == 0
    assert out.count("kkt on switches(2)") == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hers:right"], "--polytope: say what hers:right solves"),
        (["hers:right", "--polytope", "simplex(3)"], "--regularizer: say which one"),
        (["hers:right", "hers:wrong", "--polytope", "simplex(3)"], "exactly one solver"),
        (["hers:right", "--polytope", "simplex(3)", "--regularizer", "Entropy"], "no regularizer is called 'Entropy'"),
        (["hers:switches", "--regularizer", "Euclidean"], "nothing to validate"),
        (["hers:switches", "--engine", "quick"], "unknown engine 'quick'"),
        (["hers:switches", "--temperatures", "1;2"], "cannot read '1;2'"),
        (["hers:switches", "--report", "nowhere/report.html"], "no folder nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_arguments_are_one_line_and_status_one(arguments, says, monkeypatch, capsys, own: Path) -> None:
    status, _, err = run(monkeypatch, capsys, "validate", *arguments)
    assert status == 1
    assert says in err
    assert "Traceback" not in err

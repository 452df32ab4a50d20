"""The doctor finds installations that compute something else."""

import re

import pytest
import torch

import cvxsst.doctor as doctor
from cvxsst.engines import ENGINES, Info

from .test_cli import run


def test_a_healthy_installation(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    status, out, _ = run(monkeypatch, capsys, "doctor")
    assert status == 0
    assert "FAILED" not in out
    for engine in ENGINES:
        assert f"{engine}, " in out
    assert re.search(r"ok +torch +2\.", out)
    assert max(len(line) for line in out.splitlines()) <= 80


def broken(change):
    """An engine's ``softmax`` with ``change`` applied to z."""

    def patch(engine):
        whole = engine.softmax

        def softmax(P, regularizer, u, forbidden):
            z, info = whole(P, regularizer, u, forbidden)
            return change(z, u), Info.of_closed_form(z.detach()) if isinstance(info, Info) else info

        return softmax

    return patch


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("kkt", lambda z, u: u - (u.sum(1, keepdim=True) - 1) / 4),  # z >= 0 is lost
        ("cvxpylayer", lambda z, u: z.detach() + 1.01 * (z - z.detach())),  # right forwards, the gradient off by 1 %
        ("enumeration", lambda z, u: z * torch.nan),
        ("fast", lambda z, u: 1 / 0),
    ],
)
def test_a_broken_engine_is_named(name: str, change, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(ENGINES[name], "softmax", broken(change)(ENGINES[name]))
    status, out, err = run(monkeypatch, capsys, "doctor")
    assert status == 1
    failed = {line.split()[1].rstrip(",") for line in out.splitlines() if line.startswith("FAILED")}
    assert failed == {name}
    assert name in err


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["torch>=99.1", "no-such-package>=1.0", 'also-missing>=2; extra == "plot"', "numpy>=1.0"]
    monkeypatch.setattr(doctor, "requires", lambda _: required)
    found = {finding.subject: finding for finding in doctor._versions()}
    assert not found["torch"].well
    assert "needs 99.1" in found["torch"].remark
    assert not found["no-such-package"].well
    assert "also-missing" not in found
    assert found["numpy"].well

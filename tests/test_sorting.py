"""The sorting experiment: lists, orders, judgement, what is learned, the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from typer.testing import CliRunner

from cvxsst import cli
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS
from experiments.runs.options import Launch
from experiments.sorting.config import Config
from experiments.sorting.data import LISTS, draw
from experiments.sorting.model import Places, Ranks, judged, placed
from experiments.sorting.permutations import ORDERS, ranked
from experiments.sorting.training import Sorter

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated, use `isinstance:FutureWarning",  # Lightning itself
    "ignore:.*LeafSpec.*",
    "ignore:.*GPU available but not used.*",
)
TINY = Config(numbers=4, steps=6, validate_every=3, hidden=8)


def train(config: Config, folder: Path, minutes: float | None = None) -> dict[str, Any] | None:
    splits = draw(config.numbers, config.low, config.high)
    return training.train(Sorter, config, splits, folder, Launch(minutes=minutes, accelerator="cpu"), progress=False)


def test_lists_are_uniform_in_the_range_and_the_same_every_time() -> None:
    torch.manual_seed(1)  # must not matter
    parts = draw(7, -2.0, 6.0)
    for name, part in parts.items():
        assert part.numbers.shape == (LISTS[name], 7)
        assert part.numbers.min() >= -2
        assert part.numbers.max() <= 6
        assert torch.equal(part.numbers, draw(7, -2.0, 6.0)[name].numbers)
    shares = (parts["train"].numbers.flatten() + 2) / 8
    assert torch.allclose(shares.quantile(torch.tensor([0.25, 0.5, 0.75])), torch.tensor([0.25, 0.5, 0.75]), atol=0.02)
    assert not torch.equal(parts["train"].numbers[:500], parts["valid"].numbers)
    with pytest.raises(ValueError, match=r"low, high: 1.0 is not less than 1.0"):
        draw(3, 1.0, 1.0)


def test_the_judgement_is_that_of_scipy() -> None:
    torch.manual_seed(0)
    x = torch.rand(6, 5)
    y = torch.stack([row[torch.randperm(5)] for row in x])
    y[0] = x[0].sort().values
    found = judged(y, x)
    for m in range(6):
        assert float(found["tau"][m]) == pytest.approx(kendalltau(np.arange(5), y[m].numpy()).statistic, abs=1e-6)
    truth = x.sort(1).values
    assert torch.equal(found["wrong"], (y != truth).float().mean(1))
    assert found["any"].tolist() == [float((a != b).any()) for a, b in zip(y, truth, strict=True)]
    assert {name: float(value[0]) for name, value in found.items()} == {
        "wrong": 0,
        "any": 0,
        "tau": 1,
        "l1": 0,
        "l2": 0,
    }


def test_a_single_number_is_sorted() -> None:
    assert {name: float(value) for name, value in judged(torch.ones(1, 1), torch.ones(1, 1)).items()}["tau"] == 1


def test_ranks_become_permutation_matrices_and_between_them_numbers_are_shared() -> None:
    assert torch.equal(ranked(torch.tensor([3.0, 1.0, 2.0])), torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))
    assert torch.equal(ranked(torch.tensor([1.25, 2.75])), torch.tensor([[0.75, 0.25], [0.0, 0.25]]))


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_scores_that_are_clear_is_theirs_relaxed_or_not(name: str) -> None:
    torch.manual_seed(0)
    order, x = ORDERS[name], torch.rand(3, 6)
    rank = x.argsort(1).argsort(1)
    scores = 1000.0 * rank if order.scalar else 1000 * torch.nn.functional.one_hot(rank, 6).float()
    latent = order.latent(scores.float(), 1.0, "auto")
    w = latent.utilities.sample(torch.Size([2]))
    for Z in (latent.argmax(w), latent.softmax(w), order.best(scores.float()).expand(2, -1, -1, -1)):
        torch.testing.assert_close(placed(Z, x), x.sort(1).values.expand(2, -1, -1))


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("order", ["sinkhorn", "permutahedron"])
def test_every_gradient_reaches_the_network(order: str, gradient: str) -> None:
    samples = GRADIENTS[gradient].samples
    module = Sorter(replace(TINY, order=order, gradient=gradient, samples=samples, temperature=5.0))
    torch.manual_seed(0)
    module.loss(torch.rand(32, 4)).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(float(p.grad.abs().sum()) for p in module.network.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("network", [Ranks(5, 4), Places(4)])
def test_the_networks_see_every_number_on_its_own(network: torch.nn.Module) -> None:
    x, order = torch.rand(2, 5), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(network(x[:, order]), network(x)[:, order])


def test_sorting_is_learned_and_a_range_times_ten_is_no_other(tmp_path: Path) -> None:
    config = replace(TINY, steps=150, validate_every=50, hidden=32)
    found = train(config, tmp_path / "one")
    scaled = train(replace(config, low=0.0, high=1024.0), tmp_path / "thousand")
    assert found is not None
    assert scaled is not None
    assert found["test"]["tau"] > 0.95
    assert scaled["test"]["tau"] > 0.95


def test_a_run_in_pieces_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    whole, pieces = train(TINY, tmp_path / "whole"), None
    while pieces is None:
        pieces = train(TINY, tmp_path / "pieces", minutes=1e-6)
    assert whole is not None
    assert pieces["test"] == whole["test"]


def test_the_commands_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    given = ["--numbers", "4", "--steps", "2", "--accelerator", "cpu"]
    for network in ("ranks", "places"):
        trained = run(cli.app, ["train", "sorting", *given, "--network", network])
        assert trained.exit_code == 0, trained.output
        assert "test tau" in trained.output
    longer = run(cli.app, ["test", "sorting", "out/sorting/sinkhorn-relaxed-places-n4-steps2-seed0", "--numbers", "9"])
    assert longer.exit_code == 0, longer.output
    assert "test tau" in longer.output
    refused = run(cli.app, ["test", "sorting", "out/sorting/sinkhorn-relaxed-ranks-n4-steps2-seed0", "--numbers", "9"])
    assert "train one with --network places" in str(refused.exception)
    shown = run(cli.app, ["table", "sorting", "out/sorting", "--markdown", "--pictures", "p"])
    assert shown.exit_code == 0, shown.output
    lines = [line for line in shown.output.splitlines() if "Sinkhorn" in line]
    tests = [json.loads(file.read_text())["test"] for file in sorted(Path("out/sorting").rglob("result.json"))]
    assert sorted(f"{test['tau']:.3f}" for test in tests) == sorted(line.split("|")[6].strip() for line in lines)
    assert Path("p/lists.png").stat().st_size > 5000

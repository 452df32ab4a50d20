"""The demo experiment: its data, its network, and the command as a newcomer runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from cvxsst import cli
from experiments.jigsaw.data import (
    HELD_OUT,
    chance,
    right_places,
    shares,
    shuffled,
    split_digits,
    split_indices,
    to_images,
    to_tiles,
)
from experiments.jigsaw.demo import demo
from experiments.jigsaw.model import Scorer, placed, reconstruction_error, restore, restore_by_means, train
from experiments.jigsaw.picture import FIRST, MISTAKES, columns, draw, save


@pytest.fixture(autouse=True)
def seeded():
    """Randomness of its own for every test, and none left behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def tiles() -> torch.Tensor:
    """Five images of distinct tiles, (5, 4, 16)."""
    return torch.rand(5, 4, 16)


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(demo)
    return app


def test_tiles_are_the_quadrants_in_reading_order():
    image = torch.arange(64.0).reshape(1, 8, 8)
    quadrants = [image[0, :4, :4], image[0, :4, 4:], image[0, 4:, :4], image[0, 4:, 4:]]
    assert torch.equal(to_tiles(image)[0], torch.stack([quadrant.flatten() for quadrant in quadrants]))


def test_cutting_and_joining_are_inverse():
    images = torch.rand(3, 8, 8)
    assert torch.equal(to_images(to_tiles(images)), images)


def test_the_split_is_disjoint_complete_and_the_same_every_time():
    training, held_out = split_indices(1797)
    assert len(held_out) == HELD_OUT
    assert sorted(training.tolist() + held_out.tolist()) == list(range(1797))
    torch.manual_seed(1)  # must not matter
    assert all(torch.equal(a, b) for a, b in zip(split_indices(1797), (training, held_out), strict=True))


def test_shuffling_keeps_the_tiles_and_uses_every_order():
    truth = torch.arange(4.0)[None, :, None].expand(2000, 4, 16)
    mixed = shuffled(truth, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.sort(dim=1).values, truth)
    orders, counts = mixed[:, :, 0].unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert counts.max() < 2 * 2000 / 24  # about six standard deviations above the mean


def test_the_true_permutation_restores_exactly(tiles: torch.Tensor):
    order = torch.tensor([2, 0, 3, 1])
    scrambled = tiles[:, order]  # tile i of the scrambled image belongs at position order[i]
    Z = torch.nn.functional.one_hot(order, 4).float().expand(5, 4, 4)
    assert torch.equal(placed(Z, scrambled), tiles)


def test_identical_tiles_are_interchangeable(tiles: torch.Tensor):
    tiles[:, :, :3] = 0  # some pixels of all tiles are alike: that is not enough
    tiles[:, 3] = tiles[:, 1]
    assert shares(right_places(tiles[:, [0, 3, 2, 1]], tiles)) == (1.0, 1.0)
    assert shares(right_places(tiles[:, [2, 3, 0, 1]], tiles)) == (0.5, 0.0)


def test_chance_counts_identical_tiles(tiles: torch.Tensor):
    assert chance(tiles) == pytest.approx((1 / 4, 1 / 24))
    tiles[:, 3] = tiles[:, 1]
    # 2 of 24 orders are right now; a place of the pair is right with 2 of the 4 tiles.
    assert chance(tiles) == pytest.approx(((1 + 1 + 2 + 2) / 16, 2 / 24))


def test_the_scorer_is_equivariant(tiles: torch.Tensor):
    scorer, order = Scorer(), [2, 0, 3, 1]
    theta = scorer(tiles)
    assert not torch.allclose(theta, theta[:, order], atol=1e-2)  # else what follows says nothing
    torch.testing.assert_close(scorer(tiles[:, order]), theta[:, order])


def test_the_scorer_sees_the_other_tiles(tiles: torch.Tensor):
    scorer, other = Scorer(), tiles.clone()
    other[:, 3] = torch.rand(5, 16)
    assert not torch.allclose(scorer(other)[:, 0], scorer(tiles)[:, 0], atol=1e-3)


def test_the_loss_reaches_every_parameter(tiles: torch.Tensor):
    scorer = Scorer()
    reconstruction_error(scorer, tiles, tiles).backward()
    missing = [name for name, p in scorer.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []
    assert any(p.grad.abs().max() > 0 for p in scorer.parameters() if p.grad is not None)


def test_training_learns_to_restore():
    """Images of four kinds of tiles, each with its place: learned in a few steps."""
    truth = (torch.eye(4, 16) + 0.05 * torch.rand(64, 4, 16)).clamp(0, 1)
    scorer = Scorer()
    losses = list(train(scorer, truth, steps=30))
    assert len(losses) == 30
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    right = right_places(restore(scorer.eval(), shuffled(truth)), truth)
    assert shares(right).images > 0.9


def test_the_baseline_places_each_tile_where_the_mean_is_nearest():
    truth = torch.eye(4, 16) + 0.1 * torch.rand(20, 4, 16)
    assert torch.equal(restore_by_means(truth, shuffled(truth)), truth)


def test_the_picture_shows_the_first_and_then_only_mistakes():
    right = torch.ones(30, 4, dtype=torch.bool)
    wrong = [2, 9, 11, 20, 25, 28]
    right[wrong, 0] = False
    first, mistakes = columns(right)
    assert first == list(range(FIRST))
    assert mistakes == [9, 11, 20, 25][:MISTAKES]  # number 2 is there already


def test_the_picture_draws_the_digits_and_frames_the_wrong_tiles():
    pytest.importorskip("matplotlib")
    truth = torch.rand(12, 4, 16)
    restored = truth.clone()
    restored[9] = truth[9, [0, 3, 2, 1]]  # two wrong tiles, in an image past the first ones
    figure = draw(shuffled(truth), restored, truth)
    assert len(figure.axes) == 3 * (FIRST + 1)
    assert [len(axes.patches) for axes in figure.axes] == [0] * (2 * FIRST + 1) + [2] + [0] * (FIRST + 1)
    last = torch.as_tensor(figure.axes[-1].images[0].get_array().data)  # type: ignore[union-attr]
    assert torch.equal(last, to_images(truth[9:10])[0])
    assert "91.7% of 12 images" in " ".join(text.get_text() for text in figure.texts)


def test_a_failed_save_leaves_the_old_picture(tmp_path: Path):
    class Broken:
        def savefig(self, path: Path, **_: object) -> None:
            path.write_text("half")
            raise OSError("disk full")

    picture = tmp_path / "jigsaw.png"
    picture.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        save(Broken(), picture)  # type: ignore[arg-type]
    assert picture.read_text() == "old"
    assert list(tmp_path.iterdir()) == [picture]


def test_the_demo_prints_the_shares_and_writes_the_picture(app: typer.Typer, tmp_path: Path):
    pytest.importorskip("sklearn")
    image = pytest.importorskip("matplotlib.image")
    picture = tmp_path / "new" / "folder" / "jigsaw.png"
    before = torch.random.get_rng_state()
    result = CliRunner().invoke(app, ["--steps", "3", "--output", str(picture)])
    assert result.exit_code == 0, result.output
    assert all(words in result.output for words in ("chance", "untrained network", "trained network", str(picture)))
    assert image.imread(picture).std() > 0.1  # neither blank nor broken
    assert list(picture.parent.iterdir()) == [picture]  # nothing half-written left
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_split_has_all_digits():
    pytest.importorskip("sklearn")
    training, held_out = split_digits()
    assert training.shape == (1500, 4, 16)
    assert held_out.shape == (HELD_OUT, 4, 16)
    assert float(training.min()) >= 0
    assert float(training.max()) == 1


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--output", "picture.xyz"], ["--output", "."]])
def test_wrong_arguments_are_refused_before_training(app, arguments, tmp_path, monkeypatch):
    _forbid_training(monkeypatch)
    monkeypatch.chdir(tmp_path)
    _assert_refused(CliRunner().invoke(app, arguments), arguments[0])


def test_an_unwritable_output_is_refused_before_training(app, tmp_path, monkeypatch):
    _forbid_training(monkeypatch)
    (tmp_path / "file").write_text("in the way")
    _assert_refused(CliRunner().invoke(app, ["--output", str(tmp_path / "file" / "jigsaw.png")]), "--output")


def test_a_missing_requirement_is_named(monkeypatch, capsys):
    _forbid_training(monkeypatch)
    monkeypatch.setitem(sys.modules, "sklearn", None)  # import then fails
    monkeypatch.setattr(sys, "argv", ["cvxsst", "demo"])
    with pytest.raises(SystemExit) as stopped:  # no traceback
        cli.main()
    assert stopped.value.code == 1
    assert "cvxsst[experiments]" in " ".join(capsys.readouterr().err.split())


def _forbid_training(monkeypatch):
    monkeypatch.setattr("experiments.jigsaw.demo.train", lambda *_: pytest.fail("training started"))


def _assert_refused(result, option):
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert option in result.output

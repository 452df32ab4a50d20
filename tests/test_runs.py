"""What all experiments share: settings and their options, files, seeds, tables; and a model that is none of ours."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
import typer
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from experiments.runs import training
from experiments.runs.experiment import Experiment
from experiments.runs.files import checksum, read_arrays, read_json, whole, write_arrays, write_json
from experiments.runs.options import Launch, Output, Run, options
from experiments.runs.seeds import fix, in_pieces, seeded
from experiments.runs.settings import (
    BatchSize,
    LearningRate,
    Seed,
    Settings,
    Steps,
    ValidateEvery,
    one_of,
    positive,
    worked_out,
)
from experiments.runs.tables import Column, Comparison, Metric, of, results, runs

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated, use `isinstance:FutureWarning",  # Lightning itself
    "ignore:.*LeafSpec.*",
    "ignore:.*GPU available but not used.*",
)

# ----------------------------------------------------------- an experiment: fit the mean of numbers, by noisy gradients


@dataclass(frozen=True)
class Config(Settings):
    shape: Annotated[str, one_of(("round", "square")), typer.Option(help="Of nothing.")] = "round"
    steps: Steps = 6
    batch_size: BatchSize = 4
    learning_rate: LearningRate = 0.1
    width: Annotated[float, positive, typer.Option()] = 2.0
    seed: Seed = 0
    validate_every: ValidateEvery = worked_out(lambda config: min(3, config.steps))


class Numbers:
    def __init__(self, values: torch.Tensor):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        return self.values[rows]


class Mean(training.Model):
    settings, monitor = Config, "score"

    def __init__(self, config: Settings):
        super().__init__(config)
        with seeded(config.seed):
            self.mean = nn.Parameter(torch.randn(()))

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return (batch + 0.1 * torch.randn_like(batch) - self.mean).square().mean()

    def measure(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": -(batch - self.mean).square()}


def prepare(config: Config, data: Path) -> tuple[type[Mean], dict[str, Numbers]]:
    values = torch.from_numpy(read_arrays(data, ("values",), "numbers", "cvxsst data mean")["values"])
    return Mean, {"train": Numbers(values[:10]), "valid": Numbers(values[10:20]), "test": Numbers(values[20:])}


SCORE = Metric("score", "score", digits=1)
TABLE = Comparison(
    "Means",
    "Nobody 1900",
    [
        Column("shape", of("shape"), words=True),
        Column("steps", of("steps"), setting=True),
        Column("seeds", runs),
        Column("score", SCORE.spread, lambda group: "-1.5 ± 0.5" if group[0]["config"]["steps"] == 6 else ""),
    ],
    order=lambda config: (config["steps"],),
)
EXPERIMENT = Experiment("mean", Config, prepare, TABLE, (SCORE,), {"learning_rate": (1e-2, 1.0)})


@pytest.fixture
def app() -> typer.Typer:
    """The commands of the experiment, as a folder's commands.py has them."""
    app = typer.Typer()

    @app.command()
    @options()
    def train(config: Config, launch: Launch, data: Path = Path("numbers.npz"), output: Output = None) -> None:
        """Train."""
        EXPERIMENT.train(config, launch, data, output)

    @app.command("test")
    def evaluate(folder: Run, data: Path = Path("numbers.npz")) -> None:
        EXPERIMENT.test(folder, data)

    @app.command()
    def table(markdown: bool = False) -> None:
        EXPERIMENT.show(None, markdown)

    return app


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with data."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).standard_normal(30).astype(np.float32)
    write_arrays(Path("numbers.npz"), {"values": values}, seed=0)
    return tmp_path


def test_an_experiment_of_a_few_lines_trains_tests_and_tables(app: typer.Typer, folder: Path) -> None:
    run = CliRunner().invoke
    for seed in ("0", "1"):
        trained = run(app, ["train", "--accelerator", "cpu", "--seed", seed])
        assert trained.exit_code == 0, trained.output
    (result,) = (r for r in results([Path("out/mean")]) if r["config"]["seed"] == 1)
    assert f"test score {result['test']['score']:.2f}: out/mean/seed-1" in trained.output

    tested = run(app, ["test", "out/mean/seed-1"])
    assert tested.exit_code == 0, tested.output
    assert tested.output.splitlines()[-1] == trained.output.splitlines()[-1]

    shown = run(app, ["table", "--markdown"])
    scores = [r["test"]["score"] for r in results([Path("out/mean")])]
    mean, deviation = np.mean(scores), np.std(scores, ddof=1)
    assert f"| round | 6 | 2 | {mean:.1f} ± {deviation:.1f} | -1.5 ± 0.5 |" in shown.output
    assert "| paper: score |" in shown.output


def test_a_test_is_of_the_best_checkpoint_on_the_data_given(folder: Path) -> None:
    config, launch = Config(steps=3), Launch(accelerator="cpu")
    result = EXPERIMENT.run(config, Path("run"), Path("numbers.npz"), launch, progress=False)
    assert result is not None
    _, splits = prepare(config, Path("numbers.npz"))
    assert training.evaluate(Mean, Path("run"), splits["test"], launch) == result["test"]
    moved = Numbers(splits["test"].values + 10)
    model = training.load_best(Mean, Path("run"))
    expected = -(moved.values - model.mean).square().mean().item()
    assert training.evaluate(Mean, Path("run"), moved, launch)["score"] == pytest.approx(expected)
    with pytest.raises(FileNotFoundError):
        training.evaluate(Mean, Path("nowhere"), moved, launch)


def test_time_that_is_up_is_said_and_the_same_command_goes_on(app: typer.Typer, folder: Path) -> None:
    first = CliRunner().invoke(app, ["train", "--accelerator", "cpu", "--minutes", "1e-6"])
    assert "not finished; the same command goes on: out/mean/default" in first.output
    second = CliRunner().invoke(app, ["train", "--accelerator", "cpu"])
    assert "test score" in second.output


# ------------------------------------------------------------------------------------------------- settings and options


def test_a_default_stands_once(app: typer.Typer) -> None:
    shown = " ".join(CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output.split())
    for option in ("--shape", "--steps", "--batch-size", "--learning-rate", "--width", "--seed", "--validate-every"):
        assert option in shown
    assert "[default: 0.1]" in shown
    assert "Stop at the first validation" in shown
    assert Config().validate_every == 3
    assert Config(steps=2).validate_every == 2
    assert replace(Config(), steps=3).validate_every == 3


def test_options_that_are_left_out_keep_their_default() -> None:
    seen = []
    app = typer.Typer()

    @app.command()
    @options(without=["learning_rate"])
    def search(config: Config, trials: int = 3) -> None:
        seen.append((config, trials))

    assert CliRunner().invoke(app, ["--steps", "9", "--trials", "2"]).exit_code == 0
    assert seen == [(Config(steps=9), 2)]
    assert CliRunner().invoke(app, ["--learning-rate", "1"]).exit_code == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": "flat"}, "shape: 'flat' is not one of round, square"),
        ({"width": 0.0}, "width: 0.0 is not positive"),
        ({"steps": 0}, "steps: 0 is less than 1"),
        ({"steps": 7}, "7 steps are not a multiple of 3"),
    ],
)
def test_values_out_of_bounds_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(Config(), **change)


def test_a_value_above_its_bound_is_refused() -> None:
    @dataclass(frozen=True)
    class Bounded(Config):
        length: Annotated[int, typer.Option(max=20)] = 10

    with pytest.raises(ValueError, match="length: 21 is more than 20"):
        Bounded(length=21)


def test_a_config_comes_back_from_its_folder_and_names_it(tmp_path: Path) -> None:
    config = Config(shape="square", steps=9)
    assert (Config().name, config.name) == ("default", "shape-square-steps-9")
    config.claim(tmp_path / "run")
    config.claim(tmp_path / "run")
    assert Config.of(tmp_path / "run") == config
    with pytest.raises(ValueError, match=r"holds another run \(width 2.0 there, 3.0 here\)"):
        replace(config, width=3.0).claim(tmp_path / "run")
    write_json(tmp_path / "run" / "config.json", config.to_json() | {"edges": "trees"})
    with pytest.raises(ValueError, match="not of this experiment: it has no setting edges"):
        Config.of(tmp_path / "run")


# ---------------------------------------------------------------------------------------------------------------- files


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_json(path, [1])

    def half(path: Path) -> None:
        with whole(path) as partial:
            partial.write_text("half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half(path)
    assert read_json(path) == [1]
    assert list(tmp_path.iterdir()) == [path]

    def cut_off(self: Path, text: str) -> int:
        self.write_bytes(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, [2])
    assert read_json(path) == [1]


def test_arrays_come_back_with_their_checksum(tmp_path: Path) -> None:
    path, arrays = tmp_path / "new" / "arrays.npz", {"a": np.arange(6).reshape(2, 3).T, "b": np.ones(2)}
    digest = write_arrays(path, arrays, seed=3)
    assert digest == hashlib.sha256(arrays["a"].tobytes() + arrays["b"].tobytes()).hexdigest()[:16]
    assert digest != checksum(arrays["b"], arrays["a"])
    stored = read_arrays(path, ("a", "b"), "arrays", "make arrays")
    assert np.array_equal(stored["a"], arrays["a"])
    assert (int(stored["seed"]), str(stored["checksum"])) == (3, digest)
    with pytest.raises(ValueError, match="damaged: its checksum"):
        read_arrays(path, ("b",), "arrays", "make arrays")
    with pytest.raises(FileNotFoundError, match=r"make them with: make arrays --output .*other"):
        read_arrays(path.with_name("other"), ("a",), "arrays", "make arrays")


# ---------------------------------------------------------------------------------------------------------------- seeds


def test_seeds_decide_and_leave_no_trace() -> None:
    state = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
    draws = []
    for numbers in ((1, 2), (2, 1), (1, 2)):
        fix(*numbers)
        draws.append(torch.rand(2).tolist())
    assert draws[0] == draws[2] != draws[1]


def draw(piece: int, seed: np.random.SeedSequence) -> tuple[int, float]:
    return piece, np.random.default_rng(seed).random()


def test_pieces_come_in_order_with_seeds_of_their_own() -> None:
    one, two = (list(in_pieces(draw, [5, 6, 7], 0, processes)) for processes in (1, 2))
    assert one == two
    assert [piece for piece, _ in one] == [5, 6, 7]
    assert len({number for _, number in one}) == 3
    assert list(in_pieces(draw, [5, 6, 7], 1, 1)) != one


# --------------------------------------------------------------------------------------------------------------- tables


def run_of(score: float, **changes: Any) -> dict[str, Any]:
    return {"config": replace(Config(), **changes).to_json(), "test": {"score": score}}


def shown(*found: dict[str, Any]) -> list[str]:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(TABLE.table(found))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_seeds_are_together_and_other_settings_apart() -> None:
    found = [run_of(-1.0), run_of(-2.0, seed=1), run_of(-3.0, batch_size=8), run_of(-4.0, steps=3)]
    lines = TABLE.markdown(found).splitlines()
    assert lines[2:] == [
        "| round | 3 | 1 | -4.0 |  |",
        "| round | 6 | 2 | -1.5 ± 0.7 | -1.5 ± 0.5 |",
        "| round | 6 | 1 | -3.0 | -1.5 ± 0.5 |",
    ]


def test_on_the_screen_what_all_share_is_above_the_table_and_the_published_below() -> None:
    lines = shown(run_of(-1.0), run_of(-3.0, batch_size=8))
    assert lines[0] == "Means"
    assert lines[2] == "in all rows: steps 6"
    assert re.fullmatch(r"shape +seeds +score", lines[4])
    assert re.fullmatch(r"round +1 +-1.0", lines[6])
    assert lines[7].strip() == "-1.5 ± 0.5"
    apart = shown(run_of(-1.0), run_of(-2.0, steps=3))
    assert any(re.fullmatch(r"shape +steps +seeds +score", line) for line in apart)


def test_a_run_is_found_once_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "result.json", run_of(-1.0))
        write_json(tmp_path / name / "config.json", Config().to_json())
    assert results([tmp_path / "a", tmp_path]) == [json.loads(json.dumps(run_of(-1.0)))]
    assert results([tmp_path / "c"]) == []


def test_a_metric_that_a_run_does_not_have_is_empty() -> None:
    assert SCORE.text({"score": 1.0}) == "1.00"
    assert SCORE.text({}) == ""
    assert SCORE.spread([{"test": {}}]) == ""
    assert "| round | 6 | 1 |  |" in TABLE.markdown([run_of(-1.0) | {"test": {}}])


@pytest.mark.parametrize("experiment", ["connectome", "jigsaw", "l2x", "listops", "sorting"])
def test_published_results_are_complete_and_in_the_table(experiment: str) -> None:
    report = import_module(f"experiments.{experiment}.report")
    found = results([report.COMMITTED])
    assert found
    for result in found:
        assert import_module(f"experiments.{experiment}.config").Config(**result["config"])
        assert result["history"][-1]["step"] == result["config"]["steps"]
    readme = (report.COMMITTED.parent / "README.md").read_text()
    table = readme.split("<!-- table -->\n")[1].split("\n<!-- end -->")[0]
    assert table == report.TABLE.markdown(found)

"""Training runs of the graph layout experiment: resuming, several processes, search, the table."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typer.testing import CliRunner

from cvxsst import cli
from experiments.graph_layout import data, report
from experiments.graph_layout.batch_norm import BatchNorm
from experiments.graph_layout.config import Config
from experiments.graph_layout.data import NODES, Layouts, load
from experiments.graph_layout.edges import EDGES, kl_to_prior
from experiments.graph_layout.model import HORIZON, negative_log_likelihood
from experiments.graph_layout.training import RelationalInference, load_best
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS
from experiments.runs.options import Launch
from experiments.runs.tables import results
from experiments.runs.training import EvaluationBatches, TrainingBatches, WholeCheckpoints, history

# Ray's workers are nice by 15: on a busy machine they would wait for their turn.
RAY = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_worker_niceness": "0"}
TINY = Config(steps=12, batch_size=8, hidden=6, validate_every=4, learning_rate=3e-3)
# Lightning itself; both are told apart from our own warnings by their text.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated, use `isinstance:FutureWarning",
    "ignore:.*LeafSpec.*",
    "ignore:.*GPU available but not used.*",
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layouts") / "layouts.npz"
    sizes = {"train": 50, "valid": 20, "test": 20}
    pieces = data.generate(sizes, 0, processes=1)
    _, trees = next(pieces)
    data.save(path, np.concatenate([frames for _, frames in pieces]), trees, sizes, 0)
    return path


@pytest.fixture(scope="module")
def layouts(stored: Path) -> dict[str, Layouts]:
    return load(stored, TINY.length)


def train(config: Config, layouts: dict[str, Layouts], folder: Path, minutes: float | None = None) -> dict | None:
    launch = Launch(minutes=minutes, accelerator="cpu")
    return training.train(RelationalInference, config, layouts, folder, launch, progress=False)


def cvxsst(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """``cvxsst arguments`` in a process of its own."""
    command = [sys.executable, "-m", "cvxsst", *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def options(config: Config, stored: Path, output: Path) -> list[str]:
    given = asdict(config) | {"data": stored, "output": output, "accelerator": "cpu"}
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_gradient_reaches_the_encoder(gradient: str, layouts: dict[str, Layouts]) -> None:
    module = RelationalInference(replace(TINY, gradient=gradient, samples=GRADIENTS[gradient].samples))
    torch.manual_seed(0)
    module.objective(layouts["train"].positions[:16]).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_killed_run_goes_on_to_the_same_result(stored: Path, layouts: dict[str, Layouts], tmp_path: Path) -> None:
    """Killed twice, by SIGKILL: between two checkpoints, and while one is being written."""
    unbroken = train(TINY, layouts, tmp_path / "unbroken")
    assert unbroken is not None
    script = f"""
import os, sys, signal
from pathlib import Path
import lightning
from experiments.graph_layout.config import Config
from experiments.graph_layout.data import load
from experiments.graph_layout.training import RelationalInference
from experiments.runs import training
from experiments.runs.options import Launch
class Kill(lightning.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 6 and sys.argv[1] == "between":
            os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "writing":
    save = training.TorchCheckpointIO.save_checkpoint
    def die(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        if checkpoint["global_step"] == 8 and "last" in str(path):
            with open(path, "r+b") as file:
                file.truncate(1000)
            os.kill(os.getpid(), signal.SIGKILL)
    training.TorchCheckpointIO.save_checkpoint = die
config, place = Config(**{asdict(TINY)!r}), Path({str(tmp_path / "killed")!r})
training.train(RelationalInference, config, load(Path({str(stored)!r}), config.length), place,
               Launch(accelerator="cpu"), progress=False, callbacks=[Kill()])
"""
    for when in ("between", "writing"):
        assert subprocess.run([sys.executable, "-c", script, when], capture_output=True).returncode == -9
    resumed = train(TINY, layouts, tmp_path / "killed")
    assert resumed is not None
    for name in ("test", "valid", "history"):
        assert resumed[name] == unbroken[name], name
    assert len(unbroken["history"]) == 3
    weights = [load_best(tmp_path / name).state_dict() for name in ("unbroken", "killed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # and a finished run is not run again
    assert train(TINY, layouts, tmp_path / "killed") == resumed


def test_a_run_in_short_pieces_ends_like_an_unbroken_one(layouts: dict[str, Layouts], tmp_path: Path) -> None:
    unbroken = train(TINY, layouts, tmp_path / "unbroken")
    assert unbroken is not None
    pieces, result = 0, None
    while result is None:
        pieces += 1
        assert pieces < 9
        result = train(TINY, layouts, tmp_path / "pieces", minutes=1e-6)
    assert pieces == TINY.steps // TINY.validate_every
    assert result["test"] == unbroken["test"]
    assert history(tmp_path / "pieces", "elbo") == unbroken["history"]


def test_a_checkpoint_cut_off_while_it_is_written_leaves_the_old_one(tmp_path: Path, monkeypatch) -> None:
    def cut_off(self, checkpoint, path, storage_options=None) -> None:
        Path(path).write_bytes(b"half of")
        raise KeyboardInterrupt

    path, io = tmp_path / "last.ckpt", WholeCheckpoints()
    io.save_checkpoint({"step": 1}, path)
    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", cut_off)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"step": 2}, path)
    assert torch.load(path) == {"step": 1}


@pytest.mark.parametrize("world", [1, 2])
def test_batches_go_through_the_data_and_every_process_takes_its_share(layouts: dict[str, Layouts], world: int) -> None:
    size = len(layouts["train"]) // 4 + 2  # so that the fourth batch goes past the end
    module: Any = SimpleNamespace(
        config=Config(batch_size=size), global_step=2, trainer=SimpleNamespace(world_size=world)
    )
    expected = [torch.arange(step * size, (step + 1) * size) % len(layouts["train"]) for step in (2, 3, 4)]
    for rank in range(world):
        module.global_rank = rank
        batches = iter(TrainingBatches(layouts["train"], module))
        for rows in expected:  # goes on at the step where the run is
            positions, _ = next(batches)
            assert torch.equal(positions, layouts["train"].positions[rows[rank::world]])
        seen = torch.cat([trees for _, trees in EvaluationBatches(layouts["valid"], module)])
        assert torch.equal(seen, layouts["valid"].trees[rank::world])


def test_two_processes_have_the_gradients_of_one(stored: Path, layouts: dict[str, Layouts], tmp_path: Path) -> None:
    """After the first step Adam's first moment is 0.1 of the gradient. The reference: one process, the noise of two."""
    config = replace(TINY, steps=1, validate_every=1)
    done = cvxsst(
        "train", "graph-layout", *options(config, stored, tmp_path / "run"), "--devices", "2", "--strategy", "ddp",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    moments = checkpoint["optimizer_states"][0]["state"]

    module = RelationalInference(config)
    batch = layouts["train"].positions[: config.batch_size]
    shares = torch.cat([torch.arange(config.batch_size)[part::2] for part in range(2)])
    theta = module.scores(batch[shares])
    samples = []
    for process, scores in enumerate(theta.chunk(2)):
        words = np.random.SeedSequence([config.seed, 0, 0, process]).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        samples.append(module.kind.softmax(scores, config.temperature).rsample())
    graph = module.kind.graph(torch.cat(samples), NODES)
    predictions = module.decoder.predict(batch[shares], graph, min(HORIZON, config.length - 1))
    (negative_log_likelihood(predictions, batch[shares]).mean() + kl_to_prior(theta).mean()).backward()
    for (name, parameter), moment in zip(module.named_parameters(), moments.values(), strict=True):
        gradient, expected = moment["exp_avg"] * 10, parameter.grad
        assert expected is not None
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())), name
    assert json.loads((tmp_path / "run/result.json").read_text())["processes"] == 2


def test_batch_normalization_alone_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs, x = BatchNorm(3), torch.nn.BatchNorm1d(3), torch.randn(4, 5, 3)
    for _ in range(2):
        assert torch.allclose(ours(x), theirs(x.flatten(0, 1)).view_as(x))
    assert torch.allclose(ours.eval()(x), theirs.eval()(x.flatten(0, 1)).view_as(x))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edges": "tree"}, "edges: 'tree' is not one of independent, top-k"),
        ({"gradient": "exact"}, "gradient: 'exact' is not one of relaxed"),
        ({"steps": 13}, "13 steps are not a multiple of 4"),
        ({"temperature": -1.0}, "temperature: -1.0 is not positive"),
        ({"gradient": "reinforce-loo"}, "samples: reinforce-loo needs at least 2"),
    ],
)
def test_bad_settings_are_refused(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(TINY, **change)


def test_a_folder_belongs_to_one_run(layouts: dict[str, Layouts], tmp_path: Path) -> None:
    train(TINY, layouts, tmp_path, minutes=1e-5)
    with pytest.raises(ValueError, match=r"holds another run .*temperature 3.9 there, 1.0 here"):
        train(replace(TINY, temperature=1.0), layouts, tmp_path)


def test_a_search_goes_on_where_it_was(stored: Path, tmp_path: Path) -> None:
    arguments = ["search", "graph-layout", "--edges", "top-k", "--steps", "4", "--hidden", "6", "--data", str(stored)]
    arguments += ["--output", str(tmp_path / "search"), "--trials"]
    for trials in (1, 2):
        done = cvxsst(*arguments, str(trials), cwd=tmp_path, **RAY)
        assert done.returncode == 0, done.stderr
        finished = (tmp_path / "search/trial-00/result.json").stat().st_mtime_ns
        if trials == 1:
            first = finished
    assert finished == first
    found = json.loads((tmp_path / "search/search.json").read_text())
    assert sorted(trial["trial"] for trial in found) == [0, 1]
    elbos = [trial["valid"]["elbo"] for trial in found]
    assert elbos == sorted(elbos, reverse=True)
    for trial in found:
        assert 1e-4 <= trial["config"]["learning_rate"] <= 1e-2
        assert 0.1 <= trial["config"]["temperature"] <= 10
    assert "Learning rate" not in done.stdout
    assert "learning" in done.stdout


def test_the_commands_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layouts: dict[str, Layouts]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "SMALL", {"train": 20, "valid": 10, "test": 10})
    run = CliRunner().invoke

    made = run(cli.app, ["data", "graph-layout", "--small", "--processes", "1"])
    assert made.exit_code == 0, made.output
    assert "40 layouts of 20 frames" in made.output
    assert "checksum" in made.output
    again = run(cli.app, ["data", "graph-layout", "--small"])
    assert "is there already" in str(again.exception)

    common = ["--steps", "2", "--batch-size", "4", "--hidden", "6", "--accelerator", "cpu"]
    for seed in ("0", "1"):
        trained = run(cli.app, ["train", "graph-layout", *common, "--seed", seed])
        assert trained.exit_code == 0, trained.output
        assert "test ELBO" in trained.output

    shown = run(cli.app, ["table", "graph-layout", "out/graph-layout", "--markdown", "--pictures", "pictures"])
    assert shown.exit_code == 0, shown.output
    (line,) = [line for line in shown.output.splitlines() if "Spanning tree" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    tests = [json.loads(file.read_text())["test"] for file in Path("out/graph-layout").rglob("result.json")]
    elbos = [test["elbo"] for test in tests]
    assert cells[3] == f"{np.mean(elbos):.0f} ± {np.std(elbos, ddof=1):.0f}"
    assert cells[6:9] == ["2", "2", "6"]
    assert cells[11:] == ["-1080 ± 110", "91 ± 3", "91 ± 3"]
    assert Path("pictures/curves.png").stat().st_size > 5000
    assert Path("pictures/edges.png").stat().st_size > 5000

    empty = run(cli.app, ["table", "graph-layout", "pictures"])
    assert "no finished run below pictures" in str(empty.exception)
    missing = run(cli.app, ["train", "graph-layout", "--data", "nowhere.npz"])
    assert "make them with: cvxsst data graph-layout" in str(missing.exception)


def test_published_results_are_complete() -> None:
    for result in results([report.COMMITTED]):
        assert Config(**result["config"])
        assert result["history"][-1]["step"] == result["config"]["steps"]
        assert result["config"]["edges"] in EDGES
        assert result["data"] == data.SPLITS


def test_the_table_is_readable_at_80_columns(tmp_path: Path) -> None:
    done = cvxsst("table", "graph-layout", str(report.COMMITTED), cwd=tmp_path, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout
    words = done.stdout.split()
    numbers = [line.split("|") for line in report.TABLE.markdown(results([report.COMMITTED])).splitlines()[2:]]
    for row in numbers:
        for number in (*row[4:7], *row[10:]):  # each whole in a line, with its spread
            assert number.strip() in done.stdout
    assert {"precision", "recall", "ELBO", "seeds", "s/step", "straight-through"} <= {word.strip(",") for word in words}

"""The connectome experiment: the worms, the likelihood, the chain, the relaxations, the commands."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.distributions import Gumbel, Normal, kl_divergence
from typer.testing import CliRunner

from cvxsst import cli
from experiments.connectome import data, mcmc
from experiments.connectome.config import Config
from experiments.connectome.data import Connectome, Worms
from experiments.connectome.mcmc import gain, given_permutations, swapped
from experiments.connectome.model import Weights, log_likelihood, recorded
from experiments.connectome.permutations import MCMC, PERMUTATIONS, forbid, sweeps
from experiments.connectome.training import Chain, Identification
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS
from experiments.runs.options import Launch

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated, use `isinstance:FutureWarning",  # Lightning itself
    "ignore:.*LeafSpec.*",
    "ignore:.*GPU available but not used.*",
)
N, WORMS = 12, 2
TINY = Config(neurons=N, worms=WORMS, known=4, radius=0.35, steps=6, validate_every=3)


def small(n: int = N) -> Connectome:
    random = np.random.default_rng(0)
    joined = np.triu(random.random((n, n)) < 0.4, 1)
    return Connectome(joined | joined.T, np.linspace(0, 1, n))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worms") / "worms.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "TIMES", 400)
        data.save(path, small(), data.simulate(small(), 2, WORMS, 0), 0)
    return path


@pytest.fixture
def worms(stored: Path) -> Worms:
    return data.load(stored, 0, TINY.known, TINY.radius)


@pytest.fixture
def batch(worms: Worms) -> dict[str, torch.Tensor]:
    return worms.batch(torch.arange(WORMS))


def matrices(places: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(places, places.shape[-1]).float()


# ------------------------------------------------------------------------------------------------------------ the worms


@pytest.mark.skipif(not data.TABLES.exists(), reason="the published tables are not beside this checkout")
def test_the_published_tables_are_those_that_are_known() -> None:
    connectome = data.read(data.TABLES)
    assert len(connectome.positions) == 279
    assert connectome.joined.sum() == 2 * 2287
    assert not connectome.joined.diagonal().any()
    near = np.abs(connectome.positions[:, None] - connectome.positions)
    for radius, mean in ((0.0075, 10.4), (0.02, 37.0), (0.05, 68.8), (0.1, 106.7)):
        assert (near < radius).sum(1).mean() == pytest.approx(mean, abs=0.05)


def test_tables_are_read_whatever_their_case_and_refused_if_they_are_others(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"NeuronConnect.csv and NeuronType.csv.*wormatlas"):
        data.read(tmp_path)
    (tmp_path / data.PLACES).write_text("Neuron,Soma Position\nB,0.5\nA,0.7\nC,0.1\n")
    (tmp_path / data.WIRES).write_text("Neuron 1,Neuron 2,Type,Nbr\na,B,S,1\nC,C,EJ,2\nA,C,NMJ,1\n")
    found = data.read(tmp_path)
    assert found.positions.tolist() == [0.1, 0.5, 0.7]  # C, B, A
    assert found.joined.tolist() == [[False, False, False], [False, False, True], [False, True, False]]
    (tmp_path / data.WIRES).write_text("Neuron 1,Neuron 2,Type\nA,X,S\n")
    with pytest.raises(ValueError, match="no position of X"):
        data.read(tmp_path)
    (tmp_path / data.WIRES).write_text("from,to\nA,B\n")
    with pytest.raises(ValueError, match="a column is missing"):
        data.read(tmp_path)


def test_the_synthetic_connectome_is_as_large_and_as_dense() -> None:
    made = data.synthetic(0)
    assert made.joined.sum() == 2 * data.PAIRS
    assert (made.joined == made.joined.T).all()
    assert (np.diff(made.positions) >= 0).all()
    assert np.array_equal(made.joined, data.synthetic(0).joined)


def test_the_simulation_is_stable_antisymmetric_and_the_same_every_time() -> None:
    made = data.simulate(small(), 2, 1, 3)
    for W in made["weights"]:
        assert np.abs(W + W.T).max() == 0
        assert np.abs(np.linalg.eigvals(W)).max() == pytest.approx(1 / 1.1, rel=1e-6)
        assert ((W != 0) == small().joined).all()
    assert np.array_equal(made["activity"], data.simulate(small(), 2, 1, 3)["activity"])
    assert not np.array_equal(made["weights"][0], made["weights"][1])


def test_a_recording_is_that_of_the_neurons_under_other_names(stored: Path, worms: Worms) -> None:
    with np.load(stored) as file:
        W, Y = torch.from_numpy(file["weights"][0]), torch.from_numpy(file["activity"][0])
    noise = Y[:, 1:] - Y[:, :-1] @ recorded(W, matrices(worms.places)).mT
    assert noise.var() == pytest.approx(1, abs=0.03)
    assert abs(float((noise[:, 1:] * noise[:, :-1]).mean())) < 0.03


@pytest.mark.parametrize("known", [0, 4, N])
def test_candidates_are_near_and_known_neurons_have_one(stored: Path, known: int) -> None:
    worms = data.load(stored, 0, known, TINY.radius)
    assert (worms.known.sum(1) == known).all()
    assert worms.allowed.gather(2, worms.places[..., None]).all()
    assert (worms.allowed.sum(2)[worms.known] == 1).all()
    for m, (place, allowed) in enumerate(zip(worms.places, worms.allowed, strict=True)):
        for i, j in allowed.nonzero().tolist():
            other = int((place == j).nonzero())
            assert abs(worms.positions[i] - worms.positions[other]) < TINY.radius
            assert i == other or not (worms.known[m, i] or worms.known[m, other])
    fewer = data.load(stored, 0, max(known - 1, 0), TINY.radius)
    assert (worms.known | ~fewer.known).all()


def test_simulations_are_counted_cyclically_and_too_many_known_refused(stored: Path, worms: Worms) -> None:
    assert torch.equal(data.load(stored, 2, TINY.known, TINY.radius).lagged, worms.lagged)
    assert not torch.equal(data.load(stored, 1, TINY.known, TINY.radius).lagged, worms.lagged)
    with pytest.raises(ValueError, match=r"known: 13 neurons, but .* has 12"):
        data.load(stored, 0, 13, 0.1)


# -------------------------------------------------------------------------------------------- the likelihood, the chain


def test_the_likelihood_from_sums_is_that_of_the_recordings(stored: Path, worms: Worms, batch: dict) -> None:
    torch.manual_seed(0)
    with np.load(stored) as file:
        Y = torch.from_numpy(file["activity"][0]).double()
    A = torch.randn(3, WORMS, N, N) / N
    stated = torch.stack([Normal(Y[:, :-1] @ a.double().mT, 1.0).log_prob(Y[:, 1:]).sum((1, 2)) for a in A])
    constant = -Y[:, 1:].numel() / WORMS * np.log(2 * np.pi) / 2
    torch.testing.assert_close(log_likelihood(A, batch).double() + constant, stated, rtol=1e-5, atol=0)


def test_the_truth_has_the_best_likelihood(stored: Path, worms: Worms, batch: dict) -> None:
    with np.load(stored) as file:
        W = torch.from_numpy(file["weights"][0])
    true = log_likelihood(recorded(W, matrices(worms.places)), batch)
    swap = worms.places[:, [1, 0, *range(2, N)]]
    assert (true > log_likelihood(recorded(W, matrices(swap)), batch)).all()


@pytest.mark.parametrize(("i", "k"), [(0, 1), (3, 11), (7, 2)])
def test_what_a_proposal_gains_is_the_difference_of_likelihoods(batch: dict, worms: Worms, i: int, k: int) -> None:
    torch.manual_seed(0)
    W = torch.randn(N, N)
    now, then = worms.places[0], worms.places[0].clone()
    then[[i, k]] = now[[k, i]]
    one = {name: batch[name][:1].double() for name in ("energy", "lagged", "past")}
    before, after = (log_likelihood(recorded(W, matrices(place)[None]).double(), one) for place in (now, then))
    w, C, D = (x.double().numpy() for x in (W, batch["lagged"][0][now][:, now], batch["past"][0][now][:, now]))
    A, sums = np.stack([w, w.T, -w.T @ w], 1), np.stack([C, C.T, D], 1)
    assert gain(A, sums, i, k) == pytest.approx(float(after - before), rel=1e-4)


def test_the_draw_of_the_weights_is_that_of_a_regression(batch: dict, worms: Worms) -> None:
    torch.manual_seed(0)
    draws = torch.stack([given_permutations(worms.places, batch, 100.0) for _ in range(400)]).double()
    C, D = (sum(batch[name][m].double()[p][:, p] for m, p in enumerate(worms.places)) for name in ("lagged", "past"))
    i = int(worms.joined.sum(1).argmax())
    S = worms.joined[i].nonzero().flatten()
    covariance = torch.linalg.inv(D[S][:, S] + 100 * torch.eye(len(S)).double())
    spread = covariance.diagonal().sqrt()
    assert ((draws[:, i, S].mean(0) - covariance @ C[i, S]).abs() < 5 * spread / 20).all()
    assert torch.allclose(draws[:, i, S].std(0), spread, rtol=0.2)
    assert (draws[:, ~worms.joined] == 0).all()


def test_the_chain_stays_within_the_candidates(stored: Path, batch: dict) -> None:
    torch.manual_seed(0)
    chain = Chain(replace(TINY, permutations=MCMC))
    chain.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    for _ in range(3):
        chain.loss(batch).backward()
        assert batch["allowed"].gather(2, chain.places[..., None]).all()
        assert (chain.places.sort(1).values == torch.arange(N)).all()


def test_proposals_leave_the_posterior_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six hundred chains on one worm of four neurons against all permutations; short recordings say little."""
    torch.manual_seed(0)
    n, chains = 4, 600
    W, Y = 0.1 * torch.randn(n, n), torch.randn(5, n)
    allowed = torch.ones(n, n, dtype=torch.bool)
    allowed[0, 3] = False
    one = {"lagged": Y[1:].mT @ Y[:-1], "past": Y[:-1].mT @ Y[:-1], "energy": torch.zeros(())}
    orders = torch.tensor([p for p in itertools.permutations(range(n)) if p[0] != 3])
    exact = log_likelihood(recorded(W, matrices(orders)), one).double().softmax(0)
    assert exact.max() > 3 * exact.min()  # else it would not be a test
    assert exact.min() * chains > 5

    many = {name: one[name].expand(chains, n, n) for name in ("lagged", "past")} | {
        "allowed": allowed.expand(chains, n, n)
    }
    monkeypatch.setattr(mcmc, "PROPOSALS", 60)
    found = swapped(orders[torch.randint(len(orders), (chains,))], W, many)
    counts = (found[:, None] == orders).all(-1).sum(0)
    assert counts.sum() == chains
    off = (counts - chains * exact) / (chains * exact * (1 - exact)).sqrt()
    assert off.abs().max() < 4
    assert off.square().mean() < 2


# ------------------------------------------------------------------------------------------------------ the relaxations


@pytest.mark.parametrize("name", PERMUTATIONS)
def test_relaxations_keep_to_the_candidates(name: str, batch: dict) -> None:
    torch.manual_seed(0)
    kind, allowed = PERMUTATIONS[name], batch["allowed"]
    scores, spread = torch.randn(WORMS, N, N), torch.zeros(WORMS, N, N)
    latent = kind.latent(scores, spread, allowed, kind.temperature, "auto")
    w = latent.utilities.sample(torch.Size([3]))
    hard, soft = latent.argmax(w), latent.softmax(w)
    for z in (hard, soft):
        assert (z[~allowed.expand_as(z)] == 0).all()
    assert (hard.sum(-1) == 1).all()
    assert (hard.sum(-2) == 1).all()
    if name in ("sinkhorn", "euclidean", "binary"):
        assert torch.allclose(soft.sum(-1), torch.ones(()), atol=1e-5)
        assert torch.allclose(soft.sum(-2), torch.ones(()), atol=1e-5)
    assert torch.equal(kind.mode(scores, allowed).sum(-1), torch.ones(WORMS, N))


def test_many_sweeps_are_the_exact_relaxation_with_its_gradient(batch: dict) -> None:
    torch.manual_seed(0)
    allowed, g = batch["allowed"], torch.randn(WORMS, N, N, dtype=torch.float64)
    w = torch.randn(WORMS, N, N, dtype=torch.float64, requires_grad=True)
    kind = PERMUTATIONS["sinkhorn"]
    exact = kind.latent(w, None, allowed, 1.0, "auto").softmax(w)
    unrolled = sweeps(forbid(w, allowed).clamp_min(-1e8), 2000)
    torch.testing.assert_close(unrolled, exact, atol=1e-9, rtol=0)
    ours, theirs = (torch.autograd.grad(z, w, g)[0] for z in (exact, unrolled))
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0)


def test_the_divergence_is_that_of_the_candidates(batch: dict) -> None:
    torch.manual_seed(0)
    scores, allowed = torch.randn(WORMS, N, N), batch["allowed"]
    for worm, (own, which) in enumerate(zip(scores, allowed, strict=True)):
        expected = kl_divergence(Gumbel(own[which], 1.0), Gumbel(torch.zeros(int(which.sum())), 1.0)).sum()
        torch.testing.assert_close(PERMUTATIONS["sinkhorn"].divergence(scores, None, allowed)[worm], expected)


def test_the_divergence_of_the_weights_is_that_of_normal_variables(worms: Worms) -> None:
    torch.manual_seed(0)
    weights = Weights(N, 50.0)
    with torch.no_grad():
        weights.mean.normal_()
    q = Normal(weights.mean[worms.joined], (weights.log_variance[worms.joined] / 2).exp())
    expected = kl_divergence(q, Normal(torch.zeros(()), 50.0**-0.5)).sum()
    torch.testing.assert_close(weights.divergence(worms.joined), expected, rtol=1e-5, atol=0)
    assert (weights.sample(worms.joined)[~worms.joined] == 0).all()


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("name", ["sinkhorn", "rounding"])
def test_gradients_reach_scores_and_weights(name: str, gradient: str, batch: dict) -> None:
    config = replace(TINY, permutations=name, gradient=gradient, samples=GRADIENTS[gradient].samples)
    module = Identification(config)
    torch.manual_seed(0)
    with torch.no_grad():
        module.weights.mean.normal_(0, 0.1)  # W = 0 says nothing of the permutations
    module.loss(batch).backward()
    for parameter in (module.scores, module.weights.mean, module.weights.log_variance):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


# --------------------------------------------------------------------------------------------------------- the commands


def train(config: Config, worms: Worms, folder: Path, minutes: float | None = None) -> dict[str, Any] | None:
    kind = Chain if config.permutations == MCMC else Identification
    splits = dict.fromkeys(("train", "valid", "test"), worms)
    return training.train(kind, config, splits, folder, Launch(minutes=minutes, accelerator="cpu"), progress=False)


def test_neurons_are_identified(stored: Path, worms: Worms, tmp_path: Path) -> None:
    found = train(replace(TINY, steps=150, validate_every=50), worms, tmp_path)
    assert found is not None
    assert found["test"]["accuracy"] > 0.8
    assert found["test"]["unknown"] <= found["test"]["accuracy"]


@pytest.mark.parametrize("permutations", ["sinkhorn", MCMC])
def test_a_run_in_pieces_ends_like_an_unbroken_one(permutations: str, worms: Worms, tmp_path: Path) -> None:
    config = replace(TINY, permutations=permutations)
    whole, pieces = train(config, worms, tmp_path / "whole"), None
    while pieces is None:
        pieces = train(config, worms, tmp_path / "pieces", minutes=1e-6)
    assert whole is not None
    assert pieces["test"] == whole["test"]


def test_a_share_of_the_worms_is_refused_to_the_chain(worms: Worms, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size: mcmc looks at all 2 worms"):
        train(replace(TINY, permutations=MCMC, batch_size=1), worms, tmp_path)


def test_the_commands_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "TIMES", 30)
    monkeypatch.setattr(data, "TABLES", tmp_path / "nowhere")
    run = CliRunner().invoke
    made = run(cli.app, ["data", "connectome", "--simulations", "1", "--worms", "1"])
    assert made.exit_code == 0, made.output
    assert "no tables found: a random connectome of the same degree: 279 neurons, 2,287 pairs" in made.output
    assert "is there already" in str(run(cli.app, ["data", "connectome"]).exception)

    given = ["--data", str(stored), "--neurons", str(N), "--worms", str(WORMS), "--known", "4", "--steps", "2"]
    for seed in ("0", "1"):
        trained = run(cli.app, ["train", "connectome", *given, "--seed", seed, "--accelerator", "cpu"])
        assert trained.exit_code == 0, trained.output
        assert "test accuracy" in trained.output
    shown = run(cli.app, ["table", "connectome", "out/connectome", "--markdown", "--pictures", "p", *given[:2]])
    assert shown.exit_code == 0, shown.output
    (line,) = [line for line in shown.output.splitlines() if "Sinkhorn, exact" in line]
    tests = [json.loads(file.read_text())["test"] for file in Path("out/connectome").rglob("result.json")]
    shares = [100 * test["accuracy"] for test in tests]
    assert f"{np.mean(shares):.1f} ± {np.std(shares, ddof=1):.1f}" in line
    assert Path("p/accuracy.png").stat().st_size > 5000
    assert Path("p/confusion.png").stat().st_size > 5000
    wrong = run(cli.app, ["train", "connectome", "--data", str(stored), "--known", "4"])
    assert "--worms, --neurons: 4 of 279, but" in str(wrong.exception)

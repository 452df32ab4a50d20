"""ListOps: the language, the data, the latent graphs, the networks, and runs from the command line."""

import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

import cvxsst
from cvxsst import cli
from experiments.listops import data, report
from experiments.listops.config import Config
from experiments.listops.data import NARROWEST, Batch, generate, load, read, save
from experiments.listops.edges import EDGES, LABELS, LSTM, TRUE, Independent, Trees
from experiments.listops.language import END, PADDING, VOCABULARY, draw, parse
from experiments.listops.model import STEPS, MessagePassing, Reader, Scores
from experiments.listops.training import ListOps
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS
from experiments.runs.options import Launch
from experiments.runs.tables import results
from polytopes import projective_tree
from polytopes.padding import is_real, padded

TINY = Config(steps=4, batch_size=8, hidden=6, validate_every=2)
SIZES = {"train": 12, "valid": 6, "test": 6}  # of each depth
EXAMPLE = "[MAX 2 [MIN 3 9 ] 0 ]"
# Lightning itself; told apart from our own warnings by their text.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated, use `isinstance:FutureWarning",
    "ignore:.*LeafSpec.*",
    "ignore:.*GPU available but not used.*",
)


def texts(count: int, depth: int = 4, seed: int = 0) -> list[str]:
    random = Random(seed)
    return [" ".join(draw(random, depth)) for _ in range(count)]


def batch_of(*texts: str) -> Batch:
    arrays = data._arrays([parse(text.split()) for text in texts])
    return Batch(*(part.long() for part in data._batch(arrays)))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("listops") / "listops.npz"
    save(path, list(generate(SIZES, 2, 0, processes=1)), list(SIZES), 0)
    return path


# ------------------------------------------------------------------------------------------------------- the language


def evaluated(text: str) -> int:
    """By Python itself: every operator a call."""

    def middle(*values: int) -> int:
        ordered = sorted(values)
        return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) // 2

    call = re.sub(r"\[(\w+) ", r"\1(", text).replace(" ]", ")").replace(" ", ", ")
    return eval(call, {"MIN": min, "MAX": max, "MED": middle, "SM": lambda *values: sum(values) % 10})


def test_values_are_those_of_an_evaluator_of_its_own() -> None:
    for text in [*texts(500), "[SM 4 9 [SM 7 7 ] ]", "[MED 1 4 ]", "[MED 9 8 2 3 ]"]:
        assert parse(text.split()).value == evaluated(text), text


def test_the_head_of_a_token_is_the_operator_whose_list_it_is_in() -> None:
    found = parse(EXAMPLE.split())
    assert found.heads == [0, 0, 0, 2, 2, 2, 0, 0]
    assert found.depth == 2
    assert [VOCABULARY[token] for token in found.tokens] == EXAMPLE.split()
    for text in texts(100):
        words, found = text.split(), parse(text.split())
        for position in range(1, len(words)):
            opened = 1  # going back, the first operator that is one more than the ends
            for before in range(position - 1, -1, -1):
                opened += (words[before] == END) - words[before].startswith("[")
                if not opened:
                    break
            assert found.heads[position] == before, text


def test_true_trees_are_projective() -> None:
    batch = batch_of(*texts(60, depth=3))
    P = projective_tree(batch.tokens.shape[1])
    assert torch.equal(batch.arcs.sum((1, 2)), batch.lengths - 1.0)
    best = cvxsst.argmax(P, padded(P, batch.arcs, batch.lengths)) * is_real(P, batch.lengths)
    assert torch.equal(best, batch.arcs)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no words"),
        ("7", "it begins with '7', no list"),
        ("[MAX 1 2", "1 lists are not closed"),
        ("[MAX 1 2 ] 3", "'3' stands outside"),
        ("[MAX 1 2 ] ]", "'\\]' stands outside"),
        ("[MAX 1 12 ]", "'12' is no word"),
        ("[MAX 1 <PAD> ]", "'<PAD>' is no word"),
        ("[MAX 1 [MIN ] ]", r"the list \[MIN is empty"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text.split())


# ----------------------------------------------------------------------------------------------------------- the data


def test_expressions_have_their_depth_their_length_and_no_double() -> None:
    sizes = {"train": 30, "valid": 5, "test": 5}
    shares = list(generate(sizes, 5, seed=3, processes=1))
    every = [text for parts in shares for part in parts for text in part]
    assert len(set(every)) == len(every) == 5 * sum(sizes.values())
    for depth, parts in enumerate(shares, 1):
        assert [len(part) for part in parts] == list(sizes.values())
        for text in (text for part in parts for text in part):
            words = text.split()
            assert parse(words).depth == depth
            assert 4 <= len(words) <= 7 if depth == 1 else 10 <= len(words) <= 49
            assert "[SM" not in words


def test_short_expressions_of_depth_1_are_used_up() -> None:
    """There are 300 of 4 tokens, drawn in a quarter of all cases."""
    ((train, *_),) = generate({"train": 2000, "valid": 10, "test": 10}, 1, seed=0, processes=1)
    assert sum(len(text.split()) == 4 for text in train) <= 300 / data.OF_DEPTH_1
    assert sum(len(text.split()) == 7 for text in train) > 800


def test_the_seed_decides_the_data_not_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "CHUNK", 7)
    one, two, other = (list(generate(SIZES, 2, seed, processes)) for seed, processes in ((0, 1), (0, 2), (1, 1)))
    assert one == two
    assert one != other


def test_stored_expressions_come_back_padded_and_mixed(stored: Path) -> None:
    loaded = load(stored)
    assert {name: len(part) for name, part in loaded.items()} == {name: 2 * size for name, size in SIZES.items()}
    shares = list(generate(SIZES, 2, 0, processes=1))
    for number, part in enumerate(loaded.values()):
        batch = part.batch(torch.arange(len(part)))
        assert batch.tokens.shape[1] == max(batch.lengths.max(), NARROWEST)
        words = [" ".join(VOCABULARY[token] for token in row if token != PADDING) for row in batch.tokens.tolist()]
        assert sorted(words) == sorted(shares[0][number] + shares[1][number])
        assert batch.depths.tolist() != sorted(batch.depths.tolist())
        for text, row in zip(words, range(len(part)), strict=True):
            expression = parse(text.split())
            assert batch.heads[row, : len(expression.heads)].tolist() == expression.heads
            assert (batch.values[row], batch.depths[row]) == (expression.value, expression.depth)
        few = part.batch(batch.lengths.argmin()[None])
        assert few.tokens.shape[1] == few.heads.shape[1] == NARROWEST
        assert few.lengths == batch.lengths.min()


def test_files_in_the_published_form(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("5\t( ( ( [MAX 5 ) 3 ) ] )\n3\t[MAX 2 [MIN 3 9 ] 0 ]\n")
    assert [expression.value for expression in read(path)] == [5, 3]
    assert load(path)["test"].batch(torch.tensor([1])).heads[0, :8].tolist() == [0, 0, 0, 2, 2, 2, 0, 0]
    for text, says in (
        ("5\t[MAX 5 3 ]\n4\t[MAX 5 3 ]\n", "line 2: it comes to 5, the line begins with '4'"),
        ("[MAX 5 3 ]\n", "line 1: there are no words"),
        ("5\t[MAX 5 3\n", "line 1: 1 lists are not closed"),
        ("", "has no lines"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text"):
        load(path)
    for name in ("none.npz", "none.tsv"):
        with pytest.raises(FileNotFoundError, match="make them with: cvxsst data listops"):
            load(tmp_path / name)


# -------------------------------------------------------------------------------------------------- the latent graphs


MIXED = ("[MIN 1 2 ]", EXAMPLE, "[MED 7 [MAX 1 [MIN 2 3 ] ] 4 ]")  # of 4, 8 and 11 tokens


def is_tree(graph: torch.Tensor, undirected: bool) -> bool:
    """By the definition: n - 1 edges, and everything is reached from token 0."""
    n = len(graph)
    reached = torch.eye(n)[0]
    for _ in range(n):
        reached = ((reached @ graph + reached) > 0).float()
    edges = graph.triu().sum() if undirected else graph.sum()
    return bool(reached.all()) and int(edges) == n - 1


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
def test_latent_graphs_of_all_lengths_are_one_batch(edges: Trees) -> None:
    """Each is what it would be alone, by its own utilities; the padding has no part in it."""
    batch = batch_of(*MIXED)
    theta = torch.randn(3, 11, 11, dtype=torch.float64)
    latent = edges.latent(theta, batch.lengths, 0.7)
    w = latent.utilities.sample(torch.Size([2]))
    hard, soft, log_prob = latent.argmax(w), latent.softmax(w), latent.log_prob(w)
    assert hard.shape == soft.shape == (2, 3, 11, 11)
    for row, length in enumerate(batch.lengths.tolist()):
        own = edges.latent(theta[[row], :length, :length], torch.tensor([length]), 0.7)
        pairs = w.dim() == 3  # i < j, row by row
        cut = w[:, [row]][..., torch.triu_indices(11, 11, 1)[1] < length] if pairs else w[:, [row], :length, :length]
        for whole, alone in ((hard, own.argmax(cut)), (soft, own.softmax(cut))):
            assert torch.allclose(whole[:, row, :length, :length], alone[:, 0], atol=1e-6)
            assert not whole[:, row, length:].any()
            assert not whole[:, row, :, length:].any()
        assert torch.allclose(log_prob[:, row], own.log_prob(cut)[:, 0])
        if not isinstance(edges, Independent):
            assert all(is_tree(graph, edges.undirected) for graph in hard[:, row, :length, :length].float())


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
def test_relaxed_graphs_tend_to_the_hard_ones_and_have_gradients(edges: Trees) -> None:
    lengths = torch.tensor([4, 6])
    theta = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)
    latent, cold = edges.latent(theta, lengths, 1.0), edges.latent(theta, lengths, 1e-3)
    w = latent.utilities.rsample(torch.Size([1]))
    z = latent.softmax(w)
    assert ((z >= -1e-9) & (z <= 1 + 1e-9)).all()
    (gradient,) = torch.autograd.grad((z * torch.randn_like(z)).sum(), theta)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    assert not gradient[0, 4:].any()
    assert not gradient[0, :, 4:].any()
    assert (cold.softmax(w.detach()) - cold.argmax(w.detach())).abs().max() <= 1e-2


def test_the_noise_is_as_the_names_say() -> None:
    theta = torch.full((1, 2, 2), 0.7)
    expected = {
        "arborescence": (0.7 + 0.5772, 1.6449),
        "arborescence-gaussian": (0.7, 1.0),
        "arborescence-exponential": (-F.softplus(theta[0, 0, 0]).item(), F.softplus(theta[0, 0, 0]).item() ** 2),
        "independent": (0.7, 3.2899),
    }
    for name, (mean, variance) in expected.items():
        w = EDGES[name].noise(theta).sample(torch.Size([40_000]))
        assert abs(w.mean() - mean) < 0.02 * variance**0.5, name
        assert abs(w.var() / variance - 1) < 0.05, name


def test_an_undirected_edge_has_the_scores_of_both_directions() -> None:
    theta = torch.arange(16.0).reshape(1, 4, 4)
    assert EDGES["spanning-tree"].of_scores(theta).tolist() == [[5, 10, 15, 15, 20, 25]]
    assert torch.equal(EDGES["independent-undirected"].of_scores(theta), theta + theta.mT)


# -------------------------------------------------------------------------------------------------------- the networks


def test_messages_are_those_of_the_definition() -> None:
    """Pair by pair, without the split of the weights, and without the padding."""
    torch.manual_seed(0)
    network, batch = MessagePassing(5).double().eval(), batch_of(*MIXED)
    graph = torch.rand(3, 11, 11, dtype=torch.float64, requires_grad=True)
    logits = network(batch.tokens, graph)
    for row, length in enumerate(batch.lengths.tolist()):
        e = network.embedding(batch.tokens[row, :length])
        for _ in range(STEPS):
            received = torch.zeros_like(e)
            for i in range(length):
                for j in (j for j in range(length) if j != i):
                    message = F.relu(network.message(F.relu(network.ends(torch.cat([e[j], e[i]])))))
                    received[i] = received[i] + graph[row, i, j] * message
            e = e + received
        assert torch.allclose(logits[row], network.classifier(e[0]))


def test_without_a_gradient_only_the_edges_that_are_there_are_looked_at() -> None:
    torch.manual_seed(0)
    network, batch = MessagePassing(5).eval(), batch_of(*MIXED)
    sparse, dense = network(batch.tokens, batch.arcs), network(batch.tokens, batch.arcs.requires_grad_())
    assert torch.allclose(sparse, dense, atol=1e-6)


def test_scores_and_reader_do_not_see_the_padding() -> None:
    torch.manual_seed(0)
    scores, reader, batch = Scores(5).eval(), Reader(5), batch_of(*MIXED)
    theta, read_to_the_end = scores(batch.tokens), reader(batch.tokens)
    e = scores.embedding(batch.tokens)
    assert torch.allclose(theta, scores.head(e)[0] @ scores.dependent(e)[0].mT)
    for row, length in enumerate(batch.lengths.tolist()):
        alone = batch.tokens[[row], :length]
        assert torch.allclose(theta[row, :length, :length], scores(alone)[0], atol=1e-6)
        assert torch.allclose(read_to_the_end[row], reader(alone)[0], atol=1e-6)


def test_every_gradient_reaches_the_scores() -> None:
    batch = batch_of(*MIXED)
    cases = [(edges, "relaxed") for edges in EDGES] + [("arborescence", gradient) for gradient in GRADIENTS]
    for edges, gradient in cases:
        module = ListOps(replace(TINY, edges=edges, gradient=gradient, samples=GRADIENTS[gradient].samples))
        module.loss(batch).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, (edges, gradient, name)
            assert parameter.grad.isfinite().all(), (edges, gradient, name)
            assert parameter.grad.any(), (edges, gradient, name)


def test_what_is_measured(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a graph in which the 9 of the example has the wrong head, and its first "]" too."""
    batch = batch_of(EXAMPLE, "[MIN 1 2 ]")
    module = ListOps(TINY).eval()
    wrong = batch.arcs
    wrong[0, 2, 4], wrong[0, 0, 4], wrong[0, 2, 5], wrong[0, 6, 5] = 0, 1, 0, 1
    monkeypatch.setattr(module, "graphs", lambda _: wrong)
    logits = F.one_hot(torch.tensor([[3, 2]]), 10)
    monkeypatch.setattr(module, "_logits", lambda *_: logits)
    values = module.measure(batch)
    assert values["accuracy"].tolist() == [1, 0]
    assert values["precision"].tolist() == pytest.approx([4 / 5, 1])
    assert values["all/recall"].tolist() == pytest.approx([5 / 7, 1])
    mean = module.summary({name: value.mean() for name, value in values.items()})
    assert (mean["accuracy/1"], mean["accuracy/2"]) == (0, 1)
    assert {name for name in mean if "/" in name} == {"all/precision", "all/recall", "accuracy/1", "accuracy/2"}

    module = ListOps(replace(TINY, edges="spanning-tree")).eval()
    monkeypatch.setattr(module, "graphs", lambda _: batch.arcs + batch.arcs.mT)  # of no direction, that is the truth
    assert module.measure(batch)["precision"].tolist() == [1, 1]


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_run_in_short_pieces_ends_like_an_unbroken_one(stored: Path, tmp_path: Path) -> None:
    parts = load(stored)

    def train(folder: str, minutes: float | None) -> dict | None:
        launch = Launch(minutes=minutes, accelerator="cpu")
        return training.train(ListOps, TINY, parts, tmp_path / folder, launch, progress=False)

    unbroken = train("unbroken", None)
    assert unbroken is not None
    assert train("pieces", 1e-6) is None
    resumed = train("pieces", None)
    assert resumed is not None
    assert resumed["test"] == unbroken["test"]
    assert resumed["history"] == unbroken["history"]
    one, other = (torch.load(tmp_path / name / training.LAST, weights_only=True) for name in ("unbroken", "pieces"))
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])


def test_the_commands_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "SMALL", SIZES)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, [*arguments])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    made = run("data", "listops", "--small", "--deepest", "2", "--processes", "1")
    assert "48 expressions" in made
    assert "checksum" in made
    for edges in ("arborescence", "spanning-tree", LSTM, TRUE):
        given = ["--edges", edges, "--steps", "2", "--batch-size", "4", "--hidden", "6", "--accelerator", "cpu"]
        assert ("recall" in run("train", "listops", *given)) == (edges != LSTM)
    shown = run("table", "listops", "out/listops", "--markdown", "--pictures", "pictures")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if line[:2] == "| "]
    assert [row[0] for row in rows[2:]] == ["LSTM", "Spanning tree", "Arborescence, Gumbel", "Ground-truth edges"]
    assert [row[1] for row in rows[2:]] == ["", "relaxed", "relaxed", ""]
    (tested,) = (result["test"] for result in results([Path("out/listops")]) if result["config"]["edges"] == TRUE)
    assert rows[-1][2] == f"{100 * tested['accuracy']:.1f}"
    assert rows[-1][3:5] == ["100.0", "100.0"]
    assert rows[-1][-3:] == ["98.1 ± 0.1", "100", "100"]
    assert rows[2][3:5] == ["", ""]
    for name in ("depths", "arcs"):
        assert Path(f"pictures/{name}.png").stat().st_size > 5000

    Path("own.tsv").write_text(f"3\t{EXAMPLE}\n2\t( [MAX 1 2 ] )\n")
    (folder,) = Path("out/listops").glob("ground-truth*")
    assert "precision 100.00 %" in run("test", "listops", str(folder), "--data", "own.tsv")
    refused = CliRunner().invoke(cli.app, ["train", "listops", "--data", "own.tsv"])
    assert re.search(r"own.tsv has no (train, valid|valid, train) part; make one with", str(refused.exception))
    again = CliRunner().invoke(cli.app, ["data", "listops", "--small"])
    assert "is there already" in str(again.exception)
    named = CliRunner().invoke(cli.app, ["data", "listops", "--output", "expressions.txt"])
    assert "must end in .npz" in str(named.exception)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edges": "tree"}, "edges: 'tree' is not one of lstm, independent-undirected"),
        ({"gradient": "exact"}, "gradient: 'exact' is not one of relaxed"),
        ({"weight_decay": 0.0}, "weight_decay: 0.0 is not positive"),
        ({"gradient": "reinforce-loo", "samples": 1}, "samples: reinforce-loo needs at least 2"),
    ],
)
def test_bad_settings_are_refused(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(TINY, **change)


def test_published_results_are_complete() -> None:
    for result in results([report.COMMITTED]):
        assert Config(**result["config"])
        assert result["history"][-1]["step"] == result["config"]["steps"]
        assert result["config"]["edges"] in LABELS
        assert json.dumps(result["test"])

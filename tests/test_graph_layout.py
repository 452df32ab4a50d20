"""The layouts, the networks, the edge distributions and the numbers of the graph layout experiment."""

import itertools
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Gumbel

from experiments.graph_layout import data
from experiments.graph_layout.data import FRAMES, NODES, generate, load, save
from experiments.graph_layout.edges import EDGES, Edges, kl_to_prior
from experiments.graph_layout.model import (
    VARIANCE,
    Decoder,
    Encoder,
    negative_log_likelihood,
)
from experiments.runs.graphs import precision_and_recall

SIZES = {"train": 6, "valid": 3, "test": 2}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layouts") / "layouts.npz"
    save(path, *arrays(seed=3), SIZES, seed=3)
    return path


def arrays(seed: int, processes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    pieces = generate(SIZES, seed, processes)
    _, trees = next(pieces)
    return np.concatenate([frames for _, frames in pieces]), trees


def edges_of(tree: np.ndarray) -> list[tuple[int, int]]:
    return [pair for pair, present in zip(itertools.combinations(range(NODES), 2), tree, strict=True) if present]


def test_layouts_are_of_trees_and_every_frame_is_a_step_of_springs_from_the_last() -> None:
    frames, trees = arrays(seed=0)
    assert frames.shape == (11, FRAMES, NODES, 2)
    for tree, trajectory in zip(trees, frames, strict=True):
        graph = nx.empty_graph(NODES)
        graph.add_edges_from(edges_of(tree))
        assert nx.is_tree(graph)
        for frame, following in itertools.pairwise(trajectory.astype(float)):
            step = nx.spring_layout(graph, pos=dict(enumerate(frame)), iterations=1, threshold=1e-10)
            np.testing.assert_allclose([step[node] for node in range(NODES)], following, atol=1e-5)


def test_the_seed_decides_the_layouts_not_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "CHUNK", 4)
    one, two, other = arrays(0), arrays(0, processes=2), arrays(1)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_stored_layouts_come_back_scaled_and_split(layouts: Path) -> None:
    frames, trees = arrays(seed=3)
    loaded = load(layouts, 7)
    assert {name: len(part) for name, part in loaded.items()} == SIZES
    assert loaded["train"].positions.shape == (6, NODES, 7, 2)
    low, high = loaded["train"].positions.aminmax()
    assert low == -1
    assert high == 1
    scale = 2 / (frames[:6, :7].max() - frames[:6, :7].min())
    steps = np.diff(frames[9:, :7], axis=1).swapaxes(1, 2) * scale  # the rest of the affine map cancels
    np.testing.assert_allclose(loaded["test"].positions.diff(dim=2), steps, atol=1e-5)
    np.testing.assert_array_equal(loaded["valid"].trees, trees[6:9])


def test_the_training_set_decides_the_scale(tmp_path: Path) -> None:
    frames = np.zeros((3, FRAMES, NODES, 2), dtype=np.float32)
    frames[0, 0, 0], frames[1], frames[2] = (0, 2), 3, -5
    trees = np.zeros((3, 45), dtype=np.uint8)
    save(tmp_path / "wide.npz", frames, trees, {"train": 1, "valid": 1, "test": 1}, seed=0)
    loaded = load(tmp_path / "wide.npz", FRAMES)  # x -> x - 1 takes [0, 2] to [-1, 1]
    assert loaded["train"].positions[0, 0, 0].tolist() == [-1, 1]
    assert (loaded["valid"].positions == 2).all()
    assert (loaded["test"].positions == -6).all()


def test_layouts_that_are_missing_damaged_or_too_short(tmp_path: Path, layouts: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make them with: cvxsst data graph-layout"):
        load(tmp_path / "none.npz", 10)
    with pytest.raises(ValueError, match="length: 21 frames"):
        load(layouts, 21)
    (tmp_path / "short.npz").write_bytes(layouts.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"not a file of layouts .* delete it"):
        load(tmp_path / "short.npz", 10)
    with np.load(layouts) as stored:
        contents = dict(stored)
    for part in ("frames", "trees"):
        changed = contents[part].copy()
        changed.flat[0] += 1
        with (tmp_path / "changed.npz").open("wb") as file:
            np.savez(file, **contents | {part: changed})
        with pytest.raises(ValueError, match="damaged: its checksum"):
            load(tmp_path / "changed.npz", 10)


# ------------------------------------------------------------------------------------------------------------ networks


def test_the_encoder_is_the_one_on_concatenated_pairs() -> None:
    """Against the definition, pair by pair, without the split of the weights."""
    torch.manual_seed(0)
    encoder = Encoder(nodes=4, length=3, width=5, outputs=2).double().eval()
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64)

    def block(module, inputs):
        return module.norm(F.elu(module.second(F.elu(module.first(inputs)))))

    ends = list(itertools.permutations(range(4), 2))
    nodes = block(encoder.node_in, x.flatten(2))
    skip = {(i, j): block(encoder.pair_in, torch.cat([nodes[:, i], nodes[:, j]], -1)) for i, j in ends}
    summed = torch.stack([sum(skip[i, j] for i in range(4) if i != j) / 4 for j in range(4)], 1)
    nodes = block(encoder.node, summed)
    theta = encoder(x)
    for i, j in ends:
        last = block(encoder.pair, torch.cat([nodes[:, i], nodes[:, j], skip[i, j]], -1))
        assert torch.allclose(theta[:, :, i, j], encoder.out(last))
    assert not theta.diagonal(dim1=2, dim2=3).any()


def test_the_decoder_is_the_one_on_concatenated_pairs() -> None:
    torch.manual_seed(0)
    decoder = Decoder(types=2, width=5).double()
    x, graph = torch.randn(3, 4, 2, dtype=torch.float64), torch.rand(3, 2, 4, 4, dtype=torch.float64)
    graph = graph * (1 - torch.eye(4))
    received = torch.zeros(3, 4, 5, dtype=torch.float64)
    for (i, j), kind in itertools.product(itertools.permutations(range(4), 2), range(2)):
        message = F.relu(decoder.messages[kind](F.relu(decoder.ends[kind](torch.cat([x[:, i], x[:, j]], -1)))))
        received[:, j] += graph[:, kind, i, j, None] * message
    assert torch.allclose(decoder(x, graph), decoder.out(torch.cat([x, received], -1)))


def test_prediction_starts_again_from_a_true_frame_every_so_often() -> None:
    torch.manual_seed(0)
    decoder = Decoder(types=2, width=5)
    x, graph = torch.randn(2, 4, 8, 2), torch.rand(2, 2, 4, 4)
    predictions = decoder.predict(x, graph, 3)
    assert predictions.shape == (2, 4, 7, 2)
    for t in range(7):
        before = x[:, :, t] if t % 3 == 0 else predictions[:, :, t - 1]
        assert torch.allclose(predictions[:, :, t], before + decoder(before, graph), atol=1e-6)


def test_the_networks_do_not_know_the_numbers_of_the_nodes() -> None:
    torch.manual_seed(0)
    encoder, decoder, order = Encoder(5, 3, 6, 1), Decoder(2, 6), torch.randperm(5)
    x = torch.randn(7, 5, 3, 2)
    theta = encoder(x)
    assert torch.allclose(encoder(x[:, order]), theta[:, :, order][..., order], atol=1e-5)
    graph = torch.rand(7, 2, 5, 5)
    moved = decoder(x[:, order, 0], graph[:, :, order][..., order])
    assert torch.allclose(moved, decoder(x[:, :, 0], graph)[:, order], atol=1e-5)


def test_likelihood_precision_and_recall_are_as_defined() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 2)
    predicted = x[:, :, 1:] + 0.01
    expected = 3 * 3 * 2 * 0.01**2 / (2 * VARIANCE) / 3
    assert torch.allclose(negative_log_likelihood(predicted, x), torch.full((2,), expected), rtol=1e-4)

    truth = torch.tensor([[0, 1, 1], [1, 0, 0], [1, 0, 0]]).float().expand(2, 3, 3)
    found = torch.tensor([[[0, 1, 0], [1, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]]).float()
    precision, recall = precision_and_recall(found, truth)
    assert precision.tolist() == pytest.approx([2 / 3, 0])
    assert recall.tolist() == pytest.approx([2 / 4, 0])


# -------------------------------------------------------------------------------------------------- edge distributions


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
def test_relaxed_graphs_are_weights_of_two_types_and_hard_ones_are_graphs(edges: Edges) -> None:
    torch.manual_seed(0)
    theta = edges.symmetric(torch.randn(3, edges.outputs, 6, 6) * (1 - torch.eye(6))).requires_grad_()
    for q in (edges.softmax(theta, 1.5), edges.softmax(theta, 1.5, hard=True), edges.argmax(theta)):
        z = q.sample((4,))
        graph = edges.graph(z, 6)
        assert graph.shape == (4, 3, 2, 6, 6)
        assert torch.allclose(graph.sum(2), (1 - torch.eye(6)).expand(4, 3, 6, 6), atol=1e-5)
        if edges.directed:
            continue
        assert torch.equal(graph, graph.mT)
        assert torch.allclose(graph[:, :, 1].sum((2, 3)), torch.tensor(10.0), atol=1e-4)
        if "tree" in edges.label and not z.frac().any():
            assert all(nx.is_tree(nx.from_numpy_array(one.numpy())) for one in graph[:, :, 1].flatten(0, 1))
    relaxed = edges.graph(edges.softmax(theta, 1.5).rsample(), 6)
    (gradient,) = torch.autograd.grad((relaxed * torch.randn_like(relaxed)).sum(), theta)
    assert gradient.abs().sum() > 0
    assert not gradient.diagonal(dim1=2, dim2=3).any()


def test_symmetric_scores_are_means_and_directed_ones_stay() -> None:
    theta = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert EDGES["top-k"].symmetric(theta)[0, 0, 0, 1] == 2.0
    both = torch.arange(18.0).reshape(1, 2, 3, 3)
    assert EDGES["independent"].symmetric(both) is both


def test_a_likely_edge_is_where_its_score_is() -> None:
    theta = torch.zeros(1, 1, 4, 4)
    theta[0, 0, 1, 3] = theta[0, 0, 3, 1] = 50
    for name in ("top-k", "spanning-tree"):
        assert EDGES[name].graph(EDGES[name].argmax(theta).sample(), 4)[0, 1, 1, 3] == 1
    both = torch.zeros(1, 2, 4, 4)
    both[0, 1, 1, 3] = 50
    graph = EDGES["independent"].graph(EDGES["independent"].argmax(both).sample(), 4)
    assert graph[0, 1, 1, 3] == 1
    assert graph[0, 0, 1, 3] == 0


def test_divergence_against_an_integral_by_sampling() -> None:
    torch.manual_seed(0)
    theta = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    theta[0, 0, 0, 1], theta[0, 0, 1, 2] = 1.3, -0.8
    q, p = Gumbel(theta, 1.0), Gumbel(torch.zeros_like(theta), 1.0)
    u = q.sample((200_000,))
    ratios = (q.log_prob(u) - p.log_prob(u)).sum((1, 2, 3, 4)) / 3
    assert abs(ratios.mean() - kl_to_prior(theta)) < 4 * ratios.std() / len(ratios) ** 0.5
    assert kl_to_prior(torch.zeros(1, 1, 3, 3)).item() == pytest.approx(0, abs=1e-6)

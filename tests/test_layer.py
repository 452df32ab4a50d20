"""SoftmaxLayer: a module like any other."""

import copy
import io
import pickle

import cvxpy as cp
import pytest
import torch

import cvxsst
import polytopes


def test_layer_is_the_function_and_survives_pickle_copy_and_state() -> None:
    layer = cvxsst.SoftmaxLayer(polytopes.birkhoff(3), cvxsst.CategoricalEntropy(), 0.5)
    w = torch.randn(2, 3, 3)
    expected = cvxsst.softmax(polytopes.birkhoff(3), w, cvxsst.CategoricalEntropy(), 0.5)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = [layer, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), torch.load(buffer, weights_only=False)]
    for other in copies:
        assert torch.equal(other(w), expected)
        assert other.P is layer.P
    fresh = cvxsst.SoftmaxLayer(polytopes.birkhoff(3), cvxsst.CategoricalEntropy(), 1.0)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(w), expected)


def test_layer_of_an_ad_hoc_polytope_travels_by_value() -> None:
    z = cp.Variable(3)
    layer = cvxsst.SoftmaxLayer(cvxsst.Polytope(z, [cp.norm1(z) <= 1], name="cross"))
    w = torch.randn(4, 3)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert torch.equal(other(w), layer(w))


def test_layer_moves_and_trains_its_temperature() -> None:
    temperature = torch.nn.Parameter(torch.tensor(0.5))
    layer = cvxsst.SoftmaxLayer(polytopes.simplex(3), cvxsst.CategoricalEntropy(), temperature)
    assert list(layer.parameters()) == [temperature]
    layer = layer.double()
    w = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    layer(w)[0].backward()
    assert layer.temperature.grad is not None
    assert layer.temperature.grad < 0  # warmer: less of the best entry
    assert "simplex(3)" in repr(layer)
    fixed = cvxsst.SoftmaxLayer(polytopes.simplex(3), temperature=0.5).to(torch.float32)
    assert fixed.temperature.dtype == torch.float32
    assert list(fixed.parameters()) == []


def test_layer_checks_its_arguments_when_built() -> None:
    with pytest.raises(ValueError, match="no fast path"):
        cvxsst.SoftmaxLayer(polytopes.spanning_tree(4), engine="fast")
    with pytest.raises(ValueError, match="positive"):
        cvxsst.SoftmaxLayer(polytopes.simplex(3), temperature=0.0)
    with pytest.raises(TypeError, match="family"):
        cvxsst.SoftmaxLayer(polytopes.simplex)  # type: ignore[arg-type]


def test_layer_in_a_network_trains() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), cvxsst.SoftmaxLayer(polytopes.simplex(3)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    x, target = torch.randn(8, 4), torch.eye(3)[torch.arange(8) % 3]
    losses = []
    for _ in range(10):
        loss = ((network(x) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [({"backward": "foo"}, "backward"), ({"on_failure": "foo"}, "on_failure"), ({"engine": "foo"}, "engine")],
)
def test_wrong_options_are_refused_at_once(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cvxsst.SoftmaxLayer(polytopes.birkhoff(3), **options)


def test_a_regularizer_beyond_its_domain_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="defined for"):
        cvxsst.SoftmaxLayer(polytopes.permutahedron(3), cvxsst.BinaryEntropy())


def test_the_temperature_is_a_copy() -> None:
    T = torch.tensor(1.0, dtype=torch.float64)
    layer = cvxsst.SoftmaxLayer(polytopes.simplex(2), temperature=T)
    T.fill_(5.0)
    assert layer.temperature.item() == 1.0

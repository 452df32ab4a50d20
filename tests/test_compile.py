"""``torch.compile``: the maps are opaque, a compiled model computes what the model does."""

import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import cvxpy as cp
import pytest
import torch

import cvxsst
import polytopes

pytestmark = [  # torch's own, which it hides by other means than the filter that makes errors of warnings
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

BACKENDS = ["eager", "aot_eager"]
if shutil.which("g++"):
    BACKENDS.append("inductor")


class Complaints(logging.Handler):
    """What the compiler logs at the level of a warning or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    import torch._dynamo  # sets its loggers up

    torch._dynamo.reset()
    handler = Complaints()
    loggers = [logging.getLogger(name) for name in ("torch", "torch._dynamo", "torch._inductor", "torch._functorch")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.lines
    for logger in loggers:
        logger.removeHandler(handler)


def truncated() -> cvxsst.Polytope:
    z = cp.Variable(3)
    return cvxsst.Polytope(z, [z >= 0, cp.sum(z) <= 2, z <= 1.5], name="truncated")


CASES = {
    "fast": (polytopes.k_subset(6, 2), cvxsst.CategoricalEntropy()),
    "enumeration": (polytopes.birkhoff(3), cvxsst.ExponentialFamily()),
    "generic": (truncated(), cvxsst.Euclidean()),
}


def value_and_gradients(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    weights = torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad((weights * y).sum(), [x, *model.parameters()])]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_a_compiled_network_with_a_layer_is_the_network(case: str, backend: str, complaints: list[str]) -> None:
    P, f = CASES[case]
    temperature = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    network = torch.nn.Sequential(
        torch.nn.Linear(4, P.size),
        torch.nn.Tanh(),
        torch.nn.Unflatten(1, P.shape),
        cvxsst.SoftmaxLayer(P, f, temperature),
        torch.nn.Flatten(),
        torch.nn.Linear(P.size, 2),
    ).double()
    compiled = torch.compile(network, backend=backend)
    start = time.perf_counter()
    for batch in (3, 5):
        x = torch.randn(batch, 4, dtype=torch.float64)
        for ours, expected in zip(value_and_gradients(compiled, x), value_and_gradients(network, x), strict=True):
            torch.testing.assert_close(ours, expected)
    assert time.perf_counter() - start < 60
    assert complaints == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_function_of_both_maps_is_the_function(backend: str, complaints: list[str]) -> None:
    P, f = CASES["fast"]

    def function(w: torch.Tensor) -> torch.Tensor:
        u = 3 * torch.tanh(w)
        soft, info = cvxsst.softmax(P, u, f, 0.5, return_info=True)
        return soft * cvxsst.argmax(P, w) + cvxsst.argmax(P, u, engine="lp") * w + info.converged[..., None]

    compiled = torch.compile(function, backend=backend)
    for shape in ((6,), (4, 6), (7, 6), (2, 3, 6)):
        w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        ours, expected = compiled(w), function(w)
        torch.testing.assert_close(ours, expected)
        gradients = [torch.autograd.grad(z.square().sum(), w)[0] for z in (ours, expected)]
        torch.testing.assert_close(*gradients)
    assert complaints == []


def run(program: str) -> str:
    """What a program prints, in a process of its own."""
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stderr


def test_many_polytopes_in_one_compiled_program() -> None:
    """The library's own frames are not compiled, so no limit on recompilations is met in them."""
    told = run(
        """
import torch, cvxsst, polytopes
@torch.compile(backend="eager")
def step(P, w):
    return cvxsst.softmax(P, w + 1) * cvxsst.argmax(P, w)
for n in range(3, 9):
    for batch in ((), (2,), (3, 4)):
        for dtype in (torch.float32, torch.float64):
            step(polytopes.simplex(n), torch.randn(*batch, n, dtype=dtype))
"""
    )
    assert told == ""


def test_errors_pass_through_a_compiled_program(complaints: list[str]) -> None:
    compiled = torch.compile(lambda w: 2 * cvxsst.softmax(polytopes.simplex(3), w + 1), backend="eager")
    with pytest.raises(ValueError, match="nan at index"):
        compiled(torch.tensor([0.0, torch.nan, 0.0]))


@pytest.mark.parametrize("inside", [False, True], ids=["softmax", "Family.__call__"])
def test_fullgraph_says_why_it_cannot(request: pytest.FixtureRequest, inside: bool, complaints: list[str]) -> None:
    P = polytopes.simplex(3)

    @torch.compile(backend="eager", fullgraph=True)
    def compiled(w: torch.Tensor) -> torch.Tensor:
        return 2 * cvxsst.softmax(polytopes.simplex(3) if inside else P, w)

    name = request.node.callspec.id
    with pytest.raises(RuntimeError, match=rf"cvxsst\.{name} runs outside of the graph.* use fullgraph=False"):
        compiled(torch.zeros(3))


def test_the_compiler_is_not_imported_where_nothing_is_compiled() -> None:
    run(
        """
import sys, torch, cvxsst, polytopes
P = polytopes.simplex(3)
cvxsst.softmax(P, torch.zeros(3)), cvxsst.argmax(P, torch.zeros(3)), cvxsst.SoftmaxLayer(P)(torch.zeros(3))
assert "torch._dynamo" not in sys.modules
"""
    )

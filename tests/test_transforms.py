"""``torch.func`` over the maps: vmap is the batch, errors name instances by all dimensions; tensors without values."""

from collections.abc import Callable

import pytest
import torch
from torch.func import grad, jacrev, jvp, vmap

import cvxsst
import polytopes
from cvxsst.autograd import SymmetricSystem

P = polytopes.k_subset(5, 2)
ENGINES = ["lp", "fast", "enumeration", "auto"]


def utilities(masked: bool) -> torch.Tensor:
    """Of two batch dimensions."""
    w = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if masked:
        w[..., 1] = -torch.inf
        w[0, 0, 2] = -torch.inf
    return w


@pytest.mark.parametrize("masked", [False, True], ids=["finite", "masked"])
@pytest.mark.parametrize("engine", ENGINES)
def test_vmap_over_an_argmax_is_the_batch(engine: str, masked: bool) -> None:
    w = utilities(masked)
    f: Callable = lambda x: cvxsst.argmax(P, x, engine=engine)  # noqa: E731
    expected = f(w)
    assert torch.equal(vmap(f)(w), expected)
    assert torch.equal(vmap(vmap(f))(w), expected)
    assert torch.equal(vmap(f, in_dims=1, out_dims=1)(w), expected)
    assert torch.equal(vmap(vmap(f, in_dims=1))(w.movedim(1, 2)), expected)
    assert torch.equal(vmap(f)(w.float()), f(w.float()))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_argmax_is_a_constant_for_all_transforms(engine: str) -> None:
    w = utilities(masked=False)
    f: Callable = lambda x: cvxsst.argmax(P, x, engine=engine)  # noqa: E731
    value: Callable = lambda x: (f(x) * x).sum()  # noqa: E731
    assert torch.equal(grad(value)(w), f(w))  # Danskin: the gradient of the maximum
    assert torch.equal(vmap(vmap(grad(value)))(w), f(w))
    assert torch.equal(jacrev(f)(w[0, 0]), torch.zeros(5, 5, dtype=torch.float64))
    z, dz = jvp(f, (w,), (torch.ones_like(w),))  # type: ignore[misc]
    assert torch.equal(z, f(w))
    assert torch.equal(dz, torch.zeros_like(w))


SYSTEM = SymmetricSystem(lambda f, d: f / d)
OVER_NOTHING: dict[str, Callable] = {
    "argmax": lambda x: cvxsst.argmax(P, x, engine="lp"),
    "softmax, kkt": lambda x: cvxsst.softmax(P, x, engine="kkt"),
    "softmax, fast": lambda x: cvxsst.softmax(P, x, engine="fast"),
    "system": lambda x: SYSTEM(x.flatten()[None], torch.ones(1, x.numel())).reshape(x.shape),
}


@pytest.mark.parametrize("solver", OVER_NOTHING)
def test_vmap_over_nothing_is_the_empty_batch(solver: str) -> None:
    f = OVER_NOTHING[solver]
    for shape in ((0, 5), (0, 3, 5)):
        w = torch.zeros(shape)
        assert torch.equal(vmap(f)(w), w)
        assert torch.equal(vmap(f, in_dims=-2, out_dims=-2)(w.movedim(0, -2)), w.movedim(0, -2))


SOLVERS: dict[str, Callable] = {
    **{f"argmax by {engine}": lambda x, engine=engine: cvxsst.argmax(P, x, engine=engine) for engine in ENGINES},
    **{f"softmax by {name}": lambda x, name=name: cvxsst.softmax(P, x, engine=name) for name in ("fast", "kkt")},
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_wrong_is_named_by_all_dimensions(solver: str) -> None:
    f = SOLVERS[solver]
    empty, nan = utilities(masked=True), utilities(masked=False)
    empty[1, 2] = empty[3, 0] = -torch.inf
    nan[1, 2, 4] = torch.nan
    for mapped in (f, vmap(f), vmap(vmap(f))):
        with pytest.raises(cvxsst.EmptyPolytopeError, match=r"of instances \(1, 2\), \(3, 0\) forbid every structure"):
            mapped(empty)
        with pytest.raises(ValueError, match=r"nan at index \(1, 2, 4\)"):
            mapped(nan)
    with pytest.raises(cvxsst.EmptyPolytopeError, match="w: the -inf entries forbid every structure"):
        f(empty[1, 2])


def test_entries_that_can_be_negative_are_named_under_vmap() -> None:
    import cvxpy as cp

    z = cp.Variable(3)
    cross = cvxsst.Polytope(z, [cp.norm1(z) <= 1])
    w = torch.zeros(2, 3)
    w[1, 2] = -torch.inf
    for mapped in (lambda x: cvxsst.argmax(cross, x), vmap(lambda x: cvxsst.argmax(cross, x))):
        with pytest.raises(ValueError, match="entries 2 can be negative"):
            mapped(w)


def test_failures_are_named_under_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    from cvxsst.engines import ENGINES as REGISTERED
    from cvxsst.engines import Engine, Solution

    class Doubtful(Engine[None]):
        """Never sure of what has a positive first utility."""

        name = "doubtful"

        def refusal(self, P, f):
            return None

        def prepare(self, P, f):
            return None

        def solve(self, state, u, forbidden):
            return Solution(torch.zeros_like(u), u[:, 0] <= 0, u[:, 0].abs())

        def times_jacobian(self, state, g, at):
            return g

    monkeypatch.setitem(REGISTERED, "doubtful", Doubtful())
    w = -torch.ones(4, 3, 5)
    w[2, 1, 0], w[3, 2, 0] = 0.25, 0.5
    f: Callable = lambda x: cvxsst.softmax(P, x, engine="doubtful")  # noqa: E731
    for mapped in (f, vmap(f), vmap(vmap(f))):
        with pytest.raises(cvxsst.ConvergenceError, match=r"residuals 2\.5e-01, 5\.0e-01\)") as caught:
            mapped(w)
        assert caught.value.instances == [(2, 1), (3, 2)]


WITHOUT_VALUES = {
    "meta": (lambda x: x.to("meta"), "on the meta device has no values"),
    "sparse": (
        lambda x: x.to_sparse(),
        r"expected a dense tensor, got one of layout torch.sparse_coo; use {}\.to_dense",
    ),
}


@pytest.mark.parametrize("kind", WITHOUT_VALUES)
def test_tensors_without_plain_values_are_refused(kind: str) -> None:
    made, says = WITHOUT_VALUES[kind]
    w, T = torch.zeros(3, 5), torch.ones(3)
    calls: dict[str, tuple[str, Callable]] = {
        "argmax": ("w", lambda: cvxsst.argmax(P, made(w))),
        "softmax": ("w", lambda: cvxsst.softmax(P, made(w))),
        "temperature": ("temperature", lambda: cvxsst.softmax(P, w, temperature=made(T))),
        "layer": ("temperature", lambda: cvxsst.SoftmaxLayer(P, temperature=made(T))),
        "certificate": ("w", lambda: cvxsst.certificate(P, w, made(w), cvxsst.Euclidean())),
        "candidate": ("z", lambda: cvxsst.certificate(P, made(w), w, cvxsst.Euclidean())),
    }
    for argument, call in calls.values():
        with pytest.raises(TypeError, match=f"^{argument}: .*{says.format(argument)}"):
            call()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_nested_tensors_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(5), torch.zeros(5)])
    with pytest.raises(TypeError, match=r"w: .* nested one; pad it with w\.to_padded_tensor"):
        cvxsst.softmax(P, nested)

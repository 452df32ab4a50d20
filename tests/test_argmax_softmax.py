"""The public functions argmax and softmax: arguments, errors, failures, information."""

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
import polytopes
from cvxsst import BinaryEntropy, CategoricalEntropy, ConvergenceError, Custom, EmptyPolytopeError, Euclidean

from .table import POLYTOPES, all_vertices, utilities


def square() -> cvxsst.Polytope:
    z = cp.Variable((2, 2))
    return cvxsst.Polytope(z, [z >= 0, cp.sum(z, axis=0) == 1, cp.sum(z, axis=1) == 1], name="square")


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
@pytest.mark.parametrize("engine", ["auto", "lp", "enumeration"])
def test_argmax_is_the_best_vertex(P: cvxsst.Polytope, engine: str, generator: torch.Generator) -> None:
    V = all_vertices(P).reshape(-1, P.size)
    w = torch.cat([utilities(P, 20, generator=generator), torch.zeros(1, *P.shape, dtype=torch.float64)])
    ties = torch.randint(-1, 2, (10, *P.shape), generator=generator).double()
    w = torch.cat([w, ties])
    z = cvxsst.argmax(P, w, engine=engine)
    flat, u = z.reshape(-1, P.size), w.reshape(-1, P.size)
    assert ((flat * u).sum(1) - (u @ V.T).amax(1)).abs().max() <= 1e-8
    nearest = (flat[:, None, :] - V[None]).abs().amax(2).amin(1)
    assert nearest.max() <= 1e-8  # a vertex, also where several are optimal
    assert torch.equal(z, cvxsst.argmax(P, w, engine=engine))


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
def test_inference_mode_changes_nothing(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    w = utilities(P, 3, generator=generator)
    expected = cvxsst.argmax(P, w), cvxsst.softmax(P, w)
    with torch.inference_mode():
        made_inside = w.clone()
        assert torch.equal(cvxsst.argmax(P, made_inside), expected[0])
        assert torch.equal(cvxsst.softmax(P, made_inside), expected[1])


def test_argmax_keeps_dtype_batch_and_has_no_gradient() -> None:
    P = square()
    w = torch.randn(2, 1, 2, 2, requires_grad=True)
    z = cvxsst.argmax(P, w)
    assert z.dtype == torch.float32
    assert z.shape == w.shape
    assert not z.requires_grad
    assert cvxsst.argmax(P, torch.zeros(0, 2, 2)).shape == (0, 2, 2)


def test_argmax_avoids_forbidden_entries_at_any_price() -> None:
    P = polytopes.birkhoff(3)
    w = torch.tensor([[-torch.inf, 0.0, -1e6], [5.0, 5.0, -torch.inf], [0.0, -1e5, 0.0]])
    for engine in ("auto", "lp", "enumeration"):
        z = cvxsst.argmax(P, w, engine=engine)
        assert z[0, 0] == 0
        assert z[1, 2] == 0
        assert torch.equal(z, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


@pytest.mark.parametrize(
    ("w", "error", "says"),
    [
        (torch.zeros(2, 2, dtype=torch.long), TypeError, "floating point"),
        (torch.zeros(2, 2, dtype=torch.complex64), TypeError, "floating point"),
        (np.zeros((2, 2)), TypeError, "torch.Tensor"),
        (torch.zeros(2, 3), ValueError, r"\(2, 2\)"),
        (torch.zeros(2), ValueError, r"\(2, 2\)"),
        (torch.tensor([[0.0, torch.nan], [0.0, 0.0]]), ValueError, r"index \(0, 1\)"),
        (torch.tensor([[0.0, 0.0], [torch.inf, 0.0]]), ValueError, r"inf at index \(1, 0\)"),
    ],
    ids=["integer", "complex", "numpy", "shape", "few", "nan", "inf"],
)
def test_bad_utilities_are_refused_by_both(w, error: type, says: str) -> None:
    for function in (cvxsst.argmax, cvxsst.softmax):
        with pytest.raises(error, match=says) as caught:
            function(square(), w)
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": 0.0}, "positive"),
        ({"temperature": -1}, "positive"),
        ({"temperature": float("nan")}, "positive"),
        ({"temperature": "1"}, "float or a tensor"),
        ({"temperature": torch.tensor([1.0, 0.0])}, "positive"),
        ({"temperature": torch.ones(3)}, "broadcast"),
        ({"temperature": torch.tensor(1)}, "floating"),
        ({"temperature": 1e-300, "w": 1e200}, "overflows"),
        ({"regularizer": Euclidean}, r"Euclidean\(\)"),
        ({"regularizer": "entropy"}, "regularizer"),
        ({"engine": "magic"}, "'cvxpylayer'"),
        ({"engine": "fast", "regularizer": cvxsst.Tsallis(1.5)}, "no fast path"),
        ({"engine": "enumeration"}, "exponential family"),
        ({"engine": "cvxpylayer", "regularizer": cvxsst.ExponentialFamily()}, "enumeration"),
        ({"backward": "magic"}, "implicit"),
        ({"on_failure": "ignore"}, "nan"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict, says: str) -> None:
    w = torch.full((2, 2, 2), options.pop("w", 0.0), dtype=torch.float64)
    w[..., 0] *= 2
    with pytest.raises(ValueError, match=says):
        cvxsst.softmax(square(), w, **options)


def test_polytope_argument_is_checked() -> None:
    with pytest.raises(TypeError, match="family"):
        cvxsst.softmax(polytopes.birkhoff, torch.zeros(2, 2))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="Polytope"):
        cvxsst.argmax("square", torch.zeros(2, 2))  # type: ignore[arg-type]


def test_entropy_beyond_its_domain_is_refused() -> None:
    z = cp.Variable(2)
    P = cvxsst.Polytope(z, [cp.norm_inf(z) <= 2])
    with pytest.raises(ValueError, match="entries 0, 1"):
        cvxsst.softmax(P, torch.zeros(2), CategoricalEntropy())
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        cvxsst.softmax(P, torch.zeros(2), BinaryEntropy())


def test_infinities_that_forbid_everything_are_named_and_spoil_nothing() -> None:
    P = polytopes.birkhoff(3)
    w = torch.randn(4, 3, 3, requires_grad=True)
    with torch.no_grad():
        w[2, :, 1] = -torch.inf
    for regularizer in (Euclidean(), CategoricalEntropy(), cvxsst.ExponentialFamily()):
        with pytest.raises(EmptyPolytopeError, match=r"\(2,\)"):
            cvxsst.softmax(P, w, regularizer)
        z, info = cvxsst.softmax(P, w, regularizer, on_failure="nan", return_info=True)
        (gradient,) = torch.autograd.grad((z * torch.arange(9.0).reshape(3, 3)).sum(), w)
        others = [0, 1, 3]
        assert z[2].isnan().all()
        assert gradient[2, :, [0, 2]].isnan().all()
        assert (gradient[2, :, 1] == 0).all()  # forbidden entries have none
        assert info.converged.tolist() == [True, True, False, True]
        assert torch.equal(z[others], cvxsst.softmax(P, w[others], regularizer))
        assert torch.isfinite(gradient[others]).all()
    with pytest.raises(EmptyPolytopeError, match=r"\(2,\)"):
        cvxsst.argmax(P, w)


def test_minus_infinity_where_zero_is_not_the_least_value_is_refused() -> None:
    z = cp.Variable(2)
    P = cvxsst.Polytope(z, [cp.norm_inf(z) <= 2])
    w = torch.tensor([0.0, -torch.inf])
    for function in (cvxsst.argmax, cvxsst.softmax):
        with pytest.raises(ValueError, match="least value"):
            function(P, w)


def test_failed_solves_are_named_marked_and_spoil_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver that returns nonsense for some instances, raises for others, and says nothing of either."""
    from cvxsst.engines import cvxpylayer

    honest = cvxpylayer._answers

    def lying(layer, u):
        if (np.abs(u) > 100).any():
            raise RuntimeError("solver failure")
        answers = honest(layer, u)
        wrong = np.abs(u).max(1) > 50
        answers[0][wrong] = 0.25
        for dual in answers[1:]:
            dual[wrong] = 0.0
        return answers

    monkeypatch.setattr(cvxpylayer, "_answers", lying)
    z = cp.Variable(4)
    P = cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 1])
    w = torch.randn(2, 3, 4, dtype=torch.float64)
    w[0, 1, 0] += 90.0
    w[1, 2, 3] += 1000.0
    with pytest.raises(ConvergenceError, match=r"\(0, 1\), \(1, 2\)") as caught:
        cvxsst.softmax(P, w, CategoricalEntropy(), engine="cvxpylayer")
    assert caught.value.instances == [(0, 1), (1, 2)]
    leaf = w.clone().requires_grad_()
    out, info = cvxsst.softmax(P, leaf, CategoricalEntropy(), engine="cvxpylayer", on_failure="nan", return_info=True)
    assert info.converged.tolist() == [[True, False, True], [True, True, False]]
    assert torch.equal(out.isnan().all(-1), ~info.converged)
    monkeypatch.undo()
    ok = info.converged
    assert (out[ok] - torch.softmax(w[ok], -1)).abs().max() <= 1e-9
    (gradient,) = torch.autograd.grad(out[..., 0].sum(), leaf)
    assert torch.equal(gradient.isnan().any(-1), ~ok)


def test_info_has_the_shape_of_the_batch() -> None:
    w = torch.randn(3, 2, 2, 2)
    z, info = cvxsst.softmax(square(), w, engine="kkt", return_info=True)
    assert z.shape == w.shape
    assert info.converged.shape == info.residual.shape == info.iterations.shape == (3, 2)
    assert info.converged.all()
    assert info.residual.max() <= 1e-6
    assert info.iterations.dtype == torch.long


def test_temperature_broadcasts_over_the_batch_both_ways() -> None:
    P = square()
    w = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    T = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    z = cvxsst.softmax(P, w, CategoricalEntropy(), T)
    assert z.shape == (4, 3, 2, 2)
    assert (z[2, 1] - cvxsst.softmax(P, w[2, 0], CategoricalEntropy(), 1.0)).abs().max() <= 1e-10


@pytest.mark.parametrize("engine", ["auto", "cvxpylayer"])
def test_closed_forms_on_simplex_cube_and_subsets(engine: str) -> None:
    """Textbook identities: softmax, sigmoid, clip; on k-subsets a common threshold."""
    u = torch.randn(3, 4, dtype=torch.float64) * 2
    simplex, cube, subset = polytopes.simplex(4), polytopes.cube(4), polytopes.k_subset(4, 2)
    close = {"atol": 1e-9, "rtol": 0.0}
    soft = cvxsst.softmax(simplex, u, CategoricalEntropy(), 0.5, engine=engine)
    assert torch.allclose(soft, torch.softmax(u / 0.5, -1), **close)  # type: ignore[arg-type]
    assert torch.allclose(cvxsst.softmax(cube, u, BinaryEntropy(), engine=engine), torch.sigmoid(u), **close)  # type: ignore[arg-type]
    assert torch.allclose(cvxsst.softmax(cube, u, engine=engine), u.clamp(0, 1), **close)  # type: ignore[arg-type]
    z = cvxsst.softmax(subset, u, BinaryEntropy(), engine=engine)
    tau = u - torch.logit(z)
    assert (tau - tau.mean(-1, keepdim=True)).abs().max() <= 1e-6
    assert (z.sum(-1) - 2).abs().max() <= 1e-9


def test_two_subset_marginals_of_the_exponential_family() -> None:
    """Golden values of the conditional Bernoulli law, p = (.3, .6, .5, .2) given two successes."""
    p = torch.tensor([0.3, 0.6, 0.5, 0.2], dtype=torch.float64)
    z = cvxsst.softmax(polytopes.k_subset(4, 2), torch.logit(p), cvxsst.ExponentialFamily())
    assert z.tolist() == pytest.approx([0.3568, 0.7622, 0.6595, 0.2216], abs=5e-5)
    entropic = cvxsst.softmax(polytopes.k_subset(4, 2), torch.logit(p), BinaryEntropy())
    assert (z - entropic).abs().max() > 1e-3  # another map, not to be confused


@pytest.mark.parametrize("T", [1.0, 0.1, 0.05])
def test_low_temperature_gradients_on_birkhoff(T: float, generator: torch.Generator) -> None:
    """Where cone programs lose their gradients: relative error below 1e-5 on Birkhoff(5)."""
    P = polytopes.birkhoff(5)
    w = utilities(P, 12, generator=generator).requires_grad_()
    g = utilities(P, 12, generator=generator)
    (implicit,) = torch.autograd.grad(cvxsst.softmax(P, w, CategoricalEntropy(), T, engine="cvxpylayer"), w, g)
    h = 1e-5 * T
    with torch.no_grad():
        sides = [cvxsst.softmax(P, w + s * h * g, CategoricalEntropy(), T, engine="cvxpylayer") for s in (1, -1)]
    central = (sides[0] - sides[1]) / (2 * h)
    error = (implicit - central).flatten(1).norm(dim=1) / central.flatten(1).norm(dim=1).clamp_min(1e-3 / T)
    assert error.max() <= 1e-5


@pytest.mark.parametrize(
    ("custom", "twin"),
    [
        (Custom(lambda z: cp.sum_squares(z) / 2), Euclidean()),
        (Custom(lambda z: -cp.sum(cp.entr(z))), CategoricalEntropy()),
    ],
    ids=["squares", "entropy"],
)
def test_custom_regularizer_agrees_with_its_builtin_twin(custom: Custom, twin, generator: torch.Generator) -> None:
    P = polytopes.birkhoff(3)
    w = utilities(P, 4, generator=generator).requires_grad_()
    g = utilities(P, 4, generator=generator)
    results = []
    for regularizer in (custom, twin):
        z = cvxsst.softmax(P, w, regularizer, 0.5)
        (gradient,) = torch.autograd.grad(z, w, g)
        results.append((z.detach(), gradient))
    assert (results[0][0] - results[1][0]).abs().max() <= 1e-6
    assert (results[0][1] - results[1][1]).abs().max() <= 1e-5
    tiny = torch.autograd.grad(cvxsst.softmax(P, w, custom, 0.5), w, 1e-12 * g)[0]
    assert (tiny - 1e-12 * results[0][1]).abs().max() <= 1e-16  # small incoming gradients are not taken for zero


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda z: 3.0, "CVXPY expression"),
        (lambda z: cp.square(z), "scalar"),
        (lambda z: -cp.sum_squares(z), "convex"),
        (lambda z: cp.sum_squares(z) * cp.Parameter(nonneg=True), "Parameter"),
    ],
    ids=["number", "vector", "concave", "parameter"],
)
def test_custom_functions_are_checked(function, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cvxsst.softmax(polytopes.simplex(3), torch.zeros(3), Custom(function))


def test_softmax_of_an_expanded_and_a_transposed_tensor() -> None:
    P = square()
    w = torch.randn(2, 2, dtype=torch.float64)
    assert torch.allclose(cvxsst.softmax(P, w.expand(3, 2, 2))[1], cvxsst.softmax(P, w), atol=1e-12)
    assert torch.allclose(cvxsst.softmax(P, w.T), cvxsst.softmax(P, w).T, atol=1e-9)


@pytest.mark.parametrize("engine", ["kkt", "cvxpylayer"])
def test_training_after_a_first_call_in_inference_mode(engine: str) -> None:
    z = cp.Variable(3)
    P = cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 1])
    with torch.inference_mode():
        cvxsst.softmax(P, torch.zeros(3), engine=engine)
    w = torch.tensor([0.3, 0.1, 0.0], requires_grad=True)
    cvxsst.softmax(P, w, engine=engine)[0].backward()
    assert w.grad is not None
    assert w.grad.tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3], abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_argmax_at_any_scale_with_and_without_masks(scale: float) -> None:
    z = cp.Variable(3)
    P = cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 1])
    w = scale * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    w[2] = -torch.inf
    assert cvxsst.argmax(P, w).tolist() == [0, 1, 0]
    chosen = cvxsst.argmax(polytopes.correlated_k_subset(3, 1), torch.full((5,), -scale, dtype=torch.float64))
    assert chosen[:3].sum() == 1


def test_custom_without_a_gradient_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="differentiable"):
        cvxsst.softmax(polytopes.simplex(3), torch.randn(3), Custom(lambda z: cp.sum_squares(z) + cp.norm_inf(z)))


def test_argmax_takes_the_allowed_entry_however_bad() -> None:
    """The penalty of a forbidden entry outweighs the range of <w, z>."""
    assert cvxsst.argmax(polytopes.simplex(2), torch.tensor([-torch.inf, -1000.0])).tolist() == [0.0, 1.0]
    w = torch.tensor([5.0, -torch.inf, -1000.0, 5.0])
    assert cvxsst.argmax(polytopes.k_subset(4, 3), w).tolist() == [1.0, 0.0, 1.0, 1.0]


def test_vertices_from_linear_programs_are_rounded_to_integers_only() -> None:
    z = cp.Variable(2)
    P = cvxsst.Polytope(z, [z >= 0, z[0] <= 1e-6, 3 * z[1] <= 1])
    assert torch.allclose(
        cvxsst.argmax(P, torch.ones(2, dtype=torch.float64)),
        torch.tensor([1e-6, 1 / 3], dtype=torch.float64),
        rtol=1e-9,
    )


def test_a_least_value_below_zero_is_seen_however_small() -> None:
    z = cp.Variable(2)
    P = cvxsst.Polytope(z, [z >= -0.5, z <= 1])
    with pytest.raises(ValueError, match="least value"):
        cvxsst.argmax(P, torch.tensor([0.0, -torch.inf]))


def test_errors_without_a_batch_name_no_instance() -> None:
    with pytest.raises(EmptyPolytopeError, match="entries forbid every"):
        cvxsst.argmax(polytopes.simplex(2), torch.full((2,), -torch.inf))


def test_a_fast_path_is_not_asked_what_minus_infinity_cannot_mean() -> None:
    @cvxsst.polytope
    def signed(n: int):
        z = cp.Variable(n)
        return z, [cp.abs(z) <= 1]

    @signed.softmax(Euclidean)
    def clamp(u: torch.Tensor, n: int) -> torch.Tensor:
        return u.clamp(-1.0, 1.0)

    P = signed(2)
    assert cvxsst.which_engine(P, Euclidean()) == "fast"
    with pytest.raises(ValueError, match="least value"):
        cvxsst.softmax(P, torch.tensor([0.0, -torch.inf]))

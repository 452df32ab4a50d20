"""The contract of an engine, as its base states it, for every engine; and a new one, registered here."""

import inspect
from collections.abc import Callable, Iterator

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
import polytopes
from cvxsst.engines import ENGINES, At, Engine, Solution, register
from cvxsst.regularizers import Separable

from . import test_laws as laws
from .table import ASYMMETRY, CASES, REGULARIZERS, Case, in_domain, utilities

each_case = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
def test_times_jacobian_is_symmetric_positive_and_the_difference_of_solve(
    case: Case, generator: torch.Generator
) -> None:
    """<g, J h> = <J g, h>,  <g, J g> >= 0,  J g = (z(u + e g) - z(u - e g)) / 2e: asked of the two methods alone."""
    engine, n = ENGINES[case.engine], case.P.size
    state = engine.state(case.P, case.regularizer)
    u, g, h = (utilities(case.P, 4, generator=generator).reshape(4, n) for _ in range(3))
    shaped = (lambda x: x.reshape(-1, *case.P.shape)) if case.engine == "fast" else (lambda x: x)
    found = engine.solve(state, shaped(u), None)
    z = found.z.reshape(4, n)

    def times(direction: torch.Tensor) -> torch.Tensor:
        return engine.times_jacobian(state, shaped(direction), At(shaped(u), shaped(z), found.kept, None)).reshape(4, n)

    Jg, Jh = times(g), times(h)
    size = max(1.0, case.P.presolved.interior.max(initial=0.0)) ** 2
    assert ((g * Jh).sum(1) - (Jg * h).sum(1)).abs().max() <= 10 * ASYMMETRY[case.engine] * size
    assert (g * Jg).sum(1).min() >= -ASYMMETRY[case.engine] * size
    e = 1e-4
    sides = [engine.solve(state, shaped(u + s * e * g), None).z.reshape(4, n) for s in (1, -1)]
    assert (Jg - (sides[0] - sides[1]) / (2 * e)).abs().max() <= 1e-5 * Jg.abs().max().clamp_min(1.0)


def test_refusal_is_none_if_and_only_if_the_engine_solves() -> None:
    for P in (polytopes.simplex(3), polytopes.birkhoff(3), polytopes.matching(4)):
        for f in (*REGULARIZERS, cvxsst.Custom(cp.sum_squares)):
            for name, engine in ENGINES.items():
                reason, w = engine.refusal(P, f), torch.zeros(P.shape)
                if reason is None:
                    assert bool(torch.isfinite(cvxsst.softmax(P, w, f, engine=name)).all())
                else:
                    with pytest.raises(cvxsst.NoFastPathError) as told:
                        cvxsst.softmax(P, w, f, engine=name)
                    assert reason in str(told.value)


def test_which_engine_names_only_what_softmax_takes() -> None:
    """Its value is good for ``engine=``; where softmax raises for the domain it raises too."""
    z = cp.Variable(2)
    signed = cvxsst.Polytope(z, [cp.abs(z) <= 1])
    anonymous = cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 1])
    for P in (signed, anonymous, polytopes.k_subset(3, 1), polytopes.birkhoff(5)):
        for f in REGULARIZERS:
            try:
                name = cvxsst.which_engine(P, f)
            except ValueError as refused:
                with pytest.raises(type(refused)):
                    cvxsst.softmax(P, torch.zeros(P.shape), f)
            else:
                assert bool(torch.isfinite(cvxsst.softmax(P, torch.zeros(P.shape), f, engine=name)).all())


class Bisection(Engine[tuple[float, Separable]]):
    """Sums over scaled simplices, {z >= 0, sum z = c}: tau with sum phi*'(u - tau) = c, by bisection."""

    name = "bisection"

    def __init__(self) -> None:
        super().__init__()
        self.prepared = 0

    def refusal(self, P: cvxsst.Polytope, f: cvxsst.Regularizer) -> str | None:
        if not isinstance(f, Separable):
            return "bisection needs a separable f"
        form, (lower, upper) = P.presolved.form, P.bounds
        one_sum = form.A.shape[0] == 1 and not form.lifted and bool((form.A.toarray() == 1).all())
        whole = one_sum and bool((lower == 0).all() and (upper >= form.b[0]).all())
        return None if whole else "bisection knows scaled simplices only"

    def prepare(self, P: cvxsst.Polytope, f: cvxsst.Regularizer) -> tuple[float, Separable]:
        assert isinstance(f, Separable)
        self.prepared += 1
        return float(P.presolved.form.b[0]), f

    def solve(self, state: tuple[float, Separable], u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        c, f = state
        mask = torch.zeros_like(u, dtype=torch.bool) if forbidden is None else forbidden

        def at(tau: torch.Tensor) -> torch.Tensor:
            return f.primal(u - tau).clamp_min(0.0).masked_fill(mask, 0.0)

        empty, reach = mask.all(1), u.abs().amax(1, keepdim=True) + 50.0 * max(1.0, c)
        low, high = -reach, reach
        for _ in range(200):
            tau = (low + high) / 2
            enough = at(tau).sum(1, keepdim=True) > c
            low, high = torch.where(enough, tau, low), torch.where(enough, high, tau)
        z = at(high)
        return Solution(z, ~empty, (z.sum(1) - c).abs(), torch.full((len(u),), 200), empty)

    def times_jacobian(self, state: tuple[float, Separable], g: torch.Tensor, at: At) -> torch.Tensor:
        """J = diag(d) - d d' / sum d,  d = 1 / phi'' where z > 0."""
        _, f = state
        d = torch.where(at.z > 0, f.slope(at.z), 0.0)
        return d * (g - (d * g).sum(1, keepdim=True) / d.sum(1, keepdim=True).clamp_min(1e-300))


def parameters(law: Callable[..., None]) -> tuple[str, ...]:
    return tuple(inspect.signature(law).parameters)


LAWS = [law for name, law in vars(laws).items() if name.startswith("test_") and "case" in parameters(law)]
SCALED = [Case(P, f, "bisection") for P in (polytopes.simplex(4), polytopes.k_subset(4, 1)) for f in REGULARIZERS[:3]]


@pytest.fixture
def bisection() -> Iterator[Bisection]:
    engine = register(Bisection())
    yield engine
    del ENGINES[engine.name]


@pytest.mark.parametrize("case", SCALED, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_new_engine_obeys_the_laws(law, case: Case, bisection: Bisection, generator: torch.Generator) -> None:
    options = {"case": case, "generator": generator, "device": "cpu"}
    law(**{name: options[name] for name in parameters(law)})


def test_a_new_engine_is_asked_named_and_refused_like_the_others(bisection: Bisection) -> None:
    z = cp.Variable(3)
    P, f = cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 2], name="budget"), cvxsst.BinaryEntropy()
    triangle = cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 1], recognize=False)
    with pytest.raises(cvxsst.NoFastPathError, match="bisection knows scaled simplices only; use engine='fast'"):
        cvxsst.softmax(polytopes.k_subset(4, 2), torch.zeros(4), engine="bisection")
    with pytest.raises(ValueError, match="defined for entries in"):
        cvxsst.softmax(P, torch.zeros(3), f, engine="bisection")
    w = torch.tensor([[1.0, 2.0, 0.5], [0.0, -torch.inf, 0.3], [-torch.inf] * 3])
    z_, info = cvxsst.softmax(triangle, w, f, engine="bisection", on_failure="nan", return_info=True)
    reference = cvxsst.softmax(triangle, w[:2], f, engine="kkt")
    assert (z_[:2] - reference).abs().max() <= 1e-6
    assert info.iterations.tolist() == [200] * 3
    assert info.empty.tolist() == [False, False, True]
    made = bisection.prepared
    cvxsst.softmax(triangle, w[:2], f, engine="bisection")
    assert bisection.prepared == made  # once for each (P, f)
    kept = {name: ENGINES.pop(name) for name in list(ENGINES) if name != "bisection"}
    try:
        assert cvxsst.which_engine(triangle, f) == "bisection"  # nobody else is left
        with pytest.raises(cvxsst.NoFastPathError, match="bisection: bisection knows scaled simplices only"):
            cvxsst.which_engine(polytopes.birkhoff(2), f)
    finally:
        ENGINES.update(kept | {"bisection": ENGINES.pop("bisection")})


def test_a_new_engine_is_judged_by_the_validator(bisection: Bisection) -> None:
    report = cvxsst.validate("bisection", polytopes.simplex(4), cvxsst.CategoricalEntropy(), n=6)
    assert report.passed, str(report)


def test_unsupported_domain_is_no_refusal_but_an_error() -> None:
    z = cp.Variable(2)
    signed = cvxsst.Polytope(z, [cp.abs(z) <= 1])
    assert not in_domain(signed, cvxsst.BinaryEntropy())
    for name in ("kkt", "cvxpylayer"):
        with pytest.raises(ValueError, match="defined for entries in"):
            cvxsst.softmax(signed, torch.zeros(2), cvxsst.BinaryEntropy(), engine=name)


class Flaky(Engine[tuple[int, ...]]):
    """Right by kkt, but gives up the instances with a negative first utility, and some backward solves."""

    name = "flaky"

    def refusal(self, P: cvxsst.Polytope, f: cvxsst.Regularizer) -> str | None:
        return None

    def preferred(self, P: cvxsst.Polytope, f: cvxsst.Regularizer) -> bool:
        return True

    def prepare(self, P: cvxsst.Polytope, f: cvxsst.Regularizer) -> tuple[int, ...]:
        return (P.size,)

    def solve(self, state: tuple[int, ...], u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        z = torch.softmax(u if forbidden is None else u.masked_fill(forbidden, -torch.inf), 1)
        lost = u[:, 0] < 0
        return Solution(z.masked_fill(lost[:, None], torch.nan), ~lost, torch.where(lost, torch.inf, 0.0))

    def times_jacobian(self, state: tuple[int, ...], g: torch.Tensor, at: At) -> torch.Tensor:
        product = at.z * (g - (at.z * g).sum(1, keepdim=True))
        return product.masked_fill((at.u[:, 1] > 2)[:, None], torch.nan)


class Broken(Flaky):
    """Its preparation breaks down."""

    name = "broken"

    def prepare(self, P: cvxsst.Polytope, f: cvxsst.Regularizer) -> tuple[int, ...]:
        raise cvxsst.ConvergenceError("a linear program did not end")


def first(engine: Engine) -> Iterator[Engine]:
    """This engine before all others."""
    others = dict(ENGINES)
    ENGINES.clear()
    register(engine)
    ENGINES.update(others)
    yield engine
    ENGINES.clear()
    ENGINES.update(others)


@pytest.fixture
def flaky_first() -> Iterator[Engine]:
    yield from first(Flaky())


@pytest.fixture
def broken_first() -> Iterator[Engine]:
    yield from first(Broken())


def test_auto_hands_on_what_an_engine_does_not_solve(flaky_first: Flaky, generator: torch.Generator) -> None:
    P, f = polytopes.simplex(4), cvxsst.CategoricalEntropy()
    w = utilities(P, 3, 5, generator=generator).clamp(max=1.9).requires_grad_()
    lost = w.detach()[..., 0] < 0
    assert bool(lost.any() and not lost.all())
    z, info = cvxsst.softmax(P, w, f, return_info=True)
    assert info.converged.all()
    assert (info.engine == np.where(lost.numpy(), "fast", "flaky")).all()
    g = utilities(P, 3, 5, generator=generator)
    (gradient,) = torch.autograd.grad(z, w, g)
    expected = torch.softmax(w, -1)
    assert (z - expected).abs().max() <= 1e-12
    assert (gradient - torch.autograd.grad(expected, w, g)[0]).abs().max() <= 1e-12
    mapped = torch.func.vmap(lambda x: cvxsst.softmax(P, x, f))(w)
    assert (mapped - expected).abs().max() <= 1e-12
    central = cvxsst.softmax(P, w, f, backward="finite_difference")
    assert (torch.autograd.grad(central, w, g)[0] - gradient).abs().max() <= 1e-6
    with pytest.raises(cvxsst.ConvergenceError, match="in instances"):
        cvxsst.softmax(P, w, f, engine="flaky")  # by name, nobody takes over


def test_a_derivative_that_fails_raises_or_is_nan_in_its_instance(flaky_first: Flaky) -> None:
    P, f = polytopes.simplex(3), cvxsst.CategoricalEntropy()
    w = torch.tensor([[0.5, 0.0, 0.1], [0.3, 2.5, 0.0], [0.2, 0.1, 0.0]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    with pytest.raises(cvxsst.ConvergenceError, match="derivative did not reach its accuracy in instances") as told:
        torch.autograd.grad(cvxsst.softmax(P, w, f, engine="flaky"), w, g)
    assert told.value.instances == [(1,)]
    (gradient,) = torch.autograd.grad(cvxsst.softmax(P, w, f, engine="flaky", on_failure="nan"), w, g)
    assert gradient.isnan().all(1).tolist() == [False, True, False]
    assert torch.isfinite(gradient[[0, 2]]).all()
    spoiled = g.clone()
    spoiled[0] = torch.nan  # a NaN that comes in is no failure of the solve
    spoiled[1] = 0.0
    (gradient,) = torch.autograd.grad(cvxsst.softmax(P, w, f, engine="flaky"), w, spoiled)
    assert gradient.isnan().all(1).tolist() == [True, False, False]


def test_auto_hands_on_a_derivative_that_an_engine_cannot_tell(flaky_first: Flaky, generator: torch.Generator) -> None:
    """Row by row, under every mode of differentiation, with forbidden entries; a second time too."""
    P, f = polytopes.simplex(3), cvxsst.CategoricalEntropy()
    w = utilities(P, 8, generator=generator)
    w[::2, 0], w[::3, 1], w[3, 2] = w[::2, 0].abs(), 2.5, -torch.inf
    w.requires_grad_()
    g = utilities(P, 8, generator=generator)

    def mine(x: torch.Tensor) -> torch.Tensor:
        return cvxsst.softmax(P, x, f)

    def right(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1)

    for softmax in (mine, torch.func.vmap(mine)):
        assert (softmax(w) - right(w)).abs().max() <= 1e-12
        (gradient,) = torch.autograd.grad(softmax(w), w, g)
        assert (gradient - torch.autograd.grad(right(w), w, g)[0]).abs().max() <= 1e-12
    plain = w.detach().clone()
    plain[3, 2] = -1.0
    forward = torch.func.jvp(mine, (plain,), (g,))[1]
    assert (forward - torch.func.jvp(right, (plain,), (g,))[1]).abs().max() <= 1e-12
    row = torch.func.vmap(torch.func.grad(lambda x, y: (mine(x) * y).sum()))(plain, g)
    assert (row - torch.func.vmap(torch.func.grad(lambda x, y: (right(x) * y).sum()))(plain, g)).abs().max() <= 1e-12
    second = [torch.func.hessian(lambda x, s=s: (s(x) * g[0]).sum())(plain[0]) for s in (mine, right)]
    assert plain[0, 1] == 2.5
    assert (second[0] - second[1]).abs().max() <= 1e-10


def test_the_instances_of_a_derivative_that_nobody_can_tell_are_those_of_the_batch(
    flaky_first: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the engine that cannot tell it was asked about some only, or does not converge there."""
    P, f = polytopes.simplex(3), cvxsst.CategoricalEntropy()
    w = torch.tensor([[0.5, 2.5, 0], [-0.3, 0.1, 0], [-0.2, 0.1, 0]], dtype=torch.float64, requires_grad=True)
    for name in set(ENGINES) - {"flaky", "kkt"}:
        del ENGINES[name]
    solving, telling = ENGINES["kkt"].solve, ENGINES["kkt"].times_jacobian

    def failing(state: object, u: torch.Tensor, forbidden: torch.Tensor | None) -> Solution:
        return solving(state, u, forbidden)._replace(converged=u[:, 1] < 2)

    def silent(state: object, g: torch.Tensor, at: At) -> torch.Tensor:
        return telling(state, g, at).masked_fill(at.u[:, :1] == -0.2, torch.nan)

    monkeypatch.setattr(ENGINES["kkt"], "solve", failing)
    monkeypatch.setattr(ENGINES["kkt"], "times_jacobian", silent)
    z = cvxsst.softmax(P, w, f)
    for row in (0, 2):
        with pytest.raises(cvxsst.ConvergenceError, match="derivative did not reach") as told:
            torch.autograd.grad(z[row, 0], w, retain_graph=True)
        assert told.value.instances == [(row,)]
    torch.autograd.grad(z[1, 0], w)


def test_auto_hands_on_what_breaks_an_engine(broken_first: Broken) -> None:
    """As long as somebody can solve it; the error is the first engine's otherwise."""
    P, f, w = polytopes.simplex(3), cvxsst.CategoricalEntropy(), torch.arange(3.0, dtype=torch.float64)
    z, info = cvxsst.softmax(P, w, f, return_info=True)
    assert (z - torch.softmax(w, 0)).abs().max() <= 1e-12
    assert info.engine == "fast"
    with pytest.raises(cvxsst.ConvergenceError, match="a linear program did not end"):
        cvxsst.softmax(P, w, f, engine="broken")
    for name in set(ENGINES) - {"broken"}:
        del ENGINES[name]
    with pytest.raises(cvxsst.ConvergenceError, match="a linear program did not end"):
        cvxsst.softmax(P, w, f)

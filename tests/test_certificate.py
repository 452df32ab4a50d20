"""Certificates judge: right answers pass, each kind of wrong answer is seen, and the bound is a bound."""

import cvxpy as cp
import pytest
import torch

import cvxsst
import polytopes
from cvxsst import BinaryEntropy, CategoricalEntropy, Custom, Euclidean, ExponentialFamily, certificate

from .table import CASES, Case, utilities, value

SEPARABLE = [case for case in CASES if isinstance(case.regularizer, cvxsst.regularizers.Separable)]


@pytest.mark.parametrize("case", SEPARABLE, ids=str)
def test_gap_bounds_the_loss_of_any_feasible_point(case: Case, generator: torch.Generator) -> None:
    """F* - F(z) <= gap for random z in P, F* from the engine."""
    w = utilities(case.P, generator=generator)
    best = case.solve(w)
    for _ in range(3):
        z = case.solve(utilities(case.P, generator=generator))
        loss = _objective(case, w, best) - _objective(case, w, z)
        assert case.judge(z, w).gap.item() >= loss - 1e-9
        assert case.judge(z, w).infeasibility.item() <= 1e-9


def _objective(case: Case, w: torch.Tensor, z: torch.Tensor) -> float:
    f = value(
        case.regularizer, z.reshape(-1).clamp_min(0.0) if not isinstance(case.regularizer, Euclidean) else z.reshape(-1)
    )
    return float((w * z).sum() - f)


class Weighted(cvxsst.regularizers.Separable):
    """sum 2 z log z, a regularizer of a user's: the library knows nothing of it."""

    domain = (0.0, float("inf"))

    def value(self, z: torch.Tensor) -> torch.Tensor:
        return torch.where(z < 0, torch.inf, 2 * torch.xlogy(z, z))

    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        return 2 * z.log() + 2

    def primal(self, u: torch.Tensor) -> torch.Tensor:
        return (u / 2 - 1).exp()

    def slope(self, z: torch.Tensor) -> torch.Tensor:
        return z / 2

    def divergence(self, z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        return 2 * (torch.where(z > 0, z * (z / z0).log(), 0.0) - z + z0)

    def curvature_up_to(self, bound: float) -> float:
        return 2 / max(bound, 1e-300)


def test_a_separable_regularizer_of_her_own_is_certified(generator: torch.Generator) -> None:
    """2 T f is f at twice the temperature: the certificate is that of the entropy."""
    P = polytopes.k_subset(6, 2)
    w = 3 * torch.randn(8, 6, generator=generator, dtype=torch.float64)
    z = cvxsst.softmax(P, w, CategoricalEntropy(), 0.4)
    for candidate in (z, 0.9 * z + 0.1 * z.flip(0), z.round()):
        hers, ours = (
            certificate(P, candidate, w, Weighted(), 0.2),
            certificate(P, candidate, w, CategoricalEntropy(), 0.4),
        )
        assert (hers.gap - ours.gap).abs().max() <= 1e-10
        assert torch.equal(hers.infeasibility, ours.infeasibility)
    assert certificate(P, z, w, Weighted(), 0.2).gap.abs().max() <= 1e-10
    assert certificate(P, 0.9 * z + 0.1 * z.flip(0), w, Weighted(), 0.2).gap.min() >= 1e-6


@pytest.mark.parametrize(
    "regularizer", [Euclidean(), CategoricalEntropy(), BinaryEntropy(), ExponentialFamily()], ids=repr
)
def test_wrong_answers_are_seen(regularizer, generator: torch.Generator) -> None:
    P = polytopes.birkhoff(3)
    w = utilities(P, generator=generator)
    z = cvxsst.softmax(P, w, regularizer)
    assert certificate(P, z, w, regularizer).gap.abs() <= 1e-10
    tangent = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    moved = certificate(P, z + 1e-3 * tangent, w, regularizer)
    assert moved.infeasibility <= 1e-9
    assert 1e-8 <= moved.gap <= 1e-2  # second order in the distance, as it should be
    outside = z.clone()
    outside[0, 0] += 0.3  # the nearest doubly stochastic matrix changes the entries of that row and column evenly
    assert 0.05 <= certificate(P, outside, w, regularizer).infeasibility <= 0.3


def test_distance_is_exact_for_a_box_and_for_a_projection() -> None:
    z = cp.Variable(2)
    box = cvxsst.Polytope(z, [cp.abs(z) <= 1])
    point = torch.tensor([1.5, -3.0], dtype=torch.float64)
    assert certificate(box, point, torch.zeros_like(point), Euclidean()).infeasibility.item() == pytest.approx(2.0)
    P = polytopes.permutahedron(3)  # a projection: its constraints on z alone are not written down
    point = torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64)
    # the sum is right, but 4 exceeds the largest entry by 1
    assert certificate(P, point, torch.zeros_like(point), Euclidean()).infeasibility.item() == pytest.approx(1.0)


def test_solutions_at_the_boundary_of_the_entropy_are_certified() -> None:
    """At low temperature entries of z underflow to 0 or round to 1, where the gradient of the entropy is infinite."""
    P = polytopes.simplex(4)
    w = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    for T in (1.0, 0.1, 0.01, 0.001):
        z = torch.softmax(w / T, 0)
        assert certificate(P, z, w, CategoricalEntropy(), T).gap <= 1e-9
    w = torch.tensor([-2.0, 1.0, 0.01, 3.0], dtype=torch.float64)
    for T in (1.0, 0.1, 0.01, 0.001):
        assert certificate(polytopes.cube(4), torch.sigmoid(w / T), w, BinaryEntropy(), T).gap <= 1e-9
    vertex = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    assert certificate(P, vertex, w, CategoricalEntropy()).gap >= 1.0


@pytest.mark.parametrize("P", [polytopes.cube(4), polytopes.k_subset(6, 2), polytopes.simplex(5)], ids=repr)
def test_close_to_the_ends_rounding_is_not_taken_for_a_gap(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """At z = 1 - 1e-12 the gradient log z / (1 - z) is off by 1e-4: only the face on which z lies tells."""
    w = utilities(P, 40, generator=generator)
    for T in (0.1, 0.05):
        z = cvxsst.softmax(P, w, BinaryEntropy(), T)
        gap = certificate(P, z, w, BinaryEntropy(), T).gap / T
        assert gap.max() <= 1e-10
        assert gap.min() >= -1e-13, "z is in P: its loss is not negative"


def test_the_value_of_gap_is_in_units_of_the_utilities() -> None:
    """Scaling w and T scales the objective, and the gap with it."""
    P, w = polytopes.simplex(3), torch.tensor([0.3, 0.1, -0.5], dtype=torch.float64)
    z = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    once = certificate(P, z, w, CategoricalEntropy(), 0.5).gap
    assert certificate(P, z, 10 * w, CategoricalEntropy(), 5.0).gap.item() == pytest.approx(10 * once.item())


def test_exponential_family_gap_is_the_divergence() -> None:
    """On the simplex p = z: the loss of z is T KL(z || softmax(w / T))."""
    P, w = polytopes.simplex(3), torch.tensor([0.3, 0.1, -0.5], dtype=torch.float64)
    z = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    p = torch.softmax(w / 0.5, 0)
    expected = 0.5 * (z * (z / p).log()).sum()
    assert certificate(P, z, w, ExponentialFamily(), 0.5).gap.item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("size", [1e9, 1e300])
@pytest.mark.parametrize("regularizer", [Euclidean(), BinaryEntropy(), ExponentialFamily()], ids=repr)
def test_absurd_answers_are_judged_without_a_word(regularizer, size: float, capfd) -> None:
    P, z = polytopes.birkhoff(3), size * torch.arange(1.0, 10.0, dtype=torch.float64).sin().reshape(3, 3)
    judged = certificate(P, z, torch.ones_like(z), regularizer)
    assert judged.infeasibility > 1e8
    assert regularizer == Euclidean() or judged.gap == torch.inf
    assert capfd.readouterr() == ("", "")


def test_custom_regularizer_has_the_frank_wolfe_gap() -> None:
    """max over v of <g, v - z> with g = w - grad f(z); on the simplex that is max g - <g, z>."""
    P, w = polytopes.simplex(3), torch.tensor([0.3, 0.1, -0.5], dtype=torch.float64)
    z = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    g = w - 0.7 * z
    expected = (g.max() - g @ z).item()
    assert certificate(P, z, w, Custom(lambda z: cp.sum_squares(z) / 2), 0.7).gap.item() == pytest.approx(expected)


def test_not_a_number_is_infinitely_wrong_and_shapes_are_checked() -> None:
    P, w = polytopes.simplex(3), torch.zeros(2, 3)
    z = torch.tensor([[torch.nan, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    judged = certificate(P, z, w, Euclidean())
    assert judged.gap[0] == judged.infeasibility[0] == torch.inf
    assert judged.gap[1] <= 1e-6
    with pytest.raises(ValueError, match="z: expected"):
        certificate(P, z[0], w, Euclidean())


def test_forbidden_entries_count_as_infeasible_and_leave_the_family() -> None:
    w = torch.tensor([-torch.inf, 1.0], dtype=torch.float64)
    z = torch.tensor([0.3, 1.0], dtype=torch.float64)
    assert certificate(polytopes.cube(2), z, w, Euclidean()).infeasibility.item() == pytest.approx(0.3)
    P, w = polytopes.simplex(3), torch.tensor([-torch.inf, 1.0, 1.0], dtype=torch.float64)
    half, third = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64), torch.full((3,), 1 / 3, dtype=torch.float64)
    assert certificate(P, half, w, ExponentialFamily()).gap.abs() <= 1e-9
    assert certificate(P, third, w, ExponentialFamily()).gap == torch.inf

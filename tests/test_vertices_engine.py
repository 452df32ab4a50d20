"""The engine "vertices": the laws; batches of 1,000 on the zoo and beside it; ties; -inf; what converged is right."""

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
import polytopes
from cvxsst.engines.vertices import Vertices, engine

from .table import POLYTOPES, utilities
from .test_masks import masked

EUCLIDEAN = cvxsst.Euclidean()
TEMPERATURES = (10.0, 1.0, 0.1, 0.01)
LARGER = [
    polytopes.permutahedron(6),
    polytopes.matching(6),
    polytopes.correlated_k_subset(10, 3),
    polytopes.arborescence(5),
    polytopes.projective_tree(5),
    polytopes.spanning_tree(8),
]


def strangers() -> list[cvxsst.Polytope]:
    random = np.random.default_rng(0)

    def declared(name: str, z: cp.Variable, *constraints: cp.Constraint) -> cvxsst.Polytope:
        return cvxsst.Polytope(z, list(constraints), name=name, recognize=False)

    z, four, plan, cost = cp.Variable(6), cp.Variable(4), cp.Variable((3, 4)), random.uniform(0.2, 1.0, 6)
    box = (z >= 0, z <= 1)
    cut, diagonal = (
        cp.Variable((4, 4), symmetric=True),
        [(i, j, k) for i in range(4) for j in range(4) for k in range(4)],
    )
    triangles = [cut[i, j] <= cut[i, k] + cut[k, j] for i, j, k in diagonal if len({i, j, k}) == 3]
    perimeters = [cut[i, j] + cut[j, k] + cut[i, k] <= 2 for i, j, k in diagonal if i < j < k]
    return [
        declared("knapsack", z, *box, cost @ z <= 1.3),
        declared("half-spaces", four, random.normal(size=(12, 4)) @ four <= 1, cp.abs(four) <= 2),
        *(declared(f"slab {t:g}", z, *box, cp.sum(z) >= 2, cp.sum(z) <= 2 + t) for t in (1e-2, 1e-4, 1e-6)),
        *(declared(f"capped {t:g}", z, z >= 0, cp.sum(z) == 1, z[0] + z[1] <= t) for t in (0.1, 3e-3, 1e-6)),
        declared("precedence", z, *box, z[1:4] <= z[0], z[4] <= z[1], z[5] <= z[4]),
        declared(
            "transport", plan, plan >= 0, cp.sum(plan, 1) == 1, cp.sum(plan, 0) <= 1, plan[0, 0] + plan[1, 1] <= 0.7
        ),
        declared("rows in other units", z, *box, 1e6 * (cost @ z) <= 1.3e6, 1e-5 * (z[0] - z[1]) <= 0),
        declared("degenerate", four, cp.norm1(four) <= 1, *(four[0] + a * four[1] <= 1 for a in (0.1, 0.2, 0.5))),
        declared("far away", four, four >= 1e4, cp.sum(four) <= 4e4 + 1),
        declared("large", four, four >= -500, cp.sum(four) <= 700, four[0] <= 3),
        declared("flat", z, z >= -1, z <= 1, z[0] + z[1] == 0.3, z[2] == 0.2, z[3] == z[4]),
        declared("point", four, four == np.array([0.5, -2.0, 3.0, 0.0])),
        declared("total variation", z, *box, cp.norm1(cp.diff(z)) <= 1.5),
        declared("cuts", cut, cp.diag(cut) == 0, cut >= 0, *triangles, *perimeters),
    ]


STRANGERS = strangers()


def central(P: cvxsst.Polytope, w: torch.Tensor, g: torch.Tensor, T: float) -> tuple[torch.Tensor, torch.Tensor]:
    """dz/du g by central differences ``(B, n)``, and whether those of two steps agree: the others are at kinks."""

    def difference(h: float) -> torch.Tensor:
        up, down = (cvxsst.softmax(P, w + s * h * T * g, EUCLIDEAN, T, engine="vertices") for s in (1, -1))
        return ((up - down) / (2 * h)).reshape(len(w), -1)

    coarse, fine = difference(2e-5), difference(1e-5)
    smooth = (coarse - fine).abs().amax(1) <= 1e-5 * max(1.0, float(np.abs(P.bounds).max()))
    assert smooth.double().mean() >= 0.95
    return fine, smooth


@pytest.mark.parametrize("P", [*POLYTOPES, *LARGER, *STRANGERS], ids=repr)
def test_a_thousand_are_solved_certified_and_differentiated(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    batch = 1000 if P.family is not None else 200  # linear programs one by one
    size = max(1.0, float(np.abs(P.bounds).max()))
    for T in TEMPERATURES:
        w, g = (utilities(P, batch, generator=generator) for _ in range(2))
        leaf = w.clone().requires_grad_()
        z, info = cvxsst.softmax(P, leaf, EUCLIDEAN, T, engine="vertices", on_failure="nan", return_info=True)
        assert bool(info.converged.all())
        assert info.residual.max() <= 1e-8 * size
        certificate = cvxsst.certificate(P, z.detach()[::50], w[::50], EUCLIDEAN, T)
        assert certificate.infeasibility.max() <= 1e-9 * size
        assert certificate.gap.max() <= 1e-8 * T * size**2 * max(1.0, 1 / T)
        (gradient,) = torch.autograd.grad(z, leaf, g)
        difference, smooth = central(P, w, g, T)
        assert (T * gradient.reshape(batch, -1) - difference)[smooth].abs().max() <= 1e-5 * size


@pytest.mark.parametrize("P", [*LARGER, *STRANGERS], ids=repr)
def test_ties_are_solved_and_have_a_derivative(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """w = 0, small integers: certified; the derivative is a projection, along P."""
    w = torch.randint(-2, 3, (60, *P.shape), generator=generator).double()
    w[:10] = 0
    n, size, E = P.size, max(1.0, float(np.abs(P.bounds).max())), torch.from_numpy(P.presolved.hull[0])
    for T in TEMPERATURES:
        z, info = cvxsst.softmax(P, w, EUCLIDEAN, T, engine="vertices", on_failure="nan", return_info=True)
        assert bool(info.converged.all())
        assert cvxsst.certificate(P, z[::6], w[::6], EUCLIDEAN, T).gap.max() <= 1e-8 * size**2 * max(1.0, T)
        rows = w[20].expand(n, *P.shape).clone().requires_grad_()
        z = cvxsst.softmax(P, rows, EUCLIDEAN, T, engine="vertices").reshape(n, n)
        J = T * torch.autograd.grad(z, rows, torch.eye(n, dtype=torch.float64).reshape(rows.shape[0], n))[0].reshape(
            n, n
        )
        assert (J - J.T).abs().max() <= 1e-9
        assert (J @ J - J).abs().max() <= 1e-9
        assert len(E) == 0 or (E @ J).abs().max() <= 1e-9


def test_points_in_fewer_vertices_than_their_face_needs(generator: torch.Generator) -> None:
    """The middle of a cube is that of a diagonal, the mean of all permutations that of two: smooth points."""
    for P in (polytopes.cube(5), polytopes.permutahedron(5), polytopes.birkhoff(4), polytopes.matching(6)):
        middle = torch.from_numpy(P.vertices()).mean(0).reshape(P.shape).requires_grad_()
        g, E = utilities(P, generator=generator), torch.from_numpy(P.presolved.hull[0])
        z = cvxsst.softmax(P, middle, EUCLIDEAN, engine="vertices")
        (gradient,) = torch.autograd.grad(z, middle, g)
        assert (z - middle).abs().max() <= 1e-12
        along = g.flatten() - E.T @ (E @ g.flatten())
        assert (gradient.flatten() - along).abs().max() <= 1e-12


@pytest.mark.parametrize("P", [*LARGER, *STRANGERS[:3], *STRANGERS[8:10]], ids=repr)
def test_agrees_with_kkt(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    for T in (1.0, 0.1):
        w, g = (utilities(P, 40, generator=generator) for _ in range(2))
        found = []
        for name in ("vertices", "kkt"):
            leaf = w.clone().requires_grad_()
            z = cvxsst.softmax(P, leaf, EUCLIDEAN, T, engine=name)
            found.append((z.detach(), *torch.autograd.grad(z, leaf, g)))
        _, smooth = central(P, w, g, T)
        assert (found[0][0] - found[1][0]).abs().max() <= 1e-6
        assert T * (found[0][1] - found[1][1])[smooth].abs().max() <= 1e-6


def test_the_whole_face_in_many_dimensions(generator: torch.Generator) -> None:
    """435 edges, faces of up to 260 dimensions, which the corrals do not span: more vertices complete them."""
    P = polytopes.spanning_tree(30)
    for T, batch in ((1.0, 16), (10.0, 2)):
        w, g = (utilities(P, batch, generator=generator) for _ in range(2))
        leaf = w.clone().requires_grad_()
        z, info = cvxsst.softmax(P, leaf, EUCLIDEAN, T, engine="vertices", return_info=True)
        (gradient,) = torch.autograd.grad(z, leaf, g)
        difference, smooth = central(P, w, g, T)
        assert bool(smooth.all())
        assert (T * gradient - difference).abs().max() <= 1e-6
        assert info.residual.max() <= 1e-9


@pytest.mark.parametrize("P", [polytopes.birkhoff(6), polytopes.k_subset(20, 5), polytopes.spanning_tree(6)], ids=repr)
def test_many_patterns_of_forbidden_entries(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    w, g = masked(P, generator), utilities(P, 400, generator=generator)
    for T in (5.0, 0.5):
        leaf = w.clone().requires_grad_()
        z, info = cvxsst.softmax(P, leaf, EUCLIDEAN, T, engine="vertices", return_info=True)
        (gradient,) = torch.autograd.grad(z, leaf, g)
        assert bool(info.converged.all())
        assert bool((z[torch.isinf(w)] == 0).all())
        assert bool((gradient[torch.isinf(w)] == 0).all())
        assert (z - cvxsst.softmax(P, w, EUCLIDEAN, T, engine="kkt")).abs().max() <= 1e-6
        difference, smooth = central(P, w, g, T)
        assert (T * gradient.reshape(400, -1) - difference)[smooth].abs().max() <= 1e-5


def test_forbidden_entries_of_a_stranger_and_what_leaves_nothing(generator: torch.Generator) -> None:
    plan = next(P for P in STRANGERS if P.name == "transport")
    w = utilities(plan, 40, generator=generator)
    w = w.masked_fill(torch.rand(w.shape, generator=generator) < 0.3, -torch.inf)
    w[3, 1] = w[7] = -torch.inf
    z, info = cvxsst.softmax(plan, w, EUCLIDEAN, engine="vertices", on_failure="nan", return_info=True)
    _, by_kkt = cvxsst.softmax(plan, w, EUCLIDEAN, engine="kkt", on_failure="nan", return_info=True)
    assert torch.equal(info.empty, by_kkt.empty)
    assert bool(info.empty[3])
    assert not bool(info.empty.all())
    assert torch.equal(info.converged, ~info.empty)
    assert torch.equal(z.isnan().flatten(1).any(1), info.empty)
    left = ~info.empty
    certificate = cvxsst.certificate(plan, z[left], w[left], EUCLIDEAN)
    assert certificate.infeasibility.max() <= 1e-9
    assert certificate.gap.max() <= 1e-8
    with pytest.raises(cvxsst.EmptyPolytopeError, match="forbid every structure"):
        cvxsst.softmax(plan, w, EUCLIDEAN, engine="vertices")


def test_what_converged_is_right_where_not_all_does(generator: torch.Generator) -> None:
    """A slab of 1e-8, thinner than inner products resolve: some instances fail, and say so."""
    z = cp.Variable(6)
    thin = cvxsst.Polytope(z, [z >= 0, z <= 1, cp.sum(z) >= 2, cp.sum(z) <= 2 + 1e-8], recognize=False)
    w = utilities(thin, 200, generator=generator)
    found, info = cvxsst.softmax(thin, w, EUCLIDEAN, engine="vertices", on_failure="nan", return_info=True)
    right = info.converged
    assert 0 < int(right.sum()) < 200
    assert bool((info.residual[~right] > 1e-8).all())
    certificate = cvxsst.certificate(thin, found[right], w[right], EUCLIDEAN)
    assert certificate.infeasibility.max() <= 1e-9
    assert certificate.gap.max() <= 1e-8


def test_too_few_calls_are_told(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    P = polytopes.birkhoff(4)
    w = utilities(P, 50, generator=generator)
    right = cvxsst.softmax(P, w, EUCLIDEAN, engine="vertices")
    monkeypatch.setattr("cvxsst.engines.vertices.projection.MOST_CALLS", (4, 0))
    z, info = cvxsst.softmax(P, w, EUCLIDEAN, engine="vertices", on_failure="nan", return_info=True)
    assert 0 < int(info.converged.sum()) < 50
    assert (z - right)[info.converged].abs().max() <= 1e-9
    z, _ = Vertices().solve(Vertices().state(P, EUCLIDEAN), w.reshape(50, -1), None)[:2]
    assert bool(((z - right.reshape(50, -1)).norm(dim=1) <= info.residual + 1e-12).all())  # and how far z may be off


def test_derivatives_of_every_kind(generator: torch.Generator) -> None:
    P = polytopes.matching(6)
    w, g = (utilities(P, 5, generator=generator) for _ in range(2))

    def solve(x: torch.Tensor) -> torch.Tensor:
        return cvxsst.softmax(P, x, EUCLIDEAN, engine="vertices")

    z, forward = torch.func.jvp(solve, (w,), (g,))[:2]
    leaf = w.clone().requires_grad_()
    (backward,) = torch.autograd.grad(solve(leaf), leaf, g, create_graph=True)
    assert (forward - backward).abs().max() <= 1e-12
    assert torch.equal(torch.func.vmap(solve)(w), z)
    assert torch.autograd.gradcheck(solve, (leaf,), eps=1e-6, atol=1e-7)
    (second,) = torch.autograd.grad((backward * g).sum(), leaf)
    assert bool((second == 0).all())  # dz/du does not change with u, off kinks
    J = torch.func.jacrev(solve)(w[0])
    assert (J - J.T).abs().max() <= 1e-12
    assert (J @ g[0] - forward[0]).abs().max() <= 1e-12


def test_batches_in_turns_and_without_instances(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    P = polytopes.permutahedron(6)
    w, g = (utilities(P, 50, generator=generator) for _ in range(2))

    def solved() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = w.clone().requires_grad_()
        z = cvxsst.softmax(P, leaf, EUCLIDEAN, engine="vertices")
        return z.detach(), torch.autograd.grad(z, leaf, g)[0]

    whole = solved()
    monkeypatch.setattr(engine, "MOST_NUMBERS", 300)
    for a, b in zip(whole, solved(), strict=True):
        assert (a - b).abs().max() <= 1e-12
    assert cvxsst.softmax(P, w[:0], EUCLIDEAN, engine="vertices").shape == (0, 6)
    nothing = cp.Variable(0)
    empty = cvxsst.Polytope(nothing, [nothing >= 0])
    assert cvxsst.softmax(empty, torch.zeros(3, 0), EUCLIDEAN, engine="vertices").shape == (3, 0)


def test_the_oracle_is_the_cheapest(monkeypatch: pytest.MonkeyPatch) -> None:
    """All vertices where they are few, the family's oracle where not, also for what is recognized; else programs."""
    asked: list[str] = []
    for name in ("best_of", "by_family", "solved_by_linear_programs"):
        plain = getattr(engine, name)

        def spy(*arguments, name: str = name, plain=plain) -> torch.Tensor:
            asked.append(name)
            return plain(*arguments)

        monkeypatch.setattr(engine, name, spy)
    z = cp.Variable(4)
    simplex = [z >= 0, cp.sum(z) == 1]
    expected = {
        polytopes.matching(8): "best_of",
        polytopes.spanning_tree(8): "by_family",
        cvxsst.Polytope(z, simplex): "best_of",
        cvxsst.Polytope(z, simplex, recognize=False): "solved_by_linear_programs",
    }
    for P, name in expected.items():
        asked.clear()
        cvxsst.softmax(P, torch.zeros(P.shape), EUCLIDEAN, engine="vertices")
        assert set(asked) == {name}


def test_refuses_other_regularizers_in_words() -> None:
    for f in (cvxsst.CategoricalEntropy(), cvxsst.BinaryEntropy(), cvxsst.Custom(cp.sum_squares)):
        with pytest.raises(cvxsst.NoFastPathError, match="vertices solves for the Euclidean f"):
            cvxsst.softmax(polytopes.simplex(3), torch.zeros(3), f, engine="vertices")


def test_judged_by_the_validator() -> None:
    report = cvxsst.validate("vertices", polytopes.matching(4), EUCLIDEAN, n=6)
    assert report.passed, str(report)

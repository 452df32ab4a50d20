"""The engine facets beyond the laws: where facets come from, batches at every temperature, large trees, masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import cvxpy as cp
import networkx as nx
import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import cvxsst
import polytopes
from benchmarks import corpora
from benchmarks.corpora import KINDS, TWISTS, Declaration
from benchmarks.engines import extreme_instances
from benchmarks.judgement import Tally, judge
from cvxsst.engines import ENGINES
from cvxsst.engines.facets import derivative, newton
from cvxsst.engines.facets import engine as facets_engine
from cvxsst.engines.facets.derivative import face
from cvxsst.engines.facets.description import Description, described
from cvxsst.engines.facets.inequalities import Listed
from cvxsst.engines.facets.newton import Found
from cvxsst.engines.facets.state import State
from cvxsst.geometry.facets import affine_hull_by_oracle, facets, projection
from cvxsst.oracles import by_family
from cvxsst.polytope import Map
from cvxsst.regularizers import Separable
from polytopes import _cuts

from . import table
from .table import in_domain, utilities

POLYTOPES = table.POLYTOPES
EUCLIDEAN, CATEGORICAL, BINARY = cvxsst.Euclidean(), cvxsst.CategoricalEntropy(), cvxsst.BinaryEntropy()
REGULARIZERS = (EUCLIDEAN, CATEGORICAL, BINARY)
MORE = [
    polytopes.matching(6),
    polytopes.spanning_tree(6),
    polytopes.arborescence(5),
    polytopes.correlated_k_subset(8, 3),
]
CYCLE = list(corpora.generated(0, len(KINDS) * len(TWISTS)))  # every kind in every twist
LIFTED = {declaration.name.split()[1].rstrip(","): declaration for declaration in CYCLE[len(KINDS) : 2 * len(KINDS)]}
# beside those of the laws, which go through the same batches; of the last a thousand take too long
PROBLEMS = [(P, f) for P in MORE[:-1] for f in REGULARIZERS]


def solve(P: cvxsst.Polytope, u: torch.Tensor, f: cvxsst.Regularizer) -> torch.Tensor:
    return cvxsst.softmax(P, u, f, engine="facets")


def state(P: cvxsst.Polytope, f: Separable) -> State:
    return ENGINES["facets"].state(P, f)


# Where facets come from


@pytest.mark.parametrize(
    ("P", "count"),
    [
        (polytopes.simplex(4), 4),
        (polytopes.matching(6), 25),
        (polytopes.arborescence(5), 27),
        (polytopes.projective_tree(5), 42),
        (polytopes.permutahedron(6), 62),
        (polytopes.correlated_k_subset(10, 3), 655),
        (cvxsst.Polytope(z := cp.Variable(3), [cp.norm1(z) <= 1.7]), 8),
    ],
    ids=repr,
)
def test_facets_of_vertices_are_facets_and_all_of_them(P: cvxsst.Polytope, count: int) -> None:
    """Valid, tight at as many independent vertices as a facet has; together no larger than conv V."""
    V, (E, e) = P.vertices(), P.presolved.hull
    G, h = facets(V, E, e)
    slack = h - V @ G.T
    assert len(G) == count
    assert slack.min() >= -1e-9
    for tight in slack.T < 1e-9:
        assert np.linalg.matrix_rank(V[tight] - V[tight][0], tol=1e-7) == P.presolved.dimension - 1
    for c in np.random.default_rng(0).normal(size=(10, P.size)):
        found = linprog(-c, G, h, E, e, bounds=(None, None))
        assert abs(-found.fun - (V @ c).max()) <= 1e-7


@pytest.mark.parametrize(
    "P", [P for P in (*POLYTOPES, *MORE) if P.family is not None and P.presolved.dimension], ids=repr
)
def test_what_families_say_is_the_hull(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """Points of the affine hull and the bounds violate something if and only if they are outside of P; and no vertex
    violates anything."""
    description = described(P)
    assert isinstance(description, Description)
    free = description.free
    V = torch.from_numpy(P.vertices())
    weights = torch.distributions.Dirichlet(torch.full((len(V),), 0.05, dtype=torch.float64)).sample((60,))
    z = weights @ V
    z = z + torch.linspace(-0.4, 0.4, 60)[:, None] * (z - V.mean(0))  # some out of P, all in its hull
    lower, upper = (torch.from_numpy(bound) for bound in P.bounds)
    z = z[((z >= lower) & (z <= upper)).all(1)]
    outside = torch.tensor([P.presolved.distance(one) for one in z.numpy()])
    for points, far in ((z, outside), (V, torch.zeros(len(V)))):
        assert (points[:, free] @ description.E.T - description.e).abs().sum() <= 1e-8
        cuts = description.inequalities.cuts(points[:, free])
        violation = torch.cat([cuts.violation, torch.zeros(len(points), 1)], 1).amax(1)
        assert ((violation > 1e-8) == (far > 1e-8)).all()
        assert (violation <= 1e-8).all() if points is V else True


def test_minimum_cuts_find_what_weighing_all_sets_finds(generator: torch.Generator) -> None:
    def excess(S: torch.Tensor) -> torch.Tensor:
        S = S.double()
        return (torch.einsum("bki,bij,bkj->bk", S, Z, S) / 2 - S.sum(2) + 1).amax(1)

    for n in (2, 5, 9):
        Z = torch.rand(8, n, n, generator=generator, dtype=torch.float64).triu(1)
        Z *= torch.rand(8, n, n, generator=generator) < 0.6
        if n > 4:  # a triangle, and two nodes of which it is hard to tell whether to take them too
            Z[0] = 0.0
            Z[0, [0, 0, 1], [1, 2, 2]], Z[0, 0, 3:5] = 0.9, 1 + 1e-10
        Z = Z + Z.mT
        cut = torch.from_numpy(np.stack([_cuts._by_minimum_cuts(one) for one in Z.numpy()]))
        assert (excess(_cuts.crowded(Z)) - excess(cut)).abs().max() <= 1e-12


def test_affine_hull_by_the_oracle_is_that_of_the_declaration() -> None:
    for P in POLYTOPES:
        if P.knowledge is None or P.knowledge.argmax is None:
            continue
        oracle = P.knowledge.argmax

        def best(w: np.ndarray, P: cvxsst.Polytope = P, oracle: Map = oracle) -> np.ndarray:
            return by_family(P, oracle, torch.from_numpy(w), None).numpy()

        V, normals = affine_hull_by_oracle(best, P.size)
        E, e = P.presolved.hull
        assert len(normals) == len(E)
        assert np.abs(V @ E.T - e).max(initial=0.0) <= 1e-9


def test_refusals_say_what_would_help() -> None:
    able = ENGINES["facets"]
    assert "register @family.facets" in str(able.refusal(polytopes.projective_tree(7), EUCLIDEAN))
    assert "too many facets" in str(able.refusal(polytopes.projective_tree(6), EUCLIDEAN))
    assert "sum phi(z_i)" in str(able.refusal(polytopes.simplex(3), cvxsst.ExponentialFamily()))
    assert able.refusal(polytopes.spanning_tree(30), BINARY) is None
    z = cp.Variable(16)
    assert "too many inequalities" in str(able.refusal(cvxsst.Polytope(z, [cp.norm1(z) <= 1.7]), EUCLIDEAN))


def judged(declaration: Declaration, f: Separable, T: float) -> Tally:
    told = judge(declaration, f, T, "facets", batch=8)
    assert told.faults == 0, "\n".join(told.notes)
    return told


@pytest.mark.parametrize("kind", ["slab", "total_variation", "hull", "largest"])
def test_lifted_columns_are_eliminated(kind: str, generator: torch.Generator) -> None:
    """Every row holds all over P, and what satisfies all rows is in P: by linear programs on the declaration."""
    P = LIFTED[kind].P
    found, core = projection(P.presolved.core.form), P.presolved.core
    assert len(found.h) > 0
    for row, most in zip(found.G, found.h, strict=True):
        assert core.linear_program.maximize(row).value <= most + 1e-8
    for c in torch.randn(20, core.form.n, generator=generator, dtype=torch.float64).numpy():
        outer = linprog(-c, found.G, found.h, found.A, found.b, bounds=(None, None))
        assert abs(-outer.fun - core.linear_program.maximize(c).value) <= 1e-8


@pytest.mark.parametrize("kind", ["slab", "total_variation", "hull", "largest"])
def test_lifted_columns_are_found_again(kind: str, generator: torch.Generator) -> None:
    """The violation is that of the declaration's own rows: none in P, and some wherever z is out of it."""
    P = LIFTED[kind].P
    lifting = state(P, EUCLIDEAN).program(torch.device("cpu")).lifting
    assert lifting is not None
    c = torch.randn(12, P.size, generator=generator, dtype=torch.float64)
    z = cvxsst.argmax(P, c)
    middle = z.mean(0)
    assert lifting.violation(middle + 0.99 * (z - middle)).max() <= 1e-9
    out = middle + 1.1 * (z - middle)
    far = torch.tensor([P.presolved.distance(one) for one in out.numpy()])
    assert ((lifting.violation(out) > 1e-7) == (far > 1e-7)).all()


def test_a_list_that_lacks_a_row_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """z beyond the missing row is no solution, whatever the list says."""
    z = cp.Variable(3)
    P = cvxsst.Polytope(z, [z >= 0, cp.norm1(z) <= 1, z[0] + 2 * z[1] <= 0.5], name="lacking")
    whole = described(P)
    assert isinstance(whole, Description)
    assert isinstance(whole.inequalities, Listed)
    some = Listed(whole.inequalities.G[1:0], whole.inequalities.h[1:0])
    monkeypatch.setattr(facets_engine, "described", lambda P: replace(whole, inequalities=some))
    w = torch.tensor([[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]], dtype=torch.float64)
    _, info = cvxsst.softmax(P, w, EUCLIDEAN, engine="facets", on_failure="nan", return_info=True)
    assert info.converged.tolist() == [False, True]


@pytest.mark.parametrize(
    ("kind", "twist"), [("flow", "repeated rows"), ("half_spaces", "large"), ("knapsack", "mixed units")]
)
def test_rows_and_utilities_of_any_size(kind: str, twist: str) -> None:
    declaration = CYCLE[list(KINDS).index(kind) + len(KINDS) * TWISTS.index(twist)]
    for f in REGULARIZERS:
        if in_domain(declaration.judge, f):
            for T in (1.0, 0.01):
                told = judged(declaration, f, T)
                assert told.solved == told.certified == told.instances, "\n".join(told.notes)


def test_derivative_beside_entries_at_their_bounds() -> None:
    """Rows that differ in entries that do not move are one row: the metric polytope, at a degenerate point."""
    declaration = CYCLE[list(KINDS).index("cuts")]
    assert judged(declaration, EUCLIDEAN, 1.0).gradients >= 4


def test_one_dense_inequality_among_a_thousand_entries(generator: torch.Generator) -> None:
    """0 <= z <= 1, <c, z> <= h, where kkt is O(n^3): z = clip(u - lam c, 0, 1)."""
    n = 1000
    z, c = cp.Variable(n), torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
    h = 0.3 * float(c.sum())
    P = cvxsst.Polytope(z, [z >= 0, z <= 1, c.numpy() @ z <= h])
    u = torch.randn(8, n, generator=generator, dtype=torch.float64)
    found, info = cvxsst.softmax(P, u, EUCLIDEAN, engine="facets", return_info=True)
    assert info.converged.all()
    assert info.iterations.max() <= 10
    low, high = torch.zeros(8, 1, dtype=torch.float64), torch.full((8, 1), 100.0, dtype=torch.float64)
    for _ in range(100):
        lam = (low + high) / 2
        over = ((u - lam * c).clamp(0, 1) @ c > h)[:, None]
        low, high = torch.where(over, lam, low), torch.where(over, high, lam)
    assert (found - (u - high * c).clamp(0, 1)).abs().max() <= 1e-9


# Batches


@pytest.mark.parametrize(("P", "f"), PROBLEMS, ids=lambda x: repr(x).replace(" ", ""))
def test_a_thousand_utilities_at_every_temperature(
    P: cvxsst.Polytope, f: Separable, generator: torch.Generator
) -> None:
    """All are solved; some are certified; every gradient at a smooth point is the central difference of z."""
    T = torch.tensor([10.0, 1.0, 0.1, 0.01], dtype=torch.float64).repeat(250).reshape(-1, *[1] * len(P.shape))
    u, g = (utilities(P, 1000, generator=generator) for _ in range(2))
    u = (u / T).requires_grad_()
    z, info = cvxsst.softmax(P, u, f, engine="facets", return_info=True)
    assert info.converged.all()
    assert info.residual.max() <= 1e-9
    (gradient,) = torch.autograd.grad(z, u, g)
    z, u = z.detach(), u.detach()
    sample = torch.arange(0, 1000, 83)
    judged = cvxsst.certificate(P, z[sample], u[sample], f)
    assert judged.infeasibility.max() <= 1e-9
    assert (judged.gap / (1 + u[sample].flatten(1).abs().amax(1))).max() <= 1e-9
    far, near = ((solve(P, u + h * g, f) - solve(P, u - h * g, f)) / (2 * h) for h in (1e-4, 1e-5))
    smooth = (far - near).flatten(1).abs().amax(1) <= 1e-5
    assert smooth.sum() >= 800
    assert (gradient - near).flatten(1).abs().amax(1)[smooth].max() <= 1e-5


@pytest.mark.parametrize("P", [*POLYTOPES, *MORE], ids=repr)
def test_six_decades(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """Ties, zeros, |w| and T from 1e-3 to 1e3: none fails."""
    for f in REGULARIZERS:
        if in_domain(P, f):
            w, T = extreme_instances(P, 200, generator)
            z, info = cvxsst.softmax(P, w, f, T, engine="facets", return_info=True)
            judged = cvxsst.certificate(P, z[::40], w[::40], f, T[::40])
            assert info.converged.all()
            assert judged.infeasibility.max() <= 1e-8
            assert (judged.gap / (w[::40].abs().flatten(1).amax(1) + T[::40])).max() <= 1e-8


@pytest.mark.parametrize(("P", "f"), PROBLEMS, ids=lambda x: repr(x).replace(" ", ""))
def test_agrees_with_kkt(P: cvxsst.Polytope, f: Separable, generator: torch.Generator) -> None:
    u, g = (utilities(P, 40, generator=generator).requires_grad_() for _ in range(2))
    results = []
    for engine in ("facets", "kkt"):
        z = cvxsst.softmax(P, u, f, 0.5, engine=engine)
        results.append((z.detach(), torch.autograd.grad(z, u, g)[0].flatten(1)))
    assert (results[0][0] - results[1][0]).abs().max() <= 1e-8
    off = (results[0][1] - results[1][1]).abs().amax(1)
    assert (off <= 1e-6).sum() >= 39  # where slack and multiplier are both nearly 0 kkt is between two faces


def test_the_far_smaller_utility_is_right_or_told(generator: torch.Generator) -> None:
    for P in (polytopes.k_subset(5, 2), polytopes.spanning_tree(4), polytopes.matching(4)):
        for f in REGULARIZERS:
            w = utilities(P, 6, generator=generator)
            w[:, 1] = -1e30
            z, info = cvxsst.softmax(P, w, f, engine="facets", on_failure="nan", return_info=True)
            w[:, 1] = -torch.inf
            expected = solve(P, w, f)
            assert ((z - expected).abs().amax(1)[info.converged] <= 1e-8).all()


@pytest.mark.parametrize("P", [polytopes.spanning_tree(4), polytopes.matching(4), polytopes.k_subset(5, 2)], ids=repr)
def test_second_derivative(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    for f in REGULARIZERS:
        w = utilities(P, 2, generator=generator).requires_grad_()
        assert torch.autograd.gradgradcheck(lambda w, f=f: solve(P, w, f), w, eps=1e-5, atol=1e-4)


# The derivative's face


@pytest.mark.parametrize("f", [CATEGORICAL, BINARY], ids=repr)
def test_derivative_where_more_facets_are_tight_than_have_multipliers(f: Separable) -> None:
    P = polytopes.correlated_k_subset(8, 3)
    u = torch.zeros(P.shape, dtype=torch.float64)
    program = state(P, f).program(u.device)
    found = newton.solve(program, u[None], program.low[None], program.high[None])
    assert isinstance(program.inequalities, Listed)
    tight = program.inequalities.G[program.inequalities.G @ found.z[0] - program.inequalities.h > -1e-10]
    assert torch.linalg.matrix_rank(torch.cat([program.E, tight])) > len(program.E) + (found.lam > 0).sum()
    J = torch.autograd.functional.jacobian(lambda u: solve(P, u, f), u)
    h, eye = 1e-5, torch.eye(P.size, dtype=torch.float64)
    difference = (solve(P, u + h * eye, f) - solve(P, u - h * eye, f)) / (2 * h)
    assert (J - difference).abs().max() <= 1e-6


def test_tight_rows_of_a_separation_are_found_from_nearby() -> None:
    """z on the face of three sets, one in the next, of which one is known."""
    n, sets = 9, (3, 6, 9)
    P = polytopes.spanning_tree(n)
    program = state(P, BINARY).program(torch.device("cpu"))
    j = torch.triu_indices(n, n, 1)[1]
    shell = torch.stack([(j >= size).long() for size in sets[:-1]]).sum(0)  # the first set in which an edge lies
    edges = torch.bincount(shell)
    z = (torch.tensor([2.0, 3.0, 3.0], dtype=torch.float64) / edges)[shell][None]
    cut = program.inequalities.cuts(torch.where(j < sets[1], z + 1e-3, z - 1e-3)).worst()
    one = torch.ones(1, 1, dtype=torch.float64)
    found = Found(z, z > 0, cut.G, cut.h, one, one[0], torch.zeros(1, dtype=torch.long))
    rows = torch.cat([program.E, face(program, found)[0]])
    assert torch.linalg.matrix_rank(rows, atol=1e-9) == 3
    for size in sets:
        inside = (j < size).double()
        assert torch.linalg.matrix_rank(torch.cat([rows, inside[None]]), atol=1e-9) == 3


def test_backward_solves_that_miss_their_accuracy_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    P, w = polytopes.simplex(4), torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    monkeypatch.setattr(derivative, "ACCURACY", -1.0)
    z = cvxsst.softmax(P, w, BINARY, engine="facets")
    with pytest.raises(cvxsst.ConvergenceError, match="derivative"):
        z.sum().backward()
    z = cvxsst.softmax(P, w, BINARY, engine="facets", on_failure="nan")
    (gradient,) = torch.autograd.grad(z.sum(), w)
    assert gradient.isnan().all()


# -inf


@pytest.mark.parametrize("P", [P for P in (*POLYTOPES, *MORE) if P.presolved.dimension], ids=repr)
def test_masks_are_data_of_an_instance(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """z = 0 there and the rest as kkt has it; empties told, by linear programs on the declaration."""
    can = torch.from_numpy(P.bounds[0] >= -1e-9).reshape(P.shape)
    w = utilities(P, 100, generator=generator) / 0.3
    w[(torch.rand(w.shape, generator=generator) < 0.25) & can] = -torch.inf
    nothing = [
        np.isnan(P.presolved.distance(np.zeros(P.size), row.flatten().isinf().nonzero().flatten().tolist()))
        for row in w
    ]
    for f in REGULARIZERS:
        if not in_domain(P, f):
            continue
        z, info = cvxsst.softmax(P, w, f, engine="facets", on_failure="nan", return_info=True)
        assert info.empty.tolist() == nothing
        assert torch.equal(info.converged, ~info.empty)
        ok = info.converged
        assert (z[ok][w[ok].isinf()] == 0).all()
        expected = cvxsst.softmax(P, w[ok], f, engine="kkt", on_failure="nan")
        solved = ~expected.flatten(1).isnan().any(1)
        assert (z[ok] - expected)[solved].abs().max() <= 1e-7 if solved.any() else True


# A regularizer that nobody foresaw


@dataclass(frozen=True)
class PowerEntropy(Separable):
    """sum (z^a - z) / (a (a - 1)): phi' is finite at 0, and z does not move there."""

    a: float
    domain = (0.0, np.inf)
    steep: ClassVar[bool] = False

    def value(self, z: torch.Tensor) -> torch.Tensor:
        return torch.where(z < 0, torch.inf, (z.clamp_min(0.0) ** self.a - z) / (self.a * (self.a - 1)))

    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        return (z.clamp_min(0.0) ** (self.a - 1) - 1 / self.a) / (self.a - 1)

    def primal(self, u: torch.Tensor) -> torch.Tensor:
        return ((self.a - 1) * u + 1 / self.a).clamp_min(0.0) ** (1 / (self.a - 1))

    def slope(self, z: torch.Tensor) -> torch.Tensor:
        return z ** (2 - self.a)

    def divergence(self, z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        return (self.value(z) - self.value(z0) - self.gradient(z0) * (z - z0)).clamp_min(0.0)

    def curvature_up_to(self, bound: float) -> float:
        return max(bound, 1e-300) ** (self.a - 2)


@pytest.mark.parametrize("a", [1.2, 1.5, 1.8])
@pytest.mark.parametrize("P", [polytopes.simplex(5), polytopes.spanning_tree(5), *MORE], ids=repr)
def test_a_regularizer_that_reaches_the_faces(P: cvxsst.Polytope, a: float, generator: torch.Generator) -> None:
    f = PowerEntropy(a)
    u, g = (utilities(P, 200, generator=generator) for _ in range(2))
    u = (u / torch.tensor([3.0, 1.0, 0.3, 0.1]).repeat(50).reshape(-1, *[1] * len(P.shape))).requires_grad_()
    z, info = cvxsst.softmax(P, u, f, engine="facets", return_info=True)
    assert info.residual.max() <= 1e-9
    (gradient,) = torch.autograd.grad(z, u, g)
    z, u = z.detach(), u.detach()
    judged = cvxsst.certificate(P, z[::10], u[::10], f)
    assert judged.infeasibility.max() <= 1e-9
    assert judged.gap.abs().max() <= 1e-8
    far, near = ((solve(P, u + h * g, f) - solve(P, u - h * g, f)) / (2 * h) for h in (1e-4, 1e-5))
    smooth = (far - near).flatten(1).abs().amax(1) <= 1e-5
    assert smooth.sum() >= 150
    assert (gradient - near).flatten(1).abs().amax(1)[smooth].max() <= 1e-4


# Larger than a list


@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
def test_trees_on_twenty_nodes_with_proof(f: Separable, generator: torch.Generator) -> None:
    """In the hull: for each node a minimum cut, by another library; optimal there: the gap, by Prim's algorithm. The
    lifted form, of 7,600 columns, is never looked at."""
    n = 20
    P = polytopes.spanning_tree(n)
    u = utilities(P, 2, generator=generator) / torch.tensor([[1.0], [0.2]])
    z = solve(P, u, f)
    assert "presolved" not in P.__dict__
    g = u - f.gradient(z.clamp(1e-300, 1 - 1e-16))
    best = cvxsst.argmax(P, g)
    assert (g * (best - z)).sum(1).max() <= 1e-8
    i, j = np.triu_indices(n, 1)
    for one in z.numpy():
        assert abs(one.sum() - (n - 1)) <= 1e-9
        degree = np.bincount(i, one, n) + np.bincount(j, one, n)
        graph = nx.DiGraph()
        for a, b, x in zip(i, j, one.clip(0.0), strict=True):
            graph.add_edge(a, b, capacity=x)
            graph.add_edge(b, a, capacity=x)
        for k in range(n):
            graph.add_edge("s", k, capacity=max(degree[k] - 2, 0.0))
            graph.add_edge(k, "t", capacity=max(2 - degree[k], 0.0))
        for k in range(n):
            graph["s"][k]["capacity"] = float("inf")
            value = nx.minimum_cut_value(graph, "s", "t")
            graph["s"][k]["capacity"] = max(degree[k] - 2, 0.0)
            others = np.maximum(degree - 2, 0.0).sum()
            assert (value - others) / 2 - 1 >= -1e-8  # |S| - 1 - z(edges inside S), the least over S with k

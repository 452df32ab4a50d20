"""Polytopes known by an argmax oracle alone: tours, matchings by blossoms, members of the zoo without their rows."""

import copy
import itertools
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cvxpy as cp
import networkx as nx
import numpy as np
import pytest
import torch

import cvxsst
import polytopes
from cvxsst.errors import ArgumentTypeError

from .table import utilities
from .test_vertices_engine import central

EUCLIDEAN = cvxsst.Euclidean()
PAIRS = list(itertools.combinations(range(6), 2))


def tours(n: int) -> np.ndarray:
    """The tours of a travelling salesman through n cities, as edges ``(count, n (n - 1) / 2)``."""
    pairs = {pair: e for e, pair in enumerate(itertools.combinations(range(n), 2))}
    found = set()
    for order in itertools.permutations(range(1, n)):
        stops = (0, *order, 0)
        found.add(tuple(sorted(pairs[min(a, b), max(a, b)] for a, b in itertools.pairwise(stops))))
    Z = np.zeros((len(found), len(pairs)))
    for row, edges in zip(Z, sorted(found), strict=True):
        row[list(edges)] = 1.0
    return Z


TOURS = torch.from_numpy(tours(6))


def best_tour(w: torch.Tensor) -> torch.Tensor:
    return TOURS[(w @ TOURS.T).argmax(-1)]


def blossom(w: np.ndarray) -> np.ndarray:
    """The best perfect matching of 6 points."""
    graph = nx.Graph()
    graph.add_weighted_edges_from((i, j, w[e]) for e, (i, j) in enumerate(PAIRS))
    chosen = {tuple(sorted(edge)) for edge in nx.max_weight_matching(graph, maxcardinality=True)}
    return np.array([float(pair in chosen) for pair in PAIRS])


def top_three(w: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(w).scatter(-1, w.topk(3).indices, 1.0)


def hull_of(V: torch.Tensor, name: str) -> cvxsst.Polytope:
    """conv V as a declaration: z = V' a."""
    z, a = cp.Variable(V.shape[1]), cp.Variable(len(V), nonneg=True)
    return cvxsst.Polytope(z, [z == V.numpy().T @ a, cp.sum(a) == 1], name=name, recognize=False)


BY_ORACLE = [
    (cvxsst.Polytope.from_oracle(best_tour, 15, name="tours"), hull_of(TOURS, "tours")),
    (cvxsst.Polytope.from_oracle(blossom, 15, name="blossom", each=map), polytopes.matching(6)),
    (cvxsst.Polytope.from_oracle(top_three, 8, name="top three"), polytopes.k_subset(8, 3)),
]
TOP, DECLARED_TOP = BY_ORACLE[2]
each_pair = pytest.mark.parametrize(("P", "declared"), BY_ORACLE, ids=lambda P: P.name)


@each_pair
def test_value_and_gradient_are_those_of_the_declaration(P, declared, generator) -> None:
    for T in (5.0, 1.0, 0.1):
        w, g = (utilities(P, 24, generator=generator) for _ in range(2))
        found = []
        for Q, engine in ((P, "auto"), (declared, "kkt")):
            leaf = w.clone().requires_grad_()
            z, info = cvxsst.softmax(Q, leaf, EUCLIDEAN, T, engine=engine, return_info=True)
            found.append((z.detach(), T * torch.autograd.grad(z, leaf, g)[0]))
            assert set(info.engine) == {"vertices" if Q is P else "kkt"}
        _, smooth = central(P, w, g, T)
        assert (found[0][0] - found[1][0]).abs().max() <= 1e-6
        assert (found[0][1] - found[1][1])[smooth].abs().max() <= 1e-6
        certificate = cvxsst.certificate(P, found[0][0], w, EUCLIDEAN, T)
        assert certificate.gap.abs().max() <= 1e-9
        assert certificate.infeasibility.max() <= 1e-9


@each_pair
def test_certificate_is_that_of_the_declaration_and_its_distance_a_bound(P, declared, generator) -> None:
    """Inside: the same gap. Outside: no less than the distance, in the maximum norm, and no more than in the other."""
    w = utilities(P, 12, generator=generator)
    V = torch.from_numpy(declared.vertices())
    a = torch.rand(6, len(V), generator=generator, dtype=torch.float64)
    inside = (a / a.sum(1, keepdim=True)) @ V
    z = torch.cat([inside, inside + 0.3 * utilities(P, 6, generator=generator)])
    mine, theirs = (cvxsst.certificate(Q, z, w, EUCLIDEAN) for Q in (P, declared))
    assert mine.infeasibility[:6].max() <= 1e-9
    assert (mine.gap - theirs.gap)[:6].abs().max() <= 1e-9
    assert bool((mine.infeasibility[6:] >= theirs.infeasibility[6:] - 1e-9).all())
    assert bool((mine.infeasibility[6:] <= P.size**0.5 * theirs.infeasibility[6:] + 1e-9).all())
    assert theirs.infeasibility[6:].min() > 1e-3


@each_pair
def test_what_minus_infinity_forbids_is_avoided_or_leaves_nothing(P, declared, generator) -> None:
    w = utilities(P, 12, generator=generator)
    w = w.masked_fill(torch.rand(w.shape, generator=generator) < 0.25, -torch.inf)
    w[3] = -torch.inf
    z, info = cvxsst.softmax(P, w, EUCLIDEAN, on_failure="nan", return_info=True)
    expected, by_kkt = cvxsst.softmax(declared, w, EUCLIDEAN, engine="kkt", on_failure="nan", return_info=True)
    assert torch.equal(info.empty, by_kkt.empty)
    assert bool(info.empty[3])
    left = ~info.empty
    assert int(left.sum()) >= 3
    assert bool((z[left][torch.isinf(w[left])] == 0).all())
    assert (z - expected)[left].abs().max() <= 1e-6
    assert torch.equal(cvxsst.argmax(P, w[left]), cvxsst.argmax(declared, w[left]))
    assert cvxsst.certificate(P, z[left], w[left], EUCLIDEAN).gap.max() <= 1e-9
    for solve in (cvxsst.softmax, cvxsst.argmax):
        with pytest.raises(cvxsst.EmptyPolytopeError, match="3"):
            solve(P, w)


def test_minus_infinity_where_an_entry_can_be_negative_is_an_error() -> None:
    P = cvxsst.Polytope.from_oracle(torch.sign, 3)
    with pytest.raises(ValueError, match="can be negative"):
        cvxsst.softmax(P, torch.tensor([0.0, -torch.inf, 1.0]))


def test_every_way_to_differentiate_and_every_batch(generator) -> None:
    w, g = (utilities(TOP, 4, generator=generator) for _ in range(2))

    def solve(x: torch.Tensor) -> torch.Tensor:
        return cvxsst.softmax(TOP, x, EUCLIDEAN, 0.7)

    leaf = w.clone().requires_grad_()
    (backward,) = torch.autograd.grad(solve(leaf), leaf, g, create_graph=True)
    z, forward = torch.func.jvp(solve, (w,), (g,))[:2]
    assert (forward - backward).abs().max() <= 1e-12
    assert torch.autograd.gradcheck(solve, (leaf,), eps=1e-6, atol=1e-7)
    assert bool((torch.autograd.grad((backward * g).sum(), leaf)[0] == 0).all())  # twice: 0, off kinks
    assert torch.equal(torch.func.vmap(solve)(w), z)
    assert (solve(w[1]) - z[1]).abs().max() <= 1e-12
    assert solve(w[:0]).shape == (0, 8)
    assert cvxsst.argmax(TOP, w[:0]).shape == (0, 8)
    assert solve(w.float()).dtype == torch.float32
    T = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda T: cvxsst.softmax(TOP, w, EUCLIDEAN, T), (T,), eps=1e-6, atol=1e-7)


def test_one_call_a_step_for_all_that_are_still_on_their_way(generator) -> None:
    asked: list[int] = []

    def counted(w: torch.Tensor) -> torch.Tensor:
        asked.append(len(w))
        return best_tour(w)

    P = cvxsst.Polytope.from_oracle(counted, 15)
    asked.clear()
    _, info = cvxsst.softmax(P, utilities(P, 100, generator=generator), temperature=0.3, return_info=True)
    steps = int(info.iterations.max())
    assert asked[:2] == [100, 100]
    assert len(asked) <= steps + 5  # the last few complete faces
    assert asked[:steps] == [int((info.iterations > step).sum()) for step in range(steps)]
    assert len(set(info.iterations.tolist())) > 3  # each stops on its own


def test_an_oracle_of_single_instances_is_looped_over_or_run_in_a_pool(generator) -> None:
    w = utilities(BY_ORACLE[1][0], 6, generator=generator)
    looped = cvxsst.softmax(BY_ORACLE[1][0], w)
    with ThreadPoolExecutor(2) as pool:
        P = cvxsst.Polytope.from_oracle(blossom, (15,), each=pool.map)
        assert torch.equal(cvxsst.softmax(P, w), looped)
        assert torch.equal(cvxsst.argmax(P, w), cvxsst.argmax(BY_ORACLE[1][0], w))
    with pytest.raises(ValueError, match=r"answer 0 is float32 of shape \(15,\)"):
        cvxsst.Polytope.from_oracle(lambda w: blossom(w).astype(np.float32), 15, each=map)
    with pytest.raises(ValueError, match="must map as the built-in map does"):
        cvxsst.Polytope.from_oracle(blossom, 15, each=lambda f, rows: [f(rows[0])])


def moody(w: torch.Tensor) -> torch.Tensor:
    return top_three(w + 0.1 * torch.rand(w.shape, dtype=w.dtype))


WRONG: dict[str, tuple[Callable, str]] = {
    "no tensor": (lambda w: top_three(w).numpy(), "returned ndarray; it must return a torch.Tensor"),
    "shape": (lambda w: top_three(w)[:, :4], r"tensor of shape \(5, 4\) for utilities of shape \(5, 8\)"),
    "one for all": (lambda w: top_three(w)[0], r"tensor of shape \(8,\) for utilities of shape \(5, 8\)"),
    "dtype": (lambda w: top_three(w).float(), "dtype torch.float32 for utilities of dtype torch.float64"),
    "integers": (lambda w: top_three(w).long(), "dtype torch.int64"),
    "not finite": (lambda w: top_three(w) / 0, "not finite"),
    "random ties": (moody, "not deterministic: asked twice for w = "),
    "the worst": (lambda w: top_three(-w), "not maximal: for w = "),
    "negated": (lambda w: -top_three(w), "not maximal: for w = "),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_oracle_is_told_when_it_is_declared(how: str) -> None:
    oracle, says = WRONG[how]
    with pytest.raises(ValueError, match=says):
        cvxsst.Polytope.from_oracle(oracle, 8)


def test_an_oracle_that_turns_wrong_later_is_told_by_what_it_said_before(generator) -> None:
    calls, lies_after = 0, 1_000

    def turncoat(w: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return top_three(-w if calls > lies_after else w)

    P = cvxsst.Polytope.from_oracle(turncoat, 8, name="turncoat")
    w, lies_after = utilities(P, 5, generator=generator), calls + 1
    with pytest.raises(ValueError, match=r"that of turncoat is not maximal: for w = .* and for other utilities"):
        cvxsst.softmax(P, w)


def test_an_oracle_may_write_into_its_utilities_and_reuse_its_memory(generator) -> None:
    memory = torch.zeros(64, 8, dtype=torch.float64)

    def careless(w: torch.Tensor) -> torch.Tensor:
        memory[: len(w)] = top_three(w)
        w[:] = 0
        return memory[: len(w)]

    P, w = cvxsst.Polytope.from_oracle(careless, 8), utilities(TOP, 20, generator=generator)
    assert torch.equal(cvxsst.softmax(P, w), cvxsst.softmax(TOP, w))
    first = cvxsst.argmax(P, w)
    cvxsst.argmax(P, -w)
    assert torch.equal(first, top_three(w))


def test_arguments_that_cannot_work_are_told() -> None:
    with pytest.raises(ArgumentTypeError, match="oracle: expected a function"):
        cvxsst.Polytope.from_oracle(3, 4)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ArgumentTypeError, match="shape: expected an int or a tuple of ints"):
        cvxsst.Polytope.from_oracle(top_three, "8")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="at least 1"):
        cvxsst.Polytope.from_oracle(top_three, (0,))


def test_what_an_oracle_cannot_tell_is_refused_in_words(generator) -> None:
    w = utilities(TOP, generator=generator)
    for engine in ("kkt", "facets", "cvxpylayer"):
        with pytest.raises(cvxsst.NoFastPathError, match=f"{engine} needs constraints, .* its argmax oracle alone"):
            cvxsst.softmax(TOP, w, engine=engine)
    with pytest.raises(cvxsst.NoFastPathError, match="cannot tell that nothing is missing"):
        cvxsst.softmax(TOP, w, cvxsst.ExponentialFamily())
    with pytest.raises(cvxsst.NoFastPathError, match="this needs constraints"):
        cvxsst.argmax(TOP, w, engine="lp")


def test_distributions_layers_and_copies(generator) -> None:
    theta = utilities(TOP, generator=generator).requires_grad_()
    gumbel = torch.distributions.Gumbel(theta, 1.0)
    hard, soft = cvxsst.StochasticArgmax(gumbel, TOP), cvxsst.StochasticSoftmax(gumbel, TOP, temperature=0.5)
    samples, relaxed = hard.sample((30,)), soft.rsample((30,))
    assert bool((samples.sum(-1) == 3).all())
    assert bool(hard.support.check(samples).all())
    assert bool(soft.support.check(relaxed).all())
    assert not bool(soft.support.check(relaxed + 1e-3).any())
    relaxed.square().sum().backward()
    assert theta.grad is not None
    assert theta.grad.abs().max() > 0
    layer = cvxsst.SoftmaxLayer(TOP, EUCLIDEAN, 0.5)
    again = pickle.loads(pickle.dumps(layer))
    assert torch.equal(again(theta), layer(theta))
    assert copy.deepcopy(TOP) is TOP
    assert repr(pickle.loads(pickle.dumps(TOP))) == "top three"


@pytest.mark.parametrize("candidate", ["auto", lambda u: cvxsst.softmax(DECLARED_TOP, u, EUCLIDEAN)])
def test_judged_by_the_validator(candidate) -> None:
    report = cvxsst.validate(candidate, TOP, EUCLIDEAN, n=6, temperatures=(1.0, 0.1), progress=False)
    assert report.passed, str(report)
    assert report.references  # an oracle alone has an independent reference too


def test_a_wrong_candidate_is_told_by_the_oracle() -> None:
    report = cvxsst.validate(
        lambda u: torch.softmax(u, -1) * 3, TOP, EUCLIDEAN, n=4, temperatures=(0.1,), masks=False, progress=False
    )
    assert {"feasible", "value"} <= set(report.failed)


def test_audit_says_what_an_oracle_alone_cannot_prove() -> None:
    audit = cvxsst.audit(TOP)
    assert audit.passed
    assert audit.dimension == 7
    assert audit.answers is not None
    assert 40 <= audit.answers <= 56
    assert "proves neither that its answers are maximal" in " ".join(str(audit).split())

    def forgets(w: torch.Tensor) -> torch.Tensor:  # the last item, where it is not by far the best
        return top_three(w - 2.0 * torch.eye(8, dtype=w.dtype)[7] * (w[:, 7:] < 2.0))

    audit = cvxsst.audit(cvxsst.Polytope.from_oracle(forgets, 8, name="forgetful"))
    assert not audit.passed
    assert "the oracle is WRONG: another of its answers is better" in " ".join(str(audit).split())
    w, z = audit.refuted[0].w, audit.refuted[0].z
    assert w @ top_three(torch.from_numpy(w)).numpy() > w @ z + 1e-6


@cvxsst.polytope(examples=[(4,)])
def rankings(n):
    return n


@rankings.argmax
def ranks(w, n):
    return w.argsort(-1).argsort(-1).to(w) + 1


def test_a_family_by_its_argmax_alone(generator) -> None:
    P, declared = rankings(4), polytopes.permutahedron(4)
    assert P is rankings(n=4)
    assert not P.declared
    assert P.shape == (4,)
    assert P.family is rankings
    w = utilities(P, 20, generator=generator)
    assert (cvxsst.softmax(P, w) - cvxsst.softmax(declared, w)).abs().max() <= 1e-9
    assert cvxsst.which_engine(P, EUCLIDEAN) == "vertices"
    assert pickle.loads(pickle.dumps(P)) is P
    with pytest.raises(cvxsst.NoFastPathError, match=r"register @family\.structures"):
        P.vertices()
    with pytest.raises(ValueError, match="no fast path is registered"):
        cvxsst.softmax(P, w, backward="unroll", engine="fast")


def test_a_family_may_list_its_structures_too(generator) -> None:
    @cvxsst.polytope
    def chosen(n, k):
        return (n,)

    with pytest.raises(ArgumentTypeError, match=r"with @chosen\.argmax, or return \(variable, constraints\)"):
        chosen(5, 2)
    chosen.argmax(lambda w, n, k: torch.zeros_like(w).scatter(-1, w.topk(k).indices, 1.0))

    @chosen.structures
    def subsets(n, k):
        return (np.isin(np.arange(n), c).astype(float) for c in itertools.combinations(range(n), k))

    P, w = chosen(5, 2), utilities(polytopes.k_subset(5, 2), 10, generator=generator)
    audit = cvxsst.audit(P)
    assert audit.passed
    assert audit.structures == 10
    f = cvxsst.ExponentialFamily()
    assert cvxsst.which_engine(P, f) == "enumeration"
    assert (cvxsst.softmax(P, w, f) - cvxsst.softmax(polytopes.k_subset(5, 2), w, f)).abs().max() <= 1e-9
    chosen.argmax(lambda w, n, k: torch.zeros_like(w).scatter(-1, w[..., : n - 1].topk(k).indices, 1.0))
    audit = cvxsst.audit(chosen(5, 2))
    assert "a structure of the family's list is better" in " ".join(str(audit).split())

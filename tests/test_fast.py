"""The fast paths of thresholds, counts and trees beyond the laws: extreme scales, masks, derivatives of every order."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import cvxsst
import polytopes
from benchmarks.engines import extreme_instances
from cvxsst import BinaryEntropy, CategoricalEntropy, Euclidean, ExponentialFamily, engines, values
from cvxsst.family import Member
from polytopes import _counting, _laplacian, _threshold
from polytopes._programs import IMPOSSIBLE
from polytopes.relaxed_eisner import relaxed_eisner

from .table import utilities

DIAMOND = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (0, 3)]
SEPARABLE = [
    (P, regularizer)
    for P in (polytopes.simplex(7), polytopes.cube(5), polytopes.k_subset(9, 4), polytopes.k_subset(30, 29))
    for regularizer in (Euclidean(), CategoricalEntropy(), BinaryEntropy())
]
COUNTED = [
    polytopes.simplex(5),
    polytopes.cube(4),
    polytopes.k_subset(2, 1),
    polytopes.k_subset(8, 3),
    polytopes.k_subset(7, 6),
    polytopes.correlated_k_subset(6, 3),
    polytopes.path(4, DIAMOND),
    polytopes.spanning_tree(5),
    polytopes.spanning_tree(5, [(2, 0), (0, 1), (1, 3), (3, 2), (3, 4)]),
    polytopes.arborescence(4),
    polytopes.arborescence(5, True),
    polytopes.projective_tree(5),
    polytopes.projective_tree(5, True),
]
each_counted = pytest.mark.parametrize("P", COUNTED, ids=repr)


def listed(P: cvxsst.Polytope) -> torch.Tensor:
    """Z by the page's own definition, ``(count, size)``."""
    assert P.family is not None
    assert P.family.structure_list is not None
    return torch.from_numpy(np.array(list(P.family.structure_list(**P.arguments)))).reshape(-1, P.size)


def by_enumeration(w: torch.Tensor, Z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A(w) and E[z] over the list; -inf allowed."""
    scores = torch.where(Z > 0, w.flatten(1)[:, None, :], 0.0).sum(-1)
    A = scores.logsumexp(-1)
    return A, torch.where(A[:, None] > -torch.inf, (scores - A[:, None].nan_to_num(neginf=0.0)).exp() @ Z, torch.nan)


@pytest.mark.parametrize(("P", "regularizer"), SEPARABLE, ids=str)
def test_thresholds_over_six_decades_agree_with_the_generic_engine(P, regularizer, generator: torch.Generator) -> None:
    w, T = extreme_instances(P, 200, generator)
    allowed = torch.rand(w.shape, generator=generator) < 0.9
    w = torch.where(allowed | (torch.arange(200)[:, None] % 2 == 0), w, -torch.inf)
    fast, info = cvxsst.softmax(P, w, regularizer, T, engine="fast", on_failure="nan", return_info=True)
    generic, judged = cvxsst.softmax(P, w, regularizer, T, engine="kkt", on_failure="nan", return_info=True)
    assert torch.equal(info.empty, judged.empty)
    assert torch.equal(info.converged, judged.converged)
    assert (fast - generic).nan_to_num().abs().max() <= 1e-8
    assert (fast[w == -torch.inf].nan_to_num() == 0).all()
    if P.family is not polytopes.cube:
        total = P.arguments.get("k", 1)
        assert (fast[info.converged].sum(1) - total).abs().max() <= 1e-10 * total


@each_counted
@pytest.mark.parametrize("masked", [False, True])
def test_exponential_families_are_the_enumeration_at_any_scale(P, masked: bool, generator: torch.Generator) -> None:
    """z, A, and the first and second derivatives of z."""
    Z = listed(P)
    for scale in (1e-3, 1.0, 30.0, 1e3, 1e6):
        w = utilities(P, 40, generator=generator, scale=scale)
        if masked:
            w = w.masked_fill(torch.rand(w.shape, generator=generator) < 0.2, -torch.inf)
        w[0] = w[0].sign() * scale if not masked else w[0]  # ties
        A, z = by_enumeration(w, Z)
        fast, info = cvxsst.softmax(P, w, ExponentialFamily(), engine="fast", on_failure="nan", return_info=True)
        assert torch.equal(info.empty, torch.isneginf(A))
        alive = ~info.empty
        assert (fast.flatten(1) - z)[alive].abs().max() <= 2e-11 * max(1.0, scale * 1e-3)
        assert P.knowledge is not None
        assert P.knowledge.log_partition is not None
        found = P.knowledge.log_partition(w)
        assert torch.equal(torch.isneginf(found), ~alive)
        assert ((found - A)[alive].abs() <= 1e-12 * (5 + A[alive].abs() + P.size * scale)).all()


@each_counted
def test_derivatives_of_exponential_families_are_those_of_the_enumeration(P, generator: torch.Generator) -> None:
    Z = listed(P)
    for scale in (1.0, 12.0):
        w = utilities(P, 6, generator=generator, scale=scale).requires_grad_()
        g, h = (utilities(P, 6, generator=generator) for _ in range(2))
        found = []
        for z in (
            cvxsst.softmax(P, w, ExponentialFamily(), engine="fast").flatten(1),
            by_enumeration(w, Z)[1],
        ):
            plain = torch.autograd.grad(z, w, g.flatten(1), retain_graph=True)[0]
            first = torch.autograd.grad(z, w, g.flatten(1), create_graph=True)[0]
            second = torch.autograd.grad(first, w, h)[0]
            found.append((plain, first, second))
        for mine, expected in zip(*found, strict=True):
            assert (mine - expected).abs().max() <= 1e-10


@pytest.mark.parametrize(
    ("P", "regularizer"),
    [*SEPARABLE[:9], *((P, ExponentialFamily()) for P in COUNTED)],
    ids=str,
)
def test_function_transforms(P, regularizer, generator: torch.Generator) -> None:
    """vmap is the loop, jvp is vjp (J is symmetric), jacrev has both."""

    def solve(w: torch.Tensor) -> torch.Tensor:
        return cvxsst.softmax(P, w, regularizer, 0.7, engine="fast")

    w, v = (utilities(P, 3, generator=generator) for _ in range(2))
    assert torch.allclose(torch.func.vmap(solve)(w), solve(w), atol=1e-12)
    leaf = w.clone().requires_grad_()
    (vjp,) = torch.autograd.grad(solve(leaf), leaf, v)
    assert torch.allclose(torch.func.jvp(solve, (w,), (v,))[1], vjp, atol=1e-10)
    J = torch.func.jacrev(solve)(w[0]).reshape(P.size, P.size)
    assert torch.allclose(J @ v[0].flatten(), vjp[0].flatten(), atol=1e-10)


@pytest.mark.parametrize("k", [1, 3])
def test_second_derivatives_of_the_smooth_thresholds(k: int, generator: torch.Generator) -> None:
    for function in (_threshold.binary, _threshold.categorical):
        u = torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda v, f=function: f(v, k), u, atol=1e-6)
        assert torch.autograd.gradgradcheck(lambda v, f=function: f(v, k), u, atol=1e-5)


def test_thousands_of_items(generator: torch.Generator) -> None:
    """Against the dynamic program over (item, count), and by the symmetry of choosing what to leave out."""
    n, k = 4000, 37
    u = 3 * torch.randn(2, n, generator=generator, dtype=torch.float64)
    z = cvxsst.softmax(polytopes.k_subset(n, k), u, ExponentialFamily())
    left_out = cvxsst.softmax(polytopes.k_subset(n, n - k), -u, ExponentialFamily())
    assert (z + left_out - 1).abs().max() <= 1e-11
    assert (z.sum(1) - k).abs().max() <= 1e-10
    a = np.full((2, k + 1), -np.inf)
    a[:, 0] = 0
    for column in u.T.numpy():
        a[:, 1:] = np.logaddexp(a[:, 1:], a[:, :-1] + column[:, None])
    assert (_counting.log_partition(u, k, _counting.Angles.of(n, k)) - torch.from_numpy(a[:, k])).abs().max() <= 1e-9


def by_position(u: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """A of the correlated k-subsets, item by item: by count, without the last item or with it."""
    none = torch.full_like(u[:, :1], -1e300)
    out, taken = torch.cat([0 * none, none.expand(-1, k)], 1), none.expand(-1, k + 1)
    for i in range(n):
        run = taken + u[:, n + i - 1, None] if i else taken
        entered = u[:, i, None] + torch.stack([out, run]).logsumexp(0)[:, :-1]
        out, taken = torch.stack([out, taken]).logsumexp(0), torch.cat([none, entered], 1)
    return torch.stack([out[:, k], taken[:, k]]).logsumexp(0)


@pytest.mark.parametrize(
    ("n", "k", "scale", "forbidden"), [(350, 10, 1.0, 0), (60, 50, 30.0, 0), (60, 50, 1.0, 5), (40, 1, 300.0, 3)]
)
def test_correlated_subsets_by_count_are_those_by_position(n, k, scale, forbidden, generator) -> None:
    """Value, marginals and their derivative, also where choices are exp(1000) times as probable as others, or the first
    items cannot be chosen at all."""
    u, g = scale * torch.randn(2, 2, 2 * n - 1, generator=generator, dtype=torch.float64)
    u[:, :forbidden] = IMPOSSIBLE
    u.requires_grad_()
    P, A = polytopes.correlated_k_subset(n, k), by_position(u, n, k)
    (z,) = torch.autograd.grad(A.sum(), u, create_graph=True)
    (Jg,) = torch.autograd.grad(z, u, g)
    u = u.detach().masked_fill(u == IMPOSSIBLE, -torch.inf).requires_grad_()
    found = cvxsst.softmax(P, u, ExponentialFamily(), engine="fast")
    assert P.knowledge is not None
    assert P.knowledge.log_partition is not None
    assert torch.allclose(P.knowledge.log_partition(u), A, rtol=1e-13)
    assert (found - z).abs().max() <= 1e-13 * (10 + A.abs().max())
    assert (torch.autograd.grad(found, u, g)[0] - Jg).abs().max() <= 1e-12 * (10 + A.abs().max()) * scale
    chosen = cvxsst.argmax(P, u)
    sharp = cvxsst.softmax(P, u, ExponentialFamily(), temperature=1e-6 * scale, engine="fast")
    assert (chosen - sharp).abs().max() <= 1e-6


def test_one_multiplier_is_enough_for_every_gap() -> None:
    """Two groups so far apart that sums of exponentials overflow: the threshold lies between them."""
    for gap in (1.0, 40.0, 800.0, 1e8):
        u = torch.tensor([gap, gap, 0.0, 0.0, 0.0], dtype=torch.float64)
        z = _threshold.binary(u, 2)
        assert torch.allclose(z.sum(), torch.tensor(2.0, dtype=torch.float64), rtol=1e-14)
        # odds of the two groups differ by e^gap: 2 (1 - p) = 3 q, p / (1 - p) = e^gap q / (1 - q)
        p, q = z[0], z[4]
        if gap <= 40:
            assert math.isclose((p / (1 - p) / (q / (1 - q))).log().item(), gap, rel_tol=1e-1 if gap == 40 else 1e-12)


def test_kirchhoff_keeps_every_digit_over_a_hundred_powers_of_e(generator: torch.Generator) -> None:
    """float32, utilities from -50 to 50, on a complete graph and on a sparse one: shifts change nothing, Cayley."""
    for edges in (None, [(i, i + 1) for i in range(7)] + [(0, 4), (2, 7), (3, 6)]):
        P = polytopes.spanning_tree(8, edges)
        w = (100 * torch.rand(50, *P.shape, generator=generator) - 50).float()
        z = cvxsst.softmax(P, w, ExponentialFamily())
        exact = cvxsst.softmax(P, w.double(), ExponentialFamily())
        shifted = cvxsst.softmax(P, w - 30, ExponentialFamily())
        assert (z - exact).abs().max() <= 1e-6
        assert (z - shifted).abs().max() <= 1e-3  # w - 30 itself is rounded: by 4e-6 of a utility
        assert (exact.sum(1) - 7).abs().max() <= 1e-12
        assert P.knowledge is not None
        path = P.knowledge.softmax(ExponentialFamily)
        assert path is not None
        single = path(w)  # float32 all the way
        assert single.dtype == torch.float32
        assert (single - exact).abs().max() <= 2e-4
    for n in (2, 5, 30):
        log_partition = Member(polytopes.spanning_tree, {"n": n, "edges": None}).log_partition
        assert log_partition is not None
        A = log_partition(torch.zeros(n * (n - 1) // 2).double())
        assert math.isclose(A.item(), (n - 2) * math.log(n), abs_tol=1e-10)


def test_three_ways_to_the_same_marginals(generator: torch.Generator) -> None:
    """By the inverse, by elimination and by logarithms; and where weights underflow."""
    u = 8 * torch.rand(20, 6, 6, generator=generator, dtype=torch.float64)
    ways = (
        lambda v: v.exp() * _laplacian._from_inverse(_laplacian.inverse(v.exp())),
        lambda v: v.exp() * _laplacian.Elimination.of(v.exp()).R,
        _laplacian.in_logs,
    )
    outside = torch.eye(6, dtype=torch.bool)
    outside[:, 0] = True
    u = u.masked_fill(outside, IMPOSSIBLE)
    u = u - u.amax(1, keepdim=True).clamp_min(IMPOSSIBLE / 2)
    first, second, third = (way(u.clone()) for way in ways)
    assert (first - third).abs().max() <= 1e-12
    assert (second - third).abs().max() <= 1e-12
    # the arcs out of the root weigh so little that as numbers they have lost most of their digits
    faint = torch.tensor([[0.0, -720.0, -720.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.isclose(_laplacian.softmax(faint)[0, 1], torch.tensor(0.5, dtype=torch.float64).sigmoid(), atol=1e-12)
    wide = torch.where(u > IMPOSSIBLE / 2, 400 * u, u)
    assert (_laplacian.softmax(wide) - _laplacian.in_logs(wide)).abs().max() <= 1e-9


def test_arborescences_count() -> None:
    """(n + 1)^(n - 1) on a root and n nodes; n^(n - 1) of them with a single child."""
    for n in (1, 2, 5, 9):
        zero = torch.zeros(n + 1, n + 1, dtype=torch.float64)
        several = polytopes.arborescence.log_partition_function(zero, n + 1)  # type: ignore[misc]
        single = polytopes.arborescence.log_partition_function(zero, n + 1, True)  # type: ignore[misc]
        assert math.isclose(several.item(), (n - 1) * math.log(n + 1), abs_tol=1e-9)
        assert math.isclose(single.item(), (n - 1) * math.log(n), abs_tol=1e-9)


def test_a_single_child_is_the_better_of_the_subtrees(generator: torch.Generator) -> None:
    for family in (polytopes.arborescence, polytopes.projective_tree):
        P = family(5, True)
        w = utilities(P, 60, generator=generator, scale=5.0)
        w[:30, 0] += 100  # as many children as possible would be best
        z = cvxsst.argmax(P, w)
        assert (z[:, 0].sum(1) == 1).all()
        best = torch.stack([(w * v).sum((1, 2)) for v in listed(P).reshape(-1, 5, 5)]).amax(0)
        assert ((z * w).sum((1, 2)) - best).abs().max() <= 1e-9


def test_corro_and_titov_is_a_point_of_the_hull_but_no_softmax(generator: torch.Generator) -> None:
    P = polytopes.projective_tree(5)
    w = utilities(P, 4, generator=generator)
    z = relaxed_eisner(w)
    certificate = cvxsst.certificate(P, z, w, Euclidean())
    assert certificate.infeasibility.max() <= 1e-9
    assert (relaxed_eisner(w / 1e-3) - cvxsst.argmax(P, w)).abs().max() <= 1e-6
    u = w[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(relaxed_eisner, u, atol=1e-6)
    J = torch.func.jacrev(lambda v: relaxed_eisner(v.reshape(1, 5, 5)).flatten())(w[0].flatten())
    assert (J - J.T).abs().max() > 1e-3
    with pytest.raises(ValueError, match="square"):
        relaxed_eisner(torch.zeros(2, 3))


def test_corro_and_titov_divides_each_choice_by_a_softmax() -> None:
    """Two words: the second hangs on the root next to the first, or on the first, or the first on it. By hand."""
    w = torch.tensor([[0.0, 0.3, -0.2], [0.0, 0.0, 0.9], [0.0, 0.5, 0.0]], dtype=torch.float64)
    # the span 0 -> 2 is built from its outermost child of the root: 1 (with 2 below it) or 2
    below = w[0, 1] + w[1, 2]
    # between 0 and 2: 1 hangs on 0, or on 2 (which is then the only child of 0)
    inner = torch.stack([w[2, 1], w[0, 1]])
    share = inner.softmax(0)
    beyond = (share * inner).sum() + w[0, 2]
    first = torch.stack([below, beyond]).softmax(0)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[0, 1] = first[0] + first[1] * share[1]
    expected[1, 2], expected[0, 2], expected[2, 1] = first[0], first[1], first[1] * share[0]
    assert torch.allclose(relaxed_eisner(w), expected, atol=1e-12)


def test_all_structures_and_empty_batches() -> None:
    for P, regularizer in itertools.chain(SEPARABLE, ((P, ExponentialFamily()) for P in COUNTED)):
        for batch in ((0,), (2, 0), (2, 3)):
            w = torch.zeros(*batch, *P.shape, requires_grad=True)
            z = cvxsst.softmax(P, w, regularizer, engine="fast")
            assert z.shape == w.shape
            z.sum().backward()


def test_a_path_answers_nan_all_over_where_too_few_are_allowed(generator: torch.Generator) -> None:
    """By its own contract, whoever calls it; k of them are just enough."""
    w = utilities(polytopes.k_subset(6, 3), 3, generator=generator)
    w[0, 2:], w[1, 3:] = -torch.inf, -torch.inf
    knowledge = polytopes.k_subset(6, 3).knowledge
    assert knowledge is not None
    for regularizer in (Euclidean, CategoricalEntropy, BinaryEntropy, ExponentialFamily):
        path = knowledge.softmax(regularizer)
        assert path is not None
        z = path(w)
        assert z[0].isnan().all(), regularizer
        assert (z[1] - torch.tensor([1.0, 1, 1, 0, 0, 0])).abs().max() <= 1e-12, regularizer
        assert (z[2] - path(w[2])).abs().max() <= 1e-12, regularizer
        assert path(w.float()).dtype == torch.float32, regularizer


class Transfers(TorchDispatchMode):
    """Counts the values that leave a tensor for Python."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


def transfers(P: cvxsst.Polytope, regularizer: cvxsst.Regularizer, w: torch.Tensor) -> int:
    cvxsst.softmax(P, w, regularizer, engine="fast")  # prepares
    with Transfers() as seen:
        cvxsst.softmax(P, w, regularizer, engine="fast")
    return seen.count


CLOSED = [
    *((P, f) for P in (polytopes.simplex(7), polytopes.k_subset(9, 4)) for f in (Euclidean(), CategoricalEntropy())),
    *((polytopes.cube(5), f) for f in (Euclidean(), CategoricalEntropy(), BinaryEntropy(), ExponentialFamily())),
    *((P, ExponentialFamily()) for P in (polytopes.simplex(5), polytopes.path(4, DIAMOND))),
    *((P, ExponentialFamily()) for P in (polytopes.correlated_k_subset(6, 3), polytopes.projective_tree(5))),
]


@pytest.mark.parametrize(("P", "regularizer"), CLOSED, ids=str)
def test_a_closed_form_looks_at_values_on_a_device_once(P, regularizer, monkeypatch, generator) -> None:
    """As on a device: what is on the host is looked at in place, without a transfer, so that is switched off."""
    for module in (values, engines.fast):
        monkeypatch.setattr(module, "on_host", lambda x: False)
    assert transfers(P, regularizer, utilities(P, 8, generator=generator)) == 1


@pytest.mark.parametrize(
    ("P", "regularizer"),
    [*SEPARABLE, *((P, ExponentialFamily()) for P in COUNTED), (polytopes.birkhoff(4), CategoricalEntropy())],
    ids=str,
)
def test_nothing_leaves_a_tensor_on_the_host(P, regularizer, generator: torch.Generator) -> None:
    assert transfers(P, regularizer, utilities(P, 8, generator=generator)) == 0


def patterns(P: cvxsst.Polytope, count: int, generator: torch.Generator) -> torch.Tensor:
    """As many different masks ``(count, *P.shape)``, True where forbidden."""
    found: dict[tuple, torch.Tensor] = {}
    while len(found) < count:
        mask = torch.rand(P.shape, generator=generator) < 0.1 + 0.5 * torch.rand((), generator=generator)
        if mask.any():
            found[tuple(mask.flatten().tolist())] = mask
    return torch.stack(list(found.values()))


@pytest.mark.parametrize(
    ("P", "regularizer"),
    [
        (polytopes.birkhoff(6), Euclidean()),
        (polytopes.birkhoff(6), CategoricalEntropy()),
        (polytopes.birkhoff(6), BinaryEntropy()),
        (polytopes.k_subset(20, 5), Euclidean()),
        (polytopes.k_subset(20, 5), CategoricalEntropy()),
        (polytopes.k_subset(20, 5), BinaryEntropy()),
        (polytopes.k_subset(20, 5), ExponentialFamily()),
        (polytopes.spanning_tree(6), ExponentialFamily()),
    ],
    ids=str,
)
def test_patterns_are_data(P, regularizer, monkeypatch, generator: torch.Generator) -> None:
    """Hundreds of them in a batch: nothing is kept for one, no other engine is asked, empty ones are told and alone."""
    for name, engine in cvxsst.engines.ENGINES.items():
        if name != "fast":
            monkeypatch.setattr(engine, "solve", None)
    w = utilities(P, 400, generator=generator).masked_fill(patterns(P, 400, generator), -torch.inf).requires_grad_()
    cvxsst.softmax(P, w[:2], regularizer, on_failure="nan")
    before = len(P.prepared)
    z, info = cvxsst.softmax(P, w, regularizer, engine="fast", on_failure="nan", return_info=True)
    (gradient,) = torch.autograd.grad(z, w, utilities(P, 400, generator=generator))
    assert len(P.prepared) == before
    oracle = torch.stack([leaves_something(P, v) for v in w.detach()])
    assert torch.equal(info.empty, ~oracle)
    assert torch.equal(info.converged, oracle)
    assert z.isnan().flatten(1).any(1).equal(~oracle)
    assert (z[oracle][w[oracle] == -torch.inf] == 0).all()
    assert (gradient[oracle][w[oracle] == -torch.inf] == 0).all()
    one = torch.stack([cvxsst.softmax(P, v, regularizer, engine="fast") for v in w.detach()[oracle][:40]])
    assert (z[oracle][:40] - one).abs().max() <= 1e-12
    judged = cvxsst.certificate(P, z[oracle][:40].detach(), w.detach()[oracle][:40], regularizer)
    assert judged.infeasibility.max() <= 1e-9
    assert judged.gap.abs().max() <= 1e-10


@pytest.mark.parametrize(
    "P",
    [polytopes.birkhoff(6), polytopes.k_subset(20, 5), polytopes.spanning_tree(6), polytopes.path(4, DIAMOND)],
    ids=repr,
)
def test_oracles_take_patterns_as_they_come(P, generator: torch.Generator) -> None:
    """The best of what each leaves, by linear programming; those that leave nothing are named, all of them."""
    w = utilities(P, 60, generator=generator, scale=5.0).masked_fill(patterns(P, 60, generator), -torch.inf)
    alive = torch.stack([leaves_something(P, v) for v in w])
    before = len(P.prepared)
    z = cvxsst.argmax(P, w[alive], engine="fast")
    assert len(P.prepared) == before
    best = cvxsst.argmax(P, w[alive], engine="lp")
    assert (z[w[alive] == -torch.inf] == 0).all()
    plain = w[alive].masked_fill(w[alive] == -torch.inf, 0.0)
    assert ((z - best) * plain).flatten(1).sum(1).abs().max() <= 1e-9
    if not alive.all():
        first = int((~alive).nonzero()[0])
        with pytest.raises(cvxsst.errors.EmptyPolytopeError, match=rf"instances \({first},\)"):
            cvxsst.argmax(P, w, engine="fast")


def leaves_something(P: cvxsst.Polytope, w: torch.Tensor) -> torch.Tensor:
    """By linear programming: whether the -inf of one instance ``P.shape`` leave a structure."""
    found = P.presolved.linear_program.vertex(np.zeros(P.size), zeros=np.flatnonzero(w.isneginf()).tolist())
    return torch.tensor(found.x is not None)

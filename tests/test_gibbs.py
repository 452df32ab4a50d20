"""Gibbs: samples against enumeration, closed forms against sums over all structures, counts that are known."""

import math

import pytest
import torch
from scipy import stats
from torch.distributions import OneHotCategorical, kl_divergence

import cvxsst
import polytopes
from cvxsst import Gibbs, StochasticArgmax

from .table import all_vertices, utilities, zoo
from .test_distributions import FALSE_ALARM

ZOO = zoo()
each = pytest.mark.parametrize("P", ZOO, ids=repr)
SAMPLES, RARE = 20_000, 20


def assert_law(z: torch.Tensor, V: torch.Tensor, p: torch.Tensor) -> None:
    """Pearson's chi-square test at level FALSE_ALARM of samples ``(S, n)`` that must be rows of V ``(count, n)``, with
    probabilities p; structures expected fewer than RARE times count as one, and are left out if they are few."""
    far, which = torch.cdist(z, V, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    assert far.max() == 0
    counts, expected = torch.bincount(which, minlength=len(V)).double(), p * len(z)
    assert (counts[p == 0] == 0).all()
    rare = expected < RARE
    counts, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (counts, expected))
    counts, expected = counts[expected >= RARE], expected[expected >= RARE]
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic <= stats.chi2.isf(FALSE_ALARM, max(1, len(counts) - 1))


@each
def test_samples_have_the_frequencies_of_their_probabilities(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """Each instance of a batch its own, among them one with a range of 60 in u and one with a forbidden entry."""
    V = all_vertices(P).reshape(-1, P.size)
    w = utilities(P, 3, generator=generator).reshape(3, -1)
    w[1] *= 20
    used = (V != 0).any(0) & (V >= 0).all(0) & (V == 0).any(0)
    if bool(used.any()):
        w[2, int(used.nonzero()[0])] = -torch.inf
    d = Gibbs(w.reshape(3, *P.shape), P, 0.8)
    z = d.sample((SAMPLES,))
    assert z.shape == (SAMPLES, 3, *P.shape)
    logits = (w.nan_to_num(neginf=-1e9) / 0.8) @ V.T
    for i, p in enumerate(logits.softmax(1)):
        assert_law(z[:, i].reshape(SAMPLES, -1), V, p)


@each
def test_closed_forms_are_sums_over_the_structures(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    V = all_vertices(P)
    leaf = utilities(P, 2, 2, generator=generator).requires_grad_()
    p, q = Gibbs(leaf[0], P, 0.7), Gibbs(leaf[1], P, torch.tensor([0.5, 2.0]))
    assert torch.equal(p.enumerate_support()[:, 0], V)
    assert p.enumerate_support(expand=False).shape == (len(V), 1, *P.shape)
    scores = [leaf[0].reshape(2, -1) / 0.7, leaf[1].reshape(2, -1) / torch.tensor([[0.5], [2.0]])]
    log_p, log_q = ((u @ V.reshape(len(V), -1).T).log_softmax(1) for u in scores)
    exact = {
        "log_prob": log_p.T,
        "entropy": -(log_p.exp() * log_p).sum(1),
        "kl": (log_p.exp() * (log_p - log_q)).sum(1),
        "mean": (log_p.exp() @ V.reshape(len(V), -1)).reshape(2, *P.shape),
        "log_partition": (scores[0] @ V.reshape(len(V), -1).T).logsumexp(1),
    }
    found = {
        "log_prob": p.log_prob(p.enumerate_support()),
        "entropy": p.entropy(),
        "kl": kl_divergence(p, q),
        "mean": p.mean,
        "log_partition": p.log_partition,
    }
    for name, value in found.items():
        assert torch.allclose(value, exact[name], atol=1e-10), name
        weight = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        g, h = ((x * weight).sum() + 0 * leaf.sum() for x in (value, exact[name]))
        gradient, expected = (torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in (g, h))
        assert torch.allclose(gradient, expected, atol=1e-8), f"gradient of {name}"
    assert torch.allclose(found["log_prob"].exp().sum(0), torch.ones(2, dtype=torch.float64))
    assert torch.equal(p.mode, V[log_p.argmax(1)])
    assert (kl_divergence(p, p) <= 1e-12).all()


def projective_trees(n: int) -> int:
    """Trees on a line without crossings (Dulucq and Penaud 1993)."""
    return math.comb(3 * n - 3, n - 1) // (2 * n - 1)


COUNTS = [
    (polytopes.spanning_tree(9), 9**7),  # Cayley
    (polytopes.arborescence(9), 9**7),
    (polytopes.arborescence(9, True), 8 * 8**6),  # a child of the root, and a tree that hangs on it
    (polytopes.k_subset(30, 11), math.comb(30, 11)),
    (polytopes.correlated_k_subset(30, 11), math.comb(30, 11)),
    (polytopes.projective_tree(12), projective_trees(12)),
    (polytopes.birkhoff(5), math.factorial(5)),
    (polytopes.matching(8), 7 * 5 * 3),
    (polytopes.cube(40), 2**40),
]


@pytest.mark.parametrize(("P", "count"), COUNTS, ids=lambda x: repr(x))
def test_without_utilities_all_structures_are_as_likely(P: cvxsst.Polytope, count: int) -> None:
    d = Gibbs(torch.zeros(P.shape, dtype=torch.float64), P)
    assert d.log_partition.item() == pytest.approx(math.log(count), rel=1e-12)
    assert d.entropy().item() == pytest.approx(math.log(count), rel=1e-9)
    z = d.sample((500,))
    assert d.log_prob(z).tolist() == pytest.approx([-math.log(count)] * 500)
    deviation = (z.mean(0) - d.mean).abs() / (d.variance / 500).sqrt().clamp_min(1e-9)
    assert deviation.max() <= stats.norm.isf(FALSE_ALARM / 2 / P.size)


@pytest.mark.parametrize(
    "P", [polytopes.arborescence(12), polytopes.spanning_tree(12), polytopes.projective_tree(12)], ids=repr
)
def test_samples_of_larger_trees_have_the_marginals(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    """And pairs of arcs: E[<a, z>^2] is A's second derivative along a, plus the squared mean."""
    d = Gibbs(2 * utilities(P, generator=generator), P)
    z, S = d.sample((4000,)), 4000
    deviation = (z.mean(0) - d.mean).abs() / (d.variance / S).sqrt().clamp_min(1e-9)
    assert deviation.max() <= stats.norm.isf(FALSE_ALARM / 2 / P.size)
    a, w = utilities(P, generator=generator), d.w.clone().requires_grad_()
    along = (z * a).reshape(S, -1).sum(1)
    (Ja,) = torch.autograd.grad(Gibbs(w, P).mean, w, a)
    square = (along - (d.mean * a).sum()) ** 2
    assert ((square.mean() - (a * Ja).sum()).abs() / (square.std() / S**0.5)) <= stats.norm.isf(FALSE_ALARM / 2)


def test_weights_of_any_range_neither_stop_nor_mislead_the_tree_sampler() -> None:
    """Two nodes that want each other by e^800: a random walk would never leave them."""
    w = torch.zeros(4, 4, dtype=torch.float64)
    w[1, 2] = w[2, 1] = 800.0
    P = polytopes.arborescence(4)
    z = Gibbs(w, P).sample((4000,))
    assert ((z[:, 1, 2] + z[:, 2, 1]) == 1).all()
    V = all_vertices(P).reshape(-1, 16)
    assert_law(z.reshape(-1, 16), V, (V @ w.reshape(-1)).softmax(0))


def test_on_the_simplex_it_is_torchs_categorical(generator: torch.Generator) -> None:
    w = utilities(polytopes.simplex(5), 4, generator=generator)
    p, torchs = Gibbs(w, polytopes.simplex(5)), OneHotCategorical(logits=w)
    z = torchs.sample((3,))
    assert torch.allclose(p.log_prob(z), torchs.log_prob(z))
    assert torch.allclose(p.entropy(), torchs.entropy())
    assert torch.allclose(p.mean, torchs.mean)
    assert torch.allclose(p.variance, torchs.variance)
    assert torch.equal(p.mode, torchs.mode)
    assert p.batch_shape == torchs.batch_shape
    assert p.event_shape == torchs.event_shape


def test_it_behaves_as_a_distribution() -> None:
    P = polytopes.birkhoff(3)
    w = torch.randn(5, 2, 3, 3, requires_grad=True)
    p = Gibbs(w, P, torch.tensor([0.5, 1.0]))
    assert p.sample().shape == (5, 2, 3, 3)
    assert p.sample((4,)).dtype == torch.float32
    assert not p.sample().requires_grad
    assert p.sample((0,)).shape == (0, 5, 2, 3, 3)
    assert Gibbs(w[:0], P).sample((2,)).shape == (2, 0, 2, 3, 3)
    assert Gibbs(w[:0], P).entropy().shape == (0, 2)
    wider = p.expand((7, 5, 2))
    assert wider.sample((3,)).shape == (3, 7, 5, 2, 3, 3)
    assert torch.equal(wider.entropy()[3], p.entropy())
    assert bool(p.support.check(p.sample()).all())
    assert not bool(p.support.check(torch.full((3, 3), 1 / 3)))
    assert not bool(p.support.check(torch.full((3, 3), torch.nan)))
    assert bool(polytopes.arborescence(12) and Gibbs(torch.zeros(12, 12), polytopes.arborescence(12)).support)
    assert "birkhoff(3)" in repr(p)
    z = p.sample()
    p.log_prob(z).sum().backward()
    p.entropy().sum().backward()  # the same distribution, once more
    assert w.grad is not None
    assert w.grad.isfinite().all()
    torch.manual_seed(3)
    first = p.sample((2,))
    torch.manual_seed(3)
    assert torch.equal(p.sample((2,)), first)


def test_what_is_forbidden_has_no_probability() -> None:
    P, w = polytopes.k_subset(4, 2), torch.zeros(4)
    masked = w.index_fill(0, torch.tensor([1]), -torch.inf)
    p, q = Gibbs(w, P), Gibbs(masked, P)
    assert q.log_prob(torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 0]])).tolist() == pytest.approx([-math.log(3), -math.inf])
    assert kl_divergence(p, q) == torch.inf
    assert kl_divergence(q, p).item() == pytest.approx(math.log(2))
    with pytest.raises(cvxsst.EmptyPolytopeError):
        Gibbs(torch.full((4,), -torch.inf), P).sample()
    with pytest.raises(cvxsst.EmptyPolytopeError):
        Gibbs(torch.full((4,), -torch.inf), P).entropy()


def test_the_perturbed_argmax_has_another_law_on_trees(generator: torch.Generator) -> None:
    """Three nodes, w = 0: Gibbs is uniform; Prim's tree of Gumbels too, by symmetry, but not with one edge at 1."""
    P, w = polytopes.spanning_tree(4), torch.tensor([2.0, 0, 0, 0, 0, 0])
    gibbs = Gibbs(w, P).mean[0]
    perturbed = StochasticArgmax(torch.distributions.Gumbel(w, 1.0), P).sample((20_000,)).mean(0)[0]
    assert (gibbs - perturbed).abs() > 0.01


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: Gibbs(torch.zeros(12, 12), polytopes.birkhoff(12)),
            r"#P-hard, as over perm.*StochasticArgmax",
        ),
        (lambda: Gibbs(torch.zeros(4), polytopes.simplex(3)), r"\(3,\)"),
        (lambda: Gibbs(torch.full((3,), torch.nan), polytopes.simplex(3)), "nan"),
        (lambda: Gibbs(torch.zeros(3), polytopes.simplex(3), 0.0), "positive"),
        (lambda: Gibbs(torch.zeros(3), polytopes.simplex), "family"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Gibbs(torch.zeros(3), polytopes.simplex(3)).log_prob(torch.full((3,), 1 / 3)), "support"),
        (lambda: Gibbs(torch.zeros(9, 9), polytopes.arborescence(9)).log_prob(torch.zeros(9, 9)), "support"),
        (lambda: Gibbs(torch.zeros(30), polytopes.k_subset(30, 15)).enumerate_support(), "cannot be enumerated"),
    ],
)
def test_bad_input(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_what_there_is_not() -> None:
    p = Gibbs(torch.zeros(3), polytopes.simplex(3))
    with pytest.raises(NotImplementedError, match="estimators"):
        p.rsample()
    with pytest.raises(NotImplementedError, match="one polytope"):
        kl_divergence(p, Gibbs(torch.zeros(3), polytopes.cube(3)))
    with pytest.raises(NotImplementedError, match="zeros and ones"):
        _ = Gibbs(torch.zeros(3), polytopes.permutahedron(3)).variance


def test_a_family_without_a_sampler_says_so() -> None:
    @cvxsst.polytope
    def many(n: int):
        P = polytopes.cube(n)
        return P.variable, P.constraints

    assert polytopes.cube.structure_list is not None
    many.structures(polytopes.cube.structure_list)
    many.log_partition(lambda u, n: torch.nn.functional.softplus(u).sum(-1))
    with pytest.raises(cvxsst.NoFastPathError, match=r"@family\.sample"):
        Gibbs(torch.zeros(20), many(20)).sample()

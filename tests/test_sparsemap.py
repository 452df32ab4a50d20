"""SparseMAP: a distribution over vertices whose mean is the Euclidean softmax; exact expectations; a latent model."""

import itertools

import cvxpy as cp
import pytest
import torch

import cvxsst
import polytopes

from .table import POLYTOPES, all_vertices, utilities
from .test_oracle import TOP, blossom
from .test_vertices_engine import STRANGERS

EUCLIDEAN = cvxsst.Euclidean()
BLOSSOM = cvxsst.Polytope.from_oracle(blossom, 15, name="blossom", each=map)


@pytest.mark.parametrize("P", [*POLYTOPES, TOP, BLOSSOM], ids=repr)
def test_few_vertices_whose_mean_is_the_softmax(P, generator) -> None:
    """Against the kkt engine, mean and gradient; the support consists of vertices, each once where p > 0."""
    declared = {TOP: polytopes.k_subset(8, 3), BLOSSOM: polytopes.matching(6)}.get(P, P)
    V = all_vertices(declared).reshape(-1, P.size)
    for T in (3.0, 0.5):
        w, g = (utilities(P, 12, generator=generator) for _ in range(2))
        leaf, other = w.clone().requires_grad_(), w.clone().requires_grad_()
        p = cvxsst.SparseMAP(leaf, P, T)
        z = cvxsst.softmax(declared, other, EUCLIDEAN, T, engine="kkt")
        assert (p.mean - z).abs().max() <= 1e-6
        mine, theirs = (torch.autograd.grad(x, y, g)[0] for x, y in ((p.mean, leaf), (z, other)))
        assert (T * (mine - theirs)).abs().max() <= 1e-6
        assert p.probs.min() >= 0
        assert (p.probs.sum(-1) - 1).abs().max() <= 1e-12
        assert bool((p.probs[:, :-1] >= p.probs[:, 1:]).all())
        structures = p.support.reshape(12, -1, P.size)
        assert structures.shape[1] <= P.size + 1
        assert torch.cdist(structures, V.expand(12, -1, -1)).amin(2).max() <= 1e-9
        for rows, probs in zip(structures, p.probs, strict=True):
            some = rows[probs > 0]
            assert len(some) == 1 or torch.pdist(some).min() > 1e-6
            assert torch.linalg.matrix_rank(some[1:] - some[0], tol=1e-9) == len(some) - 1  # affinely independent


@pytest.mark.parametrize(
    "P", [polytopes.k_subset(6, 2), polytopes.matching(6), polytopes.permutahedron(4), TOP, *STRANGERS[:2]], ids=repr
)
def test_expectations_and_their_gradients(P, generator) -> None:
    """Of a quadratic function of the structure, which no function of the mean is; central differences."""
    M = utilities(P, P.size, generator=generator).reshape(P.size, P.size).requires_grad_()

    def value(z: torch.Tensor) -> torch.Tensor:
        flat = z.reshape(*z.shape[: z.dim() - len(P.shape)], P.size)
        return ((flat @ M) * flat).sum(-1)

    w, d = (utilities(P, 30, generator=generator) for _ in range(2))
    leaf = w.clone().requires_grad_()
    p = cvxsst.SparseMAP(leaf, P, 0.8)
    expected = p.expectation(value)
    assert expected.shape == (30,)
    by_hand = (p.probs * value(p.support)).sum(-1)
    assert (expected - by_hand).abs().max() <= 1e-12
    gradient, of_M = torch.autograd.grad(expected.sum(), (leaf, M))
    h = 1e-6
    up, down = (cvxsst.SparseMAP(w + s * h * d, P, 0.8).expectation(value) for s in (1, -1))
    difference = (up - down).detach() / (2 * h)
    off = ((gradient * d).reshape(30, -1).sum(-1) - difference).abs()
    assert (off <= 1e-5).double().mean() >= 0.95  # the others at kinks
    flat = p.support.detach().reshape(30, -1, P.size)
    assert (of_M - torch.einsum("bk,bki,bkj->ij", p.probs.detach(), flat, flat)).abs().max() <= 1e-9


def test_on_the_simplex_it_is_sparsemax(generator) -> None:
    P, w = polytopes.simplex(5), torch.randn(20, 5, generator=generator, dtype=torch.float64)
    p = cvxsst.SparseMAP(w, P)
    scattered = torch.zeros_like(w).scatter_add(1, p.support.argmax(-1), p.probs)
    assert (scattered - cvxsst.softmax(P, w)).abs().max() <= 1e-12


def test_derivatives_of_every_kind_and_every_batch(generator) -> None:
    P = polytopes.matching(6)
    w, g = (utilities(P, 3, generator=generator) for _ in range(2))

    def crossing(x: torch.Tensor, T: float | torch.Tensor = 0.7) -> torch.Tensor:
        return cvxsst.SparseMAP(x, P, T).expectation(lambda z: z[..., 0] * z[..., 10] + z[..., 3] * z[..., 8])

    value, forward = torch.func.jvp(crossing, (w,), (g,))[:2]
    leaf = w.clone().requires_grad_()
    (backward,) = torch.autograd.grad(crossing(leaf).sum(), leaf, create_graph=True)
    assert ((backward * g).sum(-1) - forward).abs().max() <= 1e-12
    assert torch.autograd.gradcheck(crossing, (leaf,), eps=1e-6, atol=1e-7)
    assert (torch.func.vmap(crossing)(w) - value).abs().max() <= 1e-12
    assert (torch.func.jacrev(crossing)(w[0]) - backward[0]).abs().max() <= 1e-12
    T = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda T: crossing(w, T), (T,), eps=1e-6, atol=1e-7)
    assert (crossing(w[1]) - value[1]).abs() <= 1e-12
    assert crossing(w.reshape(3, 1, 15)).shape == (3, 1)
    assert crossing(w[:0]).shape == (0,)
    single = cvxsst.SparseMAP(w.float(), P)
    assert single.support.dtype == single.probs.dtype == single.mean.dtype == torch.float32


def test_the_same_structures_alone_in_a_batch_and_nearby(generator) -> None:
    """15 vertices in 9 dimensions: p is one of many, and must not be chosen by rounding."""
    P = polytopes.matching(6)
    w, d = (utilities(P, 30, generator=generator) for _ in range(2))

    def supports(p: cvxsst.SparseMAP) -> list[set]:
        rows = zip(p.support.reshape(30, -1, 15), p.probs.reshape(30, -1), strict=True)
        return [{tuple(z.tolist()) for z, q in zip(*row, strict=True) if q > 0} for row in rows]

    whole, near = (supports(cvxsst.SparseMAP(x, P, 10.0)) for x in (w, w + 1e-7 * d))
    alone = [cvxsst.SparseMAP(x, P, 10.0) for x in w]
    assert whole == near
    assert whole == [{tuple(z.tolist()) for z, q in zip(p.support, p.probs, strict=True) if q > 0} for p in alone]
    assert max(map(len, whole)) == 10


def test_where_the_likely_structures_do_not_span_the_face(generator) -> None:
    """The middle of a cube is that of a diagonal: structures of probability 0 carry the derivative to the others."""
    P, g = polytopes.cube(5), torch.randn(5, generator=generator, dtype=torch.float64)
    w = torch.full((5,), 0.5, dtype=torch.float64, requires_grad=True)
    p = cvxsst.SparseMAP(w, P)
    assert int((p.probs > 0).sum()) == 2
    assert p.support.shape == (6, 5)
    assert (torch.autograd.grad(p.mean, w, g)[0] - g).abs().max() <= 1e-12


def test_samples_log_prob_entropy_and_moments(generator) -> None:
    P = polytopes.birkhoff(3)
    w = utilities(P, 2, generator=generator).requires_grad_()
    p = cvxsst.SparseMAP(w, P, 2.0)
    assert (p.batch_shape, p.event_shape) == ((2,), (3, 3))
    z = p.sample((20_000,))
    assert z.shape == (20_000, 2, 3, 3)
    assert not z.requires_grad
    log_prob = p.log_prob(z)
    assert log_prob.shape == (20_000, 2)
    assert bool(torch.isfinite(log_prob).all())
    error = (z.mean(0) - p.mean).abs() / (p.variance / 20_000).sqrt().clamp_min(1e-9)
    assert error.max() <= 5
    assert (-log_prob.mean(0) - p.entropy()).abs().max() <= 0.05
    there = p.probs > 0
    assert (p.log_prob(p.support.movedim(1, 0)).T.exp() - p.probs)[there].abs().max() <= 1e-12
    assert bool((p.log_prob(torch.zeros(3, 3, dtype=torch.float64)) == -torch.inf).all())
    assert (p.log_prob(p.mode).exp() - p.probs.amax(-1)).abs().max() <= 1e-12
    score = torch.autograd.grad(p.expectation(lambda z: p.log_prob(z.movedim(1, 0)).T.nan_to_num(neginf=0)).sum(), w)
    entropy = torch.autograd.grad(cvxsst.SparseMAP(w, P, 2.0).entropy().sum(), w)
    assert (score[0] + entropy[0]).abs().max() <= 1e-9  # d sum p log p = sum dp log p, since sum dp = 0


def test_forbidden_entries_and_errors(generator) -> None:
    for P in (polytopes.k_subset(6, 2), TOP):
        w = utilities(P, 4, generator=generator)
        w[0, :2] = -torch.inf
        p = cvxsst.SparseMAP(w, P)
        assert bool((p.support[0, :, :2] == 0).all())
        w[2] = -torch.inf
        with pytest.raises(cvxsst.EmptyPolytopeError, match="2"):
            cvxsst.SparseMAP(w, P)
    P = polytopes.k_subset(6, 2)
    with pytest.raises(ValueError, match="the last dimensions must be the shape of the polytope"):
        cvxsst.SparseMAP(torch.zeros(5), P)
    with pytest.raises(ValueError, match="temperature"):
        cvxsst.SparseMAP(torch.zeros(6), P, 0.0)
    with pytest.raises(ValueError, match=r"function: for structures \(1, 6\) it must return \(1,\) values"):
        cvxsst.SparseMAP(torch.tensor([9.0, 8, 0, 0, 0, 0]), P).expectation(lambda z: z.sum())
    with pytest.raises(ValueError, match="z: its last dimensions"):
        cvxsst.SparseMAP(torch.zeros(6), P).log_prob(torch.zeros(5))


def test_a_declaration_without_an_oracle(generator) -> None:
    z = cp.Variable((2, 3))
    P = cvxsst.Polytope(z, [z >= 0, cp.sum(z, axis=1) == 1, cp.sum(z, axis=0) <= 1])
    w = utilities(P, 5, generator=generator)
    p = cvxsst.SparseMAP(w, P)
    assert (p.mean - cvxsst.softmax(P, w, engine="kkt")).abs().max() <= 1e-6
    assert torch.equal(p.support, p.support.round())


def test_a_latent_matching_is_learned_without_sampling(generator) -> None:
    """Who of six belongs together is latent: the model sees x and the sum over pairs of what each pair emits, never
    the pairs. An encoder scores pairs, a decoder learns what they emit; the loss is an expectation, exactly."""
    P, pairs = polytopes.matching(6), torch.tensor(list(itertools.combinations(range(6), 2)))
    x, emits = torch.randn(100, 6, 2, generator=generator), torch.randn(15, 4, generator=generator)
    one, other = x[:, pairs[:, 0]], x[:, pairs[:, 1]]
    truth = cvxsst.argmax(P, (one * other).sum(-1))  # whose features agree
    products, y = (one[..., :, None] * other[..., None, :]).flatten(2), truth @ emits
    encoder, decoder = torch.full((4,), 0.1, requires_grad=True), torch.zeros(15, 4, requires_grad=True)
    optimizer, losses = torch.optim.Adam([encoder, decoder], lr=0.1), []
    for _ in range(60):
        optimizer.zero_grad()
        p = cvxsst.SparseMAP(products @ encoder, P, 0.5)
        loss = p.expectation(lambda z: (z @ decoder - y[:, None]).square().sum(-1)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] <= 0.2 * losses[0]
    assert (p.mode == truth).all(-1).double().mean() >= 0.9
    assert encoder[[0, 3]].min() > 5 * encoder[[1, 2]].abs().max()  # the products of the same features

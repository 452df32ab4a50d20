"""Padded instances are instances of the smaller polytope: of every family, against that and by brute force."""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

import cvxsst
import polytopes
from cvxsst import CategoricalEntropy, ExponentialFamily
from cvxsst.family import Padding
from polytopes.padding import is_real, padded

from .table import REGULARIZERS, in_domain, utilities

COMPLETE = tuple((i, j) for i in range(6) for j in range(i + 1, 6))
# the chain of the padding, with more edges, some of them parallel, among and beside the first four nodes
WINDING = ((0, 2), (0, 1), (1, 2), (2, 3), (3, 4), (1, 3), (4, 5), (2, 4), (3, 4), (1, 5), (0, 3))
FAMILIES = [family for name in polytopes.__all__ if (family := getattr(polytopes, name)).examples]
CASES = [
    (polytopes.simplex(6), polytopes.simplex(4), 4),
    (polytopes.cube(6), polytopes.cube(4), 4),
    (polytopes.k_subset(6, 2), polytopes.k_subset(4, 2), 4),
    (polytopes.k_subset(6, 3), polytopes.k_subset(3, 3), 3),
    (polytopes.correlated_k_subset(6, 2), polytopes.correlated_k_subset(4, 2), 4),
    (polytopes.birkhoff(5), polytopes.birkhoff(3), 3),
    (polytopes.birkhoff(4), polytopes.birkhoff(1), 1),
    (polytopes.matching(6), polytopes.matching(4), 4),
    (polytopes.path(6, COMPLETE), polytopes.path(4, [edge for edge in COMPLETE if max(edge) < 4]), 4),
    (polytopes.path(6, WINDING), polytopes.path(4, [edge for edge in WINDING if max(edge) < 4]), 4),
    (polytopes.spanning_tree(6), polytopes.spanning_tree(4), 4),
    (polytopes.spanning_tree(6, WINDING[:8]), polytopes.spanning_tree(4, [e for e in WINDING[:8] if max(e) < 4]), 4),
    (polytopes.arborescence(5), polytopes.arborescence(3), 3),
    (polytopes.arborescence(5, True), polytopes.arborescence(3, True), 3),
    (polytopes.arborescence(4), polytopes.arborescence(1), 1),
    (polytopes.projective_tree(6), polytopes.projective_tree(4), 4),
    (polytopes.projective_tree(6, True), polytopes.projective_tree(4, True), 4),
]
each_case = pytest.mark.parametrize(("P", "smaller", "length"), CASES, ids=repr)


def posed(P, smaller, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two instances, of full length and of ``length``, NaN where the second is padded; the lengths; the smaller w."""
    w, part = utilities(P, 2, generator=generator), utilities(smaller, generator=generator)
    lengths = torch.tensor([P.arguments["n"], length])
    real = is_real(P, lengths)[1]
    assert int(real.sum()) == smaller.size
    w[1] = torch.nan
    w[1][real] = part.flatten()
    return w, lengths, part


def log_partition(P: cvxsst.Polytope, w: torch.Tensor) -> torch.Tensor:
    """By brute force, over ``(*batch, *P.shape)``."""
    Z = torch.from_numpy(P.vertices())
    return torch.where(Z > 0, w.flatten(w.dim() - len(P.shape))[..., None, :], 0.0).sum(-1).logsumexp(-1)


@each_case
def test_every_map_of_a_padded_instance_is_that_of_the_smaller_polytope(P, smaller, length, generator) -> None:
    w, lengths, part = posed(P, smaller, length, generator)
    real, filled = is_real(P, lengths), padded(P, w, lengths)
    assert real.shape == w.shape
    assert torch.equal(filled[0], w[0])
    maps: dict[str, Callable[[cvxsst.Polytope, torch.Tensor], torch.Tensor]] = {"argmax": cvxsst.argmax}
    for engine, f in itertools.product(("fast", "enumeration"), REGULARIZERS):
        if in_domain(P, f) and cvxsst.engines.ENGINES[engine].supports(P, f):
            maps[f"{engine} {f}"] = partial(cvxsst.softmax, regularizer=f, temperature=0.7, engine=engine)
    for name, solve in maps.items():
        z = solve(P, filled)
        assert torch.allclose(z[0], solve(P, w[0]), atol=1e-12), name
        assert torch.allclose(z[1][real[1]], solve(smaller, part).flatten(), atol=1e-11), name
        rest = z[1][~real[1]]
        assert ((rest == 0) | ((rest - 1).abs() <= 1e-12)).all(), name


@each_case
def test_the_padding_can_be_filled_in_one_way(P, smaller, length, generator) -> None:
    """Structures of the face and of the smaller polytope correspond, one to one, with equal utilities."""
    w, lengths, part = posed(P, smaller, length, generator)
    filled = padded(P, w, lengths)[1]
    Z = torch.from_numpy(P.vertices())
    face = Z[(Z[:, (filled == -torch.inf).flatten()] == 0).all(1)]
    real = is_real(P, lengths)[1].flatten()
    inner, wanted = (np.unique(part.numpy(), axis=0) for part in (face[:, real], torch.from_numpy(smaller.vertices())))
    assert len(face) == len(inner) == len(wanted)
    assert np.array_equal(inner, wanted)
    assert torch.allclose(log_partition(P, filled), log_partition(smaller, part))
    if P.knowledge.log_partition is not None:
        assert torch.allclose(P.knowledge.log_partition(filled[None])[0], log_partition(smaller, part))


@each_case
def test_gradients_go_to_what_is_real_alone(P, smaller, length, generator) -> None:
    w, lengths, part = posed(P, smaller, length, generator)
    real, leaf, small = is_real(P, lengths), w.requires_grad_(), part.requires_grad_()
    g = utilities(P, 2, generator=generator)
    f = next(f for f in (ExponentialFamily(), CategoricalEntropy()) if cvxsst.which_engine(P, f) != "cvxpylayer")
    (gradient,) = torch.autograd.grad((cvxsst.softmax(P, padded(P, leaf, lengths), f) * g).sum(), leaf)
    (expected,) = torch.autograd.grad(
        (cvxsst.softmax(smaller, small, f) * g[1][real[1]].reshape(part.shape)).sum(), small
    )
    assert (gradient[~real] == 0).all()
    assert torch.allclose(gradient[1][real[1]], expected.flatten(), atol=1e-10)


def test_a_single_node_is_an_empty_tree(generator: torch.Generator) -> None:
    for P in (polytopes.spanning_tree(4), polytopes.arborescence(4), polytopes.projective_tree(4, True)):
        w = padded(P, utilities(P, 1, generator=generator), [1])
        for z in (cvxsst.argmax(P, w), cvxsst.softmax(P, w, ExponentialFamily())):
            assert (z * is_real(P, [1]) == 0).all()
            assert abs(z.sum() - 3) <= 1e-12  # the chain


def test_batches_of_any_shape_and_dtype(generator: torch.Generator) -> None:
    P, lengths = polytopes.matching(6), torch.tensor([[2, 4, 6], [6, 6, 2]])
    w = utilities(P, 2, 3, generator=generator).float()
    filled = padded(P, w, lengths)
    assert filled.dtype == torch.float32
    assert padded(P, w.half(), lengths).dtype == torch.float16
    assert torch.equal(filled[0, 1], padded(P, w[0, 1], torch.tensor(4)))
    assert padded(P, w[:, :0], lengths[:, :0]).shape == (2, 0, 15)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_page_says_how_it_is_padded_or_why_not(family: cvxsst.Family) -> None:
    assert family.padding_function is not None
    for example in family.examples:
        P = family(*example)
        if family is polytopes.permutahedron:
            with pytest.raises(ValueError, match=r"cannot be padded.*a rank is never 0; take birkhoff"):
                is_real(P, [1])
            continue
        padding = P.knowledge.padding  # type: ignore[union-attr]
        assert isinstance(padding, Padding)
        assert tuple(padding.last.shape) == tuple(padding.free.shape) == P.shape
        assert padding.lengths[-1] == P.arguments["n"]
        assert is_real(P, padding.lengths[-1:]).all()


@pytest.mark.parametrize(
    ("P", "lengths", "says"),
    [
        (polytopes.permutahedron(3), [2], r"permutahedron\(3\) cannot be padded"),
        (polytopes.arborescence(3), [4], r"lengths: from 1 to n=3, got 4"),
        (polytopes.arborescence(3), [0], r"lengths: from 1 to n=3, got 0"),
        (polytopes.arborescence(3), [[1]], "batch shape"),
        (polytopes.arborescence(3), [1.0], "integers"),
        (polytopes.spanning_tree(3, [(0, 1), (0, 2)]), [2], r"edge \(1, 2\) in the graph; add it"),
        (polytopes.path(4, [(0, 1), (1, 2), (0, 2), (1, 3), (2, 3)]), [1], "lengths: from 2 to n=4"),
        (polytopes.path(4, [(0, 1), (0, 2), (1, 3), (2, 3)]), [2], r"lengths: from 3 .*edge \(1, 2\)"),
        (polytopes.matching(6), [3], r"from 2 to n=6 in steps of 2 \(an odd number of nodes .*\), got 3"),
        (polytopes.k_subset(5, 3), [2], r"from 3 to n=5 \(k=3 are chosen\), got 2"),
        (polytopes.correlated_k_subset(5, 3), [2], r"from 3 to n=5 \(k=3 are chosen\), got 2"),
    ],
    ids=str,
)
def test_wrong_lengths_are_refused(P, lengths, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        padded(P, torch.zeros(1, *P.shape), lengths)


def test_a_declaration_is_padded_as_the_member_that_it_is_and_a_stranger_not_at_all() -> None:
    import cvxpy as cp

    z = cp.Variable(4)
    recognized = cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 1])
    assert torch.equal(is_real(recognized, [2]), torch.tensor([[True, True, False, False]]))
    stranger = cvxsst.Polytope(z, [z >= 0, cp.sum(z) <= 3], name="stranger")
    with pytest.raises(ValueError, match=r"stranger does not say how to pad it.*@family.padding"):
        padded(stranger, torch.zeros(1, 4), [2])

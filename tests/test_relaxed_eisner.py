"""The relaxed Eisner algorithm: against its definition, span by span; its derivatives; and that it is no softmax."""

import math
from collections import defaultdict
from functools import cache

import pytest
import torch

import cvxsst
from cvxsst import Euclidean, ExponentialFamily
from polytopes import projective_tree, relaxed_eisner
from polytopes.padding import padded
from polytopes.relaxed_eisner import relaxed_eisner as relaxed

from .table import utilities

P = projective_tree(5)


def by_hand(w: list[list[float]]) -> list[list[float]]:
    """Corro and Titov's algorithm with numbers and recursion: values upwards, contributions downwards."""
    n = len(w)

    def candidates(item: tuple[str, int, int]) -> list[tuple]:
        kind, i, j = item
        return {
            "I>": [(("C>", i, k), ("C<", k + 1, j)) for k in range(i, j)],
            "I<": [(("C>", i, k), ("C<", k + 1, j)) for k in range(i, j)],
            "C>": [(("I>", i, k), ("C>", k, j)) for k in range(i + 1, j + 1)],
            "C<": [(("C<", i, k), ("I<", k, j)) for k in range(i, j)],
        }[kind]

    @cache
    def weights(item: tuple) -> list[float]:
        sums = [sum(value(part) for part in parts) for parts in candidates(item)]
        total = sum(math.exp(s) for s in sums)
        return [math.exp(s) / total for s in sums]

    @cache
    def value(item: tuple) -> float:
        kind, i, j = item
        if i == j:
            return 0.0
        mean = sum(
            p * sum(value(part) for part in parts) for p, parts in zip(weights(item), candidates(item), strict=True)
        )
        return mean + {"I>": w[i][j], "I<": w[j][i]}.get(kind, 0.0)

    contribution: defaultdict[tuple, float] = defaultdict(float)
    contribution["C>", 0, n - 1] = 1.0
    z = [[0.0] * n for _ in range(n)]
    for width in range(n - 1, 0, -1):
        for kind in ("C>", "C<", "I>", "I<"):  # complete spans have incomplete ones of the same width as parts
            for i in range(n - width):
                item, j = (kind, i, i + width), i + width
                for p, parts in zip(weights(item), candidates(item), strict=True):
                    for part in parts:
                        contribution[part] += p * contribution[item]
                if kind == "I>":
                    z[i][j] = contribution[item]
                elif kind == "I<":
                    z[j][i] = contribution[item]
    return z


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_it_is_the_algorithm_of_corro_and_titov(n: int, generator: torch.Generator) -> None:
    u = 2 * torch.randn(3, n, n, generator=generator, dtype=torch.float64)
    expected = torch.tensor([by_hand(w) for w in u.tolist()], dtype=torch.float64)
    assert torch.allclose(relaxed(u), expected, atol=1e-13)


def test_it_is_a_point_of_the_hull_and_tends_to_the_best_tree(generator: torch.Generator) -> None:
    w = utilities(P, 20, generator=generator)
    assert cvxsst.certificate(P, relaxed(w), w, Euclidean()).infeasibility.max() <= 1e-9
    assert (relaxed(w / 1e-4) - cvxsst.argmax(P, w)).abs().max() <= 1e-6


def test_it_is_no_softmax_over_the_hull(generator: torch.Generator) -> None:
    """Unlike the softmax whose program it is but for one sum: no certificate, a Jacobian that is not symmetric."""
    u = utilities(P, generator=generator)
    for solve, is_softmax in ((relaxed, False), (lambda v: cvxsst.softmax(P, v, ExponentialFamily()), True)):
        J = torch.autograd.functional.jacobian(solve, u).reshape(25, 25)
        assert ((J - J.T).abs().max() <= 1e-12) == is_softmax
        gap = cvxsst.certificate(P, solve(u)[None], u[None], ExponentialFamily()).gap
        assert (abs(gap.item()) <= 1e-9) == is_softmax


def test_its_derivatives_are_those_of_the_definition(generator: torch.Generator) -> None:
    for n in (2, 3):
        u = torch.randn(2, n, n, generator=generator, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(relaxed, u, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(relaxed, u, atol=1e-4)
    u = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)
    expected, found = (torch.autograd.grad((f(u) * g).sum(), u)[0] for f in (relaxed_eisner.by_definition, relaxed))
    assert torch.allclose(found, expected, atol=1e-12)
    per_instance = torch.func.vmap(torch.func.grad(lambda v, h: (relaxed(v) * h).sum()))(u.detach(), g)
    assert torch.allclose(per_instance, expected, atol=1e-12)


def test_straight_through_is_the_best_tree_with_the_relaxed_derivative(generator: torch.Generator) -> None:
    u = utilities(P, 6, generator=generator).requires_grad_()
    g = utilities(P, 6, generator=generator)
    hard = relaxed(u, hard=True)
    assert torch.equal(hard, cvxsst.argmax(P, u.detach()))
    of_hard, of_soft = (torch.autograd.grad((z * g).sum(), u)[0] for z in (hard, relaxed(u)))
    assert torch.equal(of_hard, of_soft)


def test_what_is_forbidden_has_no_share_and_padding_is_the_smaller_sentence(generator: torch.Generator) -> None:
    w = utilities(P, 3, generator=generator)
    lengths = torch.tensor([5, 3, 1])
    filled = padded(P, w, lengths).requires_grad_()
    z = relaxed(filled)
    for row, length in enumerate(lengths):
        small = w[row, :length, :length].clone().requires_grad_()
        assert torch.allclose(z[row, :length, :length], relaxed(small), atol=1e-14)
    (gradient,) = torch.autograd.grad((z * w.nan_to_num()).sum(), filled)
    assert gradient.isfinite().all()
    assert (gradient[filled == -torch.inf] == 0).all()
    assert (z[filled == -torch.inf] == 0).all()
    nothing = torch.full((2, 4, 4), -torch.inf)
    nothing[0] = 0
    with pytest.raises(cvxsst.EmptyPolytopeError):
        relaxed(nothing)


def test_every_shape_and_dtype(generator: torch.Generator) -> None:
    u = torch.randn(2, 3, 4, 4, generator=generator)
    assert relaxed(u).dtype == torch.float32
    assert torch.allclose(relaxed(u)[1, 2], relaxed(u[1, 2]), atol=1e-6)
    for shape in ((0, 3, 3), (2, 0, 4, 4), (5, 1, 1)):
        empty = torch.zeros(shape, requires_grad=True)
        relaxed(empty, hard=True).sum().backward()
        assert empty.grad is not None
        assert not relaxed(empty).any()
    with pytest.raises(ValueError, match=r"u: expected square matrices .* got the shape \(2, 3\)"):
        relaxed(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="nan at index"):
        relaxed(torch.full((3, 3), torch.nan))
    with pytest.raises(cvxsst.ArgumentTypeError, match="floating point"):
        relaxed(torch.zeros(3, 3, dtype=torch.long))

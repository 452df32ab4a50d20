"""Patterns of -inf are data: many different ones in a batch cost no more than a few, and leave nothing behind."""

import gc

import cvxpy as cp
import pytest
import torch

import cvxsst
import polytopes
from cvxsst.geometry.linear_program import LinearProgram
from cvxsst.geometry.presolve import Presolved

from .table import ENGINES, REGULARIZERS, in_domain, utilities

POLYTOPES = [polytopes.birkhoff(6), polytopes.k_subset(20, 5), polytopes.spanning_tree(6)]
BATCH = 400


def masked(P: cvxsst.Polytope, generator: torch.Generator, batch: int = BATCH) -> torch.Tensor:
    """Utilities with a pattern of their own for each instance, all feasible: what one random vertex uses is allowed."""
    w, other = (utilities(P, batch, generator=generator) for _ in range(2))
    v, chance = cvxsst.argmax(P, other), torch.rand(w.shape, generator=generator, dtype=torch.float64)
    return w.masked_fill((chance < 0.3) & (v == 0), -torch.inf)


def problems(P: cvxsst.Polytope) -> list[tuple[cvxsst.Regularizer, str]]:
    return [
        (f, name) for f in REGULARIZERS if in_domain(P, f) for name in ("kkt", "fast") if ENGINES[name].supports(P, f)
    ]


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
def test_many_patterns_are_solved_exactly(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    w = masked(P, generator)
    g, T = utilities(P, BATCH, generator=generator), 0.5
    few = slice(0, BATCH, 20)
    for f, name in problems(P):
        leaf = w.clone().requires_grad_()
        z, info = cvxsst.softmax(P, leaf, f, T, engine=name, return_info=True)
        (gradient,) = torch.autograd.grad(z, leaf, g)
        assert bool(info.converged.all())
        assert bool((z[torch.isinf(w)] == 0).all())
        assert bool((gradient[torch.isinf(w)] == 0).all())
        assert bool(torch.isfinite(gradient).all())
        if f.is_gibbs and P.size > 15:
            continue  # its certificate enumerates
        certified = cvxsst.certificate(P, z.detach()[few], w[few], f, T)
        assert certified.infeasibility.max() <= 1e-9
        assert certified.gap.abs().max() <= 1e-8
        central = cvxsst.softmax(P, leaf, f, T, engine=name, backward="finite_difference")
        (difference,) = torch.autograd.grad(central, leaf, g)
        off = (gradient - difference).flatten(1).abs().amax(1)
        # a kink within the step of the difference is no fault
        assert (off > 1e-5).sum() <= (3 if f == cvxsst.Euclidean() else 0)


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
def test_nothing_is_prepared_or_kept_for_a_pattern(
    P: cvxsst.Polytope, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = masked(P, generator)
    for f, name in problems(P):  # first calls prepare what P and f need
        cvxsst.softmax(P, w[:1], f, engine=name)
    runs: list[LinearProgram] = []
    plain = LinearProgram._run

    def counted(program: LinearProgram) -> str:
        runs.append(program)
        return plain(program)

    monkeypatch.setattr(LinearProgram, "_run", counted)

    def kept() -> tuple[int, int]:
        gc.collect()
        return len(P.prepared), sum(type(o) in (Presolved, LinearProgram) for o in gc.get_objects())

    before = kept()
    for f, name in problems(P):
        cvxsst.softmax(P, w, f, engine=name)
    cvxsst.argmax(P, w)
    assert kept() == before
    assert not runs  # no linear program either


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
def test_a_pattern_that_leaves_nothing_is_told_by_info_alone(P: cvxsst.Polytope, generator: torch.Generator) -> None:
    w = masked(P, generator, 6)
    w[1], w[4].reshape(-1)[: P.size - 1] = -torch.inf, -torch.inf
    empty = torch.tensor([False, True, False, False, True, False])
    for f, name in problems(P):
        leaf = w.clone().requires_grad_()
        z, info = cvxsst.softmax(P, leaf, f, engine=name, on_failure="nan", return_info=True)
        assert torch.equal(info.empty, empty)
        assert torch.equal(info.converged, ~empty)
        assert torch.equal(z.isnan().flatten(1).any(1), empty)
        (gradient,) = torch.autograd.grad(z[~empty].sum(), leaf)
        assert bool(torch.isfinite(gradient[~empty]).all())
        with pytest.raises(cvxsst.EmptyPolytopeError, match=r"1, 4|\(1,\), \(4,\)"):
            cvxsst.softmax(P, w, f, engine=name)
        with pytest.raises(cvxsst.EmptyPolytopeError):
            cvxsst.certificate(P, torch.zeros_like(w), w, f)
    with pytest.raises(cvxsst.EmptyPolytopeError):
        cvxsst.argmax(P, w)


def test_entries_that_a_pattern_forces_are_exact(generator: torch.Generator) -> None:
    """Where the allowed entries leave one tree, one permutation, the solution is it, at any temperature."""
    for P in (polytopes.spanning_tree(6), polytopes.arborescence(4), polytopes.birkhoff(5), polytopes.matching(6)):
        v = cvxsst.argmax(P, utilities(P, 8, generator=generator))
        w = utilities(P, 8, generator=generator).masked_fill(v == 0, -torch.inf)
        for f in REGULARIZERS[:3]:
            for T in (10.0, 1.0, 0.01):
                z = cvxsst.softmax(P, w, f, T, engine="kkt")
                assert (z - v).abs().max() <= 1e-9


def test_an_entry_that_cannot_be_zero_leaves_nothing() -> None:
    """Without its entry's 0 in P a pattern is empty, whether P fixes the entry or not."""
    z = cp.Variable(3)
    P = cvxsst.Polytope(z, [z[0] == 0.5, z[1] + z[2] == 1, z >= 0, z[1] >= 0.25], recognize=False)
    for f in REGULARIZERS[:2]:
        with pytest.raises(ValueError, match=r"least value|forbid"):
            cvxsst.softmax(P, torch.tensor([-torch.inf, 0.0, 0.0]), f, engine="kkt")
        w = torch.tensor([0.0, -torch.inf, 0.0])
        _, info = cvxsst.softmax(P, w, f, engine="kkt", on_failure="nan", return_info=True)
        assert bool(info.empty)


def test_utilities_far_below_the_others_are_as_forbidden(generator: torch.Generator) -> None:
    """With every engine: right, value and gradient, where the entries can all be 0; right or told where they cannot."""
    z = cp.Variable(5)
    knapsack = cvxsst.Polytope(z, [z >= 0, z <= 1, z @ [3, 1, 2, 4, 1] <= 5], recognize=False)
    lowest = torch.tensor([[-1e30], [torch.finfo(torch.float64).min], [-1e9]], dtype=torch.float64)
    for P in (knapsack, polytopes.spanning_tree(4), polytopes.matching(4), polytopes.k_subset(5, 2)):
        w = utilities(P, 3, generator=generator)
        few, many = torch.zeros_like(w, dtype=torch.bool), torch.ones_like(w, dtype=torch.bool)
        few[:, 1], many[:, 0] = True, False
        right = cvxsst.softmax(P, w.masked_fill(many, -1e4), engine="kkt")
        for name, engine in ENGINES.items():
            for f in (cvxsst.BinaryEntropy(), cvxsst.Euclidean()):
                if not engine.supports(P, f):
                    continue
                results = []
                for low in (torch.full_like(lowest, -torch.inf), lowest):
                    leaf = torch.where(few, low, w).requires_grad_()
                    found = cvxsst.softmax(P, leaf, f, engine=name)
                    (gradient,) = torch.autograd.grad(found.square().sum(), leaf)
                    results.append((found.detach(), gradient.masked_fill(few, 0.0)))
                for masked_one, low_one in zip(*results, strict=True):
                    assert (masked_one - low_one).abs().max() <= 1e-8
            if name == "enumeration" or not (engine.batched and engine.supports(P, f)):
                continue  # sums over all structures answer for themselves
            lower = torch.where(many, lowest, w)
            found, info = cvxsst.softmax(P, lower, engine=name, on_failure="nan", return_info=True)
            assert bool((~info.converged | ((found - right).abs().amax(dim=1) <= 1e-6)).all())

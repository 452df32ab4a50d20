"""The audit finds what is wrong with a declaration, and nothing where nothing is."""

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
import polytopes

from .table import zoo


@pytest.mark.parametrize("P", zoo(), ids=repr)
def test_the_zoo_passes(P: cvxsst.Polytope) -> None:
    report = cvxsst.audit(P, objectives=50)
    assert report.passed, str(report)
    assert report.structures is not None
    assert report.held == ["argmax"] * (P.family.argmax_oracle is not None)
    assert max(map(len, str(report).splitlines())) <= 80
    assert "may have been missed" in " ".join(str(report).split())


def single_commodity_trees(n: int) -> cvxsst.Polytope:
    """Spanning trees by one flow of n - 1 units from node 0 (Gavish and Graves): valid, but not the hull."""
    edges = [(i, j) for i in range(n) for j in range(i + 1, n)]
    z, flow = cp.Variable(len(edges)), cp.Variable(2 * len(edges), nonneg=True)
    arcs = edges + [(j, i) for i, j in edges]
    inflow = np.zeros((n, len(arcs)))
    for a, (i, j) in enumerate(arcs):
        inflow[j, a] += 1
        inflow[i, a] -= 1
    capacity = (n - 1) * cp.hstack([z, z])
    return cvxsst.Polytope(
        z, [z >= 0, z <= 1, cp.sum(z) == n - 1, inflow[1:] @ flow == 1, flow <= capacity], name="single commodity"
    )


def test_single_commodity_flow_is_not_the_hull_of_spanning_trees() -> None:
    report = cvxsst.audit(single_commodity_trees(4))
    assert not report.passed
    assert report.fractional is not None
    assert report.objective is not None
    # the witness is real: no spanning tree beats it, and it is no mixture of trees
    trees = np.array(list(polytopes.spanning_tree.structure_list(n=4, edges=None)))  # type: ignore[misc]
    assert (report.objective * report.fractional).sum() >= (trees @ report.objective).max() - 1e-9
    weights = cp.Variable(len(trees), nonneg=True)
    mixture = cp.Problem(cp.Minimize(cp.norm_inf(trees.T @ weights - report.fractional)), [cp.sum(weights) == 1])
    assert mixture.solve(solver=cp.CLARABEL) > 0.01
    assert "FRACTIONAL" in str(report)


def test_odd_cycle_has_the_half_integral_vertex() -> None:
    z = cp.Variable(3, nonneg=True)
    P = cvxsst.Polytope(z, [z[0] + z[1] <= 1, z[1] + z[2] <= 1, z[0] + z[2] <= 1])
    fractional = cvxsst.audit(P).fractional
    assert fractional is not None
    assert np.abs(fractional - 0.5).max() <= 1e-9


def test_redundant_implied_and_dependent_rows_are_named() -> None:
    z = cp.Variable(2)
    P = cvxsst.Polytope(
        z, [z >= 0, cp.sum(z) == 1, 2 * cp.sum(z) == 2, z[0] <= 3, z[1] <= 0.5, z[1] >= 0.5], name="half"
    )
    report = cvxsst.audit(P)
    assert report.dimension == 0
    assert report.dependent == 1
    assert report.fixed == [0, 1]
    assert len(report.implied) == 2
    assert "z[0] <= 3" in report.redundant  # type: ignore[operator]
    assert "half" in str(report)


def test_of_two_equal_rows_one_is_redundant() -> None:
    z = cp.Variable(2, nonneg=True)
    report = cvxsst.audit(cvxsst.Polytope(z, [cp.sum(z) <= 1, cp.sum(z) <= 1]))
    assert report.redundant == ["z[0] + z[1] <= 1"]


def test_structures_and_vertices_are_compared_both_ways() -> None:
    @cvxsst.polytope
    def too_small(n):
        z = cp.Variable(n, nonneg=True)
        return z, [cp.sum(z) == 1, z[0] <= z[1]]

    @cvxsst.polytope
    def too_large(n):
        z = cp.Variable(n, bounds=[0, 1])
        return z, []

    for family in (too_small, too_large):
        family.structures(lambda n: np.eye(n))
    small, large = cvxsst.audit(too_small(2)), cvxsst.audit(too_large(2))
    assert small.cut_off is not None
    assert list(small.cut_off) == [1, 0]
    assert large.stranger is not None
    assert large.stranger.sum() != 1
    assert not small.passed
    assert not large.passed


WRONG_ORACLES = {
    "zeros": (lambda w, n: torch.zeros_like(w), "it reaches <w, z> = 0 where the linear program reaches 0."),
    "outside": (lambda w, n: (w > 0).to(w) * 2, "lies 1 outside of the polytope"),
    "between": (lambda w, n: (w > 0).to(w) + 0.5 * (w == 0), "between several vertices"),
    "NaN": (lambda w, n: w * torch.nan, "not finite"),
    "raises": (lambda w, n: 1 / 0, "ZeroDivisionError: division by zero"),
    "shape": (lambda w, n: (w > 0).to(w)[..., :-1], "it returns (200, 4)"),
    "no tensor": (lambda w, n: None, "it returns NoneType"),
    "rarely": (lambda w, n: (w > 0).to(w) * (w.amax(-1, keepdim=True) > 0.1), "it reaches <w, z> = 0"),
}


@pytest.mark.parametrize("how", WRONG_ORACLES)
def test_a_wrong_oracle_fails_with_the_first_utilities_that_show_it(how: str) -> None:
    @cvxsst.polytope
    def box(n):
        z = cp.Variable(n)
        return z, [z >= 0, z <= 1]

    oracle, says = WRONG_ORACLES[how]
    box.argmax(oracle)
    report = cvxsst.audit(box(5))
    assert not report.passed
    assert report.integral, "the constraints are right"
    (refutation,) = report.refuted
    assert refutation.function == "argmax"
    assert says in " ".join(str(report).split())
    assert "WRONG" in str(report)
    if refutation.z is not None and how != "NaN":
        assert np.array_equal(oracle(torch.from_numpy(refutation.w), 5), refutation.z)
    box.argmax(lambda w, n: (w > 0).to(w))
    assert cvxsst.audit(box(5)).passed


def test_the_oracle_of_a_recognized_family_is_held_too(monkeypatch) -> None:
    z = cp.Variable(4, nonneg=True)
    P = cvxsst.Polytope(z, [cp.sum(z) == 1])
    assert cvxsst.audit(P).recognized == "simplex(4)"
    monkeypatch.setattr(polytopes.simplex, "argmax_oracle", lambda w, n: torch.full_like(w, 1 / n))
    assert not cvxsst.audit(P).passed


def test_structures_are_shown_by_their_support() -> None:
    @cvxsst.polytope
    def pairs(n):
        z = cp.Variable((n, n))
        return z, [z >= 0, z <= 1, cp.sum(z) <= 2.5]

    pairs.structures(lambda n: np.eye(n * n).reshape(-1, n, n))
    report = cvxsst.audit(pairs(4))
    assert report.fractional is not None
    ((i, j),), (a, b) = np.argwhere(report.fractional == 0.5), np.argwhere(report.fractional == 1)
    support = f"entry ({i}, {j}) is 0.5, entries ({a[0]}, {a[1]}), ({b[0]}, {b[1]}) are 1, the others 0"
    assert f"FRACTIONAL vertex {support}" in " ".join(str(report).split())

    @cvxsst.polytope
    def larger(n):
        z = cp.Variable(n, bounds=[0, 1])
        return z, []

    larger.structures(lambda n: np.eye(n))
    report = cvxsst.audit(larger(9))
    assert report.stranger is not None
    support = f"entries {', '.join(map(str, np.flatnonzero(report.stranger)))} are 1, the others 0"
    assert f"STRANGER: a vertex that is not in Z: {support}" in " ".join(str(report).split())


def test_what_passed_cannot_mean_is_said() -> None:
    z = cp.Variable(3, nonneg=True)
    said = " ".join(str(cvxsst.audit(cvxsst.Polytope(z, [cp.sum(z) == 1]))).split())
    assert "whether the vertices are the structures that you mean, no list says" in said
    assert "every structure listed" in " ".join(str(cvxsst.audit(polytopes.simplex(3))).split())


def test_empty_and_unbounded_are_reported_when_checked_late() -> None:
    z = cp.Variable(6000)
    report = cvxsst.audit(cvxsst.Polytope(z, [z >= 1, z <= 0], name="late"))
    assert not report.passed
    assert "contradict" in str(report)
    assert "no bound" in str(cvxsst.audit(cvxsst.Polytope(z, [z >= 1], name="late")))


def test_vertices_are_complete_without_a_list() -> None:
    """Enumeration through the argmax alone, by hulls (few dimensions) and by branching (0/1, more dimensions)."""
    from cvxsst.geometry.vertices import _branch, _grow

    for P in (polytopes.birkhoff(3), polytopes.permutahedron(4), polytopes.k_subset(5, 2), polytopes.spanning_tree(4)):
        known = {v.tobytes() for v in np.round(P.vertices(), 6) + 0.0}
        for search in (_grow, *([] if P.family is polytopes.permutahedron else [_branch])):
            found = search(P.presolved)
            assert found is not None
            assert len(found) == len(known)
            assert {v.tobytes() for v in np.round(found, 6) + 0.0} == known


def test_enumeration_refuses_what_it_cannot_finish() -> None:
    z = cp.Variable(9)
    between = cvxsst.Polytope(z, [cp.norm1(z - 0.3) <= 1], name="nine-dimensional cross")
    with pytest.raises(cvxsst.NoFastPathError, match="enumerated"):
        cvxsst.which_engine(between, cvxsst.ExponentialFamily())
    with pytest.raises(cvxsst.NoFastPathError, match="enumerated"):
        cvxsst.which_engine(polytopes.birkhoff(12), cvxsst.ExponentialFamily())


def test_redundant_rows_are_found_among_necessary_ones_and_only_they() -> None:
    z = cp.Variable(2)
    P = cvxsst.Polytope(z, [z >= 0, z <= 1, z[0] + z[1] <= 1.7, z[0] + 2 * z[1] <= 3.5, z[0] - z[1] <= 0.9])
    report = cvxsst.audit(P, objectives=1)
    assert report.redundant == ["z[0] + 2 z[1] <= 3.5"]


def test_vertices_just_beyond_a_facet_are_found() -> None:
    """A cut corner whose two vertices lie only 0.1 beyond the hull of the others."""
    z = cp.Variable(3)
    P = cvxsst.Polytope(z, [z >= 0, cp.sum(z) <= 1, cp.max(z) <= 0.9])
    assert len(P.vertices()) == 10

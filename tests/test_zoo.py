"""Every page of the zoo against brute force: Z = vertices of the declared hull, and the oracle finds the best of Z."""

import inspect
import math

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cvxsst
import polytopes
from cvxsst.family import Member

from .table import zoo

FAMILIES = [family for name in polytopes.__all__ if (family := getattr(polytopes, name)).examples]
# One size beyond the examples of the pages, still small enough to list Z.
LARGER = [
    polytopes.simplex(9),
    polytopes.cube(7),
    polytopes.k_subset(8, 3),
    polytopes.correlated_k_subset(8, 4),
    polytopes.birkhoff(5),
    polytopes.permutahedron(5),
    polytopes.matching(8),
    polytopes.path(6, [(i, j) for i in range(6) for j in range(i + 1, 6)]),
    polytopes.spanning_tree(5),
    polytopes.arborescence(5),
    polytopes.projective_tree(6),
]
each_polytope = pytest.mark.parametrize("P", [*zoo(), *LARGER], ids=repr)


def structures(P: cvxsst.Polytope) -> torch.Tensor:
    assert P.family is not None
    assert P.family.structure_list is not None
    return torch.from_numpy(np.array(list(P.family.structure_list(**P.arguments)))).reshape(-1, P.size)


def is_in(z: torch.Tensor, Z: torch.Tensor) -> bool:
    """Whether every row of z is, up to the tolerance of the linear programs, a row of Z."""
    known = {tuple(row) for row in Z.tolist()}
    near = z.round()
    return bool((z - near).abs().max() <= 1e-7) and all(tuple(row) in known for row in (near + 0.0).tolist())


@each_polytope
def test_every_structure_is_feasible_and_listed_once(P: cvxsst.Polytope) -> None:
    Z = structures(P)
    assert len(torch.unique(Z, dim=0)) == len(Z) > 0
    assert max(P.presolved.distance(z) for z in Z.numpy()) <= 1e-9


@each_polytope
def test_vertices_of_the_hull_are_structures_and_the_oracle_finds_the_best(P: cvxsst.Polytope) -> None:
    """Hundreds of random objectives, a third of them with ties: linear program, oracle and brute force agree."""
    Z = structures(P)
    generator = torch.Generator().manual_seed(5)
    w = torch.cat(
        [
            torch.randn(200, P.size, generator=generator, dtype=torch.float64),
            torch.randint(-1, 2, (99, P.size), generator=generator).double(),
            torch.zeros(1, P.size, dtype=torch.float64),
        ]
    )
    best = (w @ Z.T).amax(1)
    for engine in ("lp", "fast"):
        z = cvxsst.argmax(P, w.reshape(-1, *P.shape), engine=engine).reshape(-1, P.size)
        assert is_in(z, Z)
        assert ((z * w).sum(1) - best).abs().max() <= 1e-9


@pytest.mark.parametrize("P", LARGER, ids=repr)
def test_oracles_take_every_batch_shape_and_dtype(P: cvxsst.Polytope) -> None:
    w = torch.randn(2, 3, *P.shape, generator=torch.Generator().manual_seed(1))
    z = cvxsst.argmax(P, w)
    assert z.dtype == w.dtype
    apart = torch.stack([torch.stack([cvxsst.argmax(P, w[i, j]) for j in range(3)]) for i in range(2)])
    assert torch.equal(z, apart)
    assert cvxsst.argmax(P, w[:0]).shape == (0, 3, *P.shape)
    assert torch.equal(cvxsst.argmax(P, w.transpose(0, 1)), z.transpose(0, 1))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_pages_are_complete(family: cvxsst.Family) -> None:
    page = inspect.getmodule(family.declare)
    assert page is not None
    assert page.__doc__ is not None
    for part in ("Z =", "conv Z", "argmax"):
        assert part in page.__doc__
    assert "*Why.*" in page.__doc__ or "*The hull.*" in page.__doc__
    assert family.__doc__ is not None
    assert ">>>" in family.__doc__
    assert family.argmax_oracle is not None
    assert family.structure_list is not None
    assert len(family.examples) >= 2


@pytest.mark.parametrize(
    ("P", "count"),
    [
        (polytopes.cube(7), 2**7),
        (polytopes.k_subset(8, 3), math.comb(8, 3)),
        (polytopes.correlated_k_subset(8, 4), math.comb(8, 4)),
        (polytopes.birkhoff(5), math.factorial(5)),
        (polytopes.permutahedron(5), math.factorial(5)),
        (polytopes.matching(8), 7 * 5 * 3),
        (polytopes.path(6, [(i, j) for i in range(6) for j in range(i + 1, 6)]), 2**4),
        (polytopes.spanning_tree(5), 5**3),  # Cayley
        (polytopes.arborescence(5), 5**3),  # each tree, directed away from the root
        (polytopes.projective_tree(6), math.comb(15, 5) // 11),  # non-crossing trees on 6 points: C(3k, k) / (2k + 1)
    ],
    ids=repr,
)
def test_sizes_of_the_sets(P: cvxsst.Polytope, count: int) -> None:
    assert len(structures(P)) == count


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 25))
def test_prim_agrees_with_networkx(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    i, j = torch.triu_indices(n, n, 1)
    sparse = torch.rand(len(i), generator=generator) < 0.5
    sparse |= j == i + 1  # a path keeps it connected
    edges = torch.stack([i, j], 1)[sparse][torch.randperm(int(sparse.sum()), generator=generator)].tolist()
    w = torch.randn(len(edges), generator=generator, dtype=torch.float64)
    graph = nx.Graph()
    graph.add_weighted_edges_from((a, b, x) for (a, b), x in zip(edges, w.tolist(), strict=True))
    expected = sum(d["weight"] for *_, d in nx.maximum_spanning_edges(graph, data=True))
    z = cvxsst.argmax(polytopes.spanning_tree(n, edges), w, engine="fast") if len(edges) < 60 else None
    oracle = Member(polytopes.spanning_tree, {"n": n, "edges": edges}).argmax(w)  # type: ignore[misc]
    assert z is None or torch.equal(z, oracle)
    assert float((oracle * w).sum()) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 14), kind=st.sampled_from(["normal", "integers", "nested"]))
def test_arborescences_agree_with_networkx(seed: int, n: int, kind: str) -> None:
    """``nested``: neighbours prefer each other, pairs prefer pairs, and so on: cycles within cycles."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(4, n, n, generator=generator, dtype=torch.float64)
    if kind == "integers":
        w = torch.randint(-2, 3, (4, n, n), generator=generator).double()
    if kind == "nested":
        node = torch.arange(n)
        level = sum(((node[:, None] >> b) == (node >> b)).double() for b in range(4))
        w = 0.1 * w + 10.0 * level
        w[:, 0] = torch.randn(4, n, generator=generator, dtype=torch.float64)
    z = polytopes.arborescence.argmax_oracle(w, n)  # type: ignore[misc]
    for zi, wi in zip(z, w, strict=True):
        graph = nx.DiGraph()
        graph.add_weighted_edges_from((i, j, float(wi[i, j])) for i in range(n) for j in range(1, n) if i != j)
        expected = nx.maximum_spanning_arborescence(graph).size(weight="weight")
        assert float((zi * wi).sum()) == pytest.approx(expected, abs=1e-8)
        chosen = nx.DiGraph((i, j) for i, j in zi.nonzero().tolist())
        assert nx.is_arborescence(chosen)
        assert len(chosen) == n


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 12))
def test_eisner_agrees_with_a_recursion_over_intervals(seed: int, n: int) -> None:
    """The best projective tree by another decomposition: the first child's interval, then the rest."""
    w = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cache: dict[tuple[int, int, int], float] = {}

    def forest(h: int, s: int, t: int) -> float:
        """The best way to hang the nodes s..t, all on one side of h, below h in consecutive subtrees."""
        if s > t:
            return 0.0
        if (h, s, t) not in cache:
            cache[h, s, t] = max(
                float(w[h, m]) + forest(m, s, m - 1) + forest(m, m + 1, e) + forest(h, e + 1, t)
                for e in range(s, t + 1)
                for m in range(s, e + 1)
            )
        return cache[h, s, t]

    z = polytopes.projective_tree.argmax_oracle(w, n)  # type: ignore[misc]
    assert float((z * w).sum()) == pytest.approx(forest(0, 1, n - 1), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), half=st.integers(1, 7))
def test_matchings_agree_with_the_linear_program(seed: int, half: int) -> None:
    if half > 5:
        half = 5
    P = polytopes.matching(2 * half)
    w = torch.randn(3, *P.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fast, lp = (cvxsst.argmax(P, w, engine=engine) for engine in ("fast", "lp"))
    assert ((fast - lp) * w).sum(1).abs().max() <= 1e-8


def test_marginals_of_uniform_structures() -> None:
    """Symmetry and Cayley: permutations 1/n, trees 2/n, arcs from the root 2/n."""
    uniform = cvxsst.ExponentialFamily()

    def marginals(P: cvxsst.Polytope) -> torch.Tensor:
        return cvxsst.softmax(P, torch.zeros(P.shape, dtype=torch.float64), uniform)

    assert (marginals(polytopes.birkhoff(4)) - 1 / 4).abs().max() <= 1e-12
    assert (marginals(polytopes.spanning_tree(5)) - 2 / 5).abs().max() <= 1e-12
    assert (marginals(polytopes.arborescence(5))[0, 1:] - 2 / 5).abs().max() <= 1e-12
    assert (marginals(polytopes.k_subset(8, 3)) - 3 / 8).abs().max() <= 1e-12
    assert (marginals(polytopes.permutahedron(4)) - 2.5).abs().max() <= 1e-12


def test_products_alone_do_not_describe_correlated_subsets() -> None:
    """Why the page needs its dynamic program: McCormick's inequalities with sum z = k have fractional vertices."""
    import cvxpy as cp

    z = cp.Variable(9, nonneg=True)
    items, products = z[:5], z[5:]
    loose = cvxsst.Polytope(
        z,
        [
            items <= 1,
            cp.sum(items) == 2,
            products <= items[:-1],
            products <= items[1:],
            products >= items[:-1] + items[1:] - 1,
        ],
        name="McCormick",
    )
    assert cvxsst.audit(loose).fractional is not None


@pytest.mark.parametrize(
    ("family", "arguments", "error", "says"),
    [
        ("simplex", (0,), ValueError, "n: at least 1"),
        ("cube", (2.5,), TypeError, "n: expected an integer"),
        ("cube", (4.0,), TypeError, "n: expected an integer"),  # although cube(4) is known already
        ("k_subset", (3, 4), ValueError, "k: at most 3"),
        ("k_subset", (3, -1), ValueError, "k: at least 0"),
        ("k_subset", (True, 1), TypeError, "integer"),
        ("correlated_k_subset", (3, 4), ValueError, "k: at most 3"),
        ("birkhoff", (0,), ValueError, "n: at least 1"),
        ("permutahedron", ("3",), TypeError, "integer"),
        ("matching", (5,), ValueError, "odd number"),
        ("matching", (15,), ValueError, "at most 14"),
        ("matching", (16,), ValueError, "odd sets"),
        ("path", (3, [(-1, 0), (0, 2)]), ValueError, r"edges\[0\].*leaves"),
        ("path", (3, [(0, 1), (1, 0), (1, 2)]), ValueError, "cycle"),
        ("path", (3, [(0, 1)]), ValueError, "no path leads"),
        ("path", (3, [(0, 3)]), ValueError, r"edges\[0\]"),
        ("path", (3, [(0, 1, 2)]), TypeError, r"edges\[0\]"),
        ("spanning_tree", (3, 5), TypeError, "sequence of pairs"),
        ("spanning_tree", (1,), ValueError, "n: at least 2"),
        ("spanning_tree", (3, [(0, 1), (1, 0), (1, 2)]), ValueError, "repeats"),
        ("spanning_tree", (3, [(0, 1), (1, 1)]), ValueError, "loop"),
        ("spanning_tree", (4, [(0, 1), (2, 3)]), ValueError, "node 2 is not connected"),
        ("arborescence", (0,), ValueError, "n: at least 1"),
        ("projective_tree", (-1,), ValueError, "n: at least 1"),
    ],
)
def test_wrong_arguments_name_the_argument_and_the_cure(family, arguments, error, says) -> None:
    with pytest.raises(error, match=says):
        getattr(polytopes, family)(*arguments)


def test_ties_are_broken_the_same_way_whatever_the_size() -> None:
    """Equal utilities: the cube leaves the entry out, sorting keeps the order of the positions."""
    for n in (3, 17, 40):
        zero = torch.zeros(n)
        assert torch.equal(cvxsst.argmax(polytopes.cube(n), zero), zero)
        assert torch.equal(cvxsst.argmax(polytopes.permutahedron(n), zero), torch.arange(1.0, n + 1))


def test_bounds_by_the_oracle_are_those_of_the_linear_programs() -> None:
    for P in zoo():
        for by_oracle, by_program in zip(P.bounds, P.presolved.bounds, strict=True):
            assert np.abs(by_oracle - by_program).max() <= 1e-9, P

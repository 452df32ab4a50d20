"""Pictures: what is drawn where, against what is known of the polytopes; and errors."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch

import cvxsst
from cvxsst import plot
from polytopes import arborescence, birkhoff, cube, k_subset, matching, permutahedron, simplex, spanning_tree

mpl.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def scattered(ax, number: int = 0) -> np.ndarray:
    return np.asarray(ax.collections[number].get_offsets())


def differ_by_a_transposition(a: np.ndarray, b: np.ndarray) -> bool:
    return int(np.abs(a - b).sum()) == 2 and np.abs(a - b).max() == 1


@pytest.mark.parametrize(
    ("P", "adjacent"),
    [
        (cube(3), lambda a, b: np.abs(a - b).sum() == 1),
        (simplex(4), lambda a, b: True),
        (k_subset(5, 2), lambda a, b: np.abs(a - b).sum() == 2),
        (birkhoff(3), lambda a, b: True),  # any two of the 6 permutations of three differ by a single cycle
        (permutahedron(4), differ_by_a_transposition),  # of neighbouring values
        (spanning_tree(4), lambda a, b: np.abs(a - b).sum() == 2),  # bases of a matroid: one exchange
        (simplex(2), lambda a, b: True),
    ],
    ids=lambda value: repr(value) if isinstance(value, cvxsst.Polytope) else "",
)
def test_edges_of_polytopes_are_those_of_the_theory(P: cvxsst.Polytope, adjacent: Callable) -> None:
    V = P.vertices()
    pairs = itertools.combinations(range(len(V)), 2)
    assert plot.polytope_edges(P) == [(i, j) for i, j in pairs if adjacent(V[i], V[j])]


def test_a_point_has_no_edges() -> None:
    assert plot.polytope_edges(simplex(1)) == []
    assert len(plot.polytope(simplex(1)).lines) == 0


def test_edges_of_a_large_polytope_are_refused() -> None:
    with pytest.raises(ValueError, match=r"512 vertices in 9 dimensions.*edges=False"):
        plot.polytope(cube(9))
    assert len(scattered(plot.polytope(cube(9), edges=False))) == 512


def test_the_simplex_is_an_upright_triangle() -> None:
    ax = plot.polytope(simplex(3), labels=["a", "b", "c"])
    a, b, c = scattered(ax)
    assert math.dist(a, b) == pytest.approx(math.sqrt(2))  # no distance is changed
    assert a[1] == pytest.approx(b[1])
    assert c[1] > a[1]
    assert b[0] > a[0]
    assert c[0] == pytest.approx((a[0] + b[0]) / 2)
    assert len(ax.lines) == 3
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c"]


@pytest.mark.parametrize("P", [cube(4), birkhoff(3), permutahedron(4), spanning_tree(4)], ids=repr)
@pytest.mark.parametrize("dimension", [2, 3])
def test_projections_are_orthonormal_and_keep_vertices_apart(P: cvxsst.Polytope, dimension: int) -> None:
    projection = plot.projection(P, dimension)
    assert np.allclose(projection @ projection.T, np.eye(dimension))
    points = P.vertices() @ projection.T
    assert min(math.dist(a, b) for a, b in itertools.combinations(points, 2)) > 0.1


def test_a_segment_is_filled_up_with_zeros() -> None:
    assert (plot.projection(simplex(2), 3)[1:] == 0).all()


def test_samples_lie_where_their_vertices_do() -> None:
    P = k_subset(4, 2)
    z = torch.from_numpy(P.vertices()).reshape(2, 3, 4).requires_grad_()
    ax = plot.samples(P, z, color="red")
    assert np.allclose(scattered(ax, 1), scattered(ax, 0))
    ax = plot.samples(P, z, plot.polytope(P, dimension=3))
    assert ax.name == "3d"


def test_a_path_of_temperature_goes_from_the_centre_to_the_argmax() -> None:
    P, w = simplex(3), torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    T = torch.logspace(4, -3, 30)[:, None]
    ax = plot.path(P, cvxsst.softmax(P, w.expand(30, 2, 3), cvxsst.CategoricalEntropy(), T), label="path")
    corners = scattered(ax)
    for line, best in zip(ax.lines[3:], (1, 0), strict=True):
        points = np.asarray(line.get_xydata())
        assert np.allclose(points[0], corners.mean(0), atol=1e-3)
        assert np.allclose(points[-1], corners[best], atol=1e-3)
    assert len(ax.get_legend_handles_labels()[1]) == 1


def test_a_field_is_the_gradient_along_the_polytope() -> None:
    w = torch.tensor([1.0, 0.0, 5.0], dtype=torch.float64)
    ax = plot.field(simplex(3), lambda z: z @ w)
    arrows: Any
    (arrows,) = [drawn for drawn in ax.collections if hasattr(drawn, "U")]
    expected = plot.projection(simplex(3)) @ (w - w.mean()).numpy()
    assert np.allclose(np.stack([arrows.U, arrows.V], 1), expected)
    ax = plot.field(
        simplex(3), lambda z: z @ w, projection=np.eye(3)[:2]
    )  # seen from above, along the simplex all the same
    (arrows,) = [drawn for drawn in ax.collections if hasattr(drawn, "U")]
    assert np.allclose(np.stack([arrows.U, arrows.V], 1), (w - w.mean())[:2])
    with pytest.raises(ValueError, match="has dimension 3"):
        plot.field(cube(3), lambda z: z.sum(-1))
    with pytest.raises(ValueError, match="not one each"):
        plot.field(simplex(3), lambda z: z)


def test_a_matrix_shows_its_entries() -> None:
    ax = plot.matrix(torch.tensor([[0.25, 1.0], [0.0, 2.0]]), rows=["r", "s"], columns=["c", "d"])
    assert [text.get_text() for text in ax.texts] == [".25", "1", "0", "2"]
    assert ax.images[0].get_clim() == (0, 2)
    assert not plot.matrix(np.eye(9)).texts
    (image,) = plot.matrix([0.5, 0.5]).images
    assert tuple(image.get_extent()) == (-0.5, 1.5, 0.5, -0.5)
    with pytest.raises(ValueError, match="got shape"):
        plot.matrix(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="give one for each"):
        plot.matrix(np.eye(2), rows=["only"])


def test_a_tree_has_a_line_for_each_positive_weight_as_wide_as_it() -> None:
    z = torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0, 0.5])  # 01, 03, 23
    ax = plot.tree(z)
    lines: Any
    (lines,) = [drawn for drawn in ax.collections if type(drawn).__name__ == "LineCollection"]
    widths = lines.get_linewidths()
    assert len(widths) == 3
    assert widths[0] > widths[1] == widths[2]
    places = np.arange(8.0).reshape(4, 2)
    (lines,) = [
        drawn
        for drawn in plot.tree(z, positions=places).collections
        if type(drawn).__name__ == "LineCollection"
    ]  # fmt: skip
    assert np.allclose(lines.get_segments(), [places[[0, 1]], places[[0, 3]], places[[2, 3]]])
    assert plot.tree(np.ones((3, 3)) - np.eye(3))
    assert plot.tree(matching(4).vertices()[0], labels=["a", "b", "c", "d"])
    assert plot.tree([0.5, 1.0], edges=[(0, 1), (1, 2)])


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plot.tree(torch.ones(4)), "no complete graph"),
        (lambda: plot.tree(torch.ones(3), edges=[(0, 1)]), "give one for each"),
        (lambda: plot.tree(np.triu(np.ones((3, 3)))), "not symmetric"),
        (lambda: plot.tree(torch.ones(3), positions=np.zeros((2, 2))), "positions"),
        (lambda: plot.tree(torch.ones(3), labels=["a"]), "labels"),
        (lambda: plot.tree(torch.ones(2, 3), edges=[(0, 1), (0, 2)]), "one instance"),
        (lambda: plot.arborescence(torch.ones(3)), r"\(n, n\)"),
        (lambda: plot.text(["a", "b"], [0.5]), "weight for each"),
        (lambda: plot.text(["a"], [1.5]), r"outside of \[0, 1\]"),
        (lambda: plot.samples(simplex(3), torch.ones(4)), "does not end in"),
        (lambda: plot.polytope(simplex(3), labels=["a"]), "1 for 3 vertices"),
        (lambda: plot.polytope(simplex(3), dimension=4), "choose 2 or 3"),
        (lambda: plot.polytope(simplex(3), projection=np.eye(3)), "projection"),
        (lambda: plot.projection(simplex(3), 4), "choose 1, 2 or 3"),
    ],
)
def test_errors_name_the_argument(draw: Callable, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        draw()


def test_arcs_and_circles_have_an_arrow_for_each_edge() -> None:
    z = arborescence(4).vertices()[5].reshape(4, 4)
    words = ["root", "trees", "hold", "words"]
    arcs = plot.arborescence(z, arcs=True, labels=words)
    assert len(arcs.patches) == 3
    assert [text.get_text() for text in arcs.texts] == words
    circle = plot.arborescence(z, labels=words)
    assert len(circle.patches) == 3


def test_a_text_is_wrapped_and_highlighted() -> None:
    words = ["one", "two", "three", "four"]
    ax = plot.text(words, torch.tensor([0.0, 1.0, 0.5, 0.0]), width=9)
    patches: list[Any] = list(ax.patches)
    assert [patch.get_alpha() for patch in patches] == pytest.approx([0.0, 0.85, 0.425, 0.0])
    lines = [patch.get_y() for patch in patches]
    assert lines == pytest.approx([0.1, 0.1, 1.1, 2.1])
    assert "".join(text.get_text() for text in ax.texts) == "onetwothreefour"


def test_given_axes_are_returned() -> None:
    _, ax = plt.subplots()
    P = simplex(3)
    z = torch.full((3,), 1 / 3)
    assert plot.polytope(P, ax) is ax
    assert plot.samples(P, z, ax) is ax
    assert plot.path(P, z[None], ax) is ax
    assert plot.matrix(z, ax) is ax
    assert plot.tree(z, ax) is ax
    assert plot.arborescence(np.eye(2), ax) is ax
    assert plot.text(["a"], [1.0], ax) is ax


def test_without_matplotlib_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ModuleNotFoundError, match=r"cvxsst\[plot\]"):
        plot.polytope(simplex(3))

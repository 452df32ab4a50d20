"""Pictures of polytopes, samples and structures (extra ``plot``: Matplotlib). Every function takes and returns axes.

    polytope       vertices and edges, in a plane or in space
    samples, path  points in it, and paths of temperature
    field          a function on a two-dimensional polytope, and its gradient
    matrix         a relaxed permutation, or any matrix
    tree           undirected edges and their weights
    arborescence   directed edges and their weights, in a circle or as arcs over words
    text           a subset of the words of a sentence

    from cvxsst import plot

    ax = plot.polytope(permutahedron(3))
    plot.samples(permutahedron(3), q.sample((200,)), ax)

Tensors, with a gradient or not, and arrays are taken alike. Everywhere ``ax`` is where to draw, by default new axes;
``labels`` are the names of nodes, by default their numbers, ``positions`` their places ``(n, 2)``, by default a circle;
``color`` is that of edges, or of a weight of 1. Functions of a polytope draw in the same projection
``(2 or 3, P.size)``, that of ``projection(P, dimension)``, unless they are given another; axes in space
(``projection="3d"``) are drawn in three dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import torch
from scipy.spatial import ConvexHull, Delaunay

from cvxsst.cache import Cache
from cvxsst.installed import require
from cvxsst.polytope import Polytope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = torch.Tensor | np.ndarray | Sequence[Any]

DARK, ACCENT = "#24527a", "#c2571a"
CANDIDATES = 200  # projections that are tried where symmetry leaves the choice open
NEAR = 1e-9
QHULL_DIMENSION = 9  # with more, facets are too many
MOST_VERTICES = 500

# of the polytopes drawn last
_PROJECTIONS: Cache[tuple[Polytope, int], np.ndarray] = Cache(32)
_EDGES: Cache[Polytope, list[tuple[int, int]]] = Cache(32)


def polytope(
    P: Polytope,
    ax: Axes | None = None,
    *,
    dimension: int = 2,
    projection: np.ndarray | None = None,
    edges: bool = True,
    labels: bool | Sequence[str] = False,
    color: str = DARK,
) -> Axes:
    """The vertices of P, and its edges: the pairs of vertices whose segment is a face.

    Args:
        P: the polytope, with an enumerable set of vertices.
        dimension: 2 or 3, of new axes.
        edges: whether to draw edges.
        labels: names of the vertices, in the order of ``P.vertices()``; True: their entries.

    Raises:
        ValueError: wrong shape of ``projection``, too few ``labels``, too large a polytope to find its edges.
        NoFastPathError: the vertices cannot be enumerated.
    """
    axes = _axes(ax, dimension, equal=True)
    V = P.vertices()
    points = V @ _projection(P, axes, projection).T
    for i, j in polytope_edges(P) if edges else ():
        axes.plot(*points[[i, j]].T, color=color, linewidth=1, alpha=0.6, zorder=1)
    axes.scatter(*points.T, color=color, s=16, zorder=2)
    if labels is True:
        separator = "" if np.isin(V, range(10)).all() else " "
        labels = [separator.join(f"{entry:g}" for entry in vertex) for vertex in V]
    if labels:
        _require(len(labels) == len(V), f"labels: {len(labels)} for {len(V)} vertices; give one for each")
        away = points - points.mean(0)
        distance = (0.06 if points.shape[1] == 2 else 0.12) * np.ptp(points)  # in space it is seen foreshortened
        away = points + distance * away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), NEAR)
        for place, label in zip(away, labels, strict=True):
            axes.text(*place, label, ha="center", va="center", fontsize=8)
        axes.margins(0.14)  # room for them
    return axes


def samples(
    P: Polytope, z: Values, ax: Axes | None = None, *, projection: np.ndarray | None = None, **style: Any
) -> Axes:
    """Points of P, ``(*batch, *P.shape)``; ``style`` is that of ``Axes.scatter``. Without axes P is drawn too."""
    axes: Any = polytope(P, projection=projection) if ax is None else ax
    points = _points(P, z) @ _projection(P, axes, projection).T
    color = {} if "c" in style else {"color": ACCENT}
    axes.scatter(*points.T, **{"s": 10, "alpha": 0.5, "linewidths": 0, "zorder": 3} | color | style)
    return axes


def path(P: Polytope, z: Values, ax: Axes | None = None, *, projection: np.ndarray | None = None, **style: Any) -> Axes:
    """Points of P in order, ``(steps, *P.shape)`` or ``(steps, paths, *P.shape)``, joined; a dot marks the first.

    For a path of temperature: ``z = cvxsst.softmax(P, w.expand(50, *P.shape), f, temperature=torch.logspace(2, -2,
    50))``. ``style`` is that of ``Axes.plot``. Without axes P is drawn too.
    """
    axes: Any = polytope(P, projection=projection) if ax is None else ax
    points = _points(P, z) @ _projection(P, axes, projection).T
    points = points.reshape(np.shape(_array(z))[0], -1, points.shape[-1])
    for line in points.swapaxes(0, 1):
        (drawn,) = axes.plot(*line.T, **{"linewidth": 1.6, "zorder": 3} | style)
        axes.scatter(*line[:1].T, color=drawn.get_color(), s=18, zorder=4)
        style.pop("label", None)  # once in the legend
    return axes


def field(
    P: Polytope,
    function: Callable[[torch.Tensor], torch.Tensor],
    ax: Axes | None = None,
    *,
    density: int = 13,
    projection: np.ndarray | None = None,
) -> Axes:
    """The values of a function on P as filled contours, and its gradient along P as arrows.

    Args:
        P: a polytope of dimension two: ``simplex(3)``, ``permutahedron(3)``, ``k_subset(3, 2)``, a square, ...
        function: z ``(points, *P.shape)`` in float64 to values ``(points,)``, differentiable by autograd.
        density: arrows across the picture.

    Raises:
        ValueError: P is not two-dimensional, or the values have another shape.
    """
    V = P.vertices()
    affine = _directions(V)
    _require(len(affine) == 2, f"P: {P!r} has dimension {len(affine)}; the gradient is drawn on dimension 2 only")
    axes: Any = polytope(P, projection=projection) if ax is None else _axes(ax, equal=True)
    projected = _projection(P, axes, projection)

    def evaluate(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = V.mean(0) + 0.985 * (_grid((V - V.mean(0)) @ affine.T, count) @ affine)  # off the boundary: entropies
        z = torch.from_numpy(at).reshape(-1, *P.shape).requires_grad_()
        values = function(z)
        _require(
            values.shape == (len(z),), f"function: returned {tuple(values.shape)} for {len(z)} points, not one each"
        )
        (gradient,) = torch.autograd.grad(values.sum(), z)
        along = gradient.reshape(len(z), -1).numpy() @ affine.T @ affine
        return at @ projected.T, values.detach().numpy(), along @ projected.T

    points, values, _ = evaluate(60)
    axes.tricontourf(*points.T, values, levels=14, cmap="Blues", alpha=0.7, zorder=0)
    points, _, arrows = evaluate(density)
    axes.quiver(*points.T, *arrows.T, color=ACCENT, width=0.004, zorder=3)
    return axes


def matrix(
    z: Values,
    ax: Axes | None = None,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    values: bool | None = None,
    cmap: str = "Blues",
) -> Axes:
    """A matrix as an image, 0 white and 1 dark (or its largest entry, if larger).

    Args:
        z: ``(rows, columns)``; one dimension is drawn as one row.
        rows, columns: names.
        values: whether to write the entries; default: up to 8 columns.
        cmap: a colour map of Matplotlib.

    Raises:
        ValueError: not a matrix, or names that are too many or too few.
    """
    ax = _axes(ax)
    Z = np.atleast_2d(_array(z))
    _require(Z.ndim == 2, f"z: a matrix is drawn, got shape {Z.shape}; choose one instance")
    top = max(1.0, float(Z.max(initial=1.0)))
    ax.imshow(Z, cmap=cmap, vmin=min(0.0, float(Z.min(initial=0.0))), vmax=top)
    for (i, j), entry in np.ndenumerate(Z) if (Z.shape[1] <= 8 if values is None else values) else ():
        text = f"{entry:.2f}".removeprefix("0") if 0 < abs(entry) < 1 else f"{entry:g}"
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if entry > 0.6 * top else "black")
    ax.set(xticks=range(Z.shape[1]) if columns else [], yticks=range(Z.shape[0]) if rows else [])
    for names, count, label in zip((rows, columns), Z.shape, (ax.set_yticklabels, ax.set_xticklabels), strict=True):
        if names:
            _require(len(names) == count, f"names: {len(names)} for {count} rows or columns; give one for each")
            label(names, fontsize=8)
    return ax


def tree(
    z: Values,
    ax: Axes | None = None,
    *,
    edges: Sequence[tuple[int, int]] | None = None,
    positions: Values | None = None,
    labels: Sequence[str] | None = None,
    color: str = DARK,
) -> Axes:
    """Undirected edges, the wider and darker the greater their weights: a spanning tree, a matching, a path.

    Args:
        z: weights in [0, 1] of ``edges``, or a symmetric ``(n, n)``.
        edges: the ends of each; default: all pairs in lexicographic order.

    Raises:
        ValueError: weights that do not fit the edges, wrong ``positions`` or ``labels``.
    """
    weights = _array(z)
    if weights.ndim == 2 and edges is None:
        _require(np.allclose(weights, weights.T), "z: the matrix is not symmetric; arborescence draws directed edges")
        weights = weights[np.triu_indices(len(weights), 1)]
    _require(weights.ndim == 1, f"z: one graph is drawn, got shape {weights.shape}; choose one instance")
    if edges is None:
        n = round((1 + np.sqrt(1 + 8 * len(weights))) / 2)
        _require(n * (n - 1) // 2 == len(weights), f"z: {len(weights)} weights are no complete graph's; give edges")
        edges = list(combinations(range(n), 2))
    _require(len(edges) == len(weights), f"edges: {len(edges)} for {len(weights)} weights; give one for each")
    graph = nx.empty_graph(1 + max(max(edge) for edge in edges))
    graph.add_weighted_edges_from((*edge, weight) for edge, weight in zip(edges, weights.tolist(), strict=True))
    return _graph(graph, _axes(ax, equal=True), positions, labels, color)


def arborescence(
    z: Values,
    ax: Axes | None = None,
    *,
    positions: Values | None = None,
    labels: Sequence[str] | None = None,
    arcs: bool = False,
    color: str = DARK,
) -> Axes:
    """Directed edges, the wider and darker the greater their weights; ``z[i, j]``: i is the head of j.

    Args:
        z: ``(n, n)``, weights in [0, 1].
        arcs: draw the nodes in a row, as words are, and arcs above them.

    Raises:
        ValueError: not a square matrix, wrong ``positions`` or ``labels``.
    """
    Z = _array(z)
    _require(Z.ndim == 2 and Z.shape[0] == Z.shape[1], f"z: (n, n) is drawn, got shape {Z.shape}; choose one instance")
    if arcs:
        return _arcs(Z, _axes(ax), labels, color)
    return _graph(nx.from_numpy_array(Z, create_using=nx.DiGraph), _axes(ax, equal=True), positions, labels, color)


def text(words: Sequence[str], z: Values, ax: Axes | None = None, *, width: int = 60, color: str = ACCENT) -> Axes:
    """A sentence whose words are highlighted by weights in [0, 1].

    Args:
        words: those of the sentence; the letters are made to fit the axes.
        z: ``(len(words),)``, weights in [0, 1].
        width: characters in a line.

    Raises:
        ValueError: a weight is missing or out of range.
    """
    weights = _array(z)
    _require(weights.shape == (len(words),), f"z: shape {weights.shape} for {len(words)} words; give a weight for each")
    inside = (np.abs(weights - 0.5) <= 0.5 + 1e-6).all()
    _require(inside, "z: weights outside of [0, 1]; choose a relaxation within it, or rescale")
    width = max(width, *map(len, words)) if words else width
    ax = _axes(ax, size=(8, 1))
    from matplotlib.patches import Rectangle

    places, column, line = [], 0, 0
    for word in words:
        if column and column + len(word) > width:
            column, line = 0, line + 1
        places.append((column, line))
        column += len(word) + 1
    ax.set(xlim=(-0.5, width), ylim=(line + 1, 0))
    ax.axis("off")
    box = ax.get_window_extent()
    inch = 72 / ax.figure.dpi
    # a letter of a monospaced font is 0.6 of the font's size wide; lines are 1.6 of it high
    size = min(12.0, box.width * inch / (width + 0.5) / 0.62, box.height * inch / (line + 1) / 1.6)
    for (column, line), word, weight in zip(places, words, weights.clip(0, 1), strict=True):
        area = (column - 0.3, line + 0.1), len(word) + 0.6, 0.8
        ax.add_patch(Rectangle(*area, color=color, alpha=0.85 * float(weight), linewidth=0))
        # a letter is a column wide, whatever the font: place each by itself
        for k, letter in enumerate(word):
            ax.text(column + k + 0.5, line + 0.5, letter, ha="center", va="center", family="monospace", fontsize=size)
    return ax


def projection(P: Polytope, dimension: int = 2) -> np.ndarray:
    """``(dimension, P.size)``, orthonormal rows: the principal axes of the vertices.

    Where that leaves the choice open (the vertices of most families spread alike, within a factor of 2, in many
    directions) the projection that keeps the vertices farthest apart, of 200 random ones with a fixed seed. Rows of 0
    fill up a polytope of fewer dimensions.

    Raises:
        ValueError: a dimension other than 1, 2 or 3.
    """
    _require(dimension in (1, 2, 3), f"dimension: choose 1, 2 or 3, got {dimension}")
    return _PROJECTIONS.get((P, dimension), lambda: _principal(P.vertices(), dimension))


def _principal(V: np.ndarray, dimension: int) -> np.ndarray:
    centred = V - V.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    rank = int((spread > NEAR * max(1.0, spread.max(initial=0.0))).sum())
    spread, chosen = spread[:rank], axes[:rank]
    if rank > dimension:
        tied = np.abs(np.log(spread / spread[dimension - 1])) < np.log(2)
        before = chosen[(spread > spread[dimension - 1]) & ~tied]
        chosen = np.vstack([before, _farthest(centred, before, chosen[tied], dimension - len(before))])
    chosen = _upright(centred @ chosen.T) @ chosen if len(chosen) > 1 else chosen
    return np.vstack([chosen, np.zeros((dimension - len(chosen), V.shape[1]))])


def _farthest(centred: np.ndarray, before: np.ndarray, tied: np.ndarray, count: int) -> np.ndarray:
    """Of ``count``-dimensional subspaces of the span of ``tied`` one in which even the nearest vertices are apart."""
    if len(tied) == count:
        return tied
    random = np.random.default_rng(0)
    pairs = np.array(list(combinations(range(min(len(centred), MOST_VERTICES)), 2)))
    best, farthest = tied[:count], -1.0
    for _ in range(CANDIDATES):
        axes = np.linalg.qr(random.standard_normal((len(tied), count)))[0].T @ tied
        points = centred @ np.vstack([before, axes]).T
        nearest = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1).min()
        if nearest > farthest:
            best, farthest = axes, float(nearest)
    return best


def _upright(points: np.ndarray) -> np.ndarray:
    """A rotation or reflection: vertex 1 right of vertex 0, and the next one that is not on their line above them.

    So a simplex stands on its first two corners.
    """
    basis: list[np.ndarray] = []
    for step in [*(points[1:] - points[0]), *np.eye(points.shape[1])]:
        rest = step - sum((step @ row) * row for row in basis)
        if np.linalg.norm(rest) > 1e-6 * max(1.0, np.abs(points).max()):
            basis.append(rest / np.linalg.norm(rest))
        if len(basis) == points.shape[1]:
            break
    return np.array(basis)


def polytope_edges(P: Polytope) -> list[tuple[int, int]]:
    """The edges of P, as pairs of rows of ``P.vertices()``.

    Two vertices are adjacent iff no third one lies on all facets that hold both. The facets are those of the convex
    hull of the vertices (Qhull), within their affine hull.

    Raises:
        ValueError: more than 500 vertices or 9 dimensions.
    """
    return _EDGES.get(P, lambda: _adjacent(P, P.vertices()))


def _adjacent(P: Polytope, V: np.ndarray) -> list[tuple[int, int]]:
    affine = _directions(V)
    if len(affine) < 2:
        return [(0, 1)] if len(affine) else []
    if len(affine) > QHULL_DIMENSION or len(V) > MOST_VERTICES:
        raise ValueError(
            f"P: {P!r} has {len(V)} vertices in {len(affine)} dimensions, too many to find its edges (at most "
            f"{MOST_VERTICES} in {QHULL_DIMENSION}); edges=False draws the vertices alone"
        )
    points = (V - V.mean(0)) @ affine.T
    facets = ConvexHull(points).equations
    on = np.abs(points @ facets[:, :-1].T + facets[:, -1]) < 1e-7 * max(1.0, np.abs(points).max())
    # if it is on all of their common facets, a vertex is on the least face that holds both
    return [(i, j) for i, j in combinations(range(len(V)), 2) if on[:, on[i] & on[j]].all(1).sum() == 2]


def _directions(V: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the directions within the affine hull."""
    _, spread, axes = np.linalg.svd(V - V.mean(0), full_matrices=False)
    return axes[spread > NEAR * max(1.0, spread.max(initial=0.0))]


def _grid(corners: np.ndarray, count: int) -> np.ndarray:
    """A triangular grid of points in the hull of ``corners`` ``(., 2)``, ``count`` across, and the corners."""
    low, high = corners.min(0), corners.max(0)
    step = (high - low).max() / count
    across, up = np.meshgrid(np.arange(-1, count + 2), np.arange(0, int(count / 0.866) + 2))
    points = low + step * np.stack([across + (up % 2) / 2, up * 0.866], -1).reshape(-1, 2)
    return np.vstack([points[Delaunay(corners).find_simplex(points) >= 0], corners])


def _graph(graph: Any, ax: Axes, positions: Values | None, labels: Sequence[str] | None, color: str) -> Axes:
    from matplotlib.colors import to_rgba

    n = len(graph)
    turn = np.pi / 2 - 2 * np.pi * np.arange(n) / n  # node 0 on top, then clockwise
    places = np.stack([np.cos(turn), np.sin(turn)], 1) if positions is None else _array(positions)
    _require(places.shape == (n, 2), f"positions: shape {places.shape} for {n} nodes; give ({n}, 2)")
    names = _names(labels, n)
    size = max(220, (6 * max(map(len, names), default=0)) ** 2)  # of a node, in square points
    at = dict(enumerate(places))
    drawn = [(i, j, w) for i, j, w in graph.edges(data="weight") if w > 1e-3]
    arrows: dict[str, Any] = {"arrowsize": 11, "connectionstyle": "arc3,rad=0.12"} if graph.is_directed() else {}
    nx.draw_networkx(
        graph, at, ax=ax, labels=dict(enumerate(names)), font_size=8,
        node_color="white", edgecolors="black", node_size=size,
        edgelist=[(i, j) for i, j, _ in drawn], width=[0.5 + 3 * w for *_, w in drawn],
        edge_color=[to_rgba(color, min(1.0, 0.1 + 0.9 * w)) for *_, w in drawn], **arrows,
    )  # fmt: skip
    ax.axis("off")
    ax.margins(0.12)
    return ax


def _arcs(Z: np.ndarray, ax: Axes, labels: Sequence[str] | None, color: str) -> Axes:
    from matplotlib.patches import FancyArrowPatch

    n = len(Z)
    names = _names(labels, n)
    # as wide as the words
    starts = np.cumsum([0, *(len(name) + 2 for name in names)])
    middle = [(starts[i] + starts[i + 1]) / 2 for i in range(n)]
    highest = 1.0
    for i, j in zip(*np.nonzero(Z > 1e-3), strict=True):
        a, b = middle[i], middle[j]
        weight, height = float(Z[i, j]), abs(b - a) / 2
        highest = max(highest, height)
        curve = f"arc3,rad={-0.75 if b > a else 0.75}"
        arrow = FancyArrowPatch(
            (a, 0), (b, 0), connectionstyle=curve, arrowstyle="-|>", mutation_scale=9,
            linewidth=0.5 + 2 * weight, color=color, alpha=min(1.0, 0.1 + 0.9 * weight), shrinkA=0, shrinkB=0,
        )  # fmt: skip
        ax.add_patch(arrow)
    for place, name in zip(middle, names, strict=True):
        ax.text(place, -0.04 * starts[-1], name, ha="center", va="top", fontsize=9)
    ax.set(xlim=(0, starts[-1]), ylim=(-0.12 * starts[-1], 0.85 * highest), aspect="equal")
    ax.axis("off")
    return ax


def _names(labels: Sequence[str] | None, n: int) -> list[str]:
    names = [str(i) for i in range(n)] if labels is None else list(labels)
    _require(len(names) == n, f"labels: {len(names)} for {n} nodes; give one for each")
    return names


def _axes(ax: Axes | None, dimension: int = 2, *, equal: bool = False, size: tuple[float, float] = (4, 4)) -> Any:
    """The given axes or new ones. Of any type: axes in space take a coordinate more than those in a plane."""
    if ax is None:
        require("matplotlib.pyplot", "cvxsst[plot]")
        import matplotlib.pyplot as plt

        _require(dimension in (2, 3), f"dimension: choose 2 or 3, got {dimension}")
        options = {"projection": "3d"} if dimension == 3 else {}
        ax = plt.figure(figsize=size, layout="constrained").add_subplot(**options)
    if equal:
        ax.set_aspect("equal")
        ax.axis("off")
    return ax


def _projection(P: Polytope, ax: Axes, given: np.ndarray | None) -> np.ndarray:
    dimension = 3 if ax.name == "3d" else 2
    if given is None:
        return projection(P, dimension)
    matrix = np.asarray(given, dtype=float)
    expected = (dimension, P.size)
    _require(matrix.shape == expected, f"projection: shape {matrix.shape}; give {expected} for these axes and {P!r}")
    return matrix


def _points(P: Polytope, z: Values) -> np.ndarray:
    values = _array(z)
    trailing = values.shape[values.ndim - len(P.shape) :]
    _require(trailing == P.shape, f"z: shape {values.shape} does not end in {P.shape}, that of {P!r}")
    return values.reshape(-1, P.size)


def _array(values: Values) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=float)


def _require(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise ValueError(message)

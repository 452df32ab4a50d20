"""What the engine prepares: a polytope in the space of z alone, and with it a regularizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cvxsst.engines.facets.inequalities import Inequalities, Listed, Separated, along
from cvxsst.engines.facets.newton import Program
from cvxsst.errors import NoFastPathError
from cvxsst.geometry.facets import TooManyFacetsError, echelon, facets
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Separable

MOST_DIMENSIONS = 20  # of P where its facets are to be computed
SEARCHED_DIMENSIONS = 10  # the same where its vertices have to be searched for too
SAME = 1e-9


@dataclass(frozen=True)
class Description:
    """P in the entries of z that it does not fix: E z = e, low <= z <= high, and inequalities.

    Attributes:
        free: these entries; ``constant``: the values of the others, 0 in the free ones.
    """

    E: torch.Tensor
    e: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    inequalities: Inequalities
    free: torch.Tensor
    constant: torch.Tensor


def described(P: Polytope) -> Description | str:
    """The description, or in words why there is none; found once."""
    return P.prepared.get("facets", lambda: _describe(P))


def _describe(P: Polytope) -> Description | str:
    core, knowledge = P.presolved.core, P.knowledge
    free = P.presolved.free
    constant = P.presolved.interior[: P.size].copy()
    constant[free] = 0.0
    if not core.form.lifted:
        program, single = core.linear_program, np.diff(core.form.G.indptr) == 1
        E, e, low, high = core.form.A.toarray(), core.form.b, program.lower, program.upper
        G, h = core.form.G[~single].toarray(), core.form.h[~single]
        return _listed(E, e, low, high, G, h, free, constant)
    E, e, _ = echelon(*core.hull)
    low, high = (bound[free] for bound in P.bounds)
    high = np.where(_implied(E, e, low, high), np.inf, high)
    if knowledge is not None and knowledge.facets is not None:
        G, h = (np.asarray(part, dtype=float) for part in knowledge.facets())
        G = G.reshape(len(h), P.size)
        return _listed(E, e, low, high, G[:, free], h - G @ constant, free, constant)
    if knowledge is not None and knowledge.separation is not None:
        places, rest, hull = (torch.from_numpy(part) for part in (free, constant, core.hull[0]))
        separated = Separated(knowledge.separation, P.shape, places, rest, hull)
        return Description(*map(torch.from_numpy, (E, e, low, high)), separated, places, rest)
    found = _computed(P)
    if isinstance(found, str):
        return found
    return _listed(E, e, low, high, *found, free, constant)


def _computed(P: Polytope) -> tuple[np.ndarray, np.ndarray] | str:
    """The facets in the free entries, from all vertices."""
    listed = P.knowledge is not None and P.knowledge.structures is not None
    most, dimension = MOST_DIMENSIONS if listed else SEARCHED_DIMENSIONS, P.presolved.dimension
    cure = "register @family.facets"
    if dimension > most:
        return (
            f"facets knows the inequalities in z alone of unlifted declarations, of families with @family.facets, and "
            f"of lifted ones of up to {most} dimensions; {P!r} has {dimension}: {cure}"
        )
    try:
        V = P.vertices()[:, P.presolved.free]
    except NoFastPathError as error:
        return f"facets needs the vertices of a lifted declaration: {error}; or {cure}"
    try:
        return facets(V, *P.presolved.core.hull)
    except TooManyFacetsError:
        return f"{P!r} has too many facets to be computed from its {len(V)} vertices: {cure}"


def _listed(
    E: np.ndarray,
    e: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    G: np.ndarray,
    h: np.ndarray,
    free: np.ndarray,
    constant: np.ndarray,
) -> Description:
    """Rows scaled so that violations are distances along the affine hull; those that bounds say left out."""
    hull = torch.from_numpy(np.linalg.qr(E.T)[0].T.copy() if len(E) else E)
    rows = torch.from_numpy(G)
    size = along(rows, hull).numpy()
    G, h = G / size[:, None], h / size
    said = _said_by_bounds(G, h, E, e, low, high, hull.numpy())
    listed = Listed(torch.from_numpy(G[~said]), torch.from_numpy(h[~said]))
    return Description(
        *map(torch.from_numpy, (E, e, low, high)), listed, torch.from_numpy(free), torch.from_numpy(constant)
    )


def _said_by_bounds(
    G: np.ndarray, h: np.ndarray, E: np.ndarray, e: np.ndarray, low: np.ndarray, high: np.ndarray, hull: np.ndarray
) -> np.ndarray:
    """Which rows are on the affine hull a bound of one entry."""
    n = G.shape[1]
    point = np.linalg.lstsq(E, e, rcond=None)[0] if len(E) else np.zeros(n)
    unit = np.eye(n) - hull.T @ hull
    length = np.maximum(np.linalg.norm(unit, axis=1), SAME)
    unit /= length[:, None]
    tangent = G - (G @ hull.T) @ hull
    slack = h - G @ point  # of the row, in units of z, at a point of the hull
    said = np.zeros(len(G), dtype=bool)
    for sign, bound in ((1.0, high - point), (-1.0, point - low)):
        same = np.abs(tangent @ (sign * unit).T - 1) < SAME
        said |= (same & (bound / length <= slack[:, None] + SAME)).any(1)
    return said


def _implied(E: np.ndarray, e: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which upper bounds a single equality and the lower bounds imply: all of its other entries have the same sign."""
    implied = np.zeros(len(low), dtype=bool)
    for sign in (1.0, -1.0):
        rows = E * sign
        usable = (rows >= 0).all(1)
        least = rows[usable] @ low
        with np.errstate(divide="ignore", invalid="ignore"):
            most = low + (sign * e[usable] - least)[:, None] / rows[usable]
        implied |= (np.where(rows[usable] > 0, most, np.inf) <= high + SAME).any(0)
    return implied


def program(P: Polytope, f: Separable, description: Description) -> Program:
    """With phi: bounds that its domain implies are left to it."""
    d, (low, high) = description, f.domain
    interior = torch.from_numpy(P.presolved.interior[: P.size])[d.free]
    d_low = d.low.masked_fill(d.low <= low, low) if f.steep else d.low.clamp(min=low)
    d_high = d.high.masked_fill(d.high >= high, high) if f.steep else d.high.clamp(max=high)
    return Program(
        E=d.E,
        e=d.e,
        gram=torch.linalg.cholesky(d.E @ d.E.T),
        low=d_low,
        high=d_high,
        center=f.gradient(interior),
        inequalities=d.inequalities,
        f=f,
        size=max(1.0, float(np.abs(P.bounds).max(initial=0.0))),
    )

"""A polytope in the space of z alone: its affine hull, the bounds of its entries, and its other inequalities.

Where they come from:

- a family says them: ``@family.facets``, a list, or a separation where they are too many. With ``@family.argmax``
  besides, its lifted form is never looked at: the affine hull is found through the oracle;
- of a small lifted member of a family that lists its structures the facets are computed from these, in exact integers;
- of any other declaration the lifted columns, if there are any, are eliminated (``cvxsst.geometry.facets``), and found
  again for every z: so its rows are judged as they were written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from cvxsst.engines.facets.inequalities import Inequalities, Listed, Separated, along
from cvxsst.engines.facets.lifting import Lifting
from cvxsst.errors import NoFastPathError
from cvxsst.geometry.facets import TooManyFacetsError, affine_hull_by_oracle, echelon, facets, projection
from cvxsst.geometry.linear_program import LinearProgram
from cvxsst.oracles import by_family
from cvxsst.polytope import Knowledge, Map, Polytope
from cvxsst.values import plainly

MOST_DIMENSIONS = 20  # of P where its facets are to be computed
SAME = 1e-9
ORACLE_CALLS = 256  # instances in one call of the oracle


class Place(NamedTuple):
    """Where P lies.

    Attributes:
        free: the entries of z that P does not fix; ``constant`` ``(n,)``: the values of the others, 0 in the free ones.
        interior: the free entries of a point of the relative interior.
        E, e: E z = e, the affine hull in the free entries; ``normals``: orthonormal rows that span those of E.
    """

    free: np.ndarray
    constant: np.ndarray
    interior: np.ndarray
    E: np.ndarray
    e: np.ndarray
    normals: np.ndarray

    @staticmethod
    def of(free: np.ndarray, point: np.ndarray, normals: np.ndarray) -> Place:
        """From a point of the relative interior ``(n,)`` and the normals in the free entries."""
        constant = point.copy()
        constant[free] = 0.0
        E, e, _ = echelon(normals, normals @ point[free])
        return Place(free, constant, point[free], E, e, normals)


@dataclass(frozen=True)
class Description:
    """P in the entries of z that it does not fix: E z = e, low <= z <= high, and inequalities.

    Attributes:
        free: these entries; ``constant``: the values of the others, 0 in the free ones.
        interior: a point of the relative interior.
        lifting: how far z is from the declaration's own rows; None where a family says what P is.
    """

    E: torch.Tensor
    e: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    inequalities: Inequalities
    free: torch.Tensor
    constant: torch.Tensor
    interior: torch.Tensor
    lifting: Lifting | None = None


def described(P: Polytope) -> Description | str:
    """The description, or in words why there is none; found once."""
    return P.prepared.get("facets", lambda: plainly(lambda: _describe(P)))


def _describe(P: Polytope) -> Description | str:
    knowledge = P.knowledge
    listed = None if knowledge is None else knowledge.facets
    if knowledge is not None and listed is not None:
        G, h = (np.asarray(part, dtype=float) for part in listed)
        place, G = _placed(P, knowledge), G.reshape(len(h), P.size)
        return _listed(place, *_bounds(P, place), G[:, place.free], h - G @ place.constant)
    if knowledge is not None and knowledge.separation is not None:
        place = _placed(P, knowledge)
        free, constant, normals = (torch.from_numpy(part) for part in (place.free, place.constant, place.normals))
        separated = Separated(knowledge.separation, P.shape, free, constant, normals)
        return _description(place, *_bounds(P, place), separated)
    if P.presolved.form.lifted and knowledge is not None and knowledge.structures is not None:
        found, place = _computed(P), _by_presolve(P)
        return found if isinstance(found, str) else _listed(place, *_bounds(P, place), *found)
    return _eliminated(P)


def _eliminated(P: Polytope) -> Description | str:
    """The declaration's own rows, without its lifted columns."""
    try:
        found = projection(P.presolved.core.form)
    except TooManyFacetsError:
        lifted = P.presolved.form.lifted
        return f"{P!r} has too many inequalities in z alone to be computed from its {lifted} lifted columns"
    place = _by_presolve(P)._replace(E=found.A, e=found.b)
    single = np.count_nonzero(found.G, axis=1) == 1
    box = LinearProgram(found.A, found.b, found.G[single], found.h[single], len(place.free))
    listed = _listed(place, box.lower, box.upper, found.G[~single], found.h[~single])
    return replace(listed, lifting=Lifting.of(P.form, P.presolved.free, found))


def _placed(P: Polytope, knowledge: Knowledge) -> Place:
    return _by_presolve(P) if knowledge.argmax is None else _by_oracle(P, knowledge.argmax)


def _by_presolve(P: Polytope) -> Place:
    return Place.of(P.presolved.free, P.presolved.interior[: P.size], P.presolved.core.hull[0])


def _by_oracle(P: Polytope, oracle: Map) -> Place:
    def argmax(w: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(w).split(ORACLE_CALLS)
        return torch.cat([by_family(P, oracle, part, None) for part in parts]).numpy()

    V, _ = affine_hull_by_oracle(argmax, P.size)
    free = np.flatnonzero(np.ptp(V, axis=0) > SAME)
    _, s, rows = np.linalg.svd(V[:, free] - V[0, free], full_matrices=True)
    return Place.of(free, V.mean(axis=0), rows[np.count_nonzero(s > SAME * max(1.0, s.max(initial=0.0))) :])


def _bounds(P: Polytope, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Of the free entries; those above that the equalities and those below imply are infinite."""
    low, high = (bound[place.free] for bound in P.bounds)
    return low, np.where(_implied(place.E, place.e, low, high), np.inf, high)


def _computed(P: Polytope) -> tuple[np.ndarray, np.ndarray] | str:
    """The facets in the free entries, from all vertices."""
    most, dimension, cure = MOST_DIMENSIONS, P.presolved.dimension, "register @family.facets"
    if dimension > most:
        return (
            f"facets computes the inequalities of a lifted member of a family from its structures in up to {most} "
            f"dimensions; {P!r} has {dimension}: {cure}"
        )
    try:
        V = P.vertices()[:, P.presolved.free]
    except NoFastPathError as error:
        return f"facets needs the vertices of a lifted member of a family: {error}; or {cure}"
    try:
        return facets(V, *P.presolved.core.hull)
    except TooManyFacetsError:
        return f"{P!r} has too many facets to be computed from its {len(V)} vertices: {cure}"


def _listed(place: Place, low: np.ndarray, high: np.ndarray, G: np.ndarray, h: np.ndarray) -> Description:
    """Rows scaled so that violations are distances along the affine hull; those that bounds say left out."""
    size = along(torch.from_numpy(G), torch.from_numpy(place.normals)).numpy()
    says_something = size > SAME * np.linalg.norm(G, axis=1)
    G, h = (part[says_something] for part in (G, h))
    size = size[says_something]
    G, h = G / size[:, None], h / size
    said = _said_by_bounds(place, low, high, G, h) if len(G) else np.zeros(0, dtype=bool)
    return _description(place, low, high, Listed(torch.from_numpy(G[~said]), torch.from_numpy(h[~said])))


def _description(place: Place, low: np.ndarray, high: np.ndarray, inequalities: Inequalities) -> Description:
    arrays = (place.E, place.e, low, high, place.free, place.constant, place.interior)
    E, e, least, most, free, constant, interior = map(torch.from_numpy, arrays)
    return Description(E, e, least, most, inequalities, free, constant, interior)


def _said_by_bounds(place: Place, low: np.ndarray, high: np.ndarray, G: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Which rows are on the affine hull a bound of one entry."""
    normals, point = place.normals, place.interior
    unit = np.eye(G.shape[1]) - normals.T @ normals
    length = np.maximum(np.linalg.norm(unit, axis=1), SAME)
    unit /= length[:, None]
    tangent, slack = G - (G @ normals.T) @ normals, h - G @ point
    said = np.zeros(len(G), dtype=bool)
    for sign, room in ((1.0, high - point), (-1.0, point - low)):
        same = np.abs(tangent @ (sign * unit).T - 1) < SAME
        said |= (same & (room / length <= slack[:, None] + SAME)).any(1)
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

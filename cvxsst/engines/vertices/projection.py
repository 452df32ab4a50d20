"""Wolfe's minimum-norm point for a batch: the point z of conv V nearest to u, V known by an oracle.

    z the point of conv S nearest to u, inside it, S a corral;     v maximizes <u - z, v>
    <u - z, v - z> = 0: done, else v joins S, and vertices leave as long as the nearest point of aff S is outside conv S

What can go wrong is rounding, and ties. For ties u is nudged by 1e-11 in a fixed generic direction: then the nearest
point lies inside a simplex of vertices that spans its face, and each step makes progress. The result is that for u
itself on the same face. A vertex is let in if its distance from aff S is more than rounding, as seen by an inverse that
is good enough to tell. Where a vertex of aff S looks better than z, the step to z was not exact, and is taken again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from cvxsst.engines.vertices.corral import Corrals, length, times
from cvxsst.engines.vertices.face import completed
from cvxsst.engines.vertices.hull import Hull

EPS = torch.finfo(torch.float64).eps
NUDGE = (1e-11, 2e-14)  # of the utilities, relative to the width of P and to |u|: it makes every tie generic
ROUNDING, PLACED = 32 * EPS, 2 * EPS  # of g relative to |u| + |z| + |v|; of v and z relative to |v| + |z|
NUDGED = 1e-10  # residual, relative to the width of P, from which on it matters
SLIGHT = 1e-7  # a weight, below which there may be vertices of the face that had none
STILL = 8 * EPS  # a step, relative to |u| + |z| + |v|, that is rounding
# The distance of a vertex from the affine hull, squared, relative to |v|^2: below the first looked at again with an
# inverse computed anew; below the second rounding, if the gap is too; below the third, times 1 + |m|^2, rounding.
DOUBTFUL, CLOSE, DEPENDENT = 1e-5, 1e-9, 8 * EPS
SPOILT = 1e-8  # relative error of a step by which an inverse is known to be spoilt
MOST_CALLS = (100, 20)  # of the oracle, the second times n: then an instance is given up
REPEATS = 3  # times that a vertex of the affine hull may look better than the point: rounding of the last step


class Projected(NamedTuple):
    """z ``(B, n)``, a bound on its distance from the solution, calls of the oracle, whether nothing is allowed, and an
    orthonormal basis of the directions of the face, ``(B, n, k)``, padded with zeros."""

    z: torch.Tensor
    residual: torch.Tensor
    calls: torch.Tensor
    empty: torch.Tensor
    Q: torch.Tensor

    @staticmethod
    def joined(parts: Sequence[Projected]) -> Projected:
        if len(parts) == 1:
            return parts[0]
        k = max(part.Q.shape[2] for part in parts)
        padded = [part._replace(Q=torch.nn.functional.pad(part.Q, (0, k - part.Q.shape[2]))) for part in parts]
        return Projected(*(torch.cat(tensors) for tensors in zip(*padded, strict=True)))


class Live(NamedTuple):
    """The instances on their way: where they are in the batch, utilities and their lengths, what is forbidden (if
    anything), the point, how far the last step went, how many vertices in a row were in the affine hull already."""

    rows: torch.Tensor
    u: torch.Tensor
    length: torch.Tensor
    forbidden: torch.Tensor | None
    z: torch.Tensor
    moved: torch.Tensor
    repeats: torch.Tensor

    def at(self, index: torch.Tensor) -> Live:
        rows, u, length, forbidden, z, moved, repeats = (None if part is None else part[index] for part in self)
        return Live(rows, u, length, forbidden, z, moved, repeats)  # type: ignore[arg-type]


class Found(NamedTuple):
    """What the oracle says about a point: a vertex v, <u - z, v - z>, what of that may be rounding, |u| + |z| + |v|,
    whether v is out of the affine hull, and what it takes to let it in; the residual, and the length of u - z along the
    affine hull."""

    v: torch.Tensor
    gap: torch.Tensor
    noise: torch.Tensor
    reach: torch.Tensor
    new: torch.Tensor
    m: torch.Tensor
    left: torch.Tensor
    r: torch.Tensor
    tangent: torch.Tensor

    def at(self, index: torch.Tensor) -> Found:
        return Found(*(part[index] for part in self))


Finished = list[tuple[torch.Tensor, Corrals, torch.Tensor, torch.Tensor, int]]


def project(hull: Hull, u: torch.Tensor, forbidden: torch.Tensor | None) -> Projected:
    """The point nearest to u, for each row of u ``(B, n)``."""
    return decomposed(hull, u, forbidden)[0]


def decomposed(
    hull: Hull, u: torch.Tensor, forbidden: torch.Tensor | None
) -> tuple[Projected, Corrals, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The same, with the corrals of the solutions, and the vertices that complete their faces: which rows, and v."""
    u = u - hull.center
    nudge = NUDGE[0] * hull.width + NUDGE[1] * length(u)
    nudged = u + nudge[:, None] * hull.generic
    v = hull.vertex(nudged, lambda: hull.generic.expand(u.shape), forbidden)
    empty = hull.takes(v, forbidden)
    rows = torch.arange(len(u), device=u.device)
    moved = u.new_full((len(u),), torch.inf).masked_fill(empty, 0.0)
    live = Live(rows, nudged, length(nudged), forbidden, v, moved, torch.zeros_like(rows))
    corrals, calls, most = Corrals.of(v, hull.width**2), 1, MOST_CALLS[0] + MOST_CALLS[1] * u.shape[1]
    finished: Finished = []
    while len(live.rows):
        found, calls = _look(hull, live, corrals), calls + 1
        missed = found.r - found.gap[:, None]
        hull.require_maximal(live.u - live.z, found.v, corrals.V, missed, corrals.taken & ~empty[live.rows, None])
        live = live._replace(repeats=torch.where(found.new, 0, live.repeats + 1))
        still = live.moved <= STILL * found.reach
        done = (found.gap <= 0) | ((found.gap <= found.noise) & (still | ~found.new))
        done |= (live.moved == 0) | (live.repeats > REPEATS) | (calls >= most)
        ready = done.nonzero().flatten()
        if len(ready):
            finished.append((live.rows[ready], corrals.rows(ready), _bound(found)[ready], found.new[ready], calls))
            if len(ready) == len(done):
                break
            keep = (~done).nonzero().flatten()
            live, found, corrals = live.at(keep), found.at(keep), corrals.rows(keep)
        slot = corrals.admit(found.v, found.m, found.left, found.new)
        r = torch.nn.functional.pad(found.r, (0, corrals.room - found.r.shape[1]))
        r[torch.arange(len(r), device=r.device), slot] = torch.where(found.new, found.gap, 0.0)
        corrals.descend(r)
        z = corrals.point()
        live = live._replace(z=z, moved=length(z - live.z))
    return _assembled(hull, u, forbidden, empty, nudge, finished)


def _assembled(
    hull: Hull,
    u: torch.Tensor,
    forbidden: torch.Tensor | None,
    empty: torch.Tensor,
    nudge: torch.Tensor,
    finished: Finished,
) -> tuple[Projected, Corrals, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The parts of the batch as they finished: places, corrals, bounds, whether the last vertex was new, calls."""
    rows, parts, bounds, news, counts = zip(*finished, strict=True)
    order = torch.cat(rows).argsort()
    corrals = Corrals.joined(parts).rows(order)
    bound, new = torch.cat(bounds)[order], torch.cat(news)[order]
    calls = torch.cat([torch.full_like(*part) for part in zip(rows, counts, strict=True)])[order]
    slight = corrals.weight.masked_fill(~corrals.taken, 1.0).amin(1) < SLIGHT
    z, Q = _polished(corrals, u, 2 * (bound + nudge)), corrals.directions()
    more: list[tuple[torch.Tensor, torch.Tensor]] = []
    doubtful = ((slight | new) & ~empty & (bound <= SLIGHT * hull.width)).nonzero().flatten()
    if len(doubtful):
        mask = None if forbidden is None else forbidden[doubtful]
        whole, more = completed(hull, u[doubtful] - z[doubtful], mask, z[doubtful], Q[doubtful])
        more = [(doubtful[some], v) for some, v in more]
        Q = torch.nn.functional.pad(Q, (0, whole.shape[2] - Q.shape[2])).index_copy(0, doubtful, whole)
    tangent = (Q.mT @ (u - z).unsqueeze(2)).norm(dim=(1, 2))
    residual = _confirmed(hull, u, forbidden, z, tangent, (3 * (bound + nudge)).maximum(tangent + nudge))
    return Projected(z + hull.center, residual, calls, empty, Q), corrals, more


def _look(hull: Hull, live: Live, corrals: Corrals) -> Found:
    """Ask the oracle, once for all."""
    g = live.u - live.z
    r = corrals.residual(g, live.z)
    step = corrals.step(r)
    tangent = (r * step).sum(1).clamp_min(0).sqrt()
    spoilt = (~(tangent <= SPOILT * live.moved)).nonzero().flatten()
    if len(spoilt):
        corrals.refresh(spoilt)

    def nudge() -> torch.Tensor:
        d = hull.generic.expand(g.shape)
        return d - times(corrals.V.mT, corrals.step(corrals.residual(d, live.z)))

    v = hull.vertex(g, nudge, live.forbidden) if hull.tilt == 0 else _tilted(hull, live, g)
    away, far = v - live.z, length(v)
    gap, size, reach = (g * away).sum(1), far.square() + corrals.s, live.length + length(live.z) + far
    noise = _noise(hull, reach, reach - live.length, away, g)
    m, left = corrals.apart(v)
    least = torch.where(gap > noise, -torch.inf, CLOSE)
    doubtful = ((gap > 0) & (left < DOUBTFUL * size) & (left > least * size)).nonzero().flatten()
    if len(doubtful):
        m[doubtful], left[doubtful] = corrals.surely_apart(doubtful, v[doubtful])
    new = left > size * least.maximum(DEPENDENT * (1 + m.square().sum(1)))
    return Found(v, gap, noise, reach, new, m, left, r, tangent)


def _tilted(hull: Hull, live: Live, g: torch.Tensor) -> torch.Tensor:
    """A vertex for g that is tilted in the generic direction; for g itself where the tilt may hide that z is right."""
    direction = hull.generic.expand(g.shape)
    tilt = hull.tilt * (live.length + length(live.z) + hull.width)
    v = hull.vertex(g + tilt[:, None] * direction, lambda: direction, live.forbidden)
    far = length(v - live.z) + hull.width
    rows = ((g * (v - live.z)).sum(1) <= 2 * tilt * far).nonzero().flatten()
    if len(rows):
        mask = None if live.forbidden is None else live.forbidden[rows]
        v = v.index_copy(0, rows, hull.vertex(g[rows], lambda: direction[rows], mask))
    return v


def _noise(hull: Hull, reach: torch.Tensor, far: torch.Tensor, away: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """How much of <g, v - z> may be rounding of g, and of v and z; far = |v| + |z|, away = v - z."""
    return ROUNDING * reach * length(away) + (hull.blur + PLACED * (far + hull.width)) * length(g)


def _bound(found: Found) -> torch.Tensor:
    """On the distance from the solution. Where no vertex is better z is optimal for utilities without what the affine
    hull has of u - z, and does not move farther than they do; else |z - z*|^2 <= gap."""
    return torch.where(found.gap <= found.noise, found.tangent + EPS * found.reach, found.gap.clamp_min(0).sqrt())


def _polished(corrals: Corrals, u: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """The point for u without the nudge on the same faces, as far as it is in the hulls; unless rounding makes that
    farther than ``most``, ``(B,)``."""
    before, after, z = corrals.weight, corrals.weight, corrals.point()
    at = z
    for _ in range(2):
        after = after + corrals.step(corrals.residual(u - at, at))
        at = times(corrals.V.mT, after)
    along = (before / (before - after)).masked_fill(~(after < 0), 1.0).amin(1, keepdim=True).clamp(0.0, 1.0)
    corrals.weight = (before + along * (after - before)).clamp_min(0.0)
    corrals.weight /= corrals.weight.sum(1, keepdim=True)
    near = (length(corrals.point() - z) <= most)[:, None]
    corrals.weight = torch.where(near, corrals.weight, before)
    return corrals.point()


def _confirmed(
    hull: Hull,
    u: torch.Tensor,
    forbidden: torch.Tensor | None,
    z: torch.Tensor,
    tangent: torch.Tensor,
    residual: torch.Tensor,
) -> torch.Tensor:
    """The residual without the nudge, asked of the oracle where u is so large that the nudge shows; ``tangent``: the
    length of u - z along the face."""
    rows = (residual > NUDGED * hull.width).nonzero().flatten()
    if not len(rows):
        return residual
    u, z, mask = u[rows], z[rows], None if forbidden is None else forbidden[rows]
    g = u - z
    v = hull.vertex(g, lambda: hull.generic.expand(g.shape), mask)
    away, far = v - z, length(z) + length(v)
    reach = length(u) + far
    right = (g * away).sum(1) <= _noise(hull, reach, far, away, g)
    found = tangent[rows] + EPS * reach
    return residual.index_copy(0, rows, torch.where(right, found, residual[rows]))

"""Wolfe's minimum-norm point for a batch: the point of conv V nearest to u, V known by an oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from cvxsst.engines.vertices.corral import Corrals

EPS = torch.finfo(torch.float64).eps
NUDGE = (1e-11, 2e-14)  # of the utilities, relative to the width of P and to |u|: it makes every tie generic
ROUNDING = 16 * EPS  # of <g, v - z>, relative to (|u| + |z| + |v|) |v - z|
NUDGED = 1e-10  # residual, relative to the width of P, from which on it matters
STILL = 8 * EPS  # a step, relative to |u| + |z| + |v|, that is rounding
# The distance of a vertex from the affine hull, squared, relative to |v|^2: below the first looked at again with an
# inverse computed anew; below the second rounding, if the gap is too; below the third, times 1 + |m|^2, rounding.
DOUBTFUL, CLOSE, DEPENDENT = 1e-5, 1e-9, 64 * EPS
SPOILT = 1e-8  # relative error of a step by which an inverse is known to be spoilt
REPEATS = 3  # times that a vertex of the affine hull may look better than the point: rounding of the last step

# (g, nudge, forbidden) -> v, a vertex maximizing <g, v>; among several the best for ``nudge()``.
Oracle = Callable[[torch.Tensor, Callable[[], torch.Tensor], torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Box:
    """Where the vertices are.

    Attributes:
        center: ``(n,)``, of the box around P: vertices count from there, which leaves inner products of 0/1, or of
            integer, vertices exact.
        width: the largest width of the box, 1 if that is 0.
        blur: how far a vertex may be from where the oracle says.
        generic: ``(n,)``, of length 1: where the utilities are nudged to.
    """

    center: torch.Tensor
    width: float
    blur: float
    generic: torch.Tensor

    @staticmethod
    def between(lower: np.ndarray, upper: np.ndarray, blur: float) -> Box:
        generic = torch.from_numpy(np.random.default_rng(0).normal(size=len(lower)))
        width = float((upper - lower).max(initial=0.0))
        width = width if width > 0 else 1.0
        return Box(torch.from_numpy((lower + upper) / 2), width, blur, generic / generic.norm())

    def to(self, device: torch.device) -> Box:
        return Box(self.center.to(device), self.width, self.blur, self.generic.to(device))


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


def project(oracle: Oracle, box: Box, u: torch.Tensor, forbidden: torch.Tensor | None) -> Projected:
    """The point nearest to u, for each row of u ``(B, n)``."""
    u = u - box.center
    nudge = NUDGE[0] * box.width + NUDGE[1] * u.norm(dim=1)
    nudged = u + nudge[:, None] * box.generic
    v = _asked(oracle, box, nudged, lambda: box.generic.expand(u.shape), forbidden)
    empty = u.new_zeros(len(u), dtype=torch.bool)
    if forbidden is not None:
        empty = (forbidden & (v + box.center != 0)).any(1)
    rows = torch.arange(len(u), device=u.device)
    live = Live(
        rows, nudged, nudged.norm(dim=1), forbidden, v, u.new_full((len(u),), torch.inf), torch.zeros_like(rows)
    )
    corrals, calls, most = Corrals.of(v, box.width**2), 1, 100 + 20 * u.shape[1]
    finished = [(rows[:0], corrals.rows(rows[:0]), nudge[:0], 1)]
    while len(live.rows):
        found, calls = _look(oracle, box, live, corrals), calls + 1
        live = live._replace(repeats=torch.where(found.new, 0, live.repeats + 1))
        still = live.moved <= STILL * found.reach
        done = empty[live.rows] | (found.gap <= 0) | ((found.gap <= found.noise) & (still | ~found.new))
        done |= (live.moved == 0) | (live.repeats > REPEATS) | (calls >= most)
        if bool(done.any()):
            finished.append((live.rows[done], corrals.rows(done), _bound(found, live)[done], calls))
            keep = (~done).nonzero().flatten()
            live, found, corrals = live.at(keep), found.at(keep), corrals.rows(keep)
            if not len(keep):
                break
        slot = corrals.admit(found.v, found.m, found.left, found.new)
        r = torch.nn.functional.pad(found.r, (0, corrals.room - found.r.shape[1]))
        r[torch.arange(len(r), device=r.device), slot] = torch.where(found.new, found.gap, 0.0)
        corrals.descend(r)
        z = corrals.point()
        live = live._replace(z=z, moved=(z - live.z).norm(dim=1))
    order = torch.cat([part[0] for part in finished]).argsort()
    corrals = Corrals.joined([part[1] for part in finished]).rows(order)
    bound = torch.cat([part[2] for part in finished])[order]
    counts = torch.cat([torch.full_like(part[0], part[3]) for part in finished])[order]
    residual = bound + nudge
    z, Q = _polished(corrals, u, 2 * residual), corrals.directions()
    residual = _confirmed(oracle, box, u, forbidden, z, Q, 3 * residual)
    return Projected(z + box.center, residual, counts, empty, Q)


def _asked(oracle: Oracle, box: Box, g: torch.Tensor, nudge, forbidden: torch.Tensor | None) -> torch.Tensor:
    if forbidden is not None:
        g = g.masked_fill(forbidden, 0.0)
    return oracle(g, nudge, forbidden) - box.center


def _look(oracle: Oracle, box: Box, live: Live, corrals: Corrals) -> Found:
    g = live.u - live.z
    r = corrals.residual(g, live.z)
    step = corrals.step(r)
    tangent = (r * step).sum(1).clamp_min(0).sqrt()
    spoilt = (tangent > SPOILT * live.moved).nonzero().flatten()
    if len(spoilt):
        corrals.refresh(spoilt)

    def nudge() -> torch.Tensor:
        d = box.generic.expand(g.shape)
        return d - (corrals.step(corrals.residual(d, live.z)).unsqueeze(1) @ corrals.V).squeeze(1)

    v = _asked(oracle, box, g, nudge, live.forbidden)
    away = v - live.z
    gap, size = (g * away).sum(1), v.square().sum(1) + corrals.s
    reach = live.length + live.z.norm(dim=1) + size.sqrt()
    noise = ROUNDING * reach * away.norm(dim=1) + box.blur * g.norm(dim=1)
    m, left = corrals.apart(v)
    least = torch.where(gap > noise, -torch.inf, CLOSE)
    doubtful = ((gap > 0) & (left < DOUBTFUL * size) & (left > least * size)).nonzero().flatten()
    if len(doubtful):
        m[doubtful], left[doubtful] = corrals.surely_apart(doubtful, v[doubtful])
    new = left > size * least.maximum(DEPENDENT * (1 + m.square().sum(1)))
    return Found(v, gap, noise, reach, new, m, left, r, tangent)


def _bound(found: Found, live: Live) -> torch.Tensor:
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
        at = (after.unsqueeze(1) @ corrals.V).squeeze(1)
    along = (before / (before - after)).masked_fill(~(after < 0), 1.0).amin(1, keepdim=True).clamp(0.0, 1.0)
    corrals.weight = (before + along * (after - before)).clamp_min(0.0)
    corrals.weight /= corrals.weight.sum(1, keepdim=True)
    near = ((corrals.point() - z).norm(dim=1) <= most)[:, None]
    corrals.weight = torch.where(near, corrals.weight, before)
    return corrals.point()


def _confirmed(oracle: Oracle, box: Box, u, forbidden, z, Q: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """The residual without the nudge, asked of the oracle where u is so large that the nudge is what is left of it."""
    rows = (residual > NUDGED * box.width).nonzero().flatten()
    if not len(rows):
        return residual
    u, z, mask = u[rows], z[rows], None if forbidden is None else forbidden[rows]
    g, tangent = u - z, (Q[rows].mT @ (u - z).unsqueeze(2)).squeeze(2)
    v = _asked(oracle, box, g, lambda: box.generic.expand(g.shape), mask)
    reach = u.norm(dim=1) + z.norm(dim=1) + v.norm(dim=1)
    noise = ROUNDING * reach * (v - z).norm(dim=1) + box.blur * g.norm(dim=1)
    right = (g * (v - z)).sum(1) <= noise
    found = tangent.norm(dim=1) + EPS * reach
    return residual.index_copy(0, rows, torch.where(right, found, residual[rows]))

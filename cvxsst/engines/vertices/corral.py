"""Corrals: for each instance of a batch affinely independent vertices, and a point of their hull.

    z = V' a,   a >= 0,   sum a = 1,   V (k, n) the vertices;        M = V V' + s 1 1'

The minimizer of |u - V' a|^2 over sum a = 1, of either sign, is a + C r, where

    r = V (u - z),      C = M^-1 - M^-1 1 1' M^-1 / (1' M^-1 1),    C 1 = 0

and sqrt(r' C r) is the length of what the affine hull still has of u - z. The inverse of M is kept: a vertex that comes
or goes changes it by a matrix of rank one. Each step of a starts from the residual r where it is, so that errors of the
inverse do not pile up in a; where they show, the inverse is computed anew. Inner products of 0/1 vertices are exact.
The corrals of a batch are padded to one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from cvxsst.values import is_finite

ROOM = 4  # vertices for which there is room at the start
TENSORS = ("V", "weight", "taken", "inverse", "sums")


@dataclass
class Corrals:
    """L corrals with room for K vertices each.

    Attributes:
        V: ``(L, K, n)``, the vertices; anything finite where none is.
        weight: ``(L, K)``, a; 0 where no vertex is.
        taken: ``(L, K)`` bool, where a vertex is.
        inverse: ``(L, K, K)``, of M; 0 where no vertex is.
        sums: ``(L, K)``, M^-1 1.
        s: of M, about the squared length of a vertex.
    """

    V: torch.Tensor
    weight: torch.Tensor
    taken: torch.Tensor
    inverse: torch.Tensor
    sums: torch.Tensor
    s: float

    @staticmethod
    def of(v: torch.Tensor, s: float) -> Corrals:
        """One vertex each, v ``(L, n)``."""
        (L, n), inverse = v.shape, 1 / (v.square().sum(1) + s)
        V, weight, sums = v.new_zeros(L, ROOM, n), v.new_zeros(L, ROOM), v.new_zeros(L, ROOM)
        whole = v.new_zeros(L, ROOM, ROOM)
        V[:, 0], weight[:, 0], sums[:, 0], whole[:, 0, 0] = v, 1.0, inverse, inverse
        return Corrals(V, weight, weight > 0, whole, sums, s)

    @staticmethod
    def joined(parts: Sequence[Corrals]) -> Corrals:
        """One after another."""
        if len(parts) == 1:
            return parts[0]
        K = max(part.room for part in parts)
        parts = [part.with_room(K) for part in parts]
        V, weight, taken, inverse, sums = (torch.cat([getattr(part, name) for part in parts]) for name in TENSORS)
        return Corrals(V, weight, taken, inverse, sums, parts[0].s)

    @property
    def room(self) -> int:
        return self.V.shape[1]

    def rows(self, index: torch.Tensor) -> Corrals:
        V, weight, taken, inverse, sums = (getattr(self, name)[index] for name in TENSORS)
        return Corrals(V, weight, taken, inverse, sums, self.s)

    def with_room(self, K: int) -> Corrals:
        more = K - self.room
        if more <= 0:
            return self
        V, inverse = pad(self.V, (0, 0, 0, more)), pad(self.inverse, (0, more, 0, more))
        weight, taken, sums = (pad(part, (0, more)) for part in (self.weight, self.taken, self.sums))
        return Corrals(V, weight, taken, inverse, sums, self.s)

    def point(self) -> torch.Tensor:
        """z ``(L, n)``."""
        return times(self.V.mT, self.weight)

    def residual(self, g: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """r ``(L, K)`` of g = u - z ``(L, n)``, less <g, z>, which C does not see; anything where no vertex is."""
        return times(self.V, g) - (g * z).sum(1, keepdim=True)

    def step(self, r: torch.Tensor) -> torch.Tensor:
        """C r, 0 where no vertex is."""
        return _step(self.inverse, self.sums, r)

    def apart(self, v: torch.Tensor, steps: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """m = M^-1 c with c = V v + s 1, and |v|^2 + s - <m, c>: 0 if and only if v is in the affine hull; ``steps`` of
        refinement."""
        V = self.V
        c = times(V, v) + self.s
        m = times(self.inverse, c)
        for _ in range(steps):
            Mm = times(V, times(V.mT, m)) + self.s * m.sum(1, keepdim=True)
            m = m + times(self.inverse, c - Mm)
        return m, v.square().sum(1) + self.s - (c * m).sum(1)

    def surely_apart(self, rows: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for some, v ``(len(rows), n)``, by an inverse that is computed anew."""
        self.refresh(rows)
        return self.rows(rows).apart(v, steps=2)

    def refresh(self, rows: torch.Tensor) -> None:
        """Compute the inverse anew, in place, for some."""
        V, pair = self.V[rows], self.taken[rows].unsqueeze(2) & self.taken[rows].unsqueeze(1)
        eye = torch.eye(self.room, dtype=V.dtype, device=V.device)
        inverse = torch.linalg.inv_ex(torch.where(pair, V @ V.mT + self.s, eye)).inverse
        inverse = torch.where(pair, (inverse + inverse.mT) / 2, 0.0)
        self.inverse[rows], self.sums[rows] = inverse, inverse.sum(2)

    def admit(self, v: torch.Tensor, m: torch.Tensor, left: torch.Tensor, comes: torch.Tensor) -> torch.Tensor:
        """One more vertex, of weight 0, where it ``comes``; m and ``left`` from ``apart``. Its places, ``(L,)``."""
        if bool(self.taken.all(1).any()):
            m = self._make_room(m)
        row, slot = torch.arange(len(v), device=v.device), (~self.taken).to(torch.uint8).argmax(1)
        m[row, slot] = -1.0
        self.V[row, slot], self.taken[row, slot] = v, comes
        scaled = m / left.masked_fill(~comes, torch.inf)[:, None]
        self.inverse.baddbmm_(scaled.unsqueeze(2), m.unsqueeze(1))
        self.sums += scaled * m.sum(1, keepdim=True)
        return slot

    def _make_room(self, m: torch.Tensor) -> torch.Tensor:
        more = self.room // 2
        grown = self.with_room(self.room + more)
        self.V, self.weight, self.taken, self.inverse, self.sums = (getattr(grown, name) for name in TENSORS)
        return pad(m, (0, more))

    def descend(self, r: torch.Tensor) -> None:
        """Wolfe's minor cycles, in place: to the minimizer over the affine hull; if the way there leaves the hull, as
        far as it does not. The vertex on whose side it would leave goes, and again. r ``(L, K)``."""
        weight, taken, inverse, sums = self.weight, self.taken, self.inverse, self.sums
        rows = None  # those on their way; None: all
        while True:
            step = _step(inverse, sums, r)
            after = weight + step
            leaves = (after <= 0) & (step < 0)
            along, slot = (weight / (weight - after)).masked_fill_(~leaves, torch.inf).min(1)
            blocked = along <= 1
            weight = torch.where(blocked[:, None], weight + along.clamp_max(1.0)[:, None] * step, after)
            if rows is None:
                self.weight = weight
            else:
                self.weight[rows], self.taken[rows], self.inverse[rows], self.sums[rows] = weight, taken, inverse, sums
            still = blocked.nonzero().flatten()
            if not len(still):
                break
            weight, taken, inverse, sums = (part[still] for part in (weight, taken, inverse, sums))
            _drop(slot[still], weight, taken, inverse, sums)
            r = r[still] * (1 - along[still, None])
            rows = still if rows is None else rows[still]
        self.weight = self.weight.clamp_min(0.0)
        self.weight /= self.weight.sum(1, keepdim=True)
        if not is_finite(self.weight):  # vertices were dependent after all
            known = torch.isfinite(self.weight).all(1, keepdim=True)
            self.weight = torch.where(known, self.weight, self.taken / self.taken.sum(1, keepdim=True))

    def directions(self) -> torch.Tensor:
        """An orthonormal basis of the directions of each affine hull, ``(L, n, k)``, padded with zeros."""
        order = self.taken.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        order = order[:, : int(self.taken.sum(1).max())] if len(order) else order[:, :1]
        V = self.V.gather(1, order.unsqueeze(2).expand(-1, -1, self.V.shape[2]))
        taken = self.taken.gather(1, order)[:, None, 1:]
        Q = torch.linalg.qr((V[:, 1:] - V[:, :1]).mT.masked_fill(~taken, 0.0)).Q
        return Q.masked_fill(~taken[:, :, : Q.shape[2]], 0.0)


def times(M: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """M x, ``(L, i, j)`` and ``(L, j)``; with less ado than by ``@``, which matters in batches of few."""
    return torch.bmm(M, x.unsqueeze(2)).squeeze(2)


def length(x: torch.Tensor) -> torch.Tensor:
    """|x| ``(L,)``, of ``(L, n)``."""
    return torch.linalg.vector_norm(x, dim=1)


def _step(inverse: torch.Tensor, sums: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    along = (sums * r).sum(1, keepdim=True) / sums.sum(1, keepdim=True)
    return times(inverse, r) - sums * along


def _drop(
    slot: torch.Tensor, weight: torch.Tensor, taken: torch.Tensor, inverse: torch.Tensor, sums: torch.Tensor
) -> None:
    """One vertex of each leaves, in place."""
    row = torch.arange(len(slot), device=slot.device)
    column = inverse[row, :, slot]
    scaled = column / column[row, slot][:, None]
    inverse.baddbmm_(column.unsqueeze(2), scaled.unsqueeze(1), alpha=-1)
    sums -= scaled * sums[row, slot][:, None]
    inverse[row, :, slot], inverse[row, slot], sums[row, slot] = 0.0, 0.0, 0.0
    weight[row, slot], taken[row, slot] = 0.0, False

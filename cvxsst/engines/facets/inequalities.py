"""Which inequality does z violate most? By a list of them all, or by the family's own separation."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from cvxsst.polytope import Map

NOTHING = 1e-9  # share of a row along the affine hull up to which it says nothing
NEARBY = 1e-5  # how far z is moved to see which rows are tight


class Cuts(NamedTuple):
    """Inequalities <G, z> <= h, each in units of z: G ``(B, K, n)``, h ``(B, K)``, violation ``(B, K)``."""

    G: torch.Tensor
    h: torch.Tensor
    violation: torch.Tensor

    def of(self, instances: torch.Tensor) -> Cuts:
        return Cuts(*(part[instances] for part in self))

    def worst(self) -> Cuts:
        """The most violated of each instance, K = 1."""
        if self.h.shape[1] == 1:
            return self
        best = self.violation.argmax(1, keepdim=True)
        G = self.G.gather(1, best[:, :, None].expand(-1, -1, self.G.shape[2]))
        return Cuts(G, self.h.gather(1, best), self.violation.gather(1, best))


class Inequalities(Protocol):
    """G z <= h, which with the affine hull and the bounds is P, in the entries of z that P does not fix."""

    def cuts(self, z: torch.Tensor) -> Cuts:
        """For z ``(B, n)``: some, among them a most violated one; K = 0 where there are none at all."""

    def tight(self, z: torch.Tensor, slack: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """The sum of some of the rows with at most this slack at z, each times <row, d>; of each instance, ``(B, n)``.

        Args:
            slack: ``(B, 1)``.
            d: ``(B, n)``, directions of size 1. Where <row, d> is not 0 for some such row, this vector is not 0.
        """

    def to(self, device: torch.device) -> Inequalities: ...


class Listed:
    """All of them: G ``(count, n)``, h ``(count,)``."""

    def __init__(self, G: torch.Tensor, h: torch.Tensor):
        self.G, self.h = G, h

    def cuts(self, z: torch.Tensor) -> Cuts:
        if not len(self.h):
            return Cuts(z.new_zeros(len(z), 0, z.shape[1]), z.new_zeros(len(z), 0), z.new_zeros(len(z), 0))
        violation, row = torch.addmm(-self.h, z, self.G.T).max(1)
        return Cuts(self.G[row][:, None], self.h[row][:, None], violation[:, None])

    def tight(self, z: torch.Tensor, slack: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """All of them."""
        mask = torch.addmm(-self.h, z, self.G.T) >= -slack
        return (mask * (d @ self.G.T)) @ self.G

    def to(self, device: torch.device) -> Listed:
        return Listed(self.G.to(device), self.h.to(device))


class Separated:
    """Found by the family's function of all entries of z, of which ``free`` move; ``constant``: the others, else 0."""

    def __init__(
        self, separation: Map, shape: tuple[int, ...], free: torch.Tensor, constant: torch.Tensor, hull: torch.Tensor
    ):
        self.separation, self.shape, self.free, self.constant, self.hull = separation, shape, free, constant, hull

    def cuts(self, z: torch.Tensor) -> Cuts:
        whole = self.constant.expand(len(z), -1).index_copy(1, self.free, z)
        G, h = self.separation(whole.reshape(-1, *self.shape))
        G = G.to(z).reshape(*h.shape, len(self.constant))
        h = h.to(z) - G @ self.constant
        G = G.index_select(2, self.free)
        size = along(G, self.hull)
        says_something = size > NOTHING * G.norm(dim=2)
        size = torch.where(says_something, size, 1.0)
        G, h = (G / size[..., None]).masked_fill(~says_something[..., None], 0.0), (h / size) * says_something
        return Cuts(G, h, (G @ z[..., None])[..., 0] - h)

    def tight(self, z: torch.Tensor, slack: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """The one that z would violate most if it moved a little along d, or against it."""
        best, most = torch.zeros_like(z), torch.zeros_like(z[:, 0])
        for step in (NEARBY * d, -NEARBY * d):
            G, h, _ = self.cuts(z + step)
            tight = (G @ z[..., None])[..., 0] - h >= -slack
            ahead = torch.where(tight, (G @ step[..., None])[..., 0], 0.0)
            if not ahead.shape[1]:
                continue
            most_ahead, row = ahead.max(1)
            better = most_ahead > most
            best = torch.where(better[:, None], G[torch.arange(len(z), device=z.device), row], best)
            most = torch.where(better, most_ahead, most)
        return best * (best * d).sum(1, keepdim=True)

    def to(self, device: torch.device) -> Separated:
        moved = (t.to(device) for t in (self.free, self.constant, self.hull))
        return Separated(self.separation, self.shape, *moved)


def along(G: torch.Tensor, hull: torch.Tensor) -> torch.Tensor:
    """The length of the parts of rows ``(..., n)`` along the affine hull, whose orthonormal normals are ``hull``: a
    violation divided by it is a distance."""
    return (G - (G @ hull.T) @ hull).norm(dim=-1)

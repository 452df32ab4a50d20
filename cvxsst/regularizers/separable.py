"""Regularizers that are sums over the entries of z, f(z) = sum_i phi(z_i): one function phi of a number.

Without constraints each entry is solved alone, z = phi*'(u). That map, its slope and the Bregman divergence of phi are
what engines and certificates need; a new regularizer of this kind is a subclass with these formulas.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import cvxpy as cp
import numpy as np
import torch

from cvxsst.errors import some
from cvxsst.geometry.faces import Face, said_by_domain
from cvxsst.polytope import Polytope
from cvxsst.regularizers.base import Bound, Maximum, Regularizer, Slice, balanced

# How far z' is moved inwards where the gradient at z is infinite.
INWARD = (1e-300, 1e-100, 1e-30, 1e-16, 1e-12, 1e-9, 1e-6)
TIGHT = 1e-7  # slack below which z is taken to lie on a face
NEARLY_TIGHT = 1e-6  # and below which a constraint may be about to leave, or to enter, the active ones
EPS = torch.finfo(torch.float64).eps
TOLERANCE = 1e-6  # of the reference engine: distance from z to the solution, relative to the largest entry if > 1
REFINED = 1e-7  # and where it looks no further


class Separable(Regularizer):
    """f(z) = sum_i phi(z_i), strictly convex; tensors in and out, entry by entry, float64.

    Attributes:
        domain: the closed interval on which phi is finite.
        steep: whether phi' is infinite at the finite ends of the domain, so that z reaches them in the limit only.
    """

    domain: tuple[float, float] = (-np.inf, np.inf)
    steep: ClassVar[bool] = True

    @abstractmethod
    def value(self, z: torch.Tensor) -> torch.Tensor:
        """phi(z), inf outside the domain."""

    @abstractmethod
    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        """phi'(z)."""

    @abstractmethod
    def primal(self, u: torch.Tensor) -> torch.Tensor:
        """phi*'(u) = argmax_z u z - phi(z): the inverse of ``gradient``, clamped to the domain."""

    @abstractmethod
    def slope(self, z: torch.Tensor) -> torch.Tensor:
        """1 / phi''(z): how z = phi*'(u) moves with u."""

    @abstractmethod
    def divergence(self, z: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        """The Bregman divergence phi(z) - phi(z0) - phi'(z0) (z - z0) >= 0, without cancellation."""

    def excess(self, z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """phi(z) + phi*(p) - p z >= 0: the divergence from z0 = phi*'(p), and where the end of the domain stops z0
        before phi'(z0) = p what that adds."""
        z0 = self.primal(p)
        stopped = (z0 <= self.domain[0]) | (z0 >= self.domain[1])
        beyond = self.gradient(z0) - p
        rest = torch.where(stopped & torch.isfinite(beyond), beyond * (z - z0), 0.0)
        return self.divergence(z, z0) + rest

    @abstractmethod
    def curvature_up_to(self, bound: float) -> float:
        """A lower bound on phi''(z) for z in the domain and |z| <= bound."""

    def require_domain(self, P: Polytope) -> None:
        low, high = self.domain
        if np.isinf(low) and np.isinf(high):
            return
        outside = P.outside(low - 1e-7, high + 1e-7)
        if len(outside):
            raise ValueError(
                f"regularizer: {self!r} is defined for entries in [{low:g}, {high:g}], but over {P!r} entries "
                f"{some(outside.tolist())} (counted row by row) range beyond: add constraints, or use Euclidean()"
            )

    def inside(self, z: torch.Tensor, delta: float) -> torch.Tensor:
        """z moved into the domain, at least delta away from its ends (a representable amount away from 1)."""
        low, high = self.domain
        return z.clamp(low + delta, high - max(delta, EPS / 2) if delta and np.isfinite(high) else high)

    def bounds(self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor) -> Iterator[Bound]:
        """g = u - phi'(z'), z' = z or z moved inwards by some delta where the gradient is infinite.

        Entries that P or -inf leaves one value, perhaps at an end of the domain, add a constant to F: g = 0 there.
        """
        moving = ~forbidden
        moving[:, torch.from_numpy(P.fixed)] = False
        z = self.inside(z, 0.0)
        for delta in (0.0, *INWARD) if self.steep and np.isfinite(self.domain).any() else (0.0,):
            inside = self.inside(z, delta)
            g = torch.where(moving, u - self.gradient(inside), 0.0)
            yield g, torch.where(moving, self.divergence(z, inside), 0.0).sum(1)

    def bound_on_face(
        self, P: Polytope, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Close to an end of the domain phi' amplifies the rounding of z; its projection onto the normal space of the
        face does not. None where P is a projection, or known by its oracle alone: then its faces are not known."""
        if not P.declared or P.presolved.form.lifted:
            return None
        form, at = P.presolved.form, z.numpy()
        tight = np.flatnonzero(form.h - form.G @ at < TIGHT)
        if self.steep:  # z reaches an end of the domain by rounding only
            tight = np.setdiff1d(tight, said_by_domain(P.presolved, self.domain))
        fixed = np.union1d(np.flatnonzero(forbidden.numpy()), P.presolved.fixed)
        rest = np.setdiff1d(np.arange(P.size), fixed)
        face = Face.of(P.presolved, tight).without(fixed, at)
        g = torch.zeros_like(u)
        g[rest] = torch.from_numpy(face.normal_at(self, u[rest].numpy(), at[rest]))
        return g, self.excess(z[rest], u[rest] - g[rest]).sum()

    def convexity(self, P: Polytope) -> float:
        return self.curvature_up_to(max(1.0, float(np.abs(P.bounds).max(initial=0.0))))

    def value_of(self, P: Polytope, z: torch.Tensor) -> torch.Tensor:
        return self.value(z).sum(dim=1)

    def loss(
        self, P: Polytope, u: torch.Tensor, v: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor
    ) -> torch.Tensor:
        """Entry by entry by (2) or by its definition, whichever adds up the smaller numbers: close to an end of the
        domain phi' amplifies the rounding of z, far from z there is nothing to cancel."""
        v, z = self.inside(v, 0.0), self.inside(z, 0.0)
        gradient, back = self.gradient(z), z - v
        known = torch.isfinite(gradient)
        normal = torch.where(known, u - gradient, 0.0)
        multipliers = balanced(P, normal, torch.where(known & ~forbidden, self.slope(z), 0.0))
        u = u + (multipliers - normal)
        parts = self.divergence(v, z), multipliers * back
        whole = self.value(v), -self.value(z), u * back
        small = known & (sum(x.abs() for x in parts) <= sum(x.abs() for x in whole))
        return torch.where(small, sum(parts), sum(whole)).sum(dim=1)

    def may_kink(self, P: Polytope, z: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
        """Where an inequality is tight that is not tight all over the face that ``forbidden`` leaves, except those that
        a steep phi never lets z reach. Of a projection, or an oracle alone, the inequalities on z are not known: there
        it may."""
        if not P.declared:
            return torch.ones(len(z), dtype=torch.bool)
        form, program = P.presolved.form, P.presolved.linear_program
        if form.lifted:
            return torch.ones(len(z), dtype=torch.bool)
        slack = form.h[:, None] - form.G @ z.numpy().T
        if self.steep:
            slack[said_by_domain(P.presolved, self.domain)] = np.inf
        kinks = (slack < NEARLY_TIGHT).any(axis=0)
        for i in np.flatnonzero(kinks & forbidden.numpy().any(axis=1)):
            zeros = tuple(np.flatnonzero(forbidden[i].numpy()).tolist())
            tight = np.flatnonzero(slack[:, i] < NEARLY_TIGHT)
            most = (form.h[k] + program.maximize(-form.G[[k]].toarray()[0], zeros).value for k in tight)
            kinks[i] = any(slack > NEARLY_TIGHT for slack in most)
        return torch.from_numpy(kinks)

    def slice(self, P: Polytope, places: np.ndarray, constant: np.ndarray) -> Slice:
        return SeparableSlice(self, P, places)

    def maximize_on(self, face: Face, u: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """z, normal and steps of the maximum of <u, z> - f(z) on a face, from an estimate of the normal."""
        return face.maximize(self, u, normal)


class SeparableSlice(Slice):
    """The other entries add a constant: f is what it was."""

    def __init__(self, f: Separable, P: Polytope, places: np.ndarray):
        size = float(np.abs(P.bounds).max(initial=0.0))
        self.f, self.curvature = f, f.curvature_up_to(size)
        self.tolerance, self.refined = TOLERANCE * max(1.0, size), REFINED * max(1.0, size)
        self.scale = self.curvature * size**2
        program = P.presolved.linear_program
        self.lower, self.upper = program.lower[places], program.upper[places]

    def expression(self, z: cp.Expression) -> cp.Expression:
        return self.f.expression(z)

    def maximize(self, face: Face, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> Maximum:
        z, normal, steps = self.f.maximize_on(face, u, normal)
        z = self._snapped(z, u)
        return Maximum(z, normal, steps, lambda: face.jacobian(self.f, z))

    def _snapped(self, z: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Entries at a bound up to rounding are put there exactly: a zero is 0, not -1e-16."""
        z = np.clip(z, self.lower, self.upper)
        if not self.f.steep:  # else how small an entry is says how much it moves
            rounding = 8 * EPS * (1 + np.abs(u).max())
            for bound in (self.lower, self.upper):
                z = np.where(np.abs(z - bound) <= rounding, bound, z)
        return z + 0.0

    def bound(self, u: np.ndarray, z: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, float]:
        at = self.f.inside(torch.from_numpy(z), 0.0)
        rounding = 4 * EPS * float(np.abs(normal) @ (1 + np.abs(z)))
        return normal, self.f.excess(at, torch.from_numpy(u - normal)).sum().item() - rounding

    def stationarity(self, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inside = self.f.inside(torch.from_numpy(z), 1e-16)
        weight, target = self.f.slope(inside).clamp_min(0.0).sqrt(), u - self.f.gradient(inside).numpy()
        return weight.numpy(), target, np.sign(inside.numpy() - z) if self.f.steep else np.zeros(len(z))

    def error(self, gap: float, distance: float, u: np.ndarray) -> float:
        """|z - z*|^2 <= 2 gap / curvature."""
        return distance + float(np.sqrt(2 * max(gap, 0.0) / self.curvature))

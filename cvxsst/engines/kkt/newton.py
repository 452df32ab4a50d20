"""Semismooth Newton on the dual, for polytopes of bounds and equalities: few numbers to find, all instances at once.

    maximize <u, z> - sum phi(z_i)   over   A z = b,  low <= z <= high

    z(nu) = phi*'(u - A'nu) clamped to [low, high],      nu: A z(nu) = b

The dual objective D(nu) = sum phi*_box(u - A'nu)_i + <b, nu> is convex with gradient b - A z(nu), and the solution is
where that is 0. Newton's matrix is A H A' with H = 1 / phi'' where z is not clamped, else 0: r x r for r equalities,
and semismooth, hence finite for the Euclidean f and quadratic for the entropies (Li, Sun and Toh 2020 for Birkhoff).
z(nu) carries the relative accuracy of u, however small its entries. An entry that -inf forbids has low = high = 0 in
its instance; where that leaves other entries of an entropy nothing but 0 they fall by a factor e a step: more steps.
Layout: instances last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from cvxsst.engines.kkt.matrix import Matrix
from cvxsst.regularizers import Separable

STEPS = 20  # what takes longer is for the interior point method
STEPS_ON_FACES = 50  # where entries are forbidden: e^-30 is the tolerance
TOLERANCE = 1e-13  # of A z - b, relative to 1 + |b|
WIDEST = 50.0  # spread of u with which an entropy starts here: beyond, exp(u) is too curved for Newton from afar
HALVINGS = 12
EPS = torch.finfo(torch.float64).eps
DAMPING = 1e-13


@dataclass
class BoxProgram:
    """What all instances share; ``pairs`` maps H to A H A', row by row: ``(m * m, n)``.

    With parameters, ``b``, ``low``, ``high`` and ``center`` are those of one batch, a column for each instance.
    """

    A: Matrix
    b: torch.Tensor  # ``(m, 1)``
    low: torch.Tensor  # ``(n, 1)``
    high: torch.Tensor
    center: torch.Tensor  # phi' at an interior point, ``(n, 1)``
    gram: torch.Tensor  # Cholesky factor of A A'
    pairs: Matrix
    f: Separable
    ratio: torch.Tensor | None = None  # the bound that each row of G is ``(p, B)``, with parameters

    def to(self, device: torch.device) -> BoxProgram:
        moved: dict[str, Any] = {name: t.to(device) for name, t in vars(self).items() if name not in ("f", "ratio")}
        return BoxProgram(**moved, f=self.f)

    def of(self, columns: torch.Tensor) -> BoxProgram:
        """That of some instances."""
        names = ("b", "low", "high", "center", "ratio")
        parts = {name: part for name in names if (part := getattr(self, name)) is not None and part.shape[1] > 1}
        return replace(self, **{name: part[:, columns] for name, part in parts.items()})

    def normal_matrix(self, H: torch.Tensor) -> torch.Tensor:
        """A H A' ``(B, m, m)``."""
        m = len(self.b)
        return (self.pairs @ H).reshape(m, m, H.shape[1]).permute(2, 0, 1)


class Box(NamedTuple):
    """Bounds on z, ``(n, 1)`` or, different in every instance, ``(n, B)``; and b, likewise."""

    low: torch.Tensor
    high: torch.Tensor
    b: torch.Tensor

    def of(self, columns: torch.Tensor) -> Box:
        """That of some instances."""
        return Box(*(t if t.shape[1] == 1 else t[:, columns] for t in self))

    def clamped(self, z: torch.Tensor) -> torch.Tensor:
        return z.clamp(self.low, self.high)

    def inside(self, z: torch.Tensor) -> torch.Tensor:
        """1 where z is not clamped, else 0."""
        return ((z > self.low) & (z < self.high)).to(z)


@dataclass
class BoxSolution:
    """For each instance: z ``(n, B)``, 1 where it is not clamped else 0, and how it went."""

    z: torch.Tensor
    inside: torch.Tensor
    converged: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor


def solve(
    program: BoxProgram, u: torch.Tensor, forbidden: torch.Tensor | None, nu: torch.Tensor | None = None
) -> BoxSolution:
    """z for each column of u ``(n, B)``; ``residual`` is |A z - b|.

    Args:
        forbidden: ``(n, B)``, bool: entries held at 0; None for none.
        nu: where to start ``(m, B)``; by default at what would make an interior point optimal, as nearly as possible.
    """
    A, b = program.A, program.b
    B = u.shape[1]
    scale = 1 + b.abs().amax(dim=0).expand(B) if len(b) else u.new_ones(B)
    box, steps = Box(program.low, program.high, b), STEPS
    if forbidden is not None:
        low, high = (bound.masked_fill(forbidden, 0.0) for bound in box[:2])
        box, steps = Box(low, high, b), STEPS_ON_FACES
    if nu is None:
        nu = torch.cholesky_solve(A @ (u - program.center), program.gram)
    z = box.clamped(program.f.primal(u - A.T @ nu))
    miss = A @ z - b
    found = BoxSolution(
        z=z.clone(),
        inside=box.inside(z),
        converged=torch.zeros(B, dtype=torch.bool, device=u.device),
        residual=u.new_full((B,), torch.inf),
        iterations=torch.zeros(B, dtype=torch.long, device=u.device),
    )
    live, spread = torch.arange(B, device=u.device), 1 + u.amax(dim=0) - u.amin(dim=0)
    for step in range(steps + 1):
        residual = miss.abs().amax(dim=0) / scale if len(b) else u.new_zeros(len(live))
        inside = box.inside(z)
        keep = ~(residual <= TOLERANCE + 4 * EPS * spread)  # NaN stays
        left = int(keep.sum()) if step < steps else 0
        if left < len(live):
            done = slice(None) if step == steps else ~keep
            rows = live[done]
            found.z[:, rows], found.inside[:, rows] = z[:, done], inside[:, done]
            found.converged[rows] = ~keep[done]
            found.residual[rows], found.iterations[rows] = residual[done], step
            live, spread, scale, box = live[keep], spread[keep], scale[keep], box.of(keep)
            u, nu, z, miss, inside = (t[:, keep] for t in (u, nu, z, miss, inside))
        if left == 0:
            break
        direction = _direction(program, program.f.slope(z) * inside, miss, spread)
        nu, z, miss = _search(program, box, u, nu, direction, miss)
    return found


def _direction(program: BoxProgram, H: torch.Tensor, miss: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """(A H A' + damping) d = miss; damped in proportion to the miss, so that it fades as the solution nears.

    Where all of z is clamped H is 0: there the damping alone makes a step of about the spread of u.
    """
    S = program.normal_matrix(H)
    diagonal = S.diagonal(dim1=1, dim2=2)
    size = miss.abs().amax(dim=0)
    damping = DAMPING * diagonal.amax(dim=1) + 1e-3 * size.clamp_max(1.0) * diagonal.mean(dim=1)
    S = S + torch.diag_embed(damping[:, None] + (diagonal == 0) * (0.1 * size / spread)[:, None])
    L, _ = torch.linalg.cholesky_ex(S)
    return torch.cholesky_solve(miss.T[..., None], L)[..., 0].T


def _search(
    program: BoxProgram,
    box: Box,
    u: torch.Tensor,
    nu: torch.Tensor,
    direction: torch.Tensor,
    miss: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The step along ``direction``: shortened until the dual objective, convex, is not far past its least value."""
    slope = (miss * direction).sum(dim=0)  # -dD/dt at t = 0
    t = torch.ones_like(slope)
    for _ in range(HALVINGS):
        new_nu = nu + t * direction
        z = box.clamped(program.f.primal(u - program.A.T @ new_nu))
        new_miss = program.A @ z - box.b
        past = -(new_miss * direction).sum(dim=0)  # dD/dt at t
        too_far = past > 0.5 * slope
        if not bool(too_far.any()):
            break
        t = torch.where(too_far, t * (slope / (slope + past)).clamp(0.1, 0.9), t)
    return new_nu, z, new_miss

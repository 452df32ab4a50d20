"""The derivative with parameters: of z in u and theta, by the same optimality conditions.

With lam the multipliers of G x <= h, s the slacks and w = lam / s, all at the solution:

    [ D   A'    G'   ] [dx  ]   [ du - dA'nu - dG'lam ]
    [ A              ] [dnu ] = [ db - dA x           ]          db, dA, dh, dG: linear in dtheta
    [ G       -1 / w ] [dlam]   [ dh - dG x           ]

The matrix K is symmetric, and what is read off is what is put in, transposed: with S(dtheta) the right-hand side,

    (du, dtheta)  ->  (dx_z,  S'(dx, dnu, dlam))

is the second derivative of the optimal value in (u, theta), symmetric. Where theta is on the right-hand side only, S
is constant. Else it depends on (x, nu, lam), which are inputs and outputs of the map as well, beside theta, so that
it can be differentiated again: the inputs that they answer to are utilities of y and changes of b and h, all 0.

*Bounds and equalities only.* With H as in ``derivative``, a the share of each row of G that holds its column (0 or 1),
and k dtheta how the bounds move:

    dz = H (du - A'dnu) + a k dtheta,      A H A' dnu = A (H du + a k dtheta) - db
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cvxsst.autograd import SymmetricSystem
from cvxsst.engines.base import At
from cvxsst.engines.kkt.derivative import ENOUGH, LARGE, solved
from cvxsst.engines.kkt.elimination import cholesky
from cvxsst.engines.kkt.interior import EDGE, Program
from cvxsst.engines.kkt.newton import BoxProgram
from cvxsst.engines.kkt.parameters import BoxMoves, Moves, ParametricState, times

FIRM = 1e8  # as in ``derivative``
RANK = 1e-13


def times_hessian(state: ParametricState, g: torch.Tensor, at: At, weight: torch.Tensor) -> torch.Tensor:
    """The product for g as wide as the inputs, in the free entries, as ``at`` is: ``(B, n + q)``, with coefficients
    more."""
    box, device = state.shared_box(g.device), g.device
    if box is not None:
        return _by_bounds(box, state.box_moving(device), g, at.z, weight, state.chunk(device))
    program, moves = state.shared_program(device), state.moving(device)
    assert state.theta is not None
    return _by_elimination(program, moves, g, at, weight, state.theta, state.chunk(device))


def _by_bounds(
    program: BoxProgram, moves: BoxMoves, g: torch.Tensor, z: torch.Tensor, active: torch.Tensor, chunk: int
) -> torch.Tensor:
    """``active`` ``(B, p)``: the share of each row that holds its column."""
    n, A, column = z.shape[1], program.A, moves.column
    gu, gt = g[:, :n], g[:, n:]
    slope = program.f.slope(z)
    H = slope * (1 - torch.zeros_like(slope).index_add(1, column, active))
    bound = moves.ratio.along(gt)  # how each row moves
    moved = torch.zeros_like(slope).index_add(1, column, active * bound)
    rest, gives = gu, torch.zeros_like(gt)
    if len(program.b):
        right = times(A, None, H * gu + moved) - moves.b.along(gt)
        nu = _normal(program, chunk)(right, H)
        rest, gives = gu - times(A.T, None, nu), moves.b.back(nu)
    curved = rest[:, column] - bound / slope[:, column].clamp_min(EDGE)
    return torch.cat([H * rest + moved, gives + moves.ratio.back(active * curved)], dim=1)


def _normal(program: BoxProgram, chunk: int) -> SymmetricSystem:
    """nu with (A H A') nu = f, ``(B, m)``, for H ``(B, n)``."""
    A = program.A

    def solve(f: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
        return torch.cat([one(*parts) for parts in zip(f.split(chunk), H.split(chunk), strict=True)]) if len(f) else f

    def one(f: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
        S = program.normal_matrix(H.T)
        L = cholesky(S)
        nu = torch.cholesky_solve(f[..., None], L)
        return (nu + torch.cholesky_solve(f[..., None] - S @ nu, L))[..., 0]

    def moved(dH: torch.Tensor, nu: torch.Tensor) -> torch.Tensor:
        return times(A, None, dH * back(nu))

    def back(nu: torch.Tensor) -> torch.Tensor:
        return times(A.T, None, nu)

    return SymmetricSystem(solve, moved, lambda y, x: back(y) * back(x))


def _by_elimination(
    program: Program,
    moves: Moves,
    g: torch.Tensor,
    at: At,
    weight: torch.Tensor,
    theta: torch.Tensor,
    chunk: int,
) -> torch.Tensor:
    """``weight`` ``(B, p)``: lam / s."""
    n, N, m, q = program.n, len(program.start), len(program.b), moves.b.moves.shape[1]
    unit = program.unit[:n].T
    curvature = unit**2 / program.f.slope(at.z).clamp_min(EDGE)
    gu, gt, more = g[:, :n], g[:, n : n + q], g[:, n + q :]
    system = System(program, chunk, moves.a is not None)
    f, b, h = unit * gu, moves.b.along(gt), moves.h.along(gt)
    if moves.a is None or moves.g is None:
        f = torch.cat([f, f.new_zeros(len(f), N - n)], dim=1)
        solution = system(torch.cat([f, b, h], dim=1), curvature, weight)
        x, nu, mu = solution.split([N, m, solution.shape[1] - N - m], dim=1)
        return torch.cat([unit * x[:, :n], moves.b.back(nu) + moves.h.back(mu)], dim=1)
    assert at.beside is not None
    p = len(program.h)
    beside = at.beside[:, q:]
    at_x = torch.cat([at.z / unit, beside[:, : N - n]], dim=1)
    at_nu, at_lam = beside[:, N - n :].split([m, p], dim=1)
    a, c = moves.a.constant.T + moves.a.along(theta), moves.g.constant.T + moves.g.along(theta)
    da, dc = moves.a.along(gt), moves.g.along(gt)
    gy, gb, gh = more.split([N - n, m, p], dim=1)
    f = torch.cat([f, gy], dim=1) - times(program.A.T, da, at_nu) - times(program.G.T, dc, at_lam)
    b = b + gb - times(program.A, da, at_x)
    h = h + gh - times(program.G, dc, at_x)
    solution = system(torch.cat([f, b, h], dim=1), torch.cat([curvature, a, c], dim=1), weight)
    x, nu, mu = solution.split([N, m, p], dim=1)
    gives = moves.b.back(nu) + moves.h.back(mu)
    gives = gives - moves.a.back(system.outer(nu, at_x, program.A) + system.outer(at_nu, x, program.A))
    gives = gives - moves.g.back(system.outer(mu, at_x, program.G) + system.outer(at_lam, x, program.G))
    return torch.cat([unit * x[:, :n], gives, x[:, n:], nu, mu], dim=1)


class System:
    """(x, nu, mu) ``(B, N + m + p)`` of the system above, differentiable in the right-hand side and in
    d = (D, entries of A, entries of G); without ``coefficients`` the entries are the program's."""

    def __init__(self, program: Program, chunk: int, coefficients: bool):
        self.program, self.chunk, self.coefficients = program, chunk, coefficients
        self.sizes = [len(program.start), len(program.b), len(program.h)]
        self._map = SymmetricSystem(self._solve, self._times, self._pairing)

    def __call__(self, right: torch.Tensor, d: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self._map(right, d, weight)

    @staticmethod
    def outer(y: torch.Tensor, x: torch.Tensor, M: Any) -> torch.Tensor:
        """The derivative of <y, M(values) x> in the values."""
        return y[:, M.rows] * x[:, M.columns]

    def _entries(self, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n, A, G = self.program.n, self.program.A, self.program.G
        return d.split([n, len(A.rows), len(G.rows)], dim=1)

    def _times(self, dd: torch.Tensor, solution: torch.Tensor) -> torch.Tensor:
        x, nu, mu = solution.split(self.sizes, dim=1)
        n = self.program.n
        if not self.coefficients:
            return torch.nn.functional.pad(dd * x[:, :n], (0, solution.shape[1] - n))
        dD, da, dg = self._entries(dd)
        A, G = self.program.A, self.program.G
        first = torch.nn.functional.pad(dD * x[:, :n], (0, x.shape[1] - n))
        first = first + times(A.T, da, nu) + times(G.T, dg, mu)
        return torch.cat([first, times(A, da, x), times(G, dg, x)], dim=1)

    def _pairing(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        n = self.program.n
        diagonal = y[:, :n] * x[:, :n]
        if not self.coefficients:
            return diagonal
        (yx, ynu, ymu), (xx, xnu, xmu) = (t.split(self.sizes, dim=1) for t in (y, x))
        A, G = self.program.A, self.program.G
        first = self.outer(ynu, xx, A) + self.outer(xnu, yx, A)
        return torch.cat([diagonal, first, self.outer(ymu, xx, G) + self.outer(xmu, yx, G)], dim=1)

    def _solve(self, right: torch.Tensor, d: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """In chunks; the right-hand side is scaled to 1: it may be of any size."""
        size = right.abs().amax(dim=1, keepdim=True).clamp_min(1e-300) if right.numel() else right[:, :1]
        chunks = zip(*(t.split(self.chunk) for t in (right / size, d, weight)), strict=True)
        parts = [self._solve_chunk(*(t.T for t in one)).T for one in chunks]
        return torch.cat(parts) * size if parts else right

    def _solve_chunk(self, right: torch.Tensor, d: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        program, n = self.program, self.program.n
        curvature = d[:n]
        if self.coefficients:
            _, a, g = (part.T for part in self._entries(d.T))
            program = replace(program, pattern=program.pattern.at(a, g))
        parts = right.split(self.sizes)
        *solution, missed = solved(program, parts, curvature, weight, 1.0)
        found = torch.cat(solution)
        far = (~(missed <= ENOUGH)).nonzero().flatten()
        if len(far):
            few = tuple(part[:, far] for part in parts)
            *solution, missed = solved(program.of(far), few, curvature[:, far], weight[:, far], LARGE)
            found[:, far] = torch.cat(solution)
            for k in far[~(missed <= ENOUGH)].tolist():
                one = torch.tensor([k], device=far.device)
                found[:, k] = _dense(program.of(one), right[:, k], curvature[:, k], weight[:, k])
        return found


def _dense(program: Program, right: torch.Tensor, curvature: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same of one instance, by a least squares solution of all equations, in columns in which D is 1."""
    n, (N, m) = program.n, program.A.shape[::-1]
    A, G = program.A.csr.toarray(), program.G.csr.toarray()
    all_right, w = right.numpy(force=True), weight.numpy(force=True)
    size = np.append(curvature.rsqrt().numpy(force=True), np.ones(N - n))
    A, G = A * size, G * size
    f, b, h = all_right[:N] * size, all_right[N : N + m], all_right[N + m :]
    strength = w * np.square(G).sum(axis=1)
    rows = np.flatnonzero(strength > 1 / FIRM)
    yields = np.where(strength[rows] > FIRM, 0.0, 1 / np.maximum(w[rows], 1e-300))
    p = len(rows)
    D = np.diag(np.append(np.ones(n), np.zeros(N - n)))
    C = np.vstack([A, G[rows]])
    K = np.block([[D, C.T], [C, -np.diag(np.append(np.zeros(m), yields))]])
    unit = np.append(np.ones(N), np.linalg.norm(C, axis=1).clip(1e-300) ** -1)
    v = unit * np.linalg.lstsq(K * unit * unit[:, None], np.concatenate([f, b, h[rows]]) * unit, rcond=RANK)[0]
    x, mu = v[:N], np.zeros(len(w))
    mu[rows] = v[N + m : N + m + p]
    return torch.from_numpy(np.concatenate([x * size, v[N : N + m], mu])).to(curvature)

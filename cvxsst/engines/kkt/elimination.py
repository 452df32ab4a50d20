"""Batched factorization of one sparse symmetric matrix pattern: many instances, one symbolic analysis.

        [ D    A'       G'    ]       D, W > 0 diagonal, different in every instance;
    M = [ A   -delta          ]       A and G the same in all
        [ G            -W^-1  ]

Most rows of G are eliminated beforehand, which adds G'W G to D. Some stay *apart*: those so heavy that the digits of D
would be lost beside them, and those so long that they would make D dense. M is quasi-definite, so any order of
elimination will do (Vanderbei 1995). The order is chosen once: level by level an independent set of unknowns with few
neighbours is eliminated, all of them at once for all instances by gathers and scatters; what remains is dense and
small, and goes to batched Cholesky. A flow of a thousand columns leaves a few dozen unknowns. Tensors are laid out with
the instances last, so that each gather moves contiguous rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import scipy.sparse as sp
import torch

from cvxsst.engines.kkt.matrix import Matrix

MOST_NEIGHBOURS = 20  # an unknown with more is left to the dense part
DELTA = 1e-8
LONG, MOST_LONG = 30, 20  # a row of more entries stays apart, if there are not too many of them
STEEP = 1e4  # and so does one of a larger squared length
REGULARIZATION = 1e-14  # of the dense part, relative to its diagonal


@dataclass(frozen=True)
class _Level:
    """One independent set: slots of its pivots, of its off-diagonal entries, and the updates they cause."""

    pivots: torch.Tensor  # unknowns
    diagonal: torch.Tensor  # their slots
    edges: torch.Tensor  # slots of the entries (pivot, neighbour)
    edge_pivot: torch.Tensor  # position in ``pivots``
    edge_unknown: torch.Tensor  # the pivot itself
    edge_neighbour: torch.Tensor  # unknown
    first: torch.Tensor  # updates: entry[target] -= entry[edges[first]] entry[edges[second]] / pivot
    second: torch.Tensor
    target: torch.Tensor

    def to(self, device: torch.device) -> _Level:
        return _Level(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Pattern:
    """The pattern of M and its order of elimination.

    Args:
        A: equalities ``(m, N)``. G: inequalities ``(p, N)``, of any length; those with one entry only add to D.
        steep: rows of G that are expected to be very heavy.
    """

    def __init__(self, A: sp.csr_array, G: sp.csr_array, steep: np.ndarray | None = None):
        A, G = _sorted(A), _sorted(G)
        entries = np.diff(G.indptr)
        apart = (entries > LONG) if (entries > LONG).sum() <= MOST_LONG else np.zeros(G.shape[0], dtype=bool)
        if steep is not None:
            apart |= steep & (entries > 1)
        self.apart = torch.from_numpy(np.flatnonzero(apart))
        self.N, self.m = A.shape[1], A.shape[0]
        self.size = self.N + self.m + len(self.apart)
        self._slots: dict[tuple[int, int], int] = {}
        neighbours: list[set[int]] = [set() for _ in range(self.size)]
        for i in range(self.size):
            self._slot(i, i)
        constant: list[int] = []
        beside = sp.csr_array(sp.vstack([A, G[apart]]))
        for row in range(beside.shape[0]):
            for k in range(beside.indptr[row], beside.indptr[row + 1]):
                column, unknown = int(beside.indices[k]), self.N + row
                constant.append(self._slot(column, unknown))
                neighbours[column].add(unknown)
                neighbours[unknown].add(column)
        weighted: list[tuple[int, int, int, int]] = []
        for row in np.flatnonzero(~apart).tolist():
            entries = range(G.indptr[row], G.indptr[row + 1])
            for k, m in combinations_with_replacement(entries, 2):
                i, j = int(G.indices[k]), int(G.indices[m])
                weighted.append((self._slot(i, j), row, k, m))
                if i != j:
                    neighbours[i].add(j)
                    neighbours[j].add(i)
        self.levels = self._order(neighbours)
        gone = {int(p) for level in self.levels for p in level.pivots}
        rest = [i for i in range(self.size) if i not in gone]
        self.positive = torch.tensor([i for i in rest if i < self.N], dtype=torch.long)
        self.negative = torch.tensor([i for i in rest if i >= self.N], dtype=torch.long)
        # (i, j) and (j, i) share a slot; the last slot is always 0
        self.zero = len(self._slots)
        self.blocks = {
            "pp": self._dense(self.positive, self.positive),
            "np": self._dense(self.negative, self.positive),
            "nn": self._dense(self.negative, self.negative),
        }
        self.constant, self.weighted = torch.tensor(constant, dtype=torch.long), _columns(weighted, (torch.long,) * 4)
        self.device = torch.device("cpu")
        self.fill(A, G)

    def _slot(self, i: int, j: int) -> int:
        return self._slots.setdefault((min(i, j), max(i, j)), len(self._slots))

    def _order(self, neighbours: list[set[int]]) -> list[_Level]:
        levels: list[_Level] = []
        remaining = set(range(self.size))
        touched: set[int] = set()
        while True:
            chosen: list[int] = []
            blocked: set[int] = set()
            # rows apart go last: before their columns they would become a part of D after all
            few = sorted((len(neighbours[i]), i) for i in remaining if i < self.N or i in touched)
            for degree, i in few:
                # a level is worth its overhead only with cheap pivots: at most twice the least degree
                if degree > min(MOST_NEIGHBOURS, 2 * few[0][0] + 2):
                    break
                if i not in blocked:
                    chosen.append(i)
                    blocked |= neighbours[i] | {i}
            if not chosen or (len(chosen) < 4 and levels):
                return levels
            touched.update(j for i in chosen if i < self.N for j in neighbours[i] if self.N <= j < self.N + self.m)
            levels.append(self._eliminate(chosen, neighbours))
            remaining -= set(chosen)

    def _eliminate(self, chosen: list[int], neighbours: list[set[int]]) -> _Level:
        edges: list[tuple[int, int, int, int]] = []
        updates: list[tuple[int, int, int]] = []
        for position, pivot in enumerate(chosen):
            around = sorted(neighbours[pivot])
            start = len(edges)
            edges.extend((self._slot(pivot, j), position, pivot, j) for j in around)
            for a, b in combinations_with_replacement(range(len(around)), 2):
                i, j = around[a], around[b]
                updates.append((start + a, start + b, self._slot(i, j)))
                if i != j:
                    neighbours[i].add(j)
                    neighbours[j].add(i)
            for j in around:
                neighbours[j].discard(pivot)
        return _Level(
            torch.tensor(chosen),
            torch.tensor([self._slot(p, p) for p in chosen]),
            *_columns(edges, (torch.long,) * 4),
            *_columns(updates, (torch.long,) * 3),
        )

    def _dense(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        slots = [[self._slots.get((min(i, j), max(i, j)), self.zero) for j in columns.tolist()] for i in rows.tolist()]
        return torch.tensor(slots, dtype=torch.long).reshape(len(rows), len(columns))

    def to(self, device: torch.device) -> Pattern:
        if device == self.device:
            return self
        other = object.__new__(Pattern)
        other.__dict__.update(self.__dict__)
        other.levels = [level.to(device) for level in self.levels]
        other.positive, other.negative = self.positive.to(device), self.negative.to(device)
        other.blocks = {name: block.to(device) for name, block in self.blocks.items()}
        for name in ("constant", "a", "g", "apart", "apart_entries", "joined", "A", "G"):
            setattr(other, name, getattr(self, name).to(device))
        other.weighted = tuple(t.to(device) for t in self.weighted)
        other.device = device
        return other

    def fill(self, A: sp.csr_array, G: sp.csr_array) -> None:
        """Take the entries from these matrices, whose patterns are those of the first."""
        A, G = _sorted(A), _sorted(G)
        self.A, self.G, (_, _, first, second) = Matrix(A), Matrix(G), self.weighted
        entries, long = torch.from_numpy(G.data), self.apart.numpy()
        spans = [np.arange(G.indptr[row], G.indptr[row + 1]) for row in long]
        self.apart_entries = torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *spans]))
        self.a = torch.cat([torch.from_numpy(A.data), entries[self.apart_entries]])[:, None]
        self.g = (entries[first] * entries[second])[:, None]
        self.joined = torch.ones(G.shape[0], 1, dtype=torch.float64).index_fill_(0, self.apart, 0.0)

    def at(self, a: torch.Tensor, g: torch.Tensor) -> Pattern:
        """The same pattern with other entries of A and G in every instance, ``(their number, B)``, row by row, the
        columns ascending."""
        other = object.__new__(Pattern)
        other.__dict__.update(self.__dict__)
        other.A, other.G, (_, _, first, second) = self.A.at(a), self.G.at(g), self.weighted
        other.a = torch.cat([a, g.index_select(0, self.apart_entries)])
        other.g = g.index_select(0, first) * g.index_select(0, second)
        return other

    def of(self, columns: torch.Tensor) -> Pattern:
        """That of some instances."""
        if self.a.shape[1] == 1:
            return self
        other = object.__new__(Pattern)
        other.__dict__.update(self.__dict__)
        other.A, other.G, other.a, other.g = (
            self.A.of(columns),
            self.G.of(columns),
            self.a[:, columns],
            self.g[:, columns],
        )
        return other

    def factor(self, D: torch.Tensor, W: torch.Tensor, delta: float | torch.Tensor = DELTA) -> Factor:
        """Factor M for D ``(N, B)`` and W ``(p, B)``; delta a number or ``(B,)``."""
        return Factor(self, D, W, delta)


def _sorted(M: sp.csr_array) -> sp.csr_array:
    """With the entries of each row in the order of their columns."""
    M = sp.csr_array(M, copy=True)
    M.sort_indices()
    return M


def _columns(rows: list[tuple], dtypes: tuple[torch.dtype, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([row[k] for row in rows], dtype=dtype) for k, dtype in enumerate(dtypes))


class Factor:
    """M factored, for one batch of diagonals."""

    def __init__(self, pattern: Pattern, D: torch.Tensor, W: torch.Tensor, delta: float | torch.Tensor):
        self.pattern, self.W = pattern, W
        B = D.shape[1]
        values = D.new_zeros(pattern.zero + 1, B)
        values.index_copy_(0, pattern.constant, pattern.a.expand(-1, B))
        values[: pattern.N] += D  # the diagonal has the first slots
        values[pattern.N : pattern.N + pattern.m] -= delta
        if len(pattern.apart):
            values[pattern.N + pattern.m : pattern.size] -= W.index_select(0, pattern.apart).reciprocal()
        slots, rows, *_ = pattern.weighted
        values.index_add_(0, slots, W.index_select(0, rows) * pattern.g)
        self.inverse: list[torch.Tensor] = []
        self.edges: list[torch.Tensor] = []
        for level in pattern.levels:
            inverse = values.index_select(0, level.diagonal).reciprocal_()
            edges = values.index_select(0, level.edges)
            scaled = edges * inverse.index_select(0, level.edge_pivot)
            updates = edges.index_select(0, level.first).mul_(scaled.index_select(0, level.second))
            values.index_add_(0, level.target, updates, alpha=-1)
            self.inverse.append(inverse)
            self.edges.append(scaled)
        blocks = {
            name: values.index_select(0, slots.reshape(-1)).T.reshape(B, *slots.shape)
            for name, slots in pattern.blocks.items()
        }
        negative = -blocks["nn"]
        self.coupling: torch.Tensor | None = None
        if len(pattern.positive):
            self.L_positive = cholesky(blocks["pp"])
            self.coupling = torch.linalg.solve_triangular(self.L_positive, blocks["np"].mT, upper=False)
            negative = negative + self.coupling.mT @ self.coupling
        self.L_negative = cholesky(negative)

    def solve(self, f: torch.Tensor, g: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x ``(N, B)``, nu ``(m, B)`` and mu ``(p, B)`` with M (x, nu, mu) = (f, g, h)."""
        pattern, W = self.pattern, self.W
        weighted = W * h
        v = torch.cat([f + pattern.G.T @ (pattern.joined * weighted), g, h.index_select(0, pattern.apart)])
        self._solve_reduced(v)
        x, nu = v[: pattern.N], v[pattern.N : pattern.N + pattern.m]
        mu = W * (pattern.G @ x) - weighted
        return x, nu, mu.index_copy_(0, pattern.apart, v[pattern.N + pattern.m :])

    def _solve_reduced(self, v: torch.Tensor) -> None:
        pattern = self.pattern
        for level, scaled in zip(pattern.levels, self.edges, strict=True):
            v.index_add_(0, level.edge_neighbour, scaled * v.index_select(0, level.edge_unknown), alpha=-1)
        self._solve_dense(v)
        backwards = zip(reversed(pattern.levels), reversed(self.edges), reversed(self.inverse), strict=True)
        for level, scaled, inverse in backwards:
            x = v.index_select(0, level.pivots).mul_(inverse)
            x.index_add_(0, level.edge_pivot, scaled * v.index_select(0, level.edge_neighbour), alpha=-1)
            v.index_copy_(0, level.pivots, x)

    def _solve_dense(self, v: torch.Tensor) -> None:
        pattern = self.pattern
        n = v.index_select(0, pattern.negative).T[..., None]
        if self.coupling is None:
            v.index_copy_(0, pattern.negative, -torch.cholesky_solve(n, self.L_negative)[..., 0].T)
            return
        p = torch.linalg.solve_triangular(
            self.L_positive, v.index_select(0, pattern.positive).T[..., None], upper=False
        )
        n = torch.cholesky_solve(self.coupling.mT @ p - n, self.L_negative)
        p = torch.linalg.solve_triangular(self.L_positive.mT, p - self.coupling @ n, upper=True)
        v.index_copy_(0, pattern.positive, p[..., 0].T)
        v.index_copy_(0, pattern.negative, n[..., 0].T)


def cholesky(M: torch.Tensor) -> torch.Tensor:
    """The Cholesky factor, of the matrix scaled to unit diagonal, with pivots that rounding has spoiled raised."""
    if not M.shape[-1]:
        return M
    root = M.diagonal(dim1=1, dim2=2).clamp_min(1e-290).rsqrt()
    scaled = M * root[:, :, None]
    scaled *= root[:, None, :]
    diagonal = scaled.diagonal(dim1=1, dim2=2)
    diagonal += REGULARIZATION
    L, wrong = torch.linalg.cholesky_ex(scaled)
    floor = REGULARIZATION
    while bool(wrong.any()) and floor < 1e-4:
        floor *= 100
        diagonal += floor * (wrong > 0)[:, None]
        L, wrong = torch.linalg.cholesky_ex(scaled)
    return L / root[:, :, None]

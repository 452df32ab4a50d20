"""A step of the chain: W given the permutations by Gibbs, the permutations given W by Metropolis.

    log p(Y | W, P) = <W, C> - <W'W, D> / 2 + constant,      C = P sum Y_t Y_t-1' P',   D = P sum Y_t-1 Y_t-1' P'

for permutation matrices. Row i of W on the neurons S that it is joined with is normal, of precision
D_SS + precision I and mean (D_SS + precision I)^-1 C_iS, D and C summed over the worms. A proposal lets two neurons
change places: what that changes is a sum over two rows and two columns, O(n).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

PROPOSALS = 1000  # for each worm


def given_permutations(places: torch.Tensor, worms: Mapping[str, torch.Tensor], precision: float) -> torch.Tensor:
    """A draw of W ``(n, n)`` for the recorded neuron of each neuron ``(B, n)``."""
    C = sum(_renamed(worms["lagged"][m], places[m]) for m in range(len(places)))
    D = sum(_renamed(worms["past"][m], places[m]) for m in range(len(places)))
    assert isinstance(C, torch.Tensor)
    assert isinstance(D, torch.Tensor)
    W = torch.zeros_like(C)
    for i, joined in enumerate(worms["joined"]):
        S = joined.nonzero().flatten()
        if len(S):
            R = torch.linalg.cholesky(D[S[:, None], S] + precision * torch.eye(len(S), dtype=D.dtype))
            mean = torch.cholesky_solve(C[i, S, None], R)
            noise = torch.linalg.solve_triangular(R.mT, torch.randn(len(S), 1, dtype=D.dtype), upper=True)
            W[i, S] = (mean + noise)[:, 0]
    return W.float()


def _renamed(sums: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return sums[place[:, None], place].double()


def swapped(places: torch.Tensor, W: torch.Tensor, worms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The places ``(B, n)`` after so many proposals; those that are not allowed are not made."""
    w = W.double().numpy()
    A = np.stack([w, w.T, -w.T @ w], 1)
    random = np.random.default_rng(int(torch.randint(2**62, ())))
    now = places.numpy().copy()
    for m, place in enumerate(now):
        C, D = (_renamed(worms[name][m], places[m]).numpy() for name in ("lagged", "past"))
        sums = np.stack([C, C.T, D], 1)
        allowed = worms["allowed"][m].numpy()
        free = np.flatnonzero(allowed.sum(1) > 1)
        if len(free):
            _propose(place, allowed, A, sums, random.choice(free, (PROPOSALS, 2)), random.random(PROPOSALS))
    return torch.from_numpy(now)


def _propose(
    place: np.ndarray, allowed: np.ndarray, A: np.ndarray, sums: np.ndarray, pairs: np.ndarray, chances: np.ndarray
) -> None:
    """Changes ``place`` and ``sums``, those under the names of the neurons, with every proposal that is taken."""
    for (i, k), chance in zip(pairs, np.log(chances), strict=True):
        possible = i != k and allowed[i, place[k]] and allowed[k, place[i]]
        if possible and chance < gain(A, sums, i, k):
            place[[i, k]] = place[[k, i]]
            sums[[i, k]] = sums[[k, i]]
            sums[:, :, [i, k]] = sums[:, :, [k, i]]


def gain(A: np.ndarray, sums: np.ndarray, i: int, k: int) -> float:
    """<W, C> - <W'W, D> / 2 once neurons i and k have changed places, less what it is.

    A is W, W' and -W'W, sums C, C' and D, ``(n, 3, n)``. D and W'W are symmetric: their columns are their rows.
    """
    d, e = A[i] - A[k], sums[k] - sums[i]
    apart = np.vdot(d, e) - np.vdot(d[:, [i, k]], e[:, [i, k]])
    here, there = A[[i, k]][:, :, [i, k]], sums[[i, k]][:, :, [i, k]]
    alone = (here[0, 0, 0] - here[1, 0, 1]) * (there[1, 0, 1] - there[0, 0, 0])
    crossed = (here[0, 0, 1] - here[1, 0, 0]) * (there[1, 0, 0] - there[0, 0, 1])
    past = (here[0, 2, 0] - here[1, 2, 1]) * (there[1, 2, 1] - there[0, 2, 0]) / 2
    return float(apart + alone + crossed + past)

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
    K = w.T @ w
    random = np.random.default_rng(int(torch.randint(2**62, ())))
    now = places.numpy().copy()
    for m, place in enumerate(now):
        C, D = (worms[name][m].double().numpy() for name in ("lagged", "past"))
        allowed = worms["allowed"][m].numpy()
        free = np.flatnonzero(allowed.sum(1) > 1)
        if len(free) < 2:
            continue
        for i, k in zip(random.choice(free, PROPOSALS), random.choice(free, PROPOSALS), strict=True):
            if i == k or not (allowed[i, place[k]] and allowed[k, place[i]]):
                continue
            gain = change(place, i, k, w, C) - change(place, i, k, K, D) / 2
            if np.log(random.random()) < gain:
                place[i], place[k] = place[k], place[i]
    return torch.from_numpy(now)


def change(place: np.ndarray, i: int, k: int, A: np.ndarray, C: np.ndarray) -> float:
    """<A, P C P'> after neurons i and k changed places, less what it is."""
    other = place.copy()
    other[i], other[k] = place[k], place[i]
    pair = [i, k]
    rows = (A[pair] * (C[np.ix_(other[pair], other)] - C[np.ix_(place[pair], place)])).sum()
    columns = (A[:, pair] * (C[np.ix_(other, other[pair])] - C[np.ix_(place, place[pair])])).sum()
    corner = (A[np.ix_(pair, pair)] * (C[np.ix_(other[pair], other[pair])] - C[np.ix_(place[pair], place[pair])])).sum()
    return float(rows + columns - corner)

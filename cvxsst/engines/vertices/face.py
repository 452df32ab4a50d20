"""The face on whose relative interior a solution lies, where the corral of the solution may not span it.

In many dimensions a corral comes so close to u, by vertices that matter less and less, that the last would have weights
below rounding: z is right without them, its derivative, the projection onto all directions of the face, is not.
"""

from __future__ import annotations

import numpy as np
import torch

from cvxsst.engines.vertices.corral import times
from cvxsst.engines.vertices.hull import Hull

# How far from u - z the rest of a face is looked for, and what of u - z its directions may have, by rounding; both
# relative to the width of P and |u - z|.
ASIDE, TIGHT = (1e-7, 1e-9), 1e-9
FLAT = 1e-6  # the distance of a vertex from the known part of the face that is rounding, relative to the width of P
EPS = torch.finfo(torch.float64).eps


def completed(
    hull: Hull, g: torch.Tensor, forbidden: torch.Tensor | None, z: torch.Tensor, Q: torch.Tensor
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Q ``(L, n, k)``, an orthonormal basis of directions padded with zeros, with those of the face that it lacks; and
    the vertices that lead there, one after another: which rows, and v.

    z ``(L, n)`` are solutions, g = u - z. As long as directions lack, a vertex that the oracle returns for g and a
    little of a random direction normal to Q is out of Q, and on the face if the little is little enough. (One direction
    for all rounds would be used up as u was.)
    """
    n, g = g.shape[1], normal(g, Q)
    scale, random, found = hull.width + g.norm(dim=1), np.random.default_rng(0), []
    for little in ASIDE:
        rows = torch.arange(len(g), device=g.device)
        while len(rows):
            d = normal(torch.from_numpy(random.normal(size=n)).to(g).expand(len(rows), -1), Q[rows])
            d = d / d.norm(dim=1, keepdim=True).clamp_min(EPS)
            tilted = g[rows] + little * scale[rows, None] * d
            mask = None if forbidden is None else forbidden[rows]
            away = hull.vertex(tilted, lambda d=d: d, mask) - z[rows]  # type: ignore[misc]
            out = normal(away, Q[rows])
            far = out.norm(dim=1)
            tight = (g[rows] * out).sum(1).abs() <= TIGHT * scale[rows] * far
            keep = (tight & (far > FLAT * hull.width)).nonzero().flatten()
            rows, out = rows[keep], out[keep] / far[keep, None]
            if len(rows):
                found.append((rows, z[rows] + away[keep]))
            column = torch.zeros_like(g).index_copy(0, rows, out)
            Q = torch.cat([Q, column.unsqueeze(2)], dim=2)
    return Q, found


def normal(d: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    """d ``(L, n)`` without its part along Q; the second time removes what rounding left."""
    for _ in range(2):
        d = d - times(Q, times(Q.mT, d))
    return d

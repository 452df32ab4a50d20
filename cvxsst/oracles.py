"""argmax over P of <u, z> for a flat batch: by the family's oracle, over the list of all vertices, by linear programs.

u is ``(B, n)``, finite, 0 where ``forbidden`` (None or ``(B, n)`` bool) says that z must be 0; the result is a vertex
of P for each row. Where -inf leaves nothing, it is anything that takes a forbidden entry.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cvxsst.errors import EmptyPolytopeError, UnboundedPolytopeError
from cvxsst.polytope import Map, Polytope

Oracle = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def by_family(P: Polytope, oracle: Map, u: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
    """A forbidden entry gets a malus of more than the range of <w, z> over P: it is taken only if every structure
    takes one."""
    if forbidden is not None:
        size = torch.from_numpy(np.abs(P.bounds).max(axis=0)).to(u.device)
        reach = u.abs() @ size[:, None]  # u is 0 where forbidden
        u = u.addcmul(forbidden.to(u), 1 + 2 * reach, value=-1)
    shaped = u.reshape(-1, *P.shape)
    z = oracle(shaped)
    if not isinstance(z, torch.Tensor) or z.shape != shaped.shape:
        got = tuple(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
        raise ValueError(
            f"engine='fast': the argmax oracle of {P!r} returned {got} for utilities of shape {tuple(shaped.shape)}; "
            "it must return a tensor of their shape"
        )
    return z.reshape(u.shape)


def by_family_at(P: Polytope, u: torch.Tensor, forbidden: torch.Tensor | None, theta: torch.Tensor) -> torch.Tensor:
    """The same, where the oracle takes the values of P's parameters, a set for each row; NaN where they leave none."""
    knowledge = P.unvalued.knowledge_at(theta)
    assert knowledge is not None
    assert knowledge.argmax is not None
    return by_family(P, knowledge.argmax, u, forbidden)


def by_enumeration(P: Polytope, u: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
    return best_of(torch.from_numpy(P.vertices()).to(u.device), u, forbidden)


def best_of(V: torch.Tensor, u: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
    """The best of the rows of V, ``(count, n)``."""
    values = u @ V.T
    if forbidden is not None:
        values = values.masked_fill(takes(V, forbidden), -torch.inf)
    return V[values.argmax(dim=1)]


def takes(V: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
    """Whether a row of V has an entry that an instance forbids, ``(B, count)``."""
    return forbidden.to(V) @ (V != 0).to(V).T != 0


def at_values(
    P: Polytope,
    oracle: Callable[..., torch.Tensor],
    u: torch.Tensor,
    forbidden: torch.Tensor | None,
    theta: torch.Tensor,
) -> torch.Tensor:
    """``oracle(P(theta), u, forbidden)``, for each value of P's parameters, theta ``(B, q)``, by itself; NaN where it
    leaves no point, or no bound."""
    z = torch.full_like(u, torch.nan)
    values, which = np.unique(theta.cpu().numpy(), axis=0, return_inverse=True)
    for k, one in enumerate(values):
        rows = torch.from_numpy(np.flatnonzero(which.reshape(-1) == k)).to(u.device)
        try:
            z[rows] = oracle(P.unvalued.alone(one), u[rows], None if forbidden is None else forbidden[rows])
        except (EmptyPolytopeError, UnboundedPolytopeError):
            continue
    return z


def by_linear_programs(P: Polytope, u: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
    """One after another; the same vertex every time."""
    z = solved_by_linear_programs(P, u, forbidden).cpu().numpy()
    near = np.round(z)
    # The last digits depend on the way that the simplex method took; twelve do not.
    digits = 12 - int(np.ceil(np.log10(np.abs(z).max(initial=1.0))))
    z = np.where(np.abs(z - near) < 1e-9, near, np.round(z, digits))  # integers come back as such
    return torch.from_numpy(z + 0.0).to(u.device)


def solved_by_linear_programs(
    P: Polytope, u: torch.Tensor, forbidden: torch.Tensor | None, then: torch.Tensor | None = None
) -> torch.Tensor:
    """As the simplex method leaves them; among several vertices the best for ``then`` ``(B, n)``, by default for a
    fixed generic objective."""
    program = P.presolved.linear_program
    z = np.ones(u.shape)  # where nothing is left
    seconds = [None] * len(u) if then is None else then.cpu().numpy()
    for i, (objective, second) in enumerate(zip(u.cpu().numpy(), seconds, strict=True)):
        zeros = () if forbidden is None else forbidden[i].nonzero().flatten().tolist()
        solution = program.vertex(objective, zeros, second)
        if solution.x is not None:
            z[i] = solution.x[: P.size]
    return torch.from_numpy(z).to(u.device)

"""A certificate judges any z, from any solver, without a reference solution.

    F(z) = <w, z> - T f(z)   concave,   F* = max over P

*Optimality.* Weak duality bounds F* - F(z) by max_{v in P} <g, v - z> + D, two terms that are both computed without
cancellation, for pairs (g, D) that the regularizer offers (``cvxsst.regularizers.base``). The gradient of an entropy is
infinite at the ends of its domain: there it offers z moved inwards. Close to an end the gradient amplifies the rounding
of z: there g is projected onto the normal space of the face on which z lies. The least of these bounds is reported.

*Feasibility.* The distance from z to P in the maximum norm, by a linear program, since P may be a projection.

*An oracle alone* (``Polytope.from_oracle``). The gap is that of its best answer: if the oracle is right, so is the gap.
The distance is that to vertices which it has returned: an upper bound, and a proof that z is in P where it is 0.

*Consequence.* f strongly convex with constant m: |z - z*|^2 <= 2 gap / (T m) for z in P.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cvxsst.arguments import check_readable
from cvxsst.membership import best, distances
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem
from cvxsst.regularizers import Regularizer

ROUNDING = 1e-13  # a bound above this may be rounding of z amplified by the gradient: look for a better one
OUTSIDE = 1e-9  # of the domain of f: what a linear program can resolve


@dataclass(frozen=True)
class Certificate:
    """What is known about z, for each instance of the batch (tensors of the batch's shape, float64).

    Attributes:
        infeasibility: distance from z to P, maximum norm; an upper bound where P is known by an oracle alone.
        gap: upper bound on F* - F(z), in units of <w, z>. At a z outside P it may be negative: such a z can
            be better than any point of P.
    """

    infeasibility: torch.Tensor
    gap: torch.Tensor


def certificate(
    P: Polytope,
    z: torch.Tensor,
    w: torch.Tensor,
    regularizer: Regularizer,
    temperature: float | torch.Tensor = 1.0,
) -> Certificate:
    """How far z is from argmax over P of <w, z> - T f(z): rigorous bounds, no reference solution needed.

    Args:
        P: the polytope.
        z: ``(*batch, *P.shape)``, the candidate solutions.
        w: ``(*batch, *P.shape)``, the utilities; -inf forbids an entry, as in ``softmax``.
        regularizer: f.
        temperature: T > 0, a float or a tensor that broadcasts over the batch.

    Returns:
        A ``Certificate`` with ``infeasibility`` and ``gap``, one number per instance. A z with NaN gets inf.

    Raises:
        ValueError: shapes that do not match, NaN or +inf in w, T <= 0.
        EmptyPolytopeError: the -inf entries of an instance leave no point of P.
        NoFastPathError: an exponential family over more structures than can be enumerated.

    Cost: one or two linear programs per instance (for ExponentialFamily one pass over Z; for an oracle alone about as
    many calls as z needs vertices, all instances at once).

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> w, half = torch.zeros(2), torch.tensor([0.5, 0.5])
        >>> cvxsst.certificate(simplex(2), half, w, cvxsst.Euclidean()).gap.item()
        0.0
        >>> cvxsst.certificate(simplex(2), torch.tensor([1.0, 0.0]), w, cvxsst.Euclidean()).gap.item()
        1.0
    """
    problem = Problem.posed(P, w, regularizer, temperature).inspected()
    if not isinstance(z, torch.Tensor) or z.shape != w.shape:
        raise ValueError(
            f"z: expected a tensor of the shape of w, {tuple(w.shape)}, "
            f"got {tuple(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__}"
        )
    check_readable("z", z)
    candidates = (
        z.detach().to("cpu", torch.float64).expand(*problem.batch, *P.shape).reshape(problem.batch.numel(), P.size)
    )
    infeasibility, gap = judged(problem, candidates)
    T = problem.temperature
    scale = T.detach().cpu().expand(problem.batch) if isinstance(T, torch.Tensor) else T
    return Certificate(infeasibility.reshape(problem.batch), gap.reshape(problem.batch) * scale)


@torch.no_grad()
def judged(problem: Problem, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(infeasibility, gap) of z ``(B, n)``, at T = 1, each ``(B,)``."""
    if problem.theta is not None:
        infeasibility, gap = (torch.full((len(z),), torch.inf, dtype=torch.float64) for _ in range(2))
        for rows, part in problem.apart():
            infeasibility[rows], gap[rows] = judged(part, z[rows])
        return infeasibility, gap
    u, n = problem.u.detach().cpu(), z.shape[1]
    forbidden = torch.zeros_like(z, dtype=torch.bool) if problem.forbidden is None else problem.forbidden.cpu()
    known = torch.isfinite(z).all(1)
    infeasibility, gap = (torch.full((len(z),), torch.inf, dtype=torch.float64) for _ in range(2))
    u, inside, forbidden = u[known], z[known], forbidden[known]
    infeasibility[known] = distances(problem.P, inside, forbidden)
    if bool(infeasibility[known].isnan().any()):
        empty = torch.zeros_like(known)
        empty[known] = infeasibility[known].isnan()
        problem.raise_empty(empty)
    assert problem.f is not None
    gap[known] = _gap(problem.P, problem.f, u, inside, forbidden, infeasibility[known]) if n else 0.0
    return infeasibility, gap


def _gap(
    P: Polytope, f: Regularizer, u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor, distance: torch.Tensor
) -> torch.Tensor:
    """The least of the bounds, instance by instance; those that are tight already are left alone."""
    least = u.new_full((len(u),), torch.inf)
    low, high = f.domain
    loose = ((z >= low - OUTSIDE) & (z <= high + OUTSIDE)).all(1)
    inside = z.clamp(low, high)
    z, distance = inside, distance + (inside - z).abs().amax(dim=1)
    for g, D in f.bounds(P, u, z, forbidden):
        usable = loose & torch.isfinite(g).all(1) & torch.isfinite(D)
        if bool(usable.any()):
            ascent = _ascent(P, g[usable], z[usable], forbidden[usable], distance[usable])
            least[usable] = torch.minimum(least[usable], ascent + D[usable])
        loose = loose & (least > ROUNDING)
        if not bool(loose.any()):
            return least
    for i in loose.nonzero().flatten().tolist():
        bound = f.bound_on_face(P, u[i], z[i], forbidden[i])
        if bound is not None and all(bool(torch.isfinite(part).all()) for part in bound):
            (g, D), one = bound, slice(i, i + 1)
            ascent = _ascent(P, g[None], z[one], forbidden[one], distance[one])
            least[one] = torch.minimum(least[one], ascent + D)
    return least


def _ascent(
    P: Polytope, g: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor, distance: torch.Tensor
) -> torch.Tensor:
    """max over P, where ``forbidden`` entries are 0, of <g, v - z>, ``(B,)``.

    No less than what the point of P nearest to z gives: a linear program resolves 1e-9 of the largest g only.
    """
    return torch.maximum((g * (best(P, g, forbidden) - z)).sum(1), -g.abs().sum(1) * distance)

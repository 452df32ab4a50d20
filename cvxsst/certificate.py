"""A certificate judges any z, from any solver, without a reference solution.

    F(z) = <w, z> - T f(z)   concave,   F* = max over P

*Optimality.* Any vector g bounds F* by weak duality, and the gap to it splits into two terms that are both computed
without cancellation (T = 1, u = w / T, D the Bregman divergence of f):

    F* - F(z)  <=  max_{v in P} <g, v - z>  +  D(z, z'),      z' = grad f*(u - g)                        (1)

With g = grad F(z), z' = z this is the Frank-Wolfe gap (Jaggi 2013). The gradient of an entropy is infinite at the
ends of its domain; there z' is z moved inwards by some delta. Close to an end the gradient amplifies the rounding of
z; there g is projected onto the normal space of the face on which z lies. The least of these bounds is reported.

*Feasibility.* The distance from z to P in the maximum norm, by a linear program, since P may be a projection.

*Consequence.* f strongly convex with constant m: |z - z*|^2 <= 2 gap / (T m) for z in P.

*Exponential family.* F* - F(z) = T KL(p || p_w) at best over the distributions p on Z with mean z; any such p gives
a bound, and tilting p_w linearly until its mean is z gives one that is exact to second order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import rel_entr, softmax

from cvxsst.arguments import checked_problem
from cvxsst.geometry.faces import Face
from cvxsst.geometry.presolve import Presolved
from cvxsst.geometry.vertices import vertices
from cvxsst.regularizers import Custom, ExponentialFamily, Regularizer, Separable

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope

# How far z' is moved inwards where the gradient at z is infinite.
INWARD = (1e-300, 1e-100, 1e-30, 1e-16, 1e-12, 1e-9, 1e-6)
ROUNDING = 1e-13  # a bound above this may be rounding of z amplified by the gradient: look for a better one
TIGHT = 1e-7  # slack below which a constraint is taken for active at z
ABSURD = 1e9  # entries beyond this are nobody's solution, and no fit right-hand side for a linear program
LP_RESOLUTION = 1e-9  # what a linear program can resolve: smaller distances are not told apart from 0


@dataclass(frozen=True)
class Certificate:
    """What is known about z, for each instance of the batch (tensors of the batch's shape, float64).

    Attributes:
        infeasibility: distance from z to P, maximum norm.
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

    Cost: one or two linear programs per instance (for ExponentialFamily one pass over Z).

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> w, half = torch.zeros(2), torch.tensor([0.5, 0.5])
        >>> cvxsst.certificate(simplex(2), half, w, cvxsst.Euclidean()).gap.item()
        0.0
        >>> cvxsst.certificate(simplex(2), torch.tensor([1.0, 0.0]), w, cvxsst.Euclidean()).gap.item()
        1.0
    """
    problem = checked_problem(P, w, regularizer, temperature)
    if not isinstance(z, torch.Tensor) or z.shape != w.shape:
        raise ValueError(
            f"z: expected a tensor of the shape of w, {tuple(w.shape)}, "
            f"got {tuple(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__}"
        )
    candidates = z.detach().to("cpu", torch.float64).expand(*problem.batch, *P.shape).reshape(-1, P.size).numpy()
    u = problem.u.detach().cpu().numpy()
    infeasibility, gap = np.empty(len(u)), np.empty(len(u))
    for i in range(len(u)):
        forbidden = problem.forbidden_entries(i)
        infeasibility[i], gap[i] = judge(P, forbidden, regularizer, u[i], candidates[i])
    scale = problem.temperature.detach().cpu()
    shaped = [torch.from_numpy(values).reshape(problem.batch) for values in (infeasibility, gap)]
    return Certificate(shaped[0], shaped[1] * scale)


def judge(
    P: Polytope, forbidden: tuple[int, ...], regularizer: Regularizer, u: np.ndarray, z: np.ndarray
) -> tuple[float, float]:
    """(infeasibility, gap) of one z at T = 1, where the entries ``forbidden`` must be 0."""
    if not np.all(np.isfinite(z)):
        return np.inf, np.inf
    if isinstance(regularizer, ExponentialFamily):
        return _judge_exponential_family(P, forbidden, u, z)
    face = P.restricted(forbidden) if forbidden else P.presolved
    allowed = np.setdiff1d(np.arange(P.size), forbidden)
    outside = np.abs(z[list(forbidden)]).max(initial=0.0)
    if isinstance(regularizer, Separable):
        return max(outside, distance(face, z[allowed])), gap_bound(face, regularizer, u[allowed], z[allowed])
    assert isinstance(regularizer, Custom)
    g = (u - custom_gradient(regularizer, P.shape, z))[allowed]
    if not np.all(np.isfinite(g)):
        return np.inf, np.inf
    vertex = face.linear_program.maximize(g).x
    assert vertex is not None
    return max(outside, distance(face, z[allowed])), float(g @ (vertex[: len(g)] - z[allowed]))


def gap_bound(face: Presolved, phi: Separable, u: np.ndarray, z: np.ndarray, normal: np.ndarray | None = None) -> float:
    """An upper bound on max_P F - F(z), F(z) = <u, z> - sum phi(z_i), by (1); inf if z leaves the domain of f.

    ``normal``: a vector g that the caller, having solved the problem, knows to be a good one (free entries of z).
    """
    low, high = phi.domain
    if np.any(z < low - LP_RESOLUTION) or np.any(z > high + LP_RESOLUTION):
        return np.inf
    # Entries that P fixes, perhaps at an end of the domain, add a constant to F.
    core, u, z = face.core, u[face.free], np.clip(z, low, high)[face.free]
    with np.errstate(over="ignore"):
        if normal is not None:
            return _bound(core, phi, z, normal, phi.unconstrained(u - normal))
    bounds = []
    for delta in (0.0, *INWARD):
        # 1 - delta = 1 in floating point for small delta: move by a representable amount there
        inside = np.clip(z, low + delta, high - max(delta, 2.0**-53)) if delta else z
        with np.errstate(over="ignore"):
            g = u - phi.gradient(inside)
        if np.all(np.isfinite(g)):
            bounds.append(_bound(core, phi, z, g, inside))
            if delta == 0.0 and bounds[0] <= ROUNDING:
                break
    if not core.form.lifted and min(bounds) > ROUNDING:
        tight = np.flatnonzero(core.form.h - core.form.G @ z < TIGHT)
        g = Face.of(core, tight).normal_at(phi, u, z)
        bounds.append(_bound(core, phi, z, g, phi.unconstrained(u - g)))
    return float(min(bounds))


def _bound(core: Presolved, phi: Separable, z: np.ndarray, g: np.ndarray, inside: np.ndarray) -> float:
    vertex = core.linear_program.maximize(g).x
    assert vertex is not None
    with np.errstate(over="ignore", invalid="ignore"):
        bound = float(g @ (vertex[: len(z)] - z) + np.sum(phi.divergence(z, inside)))
    return bound if np.isfinite(bound) else np.inf


def distance(face: Presolved, z: np.ndarray) -> float:
    """The distance from z to P in the maximum norm, resolved to 1e-9.

    minimize r  over  (v, y) in the standard form with  |v - z|_inf <= r      (``Presolved.nearest``).
    """
    form = face.form
    if np.abs(z).max(initial=0.0) > ABSURD:
        return np.inf
    if not form.lifted:
        violation = max(np.abs(form.A @ z - form.b).max(initial=0.0), (form.G @ z - form.h).max(initial=0.0))
        if violation <= LP_RESOLUTION:
            return float(violation)
    solution = face.nearest.maximize(np.append(np.zeros(form.columns), -1.0), last_rows=np.concatenate([z, -z]))
    return float(max(-solution.value, 0.0))


@lru_cache(maxsize=64)
def _custom_function(regularizer: Custom, shape: tuple[int, ...]) -> tuple[cp.Variable, cp.Expression]:
    variable = cp.Variable(shape)
    return variable, regularizer.expression(variable)


def custom_gradient(regularizer: Custom, shape: tuple[int, ...], z: np.ndarray) -> np.ndarray:
    """The gradient of a Custom f at z (row by row), by CVXPY; inf outside its domain."""
    variable, expression = _custom_function(regularizer, shape)
    variable.value = z.reshape(shape)
    try:
        gradient = expression.grad[variable]
    except NotImplementedError as error:
        raise ValueError(
            f"regularizer: CVXPY has no gradient of {expression}; Custom needs a function that is differentiable on P"
        ) from error
    if gradient is None:  # outside the domain
        return np.full(z.size, np.inf)
    columns_first = np.asarray(gradient.todense() if sp.issparse(gradient) else gradient).reshape(shape, order="F")
    return columns_first.reshape(-1)


def _judge_exponential_family(
    P: Polytope, forbidden: tuple[int, ...], u: np.ndarray, z: np.ndarray
) -> tuple[float, float]:
    """A distribution p on Z with mean z, near p_u: Newton on the dual, then one linear tilt that is exact."""
    V = vertices(P)
    V = V[~np.any(V[:, list(forbidden)] != 0, axis=1)]
    logits = V @ np.where(np.isfinite(u), u, 0.0)
    p0 = softmax(logits)
    p, log_tilt = p0, np.zeros(len(V))
    best = np.inf
    for _ in range(50):
        centred = V - p @ V
        miss = z - p @ V
        covariance = (centred * p[:, None]).T @ centred
        tilt = centred @ np.linalg.lstsq(covariance, miss, rcond=1e-13)[0]
        exact = p * (1 + tilt)  # its mean is z if z lies in the affine hull of the support
        if np.all(exact >= 0) and np.abs(exact @ V - z).max(initial=0.0) <= LP_RESOLUTION:
            best = min(best, float(np.sum(rel_entr(exact / exact.sum(), p0))))
            if np.abs(tilt).max(initial=0.0) < 1e-3:
                break
        step = 1.0 / max(1.0, np.abs(tilt).max(initial=0.0))  # damped: keeps the tilts of one step within e
        log_tilt = log_tilt + step * tilt
        p = softmax(logits + log_tilt)
    face = P.restricted(forbidden) if forbidden else P.presolved
    allowed = np.setdiff1d(np.arange(P.size), forbidden)
    outside = np.abs(z[list(forbidden)]).max(initial=0.0)
    return max(outside, distance(face, z[allowed])), best

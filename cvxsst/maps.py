"""The maps of the library, argmax and softmax, and the smooth maximum, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, overload

import torch

from cvxsst.autograd import with_gradient, without_derivative
from cvxsst.engines import Info, Solution, Solver, chosen_engine
from cvxsst.errors import NoFastPathError
from cvxsst.gradients import BACKWARD, settled
from cvxsst.opaque import opaque
from cvxsst.oracles import at_values, by_enumeration, by_family, by_family_at, by_linear_programs
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem
from cvxsst.recognition import knowledge_of
from cvxsst.regularizers import Euclidean, Regularizer, Separable
from cvxsst.values import holds


@opaque
@torch.no_grad()
def argmax(P: Polytope, w: torch.Tensor, engine: str = "auto") -> torch.Tensor:
    """A vertex of P that maximizes the utilities: argmax over z in P of <w, z>.

    Args:
        P: the polytope.
        w: utilities ``(*batch, *P.shape)``, floating point; -inf forbids an entry (z = 0 there).
        engine: ``"fast"`` the family's own oracle; ``"lp"`` a linear program per instance (HiGHS); ``"enumeration"``
            the best of all vertices; ``"auto"`` the oracle if there is one, else the linear program.

    Returns:
        ``(*batch, *P.shape)``, dtype and device of w, always a vertex: ties are broken the same way every time.
        There is no gradient: it would be zero almost everywhere. Use ``softmax``, or
        ``StochasticSoftmax(hard=True)`` for vertices with the relaxation's gradient.

    Raises:
        ValueError: wrong shape, NaN or +inf in w, unknown engine.
        EmptyPolytopeError: the -inf entries of an instance leave no structure.
        NoFastPathError: ``engine="fast"`` without an oracle, ``"enumeration"`` with too many vertices.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import k_subset
        >>> cvxsst.argmax(k_subset(4, 2), torch.tensor([0.1, 3.0, -1.0, 2.0]))
        tensor([0., 1., 0., 1.])
    """
    problem = Problem.posed(P, w, None, 1.0).inspected()
    data = () if problem.theta is None else (problem.theta.detach(),)
    z = without_derivative(_argmax_engine(P, engine), problem.u, problem.forbidden, *data)
    if data:
        lost = torch.isnan(z).any(dim=-1)
        if holds(lost):
            problem.raise_for_values(lost)
    if problem.forbidden is not None:
        taken = (z != 0) & problem.forbidden
        if holds(taken):
            problem.raise_empty(taken.any(dim=-1))
    return problem.shaped(z)


def _argmax_engine(P: Polytope, name: str) -> Callable[..., torch.Tensor]:
    """(u, forbidden) -> z; where P has parameters, (u, forbidden, theta) -> z."""
    knowledge = knowledge_of(P) if name in ("auto", "fast") else None
    oracle = None if knowledge is None else knowledge.argmax
    if name == "auto":
        name = "fast" if oracle is not None else "lp"
    if name == "fast":
        if oracle is None:
            raise NoFastPathError(f"engine='fast': no argmax oracle is registered for {P!r}; use engine='lp' or 'auto'")
        return partial(by_family, P, oracle) if P.theta is None else partial(by_family_at, P)
    if name in ("lp", "enumeration"):
        one: Callable[..., torch.Tensor] = by_linear_programs if name == "lp" else by_enumeration
        return partial(one, P) if P.theta is None else partial(at_values, P, one)
    raise ValueError(f"engine: unknown engine {name!r} for the argmax; choose 'auto', 'fast', 'lp' or 'enumeration'")


@overload
def softmax(
    P: Polytope,
    w: torch.Tensor,
    regularizer: Regularizer = ...,
    temperature: float | torch.Tensor = ...,
    engine: str = ...,
    backward: str = ...,
    on_failure: str = ...,
    return_info: Literal[False] = False,
) -> torch.Tensor: ...
@overload
def softmax(
    P: Polytope,
    w: torch.Tensor,
    regularizer: Regularizer = ...,
    temperature: float | torch.Tensor = ...,
    engine: str = ...,
    backward: str = ...,
    on_failure: str = ...,
    *,
    return_info: Literal[True],
) -> tuple[torch.Tensor, Info]: ...


@opaque
def softmax(
    P: Polytope,
    w: torch.Tensor,
    regularizer: Regularizer = Euclidean(),  # noqa: B008 - frozen and without state
    temperature: float | torch.Tensor = 1.0,
    engine: str = "auto",
    backward: str = "implicit",
    on_failure: str = "raise",
    return_info: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, Info]:
    """The relaxed argmax: argmax over z in P of <w, z> - T f(z), differentiable in w and T.

    Args:
        P: the polytope.
        w: utilities ``(*batch, *P.shape)``, floating point; -inf forbids an entry (z = 0 there, no gradient).
        regularizer: f: ``Euclidean()``, ``CategoricalEntropy()``, ``BinaryEntropy()``, ``Tsallis(alpha)``,
            ``ExponentialFamily()`` or ``Custom(function)``.
        temperature: T > 0, a float, or a tensor that broadcasts with the batch and may require a gradient.
        engine: ``"fast"``, ``"kkt"``, ``"cvxpylayer"``, ``"enumeration"``, ``"facets"``, ``"vertices"``; ``"auto"`` the
            first that can (``which_engine`` tells which), and the next ones for the instances that it does not solve.
        backward: ``"implicit"`` the derivative of the optimality conditions (or of the closed form);
            ``"finite_difference"`` (z(u + eps g) - z(u - eps g)) / 2 eps along the incoming gradient g, right because
            dz/du is symmetric: two more solves, any engine; ``"unroll"`` autograd through the iterations of a fast
            path that is a plain loop of torch operations (Sinkhorn's), slower: for teaching.
        on_failure: what to do with instances whose solve does not reach its tolerance: ``"raise"``, or ``"nan"``
            to return NaN there (value and gradient) and leave the others alone.
        return_info: also return ``info`` with ``converged``, ``residual``, ``iterations``, ``empty``, ``engine``, one
            entry per instance.

    Returns:
        z ``(*batch, *P.shape)`` in the dtype and on the device of w (computed in float64), or ``(z, info)``.

    Raises:
        ValueError: wrong shape, NaN or +inf in w, T <= 0, an entropy over a polytope that leaves its domain.
        ConvergenceError: names the instances that failed (``on_failure="raise"``).
        EmptyPolytopeError: the -inf entries of an instance leave no point of P (``on_failure="raise"``).
        NoFastPathError: this engine cannot solve this problem; says which can.

    As T goes to 0 z tends to the argmax (if unique), as T goes to infinity to the minimizer of f over P. Euclidean
    solutions reach faces and vertices at positive T: there entries of the gradient are exactly zero, at a vertex all
    of them. If learning stalls because of that, raise T or use an entropy.

    Reference: Paulus et al. 2020, "Gradient Estimation with Stochastic Softmax Tricks", section 3.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> cvxsst.softmax(simplex(3), torch.tensor([1.0, 0.5, -1.0]))
        tensor([0.7500, 0.2500, 0.0000])
    """
    problem = Problem.posed(P, w, regularizer, temperature)
    solver = checked_options(P, regularizer, engine, backward, on_failure)
    z, info = solved(problem, solver, backward, on_failure)
    z = problem.shaped(z)
    if not return_info:
        return z
    return z, (info or Solution(problem.u.detach()).info(solver.name)).reshape(problem.batch)


def solved(problem: Problem, solver: Solver, backward: str, on_failure: str) -> tuple[torch.Tensor, Info | None]:
    """z ``(B, n)``, float64, connected by autograd; failed instances raised or marked, as ``on_failure`` says."""
    z, info = BACKWARD[backward].solve(solver, problem, on_failure)
    return settled(z, info, problem, on_failure), info


@opaque
def smooth_max(
    P: Polytope,
    w: torch.Tensor,
    regularizer: Regularizer = Euclidean(),  # noqa: B008 - frozen and without state
    temperature: float | torch.Tensor = 1.0,
    engine: str = "auto",
    backward: str = "implicit",
    on_failure: str = "raise",
) -> torch.Tensor:
    """The smooth maximum: max over z in P of <w, z> - T f(z), whose gradient in w is ``softmax``.

    Args:
        P, w, regularizer, temperature, engine, backward, on_failure: as in ``softmax``; ``backward`` is how a second
            derivative, that of the softmax, is had.

    Returns:
        ``(*batch,)``, dtype and device of w. Its gradient in w is the softmax z, its gradient in T is -f(z) (for the
        exponential family the entropy of p); it is convex in w and tends to max <w, z> as T goes to 0. For
        ``ExponentialFamily()`` it is T A(w / T), T times the log-partition function.

    Raises:
        As ``softmax``.
        NoFastPathError: an exponential family with neither ``@family.log_partition`` nor few structures.

    Cost: a softmax and a sum; for the exponential family a softmax and a log-partition.

    Reference: Nesterov 2005 (Smooth minimization of non-smooth functions); Mensch and Blondel 2018 (Differentiable
    dynamic programming for structured prediction and attention).

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> w = torch.tensor([1.0, 0.5, -1.0])
        >>> cvxsst.smooth_max(simplex(3), w, cvxsst.ExponentialFamily()), w.logsumexp(0)
        (tensor(1.5550), tensor(1.5550))
    """
    problem = Problem.posed(P, w, regularizer, temperature)
    z, _ = solved(problem, checked_options(P, regularizer, engine, backward, on_failure), backward, on_failure)
    problem = problem.inspected()
    if problem.theta is not None:
        return in_units_of_w(maximum_with_parameters(problem, z), problem)

    def maximum(u: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor | None) -> torch.Tensor:
        value = regularizer.maximum(P, u, z, nowhere(z) if forbidden is None else forbidden)
        return value.where(z.isfinite().all(dim=1), torch.nan)

    return in_units_of_w(with_gradient(maximum, problem.u, z, z.detach(), problem.forbidden), problem)


def maximum_with_parameters(problem: Problem, z: torch.Tensor) -> torch.Tensor:
    """<u, z> - f(z) ``(B,)`` for the maximizers z, differentiated in u and in the parameters through z.

    In u that is z once more, for u - f'(z) is normal to what z can do while the parameters stay; entries at an end of
    the domain where f' is infinite do not move. NaN where z is.
    """
    f, solved = problem.f, z.isfinite().all(dim=1)
    assert isinstance(f, Separable)
    z = f.inside(z.where(solved[:, None], 0.0), 0.0)
    z = z.where(f.gradient(z.detach()).isfinite(), z.detach())
    return ((problem.u * z).sum(dim=1) - f.value_of(problem.P, z)).where(solved, torch.nan)


def nowhere(z: torch.Tensor) -> torch.Tensor:
    """No entry is forbidden."""
    return torch.zeros_like(z, dtype=torch.bool)


def in_units_of_w(value: torch.Tensor, problem: Problem) -> torch.Tensor:
    """T times a value ``(B,)`` at T = 1, in the shape ``(*batch,)`` and the dtype of w."""
    return (value.reshape(problem.batch) * problem.temperature).to(problem.w.dtype)


def checked_options(P: Polytope, regularizer: Regularizer, engine: str, backward: str, on_failure: str) -> Solver:
    """The engine; raises a ValueError unless it and the other options are known and fit."""
    if backward not in BACKWARD:
        raise ValueError(f"backward: choose 'implicit', 'finite_difference' or 'unroll', got {backward!r}")
    if on_failure not in ("raise", "nan"):
        raise ValueError(f"on_failure: choose 'raise' or 'nan', got {on_failure!r}")
    solver = chosen_engine(P, regularizer, engine)
    BACKWARD[backward].require(solver, P, regularizer)
    return solver

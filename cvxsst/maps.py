"""The two maps of the library, argmax and softmax, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch

from cvxsst.arguments import Problem, checked_problem, holds
from cvxsst.engines import Engine, Info, chosen_engine
from cvxsst.engines.fast import Fast
from cvxsst.errors import ConvergenceError, EmptyPolytopeError, NoFastPathError, some
from cvxsst.geometry.vertices import vertices
from cvxsst.regularizers import Euclidean, Regularizer

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope

# Step of the central difference in u = w / T. The truncation error is O(step^2), the solver's error is divided by the
# step: 1e-4 leaves about 1e-8 of each with a solver right to 1e-12.
STEP = 1e-4


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
    problem = checked_problem(P, w, None, 1.0)
    solve = _argmax_engine(P, engine)
    u = problem.u
    if problem.forbidden is not None:
        u = _discouraged(P, problem)
    z = solve(u.reshape(-1, *P.shape)).reshape(u.shape)
    if problem.forbidden is not None:
        taken = ((z != 0) & problem.forbidden).any(dim=1)
        if bool(taken.any()):
            _raise_empty(problem, taken)
    return z.reshape(*problem.batch, *P.shape).to(problem.dtype)


def _argmax_engine(P: Polytope, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    known = P.known if name in ("auto", "fast") else None
    oracle = known.family.argmax_oracle if known is not None and known.family is not None else None
    if name == "auto":
        name = "fast" if oracle is not None else "lp"
    if name == "fast":
        if oracle is None:
            raise NoFastPathError(f"engine='fast': no argmax oracle is registered for {P!r}; use engine='lp' or 'auto'")
        arguments = known.arguments if known is not None else {}
        return lambda u: oracle(u, **arguments)
    if name == "lp":
        return lambda u: _by_linear_programs(P, u)
    if name == "enumeration":
        V = torch.from_numpy(vertices(P))
        return lambda u: V.to(u.device)[(u.reshape(len(u), P.size) @ V.to(u.device).T).argmax(dim=1)]
    raise ValueError(f"engine: unknown engine {name!r} for the argmax; choose 'auto', 'fast', 'lp' or 'enumeration'")


def _by_linear_programs(P: Polytope, u: torch.Tensor) -> torch.Tensor:
    program = P.presolved.linear_program
    z = np.zeros((len(u), P.size))
    for i, objective in enumerate(u.cpu().reshape(len(u), P.size).numpy()):
        solution = program.vertex(objective)
        assert solution.x is not None, "a polytope is neither empty nor unbounded"
        z[i] = solution.x[: P.size]
    near = np.round(z)
    # The last digits depend on the way that the simplex method took; twelve do not.
    digits = 12 - int(np.ceil(np.log10(np.abs(z).max(initial=1.0))))
    z = np.where(np.abs(z - near) < 1e-9, near, np.round(z, digits))  # integers come back as such
    return torch.from_numpy(z + 0.0).to(u.device)


def _discouraged(P: Polytope, problem: Problem) -> torch.Tensor:
    """Finite utilities under which a forbidden entry is taken only if every structure takes one.

    A penalty of more than the range of <w, z> over P outweighs all else.
    """
    assert problem.forbidden is not None
    for entries in {problem.forbidden_entries(i) for i in range(len(problem.u))}:
        P.require_zero_is_least(entries)
    lower, upper = (torch.from_numpy(bound).to(problem.u.device) for bound in P.bounds)
    reach = (problem.u.abs() * torch.maximum(lower.abs(), upper.abs())).sum(dim=1, keepdim=True)
    return torch.where(problem.forbidden, -torch.where(reach > 0, 2 * reach, 1.0), problem.u)


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
        regularizer: f: ``Euclidean()``, ``CategoricalEntropy()``, ``BinaryEntropy()``, ``ExponentialFamily()`` or
            ``Custom(function)``.
        temperature: T > 0, a float, or a tensor that broadcasts with the batch and may require a gradient.
        engine: ``"auto"`` (``which_engine`` tells which), ``"fast"``, ``"kkt"``, ``"cvxpylayer"``, ``"enumeration"``.
        backward: ``"implicit"`` the derivative of the optimality conditions (or of the closed form);
            ``"finite_difference"`` (z(u + eps g) - z(u - eps g)) / 2 eps along the incoming gradient g, right because
            dz/du is symmetric: two more solves, any engine; ``"unroll"`` autograd through the iterations of a fast
            path that is a plain loop of torch operations (Sinkhorn's), slower: for teaching.
        on_failure: what to do with instances whose solve does not reach its tolerance: ``"raise"``, or ``"nan"``
            to return NaN there (value and gradient) and leave the others alone.
        return_info: also return ``info`` with ``converged``, ``residual``, ``iterations``, one entry per instance.

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
    problem = checked_problem(P, w, regularizer, temperature)
    solver = checked_options(P, regularizer, engine, backward, on_failure)
    if backward == "implicit":
        z, info = solver.softmax(P, regularizer, problem.u, problem.forbidden)
    elif backward == "unroll":
        assert isinstance(solver, Fast), "checked_options sees to it"
        z, info = solver.softmax(P, regularizer, problem.u, problem.forbidden, unroll=True)
    else:
        found: list[Info] = []
        z = _CentralDifference.apply(
            problem.u, lambda u: solver.softmax(P, regularizer, u, problem.forbidden), problem, on_failure, found
        )
        info = found[0]
    z = _settle_failures(z, info, problem, on_failure)
    z = z.reshape(*problem.batch, *P.shape).to(problem.dtype)
    return (z, info.reshape(problem.batch)) if return_info else z


def checked_options(P: Polytope, regularizer: Regularizer, engine: str, backward: str, on_failure: str) -> Engine:
    """The engine; raises a ValueError unless it and the other options are known and fit."""
    if backward not in ("implicit", "finite_difference", "unroll"):
        raise ValueError(f"backward: choose 'implicit', 'finite_difference' or 'unroll', got {backward!r}")
    if on_failure not in ("raise", "nan"):
        raise ValueError(f"on_failure: choose 'raise' or 'nan', got {on_failure!r}")
    solver = chosen_engine(P, regularizer, engine)
    if backward != "unroll":
        return solver
    able = P.known.family.unrollable if P.known is not None and P.known.family is not None else set()
    if solver.name != "fast" or type(regularizer) not in able:
        paths = some([f"{kind.__name__}()" for kind in able]) if able else "none"
        raise ValueError(
            f"backward='unroll': needs engine='fast' and a fast path that is a loop of torch operations, which over "
            f"{P!r} has {paths}, not {regularizer!r} with engine={solver.name!r}; use backward='implicit'"
        )
    return solver


class _CentralDifference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: torch.Tensor,
        solve: Callable[[torch.Tensor], tuple[torch.Tensor, Info]],
        problem: Problem,
        on_failure: str,
        found: list[Info],
    ) -> torch.Tensor:
        z, info = solve(u.detach())
        found.append(info)
        ctx.save_for_backward(u)
        ctx.solve, ctx.problem, ctx.on_failure = solve, problem, on_failure
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (u,) = ctx.saved_tensors
        size = g.abs().amax(dim=1, keepdim=True) if g.numel() else g.new_ones(len(g), 1)
        direction = torch.nan_to_num(g / size)
        if ctx.problem.forbidden is not None:
            direction = direction.masked_fill(ctx.problem.forbidden, 0.0)
        sides = []
        for sign in (1.0, -1.0):
            z, info = ctx.solve(u + sign * STEP * direction)
            sides.append(_settle_failures(z, info, ctx.problem, ctx.on_failure))
        return (sides[0] - sides[1]) / (2 * STEP) * size, None, None, None, None


def _settle_failures(z: torch.Tensor, info: Info, problem: Problem, on_failure: str) -> torch.Tensor:
    """Raise for failed instances, or mark them: NaN in value and gradient, and only in theirs."""
    failed = ~info.converged | info.empty
    if not holds(failed):
        return z
    if on_failure == "raise":
        if bool(info.empty.any()):
            _raise_empty(problem, info.empty)
        positions = failed.nonzero().flatten().tolist()
        instances = [problem.instance(i) for i in positions]
        raise ConvergenceError(
            f"the solve did not reach its tolerance{_named(instances, ' in instances ')} (residuals "
            f"{some([f'{info.residual[i].item():.1e}' for i in positions])}); on_failure='nan' keeps the others; "
            "smaller utilities, a higher temperature or another engine may help",
            instances,
        )
    mark = torch.where(failed, torch.nan, 0.0).to(z)[:, None]
    return torch.nan_to_num(z) + mark * problem.u  # 0 u where all is well


def _raise_empty(problem: Problem, empty: torch.Tensor) -> None:
    instances = [problem.instance(i) for i in empty.nonzero().flatten().tolist()]
    raise EmptyPolytopeError(
        f"w: the -inf entries{_named(instances, ' of instances ')} forbid every structure; allow at least one"
    )


def _named(instances: list[tuple[int, ...]], words: str) -> str:
    """Which instances of the batch; nothing where there is no batch."""
    return "" if instances == [()] else words + some(instances)

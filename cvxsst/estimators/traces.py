"""Score functions of what a greedy algorithm decided, in place of all its utilities.

On utilities theta + Gumbel noise a greedy algorithm makes a sequence of choices, its trace: each is categorical among
what is open, whatever was chosen before. The structure depends on the trace alone, and

    grad E[c(z)] = E[(c(z) - b) grad log p(trace)],     grad log p(trace) = E[grad log q(utilities) | trace]

is what is left of the estimator in the space of the utilities when all noise that changes nothing is averaged out:
unbiased as that, with less variance.

Reference: Struminsky, Gadetsky, Rakitin, Karpushkin and Vetrov 2021 (Leveraging recursive Gumbel-max trick for
approximate inference in combinatorial spaces).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cvxsst.errors import NoFastPathError
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem
from cvxsst.recognition import knowledge_of
from cvxsst.values import holds


def sample_trace(
    P: Polytope, theta: torch.Tensor, sample_shape: Sequence[int] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """(z, log p(trace)): structures with the law of ``StochasticArgmax(Gumbel(theta, 1), P)``, and what a score
    function of them needs.

    *Gradient of*: with ``LeaveOneOut()(cost(z), log_prob)`` and the like, E[cost(z)], unbiased.
    *Cost*: one greedy algorithm a sample: O(nk) on k-subsets, O(nE) on spanning trees.
    *Reference*: Struminsky et al. 2021, section 3 (T-REINFORCE).

    Args:
        P: a polytope of a family with a greedy algorithm (``@family.trace``): the simplex, k-subsets, spanning trees.
        theta: ``(*batch, *P.shape)``, floating point; -inf forbids an entry.
        sample_shape: of independent samples; default none, one sample for each instance.

    Returns:
        z ``(*sample_shape, *batch, *P.shape)``, a constant, and the log-probability ``(*sample_shape, *batch)``,
        differentiable in theta; dtype and device of theta.

    Raises:
        ValueError: as ``argmax``.
        EmptyPolytopeError: the -inf entries of an instance leave no structure.
        NoFastPathError: no greedy algorithm is registered.

    Example:
        >>> import torch, cvxsst
        >>> from cvxsst.estimators import LeaveOneOut, sample_trace
        >>> from polytopes import k_subset
        >>> theta = torch.zeros(5, requires_grad=True)
        >>> z, log_prob = sample_trace(k_subset(5, 2), theta, (1000,))
        >>> LeaveOneOut()(z[:, 0], log_prob).mean().backward()
        >>> bool(theta.grad[0] > 0.1)
        True
    """
    problem, shape = Problem.posed(P, theta, None, 1.0).inspected(), torch.Size(sample_shape)
    knowledge = knowledge_of(P)
    path = None if knowledge is None else knowledge.trace
    if path is None:
        raise NoFastPathError(
            f"P: no greedy algorithm is registered for {P!r} (@family.trace); use the density of the utilities, "
            "StochasticArgmax(...).sample_with_utilities, or that of the structures, Gibbs(...).log_prob"
        )
    u = problem.u if problem.forbidden is None else problem.u.masked_fill(problem.forbidden, -torch.inf)
    z, log_prob = path(u.reshape(-1, *P.shape), samples=shape.numel())
    if problem.forbidden is not None:
        stuck = ~torch.isfinite(log_prob.detach()).all(dim=0)
        if holds(stuck):
            problem.raise_empty(stuck)
    z = z.reshape(*shape, *problem.batch, *P.shape)
    return z.to(theta.dtype), log_prob.reshape(*shape, *problem.batch).to(theta.dtype)

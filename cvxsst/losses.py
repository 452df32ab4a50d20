"""Fenchel-Young losses: how far z is from being the softmax of w, in the units of <w, z>.

    L(w; z) = max over P of (<w, z'> - T f(z'))  +  T f(z)  -  <w, z>   >= 0,      0 if and only if z = softmax(w)

    grad_w L = softmax(w) - z,     convex in w

For structures z that are observed this is supervised learning of w. It holds as instances, for T = 1,

    simplex, ExponentialFamily       cross-entropy                 any P, ExponentialFamily   -log p(z): the CRF loss
    simplex, Euclidean               the sparsemax loss            any P, Euclidean           the SparseMAP loss
    simplex, Tsallis(alpha)          the alpha-entmax loss

and as T -> 0 it tends to the perceptron loss max <w, z'> - <w, z>. Reference: Blondel, Martins and Niculae 2020,
"Learning with Fenchel-Young losses" (JMLR 21), definition 1 and proposition 2.
"""

from __future__ import annotations

from functools import partial

import torch

from cvxsst.arguments import check_readable, check_utilities
from cvxsst.autograd import with_gradient, without_derivative
from cvxsst.errors import ArgumentTypeError
from cvxsst.layer import SoftmaxLayer
from cvxsst.maps import checked_options, in_units_of_w, maximum_with_parameters, nowhere, solved
from cvxsst.opaque import opaque
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem, named
from cvxsst.regularizers import Euclidean, Regularizer
from cvxsst.values import holds

OFF = {torch.float64: 1e-6, torch.float32: 1e-4}  # how far z may be from P
OFF_OTHERWISE = 1e-2
REDUCTIONS = ("none", "mean", "sum")


@opaque
def fenchel_young_loss(
    P: Polytope,
    w: torch.Tensor,
    z: torch.Tensor,
    regularizer: Regularizer = Euclidean(),  # noqa: B008 - frozen and without state
    temperature: float | torch.Tensor = 1.0,
    engine: str = "auto",
    backward: str = "implicit",
    on_failure: str = "raise",
) -> torch.Tensor:
    """smooth_max(w) + T f(z) - <w, z>: 0 where softmax(w) = z, else more.

    Args:
        P, w, regularizer, temperature, engine, backward, on_failure: as in ``softmax``; ``backward`` is how a second
            derivative is had.
        z: the target, a point of P: a structure or marginals, ``(*batch, *P.shape)`` with a batch that broadcasts with
            that of w. A constant: it must not require a gradient.

    Returns:
        ``(*batch,)``, dtype and device of w, at least 0, computed without cancellation: small losses have right digits.
        Its gradient in w is softmax(w) - z, in T f(z) - f(softmax(w)). inf, with that gradient, where w is -inf and
        z is not 0.

    Raises:
        As ``softmax``. ValueError: z of another shape, not finite, with a gradient, or not in P as far as that is seen
        for nothing (the domain of f, the equalities of a small declaration, a loss below 0).
        NoFastPathError: the exponential family with neither ``@family.log_partition`` nor few structures.

    Cost: a softmax and a sum; for the exponential family a softmax, a log-partition and an argmax, and at a z that is
    no structure a problem of its own, solved one instance after another: some ten log-partitions with gradient.

    Reference: Blondel, Martins and Niculae 2020, definition 1.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> w, z = torch.tensor([1.0, 0.5, -1.0]), torch.tensor([0.0, 1.0, 0.0])
        >>> cvxsst.fenchel_young_loss(simplex(3), w, z)
        tensor(0.5625)
        >>> cvxsst.fenchel_young_loss(simplex(3), w, cvxsst.softmax(simplex(3), w))
        tensor(0.)
    """
    v = _checked_target(P, w, z)
    problem = Problem.posed(P, w.expand(*_batch(P, w, v), *P.shape).contiguous(), regularizer, temperature)
    best, _ = solved(problem, checked_options(P, regularizer, engine, backward, on_failure), backward, on_failure)
    problem = problem.inspected()
    v = v.expand(*problem.batch, *P.shape).reshape(problem.u.shape)
    value = partial(_value, problem, regularizer, OFF.get(z.dtype, OFF_OTHERWISE))
    if problem.theta is None:
        return in_units_of_w(with_gradient(value, problem.u, best - v, v, best.detach(), problem.forbidden), problem)
    gives = maximum_with_parameters(problem, best) - (problem.u * v).sum(dim=1)  # its derivatives, without its rounding
    loss = without_derivative(value, problem.u.detach(), v, best.detach(), problem.forbidden)
    return in_units_of_w(loss + (gives - gives.detach()), problem)


def _checked_target(P: Polytope, w: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """z as a constant, float64, on the device of w; its values are looked at later."""
    check_utilities(P, w)
    if not isinstance(z, torch.Tensor):
        raise ArgumentTypeError(f"z: expected a torch.Tensor, got {type(z).__name__}; use torch.as_tensor(z)")
    check_readable("z", z)
    if z.requires_grad:
        raise ValueError("z: the target is a constant, and this one requires a gradient; pass z.detach()")
    if z.dim() < len(P.shape) or tuple(z.shape[z.dim() - len(P.shape) :]) != P.shape:
        raise ValueError(f"z: the last dimensions must be the shape of {P!r}, {P.shape}, got {tuple(z.shape)}")
    return z.to(w.device, torch.float64)


def _batch(P: Polytope, w: torch.Tensor, z: torch.Tensor) -> torch.Size:
    event = len(P.shape)
    batches = w.shape[: w.dim() - event], z.shape[: z.dim() - event]
    try:
        return torch.broadcast_shapes(*batches)
    except RuntimeError:
        raise ValueError(
            f"z: its batch shape {tuple(batches[1])} does not broadcast with that of w, {tuple(batches[0])}"
        ) from None


def _value(
    problem: Problem,
    f: Regularizer,
    off: float,
    u: torch.Tensor,
    v: torch.Tensor,
    best: torch.Tensor,
    forbidden: torch.Tensor | None,
) -> torch.Tensor:
    """The loss at T = 1, ``(B,)``, of plain tensors; NaN where ``best`` is."""
    _require_in_polytope(problem, f, off, v)
    taken = None if forbidden is None else (forbidden & (v != 0)).any(dim=1)
    inside = v if taken is None else v.where(~taken[:, None], best)
    loss = f.loss(problem.P, u, inside, best, nowhere(v) if forbidden is None else forbidden)
    too_low = loss < -off * (1 + u.abs().sum(dim=1))
    if holds(too_low):
        _refuse(problem, too_low, "gives a negative loss")
    loss = loss.clamp_min(0.0) if taken is None else loss.clamp_min(0.0).masked_fill(taken, torch.inf)
    return loss.where(best.isfinite().all(dim=1), torch.nan)


def _require_in_polytope(problem: Problem, f: Regularizer, off: float, v: torch.Tensor) -> None:
    """By what is known already: constraints of small declarations are, all entries have a domain."""
    P, (low, high) = problem.P, f.domain
    wrong = ~((v >= low - off) & (v <= high + off)).all(dim=1)
    presolved = vars(P).get("presolved")
    if presolved is not None:
        E, e, lower, upper = (torch.from_numpy(part).to(v) for part in (*presolved.hull, *P.bounds))
        size = off * v.abs().amax(dim=1, keepdim=True).clamp_min(1.0) if v.numel() else off
        wrong |= ((v @ E.T - e).abs() > size).any(dim=1) | ((v < lower - size) | (v > upper + size)).any(dim=1)
    if holds(wrong):
        _refuse(problem, wrong, "is not in it")


def _refuse(problem: Problem, wrong: torch.Tensor, why: str) -> None:
    which = named(problem.instances(wrong), " of instances ")
    raise ValueError(f"z: must be a point of {problem.P!r}, a structure or a mean of structures; the z{which} {why}")


class FenchelYoungLoss(SoftmaxLayer):
    """``fenchel_young_loss`` as an ``nn.Module``.

    Args:
        P: the polytope.
        regularizer: f; default ``Euclidean()``: the SparseMAP loss. ``ExponentialFamily()``: the CRF loss.
        temperature: T > 0; as in ``SoftmaxLayer`` a buffer, or a parameter that is learned.
        reduction: ``"mean"`` over the batch, ``"sum"``, or ``"none"``: a loss for each instance.
        engine, backward, on_failure: as in ``cvxsst.softmax``.

    Shape:
        w and z ``(*batch, *P.shape)`` to ``()``, or ``(*batch,)`` with ``reduction="none"``.

    Raises:
        ValueError: as ``fenchel_young_loss``; wrong options already here.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import k_subset
        >>> loss = cvxsst.FenchelYoungLoss(k_subset(4, 2), cvxsst.ExponentialFamily())
        >>> w, z = torch.zeros(8, 4, requires_grad=True), torch.tensor([1.0, 1.0, 0.0, 0.0])
        >>> loss(w, z)  # log 6: six subsets, all as likely
        tensor(1.7918, grad_fn=<MeanBackward0>)
    """

    def __init__(
        self,
        P: Polytope,
        regularizer: Regularizer = Euclidean(),  # noqa: B008 - frozen and without state
        temperature: float | torch.Tensor = 1.0,
        reduction: str = "mean",
        engine: str = "auto",
        *,
        backward: str = "implicit",
        on_failure: str = "raise",
    ):
        super().__init__(P, regularizer, temperature, engine, backward=backward, on_failure=on_failure)
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: choose 'none', 'mean' or 'sum', got {reduction!r}")
        self.reduction = reduction

    @opaque
    def forward(self, w: torch.Tensor, z: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        loss = fenchel_young_loss(self.P, w, z, self.regularizer, self.temperature, self.engine, **self._options)
        return loss if self.reduction == "none" else getattr(loss, self.reduction)()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reduction={self.reduction!r}"

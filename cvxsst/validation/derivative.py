"""Whose gradient is wrong, and where nobody's is: kinks.

dz/du is symmetric, so that (dz/du)' g is also the derivative of z along g, which differences of a *forward* solver
show, and forwards are certified (``cvxsst.validation.evidence``):

    C = (z(u + h g) - z(u - h g)) / 2h         of the most certain solver that is not the candidate

At a kink (a constraint active with multiplier zero) z has only one-sided derivatives, and any convex combination of
them may rightly be returned. It needs a constraint that is tight, beyond those that an entropy keeps to itself, and it
shows as one-sided differences that do not meet, at u or right beside it; or as a vjp that is C right beside u and not
at u: a kink that is narrower than any difference, as where two entries reach an upper bound together. Elsewhere the
candidate is wrong if it is far from C and another solver's own gradient is not: two against one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cvxsst.validation.evidence import Case, ValueVerdict, Witness, value_status
from cvxsst.validation.findings import KINK, LIMITED, RIGHT, SILENT, UNASKED, WRONG
from cvxsst.validation.instances import Instances, largest

STEP = 1e-4  # of u, over the size of P: 1e-8 of truncation, and the solver's error of 1e-12 becomes 1e-8
FINE = 0.25  # a second step, as a share of the first: what changes with it is the difference's own error
JUMP = 1e-3  # of one-sided derivatives: smooth ones differ by less than STEP |z''|
BESIDE = 1e-6  # how far from u a vjp that jumps there is asked again


@dataclass(frozen=True)
class Differences:
    """Of N instances: the derivative of z along g ``(N, n)``, its own error ``(N,)``, and whether there is a kink.

    NaN where no solver was fit to be differenced. ``tight``: whether there may be a kink at all; ``source``: the names
    of the solvers that were differenced.
    """

    value: torch.Tensor
    error: torch.Tensor
    kink: torch.Tensor
    tight: list[bool]
    source: list[str]


def differences(witnesses: list[Witness], verdict: ValueVerdict, case: Case) -> Differences:
    """Difference, at each instance, the first of these solvers that is proved neither wrong nor silent there; one that
    is slow only where all are."""
    N, n = len(case.instances), case.P.size
    value = torch.full((N, n), torch.nan, dtype=torch.float64)
    error = torch.full((N,), torch.inf, dtype=torch.float64)
    kink, tight = torch.zeros(2, N, dtype=torch.bool)
    quick_first = sorted(witnesses, key=lambda w: w.solver.slow)
    source = [
        next((w for w in quick_first if value_status(w, arbiter, i, tol) == RIGHT), None)
        for i, (arbiter, tol) in enumerate(zip(verdict.arbiter, case.tolerance.tolist(), strict=True))
    ]
    for witness in witnesses:
        rows = [i for i in range(N) if source[i] is witness]
        if rows:
            asked = case.instances.take(rows)
            value[rows], error[rows], kink[rows] = _of(witness, asked, STEP / case.yardstick.size)
            forbidden = torch.isinf(asked.u).reshape(len(rows), n)
            tight[rows] = case.regularizer.may_kink(case.P, witness.answer.z[rows], forbidden)
    names = ["" if w is None else w.name for w in source]
    return Differences(value, error, kink & tight, tight.tolist(), names)


def _of(witness: Witness, instances: Instances, h: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z at u, at u +- h g and u +- h g / 4, and the same beside u, all in one batch."""
    u, forbidden = instances.u, torch.isinf(instances.u)
    g = instances.cotangents[0].masked_fill(forbidden, 0.0)
    fine = FINE * h
    beside = [u + h * d for d in instances.cotangents[1:]]
    points = [u, u + h * g, u - h * g, u + fine * g, u - fine * g]
    points += [b + s * fine * g for b in beside for s in (1, -1)]
    z = witness.solver.ask(torch.cat(points)).z.reshape(len(points), len(u), witness.solver.P.size)
    coarse, central = (z[1] - z[2]) / (2 * h), (z[3] - z[4]) / (2 * fine)
    jump = largest((z[3] - 2 * z[0] + z[4]) / fine)
    for k in range(5, len(points), 2):
        jump = torch.maximum(jump, largest((z[k] - z[k + 1]) / (2 * fine) - central))
    return coarse, largest(coarse - central) + 1e-9, jump > JUMP * largest(coarse).clamp(min=1.0)


def vjp_error(x: Witness, differenced: Differences) -> torch.Tensor:
    """How far x's vjp is from the difference, relative to its size if that is above 1; NaN where either is missing."""
    return largest(x.answer.vjp[0] - differenced.value) / largest(differenced.value).clamp(min=1.0)


def judge_vjps(x: Witness, others: list[Witness], differenced: Differences, case: Case) -> list[str]:
    """The verdict on x's gradient at each instance."""
    if not x.solver.has_gradient:
        return [UNASKED] * len(case.instances)
    tolerance = case.yardstick.of_vjp(case.instances)
    reach, mine = tolerance + differenced.error, vjp_error(x, differenced)
    seconds = [(o, vjp_error(o, differenced)) for o in others if o.solver.has_gradient]
    statuses = []
    for i in range(len(reach)):
        said = [bool(e[i] <= reach[i]) for o, e in seconds if not o.answer.why_no_vjp[i]]
        if x.answer.why_no_vjp[i]:
            statuses.append(SILENT)
        elif differenced.kink[i]:
            statuses.append(KINK)
        elif bool(mine[i] <= tolerance[i]):
            statuses.append(RIGHT)
        else:
            statuses.append(WRONG if bool(mine[i] > reach[i]) and (any(said) or not said) else LIMITED)
    narrow = [i for i, status in enumerate(statuses) if status in (WRONG, LIMITED) and differenced.tight[i]]
    for i in _right_beside(x, narrow, differenced, case):
        statuses[i] = KINK
    return statuses


def _right_beside(x: Witness, rows: list[int], differenced: Differences, case: Case) -> list[int]:
    """Those of the instances at which x's vjp is wrong, but right beside u, on two sides, it is not."""
    if not rows:
        return []
    some, yardstick = case.instances.take(rows), case.yardstick
    step = (BESIDE / yardstick.size + 64 * yardstick.precision * some.reach).reshape(-1, *[1] * (some.u.dim() - 1))
    right = torch.ones(len(rows), dtype=torch.bool)
    for direction in some.cotangents[1:]:
        vjp = x.solver.ask(some.u + step * direction, some.cotangents[:1], x.dtype).vjp[0]
        wanted = differenced.value[rows]
        error = largest(vjp - wanted) / largest(wanted).clamp(min=1.0)
        right &= error <= yardstick.of_vjp(some) + differenced.error[rows]
    return [i for i, fine in zip(rows, right.tolist(), strict=True) if fine]

"""The laws of a softmax, each a function from a trial to a ``Law``.

answers     a tensor of the shape and dtype of u, finite, without an exception
feasible    z is in P
optimal     the certified gap of z is 0
value       z agrees with the references, as far as these are certified
gradient    the vjp agrees with central differences of certified solutions
symmetric   dz/du is symmetric and positive semidefinite
cold        <w, v - z(w / T)> <= T (f(v) - f(z)) with v the argmax: as T falls, z does all that a vertex can
float32     nothing but the last digits is lost in float32
batch       an instance alone, or in a batch of two dimensions, gets the same answer
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cvxsst.maps import argmax
from cvxsst.validation.findings import LIMITED, RIGHT, WRONG, Law, Worst, number, reproducible
from cvxsst.validation.instances import Instances, largest
from cvxsst.validation.solvers import Answer
from cvxsst.validation.trial import Trial, ask_shaped

SINGLE = 2e-5  # what float32 may lose in z, where entries are of size 1
SINGLE_VJP = 1e-3
COLD = (0.1, 0.01, 0.001)
ALONE = 6  # instances that are asked alone


def answers(trial: Trial) -> Law:
    why = trial.candidate.answer.why
    silent = [i for i, reason in enumerate(why) if reason]
    reason = why[silent[0]] if silent else ""
    if silent and all(trial.instances.kinds[i] == "mask" for i in silent):
        reason += " (only where utilities are -inf: masks=False leaves these out)"
    return _law(
        "answers",
        "z is a finite tensor of the shape and dtype of u",
        trial.instances,
        errors=torch.tensor([float(bool(reason)) for reason in why]),
        allowed=torch.zeros(len(why)),
        got=trial.candidate.answer.z,
        because=[reason] * len(why),
    )


def feasible(trial: Trial) -> Law:
    return _law(
        "feasible",
        "z is in P (distance, maximum norm)",
        trial.instances,
        errors=trial.candidate.infeasibility,
        allowed=trial.yardstick.of_z(trial.instances),
        got=trial.candidate.answer.z,
        rows=trial.answered(),
    )


def optimal(trial: Trial) -> Law:
    """An infinite gap is no proof of a bad z: where a certified reference has the same z, no bound was found."""
    gap, rows = trial.candidate.gap, trial.answered()
    unbounded = [i for i in rows if torch.isinf(gap[i]) and trial.values.status[i] == RIGHT]
    return _law(
        "optimal",
        "the certified gap of z is 0 (at u, T = 1)",
        trial.instances,
        errors=gap.clamp(min=0),
        allowed=trial.yardstick.of_gap(trial.instances),
        got=trial.candidate.answer.z,
        rows=[i for i in rows if i not in unbounded],
        limited=len(unbounded),
    )


def value(trial: Trial) -> Law:
    status, arbiters = trial.values.status, trial.values.arbiter
    expected = torch.full_like(trial.candidate.answer.z, torch.nan)
    for i, arbiter in enumerate(arbiters):
        if arbiter is not None:
            expected[i] = arbiter.answer.z[i]
    return _law(
        "value",
        "z is that of the references (maximum norm)",
        trial.instances,
        errors=trial.values.error,
        allowed=trial.yardstick.of_z(trial.instances),
        got=trial.candidate.answer.z,
        expected=expected,
        rows=[i for i, said in enumerate(status) if said in (RIGHT, WRONG)],
        wrong=[i for i, said in enumerate(status) if said == WRONG],
        because=[_proof(trial, i) if said == WRONG else "" for i, said in enumerate(status)],
        limited=status.count(LIMITED),
    )


def _proof(trial: Trial, i: int) -> str:
    """Why the candidate and not the reference is wrong at instance i."""
    arbiter = trial.values.arbiter[i]
    if arbiter is None:
        return ""
    z, tolerance = trial.candidate.answer.z[i], trial.yardstick.of_z(trial.instances)[i].item()
    agree = [r.name for r in trial.references if (r.answer.z[i] - arbiter.answer.z[i]).abs().max() <= tolerance]
    outside, gap = trial.candidate.infeasibility[i].item(), trial.candidate.gap[i].item()
    own = f"lies {number(outside)} outside P" if outside > tolerance else f"has a certified gap of {number(gap)}"
    return (
        f"the candidate is wrong: its z is {number((z - arbiter.answer.z[i]).abs().max().item())} away from that of "
        f"{' and '.join(agree) or arbiter.name}, certified to within {number(arbiter.within(i, tolerance))}, "
        f"and {own}"
    )


def gradient(trial: Trial) -> Law:
    status = trial.vjp_status
    silent = [i for i in trial.answered() if trial.candidate.answer.why_no_vjp[i]]
    wrong = [i for i, said in enumerate(status) if said == WRONG]
    why = [_vjp_proof(trial, i) if i in wrong else reason for i, reason in enumerate(trial.candidate.answer.why_no_vjp)]
    return _law(
        "gradient",
        "the vjp is the central difference of certified solutions",
        trial.instances,
        errors=trial.vjp_error,
        allowed=trial.yardstick.of_vjp(trial.instances),
        got=trial.candidate.answer.vjp[0],
        expected=trial.differenced.value,
        rows=[i for i, said in enumerate(status) if said in (RIGHT, WRONG)] + silent,
        wrong=silent or wrong,
        because=why,
        kinks=len(trial.kinks),
        limited=status.count(LIMITED),
    )


def _vjp_proof(trial: Trial, i: int) -> str:
    right, vjp = trial.differenced.value[i], trial.candidate.answer.vjp[0, i]
    near = trial.yardstick.of_vjp(trial.instances)[i] * right.abs().max().clamp(min=1.0) + trial.differenced.error[i]
    agree = [r.name for r in trial.references if (r.answer.vjp[0, i] - right).abs().max() <= near]
    factor = ((vjp @ right) / (right @ right)).item() if bool((right != 0).any()) else 1.0
    return (
        f"the candidate is wrong: its vjp is {number((vjp - right).abs().max().item())} away from the central "
        f"difference of {trial.differenced.source[i]}"
        + (f", which the gradient of {' and of '.join(agree)} confirms" if agree else "")
        + (f"; along the right one it is {factor:.3g} times as long" if abs(factor - 1) > 0.01 else "")
    )


def symmetric(trial: Trial) -> Law:
    """With M[a, b] = <g_a, J' g_b> for the cotangents g: M = M' and its diagonal is not negative."""
    vjp, u = trial.candidate.answer.vjp, trial.instances.u
    g = trial.instances.cotangents.masked_fill(torch.isinf(u), 0.0).reshape(vjp.shape)
    M = torch.einsum("ain,bin->iab", g, vjp)
    asymmetry = (M - M.transpose(1, 2)).abs().amax(dim=(1, 2))
    negative = (-M.diagonal(dim1=1, dim2=2)).amax(dim=1).clamp(min=0)
    return _law(
        "symmetric",
        "dz/du is symmetric, positive semidefinite",
        trial.instances,
        errors=torch.maximum(asymmetry, negative) / M.abs().amax(dim=(1, 2)).clamp(min=1.0),
        allowed=trial.yardstick.of_vjp(trial.instances),
        got=vjp[0],
        rows=trial.differentiated(),
        kinks=len(trial.kinks),
    )


def cold(trial: Trial) -> Law:
    """Follows from the optimality of z against v, for any w."""
    P = trial.P
    w = trial.instances.cotangents[:2, 0]
    w = (w / largest(w.reshape(1, -1))).repeat_interleave(len(COLD), 0)
    T = torch.tensor(COLD * 2, dtype=torch.float64)
    u = (w / T.reshape(-1, *[1] * len(P.shape))).to(trial.dtype).double()
    instances = Instances(w, T, u, ("normal",) * len(w), torch.zeros(3, *w.shape, dtype=torch.float64))
    answer = trial.candidate.solver.ask(u, dtype=trial.dtype)
    flat, v = w.reshape(len(w), -1), argmax(P, w, engine="lp" if P.declared else "auto").reshape(len(w), -1)
    rounding = trial.yardstick.of_z(instances) * flat.abs().sum(dim=1)
    return _law(
        "cold",
        "as T -> 0 no utility is lost: <w, v - z> <= T (f(v) - f(z))",
        instances,
        errors=(flat * (v - answer.z)).sum(dim=1).clamp(min=0),
        allowed=T * trial.regularizer.rise(P, answer.z, v) + rounding,
        got=answer.z,
        expected=v,
        because=answer.why,
    )


def single_precision(trial: Trial) -> Law:
    """The same rounded u, in float32 and in float64."""
    instances, ask = trial.instances.rounded_to(torch.float32), trial.candidate.solver.ask
    single = ask(instances.u, instances.cotangents, torch.float32)
    double = ask(instances.u, instances.cotangents, torch.float64)
    rounding = torch.finfo(torch.float32).eps * instances.reach / trial.yardstick.convexity
    smooth = [i for i in trial.differentiated() if not double.why_no_vjp[i]]
    differences = _differences(
        single,
        double,
        allowed=SINGLE * trial.yardstick.size + 8 * rounding,
        allowed_vjp=SINGLE_VJP * trial.yardstick.size**2 + 16 * rounding,
        smooth=smooth,
    )
    rows = [i for i, why in enumerate(double.why) if not why]
    says = "only the last digits are lost in float32"
    return _same("float32", says, instances, differences, rows, len(set(rows) & set(trial.kinks)))


def batch(trial: Trial) -> Law:
    """Instances of the batch: alone without a batch dimension, and together with two of them."""
    answered, dtype = trial.answered(), trial.dtype
    rows = answered[:: max(1, len(answered) // ALONE)][:ALONE]
    some, solver = trial.instances.take(rows), trial.candidate.solver
    alone = [ask_shaped(solver, (), trial.instances.take([i]), dtype) for i in rows]
    several = [Answer.together(alone), ask_shaped(solver, (1, -1), some, dtype)] if rows else []
    differentiated = set(trial.differentiated())
    differences = [
        difference
        for other in several
        for difference in _differences(
            other,
            trial.candidate.answer.take(rows),
            allowed=trial.yardstick.of_z(some),
            allowed_vjp=trial.yardstick.of_vjp(some),
            smooth=[k for k, i in enumerate(rows) if i in differentiated],
        )
    ]
    says = "alone, or in a batch of shape (1, B), the same answer"
    return _same("batch", says, some, differences, list(range(len(rows))), len(set(rows) & set(trial.kinks)))


@dataclass(frozen=True)
class Difference:
    """How far one answer is from another in z, or in the vjp, at each of N instances: errors and what is allowed."""

    got: torch.Tensor
    expected: torch.Tensor
    errors: torch.Tensor
    allowed: torch.Tensor
    because: list[str]


def _differences(
    other: Answer, answer: Answer, *, allowed: torch.Tensor, allowed_vjp: torch.Tensor, smooth: list[int]
) -> list[Difference]:
    """In z; and in the vjp, relative to its size, where it has one without kinks (``smooth``)."""
    words = [why or "the z differ" for why in other.why]
    in_z = Difference(other.z, answer.z, largest(other.z - answer.z), allowed, words)
    vjp, expected = other.vjp[0], answer.vjp[0]
    errors = torch.zeros(len(vjp), dtype=torch.float64)
    errors[smooth] = (largest(vjp - expected) / largest(expected).clamp(min=1.0))[smooth]
    words = [why or "the gradients differ" for why in other.why_no_vjp]
    return [in_z, Difference(vjp, expected, errors, allowed_vjp, words)]


def _same(
    name: str, says: str, instances: Instances, differences: list[Difference], rows: list[int], kinks: int
) -> Law:
    """The law that there is no difference, of each instance the worst of its differences."""
    if not rows:
        return Law(name, says, None, detail="no answer to compare with")
    strains = torch.stack([difference.errors / difference.allowed for difference in differences])
    worst = [differences[k] for k in torch.nan_to_num(strains, nan=torch.inf).argmax(dim=0)]
    return _law(
        name,
        says,
        instances,
        errors=torch.stack([difference.errors[i] for i, difference in enumerate(worst)]),
        allowed=torch.stack([difference.allowed[i] for i, difference in enumerate(worst)]),
        got=torch.stack([difference.got[i] for i, difference in enumerate(worst)]),
        expected=torch.stack([difference.expected[i] for i, difference in enumerate(worst)]),
        rows=rows,
        because=[difference.because[i] for i, difference in enumerate(worst)],
        kinks=kinks,
    )


def _law(
    name: str,
    says: str,
    instances: Instances,
    *,
    errors: torch.Tensor,
    allowed: torch.Tensor,
    got: torch.Tensor,
    expected: torch.Tensor | None = None,
    rows: list[int] | None = None,
    wrong: list[int] | None = None,
    because: Sequence[str] | None = None,
    kinks: int = 0,
    limited: int = 0,
) -> Law:
    """The law with its worst instance: of those in the wrong, if any, else of those that were judged (``rows``).

    ``wrong``: which instances fail; by default those with an error that is above what is allowed, or NaN.
    """
    rows = list(range(len(instances))) if rows is None else rows
    if not rows:
        nothing = "no instance could be judged"
        return Law(name, says, None, instances=len(instances), kinks=kinks, limited=limited, detail=nothing)
    strain = torch.nan_to_num(errors.double() / allowed.double().clamp(min=1e-300), nan=torch.inf)
    wrong = [i for i in rows if strain[i] > 1] if wrong is None else wrong
    i = max(wrong or rows, key=lambda i: strain[i].item())
    detail = ""
    if wrong:
        where = f"{len(wrong)} of {len(rows)} ({_kinds(instances, wrong)}); the worst at T = {instances.T[i].item():g}"
        detail = "; ".join(part for part in (where, because[i] if because is not None else "") if part)
    return Law(
        name,
        says,
        passed=not wrong,
        error=math.inf if wrong and torch.isnan(errors[i]) else reproducible(errors[i].item()),
        tolerance=allowed[i].item(),
        judged=len(rows),
        instances=len(instances),
        kinks=kinks,
        limited=limited,
        detail=detail,
        worst=_worst(instances, i, got, expected),
    )


def _worst(instances: Instances, i: int, got: torch.Tensor, expected: torch.Tensor | None) -> Worst:
    shape = instances.w.shape[1:]
    unknown = torch.full(shape, torch.nan, dtype=torch.float64)
    return Worst(
        w=instances.w[i],
        temperature=instances.T[i].item(),
        u=instances.u[i],
        cotangent=instances.cotangents[0, i],
        kind=instances.kinds[i],
        z=got[i].reshape(shape),
        expected=unknown if expected is None else expected[i].reshape(shape),
    )


def _kinds(instances: Instances, rows: list[int]) -> str:
    """Which kinds of instances, and at which temperatures: ``normal, ties at T = 0.1, 0.05``."""
    kinds = dict.fromkeys(instances.kinds[i] for i in rows)
    temperatures = dict.fromkeys(f"{instances.T[i].item():g}" for i in rows)
    return f"{', '.join(kinds)} at T = {', '.join(temperatures)}"

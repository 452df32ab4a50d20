"""One candidate before its judges: what they say is asked here, once; the laws (``laws.py``) compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer
from cvxsst.validation.derivative import Differences, differences, judge_vjps, vjp_error
from cvxsst.validation.evidence import ValueVerdict, Witness, Yardstick, judge_values, value_status
from cvxsst.validation.findings import KINK, LIMITED, SILENT, UNASKED, WRONG, Point, number, reproducible
from cvxsst.validation.instances import Instances
from cvxsst.validation.solvers import Answer, Solver

ASKED_OF_THE_SLOW = 8  # instances of a sample
ASKED_WITHOUT_QUICK = 24  # of a sample, where no quick reference is there
DISPUTED, ROUNDS = 2, 4  # and of those in dispute the worst few, until these have been asked about


@dataclass
class Trial:
    """The candidate, the references, their answers to the same instances, and the verdicts."""

    P: Polytope
    regularizer: Regularizer
    instances: Instances
    dtype: torch.dtype
    yardstick: Yardstick
    candidate: Witness
    references: list[Witness]
    values: ValueVerdict
    differenced: Differences
    vjp_status: list[str]
    vjp_error: torch.Tensor

    @property
    def with_gradients(self) -> bool:
        """Whether gradients are judged."""
        return self.candidate.solver.has_gradient

    @property
    def kinks(self) -> list[int]:
        return [i for i, status in enumerate(self.vjp_status) if status == KINK]

    def answered(self) -> list[int]:
        """The instances to which the candidate gave a z."""
        return [i for i, why in enumerate(self.candidate.answer.why) if not why]

    def differentiated(self) -> list[int]:
        """The instances with a gradient, and not at a kink."""
        return [i for i, status in enumerate(self.vjp_status) if status not in (KINK, SILENT, UNASKED)]

    def points(self) -> list[Point]:
        T, kinds = self.instances.T.tolist(), self.instances.kinds
        errors = zip(map(reproducible, self.values.error.tolist()), self.values.status, strict=True)
        vjps = zip(map(reproducible, self.vjp_error.tolist()), self.vjp_status, strict=True)
        return [Point(t, kind, *z, *vjp) for t, kind, z, vjp in zip(T, kinds, errors, vjps, strict=True)]


def hold(
    solver: Solver,
    references: list[Solver],
    regularizer: Regularizer,
    instances: Instances,
    yardstick: Yardstick,
    dtype: torch.dtype,
    step: Callable[[str], None],
) -> Trial:
    """Ask the candidate and the quick references everything, the slow ones a sample and whatever is in dispute.

    For a candidate ``without_gradient`` nobody is asked for one.
    """
    if not solver.has_gradient:
        references = [reference.without_gradient() for reference in references]
    k, N = len(instances.cotangents), len(instances)
    step(f"{solver.name}: values and gradients")
    candidate = Witness.silent(solver, k, N, dtype)
    for kind in dict.fromkeys(instances.kinds):  # a candidate without masks should not fail on the others
        rows = [i for i in range(N) if instances.kinds[i] == kind]
        candidate.testify(instances, rows, regularizer, yardstick)
    witnesses = [Witness.silent(reference, k, N) for reference in references]
    most = ASKED_WITHOUT_QUICK if all(r.slow for r in references) else ASKED_OF_THE_SLOW
    sample = sorted({int(i) for i in torch.linspace(0, N - 1, most)})
    for witness in witnesses:
        step(f"{witness.name}: values and gradients")
        rows = sample if witness.solver.slow else list(range(N))
        witness.testify(instances, rows, regularizer, yardstick)
    step("central differences")
    asked = set(sample)
    for turn in range(ROUNDS):
        values, differenced, status = _verdicts(candidate, witnesses, instances, regularizer, yardstick)
        disputed = _disputed(candidate, values, differenced, status, instances, yardstick)
        unasked = [i for i in disputed if i not in asked]
        if not unasked or turn == ROUNDS - 1 or not any(witness.solver.slow for witness in witnesses):
            break
        asked |= set(unasked)
        for witness in witnesses:
            if witness.solver.slow:
                step(f"{witness.name}: the instances in dispute")
                witness.testify(instances, unasked, regularizer, yardstick)
    return Trial(
        P=solver.P,
        regularizer=regularizer,
        instances=instances,
        dtype=dtype,
        yardstick=yardstick,
        candidate=candidate,
        references=witnesses,
        values=values,
        differenced=differenced,
        vjp_status=status,
        vjp_error=vjp_error(candidate, differenced),
    )


def _verdicts(
    candidate: Witness,
    references: list[Witness],
    instances: Instances,
    regularizer: Regularizer,
    yardstick: Yardstick,
) -> tuple[ValueVerdict, Differences, list[str]]:
    values = judge_values(candidate, references, yardstick.of_z(instances))
    if not candidate.solver.has_gradient:
        differenced = Differences.none(len(instances), candidate.solver.P.size)
    else:
        differenced = differences([*references, candidate], values, instances, regularizer, yardstick)
    return values, differenced, judge_vjps(candidate, references, differenced, instances, yardstick)


def _disputed(
    candidate: Witness,
    values: ValueVerdict,
    differenced: Differences,
    status: list[str],
    instances: Instances,
    yardstick: Yardstick,
) -> list[int]:
    """The worst few in z and the worst few in the gradient among those not found right."""
    strain = values.error / yardstick.of_z(instances)
    strain_vjp = vjp_error(candidate, differenced) / yardstick.of_vjp(instances)
    found = []
    for strains, verdicts in ((strain, values.status), (strain_vjp, status)):
        wrong = [i for i, verdict in enumerate(verdicts) if verdict == WRONG]
        limited = [i for i, verdict in enumerate(verdicts) if verdict == LIMITED]
        for doubtful in (wrong, limited):
            found += sorted(doubtful, key=lambda i: -torch.nan_to_num(strains[i]).item())[:DISPUTED]
    return list(dict.fromkeys(found))


def blamed(trial: Trial) -> dict[str, str]:
    """References proved wrong at some instance: name and proof."""
    found = {}
    for x in trial.references:
        others = [trial.candidate, *(r for r in trial.references if r is not x)]
        proof = _wrong_value(x, trial) or _wrong_vjp(x, others, trial)
        if proof:
            found[x.name] = f"the reference {x.name} is wrong: {proof}"
    return found


def _wrong_value(x: Witness, trial: Trial) -> str:
    tolerance = trial.yardstick.of_z(trial.instances).tolist()
    wrong = []
    for i, arbiter in enumerate(trial.values.arbiter):
        if value_status(x, arbiter, i, tolerance[i]) == WRONG:
            assert arbiter is not None
            wrong.append(((x.answer.z[i] - arbiter.answer.z[i]).abs().max().item(), i, arbiter))
    if not wrong:
        return ""
    d, i, arbiter = max(wrong, key=lambda found: found[0])
    return (
        f"its z is {number(d)} away from that of {arbiter.name}, which is certified to within "
        f"{number(arbiter.within(i, tolerance[i]))}, at T = {trial.instances.T[i].item():g} ({len(wrong)} such "
        "instances)"
    )


def _wrong_vjp(x: Witness, others: list[Witness], trial: Trial) -> str:
    if not x.solver.has_gradient:
        return ""
    status = judge_vjps(x, others, trial.differenced, trial.instances, trial.yardstick)
    errors = vjp_error(x, trial.differenced)
    wrong = [i for i, verdict in enumerate(status) if verdict == WRONG]
    if not wrong:
        return ""
    i = max(wrong, key=lambda i: errors[i].item())
    return (
        f"its gradient is {number(errors[i].item())} away from the central difference of "
        f"{trial.differenced.source[i]}, at T = {trial.instances.T[i].item():g} ({len(wrong)} such instances)"
    )


def ask_shaped(solver: Solver, shape: tuple[int, ...], instances: Instances, dtype: torch.dtype) -> Answer:
    """Ask with the batch in another shape: ``()``, or with its last dimension left open ``(1, -1)``."""
    P = solver.P

    def reshaped(u: torch.Tensor) -> torch.Tensor:
        return solver.function(u.reshape(*shape, *P.shape)).reshape(u.shape)

    return replace(solver, function=reshaped).ask(instances.u, instances.cotangents, dtype)

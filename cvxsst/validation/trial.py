"""One candidate before its judges: what they say is asked here, once; the laws (``laws.py``) compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from cvxsst.validation.derivative import Differences, differences, judge_vjps, vjp_error
from cvxsst.validation.evidence import Case, ValueVerdict, Witness, distance, judge_values, value_status
from cvxsst.validation.findings import KINK, LIMITED, SILENT, UNASKED, WRONG, Point, number, reproducible
from cvxsst.validation.instances import Instances
from cvxsst.validation.solvers import Answer, Solver

ASKED_OF_THE_SLOW = 8  # instances of a sample
ASKED_WITHOUT_QUICK = 24  # of a sample, where no quick reference is there
DISPUTED, ROUNDS = 2, 4  # and of those in dispute the worst few, until these have been asked about


@dataclass
class Trial(Case):
    """The candidate, the references, their answers to the same instances, and the verdicts."""

    dtype: torch.dtype
    candidate: Witness
    references: list[Witness]
    values: ValueVerdict = field(init=False)
    differenced: Differences = field(init=False)
    vjp_status: list[str] = field(init=False)
    vjp_error: torch.Tensor = field(init=False)

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

    def hold(self, step: Callable[[str], None]) -> None:
        """Ask the candidate and the quick references everything, the slow ones a sample and whatever is in dispute."""
        everything, kinds = range(len(self.instances)), self.instances.kinds
        step(f"{self.candidate.name}: values and gradients")
        for kind in dict.fromkeys(kinds):  # a candidate without masks should not fail on the others
            self.candidate.testify(self, [i for i in everything if kinds[i] == kind])
        slow = [witness for witness in self.references if witness.solver.slow]
        most = ASKED_WITHOUT_QUICK if len(slow) == len(self.references) else ASKED_OF_THE_SLOW
        sample = sorted({int(i) for i in torch.linspace(0, len(everything) - 1, most)})
        for witness in self.references:
            step(f"{witness.name}: values and gradients")
            witness.testify(self, sample if witness.solver.slow else list(everything))
        step("central differences")
        self._judge()
        asked = set(sample)
        for _ in range(ROUNDS - 1):
            unasked = [i for i in self._disputed() if i not in asked]
            if not slow or not unasked:
                break
            asked |= set(unasked)
            for witness in slow:
                step(f"{witness.name}: the instances in dispute")
                witness.testify(self, unasked)
            self._judge()

    def _judge(self) -> None:
        self.values = judge_values(self.candidate, self.references, self.tolerance)
        sources = [*self.references, self.candidate] if self.with_gradients else []
        self.differenced = differences(sources, self.values, self)
        self.vjp_status = judge_vjps(self.candidate, self.references, self.differenced, self)
        self.vjp_error = vjp_error(self.candidate, self.differenced)

    def _disputed(self) -> list[int]:
        """The worst few in z and the worst few in the gradient among those not found right."""
        strain = self.values.error / self.tolerance
        strain_vjp = self.vjp_error / self.yardstick.of_vjp(self.instances)
        found = []
        for strains, verdicts in ((strain, self.values.status), (strain_vjp, self.vjp_status)):
            for doubt in (WRONG, LIMITED):
                doubtful = [i for i, verdict in enumerate(verdicts) if verdict == doubt]
                found += sorted(doubtful, key=lambda i: -torch.nan_to_num(strains[i]).item())[:DISPUTED]
        return list(dict.fromkeys(found))

    def blamed(self) -> dict[str, str]:
        """References proved wrong at some instance: name and proof."""
        proofs = {x.name: self._wrong_value(x) or self._wrong_vjp(x) for x in self.references}
        return {name: f"the reference {name} is wrong: {proof}" for name, proof in proofs.items() if proof}

    def _wrong_value(self, x: Witness) -> str:
        wrong = [
            (distance(x, arbiter, i), arbiter.name, arbiter.within(i, tol), i)
            for i, (arbiter, tol) in enumerate(zip(self.values.arbiter, self.tolerance.tolist(), strict=True))
            if arbiter is not None and value_status(x, arbiter, i, tol) == WRONG
        ]
        if not wrong:
            return ""
        d, whose, within, i = max(wrong)
        certified = f"that of {whose}, which is certified to within {number(within)}"
        return f"its z is {number(d)} away from {certified}, {self._where(i, len(wrong))}"

    def _wrong_vjp(self, x: Witness) -> str:
        others = [self.candidate, *(r for r in self.references if r is not x)]
        status, errors = judge_vjps(x, others, self.differenced, self), vjp_error(x, self.differenced).tolist()
        wrong = [i for i, verdict in enumerate(status) if verdict == WRONG]
        if not wrong:
            return ""
        i = max(wrong, key=lambda i: errors[i])
        whose = f"the central difference of {self.differenced.source[i]}"
        return f"its gradient is {number(errors[i])} away from {whose}, {self._where(i, len(wrong))}"

    def _where(self, i: int, count: int) -> str:
        return f"at T = {self.instances.T[i].item():g} ({count} such instances)"


def ask_shaped(solver: Solver, shape: tuple[int, ...], instances: Instances, dtype: torch.dtype) -> Answer:
    """Ask with the batch in another shape: ``()``, or with its last dimension left open ``(1, -1)``."""
    P = solver.P

    def reshaped(u: torch.Tensor) -> torch.Tensor:
        return solver.function(u.reshape(*shape, *P.shape)).reshape(u.shape)

    return replace(solver, function=reshaped).ask(instances.u, instances.cotangents, dtype)

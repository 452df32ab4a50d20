"""``validate`` and ``compare``: the arguments, the questions, the laws, the report."""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console
from rich.progress import Progress

from cvxsst.arguments import checked_polytope
from cvxsst.engines import chosen_engine
from cvxsst.errors import ArgumentTypeError
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer, checked_regularizer
from cvxsst.validation import laws
from cvxsst.validation.evidence import Witness, Yardstick
from cvxsst.validation.findings import Law, Timing
from cvxsst.validation.instances import draw
from cvxsst.validation.references import references
from cvxsst.validation.report import Comparison, Report
from cvxsst.validation.solvers import Function, Solver, of_engine
from cvxsst.validation.trial import Trial

Candidate = str | Function

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}
BATCHES = (1, 8, 64)
PATIENCE = 0.5  # seconds: a solver that takes longer for a batch is not asked for a larger one
STEPS = 18  # about as many as a progress bar sees


def validate(
    candidate: Candidate,
    P: Polytope,
    regularizer: Regularizer,
    *,
    n: int = 24,
    temperatures: Sequence[float] = (1.0, 0.1, 0.05),
    scales: Sequence[float] = (0.1, 1.0, 10.0),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    tolerance: float | None = None,
    masks: bool = True,
    gradients: bool = True,
    float32: bool = True,
    shapes: bool = True,
    name: str | None = None,
    progress: bool = True,
) -> Report:
    """Is this solver right, its gradient too, and if it disagrees with a reference, who is wrong?

    The candidate claims to compute

        z(u) = argmax over z in P of <u, z> - f(z),      u = w / T

    and is held against two or more solvers that share no code with it (for a separable f the engine ``kkt`` and
    CvxpyLayer, for the exponential family enumeration and exact moments), against central differences, and against
    the certificate, which knows no reference. Where solvers disagree, certificates prove which of them is wrong; a
    reference that is proved wrong is named in ``report.blamed``, and does not count against the candidate.

    Args:
        candidate: a function from u ``(*batch, *P.shape)``, with any batch dimensions or none, to z of the same
            shape and dtype, differentiable by autograd; -inf in u forbids an entry. Or the name of an engine
            (``"fast"``, ``"kkt"``, ``"auto"``, ``which_engine(P, regularizer)`` ...).
        P, regularizer: the problem that it claims to solve.
        n: utilities at each temperature: normal ones, one in four with ties, one in six with a mask of -inf.
        temperatures: T > 0; each is used with the same n utilities.
        scales: of the normal utilities, in turn.
        dtype: in which the candidate is asked, ``torch.float64`` or ``torch.float32``.
        seed: of everything random. The same arguments ask the same questions.
        tolerance: on z, where entries of P are of size 1 (else relative to the largest); ten times as much is allowed
            in the vjp, relative to its size if that is above 1. Default 1e-6, in float32 2e-5.
        masks: False for a candidate that knows no -inf.
        gradients: False for a candidate that has none: the laws ``gradient`` and ``symmetric`` are left out, and
            nobody is asked for a gradient.
        float32: False for a candidate that knows float64 only: the law ``float32`` is left out.
        shapes: False for a candidate that takes one batch dimension only: the law ``batch`` is left out.
        name: of the candidate, in the report.
        progress: show a progress bar, where there is a terminal.

    Returns:
        A ``Report``: ``print`` it; ``.passed``, ``["gradient"]``, ``.worst("gradient").w``, ``.plot()``,
        ``.save("report.html")``, ``.to_json()``. Whatever a candidate does (raise, NaN, a wrong shape, no gradient)
        is a failed law, and never an exception.

    Raises:
        ValueError: an argument that cannot work; a regularizer that is not defined on P.
        NoFastPathError: an engine that cannot solve this problem; an exponential family that cannot be enumerated.

    Times are those of a forward and a backward pass; of a candidate without a gradient, forward only.

    Cost: about a millisecond per instance and reference, and 50 ms for each of the few that CvxpyLayer is asked.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> softmax = lambda u: torch.softmax(u, dim=-1)
        >>> cvxsst.validate(softmax, simplex(4), cvxsst.CategoricalEntropy()).passed
        True
        >>> cvxsst.validate(softmax, simplex(4), cvxsst.Euclidean()).failed
        ['optimal', 'value', 'gradient', 'cold']
    """
    solver = _checked(candidate, P, regularizer, name)
    _check_numbers(n, temperatures, scales, dtype, tolerance)
    regularizer.require_domain(P)
    regularizer.require_certificate(P)
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    with _steps(f"Validating {solver.name}", progress) as step:
        instances = draw(P, n, temperatures, scales, seed, masks).rounded_to(dtype)
        yardstick = Yardstick.of(P, regularizer, tolerance, dtype)
        judges = references(P, regularizer, solver.engine)
        if not gradients:
            solver, *judges = (replace(asked, has_gradient=False) for asked in (solver, *judges))
        size = len(instances.cotangents), len(instances)
        witnesses = [Witness.silent(judge, *size) for judge in judges]
        trial = Trial(P, regularizer, instances, yardstick, dtype, Witness.silent(solver, *size, dtype), witnesses)
        trial.hold(step)
        found = _laws(trial, float32, shapes, step)
        step("time")
        times = _times(trial)
    return Report(
        candidate=solver.name,
        polytope=P.name,
        regularizer=regularizer.name,
        references=[judge.name for judge in judges],
        dtype=str(dtype).removeprefix("torch."),
        n=n,
        temperatures=[float(T) for T in temperatures],
        seed=seed,
        tolerance=tolerance,
        laws=found,
        blamed=trial.blamed(),
        points=trial.points(),
        times=times,
    )


def compare(
    a: Candidate,
    b: Candidate,
    P: Polytope,
    regularizer: Regularizer,
    *,
    names: tuple[str, str] | None = None,
    progress: bool = True,
    **options,
) -> Comparison:
    """Two solvers disagree, in z or in the gradient: who is right?

    Each is validated on the same instances against the same references; where they differ, certificates and central
    differences decide, temperature by temperature.

    Args:
        a, b: functions u -> z or engines' names, as in ``validate``.
        P, regularizer: the problem that both claim to solve.
        names: what to call them; by default the functions' names.
        options: as of ``validate``: ``n``, ``temperatures``, ``scales``, ``dtype``, ``seed``, ``tolerance`` ...

    Returns:
        A ``Comparison``: ``print`` it; ``.verdicts`` by temperature, ``.a`` and ``.b`` the two reports, ``.plot()``,
        ``.save("page.html")``, ``.to_json()``.

    Raises:
        ValueError: as ``validate``.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> softmax = lambda u: torch.softmax(u, dim=-1)
        >>> compared = cvxsst.compare(softmax, "kkt", simplex(3), cvxsst.CategoricalEntropy(), names=("mine", "kkt"))
        >>> compared.verdicts
        {1.0: 'both right', 0.1: 'both right', 0.05: 'both right'}
    """
    first, second = names or (None, None)
    reports = [
        validate(candidate, P, regularizer, name=name, progress=progress, **options)
        for candidate, name in ((a, first), (b, second))
    ]
    return Comparison(*reports)


def _checked(candidate: Candidate, P: Polytope, regularizer: Regularizer, name: str | None) -> Solver:
    checked_polytope(P, single=True)
    checked_regularizer(regularizer)
    if isinstance(candidate, str):
        engine = of_engine(chosen_engine(P, regularizer, candidate).name, P, regularizer)
        return engine if name is None else replace(engine, name=name)
    if not callable(candidate):
        raise ArgumentTypeError(
            f"candidate: expected a function u -> z or the name of an engine, got {type(candidate).__name__}"
        )
    called = name or str(getattr(candidate, "__name__", type(candidate).__name__))
    return Solver(called, candidate, P)


def _check_numbers(
    n: int, temperatures: Sequence[float], scales: Sequence[float], dtype: torch.dtype, tolerance: float | None
) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n: a whole number of at least 1, got {n!r}")
    for argument, numbers in (("temperatures", temperatures), ("scales", scales)):
        if not isinstance(numbers, list | tuple) or not numbers or not all(0 < x < math.inf for x in numbers):
            raise ValueError(f"{argument}: a list of positive numbers, got {numbers!r}")
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype: torch.float64 or torch.float32, got {dtype}")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance: between 0 and 1, got {tolerance}")


def _laws(trial: Trial, float32: bool, shapes: bool, step: Callable[[str], None]) -> list[Law]:
    """Those that were asked for, in order."""
    asked = [laws.answers, laws.feasible, laws.optimal, laws.value]
    asked += [laws.gradient, laws.symmetric] * trial.with_gradients
    asked += [laws.cold, *[laws.single_precision] * float32, *[laws.batch] * shapes]
    found = []
    for law in asked:
        step(law.__name__.replace("_", " "))
        found.append(law(trial))
    return found


def _times(trial: Trial) -> list[Timing]:
    """The candidate and the quickest reference on the first utilities at T = 1: forward and backward, but forward only
    where the candidate has no gradient."""
    quick = [r.solver for r in trial.references if not r.solver.slow][:1]
    answer = trial.candidate.answer
    backward = trial.with_gradients and not all(answer.why_no_vjp)
    found = []
    for solver in (trial.candidate.solver, *quick):
        for size in BATCHES:
            u = trial.instances.w[:1].expand(size, *trial.P.shape)
            g = trial.instances.cotangents[:1, :1].expand(1, size, *trial.P.shape) if backward else None
            seconds = min(timeit.repeat(partial(solver.ask, u, g, trial.dtype), number=1, repeat=3))
            found.append(Timing(solver.name, size, seconds, backward))
            if seconds > PATIENCE:
                break
    return found


@contextmanager
def _steps(title: str, wanted: bool) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr, gone at the end; silent where nobody watches."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not wanted or not console.is_terminal) as bar:
        task = bar.add_task(title, total=STEPS)

        def step(doing: str) -> None:
            bar.update(task, advance=1, description=f"{title}: {doing}")

        yield step

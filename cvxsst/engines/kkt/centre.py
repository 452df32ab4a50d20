"""Where the interior point method starts: the analytic centre, columns in units of their own, rows of slack 1 there.

    minimize  - sum_i log s_i   over   A x = b,   s = h - G x

With rows of G scaled to s = 1 at the centre every facet is equally far: thin and badly scaled sets look like round
ones, and with multipliers lam = mu for all rows the start is on the central path of a constant objective.

Damped Newton: the barrier is self-concordant, so that steps of 1 / (1 + decrement) lead there from any interior point
(Nesterov and Nemirovskii 1994, section 2.2). Once for each polytope, in the elimination that all solves share.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from cvxsst.engines.kkt.elimination import STEEP, Pattern
from cvxsst.geometry.canonical import StandardForm, divided, largest
from cvxsst.geometry.presolve import Presolved

STEPS = 200
CENTRED = 1e-2  # Newton decrement: the start need not be the centre to more digits
TINY = 1e-10  # proximal term, relative to the barrier's own curvature along the column
LEAST_SLACK = 1e-13  # of what is called interior: less is rounding
FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.05)


def centred(core: Presolved) -> tuple[StandardForm, np.ndarray, np.ndarray, Pattern]:
    """The form in columns of size 1 with rows of slack 1 at the centre, the centre, the sizes, and the pattern."""
    form = core.form
    unit = _units(core, core.interior)
    first, x = equilibrated(_in_units(form, unit)), core.interior / unit
    length = sp.linalg.norm(first.G, axis=1) if first.G.shape[0] else np.zeros(0)
    pattern = Pattern(first.A, first.G, steep=length**2 > STEEP * _slack(first, x) ** 2)
    centre = unit * analytic_centre(first, x, pattern)
    unit = _units(core, centre)
    form = equilibrated(_in_units(form, unit))
    centre = centre / unit
    form = StandardForm(form.A, form.b, *divided(form.G, form.h, _slack(form, centre)), form.n)
    pattern.fill(form.A, form.G)
    return form, centre, unit, pattern


def _in_units(form: StandardForm, unit: np.ndarray) -> StandardForm:
    columns = sp.diags_array(unit)
    return StandardForm(sp.csr_array(form.A @ columns), form.b, sp.csr_array(form.G @ columns), form.h, form.n)


def equilibrated(form: StandardForm) -> StandardForm:
    """The same set with a largest entry of 1 in every row."""
    A, b = divided(form.A, form.b, largest(form.A))
    return StandardForm(A, b, *divided(form.G, form.h, largest(form.G)), form.n)


def _units(core: Presolved, x: np.ndarray) -> np.ndarray:
    """How large each column is: of z over P; of y at x, interior, or as far as the column can move there alone."""
    form = core.form
    slack = _slack(form, x)
    steepest = sp.linalg.norm(sp.diags_array(1 / slack) @ form.G, axis=0) if len(slack) else np.zeros(form.columns)
    alone = np.divide(1.0, steepest, out=np.zeros_like(steepest), where=steepest > 0)
    size = np.maximum(np.abs(x), alone)
    size[: form.n] = np.abs(core.bounds).max(axis=0)
    return np.where(size > 0, size, 1.0)


def _slack(form: StandardForm, x: np.ndarray) -> np.ndarray:
    return np.maximum(form.h - form.G @ x, LEAST_SLACK)


def analytic_centre(form: StandardForm, start: np.ndarray, pattern: Pattern) -> np.ndarray:
    """x, interior and nearly central, from an interior point ``start``; ``pattern``: that of the form."""
    x = start
    for _ in range(STEPS if form.G.shape[0] else 0):
        slack = _slack(form, x)
        dx = _newton_step(form, pattern, x, slack)
        change = (form.G @ dx) / slack  # its length is the decrement
        decrement = float(np.linalg.norm(change))
        if not decrement > CENTRED:  # NaN: the last x will do
            break
        x = x + _length(change, decrement) * dx
    return x


def _length(change: np.ndarray, decrement: float) -> float:
    """How far to go: as far as the barrier falls, its derivative there being sum change / (1 - t change)."""
    longest = 0.9 / max(float(change.max()), 1e-300)
    falls = (t for t in FRACTIONS if t <= longest and float(np.sum(change / (1 - t * change))) <= 0)
    return max(1 / (1 + decrement), next(falls, 0.0))


def _newton_step(form: StandardForm, pattern: Pattern, x: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """The step to the minimum of the quadratic model:  G'mu + A'nu = 0,   A dx = b - A x,   G dx - S^2 mu = -S 1."""
    A, G, w = form.A, form.G, slack**-2
    D, g = TINY * (G.multiply(G).T @ w + 1.0), form.b - A @ x
    factor = pattern.factor(*(torch.from_numpy(t)[:, None] for t in (D, w)))
    dx, nu, mu = np.zeros(len(x)), np.zeros(len(g)), np.zeros(len(w))
    for _ in range(3):
        e = -(G.T @ mu) - A.T @ nu, g - A @ dx, mu / w - slack - G @ dx
        step = factor.solve(*(torch.from_numpy(t)[:, None] for t in e))
        dx, nu, mu = (v + dv[:, 0].numpy() for v, dv in zip((dx, nu, mu), step, strict=True))
    return dx

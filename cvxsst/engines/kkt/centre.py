"""Where the interior point method starts: the analytic centre, and rows scaled by their slack there.

    minimize  - sum_i log s_i   over   A x = b,   s = h - G x

With rows of G scaled to s = 1 at the centre every facet is equally far: thin and badly scaled sets look like round
ones, and with multipliers lam = mu for all rows the start is on the central path of a constant objective.

Damped Newton: the barrier is self-concordant, so that steps of 1 / (1 + decrement) lead there from any interior point
(Nesterov and Nemirovskii 1994, section 2.2). Once for each polytope, in the elimination that all solves share.
"""

from __future__ import annotations

import numpy as np
import torch

from cvxsst.engines.kkt.elimination import Pattern
from cvxsst.geometry.canonical import StandardForm, divided, largest

STEPS = 200
CENTRED = 1e-2  # Newton decrement: the start need not be the centre to more digits
TINY = 1e-10  # proximal term, relative to the barrier's own curvature along the column
LEAST_SLACK = 1e-13  # of what is called interior: less is rounding
FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.05)


def scaled(form: StandardForm, slack: np.ndarray) -> StandardForm:
    """The same set with the rows of G divided by these numbers."""
    return StandardForm(form.A, form.b, *divided(form.G, form.h, slack), form.n)


def equilibrated(form: StandardForm) -> StandardForm:
    """The same set with a largest entry of 1 in every row."""
    A, b = divided(form.A, form.b, largest(form.A))
    return StandardForm(A, b, *divided(form.G, form.h, largest(form.G)), form.n)


def analytic_centre(form: StandardForm, start: np.ndarray, pattern: Pattern) -> np.ndarray:
    """x, interior and nearly central, from an interior point ``start``; ``pattern``: that of the form."""
    x = start
    for _ in range(STEPS if form.G.shape[0] else 0):
        slack = np.maximum(form.h - form.G @ x, LEAST_SLACK)
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
    """The step to the minimum of the quadratic model:  G'S^-2 G dx + A'nu = -G'S^-1 1,   A dx = b - A x."""
    A, G, w = form.A, form.G, slack**-2
    D = TINY * (G.multiply(G).T @ w + 1.0)
    f, g = -G.T @ (1 / slack), form.b - A @ x
    factor = pattern.factor(*(torch.from_numpy(t)[:, None] for t in (D, w)))
    dx, nu = np.zeros(len(f)), np.zeros(len(g))
    for _ in range(3):
        e = f - G.T @ (w * (G @ dx)) - A.T @ nu, g - A @ dx
        step = factor.solve(*(torch.from_numpy(t)[:, None] for t in e))
        dx, nu = (v + dv[:, 0].numpy() for v, dv in zip((dx, nu), step, strict=True))
    return dx

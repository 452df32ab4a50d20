"""Is a solver right, and if two disagree, which of them is wrong?

- ``findings``: what was found, as data;
- ``instances``: the questions; ``solvers``: a solver of which nothing is believed; ``references``: who else is asked;
- ``evidence``: whose z is wrong, by certificates; ``derivative``: whose gradient, by differences; kinks;
- ``trial``: one candidate and all that was said; ``laws``: what must hold;
- ``text``, ``plot``, ``page``: findings printed, drawn, saved; ``report``: those that do it themselves;
- ``run``: ``validate`` and ``compare``.
"""

from cvxsst.validation.findings import Law, Worst
from cvxsst.validation.report import Comparison, Report
from cvxsst.validation.run import compare, validate

__all__ = ["Comparison", "Law", "Report", "Worst", "compare", "validate"]

"""Is a solver right, and if two disagree, which of them is wrong?

- ``run``: ``validate`` and ``compare``;
- ``instances``: the questions; ``references``: who else is asked; ``solvers``: a solver of which nothing is believed;
- ``evidence``: whose z is wrong, by certificates; ``derivative``: whose gradient, by differences; kinks;
- ``trial``: one candidate and all that was said; ``laws``: what must hold;
- ``report``, ``comparison``: what was found; ``plot``, ``page``: drawn and saved.
"""

from cvxsst.validation.comparison import Comparison
from cvxsst.validation.report import Law, Report, Worst
from cvxsst.validation.run import compare, validate

__all__ = ["Comparison", "Law", "Report", "Worst", "compare", "validate"]

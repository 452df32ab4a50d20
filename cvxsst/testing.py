"""One line in a test of your own: is my solver right, its gradient too?

from cvxsst.testing import assert_valid

def test_my_solver():
    assert_valid(my_solver, k_subset(20, 5), cvxsst.BinaryEntropy())
"""

from __future__ import annotations

from typing import Any

from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer
from cvxsst.validation import Report, validate
from cvxsst.validation.run import Candidate


def assert_valid(candidate: Candidate, P: Polytope, regularizer: Regularizer, **options: Any) -> Report:
    """Raise an AssertionError with the report, unless the candidate obeys every law; arguments as ``cvxsst.validate``.

    Returns:
        The ``Report``, for further questions.

    Raises:
        AssertionError: a law failed; the message is the printed report.
        ValueError: wrong arguments, as in ``validate``.

    Example:
        >>> import torch, cvxsst
        >>> from cvxsst.testing import assert_valid
        >>> from polytopes import cube
        >>> assert_valid(torch.sigmoid, cube(3), cvxsst.BinaryEntropy()).passed
        True
    """
    __tracebackhide__ = True  # pytest then points at the test's own line
    report = validate(candidate, P, regularizer, **options)
    if not report.passed:
        raise AssertionError(f"\n{report}")
    return report

"""Experiments with cvxsst, one folder each, on the machinery of ``runs``.

They are the repository's, no wheel holds them: ``make``, or ``pip install -e '.[experiments]'``.
"""

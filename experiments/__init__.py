"""Experiments with cvxsst, one folder each; they need ``pip install cvxsst[experiments]``."""

"""Measurements of cvxsst beside its peers; they need ``pip install cvxsst[benchmarks]``."""

"""Measurements of cvxsst beside its peers; no wheel holds them: ``pip install -e '.[benchmarks]'``."""

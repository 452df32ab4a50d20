"""The batched KKT engine."""

from cvxsst.kkt.engine import KKT

__all__ = ["KKT"]

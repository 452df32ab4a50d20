"""Another name of ``cvxsst.estimators.score_function``."""

from cvxsst.estimators.score_function import NVIL, BatchMean, LeaveOneOut, MovingAverage, Reinforce

__all__ = ["NVIL", "BatchMean", "LeaveOneOut", "MovingAverage", "Reinforce"]

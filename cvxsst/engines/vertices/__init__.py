from cvxsst.engines.vertices.engine import Vertices

__all__ = ["Vertices"]

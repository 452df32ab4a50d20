from cvxsst.engines.facets.engine import Facets

__all__ = ["Facets"]

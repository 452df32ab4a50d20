"""Write the constraints of conv(Z); get a differentiable, stochastic softmax over Z.

    argmax(P, w)    a vertex of P that maximizes <w, z>
    softmax(P, w)   argmax over z in P of <w, z> - T f(z), differentiable

``Polytope`` and ``polytope`` declare P with CVXPY constraints; ``StochasticArgmax`` and ``StochasticSoftmax`` are the
same maps of random utilities; ``certificate``, ``audit`` and ``validate`` say whether an answer, a declaration or a
solver is right. The zoo of ready polytopes is the package ``polytopes``.
"""

from cvxsst import score_function
from cvxsst.audit import Audit, audit
from cvxsst.certificate import Certificate, certificate
from cvxsst.distributions import NegativeExponential, StochasticArgmax, StochasticSoftmax
from cvxsst.engines import Info, which_engine
from cvxsst.errors import (
    ArgumentTypeError,
    ConvergenceError,
    EmptyPolytopeError,
    NoFastPathError,
    NotPolyhedralError,
    UnboundedPolytopeError,
)
from cvxsst.family import Family, polytope
from cvxsst.layer import SoftmaxLayer
from cvxsst.maps import argmax, softmax
from cvxsst.polytope import Polytope
from cvxsst.regularizers import (
    BinaryEntropy,
    CategoricalEntropy,
    Custom,
    Euclidean,
    ExponentialFamily,
    Regularizer,
    Tsallis,
)
from cvxsst.sparsemap import SparseMAP
from cvxsst.validation import Comparison, Report, compare, validate

__version__ = "0.1.0"

__all__ = [
    "ArgumentTypeError",
    "Audit",
    "BinaryEntropy",
    "CategoricalEntropy",
    "Certificate",
    "Comparison",
    "ConvergenceError",
    "Custom",
    "EmptyPolytopeError",
    "Euclidean",
    "ExponentialFamily",
    "Family",
    "Info",
    "NegativeExponential",
    "NoFastPathError",
    "NotPolyhedralError",
    "Polytope",
    "Regularizer",
    "Report",
    "SoftmaxLayer",
    "SparseMAP",
    "StochasticArgmax",
    "StochasticSoftmax",
    "Tsallis",
    "UnboundedPolytopeError",
    "argmax",
    "audit",
    "certificate",
    "compare",
    "polytope",
    "score_function",
    "softmax",
    "validate",
    "which_engine",
]

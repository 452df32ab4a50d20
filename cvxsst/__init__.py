"""Write the constraints of conv(Z); get a differentiable, stochastic softmax over Z.

    argmax(P, w)    a vertex of P that maximizes <w, z>
    softmax(P, w)   argmax over z in P of <w, z> - T f(z), differentiable
    smooth_max(P, w), fenchel_young_loss(P, w, z)    its value, and how far z is from it: losses of structures

``Polytope`` and ``polytope`` declare P with CVXPY constraints; ``StochasticArgmax`` and ``StochasticSoftmax`` are the
same maps of random utilities; ``certificate``, ``audit`` and ``validate`` say whether an answer, a declaration or a
solver is right. The zoo of ready polytopes is the package ``polytopes``.
"""

from cvxsst import estimators, score_function
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
from cvxsst.gibbs import Gibbs
from cvxsst.layer import SoftmaxLayer
from cvxsst.losses import FenchelYoungLoss, fenchel_young_loss
from cvxsst.maps import argmax, smooth_max, softmax
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
    "FenchelYoungLoss",
    "Gibbs",
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
    "estimators",
    "fenchel_young_loss",
    "polytope",
    "score_function",
    "smooth_max",
    "softmax",
    "validate",
    "which_engine",
]

"""The regularizers f of the softmax  argmax over z in P of <w, z> - T f(z).

    ====================  ==========================================  ==================  =================
    class                 f(z)                                        domain of z_i       on the simplex
    ====================  ==========================================  ==================  =================
    Euclidean             sum z_i^2 / 2                               all                 sparsemax
    CategoricalEntropy    sum z_i log z_i                             z_i >= 0            softmax
    BinaryEntropy         sum z_i log z_i + (1 - z_i) log (1 - z_i)   0 <= z_i <= 1
    Tsallis(alpha)        sum (z_i^alpha - z_i) / (alpha (alpha - 1)) z_i >= 0            alpha-entmax
    ExponentialFamily     A*, the conjugate of A(u) = log sum_Z e^<u,z>                   softmax
    Custom                any convex, differentiable CVXPY expression of z
    ====================  ==========================================  ==================  =================

Each answers for itself, on tensors: engines, certificates and validators ask its methods, never which one it is.
Sources: Paulus et al. 2020 (Gradient Estimation with Stochastic Softmax Tricks), section 4; Blondel, Martins
and Niculae 2020 (Learning with Fenchel-Young Losses).
"""

from cvxsst.regularizers.base import Regularizer, checked_regularizer
from cvxsst.regularizers.custom import Custom
from cvxsst.regularizers.entropies import BinaryEntropy, CategoricalEntropy
from cvxsst.regularizers.euclidean import Euclidean
from cvxsst.regularizers.exponential_family import ExponentialFamily
from cvxsst.regularizers.separable import Separable
from cvxsst.regularizers.tsallis import Tsallis

__all__ = [
    "BinaryEntropy",
    "CategoricalEntropy",
    "Custom",
    "Euclidean",
    "ExponentialFamily",
    "Regularizer",
    "Separable",
    "Tsallis",
    "checked_regularizer",
]

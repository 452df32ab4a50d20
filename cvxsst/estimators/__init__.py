"""Gradients for discrete argmaxes, and for expectations over them.

Each says in its docstring what it is a gradient *of*, whether it is biased, its cost in oracle calls and its paper; it
is tested against that. The first two groups need nothing of P but its argmax (``straight_through`` its softmax too).

    ====================================  ======================================================  ====================
    ``straight_through(P, w, f, T)``      vertex forward, the derivative of the softmax backward  1 call, 1 softmax
    ``identity(P, w)``                    vertex forward, the incoming gradient backward          1 call
    ``blackbox(P, w, strength)``          the interpolation of the argmax                         1 call, 1 backward
    ``implicit_mle(P, w, noise, ...)``    perturb and maximize, towards a target distribution     1 call, 1 backward
    ``perturbed_argmax(P, w, ...)``       the mean of the argmax under noise                      ``samples`` calls
    ------------------------------------  ------------------------------------------------------  --------------------
    ``perturbed_loss(P, w, z, ...)``      its Fenchel-Young loss                                  ``samples`` calls
    ``spo_plus_loss(P, w, c)``            a convex bound on the ``regret`` of decisions           2 calls
    ------------------------------------  ------------------------------------------------------  --------------------
    ``Reinforce``, ``BatchMean``,         of E[cost], by log probabilities: of the utilities      1 call a sample
    ``LeaveOneOut``, ``MovingAverage``,   w of a ``StochasticArgmax``, or of the structures z
    ``NVIL``                              of a ``Gibbs``, or of the trace of a greedy algorithm
                                          (``sample_trace(P, theta)``)
    ====================================  ======================================================  ====================

Noise: ``SumOfGamma(k)``, and any ``torch.distributions`` distribution of one number. ``AdaptiveStrength`` chooses the
strength of ``implicit_mle``.

Example:
    >>> import torch
    >>> from cvxsst.estimators import blackbox
    >>> from polytopes import k_subset
    >>> w = torch.tensor([0.3, 0.2, 0.1], requires_grad=True)
    >>> z = blackbox(k_subset(3, 1), w)
    >>> (z * torch.tensor([1.0, 0.0, 0.0])).sum().backward()  # the first item costs 1
    >>> z.detach(), w.grad
    (tensor([1., 0., 0.]), tensor([ 1., -1.,  0.]))
"""

from cvxsst.estimators.discrete import AdaptiveStrength, blackbox, identity, implicit_mle, straight_through
from cvxsst.estimators.noise import SumOfGamma
from cvxsst.estimators.perturbed import perturbed_argmax, perturbed_loss
from cvxsst.estimators.score_function import NVIL, BatchMean, LeaveOneOut, MovingAverage, Reinforce
from cvxsst.estimators.spo import regret, spo_plus_loss
from cvxsst.estimators.traces import sample_trace

__all__ = [
    "NVIL",
    "AdaptiveStrength",
    "BatchMean",
    "LeaveOneOut",
    "MovingAverage",
    "Reinforce",
    "SumOfGamma",
    "blackbox",
    "identity",
    "implicit_mle",
    "perturbed_argmax",
    "perturbed_loss",
    "regret",
    "sample_trace",
    "spo_plus_loss",
    "straight_through",
]

"""Gradients for the argmax itself: a vertex forward, and backward the derivative of something near it.

Drop-in for ``softmax``: (P, w) to z ``(*batch, *P.shape)``, a vertex of P that maximizes <w, z>. With g the gradient of
the loss with respect to z, w receives

    straight_through    J g, J the derivative of softmax(w)
    identity            g
    blackbox            (argmax(w) - argmax(w - s g)) / s
    implicit_mle        the same with noise: (argmax(w + e) - argmax(w - s g + e)) / s
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution, Gumbel

from cvxsst import autograd
from cvxsst.estimators.noise import checked_noise, draws
from cvxsst.estimators.surrogate import checked, checked_strength, surrogate
from cvxsst.maps import argmax, softmax
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Euclidean, Regularizer


def straight_through(
    P: Polytope,
    w: torch.Tensor,
    regularizer: Regularizer = Euclidean(),  # noqa: B008 - frozen and without state
    temperature: float | torch.Tensor = 1.0,
    **options: Any,
) -> torch.Tensor:
    """argmax(w), with the gradient of ``softmax(P, w, regularizer, temperature)``.

    *Gradient of*: the loss at the softmax, linearized where z is: biased, unless the loss is linear and T small.
    *Cost*: one oracle call and one softmax.
    *Reference*: Bengio, Leonard and Courville 2013 (arXiv 1308.3432); Jang, Gu and Poole 2017, section 2.2. With
    utilities w + Gumbel noise: ``StochasticSoftmax(..., hard=True)``.

    Args:
        P, w, regularizer, temperature: as in ``softmax``.
        options: ``engine``, ``backward``, ``on_failure`` of ``softmax``.
    """
    return autograd.straight_through(softmax(P, w, regularizer, temperature, **options), argmax(P, w))


def identity(P: Polytope, w: torch.Tensor, project: bool = False) -> torch.Tensor:
    """argmax(w), with the gradient of the identity: w receives g.

    *Gradient of*: no function; -g is the direction in w along which <g, argmax> falls, whatever its length:
    <g, argmax(w - s g)> <= <g, argmax(w)> for all s > 0.
    *Cost*: one oracle call.
    *Reference*: Sahoo, Paulus, Vlastelica, Musil, Kuleshov and Martius 2023 (Backpropagation through combinatorial
    algorithms: identity with projection works).

    Args:
        P, w: as in ``argmax``.
        project: leave out what changes no argmax: g is projected onto the directions of the affine hull of P (on the
            simplex, the mean is taken off).
    """
    E = torch.from_numpy(P.presolved.hull[0]).to(w.device) if project else None

    def rule(g: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if E is None:
            return g
        flat = g.double().reshape(-1, P.size)
        return (flat - flat @ E.T @ E).reshape(g.shape)

    return surrogate(w, argmax(P, w), rule)


def blackbox(P: Polytope, w: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """argmax(w), with the gradient of its piecewise linear interpolation.

    *Gradient of*: (max <w, z> - max <w - s g, z>) / s for the g at hand, exactly. Where the loss is <g, z> that is a
    piecewise linear function which agrees with it wherever the move by s g changes nothing: biased elsewhere; a larger
    s interpolates over longer ways.
    *Cost*: one oracle call forward, one backward.
    *Reference*: Vlastelica, Paulus, Musil, Martius and Rolinek 2020 (Differentiation of blackbox combinatorial
    solvers), algorithm 1 (there costs are minimized).

    Args:
        P, w: as in ``argmax``.
        strength: s > 0 (their lambda): how far w is moved along g; default 1.

    Raises:
        ValueError: as ``argmax``; a strength that is not positive.
    """
    s, z = checked_strength("strength", strength), argmax(P, w)
    return surrogate(w, z, lambda g, w: (z - argmax(P, w - s * g)) / s)


class AdaptiveStrength(nn.Module):
    """A strength for ``implicit_mle`` that finds itself: s = a |w| / |g| in each instance, a such that a wanted share
    of the entries of the gradient is not 0.

    Args:
        start: a at first; default 1. In training mode each backward pass moves it by ``rate``: up where fewer entries
            than wanted are not 0, else down. It is saved in ``state_dict``.
        rate: default 0.001.
        density: the share wanted; None (default): one entry of each instance.

    Reference: Minervini, Franceschi and Niepert 2023 (Adaptive perturbation-based gradient estimation for discrete
    latent variable models), section 4.
    """

    scale: torch.Tensor

    def __init__(self, start: float = 1.0, rate: float = 1e-3, density: float | None = None):
        super().__init__()
        self.rate = checked_strength("rate", rate)
        self.density = None if density is None else checked_strength("density", density)
        self.register_buffer("scale", torch.tensor(checked_strength("start", start), dtype=torch.float64))

    def forward(self, w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """s for instances w and g ``(B, n)``, ``(B, 1)``; 1 where either is 0."""
        size, along = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (w, g))
        return torch.where((along > 0) & (size > 0), self.scale * size / along, 1.0)

    def learn(self, gradient: torch.Tensor) -> None:
        """From the gradient ``(B, n)`` that came of it."""
        if self.training and gradient.numel():
            wanted = 1 / gradient.shape[1] if self.density is None else self.density
            short = (gradient != 0).double().mean() < wanted
            self.scale += torch.where(short, self.rate, -self.rate)
            self.scale.clamp_(min=self.rate)


def implicit_mle(
    P: Polytope,
    w: torch.Tensor,
    noise: Distribution = Gumbel(0.0, 1.0),  # noqa: B008 - without state
    scale: float = 1.0,
    strength: float | AdaptiveStrength = 1.0,
    central: bool = False,
) -> torch.Tensor:
    """A random vertex, argmax(w + e), with the gradient of implicit maximum likelihood.

    *Gradient of*: E[max <w + e, z> - max <w - s g + e, z>] / s in w, unbiased: the divergence to the target
    distribution, the perturbed argmax of w - s g, to which the loss wants to go. For the expected loss it is biased
    (also where that is linear), and right to first order in s.
    *Cost*: one oracle call forward; one backward, two if ``central``.
    *Reference*: Niepert, Minervini and Franceschi 2021 (Implicit MLE: backpropagating through discrete exponential
    family distributions), algorithm 1; ``central`` and the adaptive strength: Minervini et al. 2023.

    Args:
        P, w: as in ``argmax``. Every instance is one sample; ``w.expand(10, *w.shape)`` gives ten.
        noise: of one number, drawn for every entry; ``SumOfGamma(k)`` for structures with k entries. Default Gumbel.
        scale: of the noise, e = scale * noise: the temperature of the distribution; default 1.
        strength: s > 0 (their lambda), or an ``AdaptiveStrength``; default 1.
        central: (argmax(w + s g + e) - argmax(w - s g + e)) / 2s instead, of which the error is of second order.

    Raises:
        ValueError: as ``argmax``; noise that is no distribution of one number; a strength or scale that is not
            positive.
    """
    if not isinstance(strength, AdaptiveStrength):
        checked_strength("strength", strength)
    checked(P, w)
    e = checked_strength("scale", scale) * draws(checked_noise(noise), 1, w.detach())[0]
    z = argmax(P, w + e)

    def rule(g: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        s = _strength(P, strength, w, g)
        ahead = argmax(P, w + e + s * g) if central else z
        found = (ahead - argmax(P, w + e - s * g)) / (2 * s if central else s)
        if isinstance(strength, AdaptiveStrength):
            strength.learn(found.reshape(-1, P.size))
        return found

    return surrogate(w, z, rule)


def _strength(
    P: Polytope, strength: float | AdaptiveStrength, w: torch.Tensor, g: torch.Tensor
) -> float | torch.Tensor:
    """s of each instance, of a shape that broadcasts with w."""
    if not isinstance(strength, AdaptiveStrength):
        return strength
    finite = w.masked_fill(w == -torch.inf, 0.0)
    s = strength(*(x.double().reshape(-1, P.size) for x in (finite, g)))
    return s.to(w.dtype).reshape(*w.shape[: w.dim() - len(P.shape)], *[1] * len(P.shape))

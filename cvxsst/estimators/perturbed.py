"""Perturbed optimizers: the mean of the argmax under noise, a smooth map, by samples.

    F(w) = E[max <w + s e, z>],      y(w) = grad F = E[argmax(w + s e)]

The density of e gives the derivative without that of the argmax: with v = -grad log density(e),

    J' g = E[<g, argmax(w + s e)> v] / s

On the simplex with Gumbel noise y is the softmax of w / s. *Multiplicative* noise, w exp(s e - s^2 / 2) with e normal,
keeps the signs of w, for oracles that need them (Dalle, Baty, Bouvier and Parmentier 2022). Its F and y are

    F(w) = E[max <n, z>],   y(w) = E[argmax(n)],   n = w exp(s e - s^2 / 2),    grad F = E[exp(s e - s^2 / 2) argmax(n)]

Reference: Berthet, Blondel, Teboul, Cuturi, Vert and Bach 2020 (Learning with differentiable perturbed optimizers).
"""

from __future__ import annotations

import torch
from torch.distributions import Distribution, Normal

from cvxsst.errors import ArgumentTypeError
from cvxsst.estimators.noise import NORMAL, checked_noise, draws, score
from cvxsst.estimators.surrogate import checked, checked_strength, inner, surrogate
from cvxsst.maps import argmax
from cvxsst.polytope import Polytope


def perturbed_argmax(
    P: Polytope,
    w: torch.Tensor,
    noise: Distribution = NORMAL,
    scale: float = 1.0,
    samples: int = 10,
    multiplicative: bool = False,
) -> torch.Tensor:
    """The mean of ``samples`` perturbed argmaxes: a point of P near y(w) = E[argmax(w + s e)].

    *Gradient of*: y(w). J' g is unbiased for each g; where g itself depends on the same samples, as for a loss that is
    not linear, it is biased by about 1 / samples. Each sample has the mean of the others as its baseline.
    *Cost*: ``samples`` oracle calls, none backward.
    *Reference*: Berthet et al. 2020, proposition 3.1; multiplicative: Dalle et al. 2022, section 3.3.

    Args:
        P, w: as in ``argmax``.
        noise: e, of one number, with a ``log_prob``; default Normal(0, 1).
        scale: s > 0; default 1.
        samples: at least 1; default 10. A single one has no baseline.
        multiplicative: w exp(s e - s^2 / 2) in place of w + s e; entries of w that are 0 stay, and get no gradient.

    Raises:
        ValueError: as ``argmax``; noise without a density, or not Normal(0, 1) where it is multiplicative; a scale that
            is not positive.
    """
    e, n, s = _perturbed(P, w, noise, scale, samples, multiplicative)
    v = score(noise, e)
    z = argmax(P, n)

    def rule(g: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        value = inner(P, g, z)  # (samples, *batch)
        if samples > 1:  # less the mean of the others: value - (sum - value) / (samples - 1)
            value = (value - value.mean(0)) * samples / (samples - 1)
        found = (value.reshape(*value.shape, *[1] * len(P.shape)) * v).mean(0) / s
        return torch.where(w != 0, found / w, 0.0) if multiplicative else found

    return surrogate(w, z.mean(0), rule)


def perturbed_loss(
    P: Polytope,
    w: torch.Tensor,
    z: torch.Tensor,
    noise: Distribution = NORMAL,
    scale: float = 1.0,
    samples: int = 10,
    multiplicative: bool = False,
) -> torch.Tensor:
    """The Fenchel-Young loss of the perturbed maximum, up to what does not depend on w: F(w) - E<w + s e, z>.

    *Gradient of*: itself, y(w) - z, unbiased in value and gradient; convex in w, and at least 0 in every sample, as z
    is among those over which the maximum is.
    *Cost*: ``samples`` oracle calls, none backward.
    *Reference*: Berthet et al. 2020, section 4.

    Args:
        z: the target, a point of P, ``(*batch, *P.shape)``, a constant.
        the others: as in ``perturbed_argmax``; the noise needs no density.

    Returns:
        ``(*batch,)``.
    """
    if not isinstance(z, torch.Tensor) or tuple(z.shape[z.dim() - len(P.shape) :]) != P.shape or z.dim() < len(P.shape):
        got = tuple(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
        raise ValueError(f"z: the last dimensions must be the shape of {P!r}, {P.shape}, got {got}")
    _, n, _ = _perturbed(P, w, noise, scale, samples, multiplicative)
    gap = argmax(P, n) - z.detach().to(w)
    return inner(P, torch.where(gap != 0, n, 0.0), gap).mean(0)


def _perturbed(
    P: Polytope, w: torch.Tensor, noise: Distribution, scale: float, samples: int, multiplicative: bool
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """e and the perturbed utilities, connected with w, both ``(samples, *batch, *P.shape)``; s."""
    checked(P, w)
    s = checked_strength("scale", scale)
    if isinstance(samples, bool) or not isinstance(samples, int):
        raise ArgumentTypeError(f"samples: expected an integer, got {samples!r}")
    if samples < 1:
        raise ValueError(f"samples: at least 1, got {samples}")
    noise = checked_noise(noise)
    if multiplicative and not (isinstance(noise, Normal) and noise.loc == 0 and noise.scale == 1):
        raise ValueError(f"noise: multiplicative noise is exp of Normal(0.0, 1.0), got {noise!r}")
    e = draws(noise, samples, w.detach())
    return e, w * (s * e - s * s / 2).exp() if multiplicative else w + s * e, s

"""Independent choices given their number: the exponential family on the k-subsets.

    A(u) = log sum over the k-subsets S of exp sum_{i in S} u_i

Choose every i on its own with p_i = sigmoid(u_i - tau). Given that the number N of chosen ones is k, that is the
exponential family, whatever tau:

    A = log P(N = k) + sum_i log(1 + exp(u_i - tau)) + k tau

tau is taken so that E[N] = k; then P(N = k) is never small. It is the Fourier coefficient of the characteristic
function of N, a product over the items, at M equidistant angles:

    P(N = k) = 1/M sum_m exp(-i k theta_m) phi_m,      phi_m = prod_j c_mj,   c_mj = 1 - p_j + p_j exp(i theta_m)

exact for M > n, and to the last digit already for M of some multiples of the standard deviation of N, which is at most
sqrt(min(k, n - k, n / 4)): O(n M) instead of the O(n k) of a dynamic program in n steps. The marginals condition one
item on each angle: with the complex weights omega_m = exp(-i k theta_m) phi_m / (M P), sum_m omega_m = 1,

    z_i = Re sum_m omega_m r_mi,      r_mi = p_i exp(i theta_m) / c_mi
    (J g)_i = Re sum_m omega_m (r_mi (1 - r_mi) g_i + r_mi (sum_j r_mj g_j - <z, g>))

1 / c = conj(c) / D with D = |c|^2 = 1 - 4 p (1 - p) sin^2(theta / 2) > 0, as M is odd. So the sums over m are products
with the real matrices 1 / D and 1 / D^2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from cvxsst.autograd import SymmetricMap, without_derivative
from polytopes._threshold import newton_threshold

NEGLIGIBLE = 1e-18  # probability beyond the frequencies kept
MOST_NUMBERS = 2**22  # entries of a matrix (item, angle): larger batches are taken in turns


class Angles(NamedTuple):
    """What depends on n and k alone, for m frequencies: e = exp(i theta) ``(m,)``; in real numbers 1 and e - 1
    ``(2, 2m)``; 1 and -4 sin^2(theta / 2) ``(2, m)``; exp(-i k theta) / M ``(m,)``, theta and -theta at once."""

    e: torch.Tensor
    turn: torch.Tensor
    dip: torch.Tensor
    share: torch.Tensor

    @staticmethod
    def of(n: int, k: int) -> Angles:
        M = frequencies(n, k)
        theta = 2 * math.pi / M * torch.arange(M // 2 + 1, dtype=torch.float64)
        e, zero = torch.polar(torch.ones_like(theta), theta), torch.zeros_like(theta)
        turn = torch.stack([torch.stack([1 - zero, zero], -1), torch.view_as_real(e - 1)]).flatten(1)
        dip = torch.stack([1 - zero, -4 * torch.sin(theta / 2).square()])
        share = torch.full_like(theta, 2.0 / M)
        share[0] = 1.0 / M
        return Angles(e, turn, dip, torch.polar(share, -k * theta))


class Spectrum(NamedTuple):
    """tau ``(*batch, 1)``, p ``(*batch, n)``, P(N = k) ``(*batch,)``, omega ``(*batch, m)``, and 1 / D
    ``(*batch, n, m)``."""

    tau: torch.Tensor
    p: torch.Tensor
    probability: torch.Tensor
    omega: torch.Tensor
    inverse: torch.Tensor


def log_partition(u: torch.Tensor, k: int, angles: Angles) -> torch.Tensor:
    """A(u) for u ``(*batch, n)``, float64, 0 < k < n; -inf where fewer than k entries are finite."""
    s = _spectrum(u, k, angles)
    A = s.probability.log() - torch.nn.functional.logsigmoid(s.tau - u).sum(-1) + k * s.tau[..., 0]
    return A.masked_fill(s.tau[..., 0].isnan(), -torch.inf)


def softmax(u: torch.Tensor, k: int, angles: Angles) -> torch.Tensor:
    """z = grad A(u) for u ``(*batch, n)``, float64, 0 < k < n; NaN where fewer than k entries are finite."""
    flat = u.reshape(-1, u.shape[-1])
    parts = flat.split(max(1, MOST_NUMBERS // (u.shape[-1] * len(angles.e)))) if len(flat) else (flat,)
    found = [_MARGINALS(part, k, angles) for part in parts]
    return (found[0] if len(found) == 1 else torch.cat(found)).reshape(u.shape)


def _spectrum(u: torch.Tensor, k: int, angles: Angles) -> Spectrum:
    """u ``(*batch, n)``."""
    # no result depends on tau: E[N] within a fraction of the standard deviation from k will do
    tolerance = 0.1 / math.sqrt(_variance(u.shape[-1], k))
    tau = without_derivative(newton_threshold, u[None], k, tolerance)[0]
    p = torch.sigmoid(u - tau)
    # outer sums 1 + p x as matrix products: several times faster than broadcasting complex numbers
    c = torch.view_as_complex((_with_one(p) @ angles.turn).unflatten(-1, (-1, 2)))
    D = _with_one(p * (1 - p)) @ angles.dip
    terms = angles.share * c.prod(-2)
    probability = terms.real.sum(-1)
    return Spectrum(tau, p, probability, terms / probability[..., None], D.reciprocal())


def _with_one(x: torch.Tensor) -> torch.Tensor:
    """``(*batch, n)`` to ``(*batch, n, 2)``."""
    return torch.stack([torch.ones_like(x), x], -1)


def _variance(n: int, k: int) -> float:
    """What the variance of N cannot exceed."""
    return min(k, n - k, n / 4)


def frequencies(n: int, k: int) -> int:
    """The least odd M <= n + 2 with P(|N - k| >= M) <= NEGLIGIBLE, by Bennett's inequality."""
    variance = _variance(n, k)
    for M in range(3, n + 1, 2):
        x = M / variance
        if 2 * math.exp(-variance * ((1 + x) * math.log1p(x) - x)) <= NEGLIGIBLE:
            return M
    return n + 1 + n % 2


def _marginals(u: torch.Tensor, k: int, angles: Angles) -> tuple[torch.Tensor, ...]:
    """z for u ``(B, n)``, and the spectrum."""
    s = _spectrum(u, k, angles)
    return _mean(s, s.omega, angles), *s


def _times_covariance(
    g: torch.Tensor,
    u: torch.Tensor,
    z: torch.Tensor,
    tau: torch.Tensor,
    p: torch.Tensor,
    probability: torch.Tensor,
    omega: torch.Tensor,
    inverse: torch.Tensor,
    k: int,
    angles: Angles,
) -> torch.Tensor:
    """J g for g, u and z ``(B, n)`` and the spectrum; a second derivative needs that as a function of u."""
    s = _spectrum(u, k, angles) if torch.is_grad_enabled() else Spectrum(tau, p, probability, omega, inverse)
    p, q = s.p, 1 - s.p
    constant, turning = (torch.stack([g * p * p, g * p * q], -2) @ s.inverse).unbind(-2)
    R = constant + angles.e * turning  # sum_j r_mj g_j
    mean = (s.omega * R).real.sum(-1, keepdim=True)  # <z, g>
    # r (1 - r) = p (1 - p) e conj(c)^2 / D^2, and conj(c) = 1 + p (conj(e) - 1)
    e = angles.e
    columns = _real(s.omega * e, 2 * s.omega * (1 - e), s.omega * (2 * e.real - 2))
    zeroth, first, second = (s.inverse.square() @ columns).unbind(-1)
    return p * q * (zeroth + p * (first + p * second)) * g + _mean(s, s.omega * (R - mean), angles)


_MARGINALS = SymmetricMap(_marginals, _times_covariance)


def _mean(s: Spectrum, omega: torch.Tensor, angles: Angles) -> torch.Tensor:
    """Re sum_m omega_m r_mi ``(*batch, n)``, with r = p (p + (1 - p) e) / D, for omega ``(*batch, m)``."""
    constant, turning = (s.inverse @ _real(omega, omega * angles.e)).unbind(-1)
    return s.p * (s.p * constant + (1 - s.p) * turning)


def _real(*columns: torch.Tensor) -> torch.Tensor:
    """The real parts of c complex columns ``(*batch, m)``, ``(*batch, m, c)``."""
    return torch.stack([column.real for column in columns], -1)

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
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from polytopes._threshold import binary_threshold

NEGLIGIBLE = 1e-18  # probability beyond the frequencies kept
MOST_NUMBERS = 2**22  # entries of a matrix (item, angle): larger batches are taken in turns


def log_partition(u: torch.Tensor, k: int) -> torch.Tensor:
    """A(u) for u ``(*batch, n)``, finite, 0 < k < n."""
    s = _spectrum(u, k)
    return s.probability.log() + -torch.nn.functional.logsigmoid(s.tau - u).sum(-1) + k * s.tau[..., 0]


def softmax(u: torch.Tensor, k: int) -> torch.Tensor:
    """z = grad A(u) for u ``(*batch, n)``, finite, 0 < k < n."""
    flat = u.reshape(-1, u.shape[-1])
    each = u.shape[-1] * (_frequencies(u.shape[-1], k) // 2 + 1)
    parts = flat.split(max(1, MOST_NUMBERS // each)) if len(flat) else (flat,)
    return torch.cat([_Marginals.apply(part, k)[0] for part in parts]).reshape(u.shape)


class _Marginals(torch.autograd.Function):
    """u ``(B, n)`` to z, with the spectrum for the derivative."""

    @staticmethod
    def forward(u: torch.Tensor, k: int) -> tuple[torch.Tensor, ...]:
        s = _spectrum(u, k)
        return marginals(s), *s

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        u, ctx.k = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(u, *output[1:])
        ctx.save_for_forward(u, *output[1:])

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Marginals.derivative(ctx, g), None

    @staticmethod
    def jvp(ctx: Any, du: torch.Tensor, _: None) -> tuple[torch.Tensor | None, ...]:
        return _Marginals.derivative(ctx, du), *[None] * len(Spectrum._fields)

    @staticmethod
    def derivative(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        u, *spectrum = ctx.saved_tensors
        # a second derivative needs the spectrum as a function of u
        return times_covariance(_spectrum(u, ctx.k) if torch.is_grad_enabled() else Spectrum(*spectrum), g)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, k: int) -> tuple[tuple, tuple]:
        flat = u.movedim(in_dims[0], 0).flatten(0, 1)
        z, *spectrum, e = _Marginals.apply(flat, k)
        parts = [part.unflatten(0, (info.batch_size, -1)) for part in (z, *spectrum)]
        return (*parts, e), (*[0] * len(parts), None)


class Spectrum(NamedTuple):
    """tau ``(*batch, 1)``, p ``(*batch, n)``, P(N = k) ``(*batch,)``, omega ``(*batch, m)``, 1 / D ``(*batch, n, m)``,
    and e = exp(i theta) ``(m,)``."""

    tau: torch.Tensor
    p: torch.Tensor
    probability: torch.Tensor
    omega: torch.Tensor
    inverse: torch.Tensor
    e: torch.Tensor


def _spectrum(u: torch.Tensor, k: int) -> Spectrum:
    n = u.shape[-1]
    # no result depends on tau: E[N] within a fraction of the standard deviation from k will do
    tau = binary_threshold(u.detach(), k, tolerance=0.1 / math.sqrt(_variance(n, k)))
    p = torch.sigmoid(u - tau)
    M = _frequencies(n, k)
    theta = 2 * math.pi / M * torch.arange(M // 2 + 1, dtype=u.dtype, device=u.device)
    e, zero = torch.polar(torch.ones_like(theta), theta), torch.zeros_like(theta)
    # outer sums 1 + p x as matrix products: several times faster than broadcasting complex numbers
    turn = torch.stack([torch.stack([1 - zero, zero], -1), torch.view_as_real(e - 1)]).flatten(1)
    c = torch.view_as_complex((_with_one(p) @ turn).unflatten(-1, (len(theta), 2)))
    D = _with_one(p * (1 - p)) @ torch.stack([1 - zero, -4 * torch.sin(theta / 2).square()])
    share = torch.full_like(theta, 2.0 / M)  # theta and -theta at once
    share[0] = 1.0 / M
    terms = torch.polar(share, -k * theta) * c.prod(-2)
    probability = terms.real.sum(-1)
    return Spectrum(tau, p, probability, terms / probability[..., None], D.reciprocal(), e)


def _with_one(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.ones_like(x), x], -1)


def _variance(n: int, k: int) -> float:
    """What the variance of N cannot exceed."""
    return min(k, n - k, n / 4)


@lru_cache(maxsize=1024)
def _frequencies(n: int, k: int) -> int:
    """The least odd M <= n + 2 with P(|N - k| >= M) <= NEGLIGIBLE, by Bennett's inequality."""
    variance = _variance(n, k)
    for M in range(3, n + 1, 2):
        x = M / variance
        if 2 * math.exp(-variance * ((1 + x) * math.log1p(x) - x)) <= NEGLIGIBLE:
            return M
    return n + 1 + n % 2


def marginals(s: Spectrum) -> torch.Tensor:
    return _mean(s, s.omega)


def _mean(s: Spectrum, omega: torch.Tensor) -> torch.Tensor:
    """Re sum_m omega_m r_mi, with r = p (p + (1 - p) e) / D."""
    constant, turning = (s.inverse @ _real(omega, omega * s.e)).unbind(-1)
    return s.p * (s.p * constant + (1 - s.p) * turning)


def times_covariance(s: Spectrum, g: torch.Tensor) -> torch.Tensor:
    """J g."""
    p, q = s.p, 1 - s.p
    constant, turning = (torch.stack([g * p * p, g * p * q], -2) @ s.inverse).unbind(-2)
    R = constant + s.e * turning  # sum_j r_mj g_j
    mean = (s.omega * R).real.sum(-1, keepdim=True)  # <z, g>
    # r (1 - r) = p (1 - p) e conj(c)^2 / D^2, and conj(c) = 1 + p (conj(e) - 1)
    columns = _real(s.omega * s.e, 2 * s.omega * (1 - s.e), s.omega * (2 * s.e.real - 2))
    zeroth, first, second = (s.inverse.square() @ columns).unbind(-1)
    return p * q * (zeroth + p * (first + p * second)) * g + _mean(s, s.omega * (R - mean))


def _real(*columns: torch.Tensor) -> torch.Tensor:
    return torch.stack([column.real for column in columns], -1)

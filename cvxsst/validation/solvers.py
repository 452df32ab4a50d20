"""A solver as a validator sees it: a function u -> z of which nothing is believed.

It may raise, return a wrong shape, NaN, or a z without a gradient. Each of that is a finding about the instances on
which it happens, never a crash.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cvxsst.engines import ENGINES
from cvxsst.maps import softmax
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer

Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Answer:
    """What a solver said, in float64: of N instances with n entries, for k cotangents.

    Attributes:
        z: ``(N, n)``, NaN where there is none.
        vjp: ``(k, N, n)``, (dz/du)' g for each cotangent g, NaN where there is none.
        why: for each instance why there is no z, or ``""``.
        why_no_vjp: likewise of the gradient.
    """

    z: torch.Tensor
    vjp: torch.Tensor
    why: list[str]
    why_no_vjp: list[str]

    def put(self, rows: list[int], other: Answer) -> None:
        """Replace the answers at these rows."""
        self.z[rows], self.vjp[:, rows] = other.z, other.vjp
        for i, row in enumerate(rows):
            self.why[row], self.why_no_vjp[row] = other.why[i], other.why_no_vjp[i]

    def take(self, rows: list[int]) -> Answer:
        why, why_no_vjp = ([reasons[i] for i in rows] for reasons in (self.why, self.why_no_vjp))
        return Answer(self.z[rows], self.vjp[:, rows], why, why_no_vjp)

    @staticmethod
    def none(k: int, N: int, n: int, why: str) -> Answer:
        nothing = torch.full((1 + k, N, n), torch.nan, dtype=torch.float64)
        return Answer(nothing[0], nothing[1:], [why] * N, [why] * N)

    @staticmethod
    def together(parts: list[Answer]) -> Answer:
        z, vjp = torch.cat([p.z for p in parts]), torch.cat([p.vjp for p in parts], dim=1)
        return Answer(z, vjp, [w for p in parts for w in p.why], [w for p in parts for w in p.why_no_vjp])


@dataclass(frozen=True)
class Solver:
    """A named function u ``(*batch, *P.shape)`` -> z; ``engine``: its name where it is one of the library's."""

    name: str
    function: Function
    P: Polytope
    engine: str | None = None
    slow: bool = False  # one instance at a time: asked about a few
    has_gradient: bool = True  # False also where it is not to be judged
    promises: float = 0.0  # an accuracy in z that may be worse than what the candidate is held to

    def ask(
        self, u: torch.Tensor, cotangents: torch.Tensor | None = None, dtype: torch.dtype = torch.float64
    ) -> Answer:
        """z of a flat batch u ``(N, *P.shape)``, and one vjp for each of the cotangents ``(k, N, *P.shape)``.

        If the batch fails, each instance is asked alone, so that no instance spoils another.
        """
        g = u.new_zeros(0, *u.shape) if cotangents is None else cotangents
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # opinions of solvers: certificates judge
                return self._ask(u.to(dtype), g.to(dtype))
        except Exception as error:  # whatever a user's function may raise is a finding
            if len(u) <= 1:
                return Answer.none(len(g), len(u), self.P.size, f"{type(error).__name__}: {error}")
        return Answer.together([self.ask(u[i : i + 1], g[:, i : i + 1], dtype) for i in range(len(u))])

    def _ask(self, u: torch.Tensor, g: torch.Tensor) -> Answer:
        k, N, n = len(g), len(u), self.P.size
        differentiate = k > 0 and self.has_gradient
        leaf = u.detach().clone().requires_grad_(differentiate)
        with torch.set_grad_enabled(differentiate):
            z = self.function(leaf)
        _check(z, u)
        answer = Answer.none(k, N, n, "" if differentiate else "not asked for a gradient")
        answer.z = z.detach().double().cpu().reshape(N, n).clone()
        answer.why = ["" if ok else "NaN or infinite z" for ok in torch.isfinite(answer.z).all(dim=1)]
        if not differentiate:
            return answer
        alone = N <= 1 or not z.requires_grad  # what fails then fails for each instance
        try:
            rows = [torch.autograd.grad(z, leaf, gi.to(z), retain_graph=True)[0] for gi in g]
        except Exception as error:
            if not alone:
                raise
            answer.why_no_vjp = [f"no gradient: {type(error).__name__}: {error}"] * N
            return answer
        answer.vjp = torch.stack(rows).double().cpu().reshape(k, N, n)
        finite = torch.isfinite(answer.vjp).all(dim=2).all(dim=0)
        answer.why_no_vjp = ["" if ok else "NaN or infinite gradient" for ok in finite]
        return answer


def _check(z: object, u: torch.Tensor) -> None:
    """The contract of a candidate: a tensor of the shape and the dtype of u."""
    if not isinstance(z, torch.Tensor):
        raise TypeError(f"returned {type(z).__name__}, no torch.Tensor")
    if z.shape != u.shape:
        raise ValueError(f"returned the shape {tuple(z.shape)} for u of shape {tuple(u.shape)}")
    if z.dtype != u.dtype:
        raise TypeError(f"returned {z.dtype} for u of {u.dtype}")


def of_engine(name: str, P: Polytope, regularizer: Regularizer) -> Solver:
    """An engine of the library; an instance that it gives up is NaN."""

    def solve(u: torch.Tensor) -> torch.Tensor:
        return softmax(P, u, regularizer, engine=name, on_failure="nan")

    return Solver(name, solve, P, engine=name, slow=not ENGINES[name].batched)


def moments(P: Polytope) -> Solver:
    """The exponential family by its definition in numpy: E[z] and Cov(z) in extended precision, sums over Z."""

    class Mean(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            V = P.vertices().astype(np.longdouble)
            flat = u.detach().cpu().numpy().reshape(len(u), P.size).astype(np.longdouble)
            forbidden = np.isinf(flat)
            logits = np.where(forbidden, 0, flat) @ V.T
            logits = np.where(forbidden.astype(float) @ (V != 0).T > 0, -np.inf, logits)
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            ctx.p, ctx.V = p / p.sum(axis=1, keepdims=True), V
            return torch.from_numpy((ctx.p @ V).astype(float)).reshape(u.shape)

        @staticmethod
        def backward(ctx, g):
            flat = g.numpy().reshape(len(g), P.size).astype(np.longdouble)
            values = flat @ ctx.V.T
            centred = values - (ctx.p * values).sum(axis=1, keepdims=True)
            return torch.from_numpy(((ctx.p * centred) @ ctx.V).astype(float)).reshape(g.shape)

    return Solver("moments", Mean.apply, P)

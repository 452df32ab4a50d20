"""What the engines solve: argmax over P of <u, z> - f(z), u = w / T, for a flat batch.

An entry that -inf forbids is data of its instance: 0 in u, True in ``forbidden``; never another polytope.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from cvxsst.arguments import check_utilities, check_values, checked_polytope, checked_temperature
from cvxsst.errors import EmptyPolytopeError, UnboundedPolytopeError, some
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer, checked_regularizer
from cvxsst.values import holds, is_finite, shown


@dataclass(frozen=True)
class Problem:
    """argmax over P of <u, z> - f(z) for a flat batch of u = w / T.

    Attributes:
        P, f: the polytope and the regularizer; f is None for the argmax.
        w: the utilities as given.
        u: ``(B, n)`` float64, with the gradients of w and T. Once ``inspected``, finite: 0 where forbidden.
        forbidden: ``(B, n)`` bool, or None where w holds no -inf (or was not yet inspected).
        temperature: a float, or a float64 tensor that broadcasts to ``batch``.
        batch: the batch shape of the result.
        theta: ``(B, q)`` float64, with gradients: the parameters of P in every instance, or None where it has none.
    """

    P: Polytope
    f: Regularizer | None
    w: torch.Tensor
    u: torch.Tensor
    forbidden: torch.Tensor | None
    temperature: float | torch.Tensor
    batch: torch.Size
    theta: torch.Tensor | None = None

    @staticmethod
    def posed(P: Polytope, w: torch.Tensor, f: Regularizer | None, temperature: float | torch.Tensor) -> Problem:
        """The problem with its types and shapes checked; values are looked at by ``is_plain`` and ``inspected``."""
        checked_polytope(P)
        if f is not None:
            checked_regularizer(f)
        check_utilities(P, w)
        T = checked_temperature(temperature, w.device)
        batch = _joined(w.shape[: w.dim() - len(P.shape)], P.batch, "the values of its parameters: batch shape")
        if isinstance(T, torch.Tensor):
            batch = _joined(batch, T.shape, "temperature: shape")
        theta = P.theta
        if theta is not None:
            theta = theta.to(w.device).expand(*batch, theta.shape[-1]).reshape(batch.numel(), theta.shape[-1])
        return Problem(P, f, w, _flat(w.to(torch.float64), T, batch, P.shape), None, T, batch, theta)

    def is_plain(self, *results: torch.Tensor) -> bool:
        """Whether u, T and what was computed from them are finite, without -inf: one transfer to the host."""
        return is_finite(self.u, *results)

    def inspected(self) -> Problem:
        """The same with the -inf entries told apart.

        Raises:
            ValueError: NaN or +inf in w; w / T overflows; -inf where 0 is not the least value of an entry.
        """
        if self.forbidden is not None or self.is_plain():
            return self
        forbidden = self.w == -torch.inf
        u = _flat(self.w.to(torch.float64).masked_fill(forbidden, 0.0), self.temperature, self.batch, self.P.shape)
        if holds(~torch.isfinite(u)):  # the sum of finite entries may overflow
            check_values(self.w)
            raise ValueError("temperature: w / temperature overflows; raise the temperature or shrink the utilities")
        mask = forbidden.expand(*self.batch, *self.P.shape).reshape(u.shape)
        if not holds(mask):
            return replace(self, u=u)
        if len(self.P.outside(0.0, np.inf)):
            self.P.require_zero_is_least(np.flatnonzero(shown(mask).reshape(-1, self.P.size).any(axis=0)))
        return replace(self, u=u, forbidden=mask)

    @property
    def inputs(self) -> torch.Tensor:
        """What z is a function of, side by side: u, and theta where there is one."""
        return self.u if self.theta is None else torch.cat([self.u, self.theta], dim=1)

    def at(self, inputs: torch.Tensor) -> Problem:
        """The same problem at other ``inputs``."""
        if self.theta is None:
            return replace(self, u=inputs)
        u, theta = inputs.split([self.P.size, inputs.shape[1] - self.P.size], dim=1)
        return replace(self, u=u, theta=theta)

    def rows(self, which: torch.Tensor) -> Problem:
        """The inspected problem of some instances (flat positions), a batch of its own."""
        forbidden = None if self.forbidden is None else self.forbidden[which]
        theta = None if self.theta is None else self.theta[which]
        return replace(self, u=self.u[which], forbidden=forbidden, batch=torch.Size([len(which)]), theta=theta)

    def apart(self) -> Iterator[tuple[torch.Tensor, Problem]]:
        """The inspected problem, for each value of the parameters a problem over the polytope there, with its rows.

        Raises:
            EmptyPolytopeError, UnboundedPolytopeError: values that leave no point, or no bound; names the instance.
        """
        assert self.theta is not None
        values, which = np.unique(self.theta.detach().cpu().numpy(), axis=0, return_inverse=True)
        for k, theta in enumerate(values):
            rows = torch.from_numpy(np.flatnonzero(which.reshape(-1) == k)).to(self.u.device)
            P = self.P.unvalued.alone(theta)
            try:
                _ = P.presolved
            except (EmptyPolytopeError, UnboundedPolytopeError):
                self.raise_for_values(torch.zeros(len(self.u), dtype=torch.bool).index_fill(0, rows.cpu(), True))
            yield rows, replace(self.rows(rows), P=P, theta=None)

    def shaped(self, z: torch.Tensor) -> torch.Tensor:
        """``(B, n)`` in the shape and dtype of the result."""
        shape = (*self.batch, *self.P.shape)
        return (z if z.shape == shape else z.reshape(shape)).to(self.w.dtype)

    def instances(self, which: torch.Tensor) -> list[tuple[int, ...]]:
        """The indices into the batch of the flat positions where ``which`` is True; mapped dimensions come first."""
        values = shown(which.reshape(-1))
        found = np.argwhere(values.reshape((*values.shape[:-1], *self.batch)))
        return [tuple(index) for index in found.tolist()]

    def raise_empty(self, empty: torch.Tensor) -> None:
        self.raise_for_values(empty)
        raise EmptyPolytopeError(
            f"w: the -inf entries{named(self.instances(empty), ' of instances ')} forbid every structure; allow at "
            "least one"
        )

    def raise_for_values(self, failed: torch.Tensor) -> None:
        """Raise if it is the values of parameters that leave no point, or no bound, in one of these instances."""
        if self.theta is None:
            return
        for index, theta in zip(self.instances(failed), self._thetas(failed), strict=True):
            where, P = named([index], " of instance "), self.P.unvalued
            blamed = P.blamed(theta)
            if blamed:
                raise EmptyPolytopeError(
                    f"{', '.join(blamed)}: the values{where} leave no point of {P.alone(theta)!r}; on_failure='nan'"
                    " keeps the others"
                )
            if P.is_endless(theta):
                raise UnboundedPolytopeError(
                    f"{', '.join(P.parameters)}: at the values{where} {P.alone(theta)!r} has no bound in some entries; "
                    "add constraints that hold for all values, for example 0 <= z <= 1"
                )

    def _thetas(self, which: torch.Tensor) -> np.ndarray:
        """theta of the flat positions where ``which`` is True; mapped dimensions come first."""
        assert self.theta is not None
        theta, chosen = np.broadcast_arrays(shown(self.theta), shown(which)[..., None])
        return theta[chosen].reshape(-1, theta.shape[-1])


def _joined(batch: torch.Size, other: torch.Size, what: str) -> torch.Size:
    try:
        return torch.broadcast_shapes(batch, other)
    except RuntimeError:
        raise ValueError(f"{what} {tuple(other)} does not broadcast with the batch shape {tuple(batch)} of w") from None


def _flat(
    w: torch.Tensor, temperature: float | torch.Tensor, batch: torch.Size, shape: tuple[int, ...]
) -> torch.Tensor:
    """w / T, ``(B, n)``."""
    if isinstance(temperature, torch.Tensor):
        w = w / temperature.reshape(temperature.shape + (1,) * len(shape))
    elif temperature != 1.0:
        w = w / temperature
    if len(batch) == len(shape) == 1 and w.dim() == 2 and w.shape[0] == batch[0]:
        return w
    return w.expand(*batch, *shape).reshape(batch.numel(), math.prod(shape))


def named(instances: list[tuple[int, ...]], words: str) -> str:
    """Which instances of the batch; nothing where there is no batch."""
    return "" if instances == [()] else words + some(instances)

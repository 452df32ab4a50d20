"""The arguments that every public function takes, checked once and in the same words.

Everything is brought to one form: u = w / T, float64, ``(B, n)`` with the batch flattened and z row by row,
and a mask of the entries that -inf forbids.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from cvxsst.errors import ArgumentTypeError
from cvxsst.regularizers import Regularizer, checked_regularizer

R = TypeVar("R")

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope


@dataclass(frozen=True)
class Problem:
    """argmax over P of <u, z> - f(z) for a flat batch of u = w / T.

    Attributes:
        u: ``(B, n)`` float64, finite: 0 where forbidden; carries the gradients of w and T.
        forbidden: ``(B, n)`` bool, or None where w holds no -inf.
        temperature: float64, of the shape of ``batch``.
        batch: the batch shape of the result.
        dtype, device: of w, and of the result.
    """

    u: torch.Tensor
    forbidden: torch.Tensor | None
    temperature: torch.Tensor
    batch: torch.Size
    dtype: torch.dtype
    device: torch.device

    def forbidden_entries(self, instance: int) -> tuple[int, ...]:
        """The indices of the entries forbidden in one instance."""
        if self.forbidden is None:
            return ()
        return tuple(self.forbidden[instance].nonzero().flatten().tolist())

    def instance(self, flat: int) -> tuple[int, ...]:
        """The index into the batch of a flat position."""
        return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), self.batch)) if self.batch else ()


def checked_problem(
    P: Polytope, w: torch.Tensor, regularizer: Regularizer | None, temperature: float | torch.Tensor
) -> Problem:
    """Check P, w, the regularizer (None: the argmax) and T, and bring them to the form of ``Problem``."""
    checked_polytope(P)
    if regularizer is not None:
        checked_regularizer(regularizer)
    check_utilities(P, w)
    T = checked_temperature(temperature, w.device)
    event = len(P.shape)
    try:
        batch = torch.broadcast_shapes(w.shape[: w.dim() - event], T.shape)
    except RuntimeError:
        raise ValueError(
            f"temperature: shape {tuple(T.shape)} does not broadcast with the batch shape "
            f"{tuple(w.shape[: w.dim() - event])} of w"
        ) from None

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x / T.reshape(T.shape + (1,) * event)).expand(*batch, *P.shape).reshape(batch.numel(), P.size)

    u, mask = scaled(w.to(torch.float64)), None
    if not is_finite(u):
        inspect(w, _check_values)
        forbidden = w == -torch.inf
        u = scaled(w.to(torch.float64).masked_fill(forbidden, 0.0))
        mask = forbidden.expand(*batch, *P.shape).reshape(batch.numel(), P.size) if holds(forbidden) else None
        if holds(~torch.isfinite(u)):
            raise ValueError("temperature: w / temperature overflows; raise the temperature or shrink the utilities")
    return Problem(u, mask, T.expand(batch), batch, w.dtype, w.device)


class _Inspect(torch.autograd.Function):
    """The identity. ``look`` is shown the plain tensor, also where a ``torch.func`` transform hides it."""

    @staticmethod
    def forward(x: torch.Tensor, look: Callable[[torch.Tensor], None]) -> torch.Tensor:
        look(x)
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        return g, None

    @staticmethod
    def jvp(ctx: Any, dx: torch.Tensor, _: None) -> torch.Tensor:
        return dx.view_as(dx)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: torch.Tensor, look: Callable) -> tuple[torch.Tensor, int]:
        return _Inspect.apply(x.movedim(in_dims[0], 0), look), 0


def inspect(x: torch.Tensor, look: Callable[[torch.Tensor], None]) -> None:
    """Call ``look`` with the values of x; under ``vmap`` they have further leading dimensions."""
    try:
        look(x.detach())
    except RuntimeError:  # vmap hides the values: slower, by a function of its own
        _Inspect.apply(x.detach(), look)


def holds(mask: torch.Tensor) -> bool:
    """Whether any entry is True, also under ``torch.func`` transforms."""
    found: list[bool] = []
    inspect(mask, lambda m: found.append(bool(m.any())))
    return found[0]


def is_finite(x: torch.Tensor) -> bool:
    """Whether the sum is finite, also under ``torch.func`` transforms: then all entries are."""
    found: list[bool] = []
    inspect(x, lambda values: found.append(math.isfinite(values.sum().item())))
    return found[0]


def plainly(compute: Callable[[], R]) -> R:
    """``compute()``, for what is kept for later calls: outside inference mode and ``torch.func`` transforms."""
    found: list[R] = []
    with torch.inference_mode(False), torch.no_grad():
        _Inspect.apply(torch.zeros(()), lambda _: found.append(compute()))
    return found[0]


def checked_polytope(P: Polytope) -> Polytope:
    from cvxsst.polytope import Family, Polytope

    if isinstance(P, Polytope):
        return P
    if isinstance(P, Family):
        raise ArgumentTypeError(f"P: {P.name} is a family of polytopes; call it with its arguments, {P.name}(...)")
    raise ArgumentTypeError(f"P: expected a cvxsst.Polytope, got {type(P).__name__}")


def check_utilities(P: Polytope, w: torch.Tensor) -> None:
    if not isinstance(w, torch.Tensor):
        raise ArgumentTypeError(f"w: expected a torch.Tensor, got {type(w).__name__}; use torch.as_tensor(w)")
    if not w.is_floating_point():
        raise ArgumentTypeError(f"w: expected a floating point tensor, got {w.dtype}; use w.double() or w.float()")
    event = len(P.shape)
    if w.dim() < event or tuple(w.shape[w.dim() - event :]) != P.shape:
        raise ValueError(
            f"w: the last dimensions must be the shape of the polytope {P!r}, {P.shape}, got {tuple(w.shape)}; "
            "the dimensions before them are the batch"
        )


def _check_values(w: torch.Tensor) -> None:
    wrong = torch.isnan(w) | (w == torch.inf)
    if bool(wrong.any()):
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"w: {w[where].item()} at index {where} ({int(wrong.sum())} such entries); utilities must be finite, "
            "or -inf to forbid an entry"
        )


def _check_positive(T: torch.Tensor) -> None:
    if not bool(((T > 0) & torch.isfinite(T)).all()):
        raise ValueError("temperature: must be positive and finite everywhere; for T = 0 use cvxsst.argmax")


def checked_temperature(temperature: float | torch.Tensor, device: torch.device) -> torch.Tensor:
    """T as a float64 tensor (a scalar, or of a shape that broadcasts with the batch)."""
    if isinstance(temperature, torch.Tensor):
        if not temperature.is_floating_point():
            raise ArgumentTypeError(f"temperature: expected floating point, got {temperature.dtype}")
        T = temperature.to(device, torch.float64)
        inspect(T, _check_positive)
        return T
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise ArgumentTypeError(f"temperature: expected a float or a tensor, got {type(temperature).__name__}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature: must be positive and finite, got {temperature}; for T = 0 use cvxsst.argmax")
    return torch.tensor(float(temperature), dtype=torch.float64, device=device)

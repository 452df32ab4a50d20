"""Looking at the values of tensors, also where a ``torch.func`` transform hides them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

R = TypeVar("R")


class _Look(torch.autograd.Function):
    """The identity. ``function`` is shown the plain tensor, also where a ``torch.func`` transform hides it."""

    @staticmethod
    def forward(x: torch.Tensor, function: Callable[[torch.Tensor], None]) -> torch.Tensor:
        function(x)
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
    def vmap(info: Any, in_dims: tuple, x: torch.Tensor, function: Callable) -> tuple[torch.Tensor, int]:
        return _Look.apply(x.movedim(in_dims[0], 0), function), 0


def look(x: torch.Tensor, function: Callable[[torch.Tensor], R]) -> R:
    """``function`` of the values of x; under ``vmap`` they have further leading dimensions."""
    try:
        return function(x.detach())
    except RuntimeError:  # vmap hides the values: slower, by a function of its own
        found: list[R] = []
        _Look.apply(x.detach(), lambda values: found.append(function(values)))
        return found[-1]


def shown(x: torch.Tensor) -> np.ndarray:
    """The values of x; under ``vmap`` they have further leading dimensions."""
    return look(x, lambda values: values.cpu().numpy())


def holds(mask: torch.Tensor) -> bool:
    """Whether any entry is True, also under ``torch.func`` transforms."""
    return look(mask, lambda m: bool(m.numpy().any() if on_host(m) else m.any()))


def positions(mask: torch.Tensor) -> torch.Tensor | None:
    """Where a flat mask is True; None where ``vmap`` hides it."""
    try:
        return mask.nonzero().flatten()
    except RuntimeError:
        return None


def is_finite(*parts: torch.Tensor) -> bool:
    """Whether the sum of all entries is finite: then every entry is. At most one transfer to the host."""
    total = sum((part.detach().sum() for part in parts[1:]), parts[0].detach().sum())
    return look(total, lambda value: math.isfinite(_number(value if value.dim() == 0 else value.sum())))


def on_host(x: torch.Tensor) -> bool:
    """Whether the values of x can be looked at without waiting for a device."""
    return x.device.type == "cpu"


def _number(x: torch.Tensor) -> float:
    """The value of a single number."""
    return x.numpy().item() if on_host(x) else x.item()


def plainly(compute: Callable[[], R]) -> R:
    """``compute()``, for what is kept for later calls: outside inference mode and ``torch.func`` transforms."""
    found: list[R] = []
    with torch.inference_mode(False), torch.no_grad():
        _Look.apply(torch.zeros(()), lambda _: found.append(compute()))
    return found[0]

"""The values of a declaration's parameters: checked, broadcast, and one after another in one vector theta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cvxsst.errors import ArgumentTypeError
from cvxsst.geometry.parametric import Parameter
from cvxsst.values import look

# How far theta may be from what it must satisfy, such as equal sums of both marginals, and be brought there: the
# rounding of what it was computed in, with room for sums of a thousand.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5}
ROUGHEST = 1e-2
OUTSIDE = 1e-9  # of the signs and bounds that a parameter's attributes say


def stacked(parameters: Sequence[Parameter], values: Mapping[str, Any], name: str) -> torch.Tensor:
    """theta ``(*batch, q)`` in float64, connected with the values by autograd.

    Raises:
        ValueError: a name too many or too few; a shape that does not fit; NaN, infinity, a sign or bound violated.
    """
    known = {parameter.name for parameter in parameters}
    for wrong, what in ((known - set(values), "needs a value for"), (set(values) - known, "has no parameter")):
        if wrong:
            raise ArgumentTypeError(
                f"at: {name} {what} {', '.join(sorted(wrong))}; its parameters are {named(parameters)}"
            )
    parts = [_checked(parameter, values[parameter.name]) for parameter in parameters]
    try:
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    except RuntimeError:
        shapes = ", ".join(f"{p.name}: {tuple(part.shape[:-1])}" for p, part in zip(parameters, parts, strict=True))
        raise ValueError(
            f"at: the batch dimensions of the values do not broadcast with one another ({shapes})"
        ) from None
    device = parts[0].device
    return torch.cat([part.to(device).expand(*batch, part.shape[-1]) for part in parts], dim=-1)


def named(parameters: Sequence[Parameter]) -> str:
    """Names and shapes, for a message."""
    return ", ".join(f"{p.name} {p.shape}" if p.shape else p.name for p in parameters)


def _checked(parameter: Parameter, value: Any) -> torch.Tensor:
    """``(*batch, size)``, float64."""
    name, shape = parameter.name, parameter.shape
    try:
        x = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentTypeError(
            f"{name}: expected a tensor, an array or a number, got {type(value).__name__}"
        ) from None
    if x.is_complex() or x.dtype == torch.bool:
        raise ArgumentTypeError(f"{name}: expected real numbers, got {x.dtype}")
    if x.layout != torch.strided or x.is_nested or x.device.type == "meta":
        raise ArgumentTypeError(f"{name}: expected a dense tensor with values")
    if tuple(x.shape[x.dim() - len(shape) :]) != shape or x.dim() < len(shape):
        raise ValueError(
            f"{name}: the last dimensions must be the shape of the parameter, {shape}, got {tuple(x.shape)}; the "
            "dimensions before them are the batch"
        )
    x = x.to(torch.float64).reshape(*x.shape[: x.dim() - len(shape)], parameter.size)
    look(x, lambda values: _check_values(parameter, values))
    return x


def _check_values(parameter: Parameter, values: torch.Tensor) -> None:
    low, high = (torch.from_numpy(end).to(values.device) for end in (parameter.low, parameter.high))
    wrong = ~torch.isfinite(values) | (values < low - OUTSIDE) | (values > high + OUTSIDE)
    if bool(wrong.any()):
        where = tuple(wrong.nonzero()[0].tolist())
        least, most = parameter.low[where[-1]], parameter.high[where[-1]]
        index = (
            where[:-1] + tuple(int(i) for i in np.unravel_index(where[-1], parameter.shape))
            if parameter.shape
            else where[:-1]
        )
        raise ValueError(
            f"{parameter.name}: {values[where].item()} at index {index} ({int(wrong.sum())} such entries); its values "
            f"must be finite and in [{least:g}, {most:g}]"
        )


def on_hull(theta: torch.Tensor, hull: tuple[np.ndarray, np.ndarray], dtypes: Sequence[torch.dtype]) -> torch.Tensor:
    """The nearest theta ``(*batch, q)`` with E theta = e, where it is there but for the rounding of its values."""
    if not len(hull[0]):
        return theta
    E, e = (torch.from_numpy(part).to(theta.device) for part in hull)
    tolerance = max(ROUNDING.get(dtype, ROUGHEST if dtype.is_floating_point else 1e-10) for dtype in dtypes)
    miss = theta @ E.T - e
    size = theta.detach().abs().amax(dim=-1, keepdim=True).clamp_min(1.0)
    near = (miss.detach().abs() <= tolerance * size).all(dim=-1, keepdim=True)
    return theta - torch.where(near, miss, torch.zeros_like(miss)) @ E


def split(parameters: Sequence[Parameter], theta: torch.Tensor) -> dict[str, torch.Tensor]:
    """The value of each parameter, ``(*batch, *its shape)``, of theta ``(*batch, q)``."""
    parts = theta.split([parameter.size for parameter in parameters], dim=-1)
    return {p.name: part.reshape((*theta.shape[:-1], *p.shape)) for p, part in zip(parameters, parts, strict=True)}

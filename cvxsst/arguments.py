"""Checks of the arguments that several public functions take, in the same words everywhere."""

from __future__ import annotations

import math

import torch

from cvxsst.errors import ArgumentTypeError
from cvxsst.family import Family
from cvxsst.polytope import Polytope
from cvxsst.values import look


def checked_polytope(P: Polytope, valued: bool = True, single: bool = False) -> Polytope:
    """The argument ``P`` of the public functions; ``valued``: its parameters, if it has any, must have values;
    ``single``: without batch dimensions."""
    if isinstance(P, Polytope):
        if (valued and P.theta is None and P.parameters) or (single and P.batch):
            _ = P.form  # says so
        return P
    if isinstance(P, Family):
        raise ArgumentTypeError(f"P: {P.name} is a family of polytopes; call it with its arguments, {P.name}(...)")
    raise ArgumentTypeError(f"P: expected a cvxsst.Polytope, got {type(P).__name__}")


def check_utilities(P: Polytope, w: torch.Tensor) -> None:
    """Raise unless w is a dense floating point tensor ``(*batch, *P.shape)``; its values are not looked at."""
    if not isinstance(w, torch.Tensor):
        raise ArgumentTypeError(f"w: expected a torch.Tensor, got {type(w).__name__}; use torch.as_tensor(w)")
    if not w.is_floating_point():
        raise ArgumentTypeError(f"w: expected a floating point tensor, got {w.dtype}; use w.double() or w.float()")
    check_readable("w", w)
    event = len(P.shape)
    if w.dim() < event or tuple(w.shape[w.dim() - event :]) != P.shape:
        raise ValueError(
            f"w: the last dimensions must be the shape of the polytope {P!r}, {P.shape}, got {tuple(w.shape)}; "
            "the dimensions before them are the batch"
        )


def check_readable(name: str, x: torch.Tensor) -> None:
    """Raise unless x is a dense tensor with values; they are not looked at."""
    if x.is_nested:
        raise ArgumentTypeError(
            f"{name}: expected a dense tensor, got a nested one; pad it with {name}.to_padded_tensor(0.0)"
        )
    if x.layout != torch.strided:
        raise ArgumentTypeError(f"{name}: expected a dense tensor, got one of layout {x.layout}; use {name}.to_dense()")
    if x.device.type == "meta":
        raise ArgumentTypeError(f"{name}: a tensor on the meta device has no values; use a device that has")


def check_values(w: torch.Tensor) -> None:
    """Raise where w holds NaN or +inf."""

    def wrong_entries(values: torch.Tensor) -> None:
        wrong = torch.isnan(values) | (values == torch.inf)
        if bool(wrong.any()):
            where = tuple(wrong.nonzero()[0].tolist())
            raise ValueError(
                f"w: {values[where].item()} at index {where} ({int(wrong.sum())} such entries); utilities must be "
                "finite, or -inf to forbid an entry"
            )

    look(w, wrong_entries)


def checked_temperature(temperature: float | torch.Tensor, device: torch.device) -> float | torch.Tensor:
    """T as a float, or as a float64 tensor of a shape that broadcasts with the batch."""
    if isinstance(temperature, torch.Tensor):
        if not temperature.is_floating_point():
            raise ArgumentTypeError(f"temperature: expected floating point, got {temperature.dtype}")
        check_readable("temperature", temperature)
        T = temperature.to(device, torch.float64)
        look(T, _check_positive)
        return T
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise ArgumentTypeError(f"temperature: expected a float or a tensor, got {type(temperature).__name__}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature: must be positive and finite, got {temperature}; for T = 0 use cvxsst.argmax")
    return float(temperature)


def _check_positive(T: torch.Tensor) -> None:
    if not bool(((T > 0) & torch.isfinite(T)).all()):
        raise ValueError("temperature: must be positive and finite everywhere; for T = 0 use cvxsst.argmax")

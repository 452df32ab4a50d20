"""The networks, which see every number on its own, and how an order is judged."""

from __future__ import annotations

import torch
from torch import nn

from experiments.runs.orders import kendalls_tau


def perceptron(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, outputs))


class Ranks(nn.Module):
    """x ``(B, n)`` to scores ``(B, n, n)``: an output for each rank, for lists of n numbers alone, as published."""

    def __init__(self, numbers: int, width: int):
        super().__init__()
        self.score = perceptron(width, numbers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(x[..., None])


class Places(nn.Module):
    """x ``(B, n)`` to scores ``(B, n, n)``: of number and of where a rank lies between 0 and 1, for lists of any
    length."""

    def __init__(self, width: int):
        super().__init__()
        self.number, self.rank = perceptron(width, width), perceptron(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[-1]
        rank = (torch.arange(n, dtype=x.dtype, device=x.device) + 0.5) / n
        return self.number(x[..., None]) @ self.rank(rank[:, None]).T


class Scalar(nn.Module):
    """x ``(B, n)`` to scores ``(B, n)``, for lists of any length."""

    def __init__(self, width: int):
        super().__init__()
        self.score = perceptron(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(x[..., None])[..., 0]


def placed(Z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Z' x ``(*, B, n)``: at rank j the numbers i, each with weight Z[i, j]."""
    return (Z * x[..., None]).sum(-2)


def judged(y: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of lists y ``(B, n)`` that shall be x sorted, ``(B,)`` each: share of ranks with a wrong number, whether there is
    one, Kendall's tau, and mean distances of the numbers."""
    truth = x.sort(-1).values
    wrong, off = y != truth, y - truth
    return {
        "wrong": wrong.to(y).mean(-1),
        "any": wrong.any(-1).to(y),
        "tau": kendalls_tau(y),
        "l1": off.abs().mean(-1),
        "l2": off.square().mean(-1),
    }

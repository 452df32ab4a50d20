"""Predicted orders against true ones."""

from __future__ import annotations

import torch


def kendalls_tau(y: torch.Tensor) -> torch.Tensor:
    """``(*,)`` for ``(*, n)``: of all pairs the share that rises less the share that falls; 1 where there is none."""
    i, j = torch.triu_indices(y.shape[-1], y.shape[-1], 1, device=y.device)
    signs = (y[..., j] - y[..., i]).sign()
    return signs.to(torch.get_default_dtype()).mean(-1) if len(i) else torch.ones_like(y[..., 0])

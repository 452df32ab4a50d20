"""Predicted graphs against true ones."""

from __future__ import annotations

import torch


def precision_and_recall(graph: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the edges of 0/1 matrices ``(batch, V, V)``, each ``(batch,)``; precision 0 where no edge is predicted."""
    right = (graph * truth).sum(dim=(1, 2))
    return right / graph.sum(dim=(1, 2)).clamp(min=1), right / truth.sum(dim=(1, 2)).clamp(min=1)

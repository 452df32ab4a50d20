"""Batch normalization whose statistics are those of the whole batch, however many processes share it.

``torch.nn.SyncBatchNorm`` does this on GPUs only, and refuses the CPU. Here one class serves both, so that a run on two
processes has the gradients of a run on one (tests/test_graph_layout_training.py).
"""

from __future__ import annotations

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce


class BatchNorm(nn.BatchNorm1d):
    """``(*, features)``, normalized over all of ``*`` and, in training, over all processes (equally many rows each)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name
        rows = input.flatten(0, -2)
        processes = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
        if not self.training or processes == 1:
            return super().forward(rows).view_as(input)
        n = processes * len(rows)
        # all_reduce is differentiable; the deviations in a second pass, since E x^2 - (E x)^2 cancels
        mean = all_reduce(rows.sum(0)) / n
        variance = all_reduce((rows - mean).square().sum(0)) / n
        self._remember(mean.detach(), variance.detach() * n / (n - 1))
        return ((rows - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias).view_as(input)

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)

"""The networks: from words to scores, and from the chosen words to the rating.

    simple    embeddings, a convolution over three words, the scores
    complex   embeddings, a convolution; on it two more, beside a layer on its maximum over all words; the scores
    rating    sigmoid of two layers on sum_i z_i e_i / k, e the embeddings

The complex one and the last are those of the works that followed (Niepert et al. 2021); the original networks were
never published. The score of a pair of neighbours is linear in the hidden values of both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from experiments.l2x.data import PADDING, VOCABULARY, Batch
from experiments.l2x.subsets import Scores

DROPOUT = 0.2


class Embedding(nn.Module):
    """``(B, n, d)`` of a batch, 0 for padding: learned, or those that it brings along."""

    def __init__(self, width: int, frozen: bool):
        super().__init__()
        self.learned = None if frozen else nn.Embedding(VOCABULARY, width, padding_idx=PADDING)

    def forward(self, batch: Batch) -> torch.Tensor:
        return batch.vectors if self.learned is None else self.learned(batch.tokens)


def convolution(inputs: int, width: int, words: int) -> nn.Module:
    return nn.Conv1d(inputs, width, words, padding="same")


class Simple(nn.Module):
    """Hidden values ``(B, width, n)`` of embeddings ``(B, d, n)``."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.near = convolution(inputs, width, 3)

    def forward(self, e: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return F.relu(self.near(e))


class Complex(nn.Module):
    """Likewise, also of what the review holds elsewhere."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.first, self.near, self.wider = (convolution(d, width, 3) for d in (inputs, width, width))
        self.everywhere, self.last = nn.Linear(width, width), convolution(2 * width, width, 1)

    def forward(self, e: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        real = real[:, None]  # padding is 0 everywhere, as what lies beyond it
        first = F.relu(self.first(e)) * real
        near = F.relu(self.wider(F.relu(self.near(first)) * real))
        everywhere = F.relu(self.everywhere(first.amax(-1)))[..., None].expand_as(near)
        both = F.dropout(torch.cat([everywhere, near], 1), DROPOUT, self.training)
        return F.relu(self.last(both))


SELECTORS: dict[str, type[Simple | Complex]] = {"simple": Simple, "complex": Complex}


class Selector(nn.Module):
    """The scores of embeddings ``(B, n, d)``; ``real`` ``(B, n)``, bool: no padding."""

    def __init__(self, kind: str, inputs: int, width: int):
        super().__init__()
        self.hidden = SELECTORS[kind](inputs, width)
        self.word, self.pair = nn.Conv1d(width, 1, 1), nn.Conv1d(width, 1, 2)

    def forward(self, e: torch.Tensor, real: torch.Tensor) -> Scores:
        hidden = self.hidden(e.mT, real)
        return Scores(self.word(hidden)[:, 0], self.pair(hidden)[:, 0])


class Rating(nn.Module):
    """``(*samples, B)``, of subsets ``(*samples, B, n)`` of words with embeddings ``(B, n, d)``."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, e: torch.Tensor, z: torch.Tensor, k: int) -> torch.Tensor:
        mean = (z[..., None, :].to(e.dtype) @ e)[..., 0, :] / k
        return torch.sigmoid(self.layers(mean)[..., 0])

"""The networks (Paulus et al. 2020, section 8.2): from tokens to scores, from tokens and a graph to the result.

    theta_ij = <h_i, m_j>                                    h, m: outputs of two LSTMs on the tokens
    e_i <- e_i + sum_j A_ij f(e_j, e_i),   five times        f: two layers; messages go from dependents to their head
    logits of the ten digits: three layers on e_0            the root's embedding at last

Tokens are ``(B, n)``, graphs ``(B, n, n)``, entry [head, dependent].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from experiments.listops.edges import arcs_within
from experiments.listops.language import DIGITS, PADDING, VOCABULARY

STEPS = 5
DROPOUT = 0.1


class Scores(nn.Module):
    """``(B, n, n)``: how well token i would do as the head of token j."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), width)
        self.head = nn.LSTM(width, width, batch_first=True)
        self.dependent = nn.LSTM(width, width, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        e = self.embedding(tokens)
        h, m = (F.dropout(lstm(e)[0], DROPOUT, self.training) for lstm in (self.head, self.dependent))
        return h @ m.mT


class Classifier(nn.Sequential):
    """Logits ``(B, 10)`` of the digits."""

    def __init__(self, width: int):
        layers = (nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        super().__init__(*layers, nn.Linear(width, len(DIGITS)))


class MessagePassing(nn.Module):
    """Logits of the result from tokens and a graph."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), width)
        self.ends, self.message = nn.Linear(2 * width, width), nn.Linear(width, width)
        self.classifier = Classifier(width)

    def forward(self, tokens: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        lengths, n = (tokens != PADDING).sum(1), tokens.shape[1]
        # without a gradient to the graph, only its edges count: of trees, n - 1 of n^2
        arcs = arcs_within(n, lengths) if graph.requires_grad else graph != 0
        instance, head, dependent = arcs.nonzero(as_tuple=True)
        to, by = instance * n + head, instance * n + dependent
        weights = graph[instance, head, dependent, None]
        e = self.embedding(tokens).flatten(0, 1)
        width = e.shape[-1]
        for _ in range(STEPS):
            # W [e_j, e_i] = W_1 e_j + W_2 e_i, of the tokens, not of all pairs
            sent, received = F.linear(e, self.ends.weight[:, :width]), F.linear(e, self.ends.weight[:, width:])
            hidden = F.relu(sent[by] + (received + self.ends.bias)[to])
            messages = F.dropout(F.relu(self.message(hidden)), DROPOUT, self.training)
            e = e.index_add(0, to, weights * messages)
        return self.classifier(e.unflatten(0, tokens.shape)[:, 0])


class Reader(nn.Module):
    """An LSTM that has read the tokens to their end, ``(B, width)``."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), width)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        read = self.lstm(self.embedding(tokens))[0]
        last = (tokens != PADDING).sum(1) - 1
        return read[torch.arange(len(tokens), device=tokens.device), last]

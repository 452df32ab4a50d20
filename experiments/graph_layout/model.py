"""Encoder, decoder and objective of neural relational inference (Kipf et al. 2018), as Paulus et al. 2020 use them.

    theta = Encoder(x)                  scores of the ordered pairs of nodes, from whole trajectories
    X     ~ q(. | theta)                the latent graph (edges.py)
    x_t+1 = x_t + Decoder(x_t, X)       messages along the edges, a network for each type of edge
    -ELBO = sum |x - prediction|^2 / (2 sigma^2 V)  +  KL(q || p) / V

Trajectories are ``(batch, V, T, 2)``; what belongs to ordered pairs of nodes is a V x V matrix, entry [sender,
receiver], zero on the diagonal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from experiments.graph_layout.batch_norm import BatchNorm

VARIANCE = 5e-5  # sigma^2, of a coordinate around its prediction; coordinates lie in [-1, 1]
HORIZON = 10  # frames that the decoder predicts, in training, before it sees a true one again


class Block(nn.Module):
    """Linear, ELU, Linear, ELU, batch normalization; weights Xavier-normal, biases 0.1."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(inputs, width), nn.Linear(width, width), BatchNorm(width)
        for layer in (self.first, self.second):
            nn.init.xavier_normal_(layer.weight)
            nn.init.constant_(layer.bias, 0.1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``hidden`` is what ``first`` gives."""
        return self.norm(F.elu(self.second(F.elu(hidden))))


class Encoder(nn.Module):
    """Scores ``(batch, outputs, V, V)`` of the ordered pairs.

    Nodes to pairs, to nodes, and back to pairs, with a skip connection. A layer on the concatenation [sender, receiver]
    is W_s sender + W_r receiver: W_s and W_r act on the V nodes, not on the V (V - 1) pairs.
    """

    sender: torch.Tensor
    receiver: torch.Tensor

    def __init__(self, nodes: int, length: int, width: int, outputs: int):
        super().__init__()
        sender, receiver = torch.nonzero(~torch.eye(nodes, dtype=torch.bool)).T
        self.register_buffer("sender", sender, persistent=False)
        self.register_buffer("receiver", receiver, persistent=False)
        self.node_in, self.pair_in = Block(2 * length, width), Block(2 * width, width)
        self.node, self.pair = Block(width, width), Block(3 * width, width)
        self.out = nn.Linear(width, outputs)
        nn.init.xavier_normal_(self.out.weight)
        nn.init.constant_(self.out.bias, 0.1)

    def forward(self, trajectories: torch.Tensor) -> torch.Tensor:
        count = trajectories.shape[1]
        nodes = self.node_in(self.node_in.first(trajectories.flatten(2)))
        skip = self.pair_in(self._of_ends(self.pair_in.first, nodes))
        nodes = self.node(self.node.first(self._matrices(skip, count).sum(2).mT / count))
        of_skip = F.linear(skip, self.pair.first.weight[:, 2 * nodes.shape[-1] :])
        return self._matrices(self.out(self.pair(self._of_ends(self.pair.first, nodes) + of_skip)), count)

    def _of_ends(self, layer: nn.Linear, nodes: torch.Tensor) -> torch.Tensor:
        """W_s sender + W_r receiver + b, W_s and W_r the first columns of the layer's weights."""
        width = nodes.shape[-1]
        from_sender = F.linear(nodes, layer.weight[:, :width], layer.bias)[:, self.sender]
        return from_sender + F.linear(nodes, layer.weight[:, width : 2 * width])[:, self.receiver]

    def _matrices(self, values: torch.Tensor, nodes: int) -> torch.Tensor:
        """``(batch, V (V - 1), k)`` -> ``(batch, k, V, V)``."""
        whole = values.new_zeros(len(values), values.shape[-1], nodes, nodes)
        whole[..., self.sender, self.receiver] = values.mT
        return whole


class Decoder(nn.Module):
    """The change of the positions ``(batch, V, 2)`` until the next frame, given a graph ``(batch, types, V, V)``."""

    def __init__(self, types: int, width: int):
        super().__init__()
        self.ends = nn.ModuleList(nn.Linear(4, width) for _ in range(types))
        self.messages = nn.ModuleList(nn.Linear(width, width) for _ in range(types))
        self.out = nn.Sequential(
            nn.Linear(2 + width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )

    def forward(self, positions: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        networks = zip(graph.unbind(1), self.ends, self.messages, strict=True)
        received = torch.stack([self._received(positions, *network) for network in networks]).sum(0)
        return self.out(torch.cat([positions, received], -1))

    @staticmethod
    def _received(positions: torch.Tensor, weights: torch.Tensor, ends: nn.Module, message: nn.Module) -> torch.Tensor:
        """The sum of the messages into every node ``(batch, V, width)``, each times the weight of its edge.

        All V^2 pairs at once [receiver, sender]: cheaper than to gather V (V - 1); the diagonal has weight 0.
        """
        assert isinstance(ends, nn.Linear)
        to, by = F.linear(positions, ends.weight[:, 2:], ends.bias), F.linear(positions, ends.weight[:, :2])
        messages = F.relu(message(F.relu(to[:, :, None] + by[:, None])))
        return (weights.mT[:, :, None] @ messages).squeeze(2)

    def predict(self, trajectories: torch.Tensor, graph: torch.Tensor, horizon: int) -> torch.Tensor:
        """Frames 1 .. T - 1, ``(batch, V, T - 1, 2)``; every ``horizon`` frames it starts again from a true one."""
        batch, nodes, length, _ = trajectories.shape
        starts = trajectories[:, :, : length - 1 : horizon]
        positions = starts.transpose(1, 2).reshape(-1, nodes, 2)
        graph = graph.repeat_interleave(starts.shape[2], 0)
        predictions = []
        for _ in range(horizon):
            positions = positions + self(positions, graph)
            predictions.append(positions)
        frames = torch.stack(predictions, 1).unflatten(0, (batch, -1)).flatten(1, 2)  # (batch, starts * horizon, V, 2)
        return frames[:, : length - 1].transpose(1, 2)


def negative_log_likelihood(predictions: torch.Tensor, trajectories: torch.Tensor) -> torch.Tensor:
    """``(batch,)``: sum |x - prediction|^2 / (2 sigma^2 V) over all frames but the first, without the constant."""
    errors = predictions - trajectories[:, :, 1:]
    return errors.square().sum(dim=(1, 2, 3)) / (2 * VARIANCE * trajectories.shape[1])

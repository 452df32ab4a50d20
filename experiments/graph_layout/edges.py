"""The edge distributions: what the latent graph is, a line of the table each.

On top of cvxsst a distribution is three lines: utilities, polytope, relaxation (``Edges.argmax``, ``Edges.softmax``).
Where scores are symmetric, theta_ij = theta_ji, there is one utility for each undirected pair; *independent* has two,
for no edge and for an edge, of each ordered pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.distributions import Gumbel, kl_divergence

from cvxsst import (
    BinaryEntropy,
    CategoricalEntropy,
    Euclidean,
    ExponentialFamily,
    Polytope,
    Regularizer,
    StochasticArgmax,
    StochasticSoftmax,
    argmax,
    softmax,
)
from experiments.runs.gradients import Latent
from polytopes import k_subset, simplex, spanning_tree


@dataclass(frozen=True)
class Edges:
    """A row of the table: the polytope on V nodes, and the regularizer of the relaxation.

    Scores theta are ``(batch, outputs, V, V)``, entry [sender, receiver], zero on the diagonal; graphs ``(batch, 2, V,
    V)``: the weights of no edge and of an edge, zero on the diagonal.
    """

    label: str
    polytope: Callable[[int], Polytope]
    regularizer: Regularizer
    directed: bool = False

    @property
    def outputs(self) -> int:
        return 2 if self.directed else 1

    def symmetric(self, theta: torch.Tensor) -> torch.Tensor:
        """theta as it is used: the mean of both directions, unless edges are directed."""
        return theta if self.directed else (theta + theta.mT) / 2

    def utilities(self, theta: torch.Tensor) -> Gumbel:
        if self.directed:
            return Gumbel(theta.movedim(1, -1), 1.0)
        nodes = theta.shape[-1]
        i, j = torch.triu_indices(nodes, nodes, 1, device=theta.device)
        return Gumbel(theta[:, 0, i, j], 1.0)

    def argmax(self, theta: torch.Tensor) -> StochasticArgmax:
        """The distribution of the latent graph."""
        return StochasticArgmax(self.utilities(theta), self.polytope(theta.shape[-1]))

    def softmax(
        self, theta: torch.Tensor, temperature: float, hard: bool = False, engine: str = "auto"
    ) -> StochasticSoftmax:
        """Its relaxation, reparametrized."""
        P = self.polytope(theta.shape[-1])
        return StochasticSoftmax(self.utilities(theta), P, self.regularizer, temperature, hard=hard, engine=engine)

    def latent(self, theta: torch.Tensor, temperature: float, engine: str) -> Latent:
        """Both, as functions of the utilities."""
        utilities, P = self.utilities(theta), self.polytope(theta.shape[-1])
        relaxed = partial(softmax, P, regularizer=self.regularizer, temperature=temperature, engine=engine)
        return Latent(utilities, partial(argmax, P), relaxed, lambda w: utilities.log_prob(w).flatten(2).sum(-1))

    def graph(self, z: torch.Tensor, nodes: int) -> torch.Tensor:
        """A sample, with any dimensions before those of the polytope, as a graph."""
        pairs = 1 - torch.eye(nodes, dtype=z.dtype, device=z.device)
        if self.directed:
            return z.movedim(-1, -3) * pairs
        i, j = torch.triu_indices(nodes, nodes, 1, device=z.device)
        X = z.new_zeros(*z.shape[:-1], nodes, nodes)
        X[..., i, j] = X[..., j, i] = z
        return torch.stack([pairs - X, X], -3)


def kl_to_prior(theta: torch.Tensor) -> torch.Tensor:
    """``(batch,)``: KL(Gumbel(theta, 1) || Gumbel(0, 1)) / V, summed over all scores; 0 for those on the diagonal.

    It bounds the divergence between the graphs (data processing). As in the original experiment an undirected pair
    counts in both directions.
    """
    kl = kl_divergence(Gumbel(theta, 1.0), Gumbel(torch.zeros_like(theta), 1.0))
    return kl.sum(dim=(1, 2, 3)) / theta.shape[-1]


def top(nodes: int) -> Polytope:
    """As many undirected pairs as a tree has edges."""
    return k_subset(nodes * (nodes - 1) // 2, nodes - 1)


def either(nodes: int) -> Polytope:
    """An edge or none; one such simplex for every ordered pair."""
    return simplex(2)


EDGES = {
    "independent": Edges("Indep. directed edges (NRI)", either, CategoricalEntropy(), directed=True),
    "top-k": Edges("E.F. Ent. Top V-1", top, ExponentialFamily()),
    "top-k-euclidean": Edges("Euclid. Top V-1", top, Euclidean()),
    "top-k-binary": Edges("Bin. Ent. Top V-1", top, BinaryEntropy()),
    "spanning-tree": Edges("Spanning tree", spanning_tree, ExponentialFamily()),
    "spanning-tree-euclidean": Edges("Spanning tree, Euclid.", spanning_tree, Euclidean()),
    "spanning-tree-binary": Edges("Spanning tree, Bin. Ent.", spanning_tree, BinaryEntropy()),
}

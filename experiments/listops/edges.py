"""The latent graphs on the tokens of an expression, a line of the table each.

Scores theta are ``(B, n, n)``, entry [head, dependent]. Graphs are matrices of that shape, undirected ones symmetric.
What has to do with padding is no edge, whatever the noise: sentences of all lengths are one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch.distributions import Distribution, Gumbel, Normal, TransformedDistribution, Uniform
from torch.distributions.transforms import AffineTransform, SigmoidTransform

from cvxsst import BinaryEntropy, Euclidean, ExponentialFamily, NegativeExponential, Polytope, Regularizer, argmax
from cvxsst import softmax as relaxed_argmax
from experiments.runs.gradients import Latent
from polytopes import arborescence, cube, projective_tree, spanning_tree
from polytopes.padding import padded
from polytopes.relaxed_eisner import relaxed_eisner

Noise = Callable[[torch.Tensor], Distribution]


def gumbel(theta: torch.Tensor) -> Distribution:
    return Gumbel(theta, 1.0)


def gaussian(theta: torch.Tensor) -> Distribution:
    return Normal(theta, 1.0)


def negative_exponential(theta: torch.Tensor) -> Distribution:
    """-E softplus(theta), E ~ Exponential(1)."""
    return NegativeExponential(1 / (F.softplus(theta) + 1e-6))


def logistic(theta: torch.Tensor) -> Distribution:
    """theta + the difference of two Gumbel variables: an edge against none."""
    standard = Uniform(torch.zeros_like(theta), 1.0)
    return TransformedDistribution(standard, [SigmoidTransform().inv, AffineTransform(theta, 1.0)])


@dataclass(frozen=True)
class Trees:
    """A polytope of trees on n nodes, the noise, and the relaxation: a regularizer, or a function of w / T.

    ``engine``: for "auto", where the library's own choice would be a slow one.

    The utilities of undirected trees are those of the pairs i < j, ``(B, pairs)``, else those of the arcs.
    """

    label: str
    polytope: Callable[[int], Polytope]
    regularizer: Regularizer = ExponentialFamily()  # noqa: RUF009 - frozen and without state
    noise: Noise = gumbel
    undirected: bool = False
    relaxation: Callable[[torch.Tensor], torch.Tensor] | None = None
    engine: str = "auto"

    def latent(self, theta: torch.Tensor, lengths: torch.Tensor, temperature: float, engine: str = "auto") -> Latent:
        """The latent graphs ``(samples, B, n, n)`` as functions of the utilities."""
        P = self.polytope(theta.shape[-1])
        utilities, matters = self.noise(self.of_scores(theta)), self.matters(theta.shape[-1], lengths)

        def graph(choose: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor) -> torch.Tensor:
            z = choose(self.possible(P, w, lengths, matters))
            return self.matrix(torch.where(matters, z, 0), theta.shape[-1])

        def log_prob(w: torch.Tensor) -> torch.Tensor:
            return torch.where(matters, utilities.log_prob(w), 0).flatten(2).sum(-1)

        def softmax(w: torch.Tensor) -> torch.Tensor:
            if self.relaxation is not None:
                return self.relaxation(w / temperature)
            return relaxed_argmax(P, w, self.regularizer, temperature, self.engine if engine == "auto" else engine)

        return Latent(utilities, partial(graph, partial(argmax, P)), partial(graph, softmax), log_prob)

    def of_scores(self, theta: torch.Tensor) -> torch.Tensor:
        """Where utilities lie: of an undirected edge, theta_ij + theta_ji."""
        if not self.undirected:
            return theta
        i, j = _pairs(theta)
        return theta[:, i, j] + theta[:, j, i]

    def matters(self, n: int, lengths: torch.Tensor) -> torch.Tensor:
        """The utilities of edges that there may be, bool, in the shape of utilities."""
        arcs = arcs_within(n, lengths)
        arcs[:, :, 0] = False
        return arcs[:, *_pairs(arcs)] if self.undirected else arcs

    def possible(self, P: Polytope, w: torch.Tensor, lengths: torch.Tensor, matters: torch.Tensor) -> torch.Tensor:
        return padded(P, w, lengths.expand(w.shape[: w.dim() - len(P.shape)]))

    def matrix(self, z: torch.Tensor, n: int) -> torch.Tensor:
        if not self.undirected:
            return z
        i, j = torch.triu_indices(n, n, 1, device=z.device)
        X = z.new_zeros(*z.shape[:-1], n, n)
        X[..., i, j] = X[..., j, i] = z
        return X


@dataclass(frozen=True)
class Independent(Trees):
    """Every edge for itself; the utilities are matrices, and of undirected edges those above the diagonal matter."""

    polytope: Callable[[int], Polytope] = cube
    regularizer: Regularizer = BinaryEntropy()  # noqa: RUF009 - frozen and without state
    noise: Noise = logistic

    def of_scores(self, theta: torch.Tensor) -> torch.Tensor:
        return theta + theta.mT if self.undirected else theta

    def matters(self, n: int, lengths: torch.Tensor) -> torch.Tensor:
        arcs = arcs_within(n, lengths)
        return arcs.triu() if self.undirected else arcs

    def possible(self, P: Polytope, w: torch.Tensor, lengths: torch.Tensor, matters: torch.Tensor) -> torch.Tensor:
        return torch.where(matters, w, -torch.inf)

    def matrix(self, z: torch.Tensor, n: int) -> torch.Tensor:
        return z + z.mT if self.undirected else z


def _pairs(theta: torch.Tensor) -> torch.Tensor:
    return torch.triu_indices(theta.shape[-1], theta.shape[-1], 1, device=theta.device)


def arcs_within(n: int, lengths: torch.Tensor) -> torch.Tensor:
    """``(B, n, n)``, bool: between two different tokens that are no padding."""
    real = torch.arange(n, device=lengths.device) < lengths[:, None]
    return real[:, :, None] & real[:, None] & ~torch.eye(n, dtype=torch.bool, device=lengths.device)


EDGES: dict[str, Trees] = {
    "independent-undirected": Independent("Indep. undirected", undirected=True),
    "spanning-tree": Trees("Spanning tree", spanning_tree, undirected=True),
    "independent": Independent("Indep. directed"),
    "arborescence-exponential": Trees("Arborescence, Neg. Exp.", arborescence, noise=negative_exponential),
    "arborescence-gaussian": Trees("Arborescence, Gaussian", arborescence, noise=gaussian),
    "arborescence": Trees("Arborescence, Gumbel", arborescence),
    "arborescence-euclidean": Trees("Arborescence, Euclid.", arborescence, Euclidean(), engine="vertices"),
    "arborescence-binary": Trees("Arborescence, Bin. Ent.", arborescence, BinaryEntropy(), engine="facets"),
    "projective": Trees("Projective tree", projective_tree),
    "relaxed-eisner": Trees("Relaxed Eisner", projective_tree, relaxation=relaxed_eisner),
}
LSTM, TRUE = "lstm", "ground-truth"  # the rows without a latent graph
LABELS = {LSTM: "LSTM", **{name: edges.label for name, edges in EDGES.items()}, TRUE: "Ground-truth edges"}

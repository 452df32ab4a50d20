"""The Euclidean softmax as a distribution over few structures.

    z = argmax over P of <w, z> - T |z|^2 / 2  =  sum_k p_k v_k,      at most n + 1 vertices v_k

A vector of marginals z says how much of each entry is taken; p says of which structures. Expectations over p are finite
sums: a latent structure is marginalized exactly, without sampling and without leaving the structures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributions import Categorical

from cvxsst.engines.vertices.weights import Mixtures
from cvxsst.gradients import settled
from cvxsst.opaque import opaque
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem
from cvxsst.regularizers import Euclidean

SAME = 1e-6  # two structures are one if no entry differs by more
_ENGINE = Mixtures()


class SparseMAP:
    """p over the vertices of P, few of them with p > 0, whose mean is ``softmax(P, w, Euclidean(), T)``.

    Args:
        w: utilities ``(*batch, *P.shape)``; -inf forbids an entry.
        P: the polytope, declared or known by its oracle alone.
        temperature: T > 0, a float, or a tensor that broadcasts with the batch.

    Attributes:
        support: the structures, ``(*batch, K, *P.shape)``, the likeliest first; K is the most that an instance has, the
            others have their first once more, with probability 0.
        probs: p, ``(*batch, K)``, differentiable in w and T (backward, jvp, vmap; the second derivative is 0).
        batch_shape, event_shape: as of a distribution of torch. (It is none: there ``support`` is a constraint.)
        info: how each instance went, as of ``softmax``.

    *Derivative.* As long as the structures stay the same, which are affinely independent, z determines p; dp/dw is that
    of Niculae et al. 2018, section 3. Structures of probability 0 may be there to complete the face on which z lies:
    without them dp/dw would lack the directions to them.

    *Uniqueness.* z is unique and moves without jumps. p is unique where the structures on the face of z are affinely
    independent, as on the simplex. Elsewhere it is one of several, that to which the active set came: the same for the
    same w, in any batch, and changed by small changes of w only where the way there changes; there an expectation that
    is not linear in z jumps. The larger the face, as at high temperatures, the oftener.

    Raises:
        ValueError: as ``softmax``: wrong shape, NaN or +inf in w, T <= 0.
        EmptyPolytopeError: the -inf entries of an instance leave no structure.
        ConvergenceError: names the instances that failed.

    Cost: that of the engine ``"vertices"``; an expectation calls its function for all K structures at once.

    Sources: Niculae, Martins, Blondel and Cardie 2018, "SparseMAP: Differentiable Sparse Structured Inference";
    Correia, Niculae, Aziz and Martins 2020, "Efficient Marginalization of Discrete and Structured Latent Variables via
    Sparsity".

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import k_subset
        >>> p = cvxsst.SparseMAP(torch.tensor([1.0, 0.5, 0.0, -9.0]), k_subset(4, 2))
        >>> p.support, p.probs
        (tensor([[1., 1., 0., 0.],
                [1., 0., 1., 0.]]), tensor([0.7500, 0.2500]))
        >>> p.expectation(lambda z: z[..., 1] * z[..., 2])
        tensor(0.)
    """

    @opaque
    def __init__(self, w: torch.Tensor, P: Polytope, temperature: float | torch.Tensor = 1.0):
        problem = Problem.posed(P, w, Euclidean(), temperature).inspected()
        z, V, a, S, info = _ENGINE.mixtures(problem)
        settled(z, info, problem, "raise")
        K, u = a.shape[1], problem.u
        moved = torch.bmm(S, (u - u.detach()).unsqueeze(2)).squeeze(2)  # 0, with a derivative
        self.P, self.temperature, self.info = P, temperature, info.reshape(problem.batch)
        self.batch_shape, self.event_shape = problem.batch, torch.Size(P.shape)
        self.support = V.reshape(*problem.batch, K, *P.shape).to(w.dtype)
        self.probs = (a + moved).reshape(*problem.batch, K).to(w.dtype)

    def expectation(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """E[function(z)] = sum_k p_k function(v_k), exact, with its gradient in w, T and whatever function depends on.

        Args:
            function: of structures ``(*batch, K, *P.shape)`` to values ``(*batch, K, *value)``, finite.

        Returns:
            ``(*batch, *value)``.
        """
        values = function(self.support)
        expected = self.probs.shape
        if not isinstance(values, torch.Tensor) or values.shape[: len(expected)] != expected:
            got = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise ValueError(
                f"function: for structures {tuple(self.support.shape)} it must return {tuple(expected)} values, each a "
                f"number or a tensor, got {got}"
            )
        weights = self.probs.reshape(*expected, *[1] * (values.dim() - len(expected)))
        return (weights * values).sum(len(self.batch_shape))

    @property
    def mean(self) -> torch.Tensor:
        """E[z] ``(*batch, *P.shape)``: the Euclidean softmax."""
        return self.expectation(lambda z: z)

    @property
    def variance(self) -> torch.Tensor:
        """Of each entry of z, ``(*batch, *P.shape)``."""
        return self.expectation(torch.square) - self.mean.square()

    @property
    def mode(self) -> torch.Tensor:
        """The likeliest structure, ``(*batch, *P.shape)``; it need not be the argmax of w."""
        return self.support.select(len(self.batch_shape), 0)

    def entropy(self) -> torch.Tensor:
        """- sum_k p_k log p_k, ``(*batch,)``."""
        there = self.probs > 0
        return torch.where(there, torch.special.entr(self.probs.where(there, 1.0)), 0.0).sum(-1)

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """log p(z) for structures z ``(*sample, *batch, *P.shape)``; -inf outside of the support. Differentiable."""
        event = len(self.event_shape)
        if z.dim() < event or z.shape[z.dim() - event :] != self.event_shape:
            raise ValueError(f"z: its last dimensions must be {tuple(self.event_shape)}, got {tuple(z.shape)}")
        far = (self.support - z.unsqueeze(-event - 1)).abs()
        same = (far.flatten(far.dim() - event) if event else far.unsqueeze(-1)).amax(-1) <= SAME
        p = torch.where(same, self.probs, 0.0).sum(-1)
        return torch.where(p > 0, p.where(p > 0, 1.0).log(), -torch.inf)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008 - torch's own interface
        """Structures ``(*sample_shape, *batch, *P.shape)``, from torch's global generator; without a gradient: with
        ``log_prob`` they make a score function estimator, ``expectation`` needs none."""
        shape = torch.Size(sample_shape)
        k = Categorical(probs=self.probs.detach().clamp_min(0.0), validate_args=False).sample(shape)
        support = self.support.expand(*shape, *self.support.shape)
        index = k.reshape(*k.shape, 1, *[1] * len(self.event_shape))
        return support.take_along_dim(index.expand(*k.shape, 1, *self.event_shape), dim=k.dim()).squeeze(k.dim())

    def __repr__(self) -> str:
        return f"SparseMAP(P: {self.P!r}, batch_shape: {tuple(self.batch_shape)}, structures: {self.probs.shape[-1]})"

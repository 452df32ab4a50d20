"""The Gibbs distribution over the structures Z of a polytope, as a ``torch.distributions.Distribution``.

    p(z) = exp(<w, z> / T - A),      A = A(w / T) = log sum over Z of exp <w, z> / T

    mean        grad A = E[z], the softmax of the exponential family
    entropy     A - <w / T, E[z]>
    KL(p | q)   A_q - A_p - <w_q / T_q - w_p / T_p, E_p[z]>

All of it is differentiable in w and T; only ``sample`` is not, as structures are discrete: ``cvxsst.estimators`` has
gradients of expectations. A is the family's (``@family.log_partition``), else a sum over all structures of a small set;
samples are exact, by the family (``@family.sample``), else drawn from the list of structures.

References: Wainwright and Jordan 2008 (Graphical models, exponential families, and variational inference), chapter 3.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch.distributions import Distribution, constraints, register_kl

from cvxsst.arguments import checked_temperature
from cvxsst.distributions import Membership
from cvxsst.errors import NoFastPathError
from cvxsst.geometry.vertices import MOST
from cvxsst.maps import argmax, smooth_max, softmax
from cvxsst.oracles import takes
from cvxsst.polytope import Polytope
from cvxsst.problem import Problem
from cvxsst.recognition import knowledge_of
from cvxsst.regularizers import ExponentialFamily
from cvxsst.regularizers.exponential_family import are_structures, log_count, log_partition
from cvxsst.values import holds

FAMILY = ExponentialFamily()


class IsStructure(Membership):
    """The constraint that z is a structure: a vertex of P."""

    is_discrete = True

    def check(self, value: torch.Tensor) -> torch.Tensor:
        batch = value.shape[: value.dim() - self.event_dim]
        rows = value.detach().to(torch.float64).reshape(batch.numel(), self.P.size)
        found = torch.isfinite(rows).all(dim=1)
        found[found.clone()] = are_structures(self.P, rows[found])
        return found.reshape(batch)


class Gibbs(Distribution):
    """p(z) ~ exp <w, z> / T over the structures z of P.

    Args:
        w: utilities ``(*batch, *P.shape)``, floating point; -inf forbids an entry.
        P: the polytope; its structures are its vertices.
        temperature: T > 0, a float or a tensor that broadcasts with the batch.

    ``sample`` is exact, ``(*sample_shape, *batch, *P.shape)``, dtype and device of w, from torch's global generator.
    ``log_prob``, ``mean``, ``entropy``, ``log_partition`` and ``kl_divergence`` (between two over the same P) are
    differentiable in w and T, twice. ``mode`` is the argmax. ``enumerate_support`` lists Z, up to 20,000 structures.

    Raises:
        ValueError: as ``softmax`` for w and T.
        EmptyPolytopeError: the -inf entries of an instance leave no structure.
        NoFastPathError: no ``@family.log_partition``, and too many structures to enumerate.

    Cost: that of a log-partition for all; a sample costs O(n) on the simplex and the cube, O(nk) on k-subsets, O(E) on
    paths, O(n^2 log n) on spanning trees and arborescences after O(n^3) for each instance, O(n^3) on projective trees.

    On the simplex it is ``torch.distributions.OneHotCategorical``, and the law of ``StochasticArgmax`` with
    ``Gumbel(w, T)`` utilities; elsewhere the two laws differ.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import spanning_tree
        >>> p = cvxsst.Gibbs(torch.zeros(6), spanning_tree(4))
        >>> 1 / p.log_prob(p.sample()).exp()  # 16 trees, all as likely
        tensor(16.)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's own interface
    has_enumerate_support = True

    def __init__(
        self,
        w: torch.Tensor,
        P: Polytope,
        temperature: float | torch.Tensor = 1.0,
        validate_args: bool | None = None,
    ):
        problem = Problem.posed(P, w, FAMILY, temperature).inspected()
        _require_partition(P)
        self.w, self.P, self.temperature = w, P, temperature
        super().__init__(problem.batch, torch.Size(P.shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return IsStructure(self.P)

    @property
    def log_partition(self) -> torch.Tensor:
        """A(w / T), ``(*batch,)``."""
        return self._log_partition().to(self.w.dtype)

    @property
    def mean(self) -> torch.Tensor:
        """E[z], ``(*batch, *P.shape)``: ``softmax(P, w, ExponentialFamily(), T)``."""
        return softmax(self.P, self.w, FAMILY, self.temperature)

    @property
    def mode(self) -> torch.Tensor:
        """The likeliest structure, ``(*batch, *P.shape)``."""
        return argmax(self.P, self.w).expand(*self.batch_shape, *self.event_shape)

    @property
    def variance(self) -> torch.Tensor:
        """Var(z_i) of each entry, of structures of zeros and ones; for others it is not here.

        Raises:
            NotImplementedError: entries between 0 and 1, or beyond.
        """
        low, high = self.P.bounds
        if not ((low == 0) | (low == 1)).all() or not ((high == 0) | (high == 1)).all():
            raise NotImplementedError("Gibbs: the variance is that of zeros and ones; estimate it from samples")
        return self.mean * (1 - self.mean)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """<w, z> / T - A of structures z ``(*samples, *batch, *P.shape)``; -inf where z takes a forbidden entry."""
        if self._validate_args:
            self._validate_sample(value)
        u, forbidden = self._u()
        found = self._paired(u, value.double()) - self._log_partition()
        return self._where_taken(found, value, forbidden, -torch.inf).to(self.w.dtype)

    def entropy(self) -> torch.Tensor:
        """A - <w / T, E[z]>, ``(*batch,)``, in nats."""
        mean = softmax(self.P, self.w.double(), FAMILY, self.temperature)
        return (self._log_partition() - self._paired(self._u()[0], mean)).clamp_min(0.0).to(self.w.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008 - torch's own interface
        """Structures, ``(*sample_shape, *batch, *P.shape)``, independent and exact."""
        shape, problem = torch.Size(sample_shape), self._problem()
        if problem.forbidden is not None:
            empty = torch.isneginf(log_partition(self.P, problem.u, problem.forbidden))
            if holds(empty):
                problem.raise_empty(empty)
        z = _drawn(self.P, problem.u, problem.forbidden, shape.numel())
        return z.reshape(*shape, *self.batch_shape, *self.event_shape).to(self.w.dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008 - torch's own interface
        """Not available: structures are discrete.

        Raises:
            NotImplementedError: always; names what there is instead.
        """
        raise NotImplementedError(
            "Gibbs has no rsample: structures are discrete. For gradients of expectations use cvxsst.estimators, with "
            "log_prob (score functions) or a relaxation; for relaxed samples StochasticSoftmax"
        )

    def enumerate_support(self, expand: bool = True) -> torch.Tensor:
        """All structures, ``(count, *batch, *P.shape)``, of batch dimensions of 1 unless ``expand``.

        Raises:
            NoFastPathError: more than 20,000 of them.
        """
        if log_count(self.P) > math.log(MOST) + 1e-9:  # told before brute force has looked for them
            raise NoFastPathError(f"{self.P!r} cannot be enumerated: it has about {math.exp(log_count(self.P)):.3g}")
        V = torch.from_numpy(self.P.vertices()).to(self.w)
        V = V.reshape(-1, *[1] * len(self.batch_shape), *self.event_shape)
        return V.expand(-1, *self.batch_shape, *self.event_shape) if expand else V

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        shape = torch.Size(batch_shape)
        T = self.temperature.expand(shape) if isinstance(self.temperature, torch.Tensor) else self.temperature
        return type(self)(self.w.expand(*shape, *self.event_shape), self.P, T, validate_args=self._validate_args)

    def __repr__(self) -> str:
        T = self.temperature
        shown = f"tensor of shape {tuple(T.shape)}" if isinstance(T, torch.Tensor) else T
        return f"Gibbs(P: {self.P!r}, temperature: {shown}, batch_shape: {tuple(self.batch_shape)})"

    # Made anew whenever they are asked for: a graph that is kept could be gone backward through once only.

    def _problem(self) -> Problem:
        return Problem.posed(self.P, self.w, FAMILY, self.temperature).inspected()

    def _log_partition(self) -> torch.Tensor:
        T = checked_temperature(self.temperature, self.w.device)
        return smooth_max(self.P, self.w.double(), FAMILY, T) / T

    def _u(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """w / T, 0 where forbidden, and where that is, both ``(*batch, *P.shape)``."""
        problem, shape = self._problem(), (*self.batch_shape, *self.event_shape)
        return problem.u.reshape(shape), None if problem.forbidden is None else problem.forbidden.reshape(shape)

    def _paired(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """<a, b> over the dimensions of the event."""
        return self.P.flat(a * b).sum(-1)

    def _where_taken(
        self, found: torch.Tensor, z: torch.Tensor, forbidden: torch.Tensor | None, value: float
    ) -> torch.Tensor:
        """``value`` where z is not 0 in a forbidden entry."""
        return found if forbidden is None else found.masked_fill(self.P.flat(forbidden & (z != 0)).any(-1), value)


def _require_partition(P: Polytope) -> None:
    knowledge = knowledge_of(P)
    if knowledge is not None and knowledge.log_partition is not None:
        return
    try:
        P.vertices()
    except NoFastPathError:
        raise NoFastPathError(
            f"P: the Gibbs distribution over {P!r} needs the sum of exp <w, z> over all structures: the family has no "
            "@family.log_partition, and there are more than can be enumerated. Where that sum is #P-hard, as over "
            "permutations and matchings, use StochasticArgmax(Gumbel(w, T), P), whose samples need the argmax alone, "
            "and its relaxation StochasticSoftmax"
        ) from None


def _drawn(P: Polytope, u: torch.Tensor, forbidden: torch.Tensor | None, samples: int) -> torch.Tensor:
    """``(samples, B, n)`` for u ``(B, n)``, of which every instance has a structure."""
    knowledge = knowledge_of(P)
    path = None if knowledge is None else knowledge.sample
    if path is not None and u.numel():
        lowered = u if forbidden is None else u.masked_fill(forbidden, -torch.inf)
        return path(lowered.reshape(-1, *P.shape), samples=samples).reshape(samples, *u.shape)
    try:
        V = torch.from_numpy(P.vertices()).to(u)
    except NoFastPathError as error:
        raise NoFastPathError(f"sample: {error}, and @family.sample") from None
    if not len(u) or not samples:
        return u.new_zeros(samples, *u.shape)
    logits = u @ V.T
    if forbidden is not None:
        logits = logits.masked_fill(takes(V, forbidden), -torch.inf)
    return V[torch.multinomial(logits.softmax(1), samples, replacement=True).T]


@register_kl(Gibbs, Gibbs)
def _divergence(p: Gibbs, q: Gibbs) -> torch.Tensor:
    """KL(p | q); inf where p may take what q forbids."""
    if p.P is not q.P:
        raise NotImplementedError(f"kl_divergence: between distributions over one polytope, got {p.P!r} and {q.P!r}")
    mean = softmax(p.P, p.w.double(), FAMILY, p.temperature)
    (u_p, _), (u_q, forbidden) = p._u(), q._u()
    found = (q._log_partition() - p._log_partition() - p._paired(u_q - u_p, mean)).clamp_min(0.0)
    return p._where_taken(found, mean, forbidden, torch.inf).to(torch.promote_types(p.w.dtype, q.w.dtype))

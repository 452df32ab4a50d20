"""What an engine is: a differentiable map u -> z over a flat batch, and what it tells of how it went."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from cvxsst.regularizers import Regularizer, Separable

if TYPE_CHECKING:
    from cvxsst.geometry.presolve import Presolved
    from cvxsst.polytope import Polytope


@dataclass(frozen=True)
class Info:
    """How each instance went; tensors of the batch's shape.

    Attributes:
        converged: bool: the residual is below the tolerance and z is finite.
        residual: an upper bound on the distance from z to the solution (maximum norm), from a certificate;
            NaN where the engine is a closed form, which has none.
        iterations: of the solver, as far as it tells; 0 for a closed form.
        empty: bool: the -inf entries of this instance leave no point of P.
    """

    converged: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor
    empty: torch.Tensor

    def reshape(self, batch: torch.Size) -> Info:
        return Info(*(getattr(self, name).reshape(batch) for name in ("converged", "residual", "iterations", "empty")))

    @staticmethod
    def of_closed_form(z: torch.Tensor, empty: torch.Tensor | None = None) -> Info:
        """For a result without iterations: converged where finite."""
        finite = torch.isfinite(z.sum(dim=1))
        none = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        return Info(
            converged=finite,
            residual=torch.full((len(z),), torch.nan, dtype=torch.float64, device=z.device),
            iterations=torch.zeros(len(z), dtype=torch.long, device=z.device),
            empty=none if empty is None else empty,
        )


class Engine(ABC):
    """Solves argmax over P of <u, z> - f(z), differentiably.

    An engine must define ``name``, ``supports`` and ``softmax``. The identities it satisfies, tested for every
    engine: z is in P and its certificate's gap is 0; the derivative dz/du is symmetric and positive semidefinite
    and equals the central difference of ``softmax``.
    """

    name: ClassVar[str]

    @abstractmethod
    def supports(self, P: Polytope, regularizer: Regularizer) -> bool:
        """Whether this engine can solve this problem."""

    @abstractmethod
    def softmax(
        self, P: Polytope, regularizer: Regularizer, u: torch.Tensor, forbidden: torch.Tensor | None
    ) -> tuple[torch.Tensor, Info]:
        """Map u ``(B, n)``, float64 and finite, to z ``(B, n)``, connected by autograd.

        ``forbidden`` ``(B, n)``, bool, marks the entries that must be 0; None stands for none. Failed instances are
        told by ``Info``, never by an exception: no instance spoils another.
        """


def groups(
    forbidden: torch.Tensor | None, batch: int, device: torch.device
) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """The instances by their forbidden entries: ``[(entries, rows), ...]``."""
    if batch == 0:
        return []
    if forbidden is None or not bool(forbidden.any()):
        return [((), torch.arange(batch, device=device))]
    patterns, which = torch.unique(forbidden, dim=0, return_inverse=True)
    return [
        (tuple(pattern.nonzero().flatten().tolist()), (which == k).nonzero().flatten())
        for k, pattern in enumerate(patterns)
    ]


def said_by_domain(core: Presolved, phi: Separable) -> np.ndarray:
    """Rows of G such as -z_i <= 0 that the domain of phi implies: the entropy's own cone already says them."""
    form, (low, high) = core.form, phi.domain
    single = np.flatnonzero(np.diff(form.G.indptr) == 1)
    column, a = form.G.indices[form.G.indptr[single]], form.G.data[form.G.indptr[single]]
    end = np.where(a > 0, high, low)
    with np.errstate(invalid="ignore"):
        said = (column < form.n) & (a * end <= form.h[single])
    return single[said]

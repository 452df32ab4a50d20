"""The table on which the laws are tested: polytope x regularizer x engine.

A page of the zoo brings its own instances (``@polytope(examples=...)``), so a new page is tested as soon as it is
listed in ``polytopes.__all__``. Ad hoc polytopes stand for what users write: lifted atoms, attributes, matrices.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import cvxpy as cp
import torch

import cvxsst
import polytopes
from cvxsst.engines import ENGINES

REGULARIZERS: tuple[cvxsst.Regularizer, ...] = (
    cvxsst.Euclidean(),
    cvxsst.CategoricalEntropy(),
    cvxsst.BinaryEntropy(),
    cvxsst.ExponentialFamily(),
)
# A new regularizer is tested as soon as it has a public name, if it can be made without arguments.
for _name in cvxsst.regularizers.__all__:
    _public = getattr(cvxsst.regularizers, _name)
    if isinstance(_public, type) and issubclass(_public, cvxsst.Regularizer):
        REGULARIZERS += tuple(f for f in _public.examples() if f not in REGULARIZERS)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def zoo() -> list[cvxsst.Polytope]:
    families = [getattr(polytopes, name) for name in polytopes.__all__]
    return [family(*example) for family in families for example in family.examples]


def ad_hoc() -> list[cvxsst.Polytope]:
    x, y, s = cp.Variable(3), cp.Variable(4, bounds=[0, 1]), cp.Variable((3, 3), symmetric=True)
    return [
        cvxsst.Polytope(x, [cp.norm1(x) <= 1], name="cross"),
        cvxsst.Polytope(y, [cp.sum_largest(y, 2) <= 1.5, cp.max(y) <= 0.9], name="sum-largest"),
        cvxsst.Polytope(s, [s >= 0, cp.sum(s, axis=0) == 1], name="symmetric-birkhoff"),
    ]


# What each engine promises, a new one too: the certified gap, and how far its derivative is from symmetric.
GAP = defaultdict(lambda: 1e-8, {"fast": 1e-10, "cvxpylayer": 1e-10, "enumeration": 1e-10})
ASYMMETRY = defaultdict(lambda: 1e-8, {"fast": 1e-9, "cvxpylayer": 1e-9, "enumeration": 1e-9})


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    P: cvxsst.Polytope
    regularizer: cvxsst.Regularizer
    engine: str

    def __str__(self) -> str:
        return f"{self.P!r}-{type(self.regularizer).__name__}-{self.engine}".replace(" ", "")

    def solve(self, w: torch.Tensor, temperature: float | torch.Tensor = 1.0, **options) -> torch.Tensor:
        return cvxsst.softmax(self.P, w, self.regularizer, temperature, engine=self.engine, **options)

    def judge(self, z: torch.Tensor, w: torch.Tensor, temperature: float = 1.0) -> cvxsst.Certificate:
        return cvxsst.certificate(self.P, z, w, self.regularizer, temperature)


def in_domain(P: cvxsst.Polytope, regularizer: cvxsst.Regularizer) -> bool:
    try:
        regularizer.require_domain(P)
    except ValueError:
        return False
    return True


POLYTOPES = [*zoo(), *ad_hoc()]
CASES = [
    Case(P, regularizer, name)
    for P in POLYTOPES
    for regularizer in REGULARIZERS
    if in_domain(P, regularizer)
    for name, engine in ENGINES.items()
    if engine.supports(P, regularizer)
]


def utilities(P: cvxsst.Polytope, *batch: int, generator: torch.Generator, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*batch, *P.shape, generator=generator, dtype=torch.float64)


def value(regularizer: cvxsst.Regularizer, z: torch.Tensor) -> torch.Tensor:
    """f(z) of a separable regularizer, summed over the last dimension."""
    assert isinstance(regularizer, cvxsst.regularizers.Separable)
    return regularizer.value(z).sum(-1)


def all_vertices(P: cvxsst.Polytope) -> torch.Tensor:
    """(count, *P.shape)."""
    return torch.from_numpy(P.vertices()).reshape(-1, *P.shape)

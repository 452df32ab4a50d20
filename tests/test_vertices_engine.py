"""The engine "vertices": the laws, batches of 1,000 on the zoo and on declarations beside it, ties, -inf, never wrong."""

from collections.abc import Iterator

import pytest
import torch

import cvxsst
from cvxsst.engines import ENGINES, register
from cvxsst.engines.vertices import Vertices

from .table import POLYTOPES, Case
from .test_engines import LAWS, parameters
from .test_engines import test_times_jacobian_is_symmetric_positive_and_the_difference_of_solve as contract

EUCLIDEAN = cvxsst.Euclidean()
TEMPERATURES = (10.0, 1.0, 0.1, 0.01)


@pytest.fixture(autouse=True)
def vertices() -> Iterator[Vertices]:
    before = dict(ENGINES)
    yield register(Vertices())
    ENGINES.clear()
    ENGINES.update(before)


@pytest.mark.parametrize("P", POLYTOPES, ids=repr)
@pytest.mark.parametrize("law", [*LAWS, contract], ids=lambda law: law.__name__)
def test_the_laws_hold(law, P: cvxsst.Polytope, generator: torch.Generator) -> None:
    options = {"case": Case(P, EUCLIDEAN, "vertices"), "generator": generator, "device": "cpu"}
    law(**{name: options[name] for name in parameters(law)})

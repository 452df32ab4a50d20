"""The engines. ``engine="auto"`` asks those first that a rule of theirs prefers (``Engine.preferred``), in this order.

- ``"fast"``: the family's own closed form or algorithm, where its page registers one;
- ``"kkt"``: any polytope, any of the separable regularizers, a whole batch at once;
- ``"facets"``: polytopes whose inequalities in z alone are known or few, the separable regularizers, a whole batch;
- ``"vertices"``: the Euclidean softmax over any polytope, by its argmax alone;
- ``"cvxpylayer"``: any polytope, any regularizer with a formula: the reference, one instance at a time;
- ``"enumeration"``: the exponential family over all structures of a small set.

With ``engine="auto"`` the instances that one engine does not solve go to the next that can; ``info.engine`` tells which
solved each.

Another engine is a subclass of ``Engine``, registered with ``register``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from cvxsst.arguments import checked_polytope
from cvxsst.engines.base import At, Engine, Info, Solution
from cvxsst.engines.cvxpylayer import CvxpyLayerEngine
from cvxsst.engines.enumeration import Enumeration
from cvxsst.engines.facets import Facets
from cvxsst.engines.fast import Fast
from cvxsst.engines.kkt import KKT
from cvxsst.engines.solver import Solver
from cvxsst.engines.vertices import Vertices
from cvxsst.errors import NoFastPathError
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Regularizer, checked_regularizer

__all__ = ["ENGINES", "At", "Engine", "Info", "Solution", "Solver", "able", "chosen_engine", "register", "which_engine"]

E = TypeVar("E", bound=Engine[Any])

ENGINES: dict[str, Engine[Any]] = {}


def register(engine: E) -> E:
    """Add an engine, after the others in the order of preference; one of the same name takes its place."""
    ENGINES[engine.name] = engine
    return engine


for _engine in (Fast(), KKT(), Facets(), Vertices(), CvxpyLayerEngine(), Enumeration()):
    register(_engine)


def which_engine(P: Polytope, regularizer: Regularizer) -> str:
    """The name of the engine that ``engine="auto"`` takes: the first of those that can (``able``).

    ``"fast"`` also for a declaration without a family that is recognized as one (``cvxsst.audit`` tells as which).

    Raises:
        ValueError: the regularizer is not defined on all of P.
        NoFastPathError: an exponential family with no ``@family.log_partition`` and too many structures to
            enumerate.

    Example:
        >>> import cvxsst
        >>> from polytopes import birkhoff
        >>> cvxsst.which_engine(birkhoff(3), cvxsst.ExponentialFamily())
        'enumeration'
    """
    name = chosen_engine(P, regularizer, "auto").name
    regularizer.require_domain(P)
    return name


def chosen_engine(P: Polytope, regularizer: Regularizer, name: str) -> Solver:
    """The engine called ``name``; for ``"auto"`` the first that can solve the problem, the others behind it."""
    checked_polytope(P, valued=False)
    checked_regularizer(regularizer)
    if name == "auto":
        first = next(able(P, regularizer), None)
        if first is not None:
            return Solver(first, lambda: (engine for engine in able(P, regularizer) if engine is not first))
        reasons = "; ".join(f"{engine.name}: {engine.objection(P, regularizer)}" for engine in ENGINES.values())
        raise NoFastPathError(f"no engine can solve {regularizer!r} over {P!r}: {reasons}")
    if name not in ENGINES:
        raise ValueError(f"engine: unknown engine {name!r}; choose 'auto' or one of {', '.join(map(repr, ENGINES))}")
    refusal = ENGINES[name].objection(P, regularizer)
    if refusal is not None:
        first = next(able(P, regularizer), None)
        cure = f"use engine={first.name!r} or 'auto'" if first else "no engine can: see @family.log_partition"
        raise NoFastPathError(f"engine={name!r}: {refusal}; {cure}")
    return Solver(ENGINES[name])


def able(P: Polytope, f: Regularizer) -> Iterator[Engine[Any]]:
    """The engines that can solve the problem, in the order in which ``engine="auto"`` asks them."""
    engines = [engine for engine in ENGINES.values() if engine.parametric or not P.parameters]
    yield from (engine for engine in engines if engine.preferred(P, f) and engine.supports(P, f))
    yield from (engine for engine in engines if not engine.preferred(P, f) and engine.supports(P, f))

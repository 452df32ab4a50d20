"""The engines, in the order in which ``engine="auto"`` prefers them.

- ``"fast"``: the family's own closed form or algorithm, where its page registers one;
- ``"kkt"``: any polytope, any of the separable regularizers, a whole batch at once;
- ``"cvxpylayer"``: any polytope, any regularizer with a formula: the reference, one instance at a time;
- ``"enumeration"``: the exponential family over all structures of a small set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvxsst.arguments import checked_polytope
from cvxsst.engines.base import Engine, Info
from cvxsst.engines.cvxpylayer import CvxpyLayerEngine
from cvxsst.engines.enumeration import Enumeration
from cvxsst.engines.fast import Fast
from cvxsst.engines.kkt import KKT
from cvxsst.errors import NoFastPathError
from cvxsst.geometry.vertices import vertices
from cvxsst.regularizers import ExponentialFamily, Regularizer, checked_regularizer

if TYPE_CHECKING:
    from cvxsst.polytope import Polytope

__all__ = ["ENGINES", "Engine", "Info", "chosen_engine", "which_engine"]

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Fast(), KKT(), CvxpyLayerEngine(), Enumeration())}


def which_engine(P: Polytope, regularizer: Regularizer) -> str:
    """The name of the engine that ``engine="auto"`` takes: the first of the list above that can.

    ``"fast (birkhoff(5))"`` for a declaration without a family that is recognized as one (``cvxsst.recognition``).

    Raises:
        NoFastPathError: an exponential family with no ``@family.log_partition`` and too many structures to
            enumerate.

    Example:
        >>> import cvxsst
        >>> from polytopes import birkhoff
        >>> cvxsst.which_engine(birkhoff(3), cvxsst.ExponentialFamily())
        'enumeration'
    """
    name = chosen_engine(P, regularizer, "auto").name
    return f"{name} ({P.known})" if name == "fast" and P.known is not P else name


def chosen_engine(P: Polytope, regularizer: Regularizer, name: str) -> Engine:
    """The engine called ``name``, or for ``"auto"`` the first that supports the problem."""
    checked_polytope(P)
    checked_regularizer(regularizer)
    if name == "auto":
        for engine in ENGINES.values():
            if engine.supports(P, regularizer):
                return engine
        vertices(P)  # says why not
    if name not in ENGINES:
        raise ValueError(f"engine: unknown engine {name!r}; choose 'auto' or one of {', '.join(map(repr, ENGINES))}")
    engine = ENGINES[name]
    if not engine.supports(P, regularizer):
        raise NoFastPathError(_why_not(engine, P, regularizer))
    return engine


def _why_not(engine: Engine, P: Polytope, regularizer: Regularizer) -> str:
    able = [name for name, other in ENGINES.items() if other.supports(P, regularizer)]
    cure = f"use engine={able[0]!r} or 'auto'" if able else "no engine can: see @family.log_partition"
    reason = {
        "fast": f"no fast path is registered for {P!r} with {regularizer!r}",
        "kkt": f"{regularizer!r} is not one of the three separable regularizers",
        "cvxpylayer": f"{regularizer!r} has no formula that CVXPY could minimize",
        "enumeration": "enumeration solves the exponential family only"
        if not isinstance(regularizer, ExponentialFamily)
        else f"{P!r} has too many vertices to enumerate",
    }[engine.name]
    return f"engine={engine.name!r}: {reason}; {cure}"

"""A polytope is what its author wrote: a CVXPY variable and constraints on it.

    P = {z : there is y with (z, y) in the constraints}          y: the lifted variables, projected out

``Polytope`` takes such a declaration and computes, once, everything that depends on it alone. What is known of it
beyond the constraints, an argmax oracle or closed forms of the softmax, is its ``knowledge`` (``cvxsst.family``): all
of it optional, without it every answer is the same, only slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

import cvxpy as cp
import numpy as np
import torch

from cvxsst.asking import Each, OracleAlone, answers, checked_shape, examined
from cvxsst.cache import Cache
from cvxsst.errors import ArgumentTypeError, EmptyPolytopeError, NoFastPathError, UnboundedPolytopeError, some
from cvxsst.geometry.canonical import StandardForm, brief, canonicalize
from cvxsst.geometry.presolve import Presolved, extremes, is_feasible, presolve
from cvxsst.geometry.vertices import MOST, QHULL_DIMENSION, listed, search
from cvxsst.values import plainly

# Declarations up to this many scalar variables are checked (empty, unbounded, not polyhedral) when they are
# made: that takes milliseconds. Larger ones (the flow formulation of a 40-word sentence has 60,000) are
# checked when something first needs the constraints; a family's fast path may never do.
CHECKED_WHEN_DECLARED = 5_000
ORACLE_CALLS = 256  # instances in one call of an oracle that looks for the bounds of all entries
PREPARED_KEPT = 32  # what engines prepare for (P, f): so many, the least recently used forgotten first

Map = Callable[..., torch.Tensor]


class Knowledge(Protocol):
    """What is known of a polytope beyond its constraints; each function as ``cvxsst.family.Family`` describes it,
    its arguments filled in, or None."""

    family: Any
    arguments: dict[str, Any]
    argmax: Map | None
    log_partition: Map | None
    sample: Map | None
    trace: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None
    structures: Callable[[], Iterable[np.ndarray]] | None
    facets: tuple[Any, Any] | None
    separation: Map | None
    padding: Any

    def softmax(self, regularizer: type) -> Map | None: ...
    def reduce(self) -> tuple | None:
        """How pickle names the polytope, if another process can find it."""


class Polytope:
    """The polytope P = {z : (z, y) satisfies the constraints for some y}.

    Args:
        variable: the CVXPY variable z, a scalar, vector or matrix. Its attributes (``nonneg=True``,
            ``bounds=...``, ``symmetric=True`` ...) count as constraints.
        constraints: any polyhedral DCP constraints: affine, ``cp.abs``, ``cp.max``, ``cp.sum_largest``,
            ``cp.norm1``, ``cp.norm_inf`` ... Every other variable in them is *lifted*: projected out.
        name: shown by ``repr`` and in messages.
        recognize: whether a declaration that equals a member of a known family (the zoo, installed packages, families
            of this process that register ``@family.guess``) takes its fast paths. Decided by the matrices, see
            ``cvxsst.recognition``, at the first argmax or softmax.

    Attributes:
        shape: the shape of z, hence of the last dimensions of every tensor of utilities.
        name: as given, or ``"polytope"``.

    Raises:
        ArgumentTypeError: the arguments are not a CVXPY variable and constraints.
        EmptyPolytopeError: no point satisfies the constraints; names a smallest set that contradicts itself.
        UnboundedPolytopeError: an entry of z has no bound; names the entries.
        NotPolyhedralError: a constraint is curved, not convex, integer, or contains a ``cp.Parameter``.

    A declaration of up to 5,000 scalar variables is checked here, a larger one at first use. Cost: one
    canonicalization by CVXPY and three linear programs.

    Example:
        >>> import cvxpy as cp, cvxsst
        >>> z = cp.Variable(3)
        >>> cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 1], name="triangle")
        triangle
    """

    def __init__(
        self,
        variable: cp.Variable,
        constraints: Sequence[cp.Constraint],
        name: str | None = None,
        *,
        recognize: bool = True,
    ):
        if not isinstance(variable, cp.Variable):
            raise ArgumentTypeError(f"variable: expected a cvxpy.Variable, got {type(variable).__name__}")
        self.variable: cp.Variable | None = variable
        self.constraints: list[cp.Constraint] = _checked_constraints(constraints)
        self.shape: tuple[int, ...] = tuple(variable.shape)
        self.name = "polytope" if name is None else str(name)
        self.recognize = recognize
        self.knowledge: Knowledge | None = None
        self.seen: np.ndarray | None = None  # a few vertices of what is known by its oracle alone
        self.prepared: Cache[Any, Any] = Cache(PREPARED_KEPT)
        variables = {v.id: v for c in self.constraints for v in c.variables()} | {variable.id: variable}
        if sum(v.size for v in variables.values()) <= CHECKED_WHEN_DECLARED:
            _ = self.presolved

    @classmethod
    def from_oracle(
        cls,
        oracle: Callable[..., Any],
        shape: int | Sequence[int],
        name: str | None = None,
        *,
        each: Each | None = None,
    ) -> Polytope:
        """conv of what an argmax oracle returns: P known by its oracle alone, without constraints.

        For structures with a solver of their own and no compact description: tours of a travelling salesman, matchings
        of general graphs, whatever a program of yours finds the best of. As a family: ``@cvxsst.polytope`` on a
        function that returns the shape, and ``@family.argmax``.

        Args:
            oracle: w ``(B, *shape)``, finite, float64, to z of the same shape, dtype and device: for each row a
                structure that maximizes <w, z>, the same every time. Under -inf it is asked with a large negative
                utility for what is forbidden, and must avoid it if any structure does.
            shape: of z.
            name: shown by ``repr`` and in messages; default ``"oracle"``.
            each: for an oracle of single instances, one NumPy array of shape ``shape`` to another: how it is called for
                many. ``map`` for a loop, ``pool.map`` of a ``concurrent.futures`` or ``multiprocessing`` pool for many
                at a time (threads where the oracle releases the GIL, processes else).

        Raises:
            ValueError: answers of a wrong shape, dtype or device, not finite, that differ between two calls, or are
                worse than other answers. Here a few objectives are asked twice; later, every answer that an active set
                shows to be worse than one before is an error.

        What can be had: argmax; the Euclidean softmax, exactly, with its derivatives (engine ``"vertices"``), and all
        that is built on it. Certificates and audits are those of the oracle: they cannot know of structures that it
        never returns. Exact bounds of the entries, which -inf and some checks need, cost 2 n calls, once.

        Example:
            >>> import torch, cvxsst
            >>> def top_two(w):
            ...     return torch.zeros_like(w).scatter(-1, w.topk(2).indices, 1.0)
            >>> P = cvxsst.Polytope.from_oracle(top_two, 4, name="pairs")
            >>> cvxsst.softmax(P, torch.tensor([1.0, 0.5, 0.0, -9.0]))
            tensor([1.0000, 0.7500, 0.2500, 0.0000])
        """
        if not callable(oracle):
            raise ArgumentTypeError(f"oracle: expected a function of w (B, *shape), got {type(oracle).__name__}")
        sizes = checked_shape(shape)
        return by_its_oracle(OracleAlone(oracle, sizes, each), sizes, "oracle" if name is None else str(name))

    @property
    def size(self) -> int:
        """How many scalars z has."""
        return math.prod(self.shape)

    @property
    def declared(self) -> bool:
        """Whether there are constraints; else P is known by its oracle alone."""
        return self.seen is None

    @cached_property
    def form(self) -> StandardForm:
        """The declaration as A x = b, G x <= h with x = (z, lifted)."""
        if not self.declared:
            raise NoFastPathError(f"{self.name} is known by its argmax oracle alone: this needs constraints")
        assert self.variable is not None, "an unpickled polytope carries its standard form"
        return canonicalize(self.variable, self.constraints)

    @cached_property
    def presolved(self) -> Presolved:
        """The standard form without redundant equalities, with a point of its relative interior."""
        try:
            return presolve(self.form)
        except EmptyPolytopeError as error:
            raise EmptyPolytopeError(f"{self.name}: {error}{self._who_contradicts()}") from None
        except UnboundedPolytopeError as error:
            raise UnboundedPolytopeError(f"{self.name}: {error}") from None

    def _who_contradicts(self) -> str:
        """Names a smallest set of constraints without a common point: none of them can be left out."""
        conflict = list(enumerate(self.constraints))
        for item in list(conflict):
            fewer = [other for other in conflict if other is not item]
            if self.variable is not None and not is_feasible(self.variable, [c for _, c in fewer]):
                conflict = fewer
        names = ", ".join(f"constraints[{position}] ({brief(c)})" for position, c in conflict)
        cure = "together: relax one of them" if len(conflict) > 1 else "alone: relax it"
        return f"; it is empty because of {names} {cure}" if conflict else ""

    @property
    def family(self) -> Any:
        """The family of which this is a member, or None."""
        return None if self.knowledge is None else self.knowledge.family

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments for which the family declared it."""
        return {} if self.knowledge is None else self.knowledge.arguments

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest value of each entry of z: by the family's oracle, else by linear programs."""
        oracle = None if self.knowledge is None else self.knowledge.argmax
        if oracle is None:
            return self.presolved.bounds

        if not self.declared:
            return self._bounds_by_oracle(oracle)

        def farthest(directions: np.ndarray) -> np.ndarray:
            return oracle(torch.from_numpy(directions).reshape(-1, *self.shape)).reshape(directions.shape).numpy()

        return plainly(lambda: extremes(self.form, farthest, ORACLE_CALLS))

    def _bounds_by_oracle(self, oracle: Map) -> tuple[np.ndarray, np.ndarray]:
        """Each entry is asked for its largest and its least value."""
        n = self.size

        def extreme(sign: float) -> np.ndarray:
            rows = (sign * torch.eye(n, dtype=torch.float64)).reshape(n, *self.shape).split(ORACLE_CALLS)
            found = torch.cat([answers(oracle, part, self.name) for part in rows])
            return found.reshape(n, n).diagonal().numpy()

        return plainly(lambda: (extreme(-1.0), extreme(1.0)))

    @property
    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """``bounds``; of what is known by its oracle alone those of a few vertices, by which sizes are judged."""
        return self.bounds if self.seen is None else (self.seen.min(axis=0), self.seen.max(axis=0))

    @cached_property
    def fixed(self) -> np.ndarray:
        """Entries that cannot move, flat indices."""
        return self.presolved.fixed if self.declared else np.flatnonzero(self.bounds[0] == self.bounds[1])

    def require_zero_is_least(self, entries: np.ndarray) -> None:
        """Raise a ValueError where forbidding an entry (flat indices) is not the limit of lowering its utility."""
        negative = entries[self.bounds[0][entries] < -1e-7].tolist()
        if negative:
            raise ValueError(
                f"w: -inf forbids an entry (z = 0 there), which needs 0 to be its least value over {self.name}; "
                f"entries {some(negative)} can be negative: use a large negative number instead"
            )

    def vertices(self) -> np.ndarray:
        """All vertices, ``(count, size)``, each once: the structures that the family lists, or a search.

        Raises:
            NoFastPathError: more than 20,000 of them, or too many dimensions for vertices that are not 0/1.
        """
        if self._vertices is None and not self.declared:
            raise NoFastPathError(
                f"{self!r} cannot be enumerated: it is known by its argmax oracle alone, which cannot tell that "
                "nothing is missing; register @family.structures"
            )
        if self._vertices is None:
            raise NoFastPathError(
                f"{self!r} cannot be enumerated: more than {MOST:,} vertices, or more than {QHULL_DIMENSION} "
                "dimensions and vertices between the bounds; use a smaller size, another regularizer, or register "
                "@family.log_partition"
            )
        return self._vertices

    @cached_property
    def _vertices(self) -> np.ndarray | None:
        structures = None if self.knowledge is None else self.knowledge.structures
        if structures is None:
            return search(self.presolved) if self.declared else None
        return listed(structures(), self.size)

    def __repr__(self) -> str:
        return self.name

    # A polytope never changes: a copy is itself. A family's polytope travels as its call, so that it arrives
    # with its fast paths and its cache; any other as its standard form (CVXPY expressions do not travel).
    def __copy__(self) -> Polytope:
        return self

    def __deepcopy__(self, memo: dict) -> Polytope:
        return self

    def __reduce__(self) -> tuple:
        named = None if self.knowledge is None else self.knowledge.reduce()
        if named is None and not self.declared:
            return by_its_oracle, (self.knowledge, self.shape, self.name)
        return named or (_rebuild, (self.shape, self.name, self.form, self.recognize))


def by_its_oracle(knowledge: Any, shape: tuple[int, ...], name: str) -> Polytope:
    """A polytope that is known by the argmax of ``knowledge`` alone, which is asked for a few vertices."""
    P = _bare(shape, name)
    P.recognize, P.knowledge = False, knowledge
    P.seen = examined(knowledge.argmax, shape, name)
    return P


def _rebuild(shape: tuple[int, ...], name: str, form: StandardForm, recognize: bool) -> Polytope:
    P = _bare(shape, name)
    P.recognize = recognize
    P.__dict__["form"] = form
    return P


def _bare(shape: tuple[int, ...], name: str) -> Polytope:
    P = Polytope.__new__(Polytope)
    P.variable, P.constraints, P.shape, P.name = None, [], shape, name
    P.knowledge, P.seen, P.prepared = None, None, Cache(PREPARED_KEPT)
    return P


def _checked_constraints(constraints: Sequence[cp.Constraint]) -> list[cp.Constraint]:
    if isinstance(constraints, cp.Constraint) or not isinstance(constraints, Iterable):
        raise ArgumentTypeError(f"constraints: expected a list of CVXPY constraints, got {type(constraints).__name__}")
    checked = list(constraints)
    for position, constraint in enumerate(checked):
        if not isinstance(constraint, cp.Constraint):
            raise ArgumentTypeError(
                f"constraints[{position}]: expected a CVXPY constraint, got {constraint!r}; "
                "a comparison that involves no variable is a plain bool and says nothing: leave it out"
            )
    return checked

"""A polytope is what its author wrote: a CVXPY variable and constraints on it.

    P = {z : there is y with (z, y) in the constraints}          y: the lifted variables, projected out

``Polytope`` takes such a declaration and computes, once, everything that depends on it alone. What is known of it
beyond the constraints, an argmax oracle or closed forms of the softmax, is its ``knowledge`` (``cvxsst.family``): all
of it optional, without it every answer is the same, only slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import cvxpy as cp
import numpy as np
import torch

from cvxsst.asking import Each, OracleAlone, answers, checked_shape, examined
from cvxsst.cache import Cache
from cvxsst.errors import ArgumentTypeError, EmptyPolytopeError, NoFastPathError, UnboundedPolytopeError, some
from cvxsst.geometry.canonical import StandardForm, brief, canonicalize
from cvxsst.geometry.parametric import (
    AffineForm,
    AffinePresolved,
    Parameter,
    canonicalize_affine,
    parameters_of,
    presolve_affine,
)
from cvxsst.geometry.presolve import Presolved, column_bounds, endless, extremes, is_feasible, presolve
from cvxsst.geometry.vertices import MOST, QHULL_DIMENSION, listed, search
from cvxsst.parameters import named, on_hull, split, stacked
from cvxsst.values import plainly, shown

# Declarations up to this many scalar variables are checked (empty, unbounded, not polyhedral) when they are
# made: that takes milliseconds. Larger ones (the flow formulation of a 40-word sentence has 60,000) are
# checked when something first needs the constraints; a family's fast path may never do.
CHECKED_WHEN_DECLARED = 5_000
ORACLE_CALLS = 256  # instances in one call of an oracle that looks for the bounds of all entries
ALONE_KEPT = 512  # polytopes at single values of the parameters
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
    def at(self, values: dict[str, torch.Tensor]) -> Knowledge:
        """The same at these values of the parameters, which its functions receive as keywords."""
        ...

    def reduce(self) -> tuple | None:
        """How pickle names the polytope, if another process can find it."""


class Polytope:
    """The polytope P = {z : (z, y) satisfies the constraints for some y}.

    Args:
        variable: the CVXPY variable z, a scalar, vector or matrix. Its attributes (``nonneg=True``,
            ``bounds=...``, ``symmetric=True`` ...) count as constraints.
        constraints: any polyhedral DCP constraints: affine, ``cp.abs``, ``cp.max``, ``cp.sum_largest``,
            ``cp.norm1``, ``cp.norm_inf`` ... Every other variable in them is *lifted*: projected out. A
            ``cp.Parameter`` in them, added or as the factor of an expression without parameters, gets its values by
            ``at``.
        name: shown by ``repr`` and in messages.
        recognize: whether a declaration that equals a member of a known family (the zoo, installed packages, families
            of this process that register ``@family.guess``) takes its fast paths. Decided by the matrices, see
            ``cvxsst.recognition``, at the first argmax or softmax.

    Attributes:
        shape: the shape of z, hence of the last dimensions of every tensor of utilities.
        name: as given, or ``"polytope"``.
        parameters: the names of the ``cp.Parameter`` in the constraints, and their shapes.
        theta, batch: None and ``()``; of what ``at`` returns the values and their batch dimensions.

    Raises:
        ArgumentTypeError: the arguments are not a CVXPY variable and constraints.
        EmptyPolytopeError: no point satisfies the constraints; names a smallest set that contradicts itself.
        UnboundedPolytopeError: an entry of z has no bound; names the entries.
        NotPolyhedralError: a constraint is curved, not convex, integer, or not affine in its parameters.

    A declaration of up to 5,000 scalar variables is checked here, a larger one at first use. Cost: one
    canonicalization by CVXPY and three linear programs.

    Example:
        >>> import cvxpy as cp, cvxsst
        >>> z = cp.Variable(3)
        >>> cvxsst.Polytope(z, [z >= 0, cp.sum(z) == 1], name="triangle")
        triangle
    """

    theta: torch.Tensor | None = None
    batch: torch.Size = torch.Size()

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
        self._parameters = parameters_of(variable, self.constraints)
        self.described: tuple[Parameter, ...] = tuple(map(Parameter.of, self._parameters))
        self._alone: Cache[bytes, Polytope] = Cache(ALONE_KEPT)
        variables = {v.id: v for c in self.constraints for v in c.variables()} | {variable.id: variable}
        if sum(v.size for v in variables.values()) <= CHECKED_WHEN_DECLARED:
            _ = self.affine if self.described else self.presolved

    @property
    def unvalued(self) -> Polytope:
        """Of what ``at`` returns, the polytope without values; else the polytope itself."""
        return self

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

    def flat(self, x: torch.Tensor) -> torch.Tensor:
        """x ``(*batch, *shape)`` as ``(*batch, size)``."""
        return x.reshape(*x.shape[: x.dim() - len(self.shape)], self.size)

    @property
    def declared(self) -> bool:
        """Whether there are constraints; else P is known by its oracle alone."""
        return self.seen is None

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {parameter.name: parameter.shape for parameter in self.described}

    def at(self, **values: Any) -> PolytopeAt:
        """The polytope at these values of its parameters; it stands wherever a polytope stands.

        Args:
            values: for each parameter, by name, a tensor ``(*batch, *its shape)`` (or an array, or a number). The batch
                dimensions broadcast with one another and, in ``softmax``, with those of w: each instance has values
                of its own. Tensors may require gradients.

        Values that must satisfy equalities to leave a point, such as equal sums of both marginals of a transport plan,
        are brought onto them where only rounding is missing; their gradient is that along these equalities.

        Raises:
            ValueError: a name too many or too few; a shape that does not fit; values that are not finite, or not of
                the sign or in the bounds that the parameter's attributes say.

        Example:
            >>> import cvxpy as cp, cvxsst, torch
            >>> z, k = cp.Variable(3), cp.Parameter(nonneg=True, name="k")
            >>> P = cvxsst.Polytope(z, [z >= 0, z <= 1, cp.sum(z) <= k], name="budget")
            >>> cvxsst.softmax(P.at(k=torch.tensor([1.0, 1.5])), torch.ones(3))
            tensor([[0.3333, 0.3333, 0.3333],
                    [0.5000, 0.5000, 0.5000]])
        """
        return PolytopeAt(self, values)

    @cached_property
    def affine_form(self) -> AffineForm:
        """The declaration as A(theta) x = b(theta), G(theta) x <= h(theta), theta the values of all parameters."""
        assert self.variable is not None, "an unpickled polytope carries its form"
        return canonicalize_affine(self.variable, self.constraints, self._parameters)

    @cached_property
    def affine(self) -> AffinePresolved:
        """The same without redundant equalities."""
        low, high = (np.concatenate([getattr(p, end) for p in self.described]) for end in ("low", "high"))
        try:
            return presolve_affine(self.affine_form, low, high)
        except EmptyPolytopeError as error:
            raise EmptyPolytopeError(f"{self.name}, whatever {named(self.described)} may be: {error}") from None

    def knowledge_at(self, theta: torch.Tensor) -> Knowledge | None:
        """What is known of the polytope at theta ``(*batch, q)``; its functions receive the values by name."""
        return None if self.knowledge is None else self.knowledge.at(split(self.described, theta))

    def alone(self, theta: np.ndarray) -> Polytope:
        """The polytope at one value of theta ``(q,)``, a declaration without parameters."""
        values = ", ".join(
            f"{name}={_brief(value)}" for name, value in split(self.described, torch.tensor(theta)).items()
        )
        name = f"{self.name}.at({values})"
        return self._alone.get(
            theta.tobytes(), lambda: _rebuild(self.shape, name, self.affine_form.at(theta), recognize=False)
        )

    def blamed(self, theta: np.ndarray) -> list[str]:
        """The parameters whose values theta ``(q,)`` leave no point; none where there is a point."""
        names = np.repeat([p.name for p in self.described], [p.size for p in self.described])
        return sorted(set(names[self.affine_form.conflict(theta)].tolist()))

    def is_endless(self, theta: np.ndarray) -> bool:
        """Whether the polytope at theta ``(q,)``, if it has a point, has no bound."""
        return not self.affine.bounded and bool(np.any(endless(self.affine_form.at(theta))))

    @cached_property
    def form(self) -> StandardForm:
        """The declaration as A x = b, G x <= h with x = (z, lifted)."""
        if not self.declared:
            raise NoFastPathError(f"{self.name} is known by its argmax oracle alone: this needs constraints")
        if self.described:
            raise ArgumentTypeError(
                f"P: {self.name} has parameters ({named(self.described)}) and here they have no values; "
                f"pass P.at({', '.join(f'{p.name}=...' for p in self.described)})"
            )
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

    def instances(self, batch: torch.Size) -> list[Polytope]:
        """That of each instance of a batch, row by row: itself, or those at the values of its parameters."""
        return [self] * batch.numel()

    def outside(self, low: float, high: float) -> np.ndarray:
        """Indices of the entries of z that may be below ``low`` or above ``high``."""
        found = np.zeros(0, dtype=int)
        for lower, upper in self._bounds_by_effort():
            found = np.flatnonzero((lower < low) | (upper > high))
            if not len(found):
                break
        return found

    def _bounds_by_effort(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """``bounds`` or wider ones: what single rows say, then what a solve tells."""
        if self.declared:
            yield self._said
        yield self.bounds

    @cached_property
    def _said(self) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = column_bounds(self.form, passes=2)
        return lower[: self.size], upper[: self.size]

    def require_zero_is_least(self, entries: np.ndarray) -> None:
        """Raise a ValueError where forbidding an entry (flat indices) is not the limit of lowering its utility."""
        negative = np.intersect1d(entries, self.outside(-1e-7, np.inf)).tolist()
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
        by_name = None if self.knowledge is None else self.knowledge.reduce()
        if by_name is not None:
            return by_name
        if not self.declared:
            return by_its_oracle, (self.knowledge, self.shape, self.name)
        form = self.affine_form if self.described else self.form
        return _rebuild, (self.shape, self.name, form, self.recognize, self.described)


class PolytopeAt(Polytope):
    """A polytope at values of its parameters: ``P.at(...)``.

    Attributes:
        unvalued: the polytope without values.
        values: as given.
        theta: ``(*batch, q)``, float64, connected with the values: all parameters in the order of their names.
        batch: the batch dimensions of the values.
    """

    theta: torch.Tensor

    def __init__(self, declared: Polytope, values: dict[str, Any]):
        theta = stacked(declared.described, values, declared.name) if declared.described else None
        if theta is None:
            raise ArgumentTypeError(f"at: {declared.name} has no parameters; declare one, cp.Parameter(name='k')")
        dtypes = [value.dtype for value in values.values() if isinstance(value, torch.Tensor)] or [torch.float64]
        self._unvalued, self.values = declared, dict(values)
        self.theta = on_hull(theta, declared.affine.hull, dtypes)
        self.batch = self.theta.shape[:-1]
        self.variable, self.constraints, self._parameters, self.described = None, [], [], ()
        self.shape, self.recognize = declared.shape, False
        self.knowledge = declared.knowledge_at(self.theta)
        self.name = f"{declared.name}.at({', '.join(f'{name}={_brief(value)}' for name, value in values.items())})"
        self.prepared, self._alone, self.seen = declared.prepared, declared._alone, None

    @property
    def unvalued(self) -> Polytope:
        return self._unvalued

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        return self.unvalued.parameters

    @property
    def rows(self) -> np.ndarray:
        """theta of each instance, ``(B, q)``; under ``vmap`` of all that are mapped."""
        theta = shown(self.theta)
        return theta.reshape(-1, theta.shape[-1])

    @property
    def single(self) -> Polytope:
        """The polytope without parameters, where all have one value.

        Raises:
            ValueError: there are several.
        """
        if self.batch:
            raise ArgumentTypeError(
                f"P: {self.name} is one polytope for each instance of the batch {tuple(self.batch)}, and this asks for "
                "one: give values without batch dimensions"
            )
        return self.unvalued.alone(self.rows[0])

    @cached_property
    def form(self) -> StandardForm:
        return self.single.form

    @property
    def presolved(self) -> Presolved:
        return self.single.presolved

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest value of each entry over all instances that have a point."""
        low, high = np.full(self.size, np.inf), np.full(self.size, -np.inf)
        for theta in np.unique(self.rows, axis=0):
            try:
                lower, upper = self.unvalued.alone(theta).bounds
            except EmptyPolytopeError:
                continue
            except UnboundedPolytopeError:
                lower, upper = np.full(self.size, -np.inf), np.full(self.size, np.inf)
            low, high = np.minimum(low, lower), np.maximum(high, upper)
        return low, high

    def instances(self, batch: torch.Size) -> list[Polytope]:
        theta = shown(self.theta.expand(*batch, self.theta.shape[-1]))
        return [self.unvalued.alone(row) for row in theta.reshape(-1, theta.shape[-1])]

    def _bounds_by_effort(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What single rows say of all values, then of these."""
        yield self.unvalued.affine.widest
        lower, upper = self.unvalued.affine_form.column_bounds(self.rows)
        yield lower[: self.size], upper[: self.size]
        yield self.bounds

    def vertices(self) -> np.ndarray:
        if self.batch:
            raise NoFastPathError(f"{self.name} is one polytope for each instance: it has no single list of vertices")
        return self.single.vertices()

    def __reduce__(self) -> tuple:
        return PolytopeAt, (self.unvalued, self.values)


def _brief(value: Any) -> str:
    """A value of a parameter in a name: the number, or the shape."""
    shape = tuple(value.shape) if isinstance(value, torch.Tensor | np.ndarray) else None
    if shape == ():
        try:
            return f"{float(value.detach() if isinstance(value, torch.Tensor) else value):g}"
        except RuntimeError:  # vmap hides it
            return "tensor"
    return f"{value!r:.20}" if shape is None else f"tensor of shape {shape}"


def by_its_oracle(knowledge: Any, shape: tuple[int, ...], name: str) -> Polytope:
    """A polytope that is known by the argmax of ``knowledge`` alone, which is asked for a few vertices."""
    P = _bare(shape, name)
    P.recognize, P.knowledge = False, knowledge
    P.seen = examined(knowledge.argmax, shape, name)
    return P


def _rebuild(
    shape: tuple[int, ...],
    name: str,
    form: StandardForm | AffineForm,
    recognize: bool,
    described: tuple[Parameter, ...] = (),
) -> Polytope:
    P = _bare(shape, name)
    P.recognize, P.described = recognize, described
    P.__dict__["affine_form" if described else "form"] = form
    return P


def _bare(shape: tuple[int, ...], name: str) -> Polytope:
    P = Polytope.__new__(Polytope)
    P.variable, P.constraints, P.shape, P.name = None, [], shape, name
    P.knowledge, P.seen, P.prepared = None, None, Cache(PREPARED_KEPT)
    P._parameters, P.described, P._alone = [], (), Cache(ALONE_KEPT)
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

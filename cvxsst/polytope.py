"""A polytope is what its author wrote: a CVXPY variable and constraints on it.

    P = {z : there is y with (z, y) in the constraints}          y: the lifted variables, projected out

``Polytope`` takes such a declaration and computes, once, everything that depends on it alone.
``polytope`` makes a *family* of them out of a function that returns ``(variable, constraints)``; a family
may also register, by decorators, what is known about it beyond its constraints: the argmax oracle, closed
forms of the softmax, the log-partition function, the list of its structures. All of these are optional:
without them every answer is the same, only slower.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, update_wrapper
from importlib import import_module
from typing import Any, TypeVar, overload

import cvxpy as cp
import numpy as np
import torch

from cvxsst.arguments import plainly
from cvxsst.errors import ArgumentTypeError, EmptyPolytopeError, UnboundedPolytopeError, some
from cvxsst.geometry.canonical import StandardForm, brief, canonicalize
from cvxsst.geometry.presolve import Presolved, is_feasible, presolve, presolve_feasible

F = TypeVar("F", bound=Callable[..., Any])
Declaration = Callable[..., tuple[cp.Variable, list[cp.Constraint]]]

# Declarations up to this many scalar variables are checked (empty, unbounded, not polyhedral) when they are
# made: that takes milliseconds. Larger ones (the flow formulation of a 40-word sentence has 60,000) are
# checked when something first needs the constraints; a family's fast path may never do.
CHECKED_WHEN_DECLARED = 5_000
ORACLE_CALLS = 256  # instances in one call of an oracle that looks for the bounds of all entries
RESTRICTIONS_KEPT = 256  # faces cut out by masks of -inf that a polytope remembers, oldest forgotten first


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
        self.family: Family | None = None
        self.arguments: dict[str, Any] = {}
        self.recognize = recognize
        self.memo: dict[Any, Any] = {}  # what engines prepare for this polytope, under keys of their own
        variables = {v.id: v for c in self.constraints for v in c.variables()} | {variable.id: variable}
        if sum(v.size for v in variables.values()) <= CHECKED_WHEN_DECLARED:
            _ = self.presolved

    @property
    def size(self) -> int:
        """How many scalars z has."""
        return int(np.prod(self.shape, dtype=int))

    @cached_property
    def form(self) -> StandardForm:
        """The declaration as A x = b, G x <= h with x = (z, lifted)."""
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
        return f"; it is empty because of {names} together: relax one of them" if conflict else ""

    @cached_property
    def known(self) -> Polytope | None:
        """The same polytope with its family: itself, or the member of a family that it is recognized as, or None."""
        if self.family is not None:
            return self
        from cvxsst.recognition import recognize

        return recognize(self) if self.recognize else None

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest value of each entry of z: by the family's oracle, else by linear programs."""
        if self.family is None or self.family.argmax_oracle is None:
            return self.presolved.bounds
        oracle, arguments = self.family.argmax_oracle, self.arguments

        def furthest(sign: float) -> np.ndarray:
            found = []
            for entries in np.split(np.eye(self.size), range(ORACLE_CALLS, self.size, ORACLE_CALLS)):
                direction = torch.from_numpy(sign * entries)
                z = oracle(direction.reshape(-1, *self.shape), **arguments).reshape(direction.shape)
                found.append((direction * z).sum(1).numpy())
            return sign * np.concatenate(found)

        return plainly(lambda: (furthest(-1.0), furthest(1.0)))

    def restricted(self, forbidden: tuple[int, ...]) -> Presolved:
        """The face on which the entries of z with these (row by row) indices are 0; the others are its z.

        Raises:
            EmptyPolytopeError: no point of P has zeros there.
            ValueError: 0 is not the least value of such an entry, so that -inf has no such meaning.
        """
        if forbidden not in self._restrictions:
            self.require_zero_is_least(forbidden)
            form = self.presolved.form.without(np.array(forbidden, dtype=int), np.zeros(len(forbidden)))
            if len(self._restrictions) >= RESTRICTIONS_KEPT:
                self._restrictions.pop(next(iter(self._restrictions)))
            self._restrictions[forbidden] = presolve_feasible(form)
        return self._restrictions[forbidden]

    def require_zero_is_least(self, entries: tuple[int, ...]) -> None:
        """Raise a ValueError where forbidding an entry is not the limit of lowering its utility."""
        negative = [i for i in entries if self.bounds[0][i] < -1e-7]
        if negative:
            raise ValueError(
                f"w: -inf forbids an entry (z = 0 there), which needs 0 to be its least value over {self.name}; "
                f"entries {some(negative)} can be negative: use a large negative number instead"
            )

    @cached_property
    def _restrictions(self) -> dict[tuple[int, ...], Presolved]:
        return {}

    def __repr__(self) -> str:
        return self.name

    # A polytope never changes: a copy is itself. A family's polytope travels as its call, so that it arrives
    # with its fast paths and its cache; any other as its standard form (CVXPY expressions do not travel).
    def __copy__(self) -> Polytope:
        return self

    def __deepcopy__(self, memo: dict) -> Polytope:
        return self

    def __reduce__(self) -> tuple:
        if self.family is not None and self.family.is_importable():
            return _recall, (self.family.__module__, self.family.__qualname__, self.arguments)
        return _rebuild, (self.shape, self.name, self.form, self.recognize)


def _recall(module: str, qualname: str, arguments: dict[str, Any]) -> Polytope:
    return operator.attrgetter(qualname)(import_module(module))(**arguments)


def _rebuild(shape: tuple[int, ...], name: str, form: StandardForm, recognize: bool) -> Polytope:
    P = Polytope.__new__(Polytope)
    P.variable, P.constraints, P.shape, P.name = None, [], shape, name
    P.family, P.arguments, P.memo, P.recognize = None, {}, {}, recognize
    P.__dict__["form"] = form
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


# The families that anonymous declarations are compared with, by module and name: defined again, as in a notebook, a
# family takes the place of its former self.
GUESSING: dict[tuple[str, str], Family] = {}


class Family:
    """A family of polytopes, one for each choice of arguments; made by the decorator ``polytope``.

    Calling it returns the ``Polytope``; the same arguments return the same object, prepared once. What the
    author knows beyond the constraints is registered with decorators; each registered function receives
    the utilities first and then the family's arguments under their own names. ``(*batch, *P.shape)`` is
    the shape of ``w`` and ``u``, batch dimensions may be missing or of size 0.

    ==========================  ======================================  =====================================
    decorator                   function                                the contract
    ==========================  ======================================  =====================================
    ``@family.argmax``          ``(w, **arguments) -> z``               a vertex of P that maximizes <w, z>;
                                                                        w is finite float64
    ``@family.softmax(R)``      ``(u, **arguments) -> z``               argmax over P of <u, z> - f(z), with
                                                                        autograd; u may hold -inf, NaN where that
                                                                        leaves no structure. With a keyword
                                                                        ``unroll``: True for a plain loop of torch
                                                                        operations that autograd goes through
    ``@family.log_partition``   ``(u, **arguments) -> A, (*batch,)``    A(u) = log sum_Z exp<u, z>, with autograd
    ``@family.structures``      ``(**arguments) -> iterable of arrays`` every z in Z once, by brute force: the
                                                                        set as defined, not as constrained
    ``@family.guess``           ``(shape, form) -> iterable of tuples`` arguments of the members that a presolved
                                                                        standard form might be; cheap: equality of
                                                                        the matrices is checked afterwards. For
                                                                        families whose Z are the vertices of P
    ==========================  ======================================  =====================================
    """

    def __init__(self, declare: Declaration, examples: Sequence[tuple] = ()):
        self.__qualname__: str
        update_wrapper(self, declare)
        self.declare = declare
        self.signature = inspect.signature(declare)
        self.examples = [tuple(example) for example in examples]
        self.argmax_oracle: Callable[..., torch.Tensor] | None = None
        self.softmax_paths: dict[type, Callable[..., torch.Tensor]] = {}
        self.unrollable: set[type] = set()
        self.log_partition_function: Callable[..., torch.Tensor] | None = None
        self.structure_list: Callable[..., Iterable[np.ndarray]] | None = None
        self.guess_function: Callable[..., Iterable[tuple]] | None = None
        self._instances: dict[tuple, Polytope] = {}

    @property
    def name(self) -> str:
        return self.declare.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Polytope:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {name: _frozen(name, value) for name, value in bound.arguments.items()}
        key = tuple((type(value), value) for value in arguments.values())  # 4, 4.0 and True are not the same
        if key not in self._instances:
            variable, constraints = self.declare(**arguments)
            P = Polytope(variable, constraints, name=self._spelled(arguments))
            P.family, P.arguments = self, arguments
            self._instances[key] = P
        return self._instances[key]

    def _spelled(self, arguments: dict[str, Any]) -> str:
        shown = []
        for name, parameter in self.signature.parameters.items():
            if arguments[name] == parameter.default:
                continue
            text = repr(arguments[name])
            text = text if len(text) <= 40 else f"<{len(arguments[name])} {name}>"
            shown.append(text if parameter.default is parameter.empty else f"{name}={text}")
        return f"{self.name}({', '.join(shown)})"

    def argmax(self, oracle: F) -> F:
        """Register the argmax oracle: ``(w, **arguments) -> z``, a vertex maximizing <w, z>."""
        self.argmax_oracle = oracle
        return oracle

    def softmax(self, *regularizers: type) -> Callable[[F], F]:
        """Register the closed form of the softmax under these regularizers (classes)."""

        def register(path: F) -> F:
            self.softmax_paths.update(dict.fromkeys(regularizers, path))
            unrolls = "unroll" in inspect.signature(path).parameters and "unroll" not in self.signature.parameters
            self.unrollable = (
                self.unrollable.union(regularizers) if unrolls else self.unrollable.difference(regularizers)
            )
            return path

        return register

    def log_partition(self, function: F) -> F:
        """Register A(u) = log sum_{z in Z} exp<u, z>; its gradient is the exponential-family softmax."""
        self.log_partition_function = function
        return function

    def structures(self, function: F) -> F:
        """Register the set Z itself: an iterable over all its structures, for small sizes."""
        self.structure_list = function
        return function

    def guess(self, function: F) -> F:
        """Register how to guess the arguments from the shape and the presolved standard form of a declaration."""
        self.guess_function = function
        GUESSING.pop((self.__module__, self.__qualname__), None)  # the latest is last
        GUESSING[self.__module__, self.__qualname__] = self
        return function

    def is_importable(self) -> bool:
        """Whether another process finds this family under its own name, so that pickle may name it."""
        try:
            return operator.attrgetter(self.__qualname__)(import_module(self.__module__)) is self
        except (ImportError, AttributeError):
            return False

    def __repr__(self) -> str:
        return f"<polytope family {self.name}{self.signature}>"

    # pickled by name, as functions are
    def __reduce__(self) -> str:
        return self.__qualname__


@overload
def polytope(declare: Declaration) -> Family: ...
@overload
def polytope(*, examples: Sequence[tuple] = ()) -> Callable[[Declaration], Family]: ...


def polytope(declare: Declaration | None = None, *, examples: Sequence[tuple] = ()) -> Any:
    """Decorator: a function that returns ``(variable, constraints)`` becomes a family of polytopes.

    Args:
        examples: tuples of arguments, small enough to enumerate: the instances that ``cvxsst list`` shows and
            on which the test laws run.

    Example:
        >>> import cvxpy as cp, cvxsst
        >>> @cvxsst.polytope
        ... def triangle(n):
        ...     z = cp.Variable(n)
        ...     return z, [z >= 0, cp.sum(z) == 1]
        >>> triangle(3) is triangle(n=3)
        True
    """
    if declare is None:
        return lambda function: Family(function, examples)
    return Family(declare, examples)


def _frozen(name: str, value: Any) -> Any:
    """A hashable, picklable copy of an argument: sequences and arrays become tuples, integers become int."""
    if isinstance(value, np.ndarray | torch.Tensor):
        value = value.tolist()
    if isinstance(value, list | tuple | range):
        return tuple(_frozen(name, item) for item in value)
    if isinstance(value, np.generic):
        value = value.item()
    try:
        hash(value)
    except TypeError:
        raise ArgumentTypeError(f"{name}: a family's arguments must be hashable, got {type(value).__name__}") from None
    return value

"""Families of polytopes: a function that returns ``(variable, constraints)``, and what is known of its members.

A family may register, by decorators, what its author knows beyond the constraints: the argmax oracle, closed forms of
the softmax, the log-partition function, the list of its structures. The declaration alone is enough: without them
every answer is the same, only slower.
"""

from __future__ import annotations

import inspect
import operator
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial, update_wrapper
from importlib import import_module
from typing import Any, NamedTuple, TypeVar, overload

import cvxpy as cp
import numpy as np
import torch

from cvxsst.asking import checked_shape, is_shape
from cvxsst.cache import Cache
from cvxsst.errors import ArgumentTypeError
from cvxsst.opaque import opaque
from cvxsst.polytope import Map, Polytope, by_its_oracle
from cvxsst.values import plainly

F = TypeVar("F", bound=Callable[..., Any])
# (variable, constraints), or a shape: then the registered argmax says what the polytope is
Declaration = Callable[..., tuple[cp.Variable, list[cp.Constraint]] | tuple[int, ...] | int]

MEMBERS_KEPT = 256  # of a family; a member that is still in use is never made a second time

# The families that anonymous declarations are compared with, by module and name: defined again, as in a notebook, a
# family takes the place of its former self.
GUESSING: dict[tuple[str, str], Family] = {}


class Padding(NamedTuple):
    """How the smaller members of a family lie in a larger one, of length n, as faces: the member of length L < n has
    the entries with ``last < L``; the others are padding, of which some stay free, with utility 0, the rest are 0.

    Attributes:
        last: integers of the polytope's shape: the last of the things, counted from 0, that the entry is about.
        free: bool, of the polytope's shape: whether the entry, where it is padding, stays free. What is free must leave
            one way to fill the padding up, whatever the real entries are.
        lengths: those that a member may have, n the last.
        why: of a length that is not among them, in words.
    """

    last: torch.Tensor
    free: torch.Tensor
    lengths: range
    why: str = ""


class Family:
    """A family of polytopes, one for each choice of arguments; made by the decorator ``polytope``.

    Calling it returns the ``Polytope``; the same arguments return the same object, prepared once. A function that
    returns a shape, in place of a variable and constraints, declares conv of what ``@family.argmax`` returns: all that
    is then known (``Polytope.from_oracle``).

    What the author knows beyond the constraints is registered with decorators; each registered function receives
    the utilities first, ``(*batch, *P.shape)`` in float64 (batch dimensions may be missing or of size 0), and then
    the family's arguments under their own names. Where a member has a ``cp.Parameter``, ``argmax`` and ``softmax``
    receive its values under its name as well (in place of an argument of that name), ``(*batch, *its shape)`` in
    float64 with gradients, batch dimensions those of the utilities or none; for values that leave no point, or that
    they do not solve, they answer NaN in that instance.

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
    ``@family.sample``          ``(u, samples, **arguments) -> z``      exact samples of p(z) ~ exp<u, z>, ``(samples,
                                                                        *batch, *P.shape)``, by torch's generator of
                                                                        the device of u; u may hold -inf, which
                                                                        leaves some structure
    ``@family.trace``           ``(u, samples, **arguments)``           the argmax of u + Gumbel(0, 1) noise by a greedy
                                ``-> (z, log_prob)``                    algorithm, ``(samples, *batch, *P.shape)``, and
                                                                        the log-probability, with autograd, of all that
                                                                        it decided, ``(samples, *batch)``; u may hold
                                                                        -inf
    ``@family.structures``      ``(**arguments) -> iterable of arrays`` every z in Z once, by brute force: the
                                                                        set as defined, not as constrained
    ``@family.once``            ``(**arguments) -> value``              what a member computes once: the others of
                                                                        its functions receive it as a keyword of
                                                                        the function's name, tensors in it on the
                                                                        device of the utilities
    ``@family.guess``           ``(shape, form) -> iterable of tuples`` arguments of the members that a presolved
                                                                        standard form might be; cheap: equality of
                                                                        the matrices is checked afterwards. For
                                                                        families whose Z are the vertices of P
    ``@family.facets``          ``(**arguments) -> (G, h)``             G z <= h, ``(count, *P.shape)`` and
                                                                        ``(count,)``: with the affine hull and the
                                                                        bounds of the entries all that z in P
                                                                        means, valid and complete; None where they
                                                                        are too many to list. And, or instead,
                                ``(z, **arguments) -> (G, h)``          for z ``(B, *P.shape)``, in the affine hull
                                                                        and the bounds, some of them,
                                                                        ``(B, K, *P.shape)`` and ``(B, K)``: each
                                                                        valid, among them a most violated one
    ``@family.padding``         ``(**arguments) -> Padding``            how smaller members are faces of this one,
                                                                        for batches of several sizes; a ValueError
                                                                        that says why where they are not
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
        self.sampler: Callable[..., torch.Tensor] | None = None
        self.tracer: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None
        self.structure_list: Callable[..., Iterable[np.ndarray]] | None = None
        self.guess_function: Callable[..., Iterable[tuple]] | None = None
        self.padding_function: Callable[..., Padding] | None = None
        self.facets_list: Callable[..., tuple[Any, Any] | None] | None = None
        self.separation: Callable[..., tuple[Any, Any]] | None = None
        self.once_functions: dict[str, Callable[..., Any]] = {}
        self._members: Cache[tuple, Polytope] = Cache(MEMBERS_KEPT)
        self._in_use: weakref.WeakValueDictionary[tuple, Polytope] = weakref.WeakValueDictionary()

    @property
    def name(self) -> str:
        return self.declare.__name__

    @opaque
    def __call__(self, *args: Any, **kwargs: Any) -> Polytope:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {name: _frozen(name, value) for name, value in bound.arguments.items()}
        key = tuple((type(value), value) for value in arguments.values())  # 4, 4.0 and True are not the same
        P = self._members.get(key, lambda: self._in_use.get(key) or self._declared(arguments))
        if self._in_use.get(key) is not P:
            self._in_use[key] = P
        return P

    def _declared(self, arguments: dict[str, Any]) -> Polytope:
        declared = self.declare(**arguments)
        if is_shape(declared):
            return self._by_oracle(arguments, checked_shape(declared))
        if not (isinstance(declared, tuple) and len(declared) == 2):
            raise ArgumentTypeError(
                f"{self.name}: the declaration must return (variable, constraints), got {type(declared).__name__}; "
                "end it with: return z, [z >= 0, ...]; or return the shape alone, and register @family.argmax"
            )
        variable, constraints = declared
        P = Polytope(variable, constraints, name=self._spelled(arguments))  # type: ignore[arg-type]
        P.knowledge = Member(self, arguments)  # type: ignore[assignment]  # what is a property there nobody sets
        return P

    def _by_oracle(self, arguments: dict[str, Any], shape: tuple[int, ...]) -> Polytope:
        """A member without constraints: conv of what the registered argmax returns."""
        if self.argmax_oracle is None:
            raise ArgumentTypeError(
                f"{self.name}: the declaration returns a shape and no constraints, so that its argmax must say what "
                f"the polytope is: register it with @{self.name}.argmax, or return (variable, constraints)"
            )
        return by_its_oracle(Member(self, arguments), shape, self._spelled(arguments))

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
            self.unrollable -= set(regularizers)
            if "unroll" in inspect.signature(path).parameters and "unroll" not in self.signature.parameters:
                self.unrollable |= set(regularizers)
            return path

        return register

    def log_partition(self, function: F) -> F:
        """Register A(u) = log sum_{z in Z} exp<u, z>; its gradient is the exponential-family softmax."""
        self.log_partition_function = function
        return function

    def sample(self, function: F) -> F:
        """Register exact samples of the Gibbs distribution: ``(u, samples, **arguments) -> z``."""
        self.sampler = function
        return function

    def trace(self, function: F) -> F:
        """Register a greedy algorithm on noisy utilities: ``(u, samples, **arguments) -> (z, log_prob)``."""
        self.tracer = function
        return function

    def structures(self, function: F) -> F:
        """Register the set Z itself: an iterable over all its structures, for small sizes."""
        self.structure_list = function
        return function

    def once(self, function: F) -> F:
        """Register what a member computes once; functions that name it as a parameter receive it."""
        self.once_functions[function.__name__] = function
        return function

    def padding(self, function: F) -> F:
        """Register how smaller members lie in larger ones."""
        self.padding_function = function
        return function

    def facets(self, function: F) -> F:
        """Register the inequalities in z alone: all of them, or by a function of ``z`` those that z violates most."""
        if next(iter(inspect.signature(function).parameters), None) == "z":
            self.separation = function
        else:
            self.facets_list = function
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


class Member:
    """What a family knows of one of its polytopes: the functions registered with it, with the arguments filled in."""

    def __init__(self, family: Family, arguments: dict[str, Any], values: dict[str, torch.Tensor] | None = None):
        self.family, self.arguments = family, arguments
        self._given = arguments if values is None else arguments | values
        self._bound: Cache[Callable, Map] = Cache(32)
        self._once: Cache[tuple[str, torch.device], Any] = Cache(64)

    def at(self, values: dict[str, torch.Tensor]) -> Member:
        """The same at values of the parameters: its functions receive them as keywords of their names."""
        other = Member(self.family, self.arguments, values)
        other._once = self._once
        return other

    @property
    def argmax(self) -> Map | None:
        return self._with_arguments(self.family.argmax_oracle)

    @property
    def log_partition(self) -> Map | None:
        return self._with_arguments(self.family.log_partition_function)

    @property
    def sample(self) -> Map | None:
        return self._with_arguments(self.family.sampler)

    @property
    def trace(self) -> Callable[..., tuple[torch.Tensor, torch.Tensor]] | None:
        return self._with_arguments(self.family.tracer)

    @property
    def structures(self) -> Callable[[], Iterable[np.ndarray]] | None:
        return self._with_arguments(self.family.structure_list)

    @property
    def facets(self) -> tuple[Any, Any] | None:
        return None if self.family.facets_list is None else self.family.facets_list(**self.arguments)

    @property
    def separation(self) -> Map | None:
        return self._with_arguments(self.family.separation)

    @cached_property
    def padding(self) -> Padding | None:
        function = self.family.padding_function
        return None if function is None else plainly(lambda: function(**self.arguments))

    def softmax(self, regularizer: type) -> Map | None:
        return self._with_arguments(self.family.softmax_paths.get(regularizer))

    def reduce(self) -> tuple | None:
        family = self.family
        return (_recall, (family.__module__, family.__qualname__, self.arguments)) if family.is_importable() else None

    def _with_arguments(self, function: Callable | None) -> Any:
        return None if function is None else self._bound.get(function, lambda: self._bind(function))

    def _bind(self, function: Callable) -> Map:
        once = [name for name in inspect.signature(function).parameters if name in self.family.once_functions]
        if not once:
            return partial(function, **self._given)

        def call(w: torch.Tensor, **options: Any) -> torch.Tensor:
            known = {name: self._once.get((name, w.device), partial(self._compute, name, w.device)) for name in once}
            return function(w, **self._given, **known, **options)

        return call

    def _compute(self, name: str, device: torch.device) -> Any:
        return _on(device, plainly(lambda: self.family.once_functions[name](**self.arguments)))


def _on(device: torch.device, value: Any) -> Any:
    """The tensors in a value, or in a tuple or list of values, on this device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        parts = [_on(device, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _recall(module: str, qualname: str, arguments: dict[str, Any]) -> Polytope:
    return operator.attrgetter(qualname)(import_module(module))(**arguments)


@overload
def polytope(declare: Declaration) -> Family: ...
@overload
def polytope(*, examples: Sequence[tuple] = ()) -> Callable[[Declaration], Family]: ...


def polytope(declare: Declaration | None = None, *, examples: Sequence[tuple] = ()) -> Any:
    """Decorator: a function that returns ``(variable, constraints)``, or a shape, becomes a family of polytopes.

    Args:
        examples: tuples of arguments, small enough to enumerate: the instances that ``cvxsst list`` shows and
            on which the test laws run.

    Example:
        >>> import cvxpy as cp, cvxsst, torch
        >>> @cvxsst.polytope
        ... def triangle(n):
        ...     z = cp.Variable(n)
        ...     return z, [z >= 0, cp.sum(z) == 1]
        >>> triangle(3) is triangle(n=3)
        True
        >>> @cvxsst.polytope
        ... def corners(n):  # no constraints: conv of what the argmax returns
        ...     return n
        >>> @corners.argmax
        ... def best(w, n):
        ...     return torch.nn.functional.one_hot(w.argmax(-1), n).to(w)
        >>> cvxsst.softmax(corners(3), torch.tensor([1.0, 0.5, -1.0]))
        tensor([0.7500, 0.2500, 0.0000])
    """
    if declare is None:
        return lambda function: Family(function, examples)
    return Family(declare, examples)


def _frozen(name: str, value: Any) -> Any:
    """A hashable, picklable copy of an argument: sequences and arrays become tuples, integers become int."""
    if isinstance(value, torch.Tensor) and value.requires_grad:
        raise ArgumentTypeError(
            f"{name}: a family's arguments are constants, and this tensor requires a gradient, which would be lost; "
            "pass it detached, or let the utilities depend on it"
        )
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

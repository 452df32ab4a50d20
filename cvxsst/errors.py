"""What can go wrong, each with the argument, the cause and the cure in its message.

A declaration or an argument that cannot work is a ``ValueError``. A solve that was sound but did not
reach its tolerance is a ``ConvergenceError`` (a ``RuntimeError``): it names the instances, so that the
caller can look at them, or ask ``on_failure="nan"`` to mark them and keep the rest.
"""

from collections.abc import Sequence


class ArgumentTypeError(TypeError, ValueError):
    """An argument of the wrong type: a ``TypeError``, and a ``ValueError`` like every other wrong argument."""


class EmptyPolytopeError(ValueError):
    """No point satisfies the constraints (or what a mask of -inf utilities leaves of them)."""


class UnboundedPolytopeError(ValueError):
    """Some entry of the variable can grow without end, so the set is no polytope."""


class NotPolyhedralError(ValueError):
    """A constraint is not a finite set of linear (in)equalities of real variables."""


class NoFastPathError(ValueError):
    """The engine asked for does not exist for this polytope and regularizer."""


class ConvergenceError(RuntimeError):
    """A solve did not reach its tolerance.

    Attributes:
        instances: indices into the batch (tuples, one index per batch dimension) of the failed instances.
    """

    def __init__(self, message: str, instances: Sequence[tuple[int, ...]] = ()):
        super().__init__(message)
        self.instances = list(instances)

    def __reduce__(self) -> tuple:
        return type(self), (*self.args, self.instances)


def some(items: Sequence, most: int = 5) -> str:
    """The first few of many, for a message: ``0, 3, 7, ... (12 in all)``."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown}, ... ({len(items)} in all)"

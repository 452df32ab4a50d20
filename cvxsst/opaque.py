"""``torch.compile`` calls the library, it does not look inside: it would find loops over values and calls of SciPy.

``torch.compiler.disable`` says so, but it takes as long to import as torch itself; so it is asked only where a compiler
may be at work, which is where ``torch._dynamo`` has been imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def opaque(function: F) -> F:
    """The function, which breaks the graph where ``torch.compile`` meets it and runs as it does without.

    With ``fullgraph=True``, which forbids breaks, the compiler raises its own error and shows the reason below.
    """
    disabled: list[F] = []

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is None:
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
            dynamo.decorators.skip(call)  # or this frame would be compiled, again for each kind of arguments
        return disabled[0](*args, **kwargs)

    # Dynamo's own marks: it stops in front of the wrapper, with a reason, rather than at some line of it.
    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    call._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
        f"cvxsst.{function.__qualname__} runs outside of the graph, it is no tensor operation: use fullgraph=False, or "
        "compile the parts of the model before and after it"
    )
    return call  # type: ignore[return-value]

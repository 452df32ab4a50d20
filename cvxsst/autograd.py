"""Maps with a symmetric derivative, for autograd: two formulas, and every mode of differentiation follows.

    z = z(u),  J = dz/du = J'        backward g -> J g,  forward du -> J du: the same product

All softmaxes are such maps, as gradients of convex functions. ``SymmetricMap`` makes one of ``solve`` and
``times_jacobian``, ``SymmetricSystem`` one of the solution of a symmetric linear system. Both work under ``backward``
(twice where the product itself is made of differentiable operations), forward mode, and the transforms of
``torch.func``; under ``vmap`` the mapped dimension joins the batch: values are looked at and loops run once for all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.autograd.function import once_differentiable

Tensors = tuple[torch.Tensor, ...]
F = TypeVar("F", bound=Callable[..., Any])


def _signed(function: F) -> F:
    """The function with its signature at hand: autograd asks for it in every call, and finding it takes 30 us."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class SymmetricMap:
    """u ``(B, ...)`` to z of the same shape, every instance on its own, with a symmetric derivative J.

    Args:
        solve: ``(u, *data) -> z`` or ``-> (z, *kept)``; ``kept`` are tensors that the product needs besides, B first.
        times_jacobian: ``(g, u, z, *kept, *data) -> J g``. It is differentiated in g, u and z, which come with their
            graphs, for a second derivative; ``kept`` are constants.
        twice: whether ``times_jacobian`` may be differentiated.

    ``data``: whatever else the formulas need; tensors among them are constants, with the batch first.
    """

    def __init__(self, solve: Callable[..., Any], times_jacobian: Callable[..., torch.Tensor], twice: bool = True):
        self.solve, self.times_jacobian = solve, times_jacobian
        self._function = _Map if twice else _MapOnce

    def __call__(self, u: torch.Tensor, *data: Any) -> torch.Tensor:
        return self._function.apply(u, self, *data)[0]

    def with_kept(self, u: torch.Tensor, *data: Any) -> Tensors:
        """(z, *kept)."""
        return self._function.apply(u, self, *data)


class _Map(torch.autograd.Function):
    @staticmethod
    @_signed
    def forward(u: torch.Tensor, rule: SymmetricMap, *data: Any) -> Tensors:
        found = rule.solve(u, *data)
        return found if isinstance(found, tuple) else (found,)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensors) -> None:
        u, ctx.rule, *data = inputs
        if len(output) > 1:
            ctx.mark_non_differentiable(*output[1:])
        ctx.data, tensors = _apart(data)
        ctx.kept = len(output)
        ctx.save_for_backward(u, *output, *tensors)
        ctx.save_for_forward(u, *output, *tensors)

    @staticmethod
    def product(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        u, *rest = ctx.saved_tensors
        return ctx.rule.times_jacobian(g, u, *rest[: ctx.kept], *_together(ctx.data, rest[ctx.kept :]))

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        return _Map.product(ctx, g), None, *[None] * len(ctx.data)

    @staticmethod
    def jvp(ctx: Any, du: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        return _Map.product(ctx, du), *[None] * (ctx.kept - 1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, rule: SymmetricMap, *data: Any) -> tuple[Tensors, Any]:
        found = _in_one_batch(info.batch_size, (in_dims[0], *in_dims[2:]), rule.with_kept, u, *data)
        return found, (0,) * len(found)


class _MapOnce(_Map):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        return _Map.product(ctx, g), None, *[None] * len(ctx.data)


_TENSOR = object()  # stands for a tensor, which autograd keeps


def _apart(data: Sequence[Any]) -> tuple[list[Any], list[torch.Tensor]]:
    tensors = [d for d in data if isinstance(d, torch.Tensor)]
    return [_TENSOR if isinstance(d, torch.Tensor) else d for d in data], tensors


def _together(data: list[Any], tensors: Sequence[torch.Tensor]) -> list[Any]:
    rest = iter(tensors)
    return [next(rest) if d is _TENSOR else d for d in data]


def _in_one_batch(size: int, dims: tuple, solve: Callable[..., Tensors], *parts: Any) -> Tensors:
    """``solve(*parts)`` with the mapped dimension of each tensor (a copy of it where it has none) joined to the batch,
    its first."""
    mapped = [
        t if not isinstance(t, torch.Tensor) else t.expand(size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(parts, dims, strict=True)
    ]
    found = solve(*(t.flatten(0, 1) if isinstance(t, torch.Tensor) else t for t in mapped))
    return tuple(t.unflatten(0, mapped[0].shape[:2]) for t in found)


class SymmetricSystem:
    """x with M(d) x = f, instance by instance; M is symmetric and linear in d, up to a constant.

        dx = M^-1 (df - M(dd) x),       d <y, M(d) x> / dd = pairing(y, x)

    Args:
        solve: ``(f, d, *data) -> x``, all tensors ``(B, ...)``; ``data`` as for ``SymmetricMap``.
        times: ``(dd, x) -> M(dd) x`` without the constant; by default diagonal, dd * x.
        pairing: ``(y, x) -> `` the gradient above; by default that of the diagonal, y * x.
    """

    def __init__(
        self,
        solve: Callable[..., torch.Tensor],
        times: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.mul,
        pairing: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.mul,
    ):
        self.solve, self.times, self.pairing = solve, times, pairing

    def __call__(self, f: torch.Tensor, d: torch.Tensor, *data: Any) -> torch.Tensor:
        return _System.apply(f, d, self, *data)


class _System(torch.autograd.Function):
    @staticmethod
    @_signed
    def forward(f: torch.Tensor, d: torch.Tensor, rule: SymmetricSystem, *data: Any) -> torch.Tensor:
        return rule.solve(f, d, *data)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        _, d, ctx.rule, *data = inputs
        ctx.data, tensors = _apart(data)
        ctx.save_for_backward(d, output, *tensors)
        ctx.save_for_forward(d, output, *tensors)

    @staticmethod
    def again(ctx: Any, f: torch.Tensor) -> torch.Tensor:
        d, _, *rest = ctx.saved_tensors
        return ctx.rule(f, d, *_together(ctx.data, rest))

    @staticmethod
    def backward(ctx: Any, e: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        y = _System.again(ctx, e)
        dd = -ctx.rule.pairing(y, ctx.saved_tensors[1]) if ctx.needs_input_grad[1] else None
        return y, dd, None, *[None] * len(ctx.data)

    @staticmethod
    def jvp(ctx: Any, df: torch.Tensor | None, dd: torch.Tensor | None, *_: Any) -> torch.Tensor:
        x = ctx.saved_tensors[1]
        right = torch.zeros_like(x) if df is None else df
        return _System.again(ctx, right if dd is None else right - ctx.rule.times(dd, x))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, f: torch.Tensor, d: torch.Tensor, rule: SymmetricSystem, *data: Any) -> Any:
        dims = (*in_dims[:2], *in_dims[3:])
        return *_in_one_batch(info.batch_size, dims, lambda *parts: (rule(*parts),), f, d, *data), 0


def without_derivative(solve: Callable[..., torch.Tensor], u: torch.Tensor, *data: Any) -> torch.Tensor:
    """``solve(u, *data)`` of plain tensors, also under ``torch.func`` transforms, as a constant."""
    return _Constant.apply(u.detach(), solve, *data)


class _Constant(torch.autograd.Function):
    @staticmethod
    @_signed
    def forward(u: torch.Tensor, solve: Callable[..., torch.Tensor], *data: Any) -> torch.Tensor:
        return solve(u, *data)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.mark_non_differentiable(output)
        ctx.count = len(inputs)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[None, ...]:
        return (None,) * ctx.count

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:
        return None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, solve: Callable, *data: Any) -> Any:
        def again(*parts: Any) -> Tensors:
            return (without_derivative(solve, *parts),)

        return *_in_one_batch(info.batch_size, (in_dims[0], *in_dims[2:]), again, u, *data), 0


def with_gradient(
    value: Callable[..., torch.Tensor], u: torch.Tensor, gradient: torch.Tensor, *data: Any
) -> torch.Tensor:
    """``value(u, *data)`` ``(B,)`` of plain tensors, u ``(B, n)``; its gradient in u is ``gradient`` ``(B, n)``, and
    a second derivative that of ``gradient``. ``data`` are constants, tensors among them with the batch first."""
    return _Potential.apply(u, gradient, value, *data)


class _Potential(torch.autograd.Function):
    @staticmethod
    @_signed
    def forward(u: torch.Tensor, gradient: torch.Tensor, value: Callable[..., torch.Tensor], *data: Any):
        return value(u, *data)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.rest = len(inputs) - 1
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return g[:, None] * ctx.saved_tensors[0], *[None] * ctx.rest

    @staticmethod
    def jvp(ctx: Any, du: torch.Tensor | None, *_: Any) -> torch.Tensor:
        (gradient,) = ctx.saved_tensors
        return gradient.sum(1) * 0.0 if du is None else (gradient * du).sum(1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, gradient: torch.Tensor, value: Callable, *data: Any) -> Any:
        def again(*parts: Any) -> Tensors:
            return (with_gradient(value, *parts),)

        return *_in_one_batch(info.batch_size, (*in_dims[:2], *in_dims[3:]), again, u, gradient, *data), 0


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, soft: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        return g, None


def straight_through(soft: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
    """The values of ``hard``, exactly; the gradient of ``soft``."""
    return _StraightThrough.apply(soft, hard)

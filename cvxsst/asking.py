"""An argmax oracle that is all that is known of a polytope: asked, and held to its contract.

    w (B, *shape), float64, finite   ->   z (B, *shape), float64:  argmax over z in Z of <w, z>, the same every time

An oracle alone proves neither that its answers are maximal nor that they are structures. What can be seen is seen: an
answer that is none; two answers to one question; an answer that is worse than another one of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cvxsst.errors import ArgumentTypeError
from cvxsst.values import plainly

Each = Callable[[Callable[[np.ndarray], np.ndarray], list[np.ndarray]], Iterable[np.ndarray]]

DIRECTIONS = 2  # that are asked about when a polytope is declared, both ways, and 0
SAME = 1e-9  # of two answers, relative to the largest entry
WORSE = 1e-6  # of a value, relative to |w| and the width of what was seen: beyond what an oracle may round


@dataclass(frozen=True, eq=False)
class OracleAlone:
    """The ``Knowledge`` of a polytope that was given by an oracle.

    Attributes:
        oracle, shape, each: as in ``Polytope.from_oracle``.
    """

    oracle: Callable[..., Any]
    shape: tuple[int, ...]
    each: Each | None = None
    family: None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    log_partition: None = None
    structures: None = None
    facets: None = None
    separation: None = None
    padding: None = None

    def argmax(self, w: torch.Tensor) -> Any:
        """The oracle's answers as they are, w ``(B, *shape)``."""
        if self.each is None:
            return self.oracle(w)
        found = list(self.each(self.oracle, list(w.cpu().numpy().copy())))
        for position, z in enumerate(found):
            if not isinstance(z, np.ndarray) or z.shape != self.shape or z.dtype != np.float64:
                got = f"{z.dtype} of shape {z.shape}" if isinstance(z, np.ndarray) else type(z).__name__
                raise ValueError(
                    f"oracle: its answer {position} is {got}; with each=... it is called with one float64 NumPy array "
                    f"of shape {self.shape} and must return another"
                )
        if len(found) != len(w):
            raise ValueError(f"each: {len(found)} answers to {len(w)} questions; it must map as the built-in map does")
        return torch.from_numpy(np.stack(found)).to(w.device)

    def softmax(self, regularizer: type) -> None:
        return None

    def reduce(self) -> None:
        return None


def is_shape(value: Any) -> bool:
    """Whether a value is an int or a tuple of ints."""
    sizes = value if isinstance(value, tuple) else (value,)
    return all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The shape of a polytope given by its oracle: an int or a sequence of ints, all positive."""
    shape = tuple(shape) if isinstance(shape, list) else shape
    if not is_shape(shape):
        raise ArgumentTypeError(f"shape: expected an int or a tuple of ints, got {shape!r}")
    sizes = tuple(shape) if isinstance(shape, tuple) else (shape,)
    if min(sizes, default=1) < 1:
        raise ValueError(f"shape: every dimension must be at least 1, got {sizes}")
    return sizes


@torch.no_grad()
def answers(argmax: Callable[..., Any], w: torch.Tensor, name: str) -> torch.Tensor:
    """What an oracle that is all that is known answers to w ``(B, *shape)``, in memory of its own.

    Raises:
        ValueError: no tensor, or one of another shape, dtype or device; entries that are not finite.
    """
    if not len(w):
        return w.clone()
    z = argmax(w.clone())
    if not isinstance(z, torch.Tensor):
        raise ValueError(f"oracle: that of {name} returned {type(z).__name__}; it must return a torch.Tensor")
    for what, got, expected in (
        ("shape", tuple(z.shape), tuple(w.shape)),
        ("dtype", z.dtype, w.dtype),
        ("device", z.device, w.device),
    ):
        if got != expected:
            raise ValueError(
                f"oracle: that of {name} returned a tensor of {what} {got} for utilities of {what} {expected}; it must "
                "return one vertex for each row, like the utilities: see Polytope.from_oracle, and z.to(w) converts"
            )
    if not bool(torch.isfinite(z).all()):
        raise ValueError(f"oracle: that of {name} returned entries that are not finite")
    return z.detach().clone()


def examined(argmax: Callable[..., Any], shape: tuple[int, ...], name: str) -> np.ndarray:
    """A few vertices ``(count, n)``, each asked for twice, the second time in another order.

    Raises:
        ValueError: as ``answers``; an answer that changed; an answer worse than another one.
    """
    d = np.random.default_rng(0).normal(size=(DIRECTIONS, math.prod(shape)))
    w = np.concatenate([d, -d, np.zeros_like(d[:1])])

    def asked(rows: np.ndarray) -> np.ndarray:
        utilities = torch.from_numpy(rows).reshape(-1, *shape)
        return answers(argmax, utilities, name).reshape(rows.shape).numpy()

    return plainly(lambda: held(w, asked(w), asked(w[::-1].copy())[::-1], name))


def held(w: np.ndarray, z: np.ndarray, again: np.ndarray, name: str) -> np.ndarray:
    """The answers z to w, both ``(count, n)``, if nothing about them is wrong; ``again``: those to the same once more.

    Raises:
        ValueError: with the first utilities that show that the oracle is wrong.
    """
    why = changed(z, again)
    found = next(iter(np.flatnonzero(why)), None)
    if found is not None:
        raise ValueError(
            f"oracle: that of {name} is not deterministic: asked twice for w = {brief(w[found])} it returned "
            f"{brief(z[found])} and {brief(again[found])}; break ties the same way every time, and draw nothing"
        )
    found = next(iter(np.flatnonzero(beaten(w, z))), None)
    if found is not None:
        raise not_maximal(name, w[found], z[found], z[(z @ w[found]).argmax()])
    return z


def changed(z: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Which answers differ from those to the same utilities, ``(count,)``."""
    return np.abs(z - again).max(axis=1) > SAME * max(1.0, np.abs(z).max())


def beaten(w: np.ndarray, z: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Which answers z to w, ``(count, n)``, are worse than one of the others, by default of them all, ``(count,)``."""
    others = z if others is None else others
    best, width = (w @ others.T).max(axis=1), np.ptp(others, axis=0).max()
    return best - (w * z).sum(axis=1) > WORSE * np.abs(w).sum(axis=1) * width


def not_maximal(name: str, w: np.ndarray, z: np.ndarray, better: np.ndarray) -> ValueError:
    return ValueError(
        f"oracle: that of {name} is not maximal: for w = {brief(w)} it returned {brief(z)} with <w, z> = {w @ z:.6g}, "
        f"and for other utilities {brief(better)}, which has {w @ better:.6g}; return a maximizer of <w, z> over all "
        "structures"
    )


def brief(x: np.ndarray) -> str:
    return np.array2string(x + 0.0, precision=4, suppress_small=True, threshold=12, separator=", ").replace("\n", "")

"""Checks of arguments that several pages share."""

from __future__ import annotations

from collections.abc import Sequence


def require_size(name: str, value: int, least: int, most: int | None = None, why: str = "") -> None:
    """Raise unless ``value`` is an integer with least <= value <= most."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: at least {least}, got {value}")
    if most is not None and value > most:
        raise ValueError(f"{name}: at most {most}, got {value}{why}")


def require_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def require_edges(n: int, edges: Sequence[tuple[int, int]]) -> None:
    """Raise unless every edge joins two different nodes of 0..n-1."""
    if not isinstance(edges, list | tuple):
        raise TypeError(f"edges: expected a sequence of pairs of integers, got {edges!r}")
    for position, edge in enumerate(edges):
        ends = tuple(edge) if isinstance(edge, list | tuple) else ()
        if len(ends) != 2 or not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
            raise TypeError(f"edges[{position}]: expected a pair of integers, got {edge!r}")
        if not all(0 <= end < n for end in ends):
            raise ValueError(f"edges[{position}]: {ends} leaves the nodes 0..{n - 1}")
        if ends[0] == ends[1]:
            raise ValueError(f"edges[{position}]: {ends} is a loop; leave it out")


def chainable(n: int, joined: set[int], least: int) -> tuple[range, str]:
    """The lengths from which on all nodes j are joined with j - 1, and why there are no others."""
    missing = max(set(range(least, n)) - joined, default=None)
    if missing is None:
        return range(least, n + 1), ""
    return range(missing + 1, n + 1), f"shorter ones need the edge {missing - 1, missing} in the graph; add it"

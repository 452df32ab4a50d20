"""The language of ListOps (Nangia and Bowman 2018): lists within lists, an operator each, and the digit they come to.

[MAX 2 [MIN 3 9 ] 0 ]   =   3

value   a digit, or a list: MIN, MAX, MED (the median, rounded down) or SM (the sum modulo 10) of its values
tree    the head of a token is the operator of the list it is in, "]" and the operators of inner lists included; the
        first operator is the root. No arcs cross
depth   how many lists the innermost one is in, itself included
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
DIGITS = "0123456789"
END = "]"
PADDING = 0
VOCABULARY = ("<PAD>", *DIGITS, *OPERATORS, END)
NUMBER = {word: number for number, word in enumerate(VOCABULARY)}

DRAWN = ("[MIN", "[MAX", "[MED")  # simplified ListOps has no sums
INNER = 0.25  # the probability that a value is a list, where it may be one
VALUES = (2, 5)  # how many a list has, at least and at most


class Expression(NamedTuple):
    """Tokens by their numbers, the head of each (the root's is itself), what they come to, and the depth."""

    tokens: list[int]
    heads: list[int]
    value: int
    depth: int


def draw(random: Random, depth: int) -> Iterator[str]:
    """The words of a list of at most this depth."""
    yield random.choice(DRAWN)
    for _ in range(random.randint(*VALUES)):
        if depth > 1 and random.random() < INNER:
            yield from draw(random, depth - 1)
        else:
            yield random.choice(DIGITS)
    yield END


def parse(words: Sequence[str]) -> Expression:
    """The expression that the words are.

    Raises:
        ValueError: they are none, with the reason.
    """
    heads: list[int] = []
    lists: list[tuple[int, list[int]]] = []  # those that are open: where they begin, their values so far
    depth, result = 0, None
    for position, word in enumerate(words):
        if word not in NUMBER or word == VOCABULARY[PADDING]:
            raise ValueError(f"{word!r} is no word of ListOps; the words are {' '.join(VOCABULARY[1:])}")
        if not lists and (position or word not in OPERATORS):
            raise ValueError(
                f"{word!r} stands outside of the list" if position else f"it begins with {word!r}, no list"
            )
        heads.append(lists[-1][0] if lists else position)
        if word in OPERATORS:
            lists.append((position, []))
            depth = max(depth, len(lists))
            continue
        value = int(word) if word in DIGITS else _come_to(words, *lists.pop())
        if lists:
            lists[-1][1].append(value)
        else:
            result = value
    if result is None:
        raise ValueError(f"{len(lists)} lists are not closed" if lists else "there are no words")
    return Expression([NUMBER[word] for word in words], heads, result, depth)


def _come_to(words: Sequence[str], start: int, values: list[int]) -> int:
    if not values:
        raise ValueError(f"the list {words[start]} is empty")
    return OPERATORS[words[start]](values)

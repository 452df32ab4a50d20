"""BeerAdvocate reviews in the format of Lei et al. 2016, for those who have them.

The author of the set withdrew it at the site's request; it is not ours to ship or to fetch. A folder holds

    reviews.aspect{i}.train.txt, reviews.aspect{i}.heldout.txt   ratings of the aspects in [0, 1], a tab, the words
    annotations.json                                             a line each: "x" the words, "0", "1" ... spans of them
    review+wiki.filtered.200.txt                                 a word and its 200 numbers a line

(all may be gzipped). Held-out reviews are split evenly and at random into validation and test; what is chosen is held
against the spans that people marked in the annotated reviews, which have no part in the error.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.l2x.data import Corpus, Review

ASPECTS = ("look", "aroma", "palate", "taste")
WIDTH = 350
VECTORS = "review+wiki.filtered.200.txt"


def read(folder: Path, aspect: str, seed: int = 0) -> Corpus:
    """The reviews for one aspect: every aspect has files of its own.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no such aspect; a line that is not of the format.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"aspect: {aspect!r} is not one of {', '.join(ASPECTS)}")
    number = ASPECTS.index(aspect)
    train = list(_reviews(folder, f"reviews.aspect{number}.train.txt", aspect))
    held_out = list(_reviews(folder, f"reviews.aspect{number}.heldout.txt", aspect))
    order = np.random.default_rng(seed).permutation(len(held_out))
    valid, test = np.split(order, [len(order) // 2])
    annotated = list(_annotated(folder, aspect, number))
    splits = {"train": train, "valid": [held_out[i] for i in valid], "test": [held_out[i] for i in test] + annotated}
    return Corpus("beer", splits, (aspect,), WIDTH, _vectors(folder))


def _reviews(folder: Path, name: str, aspect: str) -> Iterator[Review]:
    for where, line in _lines(folder, name):
        numbers, tab, text = line.partition("\t")
        try:
            rating = float(numbers.split()[ASPECTS.index(aspect)])
            if not (tab and text.split() and 0 <= rating <= 1):
                raise ValueError
        except (ValueError, IndexError):
            raise ValueError(f"{where}: expected ratings in [0, 1], a tab and words, got {line[:40]!r}") from None
        yield Review(text.split(), {aspect: rating})


def _annotated(folder: Path, aspect: str, number: int) -> Iterator[Review]:
    for where, line in _lines(folder, "annotations.json"):
        try:
            content = json.loads(line)
            spans, words = content[str(number)], content["x"]
            marked = frozenset(i for start, end in spans for i in range(start, end))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{where}: expected {{"x": words, "{number}": spans}} ({error})') from None
        yield Review(words, marked={aspect: marked})


def _vectors(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for where, line in _lines(folder, VECTORS):
        word, *numbers = line.split()
        try:
            found[word] = np.array(numbers, dtype=np.float32)
            if len(numbers) != len(next(iter(found.values()))) or not numbers:
                raise ValueError
        except ValueError:
            raise ValueError(f"{where}: expected a word and as many numbers as in the first line") from None
    return found


def _lines(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """Those that are not empty, each with where it stands."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        raise FileNotFoundError(f"--file: {folder} has no {name} and no {name}.gz")
    path = plain if plain.exists() else packed
    content = path.read_bytes() if plain.exists() else gzip.decompress(path.read_bytes())
    for number, line in enumerate(content.decode().splitlines(), 1):
        if line.strip():
            yield f"{path}, line {number}", line

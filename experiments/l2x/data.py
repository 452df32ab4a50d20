"""Reviews as arrays: what every source is read into, one file, and the splits that are trained on.

A source says of a review its words, its ratings by aspect, and which words are marked as what an aspect's rating rests
on (``Review``). ``save`` turns them into numbers; ``load`` gives the splits of one aspect.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from experiments.runs.files import read_arrays, write_arrays

PADDING, UNKNOWN = 0, 1
VOCABULARY = 5_000  # the most frequent words of the training part, the two above among them; with given vectors, all
NAMES = ("tokens", "ratings", "marked", "vectors")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Review:
    """The words; a rating in [0, 1] for each aspect that has one; for each aspect that has such, the marked words."""

    words: Sequence[str]
    ratings: Mapping[str, float] = field(default_factory=dict)
    marked: Mapping[str, frozenset[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """Reviews by split, and what is to be known of them.

    Args:
        name: of the source.
        splits: ``train``, ``valid``, ``test``.
        aspects: what is rated.
        width: words of the longest review; later ones are cut off. Default: as many as there are.
        vectors: frozen embeddings of words, all of one length; learned ones if None.
    """

    name: str
    splits: Mapping[str, Sequence[Review]]
    aspects: Sequence[str]
    width: int | None = None
    vectors: Mapping[str, np.ndarray] | None = None


class Batch(NamedTuple):
    """Reviews, padded to one width n: ``tokens`` ``(B, n)``, or with frozen embeddings ``vectors`` ``(B, n, d)``
    (else ``(B, n, 0)``); ``ratings`` ``(B,)``, NaN where there is none; ``marked`` ``(B, n)``, 0 and 1; ``familiar``
    ``(B, n)``: how often a word was marked in training, -1 where it was so less often than the average word.
    """

    tokens: torch.Tensor
    ratings: torch.Tensor
    marked: torch.Tensor
    familiar: torch.Tensor
    vectors: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        return (self.tokens != PADDING).sum(1)


@dataclass(frozen=True)
class Reviews:
    """A part of the data for one aspect: the reviews that have a rating or marked words."""

    tokens: torch.Tensor
    ratings: torch.Tensor
    marked: torch.Tensor
    familiar: torch.Tensor  # of each word of the vocabulary
    vectors: torch.Tensor  # likewise
    vocabulary: Sequence[str]

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: torch.Tensor) -> Batch:
        tokens = self.tokens[rows].long()
        return Batch(tokens, self.ratings[rows], self.marked[rows].float(), self.familiar[tokens], self.vectors[tokens])

    def words(self, row: int) -> list[str]:
        return [self.vocabulary[token] for token in self.tokens[row].tolist() if token != PADDING]


def split_words(text: str) -> list[str]:
    """In lower case, marks of punctuation apart."""
    return re.findall(r"[a-z0-9']+|[^\sa-z0-9']", text.lower())


def save(path: Path, corpus: Corpus, seed: int = 0) -> str:
    """Writes the file whole or not at all, every split in random order; returns its checksum."""
    random, parts = np.random.default_rng(seed), [corpus.splits[name] for name in SPLITS]
    rows = [part[i] for part in parts for i in random.permutation(len(part))]
    words, vectors = _vocabulary(corpus)
    number = {word: i for i, word in enumerate(words)}
    width = min(corpus.width or 10**9, max(len(row.words) for row in rows))
    tokens = np.full((len(rows), width), PADDING, dtype=np.int32)
    ratings = np.full((len(rows), len(corpus.aspects)), np.nan, dtype=np.float32)
    marked = np.zeros((len(rows), len(corpus.aspects), width), dtype=bool)
    for i, row in enumerate(rows):
        found = [number.get(word, UNKNOWN) for word in row.words[:width]]
        tokens[i, : len(found)] = found
        for a, aspect in enumerate(corpus.aspects):
            ratings[i, a] = row.ratings.get(aspect, np.nan)
            marked[i, a, [w for w in row.marked.get(aspect, ()) if w < width]] = True
    arrays = dict(zip(NAMES, (tokens, ratings, marked, vectors), strict=True))
    about = {"aspects": list(corpus.aspects), "corpus": corpus.name, "vocabulary": words, "seed": seed}
    return write_arrays(path, arrays, sizes=[len(part) for part in parts], **about)


def _vocabulary(corpus: Corpus) -> tuple[list[str], np.ndarray]:
    """The words by number, and their vectors ``(words, d)``; d = 0 where embeddings are learned."""
    counts = Counter(word for row in corpus.splits["train"] for word in row.words)
    common = [word for word, _ in counts.most_common(None if corpus.vectors else VOCABULARY - 2)]
    words = ["", "<unknown>", *common]
    if corpus.vectors is None:
        return words, np.zeros((len(words), 0), dtype=np.float32)
    vectors = np.zeros((len(words), len(next(iter(corpus.vectors.values())))), dtype=np.float32)
    for i, word in enumerate(words):
        vectors[i] = corpus.vectors.get(word, 0.0)
    return words, vectors


def load(path: Path, corpus: str, aspect: str) -> dict[str, Reviews]:
    """The splits of a file of ``cvxsst data reviews``; in training all reviews have a rating.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: another file, or a damaged one; another corpus; no such aspect.
    """
    stored = read_arrays(path, NAMES, "reviews", f"cvxsst data reviews {corpus}")
    aspects = stored["aspects"].tolist()
    if corpus != stored["corpus"]:
        raise ValueError(f"corpus: {path} holds reviews of {stored['corpus']}, not of {corpus}")
    if aspect not in aspects:
        raise ValueError(f"aspect: {path} has {', '.join(aspects)}, not {aspect!r}")
    number, vocabulary = aspects.index(aspect), stored["vocabulary"].tolist()
    columns = (stored["tokens"], stored["ratings"][:, number], stored["marked"][:, number])
    parts = {}
    for name, *part in zip(
        SPLITS, *(torch.from_numpy(c).split(stored["sizes"].tolist()) for c in columns), strict=True
    ):
        useful = ~part[1].isnan() if name == "train" else ~part[1].isnan() | part[2].any(1)
        parts[name] = [column[useful] for column in part]
    known = parts["train"] if parts["train"][2].any() else parts["test"]
    familiar, vectors = _familiar(known[0], known[2], len(vocabulary)), torch.from_numpy(stored["vectors"])
    return {name: Reviews(part[0], part[1], part[2], familiar, vectors, vocabulary) for name, part in parts.items()}


def _familiar(tokens: torch.Tensor, marked: torch.Tensor, size: int) -> torch.Tensor:
    """How often each word is marked, ``(size,)``; -1 for those that are so less often than words are on the average.
    (Where nothing is marked in training, of the test part itself: what words alone can do at most.)"""
    annotated = marked.any(1)
    tokens, marked = tokens[annotated].long(), marked[annotated]
    often = torch.bincount(tokens[marked], minlength=size).float()
    everywhere = torch.bincount(tokens.flatten(), minlength=size).float()
    everywhere[PADDING] = 0
    share = often.sum() / everywhere.sum().clamp(min=1)
    return often.where(often > share * everywhere, -1.0)

"""CEBaB v1.1, restaurant reviews and their edits (Abraham et al. 2022, github.com/CEBaBing/CEBaB, CC BY 4.0).

People rewrote a review so that its opinion on one aspect became another one. Ratings are the majority's: negative 0,
unknown 1/2, positive 1. Nobody marked the words that they rest on. What stands for that here is a *proxy*: the words in
which an edit differs from its original; in an original, those that any of its edits of the aspect replaced. It is
called so everywhere.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import urllib.request
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
from typing import Any

from experiments.l2x.data import Corpus, Review, split_words

URL = "https://github.com/CEBaBing/CEBaB/raw/main/CEBaB-v1.1.zip"
FILES = {"train": "train_inclusive.json", "valid": "dev.json", "test": "test.json"}
CHECKSUMS = {  # SHA-256 of the published files
    "train_inclusive.json": "12f76b82e74700a3818679b65b993d8233f556f9f46d30f3e8f1dc209e1c97b6",
    "dev.json": "cfd78bb3d2b7790275eba2f867a91b03b90a23aabdfd2e8970bfa93fbf23a70e",
    "test.json": "15ccbc4ff9682a026839d9a6d7f3d39a965b9da2433fc22b607fe9fb6d037679",
}
ASPECTS = ("food", "service", "ambiance", "noise")
RATINGS = {"Negative": 0.0, "unknown": 0.5, "Positive": 1.0}
Read = Callable[[str], bytes]


def read(place: Path | None = None) -> Corpus:
    """The three splits.

    Args:
        place: the published archive, or a folder of its files, which may be gzipped; downloaded if None.

    Raises:
        ValueError: a file is not the published one, or not there.
    """
    content = _opened(place)
    rows = {split: json.loads(_checked(name, content(name))) for split, name in FILES.items()}
    return from_rows(rows)


def from_rows(rows: Mapping[str, list[dict[str, Any]]]) -> Corpus:
    """Of the published rows by split.

    Raises:
        ValueError: rows of one original lie in two splits.
    """
    for one, other in combinations(rows, 2):
        if shared := {row["original_id"] for row in rows[one]} & {row["original_id"] for row in rows[other]}:
            raise ValueError(
                f"CEBaB: {one} and {other} share the original {min(shared)}; a split must hold all its rows"
            )
    return Corpus("cebab", {split: list(_reviews(part)) for split, part in rows.items()}, ASPECTS)


def _reviews(rows: Iterable[dict[str, Any]]) -> Iterator[Review]:
    of_original = defaultdict(list)
    for row in rows:
        of_original[row["original_id"]].append(row)
    for group in of_original.values():
        originals = [row for row in group if row["is_original"]]
        words = {row["id"]: split_words(row["description"]) for row in group}
        marked: dict[str, dict[str, set[int]]] = {row["id"]: defaultdict(set) for row in group}
        for original in originals:
            for row in group:
                if row["edit_type"] in ASPECTS:
                    before, after = differing(words[original["id"]], words[row["id"]])
                    marked[original["id"]][row["edit_type"]] |= before
                    marked[row["id"]][row["edit_type"]] |= after
        for row in group:
            ratings = {aspect: RATINGS.get(row[f"{aspect}_aspect_majority"]) for aspect in ASPECTS}
            known = {aspect: rating for aspect, rating in ratings.items() if rating is not None}
            yield Review(words[row["id"]], known, {a: frozenset(found) for a, found in marked[row["id"]].items()})


def differing(one: list[str], other: list[str]) -> tuple[set[int], set[int]]:
    """The positions of the words of each that are not also in the other, in their order."""
    before, after = set(range(len(one))), set(range(len(other)))
    for block in SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks():
        before -= set(range(block.a, block.a + block.size))
        after -= set(range(block.b, block.b + block.size))
    return before, after


def _opened(place: Path | None) -> Read:
    if place is not None and place.is_dir():
        return lambda name: _in_folder(place, name)
    if place is not None and not place.exists():
        raise FileNotFoundError(f"--file: nothing at {place}")
    content = place.read_bytes() if place is not None else _download()
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise ValueError(f"--file: {place or URL} is no zip archive ({error}); expected CEBaB-v1.1.zip") from error
    return lambda name: _in_archive(archive, name)


def _download() -> bytes:
    try:
        with urllib.request.urlopen(URL, timeout=60) as answer:
            return answer.read()
    except OSError as error:
        cure = "get the archive by other means, and name it: --file CEBaB-v1.1.zip"
        raise ValueError(f"{URL} cannot be reached ({error}); {cure}") from error


def _in_folder(place: Path, name: str) -> bytes:
    if (plain := place / name).exists():
        return plain.read_bytes()
    if (packed := place / f"{name}.gz").exists():
        return gzip.decompress(packed.read_bytes())
    raise ValueError(f"--file: {place} has no {name} and no {name}.gz")


def _in_archive(archive: zipfile.ZipFile, name: str) -> bytes:
    found = [member for member in archive.namelist() if Path(member).name == name and "__MACOSX" not in member]
    if len(found) != 1:
        raise ValueError(f"--file: the archive has {len(found)} files {name}, expected one")
    return archive.read(found[0])


def _checked(name: str, content: bytes) -> bytes:
    if (digest := hashlib.sha256(content).hexdigest()) != CHECKSUMS[name]:
        raise ValueError(f"{name} is not the published one of CEBaB v1.1: its SHA-256 is {digest}")
    return content

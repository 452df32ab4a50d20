"""``cvxsst data reviews``: the reviews that ``cvxsst train l2x`` learns from, of three sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from experiments.l2x import beer, cebab, planted
from experiments.l2x.data import SPLITS, Corpus, save

ASPECTS = {"cebab": cebab.ASPECTS, "beer": beer.ASPECTS, "planted": planted.ASPECTS}
MARKS = {"cebab": "words that an edit changed (proxy)", "beer": "annotated spans", "planted": "planted phrases"}
SIZES = {"train": 4_000, "valid": 500, "test": 1_000}


def usual(corpus: str) -> Path:
    """The file of a corpus."""
    return Path(f"out/reviews-{corpus}.npz")


def data(
    corpus: Annotated[
        Literal["cebab", "beer", "planted"],
        typer.Argument(help="CEBaB; BeerAdvocate, for who has it; or a corpus whose answer is known."),
    ] = "cebab",
    file: Annotated[
        Path | None,
        typer.Option(
            help="CEBaB's archive or a folder of its files (default: it is fetched); the folder of BeerAdvocate.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file to write. Default: out/reviews-CORPUS.npz.", show_default=False)
    ] = None,
    aspect: Annotated[str, typer.Option(help=f"Of BeerAdvocate: {', '.join(beer.ASPECTS)}.")] = "aroma",
    words: Annotated[int, typer.Option(min=1, help="Of a planted review.")] = 60,
    phrase: Annotated[int, typer.Option(min=2, help="Words of each of its phrases.")] = 10,
    reviews: Annotated[
        int, typer.Option(min=8, help="Planted ones to train; three eighths as many more to validate and test.")
    ] = (SIZES["train"]),
    seed: Annotated[int, typer.Option(min=0, help="Of planted reviews, random splits and the order.")] = 0,
) -> None:
    """Make the file of reviews for `cvxsst train l2x`; prints its checksum.

    Examples:

    - `cvxsst data reviews` (fetches and checks CEBaB v1.1, CC BY 4.0, 2.2 MB)
    - `cvxsst data reviews beer --file BEER --aspect aroma`
    - `cvxsst data reviews planted --words 350 --phrase 15 --output out/long.npz`
    """
    output = output or usual(corpus)
    if output.suffix != ".npz" or output.exists():
        why = "is there already; delete it, or name another file" if output.exists() else "must end in .npz"
        raise ValueError(f"--output: {output} {why}")
    found = _read(corpus, file, aspect, words, phrase, reviews, seed)
    checksum = save(output, found, seed)
    sizes = " + ".join(f"{len(found.splits[name]):,}" for name in SPLITS)
    print(f"{sizes} reviews, {', '.join(found.aspects)}: {output}, checksum {checksum}")


def _read(corpus: str, file: Path | None, aspect: str, words: int, phrase: int, reviews: int, seed: int) -> Corpus:
    if corpus == "cebab":
        return cebab.read(file)
    if corpus == "planted":
        sizes = {name: max(1, size * reviews // SIZES["train"]) for name, size in SIZES.items()}
        return planted.generate(sizes, words, phrase, seed)
    if file is None:
        raise ValueError("--file: the folder with the BeerAdvocate files; they are not ours to give")
    return beer.read(file, aspect, seed)

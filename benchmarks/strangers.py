"""The generic engines on polytopes that nobody here chose: solved, certified, wrong?

    python -m benchmarks.strangers                            all corpora, engine="auto"
    python -m benchmarks.strangers --engine kkt --corpus generated --count 96
    python -m benchmarks.strangers --only "0:17 "             one declaration, by its name
    python -m benchmarks.strangers --only israel --regularizer euclidean --temperature 0.1

A declaration is named by its seed and index (``0:17 cuts, plain``) or by its file, and is the same whatever else runs;
its utilities depend on ``--seed`` and ``--batch`` alone. The exit status is 1 if an answer that was given as right is
wrong. ``--save NAME`` keeps the figures, and each fault in words, in ``benchmarks/results``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cvxsst
from benchmarks import corpora
from benchmarks.corpora import Declaration
from benchmarks.judgement import REGULARIZERS, TEMPERATURES, Tally, ask, brief, judge, supported
from benchmarks.measuring import save
from cvxsst.engines import ENGINES

CORPORA: dict[str, Callable[[int, int], Iterator[Declaration]]] = {
    "files": lambda seed, count: corpora.files(),
    "generated": corpora.generated,
    "drawn": corpora.drawn,
}
CYCLE = len(corpora.KINDS) * len(corpora.TWISTS)
HEADERS = "corpus,regularizer,T,instances,solved,certified,wrong,gradients,wrong,kinks,s per 1000"


def measure(
    chosen: list[tuple[str, Declaration]],
    names: list[str],
    temperatures: list[float],
    engine: str,
    batch: int,
    seed: int,
    gradients: int | None,
) -> tuple[list[Tally], list[str]]:
    """A tally for each declaration, regularizer and temperature; and what went wrong before any solve."""
    found, refused = [], []
    for corpus, declaration in track(chosen, "judging", console=Console(stderr=True)):
        is_empty = corpus == "files" and declaration.name in corpora.EMPTY
        try:
            _ = declaration.P, declaration.judge
            fs = list(supported(declaration, names, engine))
        except Exception as error:  # whatever it is, it is what a user would get
            if not (is_empty and isinstance(error, cvxsst.EmptyPolytopeError)):
                word = "WRONG: said to be empty" if isinstance(error, cvxsst.EmptyPolytopeError) else "not declared"
                refused.append(f"{declaration.name}: {word}: {type(error).__name__}: {brief(error)}")
            continue
        if is_empty:
            refused.append(f"{declaration.name}: WRONG: not said to be empty")
            continue
        for f in fs:
            # What depends on the declaration alone is computed before the clock runs.
            ask(declaration.P, f, 1.0, engine, torch.zeros(1, declaration.P.size, dtype=torch.float64))
            found += [judge(declaration, f, T, engine, batch, seed, gradients, corpus) for T in temperatures]
    return found, refused


def summed(found: list[Tally], each: bool) -> list[Tally]:
    """Over the declarations of a corpus; or, with ``each``, over the temperatures and regularizers of a declaration."""
    sums: dict[tuple, Tally] = {}
    for tally in found:
        key = (
            (tally.corpus, tally.declaration, "all", 0.0)
            if each
            else (tally.corpus, "", tally.regularizer, tally.temperature)
        )
        sums.setdefault(key, Tally(*key)).add(tally)
    return list(sums.values())


def show(found: list[Tally], engine: str) -> None:
    table = Table(title=f"engine {engine}")
    for i, header in enumerate(HEADERS.split(",")):
        table.add_column(header, justify="left" if i < 2 else "right")
    for t in found:
        counts = (t.instances, t.solved, t.certified, t.wrong, t.gradients, t.gradient_wrong, t.kinks)
        per_thousand = f"{1e3 * t.seconds / max(t.instances, 1):.2f}"
        name = (t.declaration or t.corpus, t.regularizer, f"{t.temperature:g}" if t.temperature else "all")
        table.add_row(*name, *map(str, counts), per_thousand)
    Console(width=120).print(table)


def require(given: Iterable[str], known: Iterable[str], option: str) -> None:
    for name in given:
        if name not in known:
            raise typer.BadParameter(f"{option}: unknown {name!r}; choose {', '.join(known)}")


def main(
    engine: Annotated[str, typer.Option(help="auto, or an engine's name.")] = "auto",
    corpus: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CORPORA)}; all if not given.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Of declarations of each generated corpus.")] = CYCLE,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    regularizer: Annotated[list[str] | None, typer.Option(help=f"{', '.join(REGULARIZERS)}; all if not given.")] = None,
    temperature: Annotated[list[float] | None, typer.Option()] = None,
    only: Annotated[str | None, typer.Option(help="Declarations whose name contains this.")] = None,
    gradients: Annotated[
        int | None, typer.Option(help="Judge the gradient of so many of a batch; all if not given.")
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="A row for each declaration.")] = False,
    seed: int = 0,
    notes: Annotated[int, typer.Option(help="How many failures to print.")] = 40,
    name: Annotated[str | None, typer.Option("--save", help="Keep the figures under this name.")] = None,
) -> None:
    """Judge an engine on the corpora."""
    require([engine], ["auto", *ENGINES], "--engine")
    require(corpus or [], CORPORA, "--corpus")
    require(regularizer or [], REGULARIZERS, "--regularizer")
    chosen = [
        (which, declaration)
        for which in corpus or CORPORA
        for declaration in CORPORA[which](seed, count)
        if only is None or only in declaration.name
    ]
    if not corpora.MPS.is_dir() and "files" in (corpus or CORPORA):
        print(f"files: left out, {corpora.MPS} is not there")
    names, temperatures = list(regularizer or REGULARIZERS), temperature or list(TEMPERATURES)
    found, refused = measure(chosen, names, temperatures, engine, batch, seed, gradients)
    show(summed(found, each), engine)
    said = [*refused, *(note for tally in found for note in tally.notes)]
    said.sort(key=lambda note: "WRONG" not in note)
    print("\n".join(said[:notes]))
    if len(said) > notes:
        print(f"... and {len(said) - notes} more: --notes, or --save")
    if name:
        save(
            name,
            {"table": [asdict(t) for t in found], "refused": refused},
            engine=engine,
            batch=batch,
            count=count,
            seed=seed,
        )
    raise typer.Exit(int(any("WRONG" in note for note in said)))


if __name__ == "__main__":
    typer.run(main)

"""A report as one HTML page that needs nothing else: the style, the tables and the pictures are inside."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from cvxsst.installed import require
from cvxsst.validation.findings import Findings, Law, number
from cvxsst.validation.plot import draw_errors, draw_times

# A table row becomes a card where the page is narrow; long utilities scroll inside their own box.
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2126; background: #fff; margin: 0 auto; padding: 1rem;
       max-width: 76rem; overflow-wrap: break-word; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; line-height: 1.3; }
.pass { color: #1f6b3f; font-weight: 600; } .fail { color: #b03024; font-weight: 600; }
.quiet { color: #5b6068; font-size: .875rem; }
.blame { border-left: 4px solid #d9a21b; padding: .3rem .8rem; background: #fdf7e7; }
.proof { border-left: 4px solid #b03024; padding: .3rem .8rem; background: #fcf0ee; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; }
th { text-align: left; font-size: .8rem; color: #5b6068; font-weight: 600; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #e6e8eb; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem; }
.pictures img { width: 100%; height: auto; }
figure { margin: 0; } figcaption { color: #5b6068; font-size: .875rem; }
details { margin: .3rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; background: #f6f7f8; padding: .6rem; font-size: .8rem; margin: .3rem 0; }
@media (max-width: 40rem) {
  thead { display: none; }
  tr { display: grid; grid-template-columns: 1fr 1fr; border-bottom: 1px solid #cfd3d8; padding: .4rem 0; }
  .summary tr { grid-template-columns: 1fr; }
  td, td.n { border: 0; padding: .05rem 0; text-align: left; }
  td.wide { grid-column: 1 / -1; } td:empty { display: none; }
  td[data-label]::before { content: attr(data-label) " "; color: #5b6068; font-size: .8rem; }
}
"""


def save(reports: Sequence[Findings], path: str | Path, verdicts: dict[float, str] | None = None) -> Path:
    """Write the page of these reports, or that of two and of who is right; see ``Report.save``."""
    check_writable(path)
    return write_whole(Path(path), page(reports, verdicts))


def check_writable(path: str | Path) -> None:
    """Raise before the work is done, not after: matplotlib is missing, or the folder is."""
    require("matplotlib.pyplot", "cvxsst[plot]")
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {Path(path).parent}; make it first")


def page(reports: Sequence[Findings], verdicts: dict[float, str] | None = None) -> str:
    """The whole document."""
    title = "cvxsst validate" if verdicts is None else "cvxsst compare"
    passed = sum(report.passed for report in reports)
    head = f"<h1>{title}: {passed} of {len(reports)} passed</h1>" if len(reports) > 1 else f"<h1>{title}</h1>"
    body = "".join(section(report) for report in reports)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>"
        f"{head}{'' if verdicts is None else _summary(reports, verdicts)}{body}</body></html>\n"
    )


def _summary(reports: Sequence[Findings], verdicts: dict[float, str]) -> str:
    headers = [f"{escape(report.candidate)}: {what}" for report in reports for what in ("z", "vjp")]
    columns = [("T", "n"), *((header, "n") for header in headers), ("verdict", "wide")]
    rows = [[f"{T:g}", *sum((r.worst_errors(T) for r in reports), ()), escape(said)] for T, said in verdicts.items()]
    question = "<p>Who is right? The largest errors, kinks left out; ! where wrong.</p>"
    return f'{question}<div class="summary">{_table(columns, rows)}</div>{_pictures(reports)}'


def section(report: Findings, pictures: bool = True) -> str:
    """One report: headline, table of laws, pictures, proofs, worst instances."""
    kind = "pass" if report.passed else "fail"
    blame = "".join(f'<p class="blame">{escape(proof)}</p>' for proof in report.blamed.values())
    proofs = "".join(
        f'<p class="proof"><strong>{law.name}</strong>: {escape(law.detail)}</p>'
        for law in report.laws
        if law.passed is False
    )
    worst = "".join(_worst(law) for law in report.laws if law.worst is not None and law.passed is False)
    return (
        f'<section><h2>{escape(report.title)}: <span class="{kind}">{escape(report.headline)}</span></h2>'
        f'<p class="quiet">{escape(report.footer)}</p>{blame}{_laws(report)}{proofs}{worst}'
        f"{_pictures([report]) if pictures else ''}</section>"
    )


def _laws(report: Findings) -> str:
    columns = [("law", ""), ("", ""), ("error", "n"), ("allowed", "n"), ("judged", "n"), ("what must hold", "wide")]
    rows = []
    for law in report.laws:
        kind = {True: "pass", False: "fail", None: "quiet"}[law.passed]
        name, verdict = f"<strong>{law.name}</strong>", f'<span class="{kind}">{law.verdict}</span>'
        note = f' <span class="quiet">({escape(law.note)})</span>' if law.note else ""
        judged = f"{law.judged} of {law.instances}"
        rows.append([name, verdict, number(law.error), number(law.tolerance), judged, escape(law.says) + note])
    return _table(columns, rows)


def _table(columns: list[tuple[str, str]], rows: list[list[str]]) -> str:
    """Of columns with a header and a class each; where the page is narrow a number (``n``) stands beside its header."""
    head = "".join(f'<th class="{kind}">{header}</th>' for header, kind in columns)
    body = "".join(
        "".join(["<tr>", *(_cell(content, *column) for content, column in zip(row, columns, strict=True)), "</tr>"])
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(content: str, header: str, kind: str) -> str:
    label = f' data-label="{header}"' if kind == "n" and content else ""
    return f'<td class="{kind}"{label}>{content}</td>'


def _worst(law: Law) -> str:
    worst = law.worst
    assert worst is not None
    lines = [f"w = {worst.w.tolist()}", f"T = {worst.temperature!r}", f"cotangent = {worst.cotangent.tolist()}"]
    lines += [f"returned = {worst.z.tolist()}", f"expected = {worst.expected.tolist()}"]
    text = escape("\n".join(lines))
    return f"<details><summary>{law.name}: its worst instance ({worst.kind})</summary><pre>{text}</pre></details>"


def _pictures(reports: Sequence[Findings]) -> str:
    drawn: dict[str, Callable] = {
        "Errors of every instance, against certified references.": draw_errors,
        "Time of one pass, on this machine.": draw_times,
    }
    figures = "".join(
        f'<figure><img alt="{caption}" src="data:image/png;base64,{_png(draw, reports)}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for caption, draw in drawn.items()
    )
    return f'<div class="pictures">{figures}</div>'


def _png(draw: Callable, reports: Sequence[Findings]) -> str:
    """The picture at twice the size at which it is read; no window is opened, no global state of pyplot touched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.6), dpi=220, layout="constrained")
    draw(figure.subplots(), reports)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def write_whole(path: Path, text: str) -> Path:
    """Write beside the file, then rename: a reader sees the old page or the new one, and a failure leaves nothing."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path

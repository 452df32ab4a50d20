"""The notebooks run from top to bottom, as a reader would run them, and what is stored is fit to be read."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 400_000
MOST_LINES = 11  # of a code cell; six or so in the mean

notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def prose(path: Path) -> str:
    return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def test_pages_are_numbered_and_titled_alike() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(len(NOTEBOOKS))]
    for number, path in enumerate(NOTEBOOKS):
        assert prose(path).startswith(f"# {number}. ")


@notebook
def test_links_lead_to_the_page_that_they_name(path: Path) -> None:
    """Also: the page before and the one after are linked, and no page is mentioned without a link."""
    numbers = {page.name: number for number, page in enumerate(NOTEBOOKS)}
    links = re.findall(r"\[([^\]]*)\]\(([^)]*\.ipynb)\)", prose(path))
    for text, target in links:
        assert target in numbers, target
        if named := re.match(r"(?:page |← )?(\d+)", text):
            assert int(named[1]) == numbers[target], text
    around = {number for number in (numbers[path.name] - 1, numbers[path.name] + 1) if 0 <= number < len(NOTEBOOKS)}
    assert around <= {numbers[target] for _, target in links}
    assert not re.findall(r"(?<!\[)\b(?:page|notebook) \d+", prose(path))


def test_the_map_has_every_page_and_each_needs_earlier_ones_only() -> None:
    lines = re.findall(r"^\| (\d+) \| \[.*?\]\((.*?)\) \| .* \| (.*?) \| \d+ \|$", prose(NOTEBOOKS[0]), re.MULTILINE)
    assert [target for _, target, _ in lines] == [path.name for path in NOTEBOOKS[1:]]
    for number, _, needs in lines:
        assert all(int(page) < int(number) for page in re.findall(r"\d+", needs.partition(";")[0]))


def test_the_readme_links_every_page() -> None:
    linked = re.findall(r"^\d+\. \[.*?\]\(notebooks/(.*?)\)", (FOLDER.parent / "README.md").read_text(), re.MULTILINE)
    assert linked == [path.name for path in NOTEBOOKS]


@notebook
# pyzmq and ipykernel warn of what they do among themselves
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs(path: Path, tmp_path: Path) -> None:
    """In an empty folder: a reader needs no file but the notebook. Any exception fails, unless its cell is marked."""
    NotebookClient(read(path), timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert not any(tmp_path.iterdir())


@notebook
def test_what_is_stored_was_run_once_in_order_and_is_small(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs)
    assert path.stat().st_size < MOST_BYTES
    for cell in cells:
        raised = [output for output in cell.outputs if output.output_type == "error"]
        assert bool(raised) == ("raises-exception" in cell.metadata.get("tags", []))
        streams = [output.text for output in cell.outputs if output.get("name") == "stderr"]
        assert not streams, "warnings"
    assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text())


def lines(source: str) -> int:
    """Of code, without imports (which the formatter spreads out) and blank ones."""
    imports: set[int] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(bool(line.strip()) and n not in imports for n, line in enumerate(source.splitlines(), 1))


@notebook
def test_cells_are_short_and_prose_carries_the_argument(path: Path) -> None:
    cells = read(path).cells
    lengths = [lines(cell.source) for cell in cells if cell.cell_type == "code"]
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    assert max(lengths) <= MOST_LINES
    assert sum(lengths) / len(lengths) <= 6.5
    assert words > 7 * sum(lengths)

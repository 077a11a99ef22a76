"""docs/tutorial.ipynb is kept without outputs, and its links lead somewhere; tests/finetune executes it."""

from __future__ import annotations

from pathlib import Path

import nbformat

from tests.docs.pages import SITE, Page
from tests.docs.test_links import broken

FILE = SITE / "tutorial.ipynb"
NOTEBOOK = nbformat.read(FILE, as_version=4)


def test_it_is_valid_and_stripped() -> None:
    nbformat.validate(NOTEBOOK)
    code = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}
    assert len(FILE.read_text(encoding="utf-8").splitlines()) < 400


def test_its_links_lead_somewhere(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("\n\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown"))
    links = Page(text).links()
    assert len(links) == 3
    assert [words for target in links if (words := broken(Page(FILE), target))] == []

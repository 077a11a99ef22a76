"""docs/tutorial.ipynb: executed as it stands, from its text to the tagged sentence."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.cluster.slurm import PATIENCE_S
from tests.docs.pages import SITE


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell wrote to the standard output and standard error."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, nbformat.NotebookNode]:
    """The notebook's cells by their ids, executed; its own folder lies in the test's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(SITE / "tutorial.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=PATIENCE_S, kernel_name="python3", resources=where).execute()
    return {cell.id: cell for cell in notebook.cells}


@pytest.mark.slow
def test_it_ends_with_the_marks_in_their_places(cells: dict[str, nbformat.NotebookNode], tmp_path: Path) -> None:
    for name, cell in cells.items():
        if cell.cell_type == "code":
            assert "error" not in printed(cell).lower(), (name, printed(cell))
    folder = Path(printed(cells["folder"]).strip())
    assert folder.parent == tmp_path
    assert (folder / "results" / "marks" / "phase1" / "RESULT.json").is_file()
    assert any(deed in printed(cells["fill"]) for deed in ("carry", "find", "hide", "lose", "paint"))
    words, tags = zip(*(line.split() for line in printed(cells["infer"]).splitlines()), strict=True)
    assert " ".join(words) == "in the evening anna found the old key where did ben hide the green lamp"
    assert "".join(tag for tag in tags if tag != "O") == ",.?"
    last = list(cells)[-1]
    assert printed(cells[last]) == "in the evening, anna found the old key. where did ben hide the green lamp?\n"

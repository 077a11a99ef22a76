"""Files and folders that the pages name exist, under their current names."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import PAGES, ROOT, SITE, Page

PACKAGE = ROOT / "bertjobs"
TOPS = "|".join(("bertjobs", "tests", "docs", "scripts", "benchmarks", "data"))
FULL = re.compile(
    rf"(?<![\w./-])(?:{TOPS})/[\w./-]*\w\.(?:py|sh|md|json|png|yml)\b|(?<![\w./-])(?:bertjobs|tests)/[\w/]*\w/"
)
"""A file of the repository by its whole path, or a folder of the code."""

ANY = re.compile(r"(?<![\w./-])[\w.-][\w./-]*(?:\.(?:py|sub|sh)\b|/(?![\w<]))")
"""In the architecture, where paths are also given inside of the package, or of the room that the line is about."""

OF_A_RUN = {"source/", "phase1/", "phase2/"}
"""Folders of a run, which no repository has."""


def named(page: Page) -> set[str]:
    """The repository's files and folders that a page names in code."""
    return {path for code in (*page.code_spans(), *page.code_blocks()) for path in FULL.findall(code)}


# A changelog also names what existed before.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page: Page) -> None:
    assert [path for path in sorted(named(page)) if not (ROOT / path).exists()] == []


def architecture() -> list[tuple[str, str]]:
    """Each path that docs/architecture.md names, and the folder that its line is about."""
    lines = (SITE / "architecture.md").read_text(encoding="utf-8").splitlines()
    paths = [(line, ANY.findall(line)) for line in lines if not line.lstrip().startswith("-")]
    return [
        (path, next((word for word in words if word.startswith("bertjobs/")), ""))
        for _, words in paths
        for path in words
    ]


def test_every_path_of_the_architecture_exists() -> None:
    paths = architecture()
    assert len(paths) > 80
    wrong = [
        path
        for path, room in paths
        if path not in OF_A_RUN and not any((folder / path).exists() for folder in (ROOT, PACKAGE, ROOT / room))
    ]
    assert wrong == []


def test_every_room_is_in_the_architecture() -> None:
    text = (SITE / "architecture.md").read_text(encoding="utf-8")
    rooms = [folder.parent for folder in PACKAGE.rglob("__init__.py") if folder.parent != PACKAGE]
    floors = {"cli", "launch", "train", "data"}  # drawn, or with a table of their own
    missing = [str(room.relative_to(ROOT)) for room in rooms if f"{room.relative_to(ROOT)}/" not in text]
    assert [room for room in missing if room.removeprefix("bertjobs/") not in floors] == []


def test_decisions_are_grouped_by_floor() -> None:
    """Each heading is a floor, from the bottom to the top, after a heading for what concerns all of them."""
    headings = re.findall(r"^## (\w+)", (SITE / "decisions.md").read_text(encoding="utf-8"), re.MULTILINE)
    order = ["files", "recipe", "run", "slurm", "data", "tasks", "model", "optim", "conversion", "train", "serve"]
    order += ["export", "distill", "bench", "launch", "report", "track", "cli"]
    assert headings[0] == "Packaging"
    assert headings[1:] == [floor for floor in order if floor in headings]
    assert len(headings) > 6

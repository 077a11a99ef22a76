"""The architecture: an upper floor imports only floors below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bertjobs"
BELOW = {
    "errors": set(),
    "run": {"errors"},
    "recipe": {"errors", "run"},
    "data": {"errors", "run", "recipe"},
    "model": {"errors", "run", "recipe", "data"},
    "optim": {"errors", "run", "recipe"},
    "train": {"errors", "run", "recipe", "data", "model", "optim"},
    "launch": {"errors", "run", "recipe", "data"},
    "report": {"errors", "run", "recipe", "data", "model", "launch"},
    "cli": {"errors", "run", "recipe", "data", "train", "launch", "report"},
}


def imported_floors(file: Path) -> set[str]:
    """The floors that a module imports, also inside functions."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names if name.startswith("bertjobs.")]
    return {part[1] for part in parts} & set(BELOW)


@pytest.mark.parametrize("floor", sorted(BELOW))
def test_a_floor_imports_only_floors_below(floor: str) -> None:
    files = [PACKAGE / f"{floor}.py"] if (PACKAGE / f"{floor}.py").exists() else sorted((PACKAGE / floor).rglob("*.py"))
    assert files
    for file in files:
        assert imported_floors(file) <= BELOW[floor] | {floor}, file

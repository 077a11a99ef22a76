"""docs/launcher-complaints.md: fifteen rows, each of which names existing tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = {
    int(number): line
    for line in (ROOT / "docs" / "launcher-complaints.md").read_text(encoding="utf-8").splitlines()
    for number in re.findall(r"^\| (\d+) \|", line)
}


def test_there_are_fifteen() -> None:
    assert sorted(ROWS) == list(range(1, 16))


@pytest.mark.parametrize("number", sorted(ROWS))
def test_a_row_names_existing_tests(number: int) -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", ROWS[number].split(" | ")[-1])
    assert named
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"

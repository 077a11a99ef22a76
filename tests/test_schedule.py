"""The dealing of files to the tests' processes."""

from __future__ import annotations

from pathlib import Path

from tests.schedule import CLUSTER, FIRST_HALF, LONG, SHARED

ROOT = Path(__file__).parents[1]


def test_the_first_half_names_files_that_exist() -> None:
    """A renamed file would go to the other half, which would then take longer, without anybody being told."""
    assert [name for name in FIRST_HALF if not (ROOT / CLUSTER / f"{name}.py").is_file()] == []


def test_what_is_dealt_by_name_exists() -> None:
    """As for the halves: a name that nothing has is one that somebody changed."""
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in LONG if f"def {name}" not in text] == []
    assert [folder for folder in SHARED if not (ROOT / folder).is_dir()] == []

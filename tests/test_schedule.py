"""The dealing of files to the tests' processes."""

from __future__ import annotations

from pathlib import Path

from tests.schedule import CLUSTER, FIRST_HALF

ROOT = Path(__file__).parents[1]


def test_the_first_half_names_files_that_exist() -> None:
    """A renamed file would go to the other half, which would then take longer, without anybody being told."""
    assert [name for name in FIRST_HALF if not (ROOT / CLUSTER / f"{name}.py").is_file()] == []

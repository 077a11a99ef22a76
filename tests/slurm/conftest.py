"""Stand-ins for single commands of Slurm, where the real one would not fail as asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Tool = Callable[[str, str], None]


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    """Writes a stand-in for one of Slurm's commands; those not written are absent."""
    (tmp_path / "bin").mkdir()

    def write(name: str, text: str) -> None:
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)

    return write

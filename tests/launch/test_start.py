"""Where a run goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.launch.start import choose_backend
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from tests.launch.conftest import Tool


@pytest.mark.parametrize(
    ("asked", "before", "expected"),
    [
        ("auto", None, "slurm"), ("auto", "local", "local"), ("auto", "slurm", "slurm"), ("slurm", "local", "slurm"),
        ("local", "slurm", "local"),
    ],
)  # fmt: skip
def test_a_run_of_this_machine_is_resumed_here_unless_asked_otherwise(
    tmp_path: Path, tool: Tool, asked: str, before: str | None, expected: str
) -> None:
    tool("sbatch", "exit 0")
    spec = resolve(load_catalogue([builtin_file()]), flags={"recipe": "laptop-scratch"}, environ={}).spec
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    directory.record("submitted", backend=before or "slurm", phase=1, job="1")
    resumed = directory if before else None
    assert choose_backend(asked, spec, Slurm({"PATH": str(tmp_path / "bin")}), resumed) == expected

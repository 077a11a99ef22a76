"""The check of a GPU, on a machine without one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Runs a script on a machine whose driver finds no GPU."""
    stand_in = tmp_path / "bin" / "nvidia-smi"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    stand_in.chmod(0o755)
    environ = {**os.environ, "PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    return lambda name, *arguments: subprocess.run(
        [SCRIPTS / name, *arguments], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300
    )


def test_without_a_gpu_it_says_so_and_does_nothing(script: Script, tmp_path: Path) -> None:
    end = script("gpu_check.sh", "found")
    assert (end.returncode, end.stdout) == (64, "")
    assert end.stderr == "error: no NVIDIA GPU here (nvidia-smi -L finds none): nothing was checked\n"
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("arguments", [(), ("--wheels", "w"), ("one", "two"), ("--help",), ("--wheels",)])
def test_its_arguments_are_checked_first(script: Script, arguments: tuple[str, ...]) -> None:
    end = script("gpu_check.sh", *arguments)
    assert (end.returncode, end.stdout) == (64, "")
    assert end.stderr == "error: usage: scripts/gpu_check.sh [--wheels DIR] FOLDER\n"


@pytest.mark.parametrize("arguments", [(), ("--help",), ("one", "two")])
def test_the_download_needs_a_folder(script: Script, arguments: tuple[str, ...]) -> None:
    end = script("gpu_wheels.sh", *arguments)
    assert (end.returncode, end.stdout) == (64, "")
    assert end.stderr == "error: usage: scripts/gpu_wheels.sh DIR\n"

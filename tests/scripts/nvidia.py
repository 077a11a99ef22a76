"""Runs the scripts that take NVIDIA's arguments, and reads the commands that these become."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from tests.cluster.slurm import PATIENCE_S

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """``scripts/NAME ARGUMENTS`` with this environment alone."""
    return subprocess.run(
        [str(SCRIPTS / name), *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def commands(name: str, *arguments: str, **environ: str) -> list[list[str]]:
    """The words of each command that the script would run."""
    ended = script(name, "--dry-run", *arguments, **environ)
    assert ended.returncode == 0, ended.stderr
    return [shlex.split(line) for line in ended.stdout.splitlines()]


def stand_in(folder: Path, code: int) -> Path:
    """A bertjobs that writes its arguments into ``folder``/calls and exits with ``code``."""
    file = folder / "bertjobs"
    file.write_text(f'#!/bin/sh\necho "$@" >>"$(dirname "$0")/calls"\nexit {code}\n')
    file.chmod(0o755)
    return file

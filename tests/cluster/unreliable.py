"""Slurm's own commands, of which one fails when a test says so, as they do when the controller is busy."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

_FAILURES = {
    "squeue": """\
  echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
  exit 1""",
    "sbatch": """\
  "$real" "$@" >/dev/null || exit
  echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
  exit 1""",
}
"""squeue gives no answer; sbatch queues the job, but loses the answer."""

_SCRIPT = """\
#!/bin/bash
real={real}
if [[ "$*" != *--test-only* ]] && mv {folder}/fail-{name} {folder}/failed-{name} 2>/dev/null; then
{failure}
fi
exec "$real" "$@"
"""


class UnreliableCommands:
    """squeue and sbatch in a folder of their own, for the head of a PATH.

    Args:
        folder: a new one.
        environment: whose PATH leads to the real ones.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir()
        self._folder = folder
        for name, failure in _FAILURES.items():
            real = shutil.which(name, path=environment["PATH"])
            file = folder / name
            file.write_text(_SCRIPT.format(real=real, folder=folder, name=name, failure=failure))
            file.chmod(0o755)
        self.environment = {**environment, "PATH": f"{folder}:{environment['PATH']}"}

    def fail_once(self, name: str) -> None:
        """The next call of this command fails."""
        (self._folder / f"failed-{name}").unlink(missing_ok=True)
        (self._folder / f"fail-{name}").touch()

    def has_failed(self, name: str) -> bool:
        """Whether it has, since `fail_once`."""
        return (self._folder / f"failed-{name}").exists()

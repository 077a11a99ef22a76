"""What users of Slurm launchers complain about (docs/launcher-complaints.md), where it can be shown without Slurm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bertjobs


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_code_that_runs_is_kept_with_what_was_not_committed(tmp_path: Path) -> None:
    checkout, kept = tmp_path / "checkout", tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(bertjobs.__file__).parent, checkout / "bertjobs", ignore=ignore)
    (checkout / ".gitignore").write_text("__pycache__/\n")
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "as published")
    changed = checkout / "bertjobs" / "errors.py"
    changed.write_text(changed.read_text() + "# not committed\n")
    (checkout / "bertjobs" / "new.py").write_text("# not even added\n")
    (checkout / "secrets.txt").write_text("not code\n")

    code = (
        f"from pathlib import Path; from bertjobs.launch.source import write_source; write_source(Path({str(kept)!r}))"
    )
    (tmp_path / "gitconfig").write_text("[diff]\n\tnoprefix = true\n")  # as some users have it
    own = {"PYTHONPATH": str(checkout), "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig")}
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **own}, cwd=tmp_path, check=True)
    commit = json.loads((kept / "version.json").read_text())["commit"]
    assert commit == git(checkout, "rev-parse", "HEAD").strip()

    again = tmp_path / "again"
    git(tmp_path, "clone", "-q", str(checkout), str(again))
    git(again, "apply", str(kept / "dirty.diff"))
    assert (again / "bertjobs" / "errors.py").read_bytes() == changed.read_bytes()
    assert (again / "bertjobs" / "new.py").read_text() == "# not even added\n"
    assert not (again / "secrets.txt").exists()
    assert git(checkout, "status", "--porcelain") == " M bertjobs/errors.py\n?? bertjobs/new.py\n?? secrets.txt\n"

"""Which code runs: version, git commit and what differs from it, kept in the run directory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bertjobs import __version__
from bertjobs.run.atomic import PRIVATE_FOLDER, write_text


def _git(*words: str) -> str | None:
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():  # installed: a repository around it is somebody else's
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def write_source(folder: Path) -> None:
    """Write ``version.json`` and, in a git checkout, ``dirty.diff`` against its commit."""
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    commit = _git("rev-parse", "HEAD")
    version = {"bertjobs": __version__, "python": sys.version.split()[0], "commit": commit and commit.strip()}
    write_text(folder / "version.json", json.dumps(version, indent=2) + "\n")
    if commit and (diff := _git("diff", "HEAD")):
        write_text(folder / "dirty.diff", diff)

"""Which code runs: its version, git commit and difference from that, kept in the run directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bertjobs import __version__
from bertjobs.files.atomic import PRIVATE_FOLDER, write_text

CODE = ("bertjobs", "run.sub", "configurations.yml")
"""What runs, below the checkout; other untracked files are not recorded."""


ROOT = Path(__file__).parent.parent.parent


def _git(*words: str, **environ: str) -> str | None:
    if not (ROOT / ".git").exists():  # installed: a repository around it is someone else's
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False,
            env={**os.environ, **environ},
        )  # fmt: skip
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def write_source(folder: Path) -> None:
    """Write ``version.json`` and, in a git checkout, ``dirty.diff`` against its commit."""
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    commit = _git("rev-parse", "HEAD")
    version = {"bertjobs": __version__, "python": sys.version.split()[0], "commit": commit and commit.strip()}
    write_text(folder / "version.json", json.dumps(version, indent=2) + "\n")
    if commit and (diff := _difference()):
        write_text(folder / "dirty.diff", diff)


_PLAIN = ("--no-ext-diff", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
"""What `git apply` needs, whatever the user has configured."""


def _difference() -> str | None:
    """What differs from the commit, new files too, without touching the checkout's own index."""
    code = [name for name in CODE if (ROOT / name).exists()]
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        if _git("read-tree", "HEAD", **index) is None or _git("add", "--all", "--", *code, **index) is None:
            return _git("diff", "HEAD", *_PLAIN)
        return _git("diff", "--cached", "HEAD", "--binary", *_PLAIN, "--", *code, **index)

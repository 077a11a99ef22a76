"""What a test may see of its surroundings: not the user's configuration, settings or Slurm job."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bertjobs.recipe import schema
from tests.cluster.slurm import is_foreign

SETTINGS = {setting.env for table in (schema.RUN, schema.PHASE) for setting in table.values() if setting.env}
TESTS_OWN = {"BERTJOBS_REQUIRE_CLUSTER", "BERTJOBS_REQUIRE_TRACKERS", "BERTJOBS_CHAOS_SEED", "BERTJOBS_CHAOS_TABLE",
             "BERTJOBS_REQUIRE_BROWSER", "BERTJOBS_PICTURES"}  # fmt: skip
PYTHONS = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
"""Few users set these: without bytecode each process compiles the package anew, and unbuffered, no flush is missed."""
PREFIX = "bertjobs-tests-home-"


def hermetic(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """``environ`` as all tests and what they start must see it, with the empty folder ``home`` as the user's.

    Recipes, site files and git's settings are looked for below it. Caches stay where they are, since they change
    only how long something takes.
    """
    user = Path(environ.get("HOME") or "/")
    kept = {
        name: value
        for name, value in environ.items()
        if name in TESTS_OWN
        or not (name in SETTINGS or name in PYTHONS or name.startswith(("BERTJOBS_", "GIT_")) or is_foreign(name))
    }
    caches = {"XDG_CACHE_HOME": str(user / ".cache"), "TRITON_HOME": str(user)}
    return {**caches, **kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}


def enter() -> None:
    """Make this process's environment hermetic; the processes that it starts inherit it, pytest's workers too."""
    if Path(os.environ.get("HOME", "")).name.startswith(PREFIX):
        return
    home, owner = Path(tempfile.mkdtemp(prefix=PREFIX)), os.getpid()
    (home / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")  # the checkout may belong to another user
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(home, ignore_errors=True))
    environ = hermetic(os.environ, home)
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update(environ)
    sys.dont_write_bytecode = False

"""Where Triton and torch.compile keep what they compile: in a folder on the node's own disk, which its ranks share.

By default they write to the home folder and to /tmp. A home folder may be read-only in a container, and is slow if
all nodes share it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

CACHES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""Variables that Triton and torch.compile read when they compile, and the subfolder for each."""

PLACES = ("SLURM_TMPDIR", "TMPDIR")
"""Variables that name a node's folder for temporary files, the best first; else it is /tmp."""

JOBS = ("SLURM_JOB_ID", "BERTJOBS_JOB")

Usable = Callable[[Path], bool]


def is_writable(folder: Path) -> bool:
    """Whether a folder exists here and may be written to: in a container, not every one that is named does."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def cache_folder(environ: Mapping[str, str], user: int, usable: Usable = is_writable) -> Path | None:
    """The folder for what a job compiles on its node; None outside of a job.

    Args:
        environ: of a rank.
        user: its number.
        usable: says which of the named places may be used.
    """
    job = next((environ[name] for name in JOBS if environ.get(name)), None)
    if job is None:
        return None
    places = (Path(environ[name]) for name in PLACES if environ.get(name))
    place = next((place for place in places if usable(place)), Path("/tmp"))
    return place / f"bertjobs-{user}-{job}"


def cache_variables(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What to add to ``environ``, so that caches are in this folder; those that it names stay where they are."""
    return {name: str(folder / part) for name, part in CACHES.items() if not environ.get(name)}


def open_cache(environ: Mapping[str, str]) -> dict[str, str]:
    """Make the job's folder, for its owner only, and return what to add to the environment before anything is compiled.

    What lies there is executed. So if it cannot be made, or somebody else has made it, nothing is added, and the
    caches are in their usual places.
    """
    folder = cache_folder(environ, os.getuid())
    variables = cache_variables(environ, folder) if folder else {}
    if folder is None or not variables:
        return {}
    try:
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        return variables if _is_ours(folder.lstat()) else {}
    except OSError:
        return {}


def close_cache(environ: Mapping[str, str]) -> None:
    """Delete the job's folder if ``environ`` uses it: a node's first rank does so when nothing more is compiled."""
    folder = cache_folder(environ, os.getuid())
    if folder and any(environ.get(name) == str(folder / part) for name, part in CACHES.items()):
        shutil.rmtree(folder, ignore_errors=True)


def _is_ours(status: os.stat_result) -> bool:
    others = stat.S_IRWXG | stat.S_IRWXO
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & others

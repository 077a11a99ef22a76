"""One process at a time on a folder: a lock file that names its owner."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError
from bertjobs.files.reading import DamagedFileError, read_json

LOCK_NAME = "lock"
BEAT_S = 20.0  # the owner renews the lock this often
OWNER_FIELDS = {"host", "process", "begun", "user", "since"}
STALE_S = 180.0  # a lock of another host that was not renewed for this long has lost its owner


@dataclass(frozen=True)
class Taken:
    """What to say to who finds a folder locked: what is going on, and what to do instead."""

    what: str
    remedy: str


ANOTHER_PREPARE = Taken("another prepare is working on this output", "wait for it, choose another --output")


@contextmanager
def locked(folder: Path, taken: Taken = ANOTHER_PREPARE) -> Iterator[None]:
    """Hold ``folder``'s lock during the block; ``taken`` is for whoever comes second.

    A lock whose owner has died (a process of this host that is gone, or a lock of another host that was not renewed
    for three minutes) is taken over.

    Raises:
        BertjobsError: another process holds it; names the owner.
    """
    path = folder / LOCK_NAME
    mine = folder / f"{LOCK_NAME}-{uuid.uuid4().hex[:8]}"
    owner = json.dumps(_owner())
    try:
        with open(mine, "x", encoding="utf-8") as file:
            file.write(owner)
        _take(path, mine, taken)
    finally:
        mine.unlink(missing_ok=True)
    stop = threading.Event()
    beat = threading.Thread(target=_renew, args=(path, stop), name="lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        path.unlink(missing_ok=True)


def _take(path: Path, mine: Path, taken: Taken) -> None:
    """Make ``path`` a second name of ``mine``: of two who try, one succeeds, also over NFS."""
    for _ in range(2):
        try:
            os.link(mine, path)
            return
        except FileExistsError:
            owner = _read(path)
            if not _is_stale(path, mine, owner):
                raise _held(path, owner, taken) from None
            with suppress(FileNotFoundError):  # another is taking it over at this moment
                path.rename(mine.with_name(f"{mine.name}-stale"))
                mine.with_name(f"{mine.name}-stale").unlink()
    raise _held(path, _read(path), taken)


def _held(path: Path, owner: dict[str, Any], taken: Taken) -> BertjobsError:
    words = (
        f"process {owner['process']} of {owner['user']} on {owner['host']}, since {owner['since']}"
        if owner
        else "an unknown owner"
    )
    return BertjobsError(
        f"{taken.what}: {words}",
        where=str(path),
        hint=f"{taken.remedy}, or, if it is dead, remove the lock: rm {shlex.quote(str(path))}",
    )


def _owner() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "begun": process_start(os.getpid()),
        "user": _user(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def _user() -> str:
    """The user's name; the number of one that has none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # before and from Python 3.13 on
        return str(os.getuid())


def process_start(process: int) -> str | None:
    """When a process of this host began, in clock ticks since the boot; None if it is gone. Numbers are reused."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, _checked) or {}
    except DamagedFileError:
        return {}


def _checked(value: Any) -> dict[str, Any]:
    if not (isinstance(value, dict) and value.keys() >= OWNER_FIELDS and type(value["process"]) is int):
        raise ValueError("it names no owner")
    return value


def _is_stale(path: Path, mine: Path, owner: dict[str, Any]) -> bool:
    if owner.get("host") == socket.gethostname():
        return process_start(owner["process"]) != owner["begun"]
    try:
        # Both times are the file server's: the clocks of hosts may differ.
        return mine.stat().st_mtime - path.stat().st_mtime > STALE_S
    except FileNotFoundError:
        return True


def _renew(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with suppress(OSError):
            os.utime(path)

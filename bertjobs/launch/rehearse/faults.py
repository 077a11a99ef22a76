"""The faults that a rehearsal injects into a small run on this machine, and a small disk to fill."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Generic, TypeVar

from bertjobs.errors import EXIT_CONTINUE, EXIT_FAILURE
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.causes import Cause
from bertjobs.run.checkpoints import read_manifest, steps
from bertjobs.run.directory import PhaseDirectory

BLOCK = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """Something that ends an attempt.

    Attributes:
        name: as on the command line, without the dashes.
        words: what is done to the run.
        causes: those that the journal may give for the attempt.
        exit_code: the one that the attempt must end with.
        rank: the one that is killed; None for the other faults.
    """

    name: str
    words: str
    causes: tuple[Cause, ...]
    exit_code: int
    rank: int | None = None


PREEMPT = Fault("preempt", "TERM to all ranks", (Cause.SIGTERM,), EXIT_CONTINUE)
TIMEOUT = Fault("timeout", "USR2 to one rank", (Cause.SIGUSR2,), EXIT_CONTINUE)
FILL_DISK = Fault("fill-disk", "no room for a checkpoint", (Cause.DISK, Cause.CRASHED), EXIT_FAILURE)


def kill_rank(rank: int) -> Fault:
    """SIGKILL to one rank. If that is rank 0, nothing is left to record why: the next attempt does."""
    return Fault(f"kill-rank {rank}", f"KILL to rank {rank}", (Cause.LOST_RANK, Cause.CRASHED), EXIT_FAILURE, rank)


@dataclass(frozen=True)
class Moment:
    """When a fault strikes: as soon as a phase's ``metrics.jsonl`` has this step, and a checkpoint is there."""

    phase: int
    step: int

    def __str__(self) -> str:
        return f"phase {self.phase} step {self.step}"


def draw_moment(spec: RunSpec, draw: random.Random) -> Moment:
    """A random step of the run, after the first checkpoint of its phase, but early enough that another checkpoint
    follows and the fault strikes within the phase."""
    choices = [
        Moment(phase.phase, step)
        for phase in spec.phases
        for step in range(phase.checkpoint_every + 1, max(phase.checkpoint_every + 2, phase.steps * 2 // 3))
    ]
    return draw.choice(choices)


class Strike:
    """One injection of a fault into the ranks of one attempt.

    ``step`` is the last one that was complete when it struck; None until then.
    """

    def __init__(self, fault: Fault, moment: Moment, directory: PhaseDirectory, disk: Path | None):
        """``disk`` is a file system that the run has to itself, to be filled; None if there is none."""
        self.fault, self.moment = fault, moment
        self.step: int | None = None
        self._directory, self._disk = directory, disk
        self._file_bytes: list[int] = []  # of a checkpoint

    def watch(self, pids: Sequence[int]) -> None:
        """Strike once the moment has come; to be called every few milliseconds with the ranks, in order."""
        if self.step is None:
            done = _lines(self._directory.metrics)
            newest = steps(self._directory.checkpoints)[-1:]
            if done < self.moment.step or not newest:
                return
            self._file_bytes = [int(entry["bytes"]) for entry in read_manifest(newest[0]).files.values()]
            self.step = done
            self._begin(pids)
        if self.fault == FILL_DISK and self._disk:
            self._fill(self._disk)

    def end(self) -> None:
        """The attempt has ended: free the disk."""
        if self._disk:
            _ballast(self._disk).unlink(missing_ok=True)

    def _begin(self, pids: Sequence[int]) -> None:
        if self.fault == PREEMPT:
            _send(signal.SIGTERM, pids)
        elif self.fault == TIMEOUT:
            _send(signal.SIGUSR2, pids[-1:])
        elif self.fault.rank is not None:
            _send(signal.SIGKILL, [pids[self.fault.rank]])
        elif not self._disk:
            for pid in pids:
                _limit_files(pid, max(self._file_bytes) // 2)

    def _fill(self, disk: Path) -> None:
        """Leave space for half a checkpoint; repeatedly, as old checkpoints are deleted."""
        surplus = shutil.disk_usage(disk).free - sum(self._file_bytes) // 2
        if surplus < BLOCK:
            return
        with open(_ballast(disk), "ab", buffering=0) as ballast, suppress(OSError):  # the run took it meanwhile
            os.posix_fallocate(ballast.fileno(), ballast.tell(), surplus)


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _send(number: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        os.kill(pid, number)  # our own children, not yet waited for: the pids are still theirs


def _limit_files(pid: int, size: int) -> None:
    """Make the system refuse (EFBIG) writes of the process beyond ``size`` bytes of any file."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def _ballast(disk: Path) -> Path:
    return disk / "ballast"


@dataclass(frozen=True)
class OnSmallDisk(Generic[T]):
    """What the work returned; or why a disk of its own cannot be had here."""

    result: T | None
    why_not: str = ""


def on_small_disk(disk: Path, size: int, work: Callable[[], T]) -> OnSmallDisk[T]:
    """Do ``work`` in a process of its own, which alone sees a tmpfs of ``size`` bytes at ``disk``.

    The mount lives in the process's own namespace: it needs root, or a system that lets users make user namespaces,
    and vanishes with the process however that ends (mount_namespaces(7), user_namespaces(7)).

    Raises:
        whatever ``work`` raises.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work_on_small_disk, args=(disk, size, work, theirs))
    process.start()
    theirs.close()
    try:
        outcome = ours.recv()
    except EOFError:
        return OnSmallDisk(None, "the process that mounts it died")
    finally:
        process.terminate()
        process.join()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _work_on_small_disk(disk: Path, size: int, work: Callable[[], T], answer: Connection) -> None:
    try:
        _end_with_parent()
        _mount_tmpfs(disk, size)
    except OSError as error:
        answer.send(OnSmallDisk(None, f"{error.filename}: {error.strerror}"))
        return
    try:
        answer.send(OnSmallDisk(work()))
    except Exception as error:
        answer.send(error)


# From <linux/sched.h>, <linux/mount.h> and <linux/prctl.h>.
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _mount_tmpfs(disk: Path, size: int) -> None:
    """Raises OSError, which names the system call that was refused."""
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", CLONE_NEWNS)
    except OSError:  # not root
        _call("unshare", CLONE_NEWNS | CLONE_NEWUSER)
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            (Path("/proc/self") / file).write_text(text)
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _call("mount", b"tmpfs", os.fsencode(disk), b"tmpfs", 0, f"size={size},mode=0700".encode())


def _call(name: str, *arguments: int | bytes | None) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)

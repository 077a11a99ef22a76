"""Ranks that start in a tenth of a second, from a server with torch loaded, and that may be trapped at any call."""

from __future__ import annotations

import errno
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is loaded, as `python -m bertjobs.train` does

from bertjobs.launch.local import free_port
from bertjobs.train.objective import ObjectiveOf
from bertjobs.train.pretraining.objective import Pretraining
from bertjobs.train.signals import StopRequest
from bertjobs.train.worker import main
from tests.cluster.slurm import PATIENCE_S
from tests.forkserver import CONTEXT, preload

if TYPE_CHECKING:
    from tests.train.conftest import Trial

preload(__name__)


@dataclass(frozen=True)
class Trap:
    """What happens to a rank, and where.

    Attributes:
        rank: the rank that is trapped.
        place: ``module:function`` or ``module:Class.method``.
        call: at which of its calls, from 1, in any thread.
        after: after the call has returned; otherwise before.
        number: the signal; None makes this and all later calls fail, as on a full disk.
        everyone: all ranks get the signal; otherwise only the trapped one.
    """

    rank: int
    place: str
    call: int
    after: bool
    number: signal.Signals | None
    everyone: bool = False


@dataclass(frozen=True)
class Ended:
    """How one rank ended."""

    code: int
    out: str
    err: str


def ended(environments: Sequence[Mapping[str, str]]) -> list[Ended]:
    """Ranks in these environments, from their start to their ends; one that hangs fails the test."""
    with tempfile.TemporaryDirectory() as name:
        files = [(Path(name) / f"{rank}.out", Path(name) / f"{rank}.err") for rank in range(len(environments))]
        ranks = [
            CONTEXT.Process(target=work, args=(environ, out, err))
            for environ, (out, err) in zip(environments, files, strict=True)
        ]
        for rank in ranks:
            rank.start()
        codes = exit_codes(ranks)
        texts = [(out.read_text(), err.read_text()) for out, err in files]
    assert None not in codes, texts
    return [Ended(code or 0, *text) for code, text in zip(codes, texts, strict=True)]


def exit_codes(ranks: Sequence[ForkServerProcess]) -> list[int | None]:
    """Wait for all; None for those that hang, which are killed."""
    deadline = time.monotonic() + PATIENCE_S
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    return codes


def attempt(
    trial: Trial,
    phase: int,
    world_size: int,
    folder: Path,
    trap: Trap | None = None,
    objective_of: ObjectiveOf = Pretraining.of,
) -> list[int]:
    """Start all ranks, wait for them and return their exit codes (minus the signal that killed one)."""
    folder.mkdir(parents=True)
    port = free_port()
    ranks = []
    for rank in range(world_size):
        environ = trial.environment(phase, rank, world_size, port)
        ranks.append(CONTEXT.Process(target=run_rank, args=(environ, folder, rank, trap, objective_of)))
        ranks[-1].start()
    codes = exit_codes(ranks)
    assert None not in codes, output_of(folder)
    return [code for code in codes if code is not None]


def output_of(folder: Path) -> str:
    """What the ranks of an attempt printed."""
    return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(folder.glob("rank-*.out")))


def run_rank(environ: Mapping[str, str], folder: Path, rank: int, trap: Trap | None, objective_of: ObjectiveOf) -> None:
    log = folder / f"rank-{rank}.out"
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    if trap is not None and trap.rank == rank:
        _set(trap, folder)
    work(environ, log, log, objective_of)


def work(environ: Mapping[str, str], out: Path, err: Path, objective_of: ObjectiveOf = Pretraining.of) -> None:
    """One rank, as `python -m bertjobs.train` begins it; what it prints goes into files."""
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(environ)
    faulthandler.enable()
    multiprocessing.set_start_method(None, force=True)  # the server's is inherited; LDDL's loader needs the usual one
    stop = StopRequest()
    stop.listen()
    code = main(os.environ, stop, objective_of)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _set(trap: Trap, folder: Path) -> None:
    module, _, name = trap.place.partition(":")
    *owners, name = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def trapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if trap.number is None and calls >= trap.call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        hit = calls == trap.call
        if hit and not trap.after:
            _spring(trap, folder)
        result = original(*args, **kwargs)
        if hit and trap.after:
            _spring(trap, folder)
        return result

    setattr(owner, name, trapped)


def _spring(trap: Trap, folder: Path) -> None:
    assert trap.number is not None
    (folder / "sprung").touch()
    others = [int(file.read_text()) for file in folder.glob("*.pid")] if trap.everyone else []
    for pid in sorted(others, key=lambda pid: pid == os.getpid()):
        os.kill(pid, trap.number)
    if not others:
        os.kill(os.getpid(), trap.number)

"""Running on this machine: one process per rank; worker, exit codes, signals and log are as under Slurm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bertjobs.errors import EXIT_DONE
from bertjobs.files.atomic import unlinked
from bertjobs.launch.decision import contract_code
from bertjobs.recipe.groups import RANKS_OF_NODES, place_of
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.wording import harmless

POLL_S = 0.2
LOG_END_S = 5.0

LOOPBACK = "127.0.0.1"

STOP_ONE = signal.SIGUSR1
"""Asks the launcher of a study to stop the run that it trains, and to continue with the next."""


@dataclass(frozen=True)
class LocalRanks:
    """The ranks of a run that this machine starts, where a person starts each of its nodes.

    Attributes:
        node: the number of this machine among the run's nodes.
        ranks: the numbers of its ranks.
        address, port: where rank 0 listens in phase 1; in phase 2 at the next port, and so on.
    """

    node: int
    ranks: range
    address: str
    port: int

    def port_of(self, phase: int) -> int:
        """The port of a phase: its ranks must not meet those of the phase before, which may still be ending."""
        return self.port + phase - 1


def free_port() -> int:
    """A TCP port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_environment(
    environ: Mapping[str, str],
    spec: RunSpec,
    phase: int,
    rank: int,
    *,
    port: int,
    job: str,
    attempt: int = 0,
    here: LocalRanks | None = None,
) -> dict[str, str]:
    """The environment of one rank, which reads everything else from the run's lockfile. It has OMP_NUM_THREADS threads,
    by default its share of the cores that this process may use. ``here``: the ranks on this machine, if not all are."""
    threads = max(1, len(os.sched_getaffinity(0)) // (len(here.ranks) if here else spec.world_size))
    values = {
        "RUN": spec.run,
        "RECIPE": spec.recipe,
        "RESULTS": spec.results,
        "PHASE": str(phase),
        "RANK": str(rank),
        "LOCAL_RANK": str(place_of(rank, spec.ranks_of_nodes)[1]),
        "WORLD_SIZE": str(spec.world_size),
        "NODES": str(spec.nodes),
        RANKS_OF_NODES: ",".join(map(str, spec.ranks_of_nodes)),
        "MASTER_ADDR": here.address if here else LOOPBACK,
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS") or str(threads),
        "BERTJOBS_JOB": job,
        "BERTJOBS_ATTEMPT": str(attempt),
    }
    if spec.steps_this_run:
        values["STEPS_THIS_RUN"] = str(spec.steps_this_run)
    return {**environ, **values}


def identity() -> dict[str, str | int]:
    """This process, as the journal names the launcher of a local job: host and pid."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def next_job(directory: RunDirectory) -> str:
    """``local-1``, ``local-2``, ...: the name of the next local job of a run."""
    return f"local-{sum(1 for event in directory.events() if event['event'] == 'submitted') + 1}"


def label(rank: int, world_size: int) -> str:
    """What each line of a rank begins with, as with ``srun --label``: the rank, right-justified, and a colon."""
    return f"{rank:>{len(str(world_size - 1))}}: "


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, to be shown; before them the name of a crash, which the stacks of all threads follow."""
    written = log.read_text(errors="replace").splitlines()
    crash = [line for line in written[:-lines] if "Fatal Python error: " in line][:1]
    return "".join(f"  | {harmless(line)}\n" for line in (*crash, *written[-lines:]))


@contextmanager
def labelled_log(log: Path, world_size: int, ranks: Sequence[int] = ()) -> Iterator[list[IO[bytes]]]:
    """For each of ``ranks``, by default all, a pipe whose lines are appended to ``log`` with the rank's `label`; at the
    end all are written.

    The process at the pipe's other end is sed, in a session of its own: it outlives a launcher that is killed and a
    terminal that is closed, so that the ranks can still write while they stop.
    """
    with open(log, "ab", opener=unlinked) as output:
        labellers = [
            subprocess.Popen(
                ["sed", "-u", f"s/^/{label(rank, world_size)}/"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},  # any bytes
                start_new_session=True,
            )
            for rank in ranks or range(world_size)
        ]
    pipes = [labeller.stdin for labeller in labellers if labeller.stdin is not None]
    try:
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        deadline = time.monotonic() + LOG_END_S
        for labeller in labellers:
            try:
                labeller.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:  # something that a rank started is still running
                labeller.kill()
                labeller.wait()


@contextmanager
def started(
    spec: RunSpec,
    phase: int,
    environ: Mapping[str, str],
    log: Path,
    job: str,
    attempt: int = 0,
    here: LocalRanks | None = None,
) -> Iterator[list[subprocess.Popen]]:
    """The running ranks of an attempt at a phase, in order, those of ``here`` alone if it is given; those that still
    run at the end are killed."""
    numbers = here.ranks if here else range(spec.world_size)
    port = here.port_of(phase) if here else free_port()
    with labelled_log(log, spec.world_size, numbers) as pipes:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "bertjobs.train"],
                env=rank_environment(environ, spec, phase, rank, port=port, job=job, attempt=attempt, here=here),
                stdout=pipe,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
            for rank, pipe in zip(numbers, pipes, strict=True)
        ]
        try:
            yield ranks
        finally:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
                process.wait()


def wait_for(ranks: Sequence[subprocess.Popen], watch: Callable[[], None]) -> tuple[int, bool]:
    """Wait until all ranks have ended, as far as they are on this machine.

    ``watch`` is called a few times a second. A rank that fails ends the others. Interrupting (ctrl-C) asks the ranks
    to stop after their step and to write a checkpoint.

    Returns:
        The worker's exit code, that of the first rank that failed, and whether it was interrupted.
    """
    interrupted = False
    while True:
        try:
            codes = [process.poll() for process in ranks]
            failed = [code for code in codes if code]
            if failed:
                _finish(ranks)
                return contract_code(failed[0]), interrupted
            if all(code == 0 for code in codes):
                return EXIT_DONE, interrupted
            watch()
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            interrupted = True
            for process in ranks:
                process.send_signal(signal.SIGTERM)


def _finish(ranks: Sequence[subprocess.Popen]) -> None:
    """After one rank has failed: give the others a moment to end."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and any(process.poll() is None for process in ranks):
        time.sleep(POLL_S)


def has_ended(process: subprocess.Popen) -> bool:
    """Whether a process has ended. Takes no lock, as Popen's methods do, which a signal's handler would wait for."""
    if process.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # waited for already
        return True

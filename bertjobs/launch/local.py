"""This machine as the place to run: one process per rank, the same worker, exit codes and signals as under Slurm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_FAILURE
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory

POLL_S = 0.2


def free_port() -> int:
    """A TCP port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_environment(
    environ: Mapping[str, str], spec: RunSpec, phase: int, rank: int, *, port: int, job: str
) -> dict[str, str]:
    """The environment of one rank; the rest it reads from the run's lockfile."""
    threads = max(1, (os.cpu_count() or 1) // spec.world_size)
    values = {
        "RUN": spec.run,
        "RECIPE": spec.recipe,
        "RESULTS": spec.results,
        "PHASE": str(phase),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % spec.tasks_per_node),
        "WORLD_SIZE": str(spec.world_size),
        "NODES": str(spec.nodes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
        "BERTJOBS_JOB": job,
        "BERTJOBS_ATTEMPT": "0",
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


def run_phase(
    python: str,
    spec: RunSpec,
    phase: int,
    environ: Mapping[str, str],
    log: Path,
    job: str,
    watch: Callable[[], None],
) -> int:
    """Run one phase to its end; returns the worker's exit code.

    ``watch`` is called a few times a second. A rank that fails ends the others. Interrupting (ctrl-C) asks the ranks
    to stop after their step and to write a checkpoint.
    """
    port = free_port()
    with open(log, "a", encoding="utf-8") as output:
        ranks = [
            subprocess.Popen(
                [python, "-m", "bertjobs.train"],
                env=rank_environment(environ, spec, phase, rank, port=port, job=job),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
            for rank in range(spec.world_size)
        ]
        try:
            return _wait(ranks, watch)
        finally:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
                process.wait()


def _wait(ranks: list[subprocess.Popen], watch: Callable[[], None]) -> int:
    """Wait for all ranks; the first that fails gives the code."""
    while True:
        try:
            codes = [process.poll() for process in ranks]
            failed = [code for code in codes if code]
            if failed:
                _finish(ranks)
                return failed[0] if failed[0] in (EXIT_BAD_INPUT, EXIT_CONTINUE) else EXIT_FAILURE
            if all(code == 0 for code in codes):
                return 0
            watch()
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            for process in ranks:
                process.send_signal(signal.SIGTERM)


def _finish(ranks: list[subprocess.Popen]) -> None:
    """One rank has failed: give the others a moment to end, then kill them."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and any(process.poll() is None for process in ranks):
        time.sleep(POLL_S)

"""What can happen to a run on a cluster, made to happen."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.cluster.chaos.run import AttackedRun, Attempt, free_bytes
from tests.cluster.process import Process
from tests.conftest import wait_until

SILENT_S = 90.0
AWAY_S = 20.0
LEFT_BYTES = 100_000  # on the full disk: lines of the journal and of metrics fit, a checkpoint does not


@dataclass(frozen=True)
class Fault:
    """Something that is done to a run.

    Attributes:
        what: in words.
        inject: does it to the attempt that trains; raises `MetNobody` if that was over before.
        causes: what the journal may call the end of that attempt; empty if the attempt has to survive.
        at_phase_end: whether it belongs to a phase's last steps; all others come before them.
    """

    what: str
    inject: Callable[[AttackedRun, Attempt, Random], None]
    causes: tuple[str, ...] = ()
    at_phase_end: bool = False


class MetNobody(Exception):
    """The attempt was over before the fault reached it."""


def _a_rank(run: AttackedRun, at: Attempt, random: Random) -> tuple[str, Process]:
    """The node and the process of one of the job's ranks."""
    ranks = run.ranks(at.job)
    if not ranks:
        raise MetNobody
    return ranks[random.choice(sorted(ranks))]


def _requeue(run: AttackedRun, at: Attempt, _: Random) -> None:
    run.cluster.run(["scontrol", "requeue", at.job])


def _preempt(run: AttackedRun, _at: Attempt, _: Random) -> None:
    urgent = run.cluster.submit(["-p", "urgent", "-N4", "--exclusive", "--output=/dev/null", "--wrap", "true"])
    run.cluster.wait(urgent)


def _time_limit(run: AttackedRun, at: Attempt, _: Random) -> None:
    """A limit so near that Slurm sends its USR2 now; the next attempt gets a day again."""
    limit = run.cluster.run(["squeue", "-h", "-j", at.job, "-o", "%M"]).stdout.strip()
    minutes = int(limit.split(":")[-2]) + 2 if limit.count(":") == 1 else 60
    run.cluster.run(["scontrol", "update", f"JobId={at.job}", f"TimeLimit={minutes}"])
    wait_until(lambda: run.cluster.squeue_state(at.job) == "PENDING" or run.missed(at))
    # A job whose phase was done may have ended altogether.
    run.cluster.run(["scontrol", "update", f"JobId={at.job}", "TimeLimit=1-0"], check=not run.missed(at))


def _kill_rank(run: AttackedRun, at: Attempt, random: Random) -> None:
    _a_rank(run, at, random)[1].send(signal.SIGKILL)


def _kill_node(run: AttackedRun, at: Attempt, random: Random) -> None:
    """As if a node lost power and came back: its slurmd and all of the job on it are killed."""
    node, _ = _a_rank(run, at, random)
    run.cluster.kill(f"slurmd-{node}")
    for process in run.processes_on(at.job, node):
        process.send(signal.SIGKILL)
    # A job younger than BatchStartTimeout + MessageTimeout (20 s) counts as still on its way to the node.
    began = run.events("started")[-1]["time_unix_s"]
    time.sleep(max(1.0, began + 25 - time.time()))
    run.cluster.start_again(f"slurmd-{node}")


def _kill_allocation(run: AttackedRun, at: Attempt, _: Random) -> None:
    """Its shell, srun and ranks: nothing is left that could report or write anything."""
    for process in run.processes(at.job):
        process.send(signal.SIGKILL)


def _fill_disk(run: AttackedRun, at: Attempt, _: Random) -> None:
    """Full until a checkpoint could not be written; then space is freed."""
    ballast, before = run.disk / "ballast", run.log(at).count("cannot be written")

    def has_failed() -> bool:
        _fill(run.disk, ballast)
        return run.log(at).count("cannot be written") > before or run.ended(at)

    try:
        wait_until(has_failed)
    finally:
        ballast.unlink(missing_ok=True)


def _fill(disk: Path, ballast: Path) -> None:
    """To be called repeatedly: the run deletes old checkpoints, and the next one would fit."""
    surplus = free_bytes(disk) - LEFT_BYTES
    if surplus <= 0:
        return
    with open(ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):  # the run took it meanwhile
        os.posix_fallocate(file.fileno(), file.tell(), surplus)


def _truncate_newest_checkpoint(run: AttackedRun, at: Attempt, random: Random) -> None:
    """A rank is killed too, so that the run has to read it."""
    _kill_rank(run, at, random)
    wait_until(lambda: not run.ranks(at.job))
    _truncate(run.checkpoints(at.phase)[-1])


def _truncate(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def _crash_below_damaged_checkpoints(run: AttackedRun, at: Attempt, random: Random) -> None:
    """The newest checkpoints are truncated, as many as leave a whole one, and the attempt that begins below them is
    killed once it has a checkpoint of its own."""
    _kill_rank(run, at, random)
    wait_until(lambda: not run.ranks(at.job))
    for checkpoint in run.checkpoints(at.phase)[1:][-2:]:
        _truncate(checkpoint)
    wait_until(lambda: run.attempt() != at and run.has_gained())
    next_one = run.attempt()
    assert next_one is not None
    _kill_rank(run, next_one, random)
    wait_until(lambda: run.ended(next_one))


def _restart_controller(run: AttackedRun, at: Attempt, _: Random) -> None:
    run.cluster.kill("slurmctld")
    time.sleep(1)
    run.cluster.start_again("slurmctld")
    wait_until(lambda: run.cluster.squeue_state(at.job) == "RUNNING")


def _silence_controller(run: AttackedRun, _at: Attempt, _: Random) -> None:
    """It answers nobody; the phase ends meanwhile."""
    run.cluster.pause("slurmctld")
    time.sleep(SILENT_S)
    run.cluster.unpause("slurmctld")
    wait_until(lambda: run.cluster.run(["squeue", "-h"], check=False).returncode == 0)


def _squeue_fails(run: AttackedRun, at: Attempt, random: Random) -> None:
    """Once, for a job of the run: the next attempt's first checkpoint asks for followers."""
    run.commands.fail_once("squeue")
    _requeue(run, at, random)
    wait_until(lambda: run.commands.has_failed("squeue") or run.done())


def _sbatch_answers_too_late(run: AttackedRun, at: Attempt, random: Random) -> None:
    """The follower of a cancelled job queues one of its own, and is told that this timed out."""
    run.commands.fail_once("sbatch")
    _cancel_link(run, at, random)
    wait_until(lambda: run.commands.has_failed("sbatch") or run.done())


def _take_results_away(run: AttackedRun, _at: Attempt, _: Random) -> None:
    """Another file system, empty and read-only, is where the results were: whoever has a file open keeps it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", run.disk], check=True)
    time.sleep(AWAY_S)
    subprocess.run(["umount", "--lazy", run.disk], check=True)


def _stop_accounting(run: AttackedRun, at: Attempt, _: Random) -> None:
    """Until at least one checkpoint was written."""
    before = run.checkpoints(at.phase)
    run.cluster.kill("slurmdbd")
    wait_until(lambda: run.checkpoints(at.phase) != before or run.ended(at))
    run.cluster.start_again("slurmdbd")
    wait_until(lambda: run.cluster.run(["sacct", "-nX", "-j", at.job], check=False).stdout.strip())


def _cancel_link(run: AttackedRun, at: Attempt, _: Random) -> None:
    """A job with a follower in the queue, as it has soon after the first checkpoint."""
    behind = lambda: f"afterany:{at.job}" in run.cluster.run(["squeue", "-h", "-o", "%E"]).stdout  # noqa: E731
    wait_until(behind)
    run.cluster.run(["scancel", at.job])


def _node_down(run: AttackedRun, at: Attempt, random: Random) -> None:
    node, _ = _a_rank(run, at, random)
    run.cluster.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=chaos"])
    time.sleep(2)
    run.cluster.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)  # it may be back already


FAULTS = (
    Fault("`scontrol requeue`", _requeue, ("requeued",)),
    Fault("preempted by a job of the urgent partition", _preempt, ("preempted",)),
    Fault("time limit", _time_limit, ("SIGUSR2", "time limit")),
    Fault("SIGKILL of a rank", _kill_rank, ("lost rank", "crashed")),
    Fault("SIGKILL of a node's slurmd and all of the job on it", _kill_node, ("lost rank", "crashed", "node failure")),
    Fault("SIGKILL of the whole allocation", _kill_allocation, ("lost rank", "crashed", "cancelled")),
    Fault("results disk full, freed once a checkpoint had failed", _fill_disk),
    Fault("newest checkpoint truncated, and a rank killed", _truncate_newest_checkpoint, ("lost rank", "crashed")),
    Fault("slurmctld killed and started again", _restart_controller),
    Fault("slurmdbd killed, started again after a checkpoint", _stop_accounting),
    Fault("`scancel` of one link", _cancel_link, ("cancelled",)),
    Fault("node set down", _node_down, ("node failure",)),
    Fault("SIGKILL of a rank, again", _kill_rank, ("lost rank", "crashed")),
    Fault(
        "two checkpoints truncated, and a rank killed, twice",
        _crash_below_damaged_checkpoints,
        ("lost rank", "crashed"),
    ),
    Fault("`squeue` fails once in a job that was requeued", _squeue_fails, ("requeued",)),
    Fault("`scancel`, and `sbatch` queues the next spare without an answer", _sbatch_answers_too_late, ("cancelled",)),
    Fault("results folder away for 20 s", _take_results_away),
    Fault("slurmctld silent for 90 s, while the phase ends", _silence_controller, at_phase_end=True),
)

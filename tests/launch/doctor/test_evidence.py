"""What is collected about a run: from its logs, its files, and the output of sacct and squeue."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from bertjobs.launch.doctor.evidence import LAST_LINES, TAIL_BYTES, Evidence, _tail, collect
from bertjobs.launch.doctor.log_errors import LogError, batch_parts, errors_in
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.run.causes import Cause
from bertjobs.run.checkpoints import folder_name, seal
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm import client as slurm_module
from bertjobs.slurm.client import Slurm
from tests.launch.conftest import Tool


def errors(text: str) -> tuple[LogError, ...]:
    return errors_in(text.splitlines())


def test_an_error_is_whole_and_of_its_rank() -> None:
    log = "step 3\nrank 12: error: what\n  where: here\n  hint:  do\nstep 4\nerror: other\n  where: there\n"
    assert errors(log) == (
        LogError(12, ("error: what", "  where: here", "  hint:  do")),
        LogError(0, ("error: other", "  where: there")),
    )


def test_if_each_line_names_its_rank_errors_are_not_mixed() -> None:
    log = (
        "rank 1: error: nothing moved\nrank 1:   where: rank 2: step 5\nrank 1:          rank 3: step 5\n"
        "rank 0: error: nothing moved\nrank 1:   hint:  late\nrank 0:   where: rank 2: step 5\n"
    )
    first, second = errors(log)
    assert first == LogError(
        1, ("error: nothing moved", "  where: rank 2: step 5", "         rank 3: step 5", "  hint:  late")
    )
    assert second == LogError(0, ("error: nothing moved", "  where: rank 2: step 5"))


def test_a_traceback_ends_with_its_exception() -> None:
    log = (
        'rank 3: Traceback (most recent call last):\n  File "x", line 1, in f\n    f()\n    ~^^\nKeyError: 1\n'
        "\nThe above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n  File y\nValueError: two\nphase 1 step 4\n"
    )
    root, last = errors(log)
    assert (root.rank, root.lines[-1]) == (3, "KeyError: 1")
    assert last.lines[-1] == "ValueError: two"


def test_an_error_s_fields_are_its_own() -> None:
    log = (
        "rank 3: Traceback (most recent call last):\n  File x\ntorch.OutOfMemoryError: CUDA out of memory.\n"
        "Tried to allocate 2 GiB\n  cause: out of GPU memory\nwarning: rank 0: error: x\n  cause: disk\n"
        "error: refused\n  hint:  look\n  cause: not restarted\n  restarts used up by: hang\n"
        "rank 1: error: hung\nrank 0: error: hung\nrank 1:   cause: hang\nrank 0:   cause: lost rank\n"
        "rank 1:   absent ranks: 2, 5\n"
    )
    memory, refused, one, zero = errors(log)
    assert (memory.cause, memory.lines[-1]) == (Cause.GPU_MEMORY, "torch.OutOfMemoryError: CUDA out of memory.")
    assert (refused.cause, refused.spent_by, refused.lines) == (
        Cause.NOT_RESTARTED,
        Cause.HANG,
        ("error: refused", "  hint:  look"),
    )
    assert (one.rank, one.cause, one.absent_ranks) == (1, Cause.HANG, (2, 5))
    assert (zero.rank, zero.cause, zero.absent_ranks) == (0, Cause.LOST_RANK, ())


def test_a_warning_is_not_an_error() -> None:
    assert errors("warning: rank 0: error: the checkpoint cannot be written\n  where: there\n") == ()


def test_adjacent_lines_of_slurm_are_one_error_and_a_dying_process_has_no_rank() -> None:
    log = (
        "slurmstepd-node1: error: *** STEP 2.0 ON node1 CANCELLED ***\nsrun: error: node1: task 0: Killed\n"
        "stopping\npyxis: importing docker image: x\nFatal Python error: Bus error\n\n  File z\n"
    )
    slurm, container, dying = errors(log)
    assert (slurm.rank, len(slurm.lines)) == (None, 2)
    assert container.text == "pyxis: importing docker image: x"
    assert dying.rank is None


def test_a_batch_script_s_log_is_split_by_attempt_without_what_it_repeats() -> None:
    repeated = [f"| error: repeated {n}" for n in range(5)]
    lines = [
        "srun: error: node1: task 0: Killed",
        "phase 1 of run r ended; nothing parses this",
        "  attempt: 7-0, code 70",
        *repeated,
        "continuing: requeue",
        "srun: error: node2: task 1: Out Of Memory",
        "phase 1 of run r ended; nothing parses this",
        "  attempt: 7-1, code 137",
        *repeated,
        "not continued: no checkpoint was written since the job started",
    ]
    assert batch_parts(lines, 1) == {
        0: (70, [lines[0], lines[1]]),
        1: (137, ["continuing: requeue", "srun: error: node2: task 1: Out Of Memory", lines[1], lines[-1]]),
    }
    assert batch_parts(lines[:10], 1)[1] == (None, lines[8:10])


SACCT = """\
7|PREEMPTED|0:0|None|node[1-2]|00:30:00
7.batch|CANCELLED|0:15||node1|
7.0|CANCELLED by 0|75:0||node[1-2]|
7|FAILED|70:0|None|node[3-4]|00:30:00
7.batch|FAILED|70:0||node3|
7.0|OUT_OF_MEMORY|0:125||node[3-4]|
8|CANCELLED by 1000|0:0|Dependency|None assigned|00:30:00
"""


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run whose phase 1 was queued as job 7, and requeued once."""
    flags = {"recipe": "laptop-scratch", "results": str(tmp_path / "results")}
    spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec
    made = RunDirectory(Path(spec.results) / spec.run)
    made.create()
    made.write_lockfile(lockfile(spec))
    made.phase(1).create()
    made.record("submitted", backend="slurm", phase=1, job="7")
    for number, cause in enumerate(("SIGTERM", "crashed")):
        names = {"scheduler": "slurm", "phase": 1, "job": "7", "attempt": number}
        made.record("started", world_size=2, **names)
        made.record("ended", cause=cause, exit_code=70, error="error: from the journal", **names)
    return made


def collected(directory: RunDirectory, tmp_path: Path) -> Evidence:
    return collect(directory, Slurm({"PATH": str(tmp_path / "bin")}), "r", time.time())


def test_attempts_are_those_of_the_journal_and_of_the_logs(directory: RunDirectory, tmp_path: Path) -> None:
    logs = directory.phase(1).logs
    (logs / "7-1.out").write_text("".join(f"line {n}\n" for n in range(20)) + "rank 1: error: from the log\n")
    (logs / "9-0.out").write_text("error: started by hand\n")
    (logs / "slurm-11.out").write_text("error: refused by run.sub\n")
    os.utime(logs / "9-0.out", (time.time() + 5, time.time() + 5))
    os.utime(logs / "slurm-11.out", (time.time() + 9, time.time() + 9))
    phase = collected(directory, tmp_path).phases[0]
    assert [(attempt.job, attempt.number, attempt.cause) for attempt in phase.attempts] == [
        ("7", 0, Cause.SIGTERM),
        ("7", 1, Cause.CRASHED),
        ("9", 0, None),
        ("11", 0, None),
    ]
    assert [attempt.errors[0].text for attempt in phase.attempts] == [
        "error: from the journal",
        "error: from the log",
        "error: started by hand",
        "error: refused by run.sub",
    ]
    assert len(phase.attempts[1].log.last_lines) == LAST_LINES
    assert [(job.id, job.state) for job in phase.jobs] == [("7", "FAILED"), ("9", "UNKNOWN"), ("11", "UNKNOWN")]


def test_slurm_s_state_and_nodes_take_precedence_over_the_journal_s(
    directory: RunDirectory, tool: Tool, tmp_path: Path
) -> None:
    tool("sacct", f"echo '{SACCT}'")
    tool("squeue", "exit 1")
    tool("scontrol", "echo node3; echo node4")
    (job,) = collected(directory, tmp_path).phases[0].jobs
    assert (job.state, job.source, job.nodes) == ("FAILED", "sacct", ("node3", "node4"))


def test_slurm_is_asked_about_jobs_that_only_the_logs_name(directory: RunDirectory, tool: Tool, tmp_path: Path) -> None:
    for name in ("9-0.out", "slurm-11.out", "local-1-0.out"):
        (directory.phase(1).logs / name).touch()
    tool("sacct", f'echo "$@" >{tmp_path}/seen; echo "11|TIMEOUT|0:0|None|node1|10:00"')
    jobs = collected(directory, tmp_path).phases[0].jobs
    assert "-j 11,7,9 " in (tmp_path / "seen").read_text()
    assert {job.id: job.state for job in jobs} == {"7": "FAILED", "9": "UNKNOWN", "11": "TIMEOUT", "local-1": "UNKNOWN"}


def test_a_slurm_that_does_not_answer_leaves_the_files(
    directory: RunDirectory, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_module, "TIMEOUT_S", 0.2)
    tool("squeue", "exec /bin/sleep 5")
    evidence = collected(directory, tmp_path)
    assert "squeue did not answer" in evidence.silence
    assert evidence.phases[0].jobs[0].state == "FAILED"


def test_where_a_phase_stands(directory: RunDirectory, tmp_path: Path) -> None:
    folder = directory.phase(1)
    lines = [{"step": n, "time_unix_s": 100.0 * n, "step_time_s": float(n)} for n in (1, 2, 3)]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "ti')
    for step in (2, 3, 4):
        checkpoint = folder.checkpoints / folder_name(step)
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(b"x" * 1000)
        seal(checkpoint, phase=1, step=step, recipe_hash="0" * 64)
        os.utime(checkpoint / "MANIFEST.json", (50.0, 50.0))
    (checkpoint / "model.safetensors").write_bytes(b"cut short")
    phase = collected(directory, tmp_path).phases[0]
    assert (phase.step, phase.step_unix_s, phase.alive_unix_s, phase.step_time_s) == (3, 300.0, 300.0, 2.0)
    assert (phase.checkpoint, phase.checkpoint_unix_s) == ("step-00000003", 50.0)
    assert phase.checkpoint_bytes > 1000
    assert not phase.is_done
    assert collected(directory, tmp_path).free_bytes > 0


def test_only_the_end_of_a_long_log_is_read(directory: RunDirectory, tmp_path: Path) -> None:
    log = directory.phase(1).logs / "7-1.out"
    log.write_bytes(b"error: old\n" + b"\xff" * TAIL_BYTES + b"\nerror: new\n")
    assert [error.text for error in collected(directory, tmp_path).phases[0].attempts[1].log.errors] == ["error: new"]


def test_labelled_logs_name_the_rank_that_failed(tmp_path: Path) -> None:
    """srun --label writes the rank before each line; a rank's traceback is one error of that rank."""
    log = tmp_path / "7-0.out"
    log.write_text(
        "0: run trial: recipe trial\n"
        "1: rank 1: Traceback (most recent call last):\n"
        '1:   File "worker.py", line 1, in work\n'
        "1: ZeroDivisionError: division by zero\n"
        "0: error: another rank is gone; what it printed, if anything, says why\n"
    )
    assert [(error.rank, error.lines[-1]) for error in errors_in(_tail(log))] == [
        (1, "ZeroDivisionError: division by zero"),
        (0, "error: another rank is gone; what it printed, if anything, says why"),
    ]

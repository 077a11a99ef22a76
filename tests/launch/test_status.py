"""A run seen from outside: from Slurm's words, and from the run directory where Slurm is silent."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import BertjobsError
from bertjobs.launch import slurm as slurm_module
from bertjobs.launch.preflight import check_new_run
from bertjobs.launch.run import unfinished
from bertjobs.launch.slurm import Slurm
from bertjobs.launch.status import all_runs, cancel, follow, run_status
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory

from .conftest import Tool


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    flags = {"recipe": "laptop-scratch", "results": str(tmp_path / "results")}
    return resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec


@pytest.fixture
def directory(spec: RunSpec) -> RunDirectory:
    """A run that was queued as jobs 7 and 8."""
    made = RunDirectory(Path(spec.results) / spec.run)
    made.create()
    made.write_lockfile(lockfile(spec))
    for number, job in ((1, "7"), (2, "8")):
        made.phase(number).create()
        made.record("submitted", backend="slurm", phase=number, job=job)
    return made


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm({"PATH": str(tmp_path / "bin"), "SEEN": str(tmp_path / "seen")})


def states(directory: RunDirectory, slurm: Slurm) -> list[tuple[str, str]]:
    return [(row.state, row.source) for row in run_status(directory, slurm, time.time())]


def test_squeue_corrects_what_sacct_says_too_late(directory: RunDirectory, slurm: Slurm, tool: Tool) -> None:
    tool("sacct", "echo '7|CANCELLED by 0'; echo '8|PENDING'")
    tool("squeue", "echo '8|RUNNING'")
    assert states(directory, slurm) == [("CANCELLED", "sacct+squeue"), ("RUNNING", "sacct+squeue")]


def test_without_slurm_s_word_the_journal_says_how_a_job_ended(directory: RunDirectory, slurm: Slurm) -> None:
    directory.record("started", scheduler="slurm", phase=1, job="7", attempt=0)
    assert states(directory, slurm) == [("UNKNOWN", "run directory")] * 2
    directory.record("ended", scheduler="slurm", phase=1, job="7", attempt=0, cause="SIGTERM", exit_code=75)
    directory.record("ended", scheduler="slurm", phase=2, job="8", attempt=0, cause="bad input", exit_code=64)
    assert states(directory, slurm) == [("STOPPED", "run directory"), ("FAILED", "run directory")]


def test_an_answer_that_does_not_come_is_one_clear_error(
    directory: RunDirectory, slurm: Slurm, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_module, "TIMEOUT_S", 0.2)
    tool("squeue", "exec /bin/sleep 5")
    with pytest.raises(BertjobsError, match=r"squeue did not answer within 0\.2 s"):
        states(directory, slurm)


def test_a_preempted_job_that_is_not_requeued_has_ended(directory: RunDirectory, slurm: Slurm, tool: Tool) -> None:
    tool("sacct", "echo '7|PREEMPTED'; echo '8|CANCELLED'")
    assert cancel(directory, slurm) == []
    assert list(follow(directory, None, slurm)) == []


def test_cancel_names_the_active_jobs_alone(directory: RunDirectory, slurm: Slurm, tool: Tool, tmp_path: Path) -> None:
    tool("sacct", "echo '7|COMPLETED'; echo '8|PENDING'")
    tool("scancel", 'echo "$@" >"$SEEN"')
    assert cancel(directory, slurm) == ["8"]
    assert (tmp_path / "seen").read_text() == "8\n"


def test_a_cancel_that_slurm_refuses_is_not_in_the_journal(directory: RunDirectory, slurm: Slurm, tool: Tool) -> None:
    tool("sacct", "echo '8|PENDING'")
    tool("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    with pytest.raises(BertjobsError, match="Access denied"):
        cancel(directory, slurm)
    assert all(event["event"] == "submitted" for event in directory.events())


def test_follow_shows_the_newest_log_whole_and_no_older_one(
    directory: RunDirectory, slurm: Slurm, tool: Tool, tmp_path: Path
) -> None:
    old, new = directory.phase(1).logs / "6-0.out", directory.phase(1).logs / "7-0.out"
    old.write_text("old\n")
    os.utime(old, (1, 1))
    new.write_text("first\n")
    tool("sacct", '[[ -e $SEEN ]] && echo "7|COMPLETED" || echo "7|RUNNING"')
    shown = []
    for text in follow(directory, None, slurm):
        shown.append(text)
        if len([text for text in shown if text]) == 1 and not (tmp_path / "seen").exists():
            with open(new, "a") as log:
                log.write("sécond\n")
            (tmp_path / "seen").touch()
    assert "".join(shown) == "first\nsécond\n"


def test_a_run_that_this_user_may_not_read_is_passed_over(directory: RunDirectory, tmp_path: Path) -> None:
    other = tmp_path / "results" / "other"
    other.mkdir()
    (other / "run.yml").symlink_to(tmp_path / "nowhere")  # closed to root too
    assert [run.root for run in all_runs(tmp_path / "results")] == [directory.root]


def test_logs_of_a_refused_job_do_not_keep_a_later_phase_out(directory: RunDirectory, spec: RunSpec) -> None:
    """`PHASE=3 sbatch run.sub` leaves phase3/logs; phase 2 may still join a run of phase 1."""
    second = replace(spec, phases=(spec.phase(2),))
    with pytest.raises(BertjobsError, match="exists"):
        check_new_run(second)
    directory.phase(2).checkpoints.rmdir()
    directory.phase(3).logs.mkdir(parents=True)
    check_new_run(second)


def test_a_later_phase_joins_with_the_settings_of_the_earlier_one(directory: RunDirectory, spec: RunSpec) -> None:
    directory.phase(2).checkpoints.rmdir()
    with pytest.raises(BertjobsError, match="begun with other settings: precision, seed"):
        check_new_run(replace(spec, phases=(spec.phase(2),), precision="bf16", seed=7))


def test_a_run_that_was_moved_is_resumed_where_it_lies(directory: RunDirectory, tmp_path: Path) -> None:
    moved = directory.root.rename(tmp_path / "elsewhere")
    spec = unfinished(RunDirectory(moved))
    assert (spec.run, spec.results) == ("elsewhere", str(tmp_path))
    assert Path(spec.data).is_absolute()


def test_a_folder_that_is_no_run_is_not_said_to_be_resumable(spec: RunSpec) -> None:
    (Path(spec.results) / spec.run / "phase3" / "logs").mkdir(parents=True)
    with pytest.raises(BertjobsError, match="remove it: no run was begun in it") as caught:
        check_new_run(spec)
    assert "resume" not in str(caught.value)

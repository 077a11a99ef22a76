"""A run's jobs and attempts, from its journal, its metrics and Slurm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.files.json_lines import append_line
from bertjobs.launch.watch.status import RunStatus, expected_end, read_run, status_of
from bertjobs.launch.watch.status_text import run_text, status_text
from bertjobs.launch.watch.timeline import Link, TimelineEntry, link_of
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.run.checkpoints import folder_name, seal
from bertjobs.run.directory import Done, RunDirectory
from bertjobs.run.journal import read_story
from bertjobs.slurm.jobs import Job, JobReport, JobStart

T0 = 1_800_000_000.0
"""When the run was queued, in seconds since 1970."""


class Run:
    """A run of 20 steps of phase 1 and 5 of phase 2, whose folder is written event by event; times count from T0."""

    def __init__(self, results: Path):
        flags = {"recipe": "laptop-scratch", "results": str(results), "nodes": 2}
        self.spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec
        self.directory = RunDirectory(results / self.spec.run)
        self.directory.create()
        self.directory.write_lockfile(lockfile(self.spec))
        for phase in self.spec.phases:
            self.directory.phase(phase.phase).create()

    def event(self, at: float, event: str, phase: int, job: str, **fields: Any) -> None:
        append_line(
            self.directory.journal, {"time_unix_s": T0 + at, "event": event, "phase": phase, "job": job, **fields}
        )

    def submitted(self, at: float, phase: int, job: str, **fields: Any) -> None:
        self.event(at, "submitted", phase, job, backend="slurm", chain="chain-1", **fields)

    def started(self, at: float, phase: int, job: str, attempt: int = 0, step: int = 0) -> None:
        self.event(at, "started", phase, job, attempt=attempt, step=step, world_size=2, scheduler="slurm")

    def ended(self, at: float, phase: int, job: str, attempt: int = 0, **fields: Any) -> None:
        self.event(at, "ended", phase, job, attempt=attempt, **fields)

    def steps(self, phase: int, first: int, last: int, at: float, each: float = 1.0) -> None:
        """Lines of metrics for these steps, the first of which began at ``at``."""
        for number, step in enumerate(range(first, last + 1), start=1):
            append_line(
                self.directory.phase(phase).metrics,
                {"step": step, "time_unix_s": T0 + at + number * each, "loss_nats": 9.0 - step / 10}
                | {"sequences_per_s": 64 / each, "step_time_s": each},
            )

    def checkpoint(self, phase: int, step: int) -> Path:
        folder = self.directory.phase(phase).checkpoints / folder_name(step)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        seal(folder, phase=phase, step=step, recipe_hash="0" * 64)
        return folder

    def done(self, phase: int, step: int) -> None:
        folder = self.checkpoint(phase, step)
        done = Done(phase, step, folder.name, "0" * 64, "0" * 64, T0)
        self.directory.phase(phase).write_done(done)

    def look(self, answer: JobReport | None = None, at: float = 0.0) -> RunStatus:
        return status_of(read_run(self.directory), answer or JobReport(), T0 + at)

    def entries(self, answer: JobReport | None = None, at: float = 0.0) -> list[TimelineEntry]:
        return [entry for link in self.look(answer, at).links for entry in link.entries]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "results")


def slurm(*jobs: Job, **starts: Sequence[JobStart]) -> JobReport:
    """Slurm's answer; ``starts`` by ``jobN``."""
    known = {job.id: replace(job, source="squeue") for job in jobs}
    return JobReport(known, {name.removeprefix("job"): tuple(list) for name, list in starts.items()}, "sacct+squeue")


def start(state: str, began: float, ended: float | None = None, nodes: str = "node[1-2]") -> JobStart:
    return JobStart(state, T0 + began, None if ended is None else T0 + ended, nodes)


def test_a_chain_with_faults_is_shown_attempt_by_attempt(run: Run) -> None:
    """Phase 1's job runs into its time limit, then loses a node; phase 2's job, the next link, ends phase 1."""
    run.submitted(0, 1, "7")
    run.submitted(0, 2, "8")
    run.started(10, 1, "7")
    run.steps(1, 1, 5, at=10)
    run.ended(16, 1, "7", cause="SIGUSR2", exit_code=75, step=5)
    run.started(100, 1, "7", attempt=1, step=5)
    run.steps(1, 6, 10, at=100)
    run.ended(300, 1, "7", attempt=1, cause="node failed", exit_code=None, told_by="sacct")
    run.started(300, 1, "8", step=10)
    run.steps(1, 11, 14, at=300)
    answer = slurm(
        Job("7", state="NODE_FAIL"),
        Job("8", state="RUNNING", nodes=("node[3-4]",)),
        job7=[start("REQUEUED", 2, 17), start("NODE_FAIL", 90, 108)],
        job8=[start("RUNNING", 280, nodes="node[3-4]")],
    )
    status = run.look(answer, at=305)
    first, second, third = [entry for link in status.links for entry in link.entries]
    assert (first.job, first.attempt, first.phase, first.first_step, first.last_step) == ("7", 0, 1, 1, 5)
    assert first.words == "time limit near: stopped with a checkpoint"
    assert (first.started_unix_s, first.ended_unix_s) == (T0 + 10, T0 + 16)
    assert (second.attempt, second.first_step, second.last_step, second.words) == (1, 6, 10, "a node failed")
    assert second.ended_unix_s == T0 + 108, "when it ended, not when the next attempt recorded it"
    assert (third.job, third.link, third.phase, third.state) == ("8", "phase 2", 1, "running")
    assert (third.first_step, third.last_step, third.nodes) == (11, 14, "node[3-4]")

    one, two = status.phases
    assert (one.state, one.job, one.steps_done) == ("RUNNING", "8", 14)
    assert (two.state, two.job, two.reason) == ("NOT STARTED", "", "it begins when phase 1 is done")
    text = run_text(status, T0 + 305)
    assert "phase 1: RUNNING, job 8 (source: sacct+squeue)" in text
    assert [line.split()[0] for line in text.splitlines()[3:6]] == ["7", "7", "8"]
    assert "1-5" in text
    assert "for 5 s" in text


def test_an_attempt_that_could_not_write_its_end_is_closed_by_slurm_s_state(run: Run) -> None:
    run.submitted(0, 1, "7")
    run.started(10, 1, "7")
    run.steps(1, 1, 3, at=10)
    (entry,) = run.entries(slurm(Job("7", state="TIMEOUT"), job7=[start("TIMEOUT", 5, 65)]))
    assert (entry.state, entry.words, entry.ended_unix_s) == ("ended", "killed at the time limit", T0 + 65)
    (entry,) = run.entries()
    assert (entry.state, entry.words) == ("ended", "ended; nothing says why")


def test_a_requeued_job_waits_for_its_next_attempt(run: Run) -> None:
    run.submitted(0, 1, "7")
    run.started(10, 1, "7")
    run.ended(20, 1, "7", cause="SIGTERM", exit_code=75, step=4)
    answer = slurm(
        Job("7", state="PENDING", reason="BeginTime", start=str(int(T0) + 140)),
        job7=[start("PREEMPTED", 5, 21), JobStart("PENDING")],
    )
    ended, waits = run.entries(answer)
    assert ended.words == "preempted: stopped with a checkpoint"
    assert (waits.state, waits.attempt) == ("waiting", 1)
    (row, _) = run.look(answer).phases
    assert row.state == "PENDING"
    assert row.reason == waits.words
    assert "after a requeue Slurm waits about two minutes (BeginTime)" in row.reason
    assert row.start_unix_s == T0 + 140


def test_a_suspended_job_is_in_its_attempt(run: Run) -> None:
    run.submitted(0, 1, "7")
    run.started(10, 1, "7")
    (entry,) = run.entries(slurm(Job("7", state="SUSPENDED"), job7=[start("SUSPENDED", 5, None)]))
    assert (entry.state, entry.words, entry.attempt) == ("running", "suspended by Slurm", 0)
    (row, _) = run.look(slurm(Job("7", state="SUSPENDED"))).phases
    assert (row.state, row.start_unix_s, row.end_unix_s) == ("SUSPENDED", None, None)


@pytest.mark.parametrize(
    ("fields", "events", "words"),
    [
        ({"cause": "done"}, [], "done"),
        ({"cause": "SIGTERM"}, ["cancelled"], "cancelled: stopped with a checkpoint"),
        ({"cause": "SIGTERM"}, ["explained"], "preempted: stopped with a checkpoint"),
        ({"cause": "SIGTERM"}, [], "preempted, or cancelled: stopped with a checkpoint"),
        ({"cause": "out of memory"}, [], "out of GPU memory"),
        ({"cause": "out of memory", "told_by": "sacct"}, [], "out of host memory"),
        ({"cause": "bad input", "error": {"what": "no data", "where": "x"}}, [], "bad input: no data"),
        ({"cause": "bad input", "error": "error: no such data\n  where: x"}, [], "bad input: no such data"),
        ({"cause": "something new"}, [], "something new"),
    ],
)
def test_causes_are_shown_in_plain_words(run: Run, fields: dict[str, str], events: list[str], words: str) -> None:
    run.submitted(0, 1, "7")
    run.started(10, 1, "7")
    run.ended(20, 1, "7", exit_code=75, **fields)
    for event in events:
        run.event(30, event, 1, "7", attempt=0, cause="preempted")
    (entry,) = run.entries()
    assert entry.words == words


def test_one_attempt_may_train_one_phase_after_the_other(run: Run) -> None:
    run.submitted(0, 1, "7")
    run.submitted(0, 2, "8")
    run.started(10, 1, "7")
    run.steps(1, 1, 20, at=10)
    run.done(1, 20)
    run.ended(31, 1, "7", cause="done", exit_code=0, step=20)
    answer = slurm(Job("7", state="RUNNING"), Job("8", state="CANCELLED"), job7=[start("RUNNING", 5)])
    between = next(link for link in run.look(answer).links if link.job == "7").entries[-1]
    assert (between.state, between.phase, between.attempt) == ("starting", 2, 0)
    run.started(40, 2, "7")
    run.steps(2, 1, 2, at=40, each=2.0)
    status = run.look(answer, at=45)
    assert [(entry.phase, entry.attempt, entry.state) for entry in status.links[0].entries] == [
        (1, 0, "ended"),
        (2, 0, "running"),
    ]
    assert [(row.state, row.job) for row in status.phases] == [("DONE", "7"), ("RUNNING", "7")]
    assert status.links[1].entries[0].words == "never started: cancelled"


def test_a_job_that_died_before_the_worker_began_is_in_the_timeline(run: Run) -> None:
    run.submitted(0, 1, "7")
    answer = slurm(Job("7", state="RUNNING", nodes=("node3",)), job7=[start("NODE_FAIL", 5, 9), start("RUNNING", 100)])
    died, begins = run.entries(answer)
    assert (died.attempt, died.words, died.ended_unix_s) == (0, "before training: a node failed", T0 + 9)
    assert (begins.attempt, begins.state, begins.nodes) == (1, "starting", "node3")


def test_a_new_attempt_is_seen_before_sacct_knows_of_it(run: Run) -> None:
    run.submitted(0, 1, "7")
    run.started(10, 1, "7")
    run.ended(20, 1, "7", cause="crashed", exit_code=70)
    ending = run.entries(slurm(Job("7", state="RUNNING", start=str(int(T0) + 5)), job7=[start("RUNNING", 5)]))
    assert [(entry.attempt, entry.state) for entry in ending] == [(0, "ended")]
    again = run.entries(slurm(Job("7", state="RUNNING", start=str(int(T0) + 150)), job7=[start("RUNNING", 5)]))
    assert [(entry.attempt, entry.state) for entry in again] == [(0, "ended"), (1, "starting")]


def test_a_job_queued_by_hand_counts(run: Run) -> None:
    run.started(10, 1, "9")
    run.steps(1, 1, 3, at=10)
    status = run.look(slurm(Job("9", state="RUNNING")), at=14)
    assert (status.phases[0].state, status.phases[0].job) == ("RUNNING", "9")
    assert status.links[0].entries[0].link == "by hand"


def test_two_phases_with_waiting_jobs_say_what_they_wait_for(run: Run) -> None:
    run.submitted(0, 1, "7")
    run.submitted(0, 2, "8")
    answer = slurm(Job("7", state="PENDING", reason="Resources"), Job("8", state="PENDING", reason="Dependency"))
    status = run.look(answer)
    assert [(row.state, row.job) for row in status.phases] == [("PENDING", "7"), ("PENDING", "8")]
    text = run_text(status, T0)
    assert "waits       the nodes that it asks for are busy; it is next in line (Resources)" in text
    assert "waits       it waits for another job to end (Dependency)" in text


def test_a_spare_that_takes_over_is_the_phase_s_job_before_it_has_begun(run: Run) -> None:
    run.submitted(0, 1, "7")
    run.started(10, 1, "7")
    run.submitted(20, 1, "9", spare=True)
    waiting = slurm(Job("7", state="RUNNING"), Job("9", state="PENDING", reason="Dependency"))
    assert run.look(waiting).phases[0].job == "7"
    taking_over = run.look(slurm(Job("7", state="CANCELLED"), Job("9", state="RUNNING")))
    assert (taking_over.phases[0].job, taking_over.phases[0].state) == ("9", "RUNNING")
    assert taking_over.links[1].entries[0].link == "spare"


def link(job: str, state: str, phase: int, begun: int | None = None, running: bool = False, at: float = 0.0) -> Link:
    entry = TimelineEntry(job, "", begun or 0, 0, state="running" if running else "ended", started_unix_s=at)
    return Link(job, "slurm", phase, state=state, entries=(entry,) if begun else ())


@pytest.mark.parametrize(
    ("links", "phase", "job"),
    [
        ([link("7", "FAILED", 1, begun=1), link("8", "PENDING", 2)], 1, "8"),
        ([link("7", "FAILED", 1, begun=1), link("8", "PENDING", 2)], 2, None),
        ([link("7", "RUNNING", 1, begun=1, running=True), link("8", "PENDING", 2)], 1, "7"),
        ([link("7", "RUNNING", 1, begun=1, running=True), link("8", "PENDING", 2)], 2, "8"),
        ([link("7", "TIMEOUT", 1, begun=1), link("8", "FAILED", 2)], 1, "7"),
        ([link("7", "TIMEOUT", 1, begun=1), link("8", "FAILED", 2)], 2, "8"),
        ([link("7", "FAILED", 1, begun=1, at=1), link("8", "FAILED", 2, begun=1, at=2)], 1, "8"),
        ([], 1, None),
    ],
)
def test_the_job_that_represents_a_phase(links: list[Link], phase: int, job: str | None) -> None:
    chosen = link_of(phase, links, (1, 2))
    assert (chosen and chosen.job) == job


def test_a_running_job_without_a_step_is_shown_as_such(run: Run) -> None:
    run.submitted(0, 1, "7")
    run.started(10, 1, "7")
    run.steps(1, 1, 5, at=10, each=30.0)
    answer = slurm(Job("7", state="RUNNING"))
    (row, _) = run.look(answer, at=10 + 150 + 299).phases
    assert row.late_s is None, "the time of ten steps has not passed"
    status = run.look(answer, at=10 + 150 + 301)
    assert status.phases[0].late_s == 301
    assert status.phases[0].end_unix_s is None
    assert "NO PROGRESS for 5 min 01 s, though the job runs" in run_text(status, T0 + 461)
    assert "ago (late)" in status_text(status.phases)
    run.started(900, 1, "7", attempt=1, step=5)
    again = run.look(slurm(Job("7", state="RUNNING"), job7=[start("REQUEUED", 1, 800), start("RUNNING", 890)]), at=1000)
    assert again.phases[0].late_s is None, "a new attempt first reads its checkpoint"


def test_the_end_is_expected_from_the_steps_and_from_what_restarts_have_cost(run: Run) -> None:
    run.submitted(0, 1, "7")
    run.started(0, 1, "7")
    run.steps(1, 1, 5, at=0, each=2.0)
    straight = run.look(slurm(Job("7", state="RUNNING")), at=11).phases[0]
    assert straight.end_unix_s == T0 + 11 + 15 * 2.0
    assert straight.end_how == "15 steps at 2 s, the median of the last 5"
    run.steps(1, 6, 10, at=30, each=2.0)  # 20 s lost, 20 s worked
    interrupted = run.look(slurm(Job("7", state="RUNNING")), at=41).phases[0]
    assert interrupted.end_unix_s == T0 + 41 + 10 * 2.0 * 2
    assert "; and 20 s, as restarts, waits and checkpoints cost 20 s so far" in interrupted.end_how
    waiting = slurm(Job("7", state="PENDING", reason="Priority", start=str(int(T0) + 500)))
    queued = run.look(waiting, at=41).phases[0]
    assert queued.end_unix_s == T0 + 500 + 10 * 2.0 * 2
    assert queued.end_how.endswith("once it starts")
    assert run.look(slurm(Job("7", state="FAILED")), at=41).phases[0].end_unix_s is None


@given(
    times=st.lists(st.floats(0.01, 1e4), min_size=2, max_size=30),
    gaps=st.lists(st.floats(0, 1e5), min_size=30, max_size=30),
    left=st.integers(1, 10**6),
)
def test_the_expected_end_is_never_before_the_steps_alone_would_take(
    times: list[float], gaps: list[float], left: int
) -> None:
    now, lines = T0, []
    for step, (seconds, gap) in enumerate(zip(times, gaps, strict=False), start=1):
        now += seconds + gap
        lines.append({"step": step, "time_unix_s": now, "step_time_s": seconds})
    end, how = expected_end(lines, len(lines) + left, 1.0, now, Link("7", "slurm", 1, state="RUNNING"), None)
    assert end is not None
    assert end >= now + left - 1
    assert f"{left:,} steps" in how


def test_the_checkpoint_shown_is_one_that_is_whole(run: Run) -> None:
    run.checkpoint(1, 5)
    (run.checkpoint(1, 10) / "model.safetensors").write_bytes(b"wei")
    (row, _) = run.look(at=0).phases
    assert row.checkpoint == "step-00000005"
    assert row.checkpoint_age_s is not None


def test_lines_that_do_not_describe_a_step_are_harmless(run: Run) -> None:
    run.steps(1, 1, 2, at=0)
    with open(run.directory.phase(1).metrics, "a") as file:
        file.write('[1, 2]\n{"step": 3}\n{"st')
    assert run.look().phases[0].steps_done == 2


def test_events_without_a_job_are_skipped() -> None:
    assert read_story([{"event": "note"}, {"event": "started", "phase": 1, "job": ""}]).jobs == {}


def test_a_run_without_any_job_is_shown(run: Run) -> None:
    text = run_text(run.look(), time.time())
    assert "phase 1: NOT STARTED (source: run directory)\n  step        0 of 20" in text

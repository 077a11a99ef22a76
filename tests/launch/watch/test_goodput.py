"""What the GPUs of a run were used for: the parts sum to what was held, and each second is in the right one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.launch.watch.goodput import Goodput, Held, goodput, held_by
from bertjobs.launch.watch.status import read_run, status_of
from bertjobs.launch.watch.status_text import run_text
from bertjobs.run.journal import read_story
from bertjobs.run.owner import Owner, Owners
from bertjobs.slurm.jobs import JobReport
from tests.launch.watch.test_timeline import T0, Run, slurm, start

FOREVER = math.inf


def line(step: int, at: float, took: float = 1.0, stall: float | None = 0.0) -> dict[str, float | None]:
    return {"step": step, "time_unix_s": at, "step_time_s": took, "checkpoint_stall_s": stall}


def one(began: float, ended: float, *, trained: float | None = None, step: int = 0, kept: float = FOREVER,
        end: str = "orderly", devices: int = 8) -> Held:  # fmt: skip
    return Held(1, devices, began, ended, began if trained is None else trained, step, kept, end)


def test_each_second_of_an_attempt_is_in_one_part() -> None:
    """10 s of start-up, five steps of 2 s with a checkpoint's stall of 1 s and 1 s of nothing, a validation of 4 s."""
    lines = [line(1, 12, 2), line(2, 14, 2), line(3, 18, 2, stall=1), line(4, 20, 2), line(5, 22, 2)]
    used = goodput([one(0, 29)], lines, [{"step": 5, "validation_s": 4.0}], is_gpu=True)
    assert used == Goodput(training=80, start_up=80, checkpoints=8 * 4, validation=8 * 4, other=8)
    assert used.held == 8 * 29


def test_what_a_crash_undid_is_lost_by_its_cause() -> None:
    """The first attempt made nine steps and died at 30; a checkpoint held five. The second repeats the others."""
    lines = [line(step, 10 + step) for step in range(1, 6)] + [line(step, 50 + step) for step in range(6, 11)]
    held = [one(0, 30, kept=5, end="node failure"), one(40, 62, step=5)]
    used = goodput(held, lines, [], is_gpu=True)
    assert used.training == 8 * 10
    assert used.lost == {"node failure": 8 * 15}
    assert used.start_up == 8 * (10 + 15)
    assert used.checkpoints == 8 * 2
    assert used.held == 8 * (30 + 22)


def test_an_attempt_that_made_no_step_is_start_up_and_then_lost() -> None:
    used = goodput([one(0, 50, trained=20, kept=0, end="hang")], [], [], is_gpu=True)
    assert (used.start_up, used.lost) == (8 * 20, {"hang": 8 * 30})
    never = Held(1, 4, 0, 50, None, 0, FOREVER, "container")
    assert goodput([never], [], [], is_gpu=True) == Goodput(start_up=200)


def test_a_stall_inside_a_step_is_not_counted_twice() -> None:
    """A checkpoint is committed at a step's beginning, within its time."""
    lines = [line(1, 10, 5), line(2, 15, 5, stall=3)]
    used = goodput([one(0, 15)], lines, [], is_gpu=True)
    assert (used.training, used.checkpoints, used.start_up, used.other) == (8 * 7, 8 * 3, 8 * 5, 0)


NUMBERS = st.floats(0, 1000)


@st.composite
def attempts(draw: st.DrawFn) -> tuple[list[Held], list[dict[str, float | None]], list[dict[str, float]]]:
    """Attempts one after the other with the lines of their steps; clocks may be wrong by seconds, fields by more."""
    held, lines, validations, now, step = [], [], [], 0.0, 0
    for _ in range(draw(st.integers(0, 5))):
        began = now + draw(NUMBERS)
        now, kept = began, step + draw(st.integers(0, 4))
        for made in range(step + 1, kept + 1):
            now += draw(NUMBERS)
            skew, took, stall = draw(st.floats(-5, 5)), draw(st.floats(-1, 2000)), draw(st.none() | NUMBERS)
            lines.append(line(made, now + skew, took, stall))
            if draw(st.booleans()):
                validations.append({"step": made, "validation_s": draw(NUMBERS)})
        now += draw(NUMBERS)
        trained = draw(st.none() | st.floats(began, began + 2000))
        end = draw(st.sampled_from(["orderly", "running", "node failure", "crashed", "unknown"]))
        limit = draw(st.sampled_from([float(kept), FOREVER])) if step < kept else float(kept)
        held.append(Held(1, draw(st.integers(1, 64)), began, now, trained, step, limit, end))
        step = kept
    return held, lines, validations


@given(attempts())
def test_the_parts_sum_to_what_was_held(run: tuple) -> None:
    held, lines, validations = run
    used = goodput(held, lines, validations, is_gpu=True)
    wanted = sum(one.devices * (one.ended_unix_s - one.began_unix_s) for one in held)
    assert used.held == pytest.approx(wanted, abs=1e-6)
    assert all(seconds >= 0 for _, seconds in used.parts())
    shown = used.as_json()
    hours = [shown[f"{name}_h"] for name in ("training", "start_up", "checkpoints", "validation", "other")]
    assert sum(hours) + sum(shown["lost_h"].values()) == pytest.approx(shown["held_h"], abs=1e-4)


# ---- from a run's folder and Slurm ----


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Phase 1 in two attempts of job 7, of which the first lost its node at 60 s; phase 2 by the same job's start."""
    made = Run(tmp_path / "results")
    made.submitted(0, 1, "7")
    made.submitted(0, 2, "8")
    made.started(20, 1, "7")
    made.steps(1, 1, 5, at=25)
    made.checkpoint(1, 5)
    made.ended(130, 1, "7", cause="node failure", exit_code=None, told_by="sacct")
    made.started(140, 1, "7", attempt=1, step=5)
    made.steps(1, 6, 20, at=145)
    made.done(1, 20)
    made.ended(162, 1, "7", attempt=1, cause="done", exit_code=0, step=20)
    made.started(170, 2, "7", attempt=1)
    made.steps(2, 1, 5, at=175)
    made.done(2, 5)
    made.ended(181, 2, "7", attempt=1, cause="done", exit_code=0, step=5)
    return made


def test_slurm_s_times_count_and_the_queue_is_apart(run: Run) -> None:
    starts = [start("NODE_FAIL", 10, 60), start("COMPLETED", 130, 183)]
    status = status_of(read_run(run.directory, whole=True), slurm(job7=starts), T0 + 200)
    first, second = (phase.goodput for phase in status.phases)
    assert first is not None
    assert second is not None
    assert first.held == 2 * (50 + 32), "the second start went on with phase 2 at 162"
    assert first.lost == {"node failure": 2 * 30}
    assert first.training == 2 * 20
    assert first.start_up == 2 * (15 + 15)
    assert first.checkpoints == 2 * 2
    assert first.queue_s == 10 + 70
    assert second.held == 2 * (183 - 162)
    assert (second.training, second.start_up, second.checkpoints) == (2 * 5, 2 * 13, 2 * 3)
    assert second.queue_s == 0
    assert not first.is_gpu
    shown = run_text(status, T0 + 200)
    assert "rank-hours  0.0456, training 24.4%, lost: node failure 36.6%, start-up 36.6%, checkpoints 2.4%" in shown
    assert "; 1 min 20 s in the queue" in shown
    assert status.phases[0].as_json()["goodput"]["queue_s"] == 80


def test_without_slurm_the_owners_records_say_when_it_began_and_was_last_alive(run: Run) -> None:
    lives = {("7", 0): (T0 + 12, T0 + 55), ("7", 1): (T0 + 131, T0 + 181)}
    lines = {phase: [T0 + 26, T0 + 30] if phase == 1 else [] for phase in (1, 2)}
    story = read_story(run.directory.events(), lines)
    first, second, third = held_by(story, ranks=2, lives=lives, starts={}, saved={1: 20, 2: 5})
    assert (first.began_unix_s - T0, first.ended_unix_s - T0) == (12, 55)
    assert (first.end, first.kept_step, first.queue_s) == ("node failure", 5, 12)
    assert (second.began_unix_s - T0, second.ended_unix_s - T0, second.queue_s) == (131, 162, 76)
    assert (third.began_unix_s - T0, third.ended_unix_s - T0, third.end) == (162, 181, "orderly")


def test_a_running_attempt_counts_up_to_its_newest_step(tmp_path: Path) -> None:
    made = Run(tmp_path / "results")
    made.submitted(0, 1, "7")
    made.started(20, 1, "7")
    made.steps(1, 1, 5, at=25)
    status = status_of(read_run(made.directory, whole=True), slurm(job7=[start("RUNNING", 10)]), T0 + 500)
    used = status.phases[0].goodput
    assert used is not None
    assert (used.held, used.training, used.start_up, used.lost) == (2 * 20, 2 * 5, 2 * 15, {})


def test_steps_of_a_checkpoint_that_was_damaged_later_are_lost_too(tmp_path: Path) -> None:
    made = Run(tmp_path / "results")
    made.submitted(0, 1, "7")
    made.started(20, 1, "7")
    made.steps(1, 1, 5, at=25)
    made.ended(40, 1, "7", cause="SIGUSR2", exit_code=75, step=10)
    made.started(100, 1, "7", attempt=1, step=5)
    made.steps(1, 6, 10, at=110)
    status = status_of(read_run(made.directory, whole=True), JobReport(), T0 + 500)
    used = status.phases[0].goodput
    assert used is not None
    assert used.lost == {"damaged checkpoint": 2 * 10}


def test_the_table_of_all_runs_does_not_read_whole_files(run: Run) -> None:
    assert [phase.goodput for phase in run.look().phases] == [None, None]
    assert [phase.as_json()["goodput"] for phase in run.look().phases] == [None, None]


def test_an_owner_s_last_sign_of_life_is_kept(tmp_path: Path) -> None:
    owners = Owners(tmp_path / "owners")
    assert owners.lifetimes() == {}
    taken, _ = owners.take(Owner("7", 1, "node1", 0, "slurm"), lambda _: None)
    owners.beat(taken)
    began, last = owners.lifetimes()["7", 1]
    assert began == taken.taken_unix_s
    assert last >= began - 0.1

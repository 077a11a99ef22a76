"""The numbers of a run, from lines written by hand."""

from __future__ import annotations

import pytest

from bertjobs.errors import InputError
from bertjobs.report.summary import HeldOutScores, learnt, summarise, text
from bertjobs.run.causes import Cause
from bertjobs.run.directory import RunDirectory
from tests.report.conftest import (
    START,
    MakeRun,
    write_attempt,
    write_checkpoint,
    write_done,
    write_steps,
    write_validation,
)


@pytest.fixture
def finished(make_run: MakeRun) -> RunDirectory:
    """Phase 1 in two attempts, phase 2 in one."""
    directory = make_run()
    one, two = directory.phase(1), directory.phase(2)
    write_steps(one, range(1, 101))
    write_validation(one, 50, 6.4, 6.5)
    write_validation(one, 100, 5.5, 6.5)
    write_checkpoint(one, 50)
    write_checkpoint(one, 100)
    write_done(one, 100)
    write_steps(two, range(1, 5))
    write_validation(two, 4, 5.25, 6.75)
    write_checkpoint(two, 4)
    write_done(two, 4)
    write_attempt(directory, 1, START + 1000, START + 1120, cause="USR2", exit_code=75, step=50)
    write_attempt(directory, 1, START + 1130, START + 1210, step=100)
    write_attempt(directory, 2, START + 2000, START + 2010, step=4)
    return directory


def test_the_numbers_of_a_finished_run(finished: RunDirectory) -> None:
    summary = summarise(finished)
    one, two = summary.phases
    assert (one.steps_done, one.spec.steps, one.done) == (100, 150, True)
    assert one.start_loss_nats == pytest.approx(10.9)
    assert one.end_loss_nats == pytest.approx(11.0 - 0.1 * 95.5)  # the mean of steps 91 to 100
    assert one.held_out == HeldOutScores(100, 5.5, 0.25, 0.625, 6.5)
    assert one.sequences_per_s == pytest.approx(60.5)
    assert (one.wall_time_s, one.attempts) == (200.0, 2)
    assert one.checkpoint == finished.phase(1).checkpoints / "step-00000100"
    assert two.end_loss_nats == pytest.approx(11.0 - 0.1 * 2.5)  # fewer steps than the mean spans
    assert two.held_out is not None
    assert two.held_out.below_unigram_nats == 1.5
    assert [attempt.word for attempt in summary.attempts] == ["USR2", "done", "done"]
    assert summary.last_started is two


def test_the_text_shows_the_numbers_in_100_columns(finished: RunDirectory) -> None:
    shown = text(summarise(finished))
    table = shown[: shown.index("\ncheckpoint /")]
    assert max(map(len, table.splitlines())) <= 100
    cells = {line[:35].strip(): line[35:].split("  ") for line in table.splitlines()}
    lines = {name: [cell.strip() for cell in row if cell.strip()] for name, row in cells.items()}
    assert lines["steps"] == ["100 of 150", "4 of 20"]
    assert lines["training loss, start to end (nats)"] == ["10.900 to 1.450", "10.900 to 10.750"]
    assert lines["below the unigram line (nats)"] == ["1.000", "1.500"]
    assert lines["masked words guessed, held-out"] == ["25.0%", "25.0%"]
    assert lines["wall time"] == ["3 min 20 s", "10 s"]
    assert lines["checkpoint"] == ["step-00000100", "step-00000004"]
    assert "phase 2: held-out masked-LM loss 5.250 nats, 1.500 below the unigram line (6.750)" in shown


def test_a_run_stopped_in_the_middle(make_run: MakeRun) -> None:
    directory = make_run()
    one = directory.phase(1)
    write_steps(one, range(1, 31))
    write_checkpoint(one, 20)
    (write_checkpoint(one, 30) / "config.json").unlink()  # damaged
    write_attempt(directory, 1, START + 1000, None)  # killed: nothing records when
    write_attempt(directory, 1, START + 1041, None)
    summary = summarise(directory)
    first, second = summary.phases
    assert (first.steps_done, first.done, first.held_out) == (30, False, None)
    assert first.checkpoint == one.checkpoints / "step-00000020"
    # Up to the last step seen of each: step 20 ended at 1040, step 30 at 1060.
    assert [attempt.seconds for attempt in summary.attempts] == [40.0, 19.0]
    assert [attempt.cause for attempt in summary.attempts] == [None, None]
    assert (second.steps_done, second.start_loss_nats, second.sequences_per_s, second.checkpoint) == (
        0,
        None,
        None,
        None,
    )
    shown = text(summary)
    assert "phase 1: not validated yet" in shown
    assert "0 of 20" in shown
    assert not learnt(summary, -100.0)


def test_an_end_belongs_to_the_start_of_its_own_phase(make_run: MakeRun) -> None:
    directory = make_run()
    write_steps(directory.phase(1), [1])
    write_attempt(directory, 1, START, None)
    write_attempt(
        directory, 2, START + 1, START + 3, cause="bad input", exit_code=64, error="error: not yet\n  where: x"
    )
    first, second = summarise(directory).attempts
    assert (first.cause, first.exit_code, first.failure) == (None, None, None)
    assert (second.cause, second.exit_code) == (Cause.BAD_INPUT, 64)
    assert second.failure is not None
    assert (second.failure.what, second.failure.where) == ("not yet", "x")


@pytest.mark.parametrize(
    ("losses", "margin", "expected"),
    [
        ((5.5, 5.25), 0.5, True),
        ((5.5, 5.25), 1.0, True),  # phase 1 just so
        ((5.5, 5.25), 1.01, False),
        ((6.25, 5.25), 0.5, False),  # a finished phase counts too
        ((5.5, 6.45), 0.5, False),
        ((5.5, 7.0), 0.0, False),  # above the line
    ],
)
def test_learnt_means_below_the_line_in_each_phase(
    make_run: MakeRun, losses: tuple[float, float], margin: float, expected: bool
) -> None:
    directory = make_run()
    for number, loss in enumerate(losses, 1):
        phase = directory.phase(number)
        write_steps(phase, [1, 2])
        write_validation(phase, 1, 1.0, 6.5)  # only the last one counts
        write_validation(phase, 2, loss, 6.5)
        write_done(phase, 2)
    assert learnt(summarise(directory), margin) is expected


def test_a_phase_without_validation_has_not_shown_that_it_learnt(make_run: MakeRun) -> None:
    directory = make_run()
    write_steps(directory.phase(1), [1, 2])
    write_validation(directory.phase(1), 2, 5.0, 6.5)
    write_done(directory.phase(1), 2)
    assert learnt(summarise(directory))
    write_steps(directory.phase(2), [1])
    assert not learnt(summarise(directory))


def test_a_run_without_a_step_is_a_clear_error(make_run: MakeRun) -> None:
    directory = make_run()
    write_attempt(directory, 1, START, None)
    with pytest.raises(InputError, match="no metrics yet") as caught:
        summarise(directory)
    assert caught.value.where == str(directory.root)

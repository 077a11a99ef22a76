"""A run that was stopped, killed and restarted ends with the same weights, bit for bit."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertjobs.run.checkpoints import read_manifest, steps
from tests.train.conftest import PHASES, Ended, Trial, ended

# Three, because a sum over two does not depend on its order.
RANKS = 3
STEPS = int(PHASES[1]["steps"])


def interrupted(trial: Trial, after: int, send: Callable[[list[subprocess.Popen[str]]], None]) -> list[Ended]:
    """Run phase 1 until a step is in the metrics; pause all ranks while signals are sent, so that none is done."""
    ranks = trial.start(1, RANKS)
    trial.wait_for_step(1, after)
    for rank in ranks:
        rank.send_signal(signal.SIGSTOP)
    send(ranks)
    for rank in ranks:
        rank.send_signal(signal.SIGCONT)
    return ended(ranks)


def terminate_all(ranks: list[subprocess.Popen[str]]) -> None:
    for rank in ranks:
        rank.terminate()


def last_cause(trial: Trial) -> str:
    return trial.directory.events()[-1]["cause"]


@pytest.mark.slow
def test_signals_and_a_kill_change_nothing(trial: Trial, tmp_path: Path) -> None:
    reference = Trial(trial.home, trial.data, tmp_path / "reference")
    assert [rank.code for rank in reference.run(1, RANKS)] == [0, 0, 0]

    # USR2 reaches only one rank: all stop after the same step.
    ranks = interrupted(trial, 3, lambda ranks: ranks[1].send_signal(signal.SIGUSR2))
    assert [rank.code for rank in ranks] == [75, 0, 0], ranks
    assert last_cause(trial) == "SIGUSR2"
    first = read_manifest(steps(trial.phase(1).checkpoints)[-1]).step
    assert first == len(trial.metrics(1))
    assert 3 <= first < STEPS

    ranks = interrupted(trial, first + 3, terminate_all)
    assert [rank.code for rank in ranks] == [75, 0, 0], ranks
    assert last_cause(trial) == "SIGTERM"
    second = read_manifest(steps(trial.phase(1).checkpoints)[-1]).step
    assert first < second == len(trial.metrics(1)) < STEPS

    # A crash between checkpoints: the steps since the last one are repeated.
    ranks = interrupted(trial, second + 1, lambda ranks: ranks[2].kill())
    assert [rank.code for rank in ranks] == [70, 70, -signal.SIGKILL], ranks
    assert "another rank is gone" in ranks[0].err
    assert "Traceback" not in ranks[0].err
    kept = read_manifest(steps(trial.phase(1).checkpoints)[-1]).step

    ranks = trial.run(1, RANKS)
    assert [rank.code for rank in ranks] == [0, 0, 0], ranks
    assert f"(step {kept})" in ranks[0].out
    assert trial.weights(1) == reference.weights(1)
    assert [line["step"] for line in trial.metrics(1)] == list(range(1, STEPS + 1))
    same = ("step", "loss_nats", "gradient_norm", "learning_rate", "mlm_accuracy", "skipped_steps")
    assert [[line[key] for key in same] for line in trial.metrics(1)] == [
        [line[key] for key in same] for line in reference.metrics(1)
    ]
    board = EventAccumulator(str(trial.phase(1).tensorboard)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss_nats")] == [
        (line["step"], pytest.approx(line["loss_nats"])) for line in trial.metrics(1)
    ]


def test_steps_this_run_stops_a_run_that_then_continues(
    trial: Trial, alone: Callable[..., Ended], phase_one_done: Trial
) -> None:
    for number in range(1, 4):
        stopped = alone(trial.having(STEPS_THIS_RUN=3), 1)
        assert stopped.code == 75
        assert last_cause(trial) == "STEPS_THIS_RUN"
        assert len(trial.metrics(1)) == 3 * number
    assert alone(trial, 1).code == 0
    assert trial.weights(1) == phase_one_done.weights(1)
    assert [line["step"] for line in trial.metrics(1)] == list(range(1, STEPS + 1))


def test_a_stop_at_a_checkpoint_does_not_write_it_again(trial: Trial, alone: Callable[..., Ended]) -> None:
    out = alone(trial.having(STEPS_THIS_RUN=10), 1).out
    assert out.count("checkpoint ") == 1


def test_a_signal_before_the_first_step_leaves_a_checkpoint(trial: Trial) -> None:
    (rank,) = trial.start(1, 1)
    # The handlers are set before torch is loaded: wait for them, not for the training.
    while not handles(rank.pid, signal.SIGTERM):
        assert rank.poll() is None
    rank.send_signal(signal.SIGTERM)
    (end,) = ended([rank])
    assert end.code == 75, end
    assert [read_manifest(folder).step for folder in steps(trial.phase(1).checkpoints)] == [0]


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("name", [".tmp-step-00000012-abcdef01", ".tmp-step-00000025-abcdef02"])
def test_what_a_killed_writer_left_is_removed(stopped: Trial, alone: Callable[..., Ended], name: str) -> None:
    leftover = stopped.phase(1).checkpoints / name
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert alone(stopped.having(STEPS_THIS_RUN=1), 1).code == 75
    assert not leftover.exists()


def test_the_newest_three_checkpoints_are_kept(stopped: Trial, alone: Callable[..., Ended]) -> None:
    assert alone(stopped, 1).code == 0
    assert [folder.name for folder in steps(stopped.phase(1).checkpoints)] == [
        "step-00000020", "step-00000025", "step-00000030",
    ]  # fmt: skip

"""The line that says how far a command is."""

from __future__ import annotations

import math

import pytest

from bertjobs.cli import progress
from bertjobs.cli.progress import ProgressLine


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time is its last number."""
    times = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[-1])
    return times


def test_in_a_log_it_appears_twice_a_minute_and_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine()
    for seconds, done in ((0, 0), (10, 1000), (31, 6200), (40, 8000), (50, 10_000)):
        clock.append(100 + seconds)
        line("train", done, 10_000, "examples")
    assert capsys.readouterr().err.splitlines() == [
        "train: 6,200 of 10,000 examples, 200 examples/s, 19 s left",
        "train: 10,000 of 10,000 examples, 200 examples/s",
    ]


def test_without_a_total_it_has_the_rate_alone(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    line("train", 0, math.inf, "examples")
    clock.append(140)
    line("train", 8000, math.inf, "examples")
    assert capsys.readouterr().err == "train: 8,000 examples, 200 examples/s\n"


def test_nothing_is_said_of_a_short_stage(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine(patience_s=2)
    for stage, seconds in (("short", 1.9), ("long", 2.1)):
        line(stage, 0, math.inf, "examples")
        clock.append(clock[-1] + seconds)
        line(stage, 420, 420, "examples")
    assert capsys.readouterr().err == "long: 420 of 420 examples, 200 examples/s\n"

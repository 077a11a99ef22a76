"""The figure: its arithmetic, its bytes, what it shows."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.report.curves import downsample, draw, read_series, running_mean
from bertjobs.run.directory import RunDirectory
from tests.report.conftest import MakeRun, write_steps, write_validation

FLOATS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60)


@pytest.fixture
def two_phases(make_run: MakeRun) -> RunDirectory:
    directory = make_run()
    write_steps(directory.phase(1), range(1, 41))
    write_validation(directory.phase(1), 40, 5.5, 6.54)
    write_steps(directory.phase(2), range(1, 11))
    write_validation(directory.phase(2), 10, 5.4, 6.61)
    return directory


def test_equal_metrics_give_equal_svg_bytes(two_phases: RunDirectory) -> None:
    first = draw(two_phases, "svg")
    assert first == draw(two_phases, "svg")
    write_steps(two_phases.phase(2), [11])
    assert first != draw(two_phases, "svg")


def test_the_svg_names_what_it_shows(two_phases: RunDirectory) -> None:
    svg = draw(two_phases).decode()
    words = re.findall(r">([^<>]+)</text>", svg)
    for word in (
        "Masked-LM loss",
        "nats per masked token",
        "optimizer step",
        "unigram line 6.54: word frequencies, no context",
        "phase 1: 128 tokens",
        "phase 2: 512 tokens",
        "sequences/s, all ranks",
        "learning rate",
        "masked words",
        "next sentence",
    ):
        assert word in words
    assert "date" not in svg.lower()


def test_png_is_png(two_phases: RunDirectory) -> None:
    assert draw(two_phases, "png").startswith(b"\x89PNG\r\n")


def test_phase_2_continues_where_phase_1_ended(two_phases: RunDirectory) -> None:
    one, two = read_series(two_phases)
    assert (one.first_step, one.end, two.first_step, two.end) == (0, 40, 40, 50)
    steps, values = two.of("mlm_loss_nats")
    assert steps.tolist() == list(range(41, 51))
    assert values[0] == pytest.approx(10.2)
    assert two.held_out("mlm_loss_nats")[0].tolist() == [50]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_few_steps_without_validation_can_be_drawn(make_run: MakeRun, steps: int) -> None:
    directory = make_run()
    write_steps(directory.phase(1), range(1, steps + 1))
    assert b"unigram" not in draw(directory)


def test_a_run_without_metrics_is_a_clear_error(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="no metrics"):
        draw(make_run())


@given(st.integers(1, 5000), st.integers(1, 100))
def test_downsampling_keeps_the_mean_and_the_order(length: int, points: int) -> None:
    steps = np.arange(1, length + 1, dtype=np.float64)
    few, values = downsample(steps, steps * 2.0, points)
    assert len(few) == min(length, points)
    assert (np.diff(few) > 0).all()
    assert values == pytest.approx(few * 2.0)
    assert steps[0] <= few[0] <= few[-1] <= steps[-1]


@given(FLOATS, st.integers(0, 10))
def test_the_running_mean_is_the_mean_around_each_value(values: list[float], reach: int) -> None:
    smoothed = running_mean(np.array(values), 2 * reach + 1)
    for place, value in enumerate(smoothed):
        near = min(reach, place, len(values) - 1 - place)
        assert value == pytest.approx(np.mean(values[place - near : place + near + 1]), abs=1e-6)

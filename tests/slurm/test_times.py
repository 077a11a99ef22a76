"""Times as Slurm writes them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.slurm.times import doubled, format_time, limit_s, minutes, parse_time, unix_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("4:00:00", 14400),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-00:00:00", 86400),
        ("infinite", None),
        ("UNLIMITED", None),
        ("0", None),
    ],
)
def test_times_as_slurm_writes_them(text: str, seconds: int | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1-", "1.5", "4h", "1-2:3:4:5"])
def test_what_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a time"):
        parse_time(text)


@given(st.integers(min_value=1, max_value=10**8))
def test_a_time_is_read_as_it_was_written(seconds: int) -> None:
    assert parse_time(format_time(seconds)) == seconds


def test_no_limit_is_infinite() -> None:
    assert (limit_s("4:00:00"), limit_s("infinite"), limit_s("0")) == (14400.0, math.inf, math.inf)
    assert minutes(limit_s("UNLIMITED")) == math.inf


@pytest.mark.parametrize(("seconds", "whole"), [(60, 1), (61, 2), (1, 1), (14400, 240)])
def test_minutes_are_rounded_up(seconds: float, whole: int) -> None:
    assert minutes(seconds) == whole


@pytest.mark.parametrize(
    ("limit", "twice"),
    [
        ("00:30:00", "60"), ("30:30", "62"), ("1-00:00:00", "2880"), ("00:00:10", "2"), ("UNLIMITED", ""), ("", ""),
        ("Partition_Limit", ""),
    ],
)  # fmt: skip
def test_a_limit_is_doubled_in_minutes(limit: str, twice: str) -> None:
    assert doubled(limit) == twice


@pytest.mark.parametrize(("text", "seconds"), [("1800000000", 1.8e9), ("Unknown", None), ("N/A", None), ("0", None)])
def test_dates_are_seconds(text: str, seconds: float | None) -> None:
    assert unix_s(text) == seconds

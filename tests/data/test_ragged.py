"""Slices of a flat array, joined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data import ragged
from bertjobs.data.ragged import Starts, gather, offsets_of, places_of


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8), st.sampled_from([0, 10, 1000]))
def test_slices_are_joined_in_their_order(slices: list[tuple[int, int]], long: int) -> None:
    flat = np.arange(100, dtype=np.uint16)
    starts, lengths = np.array(slices, dtype=np.int64).reshape(-1, 2).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "_LONG", long)
        joined = gather(flat, starts, lengths)
    assert joined.tolist() == [place for start, length in slices for place in range(start, start + length)]
    assert places_of(starts, lengths).tolist() == joined.tolist()
    assert joined.dtype == flat.dtype


@pytest.mark.parametrize("long", [0, 1000])
def test_a_slice_beyond_the_array_is_an_error(long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged, "_LONG", long)
    with pytest.raises(IndexError):
        gather(np.arange(10), np.array([0, 8]), np.array([4, 3]))


@given(st.lists(st.integers(0, 9), max_size=300), st.data())
def test_starts_of_any_rows_are_those_of_the_offsets(lengths: list[int], data: st.DataObject) -> None:
    given_lengths = np.array(lengths, dtype=np.int32)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=20)) if lengths else []
    rows = np.array(chosen, dtype=np.int64)
    assert Starts(given_lengths)(rows).tolist() == offsets_of(given_lengths)[rows].tolist()


def test_starts_beyond_two_gigabytes_do_not_overflow() -> None:
    assert Starts(np.full(200, 2**30, dtype=np.int32))(np.array([199])).tolist() == [199 * 2**30]

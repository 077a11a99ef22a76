"""Slices of a flat array, joined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data import ragged
from bertjobs.data.ragged import gather, places_of


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

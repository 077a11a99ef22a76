"""Windows over a long sentence: each word is read once, where it has most context."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bertjobs.tasks.windows import Window, overlap_of, windows_of

ROOM = 12
COUNTS = st.lists(st.integers(0, overlap_of(ROOM)), min_size=1, max_size=80)


def context(window: Window, word: int, counts: list[int]) -> int:
    """Tokens between a word and the nearer edge of the window."""
    before, after = range(window.seen.start, word), range(word + 1, window.seen.stop)
    return min(sum(counts[other] for other in side) for side in (before, after))


@given(COUNTS)
def test_each_word_is_read_once_by_a_window_that_fits(counts: list[int]) -> None:
    windows = windows_of(counts, ROOM)
    assert [word for window in windows for word in window.read] == list(range(len(counts)))
    for window in windows:
        assert sum(counts[word] for word in window.seen) <= ROOM
        assert set(window.read) <= set(window.seen)
    assert (len(windows) == 1) == (sum(counts) <= ROOM)


@given(COUNTS)
def test_of_neighbouring_windows_the_one_with_more_context_is_read(counts: list[int]) -> None:
    windows = windows_of(counts, ROOM)
    for place, window in enumerate(windows):
        for word in window.read:
            for other in windows[max(0, place - 1) : place + 2]:
                if word in other.seen:
                    assert context(window, word, counts) >= context(other, word, counts)


def test_the_first_and_the_last_words_are_read_with_all_that_there_is() -> None:
    windows = windows_of([1] * 20, ROOM)
    assert windows == [Window(range(0, 12), range(0, 10)), Window(range(8, 20), range(10, 20))]

"""Masks: how many, which and with what, within 5 standard deviations; and where they come from."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.batches.masking import (
    mask_flat,
    mask_tokens,
    prediction_counts,
    sample_keys,
    splitmix64,
    word_begins,
)
from bertjobs.data.ragged import offsets_of

MASK, SIZE = 4, 1000
ROWS, LENGTH = 2000, 128


def _masked(seed: int = 1, epoch: int = 0, count: int = 19) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.full((ROWS, LENGTH), 500, dtype=np.int64)
    text = np.ones(ids.shape, dtype=bool)
    text[:, [0, 60, LENGTH - 1]] = False
    keys = sample_keys(seed, epoch, np.arange(ROWS))
    masked, chosen = mask_tokens(ids, text, np.full(ROWS, count), keys, MASK, SIZE)
    return masked, chosen, text


def _close(actual: float, share: float, draws: int) -> bool:
    return abs(actual - share) < 5 * np.sqrt(share * (1 - share) / draws)


def test_splitmix64_gives_its_published_output() -> None:
    """The first outputs of SplitMix64 seeded with 1234567."""
    step = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + step * i) % 2**64 for i in range(3)], dtype=np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(states).tolist() == expected


def test_exactly_the_count_is_chosen_and_only_among_text() -> None:
    _, chosen, text = _masked()
    assert (chosen.sum(axis=1) == 19).all()
    assert not (chosen & ~text).any()


def test_eighty_ten_ten() -> None:
    masked, chosen, _ = _masked()
    values, draws = masked[chosen], int(chosen.sum())
    # A random token is [MASK], or the token itself, once in SIZE draws each.
    assert _close((values == MASK).mean(), 0.8 + 0.1 / SIZE, draws)
    assert _close((values == 500).mean(), 0.1 + 0.1 / SIZE, draws)
    assert (masked[~chosen] == 500).all()


def test_random_tokens_are_uniform_over_the_whole_vocabulary() -> None:
    masked, chosen, _ = _masked()
    others = masked[chosen & (masked != MASK) & (masked != 500)]
    tenths = np.bincount(others // (SIZE // 10), minlength=10) / len(others)
    assert all(_close(share, 0.1, len(others)) for share in tenths)
    assert others.min() < 10
    assert others.max() > SIZE - 10


def test_positions_are_uniform() -> None:
    _, chosen, text = _masked()
    share = chosen.mean(axis=0)[text[0]]
    assert all(_close(value, 19 / 125, ROWS) for value in share)


def test_choice_and_replacement_are_independent_of_position() -> None:
    masked, chosen, _ = _masked()
    first, second = masked[:, :64][chosen[:, :64]], masked[:, 64:][chosen[:, 64:]]
    assert _close((first == MASK).mean(), 0.8, len(first))
    assert _close((second == MASK).mean(), 0.8, len(second))


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}, {"epoch": -1}])
def test_another_seed_or_epoch_masks_independently(other: dict[str, int]) -> None:
    _, chosen, text = _masked()
    _, different, _ = _masked(**other)
    both = (chosen & different)[text].mean()
    assert _close(both, (19 / 125) ** 2, ROWS * 125)


def _ragged(rows: int, seed: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids, offsets, lengths of A, and which tokens continue a word, of rows of A and B."""
    draw = np.random.default_rng(seed)
    a_lengths, b_lengths = draw.integers(1, 60, size=(2, rows))
    offsets = offsets_of(a_lengths + b_lengths)
    return draw.integers(5, SIZE, size=offsets[-1]), offsets, a_lengths, draw.random(offsets[-1]) < share


def _padded(values: np.ndarray, offsets: np.ndarray, a_lengths: np.ndarray, width: int) -> tuple[np.ndarray, ...]:
    """Rows of [CLS] A [SEP] B [SEP], and where their text is."""
    lengths = np.diff(offsets)[:, None]
    column, middle = np.arange(width), a_lengths[:, None] + 1
    text = (column > 0) & (column != middle) & (column <= lengths + 1)
    padded = np.zeros(text.shape, dtype=values.dtype)
    padded[text] = values
    return padded, text


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("width", [128, 200])
def test_padded_rows_flat_rows_and_single_rows_get_the_same_masks(whole_words: bool, width: int) -> None:
    """Enough rows that they are masked in several blocks."""
    rows = 3000
    ids, offsets, a_lengths, continues = _ragged(rows, 5)
    counts, keys = prediction_counts(np.diff(offsets) + 3, 0.15, 12), sample_keys(3, 1, np.arange(rows))
    begins = word_begins(continues, offsets, a_lengths) if whole_words else None
    masked, chosen = mask_flat(ids, offsets, counts, keys, MASK, SIZE, begins)

    wide, text = _padded(ids, offsets, a_lengths, width)
    wide_continues = _padded(continues, offsets, a_lengths, width)[0] if whole_words else None
    wide_masked, wide_chosen = mask_tokens(wide, text, counts, keys, MASK, SIZE, wide_continues)
    assert (wide_masked[text] == masked).all()
    assert (wide_chosen[text] == chosen).all()
    assert (wide_masked == wide)[~text].all()
    assert not wide_chosen[~text].any()

    column_major = mask_tokens(
        np.asfortranarray(wide), np.asfortranarray(text), counts, keys, MASK, SIZE, wide_continues
    )
    assert (column_major[0] == wide_masked).all()
    assert (column_major[1] == wide_chosen).all()

    for row in range(0, rows, 100):
        here = slice(offsets[row], offsets[row + 1])
        single = np.array([0, offsets[row + 1] - offsets[row]])
        own_begins = None if begins is None else begins[here]
        alone = mask_flat(ids[here], single, counts[[row]], keys[[row]], MASK, SIZE, own_begins)
        assert (alone[0] == masked[here]).all()
        assert (alone[1] == chosen[here]).all()


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.int32, np.int64])
def test_the_type_of_the_ids_is_kept_and_changes_nothing(kind: type) -> None:
    ids, offsets, _, _ = _ragged(50, 6)
    counts, keys = np.full(50, 1), sample_keys(3, 1, np.arange(50))
    masked, _ = mask_flat(ids.astype(kind), offsets, counts, keys, MASK, SIZE)
    assert masked.dtype == kind
    assert (masked == mask_flat(ids, offsets, counts, keys, MASK, SIZE)[0]).all()


@given(
    lengths=st.lists(st.integers(0, 40), max_size=12),
    share=st.floats(0, 1),
    words=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_count_up_to_all_tokens_is_masked(lengths: list[int], share: float, words: bool, seed: int) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    offsets, counts = offsets_of(sizes), np.ceil(sizes * share).astype(np.int64)
    ids = np.arange(offsets[-1]) % 900 + 5
    begins = np.ones(len(ids), dtype=bool) if words else None
    masked, chosen = mask_flat(ids, offsets, counts, sample_keys(seed, 0, np.arange(len(sizes))), MASK, SIZE, begins)
    assert np.diff(offsets_of(chosen)[offsets]).tolist() == counts.tolist()
    assert (masked == ids)[~chosen].all()


def _in_order(sizes: list[int], count: int, order: list[int]) -> set[int]:
    """The positions that BERT's loop over the words, in this order, masks."""
    taken: set[int] = set()
    done = 0
    for word in order:
        if done >= count:
            break
        if done + sizes[word] > count:
            continue
        done += sizes[word]
        taken.add(word)
    return taken


@pytest.mark.parametrize("continued", [0.2, 0.6, 0.95])
def test_whole_words_are_chosen_as_in_berts_loop(continued: float) -> None:
    """Every choice is one that BERT's loop makes in some order; no word is split, and none spans A and B."""
    rows = 1000
    ids, offsets, a_lengths, continues = _ragged(rows, 8, continued)
    counts = prediction_counts(np.diff(offsets) + 3, 0.15, 20)
    begins = word_begins(continues, offsets, a_lengths)
    keys = sample_keys(1, 1, np.arange(rows))
    _, chosen = mask_flat(ids, offsets, counts, keys, MASK, SIZE, begins)
    torn = 0
    for row in range(rows):
        here = slice(offsets[row], offsets[row + 1])
        starts = np.flatnonzero(begins[here])
        assert {0, a_lengths[row]} <= set(starts)
        sizes = np.diff(starts, append=offsets[row + 1] - offsets[row]).tolist()
        parts = np.split(chosen[here], starts[1:])
        count, total = int(counts[row]), int(chosen[here].sum())
        if min(sizes) > count:
            torn += 1
            (word,) = (part for part in parts if part.any())
            assert word.tolist() == [True] * count + [False] * (len(word) - count)
            continue
        assert all(part.all() or not part.any() for part in parts)
        taken = [number for number, part in enumerate(parts) if part.any()]
        rest = [number for number, part in enumerate(parts) if not part.any()]
        assert 0 < total <= count
        assert _in_order(sizes, count, taken + rest) == set(taken)
    assert torn > 5 or continued < 0.9


def test_words_come_in_an_order_that_favours_no_word() -> None:
    """Ten words of one piece and ten of three, seven pieces to mask: BERT's loop over shuffled orders agrees."""
    rows, count, sizes = 20_000, 7, [1, 3] * 10
    starts = np.cumsum([0, *sizes])
    begins = np.zeros(rows * 40, dtype=bool)
    begins[(np.arange(rows)[:, None] * 40 + starts[:-1]).ravel()] = True
    offsets = np.arange(rows + 1) * 40
    _, chosen = mask_flat(
        np.full(rows * 40, 9), offsets, np.full(rows, count), sample_keys(2, 0, np.arange(rows)), MASK, SIZE, begins
    )
    ours = chosen.reshape(rows, 40)[:, starts[:-1]]
    draw = np.random.default_rng(3)
    theirs = np.zeros_like(ours)
    for row in range(rows):
        theirs[row, list(_in_order(sizes, count, draw.permutation(20).tolist()))] = True
    for first in (0, 1):  # words of one piece, words of three
        one, other = ours[:, first::2], theirs[:, first::2]
        share = other.mean()
        assert np.abs(one.mean(axis=0) - share).max() < 6 * np.sqrt(share * (1 - share) / rows) * np.sqrt(1.1)
    assert abs(ours[:, 1::2].any(axis=1).mean() - theirs[:, 1::2].any(axis=1).mean()) < 6 * np.sqrt(0.5 / rows)


def test_a_row_without_text_or_count_is_left_alone() -> None:
    ids, offsets = np.arange(5, 12), np.array([0, 3, 3, 7])
    masked, chosen = mask_flat(ids, offsets, np.array([0, 2, 4]), sample_keys(1, 1, np.arange(3)), MASK, SIZE)
    assert chosen.tolist() == [False] * 3 + [True] * 4
    assert masked[:3].tolist() == [5, 6, 7]
    nothing = mask_flat(
        ids[:0], np.zeros(1, dtype=np.int64), counts := np.zeros(0, dtype=np.int64), counts.view("u8"), MASK, SIZE
    )
    assert [array.tolist() for array in nothing] == [[], []]


@pytest.mark.parametrize(("whole_words", "pinned"), [(False, "bbc8ef1c7ef5de96"), (True, "db25fc78213ad7fa")])
def test_masks_are_the_same_everywhere(whole_words: bool, pinned: str) -> None:
    """Stored masks and resumed runs depend on them: no version of numpy may change them."""
    offsets = offsets_of(np.arange(200) * 7 % 90 + 2)
    ids = np.arange(offsets[-1]) * 31 % 900 + 5
    counts = prediction_counts(np.diff(offsets) + 3, 0.15, 20)
    begins = np.arange(offsets[-1]) % 7 % 3 > 0 if whole_words else None
    masked, chosen = mask_flat(ids, offsets, counts, sample_keys(42, 3, np.arange(200)), MASK, SIZE, begins)
    digest = hashlib.sha256(masked.astype("<i8").tobytes() + chosen.tobytes())
    assert digest.hexdigest()[:16] == pinned


@given(
    num_tokens=st.lists(st.integers(5, 512), min_size=1, max_size=20),
    ratio=st.floats(0.01, 0.5),
    most=st.integers(1, 80),
)
def test_counts_follow_lddl_and_the_cap(num_tokens: list[int], ratio: float, most: int) -> None:
    counts = prediction_counts(np.array(num_tokens), ratio, most)
    assert counts.tolist() == [min(max(1, round(n * ratio)), most, n - 3) for n in num_tokens]

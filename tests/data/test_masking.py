"""Masks: how many, which and with what, within 5 standard deviations; and where they come from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.masking import mask_tokens, prediction_counts, sample_keys, splitmix64

MASK, SIZE = 4, 1000
ROWS, LENGTH = 2000, 128


def _masked(seed: int = 1, epoch: int = 0, count: int = 19) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.full((ROWS, LENGTH), 500, dtype=np.int64)
    text = np.ones(ids.shape, dtype=bool)
    text[:, [0, 60, LENGTH - 1]] = False
    keys = sample_keys(seed, epoch, np.arange(ROWS))
    masked, chosen = mask_tokens(ids, text, np.full(ROWS, count), keys, MASK, SIZE)
    return masked, chosen, text


def _close(found: float, share: float, draws: int) -> bool:
    return abs(found - share) < 5 * np.sqrt(share * (1 - share) / draws)


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
    # A random token is [MASK] or the token itself once in SIZE times.
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


def test_masks_do_not_depend_on_padding_or_neighbours() -> None:
    draw = np.random.default_rng(0)
    ids = draw.integers(5, SIZE, size=(8, 64))
    text = np.arange(64) < draw.integers(20, 60, size=(8, 1))
    keys, counts = sample_keys(3, 1, np.arange(8)), np.full(8, 5)
    masked, chosen = mask_tokens(ids, text, counts, keys, MASK, SIZE)
    for row in range(8):
        alone = np.zeros((1, 512), dtype=np.int64)
        alone[0, :64] = ids[row]
        wide = np.zeros((1, 512), dtype=bool)
        wide[0, :64] = text[row]
        one, picked = mask_tokens(alone, wide, counts[:1], keys[row : row + 1], MASK, SIZE)
        assert one[0, :64].tolist() == masked[row].tolist()
        assert picked[0, :64].tolist() == chosen[row].tolist()


@given(
    num_tokens=st.lists(st.integers(5, 512), min_size=1, max_size=20),
    ratio=st.floats(0.01, 0.5),
    most=st.integers(1, 80),
)
def test_counts_follow_lddl_and_the_cap(num_tokens: list[int], ratio: float, most: int) -> None:
    found = prediction_counts(np.array(num_tokens), ratio, most)
    assert found.tolist() == [min(max(1, round(n * ratio)), most, n - 3) for n in num_tokens]

"""Masked-language-model masks (BERT, arXiv 1810.04805, 3.1) from a counter-based generator.

Every draw is a hash of (seed, epoch, sample, number of the draw or place in the text of the row): it depends
neither on padding, nor on the batch that a sample is in, nor on ranks, workers or restarts. Padded and flat
rows get the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.ids_shard import SPECIALS
from bertjobs.data.text.vocabulary import Vocabulary

Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

_WORD = 0xFFFFFFFFFFFFFFFF
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_CHOOSE, _ACT = (np.uint64(number << 32) for number in (1, 2))  # streams, above any position
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_MASKED, _REPLACED = np.uint64(0.8 * 2**32), np.uint64(0.9 * 2**32)  # 80% [MASK], 10% random, 10% unchanged
_BLOCK = 1 << 14  # draws held at a time: they stay in the processor's cache


def splitmix64(values: UInt64s) -> UInt64s:
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection that mixes well."""
    mixed = values + _GOLDEN
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def sample_keys(seed: int, epochs: Int64s | int, samples: Int64s) -> UInt64s:
    """One 64-bit key per sample, ``[samples]``, for its draws in its epoch.

    An epoch of -1 stands for masks that stay the same: those of validation and of static masking.
    """
    key = splitmix64(np.array([seed & _WORD], dtype=np.uint64))
    key = splitmix64(key ^ np.asarray(epochs, dtype=np.int64).astype(np.uint64))
    return splitmix64(key ^ samples.astype(np.uint64))


def prediction_counts(
    num_tokens: Int64s, ratio: float, max_predictions: int, specials: Int64s | int = SPECIALS
) -> Int64s:
    """Masked tokens per sequence: ``ratio`` of its tokens, at least 1, at most ``max_predictions``.

    ``num_tokens`` counts [CLS] and [SEP], as LDDL does: ``specials`` of them, which are never masked.
    """
    counts = np.maximum(1, np.rint(num_tokens * ratio).astype(np.int64))
    return np.minimum(np.minimum(counts, max_predictions), num_tokens - specials)


def mask_tokens(
    input_ids: Int64s,
    maskable: Bools,
    counts: Int64s,
    keys: UInt64s,
    mask_id: int,
    vocabulary_size: int,
    continues: Bools | None = None,
) -> tuple[Int64s, Bools]:
    """Mask tokens of padded rows: ``mask_flat`` on what is maskable.

    Args:
        input_ids, maskable: ``[rows, length]``.
        counts, keys: ``[rows]``; counts at most the row's maskable tokens.
        continues: ``[rows, length]``, whole-word masking: tokens that continue the word before them
            ("##..."). A token after one that is not maskable ([CLS], [SEP]) begins a word all the same.

    Returns:
        The masked ids and which tokens were chosen, both ``[rows, length]``.
    """
    places = np.flatnonzero(maskable)
    offsets = offsets_of(np.count_nonzero(maskable, axis=1))
    begins = None
    if continues is not None:
        joined = np.zeros_like(maskable)
        joined[:, 1:] = continues[:, 1:] & maskable[:, :-1]
        begins = ~joined.ravel()[places]
    masked, chosen = input_ids.copy(), np.zeros(maskable.shape, dtype=bool)
    flat, flags = masked.reshape(-1), chosen.reshape(-1)
    for tokens, owners in _choices(offsets, counts, keys, begins):
        where = places[tokens]
        flat[where] = _replace(flat[where], tokens - offsets[owners], keys[owners], mask_id, vocabulary_size)
        flags[where] = True
    return masked, chosen


def mask_flat(
    ids: NDArray[Any],
    offsets: Int64s,
    counts: Int64s,
    keys: UInt64s,
    mask_id: int,
    vocabulary_size: int,
    begins: Bools | None = None,
) -> tuple[NDArray[Any], Bools]:
    """Mask ``counts`` of the tokens of each row, all equally likely, or whole words of them.

    Of the chosen, 80% become [MASK], 10% a token uniform over the whole vocabulary, 10% stay.

    Args:
        ids: ``[tokens]``, the text of all rows, without special tokens.
        offsets: ``[rows + 1]``, where each row starts in ``ids``, and where the last one stops.
        counts, keys: ``[rows]``; counts at most the row's tokens.
        begins: ``[tokens]``, whole-word masking: which tokens begin a word, see ``word_begins``. The
            words of a row come in random order, and one that would exceed the row's count is skipped
            (BERT's whole-word masking, google-research/bert, 2019-05-31), so that a row may get fewer
            than its count. BERT masks nothing where no word fits; here as many
            pieces of one word are masked as the row's count allows.

    Returns:
        The masked ids and which tokens were chosen, both ``[tokens]``.
    """
    masked, chosen = ids.copy(), np.zeros(len(ids), dtype=bool)
    for tokens, owners in _choices(offsets, counts, keys, begins):
        masked[tokens] = _replace(ids[tokens], tokens - offsets[owners], keys[owners], mask_id, vocabulary_size)
        chosen[tokens] = True
    return masked, chosen


def mask_text(
    ids: NDArray[Any],
    offsets: Int64s,
    a_lengths: Int64s,
    counts: Int64s,
    keys: UInt64s,
    vocabulary: Vocabulary,
    *,
    whole_word: bool,
) -> tuple[NDArray[Any], Bools]:
    """`mask_flat` on rows of A and then B, ``a_lengths`` ``[rows]``. Where rows have no B, the [SEP] between their
    documents are never masked, and begin a word."""
    mask_id, size = vocabulary.mask_id, vocabulary.size
    begins = word_begins(vocabulary.continues[ids], offsets, a_lengths) if whole_word else None
    separators = ids == vocabulary.sep_id if len(a_lengths) and a_lengths[0] == offsets[1] - offsets[0] else None
    if separators is None or not separators.any():
        return mask_flat(ids, offsets, counts, keys, mask_id, size, begins)
    if begins is not None:
        begins[1:] |= separators[:-1]
    places = np.flatnonzero(~separators)
    before = offsets_of(~separators)
    text, text_begins = ids[places], None if begins is None else begins[places]
    text, text_chosen = mask_flat(text, before[offsets], counts, keys, mask_id, size, text_begins)
    masked, chosen = ids.copy(), np.zeros(len(ids), dtype=bool)
    masked[places], chosen[places] = text, text_chosen
    return masked, chosen


def word_begins(continues: Bools, offsets: Int64s, a_lengths: Int64s) -> Bools:
    """Which tokens begin a word, ``[tokens]``: no word crosses from row to row, or from A to B.

    Args:
        continues: ``[tokens]``, tokens that continue the word before them ("##...").
        offsets, a_lengths: ``[rows + 1]``, ``[rows]``: rows of A, which has a token at least, and then B.
    """
    begins = ~continues
    begins[offsets[:-1]] = True
    middles = offsets[:-1] + a_lengths
    begins[middles[middles < len(begins)]] = True  # without B: the next row's first
    return begins


def _replace(ids: NDArray[Any], positions: Int64s, keys: UInt64s, mask_id: int, vocabulary_size: int) -> NDArray[Any]:
    """What the chosen tokens become; all ``[chosen]``."""
    draws = splitmix64(keys ^ (positions.astype(np.uint64) | _ACT))
    share = draws >> _HALF
    random = ((draws & _LOW) * np.uint64(vocabulary_size)) >> _HALF
    return np.where(share < _MASKED, mask_id, np.where(share < _REPLACED, random.astype(ids.dtype), ids))


def _choices(offsets: Int64s, counts: Int64s, keys: UInt64s, begins: Bools | None) -> Iterator[tuple[Int64s, Int64s]]:
    """The chosen tokens, in no particular order, and the row of each, both ``[chosen]``, by blocks of rows."""
    starts, lengths = offsets[:-1], np.diff(offsets)
    counts = np.minimum(counts, lengths)
    if begins is not None:  # words are drawn as tokens are
        first = begins.copy()
        first[starts[lengths > 0]] = True
        words = np.append(np.flatnonzero(first), offsets[-1])
        starts = np.searchsorted(words, offsets)
        starts, lengths = starts[:-1], np.diff(starts)
    rows = np.flatnonzero(counts > 0)
    if not len(rows):
        return
    if len(rows) < len(counts):  # a row without masks draws nothing
        starts, lengths, counts, keys = starts[rows], lengths[rows], counts[rows], keys[rows]
    draws = _draws_needed(lengths, counts)
    step = max(1, _BLOCK // draws)
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        drawn = starts[block], lengths[block], counts[block], keys[block]
        tokens, owners = _choose_tokens(*drawn, draws) if begins is None else _choose_words(*drawn, draws, words)
        yield tokens, rows[start + owners]


def _draws_needed(lengths: Int64s, counts: Int64s) -> int:
    """Draws with replacement that nearly always hold ``counts`` different ones of ``lengths``, in all rows.

    The mean of the coupon collector's time and four of its standard deviations, for the largest count and
    the largest share.
    """
    count, share = int(counts.max()), min(float((counts / (lengths + 0.5)).max()), 0.9)
    mean = -count * math.log1p(-share) / share
    return math.ceil(mean + 4 * math.sqrt(count / (1 - share) - mean)) + 2


def _draw(starts: Int64s, lengths: Int64s, keys: UInt64s, draws: int) -> tuple[Int64s, Bools]:
    """A sequence of draws with replacement from each row, and which of them are new to their row.

    The first new ones are a random choice of any number: a few more draws than there are masks, instead of
    one per token. How many ``draws`` are made at once changes nothing but the speed.

    Args:
        starts, lengths: ``[rows]``: row r holds the numbers from ``starts[r]``; rows do not overlap and
            ascend.

    Returns:
        The numbers and whether they are new, both ``[rows, draws]`` (or one more).
    """
    counters = np.arange((draws + 1) // 2, dtype=np.uint64) | _CHOOSE
    hashes = splitmix64(keys[:, None] ^ counters)
    scaled = hashes.astype("<u8", copy=False).view("<u4").astype(np.uint64)  # two draws per hash
    scaled *= lengths.astype(np.uint64)[:, None]
    scaled >>= _HALF
    numbers = scaled.view(np.int64)
    numbers += (starts - starts[0])[:, None]
    # Written from the last draw to the first, so that of equal draws the first remains.
    order = np.arange(numbers.size)
    seen = np.empty(starts[-1] + lengths[-1] - starts[0], dtype=np.int64)
    seen[numbers.ravel()[::-1]] = order[::-1]
    new = seen[numbers] == order.reshape(numbers.shape)
    numbers += starts[0]
    return numbers, new


def _choose_tokens(starts: Int64s, lengths: Int64s, counts: Int64s, keys: UInt64s, draws: int) -> tuple[Int64s, Int64s]:
    """``counts`` tokens of each row, and their rows."""
    tokens, new = _draw(starts, lengths, keys, draws)
    different = np.cumsum(new, axis=1)
    new &= different <= counts[:, None]
    again = np.flatnonzero(different[:, -1] < counts)
    new[again] = False
    picked = np.flatnonzero(new)
    parts = [(tokens.ravel()[picked], picked // tokens.shape[1])]
    if len(again):
        more, owners = _choose_tokens(starts[again], lengths[again], counts[again], keys[again], 2 * draws)
        parts.append((more, again[owners]))
    return _joined(parts)


def _choose_words(
    starts: Int64s, lengths: Int64s, counts: Int64s, keys: UInt64s, draws: int, words: Int64s
) -> tuple[Int64s, Int64s]:
    """The tokens of each row's words in random order, while they fit its count, and their rows.

    Args:
        starts, lengths: ``[rows]``, into ``words``.
        words: where each word starts in the tokens, and at the end where the last one stops.
    """
    numbers, new = _draw(starts, lengths, keys, draws)
    owners, columns = np.nonzero(new)
    numbers = numbers[owners, columns]
    sizes = words[numbers + 1] - words[numbers]
    fits, left = _fitting(sizes, owners, counts)
    ended = (left == 0) | (np.bincount(owners, minlength=len(starts)) == lengths)
    # No word fits: pieces of the first.
    none = (left == counts) & ended
    first = np.searchsorted(owners, np.flatnonzero(none))
    fits[first] = True
    sizes[first] = counts[none]

    fits &= ended[owners]
    begins, sizes = words[numbers[fits]], sizes[fits]
    tokens = np.repeat(begins - offsets_of(sizes)[:-1], sizes) + np.arange(sizes.sum())
    parts = [(tokens, np.repeat(owners[fits], sizes))]
    again = np.flatnonzero(~ended)
    if len(again):
        more, owners = _choose_words(starts[again], lengths[again], counts[again], keys[again], 2 * draws, words)
        parts.append((more, again[owners]))
    return _joined(parts)


def _fitting(sizes: Int64s, owners: Int64s, counts: Int64s) -> tuple[Bools, Int64s]:
    """Which words are taken when each row takes those that fit, in order, and what is left of the counts.

    Args:
        sizes, owners: ``[words]``, row after row.
        counts: ``[rows]``, pieces to take.
    """
    taken, left, rows = np.zeros(len(sizes), dtype=bool), counts.copy(), np.arange(len(counts))
    open_words = np.arange(len(sizes))
    while len(open_words):  # each round takes, in each row, the words before the first that does not fit
        size, owner = sizes[open_words], owners[open_words]
        total = np.cumsum(size)
        before = np.append(total - size, 0)[np.searchsorted(owner, rows)]
        fits = total <= (left + before)[owner]
        taken[open_words[fits]] = True
        left -= np.bincount(owner[fits], size[fits], len(counts)).astype(np.int64)
        open_words = open_words[~fits & (size <= left[owner])]
    return taken, left


def _joined(parts: list[tuple[Int64s, Int64s]]) -> tuple[Int64s, Int64s]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([tokens for tokens, _ in parts]), np.concatenate([rows for _, rows in parts])

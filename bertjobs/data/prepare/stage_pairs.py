"""Stage 2: the pairs of a bucket's documents, or their sequences of contiguous text, for all phases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import splitmix64
from bertjobs.data.corpus import Source
from bertjobs.data.prepare.bucket_index import BucketIndex
from bertjobs.data.prepare.contiguous import sample_spans
from bertjobs.data.prepare.one_sentence import halved_documents, halved_pairs
from bertjobs.data.prepare.pair_counts import NewTokens, PairCounts, count_pairs, count_tokens
from bertjobs.data.prepare.pairs import SPECIALS, Pairs, TokenizedCorpus, joined, sample_pairs
from bertjobs.data.prepare.sentence_cuts import cut_overlong
from bertjobs.data.prepare.settings import PhaseShape, PrepareOptions
from bertjobs.data.prepare.source_tally import phase_counts
from bertjobs.data.prepare.stage_duplicates import DroppedDocuments
from bertjobs.data.prepare.stage_tokenise import copies
from bertjobs.data.prepare.work_folder import Bucket, WorkFolder
from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.bins import bin_ids
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.files.arrays import map_arrays, write_arrays

Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]

PAIR_ARRAYS = ("a_starts", "a_lengths", "b_starts", "b_lengths", "is_random_next")
SPAN_ARRAYS = ("offsets", "starts", "lengths")


def pair_bucket(work: WorkFolder, number: int, vocabulary: Vocabulary) -> None:
    """Run one task: gather a bucket's documents, write its ids and pairs (or sequences), and its marker."""
    bucket = work.buckets[number]
    corpus, times, sources = _gather(work, number)
    arrays: dict[str, NDArray[Any]] = {"ids": corpus.ids}
    rows, counts, used = {}, {}, {}
    for shape in work.options.phases:
        phase = str(shape.phase)
        if work.options.next_sentence:
            drawn = _phase_pairs(work, bucket, shape, corpus, times, vocabulary.continues)
        else:
            drawn = _phase_spans(work, bucket, shape, corpus, times)
        rows[phase], counts[phase] = drawn.rows, drawn.counts.to_json()
        arrays |= {f"{phase}.{name}": values.astype(np.uint32) for name, values in drawn.arrays.items()}
        by_source = phase_counts(sources, corpus.document_tokens, drawn.new, drawn.firsts, drawn.random_next)
        used[shape.phase] = {source: asdict(one) for source, one in by_source.items()}
    write_arrays(work.file("pairs", number, ".safetensors"), arrays, {})
    marker = {"documents": len(times), "rows": rows, "counts": counts, "sources": used}
    work.mark_done("pairs", number, marker)


def counted_pairs(work: WorkFolder, results: list[Any], phase: int, split: str) -> PairCounts:
    """The counts of a phase's split, from the results of all tasks of the stage "pairs"."""
    of_split = (result for result, bucket in zip(results, work.buckets, strict=True) if bucket.split == split)
    return PairCounts.sum(result["counts"][str(phase)] for result in of_split)


def seed_of(*parts: object) -> int:
    """A 64-bit seed that depends on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


@dataclass(frozen=True)
class _Drawn:
    """A phase's sequences, ordered by bin and shuffled within each.

    Attributes:
        arrays: those of ``PAIR_ARRAYS`` or of ``SPAN_ARRAYS``.
        rows: of each bin.
        new: the tokens that the sequences use.
        firsts, random_next: where each sequence begins, and whether its B is random: ``[sequences]``.
    """

    arrays: dict[str, NDArray[Any]]
    rows: list[int]
    counts: PairCounts
    new: NewTokens
    firsts: Int64s
    random_next: Bools


def _phase_pairs(
    work: WorkFolder, bucket: Bucket, shape: PhaseShape, corpus: TokenizedCorpus, times: Int64s, continues: Bools
) -> _Drawn:
    options, seed = work.options, _seed(work.options, shape, bucket)
    corpus = cut_overlong(corpus, shape.sequence_length - SPECIALS, continues)
    pairs = _draw(corpus, shape.sequence_length, options.short_sequence_share, times, seed, continues)
    order, rows = _by_bin(pairs.num_tokens, options, shape, seed)
    new = NewTokens.of_pairs(pairs)
    return _Drawn(
        arrays={name: getattr(pairs, name)[order] for name in PAIR_ARRAYS},
        rows=rows,
        counts=count_pairs(corpus, pairs, times, new),
        new=new,
        firsts=pairs.a_starts,
        random_next=pairs.is_random_next,
    )


def _phase_spans(work: WorkFolder, bucket: Bucket, shape: PhaseShape, corpus: TokenizedCorpus, times: Int64s) -> _Drawn:
    """Sequences of contiguous text."""
    options, seed = work.options, _seed(work.options, shape, bucket)
    spans = sample_spans(
        corpus,
        shape.sequence_length,
        options.short_sequence_share,
        times,
        seed,
        across_documents=options.across_documents,
    )
    order, rows = _by_bin(spans.num_tokens, options, shape, seed)
    new, spans = spans.new_tokens(corpus), spans.take(order)
    firsts = spans.starts[spans.offsets[:-1]]  # a sequence begins with text: a separator at its edge is left out
    return _Drawn(
        arrays={name: getattr(spans, name) for name in SPAN_ARRAYS},
        rows=rows,
        counts=count_tokens(corpus, times, new),
        new=new,
        firsts=firsts,
        random_next=np.zeros(len(firsts), dtype=np.bool_),
    )


def _seed(options: PrepareOptions, shape: PhaseShape, bucket: Bucket) -> str:
    return f"{options.seed}/phase{shape.phase}/{bucket.split}/{bucket.number}"


def _by_bin(num_tokens: Int64s, options: PrepareOptions, shape: PhaseShape, seed: str) -> tuple[Int64s, list[int]]:
    """The order of sequences by bin, shuffled within each, and the rows of each bin."""
    bins = shape.sequence_length // options.bin_size
    bin_of = bin_ids(num_tokens, options.bin_size, shape.sequence_length)
    shuffle = splitmix64(np.uint64(seed_of(seed, "shuffle")) + np.arange(len(num_tokens), dtype=np.uint64))
    return np.lexsort((shuffle, bin_of)), np.bincount(bin_of, minlength=bins).tolist()


def _draw(
    corpus: TokenizedCorpus, length: int, short_sequence_share: float, times: Int64s, seed: str, continues: Bools
) -> Pairs:
    """The pairs of all documents, by BERT's algorithm or, from those of one sentence, by its halves."""
    halved = halved_documents(corpus)
    pairs = sample_pairs(corpus, length, short_sequence_share, np.where(halved, 0, times), seed)
    halves = halved_pairs(corpus, length, np.where(halved, times, 0), seed, continues)
    return joined([pairs, halves])


@dataclass(frozen=True)
class _Documents:
    """Some documents of a chunk: ids, sentence lengths, sentences per document, how often each is drawn, and the
    source of each, -1 for one that is lent to another bucket."""

    ids: list[NDArray[Any]]
    sentences: list[Int64s]
    documents: Int64s
    times: Int64s
    sources: Int64s


def _gather(work: WorkFolder, number: int) -> tuple[TokenizedCorpus, Int64s, Int64s]:
    """The documents of a bucket, in the order of the pieces, how often each is drawn, and its source: ``[documents]``.

    A document that is alone in its bucket also gets those of the next bucket, drawn 0 times and of the source -1, so
    that its random segments come from others.
    """
    gathered = list(_documents(work, number))
    split = work.buckets[number].split
    others = [other for other, bucket in enumerate(work.buckets) if bucket.split == split and other != number]
    while others and sum(len(part.times) for part in gathered) == 1:
        lent = _documents(work, others.pop(0))
        gathered += [
            replace(part, times=np.zeros_like(part.times), sources=np.full_like(part.sources, -1)) for part in lent
        ]
    if not gathered:
        empty = np.zeros(0, dtype=np.int64)
        return TokenizedCorpus(empty.astype(np.uint16), offsets_of(empty), offsets_of(empty)), empty, empty
    corpus = TokenizedCorpus(
        np.concatenate([ids for part in gathered for ids in part.ids]),
        offsets_of(np.concatenate([lengths for part in gathered for lengths in part.sentences])),
        offsets_of(np.concatenate([part.documents for part in gathered])),
    )
    times, sources = (np.concatenate([getattr(part, name) for part in gathered]) for name in ("times", "sources"))
    return corpus, times, sources


def _documents(work: WorkFolder, number: int) -> Iterator[_Documents]:
    """A bucket's documents, chunk by chunk."""
    train = work.buckets[number].split == "train"
    for arrays, source, places in _chunks(work, number):
        weight = work.options.duplicates * Source.parse(work.options.corpora[source]).weight if train else 1.0
        first, last = arrays["document_offsets"][places], arrays["document_offsets"][places + 1]
        runs = [arrays["sentence_offsets"][begin : end + 1] for begin, end in _runs(first, last)]
        yield _Documents(
            ids=[arrays["ids"][offsets[0] : offsets[-1]] for offsets in runs],
            sentences=[np.diff(offsets) for offsets in runs],
            documents=last - first,
            times=copies(arrays["keys"][places], np.full(len(places), weight)),
            sources=np.full(len(places), source),
        )


def _chunks(work: WorkFolder, number: int) -> Iterator[tuple[dict[str, NDArray[Any]], int, Int64s]]:
    """Each chunk that holds documents of a bucket: its arrays, its source, and where these documents are in it."""
    bucket, index, dropped = work.buckets[number], BucketIndex.of(work), DroppedDocuments.of(work)
    moved = index.moved
    for piece, chunk, first, last in index.chunks(number, bucket):
        places = dropped.without(piece, chunk, np.arange(first, last))
        if moved and (moved.piece, moved.chunk) == (piece, chunk):
            places = places[places != moved.place]
            if bucket == Bucket(moved.to, 0):
                places = np.append(places, moved.place)
        if len(places):
            arrays, metadata = map_arrays(work.file("tokenise", piece, f".{chunk:05}.safetensors"))
            yield arrays, int(metadata["source"]), places


def _runs(first: Int64s, last: Int64s) -> Iterator[tuple[int, int]]:
    """Slices that follow each other, as few as possible: documents of a bucket lie side by side in a chunk."""
    breaks = np.flatnonzero(first[1:] != last[:-1]) + 1
    for run in np.split(np.arange(len(first)), breaks):
        yield int(first[run[0]]), int(last[run[-1]])

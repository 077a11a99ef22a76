"""Stage 1: a piece of the corpus to token ids, its documents assigned to buckets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import splitmix64
from bertjobs.data.corpus import Document, Source, read
from bertjobs.data.corpus.changes import Digest, unchanged
from bertjobs.data.prepare.document_keys import keyed
from bertjobs.data.prepare.resumption import DIGEST
from bertjobs.data.prepare.work_folder import WorkFolder
from bertjobs.data.ragged import gather, offsets_of
from bertjobs.data.shards.ids_shard import ids_type
from bertjobs.data.text.splitters import Splitter, splitter
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.wordpiece import WordPieceEncoder
from bertjobs.files.arrays import write_arrays

UInt64s = NDArray[np.uint64]

_BATCH_CHARACTERS = 1_000_000  # tokenised at a time
CHUNK_TOKENS = 1_000_000  # in a file at most; its last batch may go beyond
_NAMES_KEPT = 1000  # of held-out documents, for the manifest
_HELD_OUT, _SAMPLE, _BUCKET, _COPIES = (np.uint64(number << 60) for number in (1, 2, 3, 4))


def share(keys: UInt64s, of: np.uint64) -> NDArray[np.float64]:
    """A number in [0, 1) per document, ``[documents]``: its draw for the purpose ``of``."""
    return (splitmix64(keys ^ of) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def held_out_draws(keys: UInt64s) -> NDArray[np.float64]:
    """Documents whose draw is below the held-out share are kept for validation."""
    return share(keys, _HELD_OUT)


def copies(keys: UInt64s, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """How often each document is drawn: ``times`` on average, a fraction rounded by the document's draw."""
    return np.floor(times + share(keys, _COPIES)).astype(np.int64)


def assign_buckets(
    keys: UInt64s, parts: UInt64s, held_out: float, train_buckets: int, validation_buckets: int
) -> NDArray[np.int64]:
    """The bucket of each document: 0 to ``train_buckets`` - 1, and after these the ones of validation.

    The parts of a long document are in the same split, each in a bucket of its own: a bucket stays small.
    """
    draws = splitmix64(keys ^ _BUCKET ^ parts)
    train = draws % np.uint64(train_buckets)
    validation = draws % np.uint64(validation_buckets) + np.uint64(train_buckets)
    return np.where(held_out_draws(keys) < held_out, validation, train).astype(np.int64)


def tokenise_piece(work: WorkFolder, number: int, vocabulary: Vocabulary, encoder: WordPieceEncoder) -> None:
    """Run one task: read a piece, write its chunks ``NUMBER.CHUNK.safetensors`` and its marker."""
    piece = work.pieces[number]
    options = work.options
    source = Source.parse(options.corpora[piece.source])
    split = splitter(options.splitters()[piece.source], options.language_name)
    chunk = _Chunk(piece.source)
    tally, digest = _Tally(), Digest()
    with unchanged(piece, work.after_a_change):
        documents = digest.of(read(piece, source.kind, tally.add_empty, tally.odd))
        for batch in _batches(keyed(documents, piece, options.seed), options.sample_ratio, tally):
            chunk.add(batch, encoder, split)
            if chunk.tokens >= CHUNK_TOKENS:
                _write(work, number, chunk, vocabulary, tally)
                chunk = _Chunk(piece.source)
    if chunk.tokens:
        _write(work, number, chunk, vocabulary, tally)
    work.mark_done("tokenise", number, vars(tally) | {DIGEST: str(digest)})


@dataclass
class _Tally:
    """What a task counts. ``lowest_train`` and ``highest_held_out`` are [draw, chunk, document, id]; ``odd`` is as in
    ``soundness.sound``."""

    chunks: int = 0
    documents: int = 0
    held_out: int = 0
    left_out: int = 0
    empty: int = 0
    tokens: int = 0
    unknown: int = 0
    replaced: int = 0
    nul: int = 0
    skipped_pages: int = 0
    bytes: int = 0
    names: list[str] = field(default_factory=list)
    odd: dict[str, int] = field(default_factory=dict)
    lowest_train: list[Any] | None = None
    highest_held_out: list[Any] | None = None

    def add_empty(self, document: Document) -> None:
        """Count a document without text, or a page of a wiki that is not wikitext."""
        if document.model:
            self.skipped_pages += 1
        else:
            self.empty += 1
        self.bytes += document.size


class _Chunk:
    """Documents as ids, until there are enough for a file."""

    def __init__(self, source: int) -> None:
        self.source, self.tokens = source, 0
        self.ids: list[NDArray[np.int32]] = []
        self.sentence_lengths: list[NDArray[np.int64]] = []
        self.sentence_counts: list[NDArray[np.int64]] = []
        self.names: list[str] = []
        self.keys: list[tuple[int, int]] = []

    def add(self, batch: list[tuple[tuple[int, int], Document]], encoder: WordPieceEncoder, split: Splitter) -> None:
        documents = [split(document.text) for _, document in batch]
        ids, lengths = encoder.encode([sentence for sentences in documents for sentence in sentences])
        owner = np.repeat(np.arange(len(batch)), [len(sentences) for sentences in documents])
        counts = np.bincount(owner[lengths > 0], minlength=len(batch))
        kept = [place for place in range(len(batch)) if counts[place]]
        self.ids.append(ids)
        self.sentence_lengths.append(lengths[lengths > 0])
        self.sentence_counts.append(counts[counts > 0])
        self.names += [batch[place][1].id for place in kept]
        self.keys += [batch[place][0] for place in kept]
        self.tokens += len(ids)


def _batches(
    documents: Iterator[tuple[tuple[int, int], Document]], sample_ratio: float, tally: _Tally
) -> Iterator[list[tuple[tuple[int, int], Document]]]:
    """The documents that are sampled, about a megabyte at a time."""
    batch: list[tuple[tuple[int, int], Document]] = []
    size = 0
    for key, document in documents:
        tally.bytes += document.size
        tally.replaced += document.replaced
        tally.nul += document.nul
        if sample_ratio < 1 and share(np.array(key[:1], dtype=np.uint64), _SAMPLE)[0] >= sample_ratio:
            tally.left_out += 1
            continue
        batch.append((key, document))
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(work: WorkFolder, number: int, chunk: _Chunk, vocabulary: Vocabulary, tally: _Tally) -> None:
    """Write a chunk with its documents ordered by bucket."""
    plan = work.plan
    keys, parts = np.array(chunk.keys, dtype=np.uint64).T
    buckets = assign_buckets(keys, parts, work.options.held_out, plan.train_buckets, plan.validation_buckets)
    order = np.argsort(buckets, kind="stable")
    counts = np.concatenate(chunk.sentence_counts)
    lengths = np.concatenate(chunk.sentence_lengths)
    flat = np.concatenate(chunk.ids)
    sentence_starts = offsets_of(counts)[:-1][order]
    counts = counts[order]
    token_starts = gather(offsets_of(lengths)[:-1], sentence_starts, counts)
    lengths = gather(lengths, sentence_starts, counts)
    write_arrays(
        work.file("tokenise", number, f".{tally.chunks:05}.safetensors"),
        {
            "ids": gather(flat, token_starts, lengths).astype(ids_type(vocabulary.size)),
            "sentence_offsets": offsets_of(lengths),
            "document_offsets": offsets_of(counts),
            "keys": keys[order],
            "bucket_offsets": offsets_of(np.bincount(buckets, minlength=len(work.buckets))),
        },
        {"source": str(chunk.source)},
    )
    names = [chunk.names[place] for place in order.tolist()]
    _count(tally, names, held_out_draws(keys[order]), work.options.held_out)
    tally.tokens += chunk.tokens
    tally.unknown += int(np.count_nonzero(flat == vocabulary.unk_id))
    tally.chunks += 1


def _count(tally: _Tally, names: list[str], draws: NDArray[np.float64], share_held_out: float) -> None:
    held_out = draws < share_held_out
    tally.documents += len(names)
    tally.held_out += int(held_out.sum())
    room = _NAMES_KEPT - len(tally.names)
    tally.names += [names[place] for place in np.flatnonzero(held_out)[:room].tolist()]
    if not held_out.all():
        place = int(np.where(held_out, np.inf, draws).argmin())
        candidate = [float(draws[place]), tally.chunks, place, names[place]]
        tally.lowest_train = min(filter(None, (tally.lowest_train, candidate)))
    if held_out.any():
        place = int(np.where(held_out, draws, -np.inf).argmax())
        candidate = [float(draws[place]), tally.chunks, place, names[place]]
        tally.highest_held_out = max(filter(None, (tally.highest_held_out, candidate)))

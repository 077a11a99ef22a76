"""Stage 1: a piece of the corpus to token ids, its documents assigned to buckets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import splitmix64
from bertjobs.data.check.document_table import DocumentTableWriter
from bertjobs.data.corpus import Document, Piece, Source, read
from bertjobs.data.corpus.changes import Digest, unchanged
from bertjobs.data.prepare.document_keys import Keyed, keyed
from bertjobs.data.prepare.held_out import split_counts
from bertjobs.data.prepare.resumption import DIGEST
from bertjobs.data.prepare.source_tally import count_lengths, excerpts_of_piece
from bertjobs.data.prepare.work_folder import WorkFolder
from bertjobs.data.ragged import gather, in_batches, offsets_of
from bertjobs.data.shards.ids_shard import ids_type
from bertjobs.data.shards.source_counts import merge
from bertjobs.data.text.splitters import Splitter, splitter
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.wordpiece import WordPieceEncoder
from bertjobs.files.arrays import write_arrays

UInt64s = NDArray[np.uint64]

_BATCH_CHARACTERS = 1_000_000  # tokenised at a time
CHUNK_TOKENS = 1_000_000  # in a file at most; its last batch may go beyond
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

    The parts of a long document that share its key are in one split, each in a bucket of its own: a bucket stays small.
    """
    draws = splitmix64(keys ^ _BUCKET ^ parts)
    train = draws % np.uint64(train_buckets)
    validation = draws % np.uint64(validation_buckets) + np.uint64(train_buckets)
    return np.where(held_out_draws(keys) < held_out, validation, train).astype(np.int64)


def tokenise_piece(work: WorkFolder, number: int, vocabulary: Vocabulary, encoder: WordPieceEncoder) -> None:
    """Run one task: read a piece, write its chunks ``NUMBER.CHUNK.safetensors``, its table of documents
    ``NUMBER.documents`` and its marker."""
    piece = work.pieces[number]
    options = work.options
    source = Source.parse(options.corpora[piece.source])
    split = splitter(options.splitters()[piece.source], options.language_name)
    words = options.shingle_words if options.drop_duplicates == "near" else 0
    table = DocumentTableWriter(words, excerpts_of_piece(work, number))
    chunk = _Chunk(piece.source, table)
    tally, digest = _Tally(), Digest()
    before = replace(encoder.characters)
    with unchanged(piece, work.after_a_change):
        documents = digest.of(read(piece, source.kind, tally.add_empty, tally.odd))
        keys = keyed(documents, piece, options.seed, parts_apart=_may_be_too_large(work, piece))
        sampled = _sampled(keys, options.sample_ratio, tally)
        for batch in in_batches(sampled, lambda one: len(one[1].text), _BATCH_CHARACTERS):
            chunk.add(batch, encoder, split)
            if chunk.tokens >= CHUNK_TOKENS:
                _write(work, number, chunk, vocabulary, tally)
                chunk = _Chunk(piece.source, table)
    if chunk.tokens:
        _write(work, number, chunk, vocabulary, tally)
    tally.characters = encoder.characters.seen - before.seen
    tally.unknown_characters = encoder.characters.unknown - before.unknown
    whole = table.finish()
    whole.write(work.documents_file(number))
    counts = split_counts(whole, np.arange(len(whole)), held_out_draws(whole.keys), options.held_out)
    work.mark_done("tokenise", number, vars(tally) | counts | {DIGEST: str(digest)})


def _may_be_too_large(work: WorkFolder, piece: Piece) -> bool:
    """Whether one document of a piece may be more text than is to be held out."""
    return piece.text_bytes > work.options.held_out * work.plan.corpus_bytes


@dataclass
class _Tally:
    """What a task counts, besides what ``split_counts`` does; ``odd`` is as in ``soundness.sound``."""

    chunks: int = 0
    left_out: int = 0
    empty: int = 0
    sentences: int = 0
    tokens: int = 0
    unknown: int = 0
    characters: int = 0
    unknown_characters: int = 0
    document_tokens: dict[int, int] = field(default_factory=dict)
    sentence_tokens: dict[int, int] = field(default_factory=dict)
    replaced: int = 0
    nul: int = 0
    halves: int = 0
    skipped_pages: int = 0
    short_paragraphs: int = 0
    without_id: int = 0
    files_without_id: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    odd: dict[str, int] = field(default_factory=dict)

    def add_empty(self, document: Document) -> None:
        """Count a document without text, a page of a wiki that is not wikitext, or a line without an id."""
        if document.without_id:
            self.without_id += 1
            file = document.id.rpartition(":")[0]
            self.files_without_id[file] = self.files_without_id.get(file, 0) + 1
        elif document.model:
            self.skipped_pages += 1
        else:
            self.empty += 1
        self.add_read(document)

    def add_read(self, document: Document) -> None:
        """Count what was read for a document, and what of it is no text."""
        self.bytes += document.size
        self.replaced += document.replaced
        self.nul += document.nul
        self.halves += document.halves
        self.short_paragraphs += document.short_paragraphs


class _Chunk:
    """Documents as ids, until there are enough for a file."""

    def __init__(self, source: int, table: DocumentTableWriter) -> None:
        self.source, self.table, self.tokens = source, table, 0
        self.ids: list[NDArray[np.int32]] = []
        self.sentence_lengths: list[NDArray[np.int64]] = []
        self.sentence_counts: list[NDArray[np.int64]] = []
        self.keys: list[tuple[int, int]] = []

    def add(self, batch: list[Keyed], encoder: WordPieceEncoder, split: Splitter) -> None:
        documents = split([document.text for _, document in batch])
        ids, lengths = encoder.encode([sentence for sentences in documents for sentence in sentences])
        owner = np.repeat(np.arange(len(batch)), [len(sentences) for sentences in documents])
        counts = np.bincount(owner[lengths > 0], minlength=len(batch))
        kept = [place for place in range(len(batch)) if counts[place]]
        self.ids.append(ids)
        self.sentence_lengths.append(lengths[lengths > 0])
        self.sentence_counts.append(counts[counts > 0])
        self.keys += [batch[place][0] for place in kept]
        self.table.add([batch[place][1].id for place in kept], [batch[place][1].text for place in kept])
        self.tokens += len(ids)


def _sampled(documents: Iterator[Keyed], sample_ratio: float, tally: _Tally) -> Iterator[Keyed]:
    """The documents that are sampled; all are counted."""
    for key, document in documents:
        tally.add_read(document)
        if sample_ratio < 1 and share(np.array(key[:1], dtype=np.uint64), _SAMPLE)[0] >= sample_ratio:
            tally.left_out += 1
            continue
        yield key, document


def _write(work: WorkFolder, number: int, chunk: _Chunk, vocabulary: Vocabulary, tally: _Tally) -> None:
    """Write a chunk with its documents ordered by bucket."""
    plan = work.plan
    keys, parts = np.array(chunk.keys, dtype=np.uint64).T
    buckets = assign_buckets(keys, parts, work.options.held_out, plan.train_buckets, plan.validation_buckets)
    order = np.argsort(buckets, kind="stable")
    counts = np.concatenate(chunk.sentence_counts)
    lengths = np.concatenate(chunk.sentence_lengths)
    flat = np.concatenate(chunk.ids)
    document_starts = offsets_of(lengths)[offsets_of(counts)]
    document_tokens = np.diff(document_starts)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    chunk.table.place(keys=keys, chunks=np.full(len(order), tally.chunks), places=places)
    tally.sentences += len(lengths)
    tally.unknown += int(np.count_nonzero(flat == vocabulary.unk_id))
    tally.document_tokens = merge(tally.document_tokens, count_lengths(document_tokens))
    tally.sentence_tokens = merge(tally.sentence_tokens, count_lengths(lengths))
    sentence_starts = offsets_of(counts)[:-1][order]
    counts = counts[order]
    lengths = gather(lengths, sentence_starts, counts)
    write_arrays(
        work.file("tokenise", number, f".{tally.chunks:05}.safetensors"),
        {
            "ids": gather(flat, document_starts[:-1][order], document_tokens[order]).astype(ids_type(vocabulary.size)),
            "sentence_offsets": offsets_of(lengths),
            "document_offsets": offsets_of(counts),
            "keys": keys[order],
            "bucket_offsets": offsets_of(np.bincount(buckets, minlength=len(work.buckets))),
        },
        {"source": str(chunk.source)},
    )
    tally.tokens += chunk.tokens
    tally.chunks += 1

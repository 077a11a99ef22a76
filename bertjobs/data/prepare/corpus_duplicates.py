"""Duplicates of a corpus that is not prepared: its documents read and fingerprinted in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertjobs.data.check.document_table import DocumentTable, DocumentTableWriter
from bertjobs.data.check.duplicate_report import names_of, report_on, source_prefixes
from bertjobs.data.check.duplicates import Duplicates, equal_documents, near_documents
from bertjobs.data.corpus import Piece, Source, UnreadFiles, named_on_disk, read, scan
from bertjobs.data.prepare.processes import worker_pool
from bertjobs.data.ragged import in_batches
from bertjobs.data.shards.duplicate_report import DuplicateReport
from bertjobs.errors import InputError

_BATCH = 1_000_000  # characters fingerprinted together


@dataclass(frozen=True)
class CorpusDuplicates:
    """What was found.

    Attributes:
        documents: with text, of each source.
        report: how many repeat an earlier one, with examples.
        tables: one per piece of the corpus, whose documents' names have the prefix of the same place.
        unread: files of its folders that were not read.
    """

    documents: tuple[int, ...]
    report: DuplicateReport
    duplicates: Duplicates
    tables: tuple[Path, ...]
    prefixes: tuple[str, ...]
    unread: UnreadFiles

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The names of all documents that repeat an earlier one, each with that of the earlier one."""
        later, first = (names_of(self.duplicates, self.tables, self.prefixes, numbers)
                        for numbers in (self.duplicates.later, self.duplicates.first))  # fmt: skip
        return zip(later, first, strict=True)


def find_in_corpus(
    corpora: Sequence[str],
    words: int,
    threshold: float,
    processes: int,
    folder: Path,
    progress: Callable[[int, int], None],
) -> CorpusDuplicates:
    """The documents that repeat an earlier one of any source.

    Args:
        corpora: sources, as ``Source.parse`` takes them.
        words: in a run, to find near duplicates too; 0: exact ones only.
        threshold: of near duplicates.
        folder: for temporary files, which the result refers to: some 100 bytes per document, 1300 for near duplicates.
        progress: called with the bytes read so far, by estimate, and their total.

    Raises:
        InputError: a source that cannot be read or holds no text.
        OSError: a temporary file cannot be written.
    """
    sources = [Source.parse(named_on_disk(corpus)) for corpus in corpora]
    unread = UnreadFiles()
    pieces = scan(sources, unread=unread)
    tables = [folder / f"{number:06}.safetensors" for number in range(len(pieces))]
    work = [(piece, sources[piece.source].kind, words, path) for piece, path in zip(pieces, tables, strict=True)]
    total = sum(piece.text_bytes for piece in pieces)
    done = 0
    for piece, _ in zip(pieces, _run(work, processes), strict=True):
        done += piece.text_bytes
        progress(done, total)
    of_tables = [piece.source for piece in pieces]
    documents = np.bincount(of_tables, [len(DocumentTable.read(path)) for path in tables], len(sources)).astype(int)
    if not documents.all():
        raise InputError(f"corpus {corpora[int(documents.argmin())]!r} holds no text", where="--corpus")
    duplicates = near_documents(tables, threshold, folder) if words else equal_documents(tables, folder)
    report = report_on("near" if words else "exact", duplicates, tables, of_tables, corpora)
    prefixes = tuple(source_prefixes(of_tables, corpora))
    return CorpusDuplicates(tuple(documents.tolist()), report, duplicates, tuple(tables), prefixes, unread)


def _run(work: Sequence[tuple[Piece, str, int, Path]], processes: int) -> Iterator[None]:
    if processes == 1:
        yield from map(_fingerprint, work)
        return
    with worker_pool(processes) as pool:
        yield from pool.map(_fingerprint, work)


def _fingerprint(work: tuple[Piece, str, int, Path]) -> None:
    """Write the table of a piece's documents."""
    piece, kind, words, path = work
    table = DocumentTableWriter(words)
    for batch in in_batches(read(piece, kind), lambda document: len(document.text), _BATCH):
        table.add([document.id for document in batch], [document.text for document in batch])
    table.finish().write(path)

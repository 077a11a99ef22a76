"""Counting per source: what sequences use of each, and the sums over all tasks for the manifest."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.check.document_table import DocumentTable
from bertjobs.data.prepare.pair_counts import NewTokens
from bertjobs.data.prepare.work_folder import WorkFolder
from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.duplicate_report import DuplicateReport
from bertjobs.data.shards.length_counts import RANGES
from bertjobs.data.shards.source_counts import PhaseCounts, SourceCounts
from bertjobs.data.text.language import guess_languages

Int64s = NDArray[np.int64]

SAMPLE = 200  # documents of a source whose language is guessed

_RANGES = np.array(RANGES)


def count_lengths(lengths: Int64s) -> dict[int, int]:
    """How many lengths are in each of ``RANGES``, by the length that it begins with."""
    counts = np.bincount(np.searchsorted(_RANGES, lengths, side="right") - 1, minlength=1)
    present = np.flatnonzero(counts)
    return dict(zip(_RANGES[present].tolist(), counts[present].tolist(), strict=True))


def phase_counts(
    sources: Int64s, document_tokens: Int64s, new: NewTokens, firsts: Int64s, random_next: NDArray[Any]
) -> dict[int, PhaseCounts]:
    """What a bucket's sequences use of each source, by the source's number.

    Args:
        sources: of each document, -1 for one that is only lent to the bucket: ``[documents]``.
        document_tokens: ``[documents]``.
        new: of the segments of all sequences, by where they begin in the bucket's tokens.
        firsts: where each sequence begins, ``[sequences]``.
        random_next: whether its B is random, ``[sequences]``.
    """
    changes = np.flatnonzero(np.diff(sources, prepend=-2))
    run_sources, run_starts = sources[changes], offsets_of(document_tokens)[changes]

    def source_of(tokens: Int64s) -> Int64s:
        return run_sources[np.searchsorted(run_starts, tokens, side="right") - 1]

    of_segments, of_sequences = source_of(new.starts), source_of(firsts)
    return {
        source: PhaseCounts(
            sequences=int(np.count_nonzero(of_sequences == source)),
            random_next=int(np.count_nonzero(random_next[of_sequences == source])),
            tokens=int(document_tokens[sources == source].sum()),
            used=int(new.counts[of_segments == source].sum()),
        )
        for source in sorted(set(run_sources.tolist()) - {-1})
    }


def source_counts(work: WorkFolder, duplicates: DuplicateReport) -> list[SourceCounts]:
    """The counts of all sources, in their order."""
    counts = []
    for number, (corpus, repeated) in enumerate(zip(work.options.corpora, duplicates.by_source, strict=True)):
        dropped = repeated if duplicates.dropped else 0
        counts.append(SourceCounts(corpus, repeated=repeated, dropped=dropped, languages=_languages(work, number)))
    for piece, result in zip(work.pieces, work.results("tokenise"), strict=True):
        counts[piece.source] += SourceCounts.from_json(
            {"corpus": "", **{name: result[name] for name in _COUNTED if name in result}}
        )
    phases: list[dict[int, PhaseCounts]] = [{} for _ in counts]
    for result in work.results("pairs"):
        for phase, by_source in result.get("sources", {}).items():  # none where an older version did the task
            for source, values in by_source.items():
                there = phases[int(source)]
                there[int(phase)] = there.get(int(phase), PhaseCounts()) + PhaseCounts(**values)
    return [replace(one, phases=dict(sorted(there.items()))) for one, there in zip(counts, phases, strict=True)]


def excerpts_of_piece(work: WorkFolder, number: int) -> int:
    """Of how many documents a piece keeps an excerpt, so that there are ``SAMPLE`` or a few more of its source."""
    source = work.pieces[number].source
    return ceil(SAMPLE / sum(piece.source == source for piece in work.pieces))


def _languages(work: WorkFolder, source: int) -> dict[str, int]:
    tables = [work.documents_file(number) for number, piece in enumerate(work.pieces) if piece.source == source]
    excerpts = [text for table in tables for text in DocumentTable.read(table).all_excerpts()]
    chosen = np.linspace(0, len(excerpts) - 1, min(len(excerpts), SAMPLE)).astype(np.int64)
    return guess_languages(excerpts[place] for place in chosen)


_COUNTED = ("bytes", "documents", "left_out", "sentences", "tokens", "unknown", "characters", "unknown_characters",
            "document_tokens", "sentence_tokens")  # fmt: skip

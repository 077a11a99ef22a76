"""Duplicates of a whole corpus: counted, or dropped in a stage of one task between "tokenise" and "pairs"."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.check.document_table import DocumentTable
from bertjobs.data.check.duplicate_report import keys_of, report_on
from bertjobs.data.check.duplicates import Duplicates, equal_documents, near_documents
from bertjobs.data.prepare.held_out import split_counts
from bertjobs.data.prepare.stage_tokenise import held_out_draws
from bertjobs.data.prepare.work_folder import DUPLICATES, WorkFolder
from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.duplicate_report import DuplicateReport
from bertjobs.files.arrays import map_arrays, write_arrays

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class DroppedDocuments:
    """Where the dropped documents are: ``chunks`` and ``places`` of each, those of piece N from ``offsets[N]`` on."""

    offsets: Int64s
    chunks: Int64s
    places: Int64s

    @classmethod
    def of(cls, work: WorkFolder) -> DroppedDocuments:
        """Those that the stage found; none where duplicates are kept."""
        if work.options.drops:
            return cls(**map_arrays(work.file(DUPLICATES, 0, ".safetensors"))[0])
        nothing = np.zeros(0, dtype=np.int64)
        return cls(np.zeros(len(work.pieces) + 1, dtype=np.int64), nothing, nothing)

    def without(self, piece: int, chunk: int, places: Int64s) -> Int64s:
        """The places of a chunk less those of dropped documents."""
        here = slice(*self.offsets[piece : piece + 2].tolist())
        dropped = self.places[here][self.chunks[here] == chunk]
        return places[~np.isin(places, dropped)] if len(dropped) else places


def drop_duplicates(work: WorkFolder) -> None:
    """Run the stage's task: write where the duplicates are, and a marker with what is left of each piece's documents
    ("pieces", only those that lose some) and what was found ("report")."""
    duplicates, report = _find(work)
    rows = [duplicates.rows(piece) for piece in range(len(work.pieces))]
    chunks, places, changes = [], [], {}
    for piece, dropped in enumerate(rows):
        if len(dropped):
            table = DocumentTable.read(work.documents_file(piece))
            chunks.append(table.chunks[dropped])
            places.append(table.places[dropped])
            kept = np.setdiff1d(np.arange(len(table)), dropped)
            changes[piece] = split_counts(table, kept, held_out_draws(table.keys[kept]), work.options.held_out)
    nothing = np.zeros(0, dtype=np.int64)
    where = {"offsets": offsets_of(np.array([len(dropped) for dropped in rows])),
             "chunks": np.concatenate([nothing, *chunks]), "places": np.concatenate([nothing, *places])}  # fmt: skip
    write_arrays(work.file(DUPLICATES, 0, ".safetensors"), where, {})
    work.mark_done(DUPLICATES, 0, {"pieces": changes, "report": replace(report, dropped=True).as_json()})


def duplicate_report(work: WorkFolder) -> DuplicateReport:
    """What was found and dropped; where duplicates are kept, the exact ones, counted now."""
    if work.options.drops:
        return DuplicateReport.from_json(work.result(DUPLICATES, 0)["report"])
    return _find(work)[1]


def _find(work: WorkFolder) -> tuple[Duplicates, DuplicateReport]:
    tables = [work.documents_file(piece) for piece in range(len(work.pieces))]
    near = work.options.drop_duplicates == "near"
    duplicates = (near_documents(tables, work.options.near_threshold, work.folder) if near
                  else equal_documents(tables, work.folder))  # fmt: skip
    sources = [piece.source for piece in work.pieces]
    report = report_on("near" if near else "exact", duplicates, tables, sources, work.options.corpora)
    return duplicates, replace(report, across_splits=_across_splits(work, duplicates, tables))


def _across_splits(work: WorkFolder, duplicates: Duplicates, tables: list[Path]) -> int:
    sides = [
        held_out_draws(keys_of(duplicates, tables, numbers)) < work.options.held_out
        for numbers in (duplicates.later, duplicates.first)
    ]
    return int(np.count_nonzero(sides[0] != sides[1]))

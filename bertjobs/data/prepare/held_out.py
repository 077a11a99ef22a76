"""What a piece's documents are to the two splits, and whether the splits are as large as was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.check.document_table import DocumentTable
from bertjobs.data.corpus import Source
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import InputError

NAMES_KEPT = 1000  # of held-out documents, for the manifest
_FAR_ABOVE = 4  # times the share that was asked for


def split_counts(
    table: DocumentTable, rows: NDArray[np.int64], draws: NDArray[np.float64], share: float
) -> dict[str, Any]:
    """The documents of a piece, how many are held out, the names of these, and the ones nearest to the other split.

    Args:
        rows: of the table that count.
        draws: of the rows; those below ``share`` are held out.

    Returns:
        ``documents``, ``held_out``, ``names`` (a thousand at most), and ``lowest_train`` and ``highest_held_out``, each
        [draw, chunk, place, name] or None.
    """
    order = np.lexsort((table.places[rows], table.chunks[rows]))
    rows, draws = rows[order], draws[order]
    held_out = draws < share
    train, kept = np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def one(place: int) -> list[Any]:
        row = int(rows[place])
        return [float(draws[place]), int(table.chunks[row]), int(table.places[row]), table.name(row)]

    highest = kept[draws[kept] == draws[kept].max(initial=-1.0)]
    # Parts of a long document have one draw: of these the first of the last chunk that has any.
    highest = highest[table.chunks[rows[highest]] == table.chunks[rows[highest]].max(initial=-1)]
    return {
        "documents": len(rows),
        "held_out": len(kept),
        "names": [table.name(row) for row in rows[kept[:NAMES_KEPT]].tolist()],
        "lowest_train": one(train[draws[train].argmin()]) if len(train) else None,
        "highest_held_out": one(highest[0]) if len(highest) else None,
    }


@dataclass(frozen=True)
class Moved:
    """The one document that changes its split, so that neither is empty: ``place`` in a chunk of a piece."""

    to: str
    piece: int
    chunk: int
    place: int
    name: str


def settle_split(results: list[Any]) -> Moved | None:
    """What has to change where a corpus is so small that one split got no document.

    Args:
        results: of all tasks of the stage "tokenise".

    Raises:
        InputError: there are fewer than two documents.
    """
    documents = sum(result["documents"] for result in results)
    if documents < 2:
        raise InputError(
            f"the corpus has {documents} document{'s' * (documents != 1)} with text, but at least two are needed: "
            "one is held out",
            where="--corpus",
            hint="with text:DIR each *.txt file is a document, with lddl:DIR each line is one",
        )
    held_out = sum(result["held_out"] for result in results)
    if 0 < held_out < documents:
        return None
    name, to, best = ("highest_held_out", "train", max) if held_out else ("lowest_train", "validation", min)
    candidates = [(*result[name], piece) for piece, result in enumerate(results) if result[name]]
    _, chunk, place, document, piece = best(candidates)
    return Moved(to, piece, chunk, place, document)


def validation_share(data: DataManifest) -> float:
    """The share of the sequences that are for validation, those for training counted as if drawn once; of the phase
    where it is largest."""
    times = data.settings["duplicates"] * _mean_weight(data)
    rows = [(phase.train.rows / times, phase.validation.rows) for phase in data.phases.values()]
    return max(validation / max(1.0, train + validation) for train, validation in rows)


def remark_on_share(data: DataManifest) -> str:
    """What a person should know about the size of the validation data; "" if nothing."""
    share, asked = validation_share(data), data.settings["held_out"]
    if share <= _FAR_ABOVE * asked:
        return ""
    return (
        f"{share:.0%} of the sequences are for validation, not {asked:.1%}: documents are held out whole, and these "
        "are few or of very different lengths; split the text into more documents, or choose others with another --seed"
    )


def _mean_weight(data: DataManifest) -> float:
    """How much more often than ``duplicates`` says a document is drawn, over the sequences of all sources."""
    counts = [(sum(phase.sequences for phase in one.phases.values()), Source.parse(one.corpus).weight)
              for one in data.sources]  # fmt: skip
    once = sum(sequences / weight for sequences, weight in counts)
    return sum(sequences for sequences, _ in counts) / once if once else 1.0

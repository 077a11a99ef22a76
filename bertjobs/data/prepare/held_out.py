"""What a piece's documents are to the two splits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.check.document_table import DocumentTable

NAMES_KEPT = 1000  # of held-out documents, for the manifest


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

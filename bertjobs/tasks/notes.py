"""What readers skip or find odd: counted by kind, each with the first place where it was seen."""

from __future__ import annotations


class Notes:
    """Counts of oddities, in the order in which each was first seen."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._places: dict[str, str] = {}

    def add(self, what: str, where: str) -> None:
        """Count one more of a kind, ``what`` in words of the plural ("rows without a label")."""
        self._counts[what] = self._counts.get(what, 0) + 1
        self._places.setdefault(what, where)

    def clear(self) -> None:
        """Forget all, as before a file is read a second time."""
        self._counts.clear()
        self._places.clear()

    def lines(self) -> list[str]:
        """A line for each kind: "12 rows without a label (first: train.tsv, line 7)"."""
        return [f"{count:,} {what} (first: {self._places[what]})" for what, count in self._counts.items()]

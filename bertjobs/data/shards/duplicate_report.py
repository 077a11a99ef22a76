"""How many documents repeat an earlier one, as MANIFEST.json keeps it. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bertjobs.data.shards.source_counts import whole_number


@dataclass(frozen=True)
class DuplicateReport:
    """Documents that repeat an earlier one.

    Attributes:
        how: "exact" or "near".
        documents, by_source: how many there are, in all and of each source.
        examples: the names of some of them, each with that of the document it repeats.
        dropped: whether they are left out.
        across_splits: how many are in another split than the document that they repeat.
    """

    how: str
    documents: int
    by_source: tuple[int, ...]
    examples: tuple[tuple[str, str], ...]
    dropped: bool = False
    across_splits: int = 0

    @classmethod
    def from_json(cls, values: Any) -> DuplicateReport:
        """The report that ``as_json`` wrote; ValueError for anything else."""
        if not isinstance(values, Mapping) or values.get("how") not in ("exact", "near"):
            raise ValueError("duplicates do not say whether they are exact or near")
        by_source, examples = values.get("by_source"), values.get("examples")
        if not isinstance(by_source, list) or not isinstance(examples, list):
            raise ValueError("duplicates are not counted by source, with examples")
        if not all(isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in examples):
            raise ValueError("duplicates.examples are not pairs of names")
        return cls(
            how=values["how"],
            documents=whole_number(values, "documents", "duplicates."),
            by_source=tuple(whole_number({"by_source": count}, "by_source", "duplicates.") for count in by_source),
            examples=tuple((later, first) for later, first in examples),
            dropped=values.get("dropped") is True,
            across_splits=whole_number(values, "across_splits", "duplicates."),
        )

    def as_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)

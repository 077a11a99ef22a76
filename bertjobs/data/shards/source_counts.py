"""What a prepare counted in one source (one ``--corpus``), as MANIFEST.json keeps it. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bertjobs.data.shards.length_counts import quantiles

MUCH_UNKNOWN = 0.01
"""Of a text's tokens or characters: [UNK] beyond this share is said, whatever was accepted."""


@dataclass(frozen=True)
class PhaseCounts:
    """A source's part in a phase; add two to have those of both.

    Attributes:
        sequences: whose A is of this source; ``random_next``: of these, with a random B.
        tokens: of the documents that sequences were drawn from; ``used``: those of them that are in a sequence.
    """

    sequences: int = 0
    random_next: int = 0
    tokens: int = 0
    used: int = 0

    def __add__(self, other: PhaseCounts) -> PhaseCounts:
        return PhaseCounts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(PhaseCounts)))


@dataclass(frozen=True)
class SourceCounts:
    """Counts of one source; add two parts of it to have those of both.

    Attributes:
        corpus: the source as it was given.
        bytes: read.
        documents: with text, parts of very long ones counted each; ``left_out`` by the sample ratio are not in it.
        repeated: of the documents, those that repeat an earlier one of any source; ``dropped``: those of them that no
            sequence was drawn from.
        sentences, tokens: of all documents; ``unknown``: tokens that are [UNK].
        characters: of all words, white space left out; ``unknown_characters``: those in words that became [UNK]. 0 in
            data of older versions.
        document_tokens, sentence_tokens: how many documents and sentences have how many tokens, see ``length_counts``.
        languages: what the documents of a sample seem to be written in: documents by the language's name.
        phases: by number.
    """

    corpus: str
    bytes: int = 0
    documents: int = 0
    left_out: int = 0
    repeated: int = 0
    dropped: int = 0
    sentences: int = 0
    tokens: int = 0
    unknown: int = 0
    characters: int = 0
    unknown_characters: int = 0
    document_tokens: Mapping[int, int] = field(default_factory=dict)
    sentence_tokens: Mapping[int, int] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[int, PhaseCounts] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Any) -> SourceCounts:
        """The counts that ``as_json`` wrote, or some of them; ValueError for anything else."""
        if not isinstance(values, Mapping) or not isinstance(values.get("corpus"), str):
            raise ValueError("sources do not name their corpus")
        phases = _mapping(values, "phases")
        if not all(isinstance(counts, Mapping) for counts in phases.values()):
            raise ValueError("sources.phases are not counts")
        return cls(
            values["corpus"],
            **{name: whole_number(values, name, "sources.") for name in _NUMBERS},
            document_tokens=_counts_by_number(values, "document_tokens"),
            sentence_tokens=_counts_by_number(values, "sentence_tokens"),
            languages={name: whole_number(counts, name, "sources.languages.")
                       for counts in [_mapping(values, "languages")] for name in counts},
            phases={_number(key): PhaseCounts(**{one.name: whole_number(counts, one.name, "sources.phases.")
                                                 for one in fields(PhaseCounts)}) for key, counts in phases.items()},
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """All counts by name."""
        return asdict(self)

    def __add__(self, other: SourceCounts) -> SourceCounts:
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        sums |= {name: merge(getattr(self, name), getattr(other, name)) for name in _BY_KEY}
        return SourceCounts(self.corpus, **sums)

    @property
    def unknown_share(self) -> float:
        """[UNK] of the tokens."""
        return self.unknown / max(1, self.tokens)

    @property
    def unknown_text_share(self) -> float:
        """Of the characters, those in words that became [UNK]: a word is one token however long it is."""
        return self.unknown_characters / max(1, self.characters)

    @property
    def lost_share(self) -> float:
        """The larger of the two shares."""
        return max(self.unknown_share, self.unknown_text_share)

    @property
    def lost_words(self) -> str:
        """That share in words, such as "4.9% of the characters"."""
        return f"{self.lost_share:.1%} of the {'tokens' if self.lost_share == self.unknown_share else 'characters'}"

    @property
    def document_quantiles(self) -> tuple[int, int, int]:
        """Tokens that 5%, 50% and 95% of the documents do not exceed."""
        return quantiles(self.document_tokens)

    @property
    def sentence_quantiles(self) -> tuple[int, int, int]:
        """Tokens that 5%, 50% and 95% of the sentences do not exceed."""
        return quantiles(self.sentence_tokens)

    @property
    def language(self) -> tuple[str, int, int] | None:
        """The most frequent language of the sample, its documents, and all of the sample; None without a sample."""
        if not self.languages:
            return None
        name = max(sorted(self.languages), key=lambda name: self.languages[name])
        return name, self.languages[name], sum(self.languages.values())


_NUMBERS = ("bytes", "documents", "left_out", "repeated", "dropped", "sentences", "tokens", "unknown", "characters",
            "unknown_characters")  # fmt: skip
_BY_KEY = ("document_tokens", "sentence_tokens", "languages", "phases")


def merge(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[Any, Any]:
    """The values of both, added where a key is in both."""
    return {**one, **other, **{key: one[key] + other[key] for key in one if key in other}}


def sources_of(values: Any) -> tuple[SourceCounts, ...]:
    """The counts of all sources as MANIFEST.json has them; ValueError if they are not that."""
    if not isinstance(values, list):
        raise ValueError("sources are not a list")
    return tuple(map(SourceCounts.from_json, values))


def whole_number(values: Mapping[str, Any], name: str, where: str) -> int:
    """A count, 0 where there is none; ValueError for what is not a whole number of at least 0."""
    value = values.get(name, 0)
    if type(value) is not int or value < 0:
        raise ValueError(f"{where}{name} is not a whole number of at least 0")
    return value


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name, {})
    if not isinstance(value, Mapping):
        raise ValueError(f"sources.{name} is not an object")
    return value


def _counts_by_number(values: Mapping[str, Any], name: str) -> dict[int, int]:
    counts = _mapping(values, name)
    return {_number(key): whole_number(counts, key, f"sources.{name}.") for key in counts}


def _number(key: str) -> int:
    if not key.isascii() or not key.isdecimal() or len(key) > 12:
        raise ValueError(f"sources count by {key[:20]!r}, which is not a number")
    return int(key)

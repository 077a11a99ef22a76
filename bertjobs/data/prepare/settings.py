"""What ``bertjobs data prepare`` is asked for, and whether it can be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from bertjobs.data.check.duplicates import check_near
from bertjobs.data.corpus import SENTENCES, Source
from bertjobs.data.shards.manifest_form import MASKINGS, SHARD_FORMATS
from bertjobs.data.text.languages import language_name
from bertjobs.data.text.splitters import chosen_splitter
from bertjobs.data.text.vocabulary_choice import ChosenVocabulary, Wishes, choose_vocabulary
from bertjobs.errors import InputError, nearest
from bertjobs.recipe.predictions import MASKED_SHARE, most_predictions

MASKED_UNITS = ("pieces", "words")
DROPPED = ("none", "exact", "near")
MAX_SEQUENCE_LENGTH = 1 << 16
_NOT_RECORDED = ("output", "vocabulary", "uncased", "strip_accents", "sentences",
                 "max_unknown_share", "most_unpaired", "least_used")  # fmt: skip


@dataclass(frozen=True)
class PhaseShape:
    """What a phase's sequences look like: tokens at most, and masked tokens at most."""

    phase: int
    sequence_length: int
    max_predictions: int

    @classmethod
    def parse(cls, text: str, masked_share: float = MASKED_SHARE) -> PhaseShape:
        """``1`` (128 tokens), ``2`` (512), or ``PHASE:TOKENS[:MASKED]``.

        Without MASKED it is what ``masked_share`` needs: with BERT's share 20 for 128 tokens, 80 for 512.
        """
        try:
            numbers = [int(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        match numbers:
            case [phase] if phase in PHASES:
                length = PHASES[phase].sequence_length
                return cls(phase, length, most_predictions(length, masked_share))
            case [phase, length] if phase > 0 and length > 3:
                return cls(phase, length, most_predictions(length, masked_share))
            case [phase, length, predictions] if phase > 0 and length > 3 and predictions > 0:
                return cls(phase, length, predictions)
        raise InputError(
            f"phase {text!r} cannot be prepared",
            where="--phases",
            hint="1, 2, or NUMBER:TOKENS[:MASKED] such as 3:256:40, separated by commas",
        )


PHASES = {1: PhaseShape(1, 128, 20), 2: PhaseShape(2, 512, 80)}


def parse_phases(text: str, masked_share: float = MASKED_SHARE) -> tuple[PhaseShape, ...]:
    """The phases of a list such as ``1,2`` or ``1,2:384:60``; InputError as in ``PhaseShape.parse``."""
    check_share("masked-share", masked_share)
    return tuple(PhaseShape.parse(part, masked_share) for part in text.split(","))


def check_share(name: str, share: float, *, zero: bool = False, one: bool = False) -> None:
    """InputError unless an option's share is between 0 and 1, or 0 or 1 where that is allowed."""
    if not (0 < share < 1 or (zero and share == 0) or (one and share == 1)):
        raise InputError(f"{share} is not a share between 0 and 1", where=f"--{name}")


DEFAULTS: Mapping[bool, Mapping[str, Any]] = {
    True: {"duplicates": 5, "short_sequence_share": 0.1},
    False: {"duplicates": 1, "short_sequence_share": 0.0},
}
"""Options that depend on whether there are next-sentence pairs. Another copy of contiguous text shows a model nothing
new, and what a document leaves over is short as it is."""


@dataclass(frozen=True)
class PrepareOptions:
    """What a data folder is made of, and how.

    Attributes:
        corpora: sources, as ``corpus.Source.parse`` takes them.
        vocabulary: path of a vocab.txt or tokenizer.json.
        output: folder to make.
        cased, uncased: whether text is lowercased, if nothing beside the vocabulary states it.
        strip_accents: "yes" or "no": whether accents are stripped, if nothing beside the vocabulary states it; "": as
            BERT does, or as the vocabulary's tokens show.
        max_unknown_share: of a source's tokens, and of its characters, that may be [UNK].
        phases: shapes of the phases' sequences.
        next_sentence: pairs for next-sentence prediction, or contiguous text.
        across_documents: contiguous text continues with another document where one ends.
        duplicates: how often pairs are drawn from each training document; validation is drawn once.
        bin_size: tokens a length bin spans; each phase's sequence length is a multiple.
        shards: files per bin; 0 chooses: 8, or as many as keep a file near 64 MB.
        masking: "dynamic" (none stored) or "static".
        masked_share: share of the tokens that are masked; with dynamic masking the run's own counts.
        masked_units: what static masking chooses, "pieces", or "words" with all their pieces.
        short_sequence_share: share of the documents whose target length is drawn at random.
        sample_ratio: share of the documents that are used at all.
        held_out: share of the documents kept for validation, at least one document.
        language: of the text, by its English name or its code: decides how sentences are split.
        sentences: how sentences are split, one of ``text.splitters.SPLITTERS``; "auto" chooses by corpus and language.
        most_unpaired: the largest share of a phase's training pairs whose documents are one short sentence.
        least_used: the smallest share of the tokens that is in a phase's training sequences.
        format: of the shards, "ids" or "lddl".
        drop_duplicates: documents to leave out: "exact" (those that repeat an earlier one word for word), "near"
            (those that are much like an earlier one too), or "none".
        near_threshold: share of their word runs, of those in either, that near duplicates have in common.
        shingle_words: words in a run.
    """

    corpora: tuple[str, ...]
    vocabulary: str
    output: str
    phases: tuple[PhaseShape, ...] = (PHASES[1], PHASES[2])
    duplicates: int = 5
    bin_size: int = 64
    shards: int = 0
    masking: str = "dynamic"
    masked_share: float = MASKED_SHARE
    masked_units: str = "pieces"
    short_sequence_share: float = 0.1
    sample_ratio: float = 1.0
    held_out: float = 0.05
    language: str = "english"
    sentences: str = "auto"
    most_unpaired: float = 0.9
    least_used: float = 0.5
    format: str = "ids"
    cased: bool = False
    uncased: bool = False
    strip_accents: str = ""
    max_unknown_share: float = 0.05
    seed: int = 42
    drop_duplicates: str = "none"
    near_threshold: float = 0.8
    shingle_words: int = 5
    next_sentence: bool = True
    across_documents: bool = False

    @property
    def drops(self) -> bool:
        """Whether duplicates are left out."""
        return self.drop_duplicates != "none"

    @cached_property
    def chosen_vocabulary(self) -> ChosenVocabulary:
        """The vocabulary, and how text is normalised for it; InputError as in ``choose_vocabulary``."""
        wishes = Wishes.of_flags(self.cased, self.uncased, self.strip_accents)
        return choose_vocabulary(self.vocabulary, wishes)

    def check(self) -> None:
        """InputError names the first option that is not valid."""
        if not self.corpora:
            raise InputError("no corpus is given", where="--corpus", hint="for instance --corpus text:DIR")
        if self.duplicates < 1:
            raise InputError(f"{self.duplicates} is too small: at least 1", where="--duplicates")
        check_near(self.near_threshold, self.shingle_words)
        if self.shards < 0:
            raise InputError(f"{self.shards} is too small: at least 1, or 0 to choose", where="--shards")
        _check_phases(self.phases, self.bin_size)
        for name, share, zero, one in (  # whether it may be 0, and 1
            ("held-out", self.held_out, False, False),
            ("masked-share", self.masked_share, False, False),
            ("short-sequence-share", self.short_sequence_share, True, False),
            ("sample-ratio", self.sample_ratio, False, True),
            ("most-unpaired", self.most_unpaired, True, True),
            ("max-unknown-share", self.max_unknown_share, True, True),
            ("least-used", self.least_used, True, True),
        ):
            check_share(name, share, zero=zero, one=one)
        for name, value, choices in (
            ("masking", self.masking, MASKINGS),
            ("masked-units", self.masked_units, MASKED_UNITS),
            ("format", self.format, SHARD_FORMATS),
            ("drop-duplicates", self.drop_duplicates, DROPPED),
        ):
            if value not in choices:
                raise InputError(f"unknown {name} {value!r}", where=f"--{name}", hint=nearest(value, choices))
        self._check_objective()
        self.splitters()

    @property
    def language_name(self) -> str:
        """The language's name; InputError if it is unknown."""
        return language_name(self.language)

    def splitters(self) -> tuple[str, ...]:
        """How the sentences of each corpus are split; InputError if a corpus, the language or the way is unknown."""
        language, kinds = self.language_name, [Source.parse(text).kind for text in self.corpora]
        return tuple(chosen_splitter(self.sentences, language, SENTENCES.get(kind)) for kind in kinds)

    def settings(self) -> dict[str, Any]:
        """All that decides the shards' bytes besides the corpus and the vocabulary: what MANIFEST.json records.

        Options that came later are left out at their defaults: shards made before then keep their bytes.
        """
        left_out = {*_NOT_RECORDED, *self._later_at_defaults()}
        settings = {name: value for name, value in asdict(self).items() if name not in left_out}
        settings["language"] = self.language_name
        if set(splitters := self.splitters()) != {"punkt"}:  # else as it was when there was no other way
            settings["sentences"] = splitters[0] if len(set(splitters)) == 1 else ", ".join(splitters)
        settings["corpora"] = list(self.corpora)
        settings["phases"] = [list(shape.values()) for shape in settings["phases"]]
        return settings

    def _later_at_defaults(self) -> Iterator[str]:
        """Options that earlier versions lack, where they change nothing: the settings' sha256 is in the shards."""
        if not self.drops:
            yield "drop_duplicates"
        if self.drop_duplicates != "near":
            yield from ("near_threshold", "shingle_words")
        if self.next_sentence:
            yield from ("next_sentence", "across_documents")

    def _check_objective(self) -> None:
        if self.next_sentence and self.across_documents:
            raise InputError(
                "next-sentence pairs are of one document", where="--across-documents", hint="add --no-next-sentence"
            )
        if not self.next_sentence and self.format == "lddl":
            raise InputError(
                "LDDL's form holds next-sentence pairs, and its loader reads nothing else",
                where="--format",
                hint="leave out --format lddl or --no-next-sentence",
            )
        if self.across_documents and self.short_sequence_share:
            raise InputError(
                "across documents all sequences are full: none is cut short",
                where="--short-sequence-share",
                hint="leave it out, or leave out --across-documents",
            )


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two settings differ, in words; "" if they do not."""
    return "; ".join(
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )


def _check_phases(phases: tuple[PhaseShape, ...], bin_size: int) -> None:
    numbers = [shape.phase for shape in phases]
    if not phases or len(set(numbers)) != len(numbers):
        given = ",".join(map(str, numbers))
        raise InputError(
            f"phases {given!r} cannot be prepared: one is given twice", where="--phases", hint="1, 2 or 1,2"
        )
    for shape in phases:
        if shape.sequence_length >= MAX_SEQUENCE_LENGTH:
            raise InputError(f"phase {shape.phase} has {shape.sequence_length} tokens, but at most "
                             f"{MAX_SEQUENCE_LENGTH - 1} can be stored", where="--phases")  # fmt: skip
        if bin_size < 1 or shape.sequence_length % bin_size:
            fitting = [size for size in range(1, shape.sequence_length + 1) if shape.sequence_length % size == 0]
            close = sorted(sorted(fitting, key=lambda size: abs(size - bin_size))[:3])
            raise InputError(
                f"bins of {bin_size} tokens do not divide phase {shape.phase}'s {shape.sequence_length} tokens",
                where="--bin-size",
                hint=f"nearest that do: {', '.join(map(str, close))}",
            )

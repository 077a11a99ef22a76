"""The work folder of a data folder in the making: OUTPUT/.prepare, with the plan and what each task has done.

A task's files are complete or absent, and its marker (STAGE/NUMBER.json) is written after them. So a prepare that was
killed resumes where it stopped, and any number of processes or nodes may run the tasks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from bertjobs.data.corpus import Piece
from bertjobs.data.prepare.settings import PhaseShape, PrepareOptions, difference
from bertjobs.data.shards.manifest import SPLITS, WORK_FOLDER
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import write_json
from bertjobs.slurm.shell import quote

STAGES = ("tokenise", "pairs", "shards")
DUPLICATES = "duplicates"  # a further stage behind the first, where duplicates are dropped
FOLDER_NAME = WORK_FOLDER
PLAN_NAME = "plan.json"

_TABLE = ".documents"  # the ending of a table's name

BUCKET_BYTES = 8_000_000  # text whose pairs are drawn together
_SHARDS = 8
_SHARD_BYTES = 64_000_000  # of a shard of token ids, where the number of shards is not given
_ID_BYTES_PER_TEXT_BYTE = 0.45  # two bytes per token of four to five characters


@dataclass(frozen=True)
class Bucket:
    """Documents whose pairs are drawn together: the ``number``-th part of a split."""

    split: str
    number: int


@dataclass(frozen=True)
class ShardTask:
    """The files of one shard number of a phase's split: one per length bin."""

    shape: PhaseShape
    split: str
    number: int


@dataclass(frozen=True)
class PreparePlan:
    """Everything that decides the bytes of a data folder.

    Attributes:
        settings: ``PrepareOptions.settings``.
        vocabulary_sha256: of vocab.txt.
        tokenizer_sha256: ``Vocabulary.tokenizer_sha256``.
        corpus_sha256: of the list of pieces: the files' names below the corpus and their sizes.
        corpus_bytes: of text, an estimate where files are compressed.
        train_buckets, validation_buckets: how many there are.
        shards: files per bin.
    """

    settings: dict[str, Any]
    vocabulary_sha256: str
    tokenizer_sha256: str
    lowercase: bool
    corpus_sha256: str
    corpus_bytes: int
    train_buckets: int
    validation_buckets: int
    shards: int

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> PreparePlan:
        """The plan of which ``values`` is ``dataclasses.asdict``, of this version or an older one."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    @property
    def settings_sha256(self) -> str:
        """sha256 of the settings, 64 hex digits."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def difference(self, other: PreparePlan) -> str:
        """How the folder that ``other`` makes would differ, in words; "" if it would not."""
        words = [difference(self.settings, other.settings)]
        if self.vocabulary_sha256 != other.vocabulary_sha256:
            words.append(f"the vocabulary was {self.vocabulary_sha256[:12]}..., now {other.vocabulary_sha256[:12]}...")
        elif (self.tokenizer_sha256, self.lowercase) != (other.tokenizer_sha256, other.lowercase):
            words.append("the vocabulary has the same tokens, but its tokenizer treats text differently")
        if self.corpus_sha256 != other.corpus_sha256:
            words.append(f"the files of the corpus have changed ({self.corpus_bytes:,} bytes of text, now "
                         f"{other.corpus_bytes:,})")  # fmt: skip
        return "; ".join(word for word in words if word)


def make_plan(options: PrepareOptions, pieces: Sequence[Piece], vocabulary: Vocabulary) -> PreparePlan:
    """The plan for a corpus that was scanned."""
    listed = [
        (
            piece.source,
            [path.removeprefix(piece.root) for path in piece.paths],
            piece.start,
            piece.end,
            piece.text_bytes,
        )
        for piece in pieces
    ]  # without the folders: a corpus may be moved
    size = sum(piece.text_bytes for piece in pieces)
    train = max(1, ceil(size / BUCKET_BYTES))
    ids_bytes = size * _ID_BYTES_PER_TEXT_BYTE * options.duplicates
    return PreparePlan(
        settings=options.settings(),
        vocabulary_sha256=vocabulary.sha256,
        tokenizer_sha256=vocabulary.tokenizer_sha256,
        lowercase=vocabulary.lowercase,
        corpus_sha256=hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        corpus_bytes=size,
        train_buckets=train,
        validation_buckets=max(1, round(train * options.held_out)),
        shards=options.shards or shards_for(ids_bytes),
    )


def shards_for(ids_bytes: float) -> int:
    """How many shards of token ids a bin gets: eight, or as many as keep each near 64 MB."""
    return max(_SHARDS, ceil(ids_bytes / _SHARD_BYTES))


def stages(options: PrepareOptions) -> tuple[str, ...]:
    """The stages of a prepare, in their order."""
    return (STAGES[0], *([DUPLICATES] if options.drops else []), *STAGES[1:])


@dataclass(frozen=True)
class WorkFolder:
    """A data folder in the making, as each task sees it."""

    output: Path
    plan: PreparePlan
    options: PrepareOptions
    pieces: tuple[Piece, ...]

    @classmethod
    def create(cls, options: PrepareOptions, plan: PreparePlan, pieces: Iterable[Piece]) -> WorkFolder:
        """The work folder of ``options.output``, made where it does not exist; the caller holds its lock.

        Raises:
            InputError: it was started with other settings, vocabulary or corpus; names the difference.
        """
        output = Path(options.output)
        path = output / FOLDER_NAME / PLAN_NAME
        if path.is_file():
            before = cls.read(output)
            if changed := before.plan.difference(plan):
                raise InputError(
                    f"{str(output)!r} was started with other settings: {changed}",
                    where="--output",
                    hint=f"restore them to resume, or start over: rm -r {quote(str(output))}",
                )
            return before
        for stage in (*STAGES, DUPLICATES):  # without a plan nothing says of what its numbers are
            if (path.parent / stage).exists():
                shutil.rmtree(path.parent / stage)
        for stage in stages(options):
            (path.parent / stage).mkdir(parents=True)
        cls(output, plan, options, tuple(pieces))._write()
        return cls.read(output)

    def with_pieces(self, pieces: Iterable[Piece]) -> WorkFolder:
        """The same with these pieces, written down."""
        changed = replace(self, pieces=tuple(pieces))
        changed._write()
        return changed

    def _write(self) -> None:
        write_json(self.folder / PLAN_NAME,
                   {"plan": asdict(self.plan), "pieces": [asdict(piece) for piece in self.pieces],
                    "options": {**asdict(self.options), "corpora": list(self.options.corpora)}})  # fmt: skip

    @classmethod
    def read(cls, output: Path) -> WorkFolder:
        """The work folder as ``create`` wrote it."""
        content = json.loads((output / FOLDER_NAME / PLAN_NAME).read_bytes())
        options = content["options"]
        options["corpora"] = tuple(options["corpora"])
        options["phases"] = tuple(PhaseShape(**shape) for shape in options["phases"])
        pieces = tuple(map(Piece.from_json, content["pieces"]))
        return cls(output, PreparePlan(**content["plan"]), PrepareOptions(**options), pieces)

    @property
    def folder(self) -> Path:
        """Where the tasks' files are."""
        return self.output / FOLDER_NAME

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages, in their order."""
        return stages(self.options)

    @property
    def after_a_change(self) -> str:
        """What to do when a file of the corpus has changed."""
        return f"restore the file to resume, or start over: rm -r {quote(str(self.output))}"

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The training buckets, then those of validation."""
        counts = zip(SPLITS, (self.plan.train_buckets, self.plan.validation_buckets), strict=True)
        return tuple(Bucket(split, number) for split, count in counts for number in range(count))

    @cached_property
    def shard_tasks(self) -> tuple[ShardTask, ...]:
        """All tasks of the stage "shards"."""
        return tuple(
            ShardTask(shape, split, number)
            for shape in self.options.phases
            for split in SPLITS
            for number in range(self.plan.shards)
        )

    def tasks(self, stage: str) -> int:
        """How many tasks a stage has."""
        return {"tokenise": len(self.pieces), DUPLICATES: 1, "pairs": len(self.buckets),
                "shards": len(self.shard_tasks)}[stage]  # fmt: skip

    def file(self, stage: str, number: int, ending: str) -> Path:
        """A file of a task."""
        return self.folder / stage / f"{number:06}{ending}"

    def documents_file(self, number: int) -> Path:
        """The table of the documents of a piece."""
        return self.file("tokenise", number, _TABLE)

    def missing(self, stage: str) -> list[int]:
        """The tasks of a stage that are not done."""
        done = {path.stem for path in (self.folder / stage).glob("*.json")}
        if stage == "tokenise":  # those that an older version did have no table
            done &= {path.name.removesuffix(_TABLE) for path in (self.folder / stage).glob(f"*{_TABLE}")}
        return [number for number in range(self.tasks(stage)) if f"{number:06}" not in done]

    def is_done(self, stage: str, number: int) -> bool:
        """Whether a task is done."""
        has_table = stage != "tokenise" or self.documents_file(number).is_file()
        return has_table and self.file(stage, number, ".json").is_file()

    def mark_done(self, stage: str, number: int, result: Any) -> None:
        """Write a task's marker with what the later stages need to know; its files exist already."""
        write_json(self.file(stage, number, ".json"), result)

    def result(self, stage: str, number: int) -> Any:
        """What ``mark_done`` wrote.

        Raises:
            BertjobsError: the task is not done, or its marker is not visible here yet.
        """
        try:
            return json.loads(self.file(stage, number, ".json").read_bytes())
        except (OSError, ValueError) as error:
            raise BertjobsError(
                f"task {number} of the stage {stage!r} is not done",
                where=str(self.folder),
                hint="run the same `bertjobs data prepare` again: it resumes where it stopped",
            ) from error

    def results(self, stage: str) -> list[Any]:
        """What all tasks of a stage wrote, by number."""
        return [self.result(stage, number) for number in range(self.tasks(stage))]

    def tokenised(self) -> list[Any]:
        """What the tasks of the stage "tokenise" wrote, by number, without the documents that were dropped since."""
        results = self.results("tokenise")
        changes = self.result(DUPLICATES, 0)["pieces"] if self.options.drops else {}
        for number, change in changes.items():
            results[int(number)] |= change
        return results

    def remove(self) -> None:
        """Delete the work folder."""
        shutil.rmtree(self.folder)

"""Sentences and pairs in the columns of any table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bertjobs.errors import InputError, nearest
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.options import flag
from bertjobs.tasks.reading.glue import has_labels
from bertjobs.tasks.reading.lines import with_compressed
from bertjobs.tasks.reading.sentences import Columns, read_sentences
from bertjobs.tasks.sentences import MEASURES, SentenceTask

_ENDS = (".tsv", ".csv", ".jsonl", ".parquet")


class TableTask(SentenceTask):
    """Sentences or pairs in the columns of any CSV, TSV, JSON lines or Parquet file."""

    name = "sentences"
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": with_compressed(*(f"train{end}" for end in _ENDS)),
        "dev": with_compressed(*(f"{stem}{end}" for stem in ("dev", "validation") for end in _ENDS)),
        "test": with_compressed(*(f"test{end}" for end in _ENDS)),
    }
    option_help: ClassVar[Mapping[str, str]] = {
        "text": "column of the sentence, by default text; several, as in title,body, are joined by a blank",
        "second": "column of the second sentence of a pair; by default there is none",
        "second_optional": "true lets single sentences be among the pairs, and files lack the column (default: false)",
        "label": "column of the label, by default label",
        "id": "column of the id; by default the number of the line",
        "kind": "class (default), number, or several: any number of classes is true",
        "separator": "what stands between several labels of a row, by default a comma",
        "labels": "the classes in a fixed order, separated by commas; by default those of the training data, sorted",
    }

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        chosen = dict(options or {})
        self.kind = chosen.get("kind", "class")
        if self.kind not in MEASURES:
            raise InputError(f"{self.kind!r} is not a kind of labels", where=f"--option kind={self.kind}",
                             hint=nearest(self.kind, MEASURES))  # fmt: skip
        super().__init__(chosen)
        self._labels = tuple(_words(chosen, "labels")) if "labels" in chosen else ()
        if self._labels and self.kind == "number":
            raise InputError("numbers have no labels", where="--option labels=...", hint="leave out labels or kind")
        if len(self._labels) == 1:
            raise InputError(f"there is one label: {self._labels[0]!r}", where=f"--option labels={chosen['labels']}",
                             hint="name all of them, at least two: --option labels=a,b")  # fmt: skip
        if "separator" in chosen and (self.kind != "several" or not chosen["separator"]):
            raise InputError("only several labels have a separator, which is not empty", where="--option separator=...",
                             hint="--option kind=several")  # fmt: skip
        second_optional = flag(chosen, "second_optional")
        if not second_optional:
            self._read_pairs(always="second" in chosen)
        self._columns = Columns(
            text=tuple(_words(chosen, "text")) if "text" in chosen else ("text",),
            second=chosen.get("second", "second" if second_optional else ""),
            second_optional=second_optional,
            label=chosen.get("label", "label"),
            id=tuple(_words(chosen, "id")) if "id" in chosen else (),
            separator=chosen.get("separator", ",") if self.kind == "several" else "",
            number=self.kind == "number",
            names={label: label for label in self._labels} or None,
        )

    def read(self, path: Path, split: str) -> Iterator[Sentences]:
        return read_sentences(path, self._columns, self.notes, labelled=has_labels(split))

    def labels(self, examples: Iterable[Sentences]) -> tuple[str, ...]:
        """Those that were given, else as `SentenceTask.labels`."""
        return self._labels or super().labels(examples)


def _words(options: Mapping[str, str], key: str) -> list[str]:
    """The names in an option, each once and none of them empty."""
    words = [word.strip() for word in options[key].split(",")]
    if not all(words) or len(set(words)) < len(words):
        raise InputError(f"{options[key]!r} is not a list of different names", where=f"--option {key}=...",
                         hint="separate them by commas: a,b,c")  # fmt: skip
    return words

"""GLUE's nine tasks, XNLI and AG News: their files as they are published, and those that GLUE's server takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bertjobs.errors import InputError, nearest
from bertjobs.files.atomic import write_text
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.lines import with_compressed
from bertjobs.tasks.reading.sentences import Columns, read_sentences
from bertjobs.tasks.reading.tables import read_rows


@dataclass(frozen=True)
class FileLayout:
    """How a file of a benchmark is laid out.

    Attributes:
        file: its name.
        columns: what its columns hold.
        kind: ``tsv`` or ``csv``, whatever its name ends with.
        header: the names of its columns, if its first line does not say them.
        leave_out_ragged: it is known for a few rows with a wrong number of fields.
        without, within: a file beside it, of ids that are left out here, or of the only ones that are read.
    """

    file: str
    columns: Columns
    kind: str = "tsv"
    header: tuple[str, ...] = ()
    leave_out_ragged: bool = False
    without: str = ""
    within: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The file's name, and those that it has when it is compressed."""
        return with_compressed(self.file)


@dataclass(frozen=True)
class Benchmark:
    """A published task.

    Attributes:
        name: as published.
        layouts: of the files of each split; the first one that is there is read.
        labels: names of the classes in the published order, by how they are written in files; empty where a number is
            to be predicted. Where there is a positive class it is the second.
        submissions: by split, the file with predictions that GLUE's server takes.
        lowest, highest: bounds of the number to be predicted.
    """

    name: str
    layouts: Mapping[str, tuple[FileLayout, ...]]
    labels: Mapping[str, str] = field(default_factory=dict)
    submissions: Mapping[str, str] = field(default_factory=dict)
    lowest: float = 0
    highest: float = 0

    @property
    def files(self) -> dict[str, tuple[str, ...]]:
        """By split, the names that its file may have."""
        return {
            split: tuple(name for layout in layouts for name in layout.names) for split, layouts in self.layouts.items()
        }

    @property
    def is_number(self) -> bool:
        return not self.labels


def has_labels(split: str) -> bool:
    """Whether every example of a split must have a label: those of a test set may have none."""
    return split.startswith(("train", "dev"))


def read_benchmark(benchmark: Benchmark, path: Path, split: str, notes: Notes) -> Iterator[Sentences]:
    """The examples of one of a benchmark's files; without ids of their own they are numbered from 0.

    Raises:
        InputError: as `read_sentences`; or the list of ids that the split needs is not beside the file.
    """
    layouts = benchmark.layouts[split]
    layout = next((each for each in layouts if path.name in each.names), layouts[0])
    examples = read_sentences(
        path,
        layout.columns,
        notes,
        labelled=has_labels(split),
        kind=layout.kind,
        header=layout.header,
        leave_out_ragged=layout.leave_out_ragged,
    )
    if not (name := layout.within or layout.without):
        yield from examples
        return
    listed = _listed_ids(path.parent / name, notes)
    yield from (example for example in examples if (example.id in listed) == bool(layout.within))


def _listed_ids(path: Path, notes: Notes) -> set[str]:
    """The pairs of ids of MRPC's list of the sentences that are its dev set."""
    rows = read_rows(path, ("first", "second"), notes, kind="tsv", header=("first", "second"))
    return {f"{row.cells['first']} {row.cells['second']}" for row in rows}


def write_submission(
    benchmark: Benchmark, split: str, predictions: Iterable[tuple[str, str | float]], folder: Path
) -> Path:
    """Write the file that GLUE's server takes: a header, then the index and the prediction of each example.

    Args:
        predictions: id, and label or number.

    Raises:
        InputError: the benchmark has no such file for the split, an id is not an index, or a prediction is not one of
            the benchmark's labels, or not a number where it has none.
        OSError: the file cannot be written.
    """
    if (name := benchmark.submissions.get(split)) is None:
        raise InputError(
            f"{benchmark.name} has no submission file for {split}",
            hint=f"it has them for: {', '.join(benchmark.submissions) or 'no split'}",
        )
    written = {label: as_written for as_written, label in benchmark.labels.items()}
    rows = []
    for identifier, prediction in predictions:
        if not identifier.isdecimal():
            raise InputError(f"the id {identifier!r} is not an index of GLUE's test set", where=split,
                             hint=f"predict GLUE's own file for {name}")  # fmt: skip
        if benchmark.is_number and not isinstance(prediction, str) and math.isfinite(prediction):
            rows.append((int(identifier), f"{min(max(prediction, benchmark.lowest), benchmark.highest):.3f}"))
        elif prediction in written:
            rows.append((int(identifier), written[str(prediction)]))
        else:
            what = "a number" if benchmark.is_number else f"a label of {benchmark.name}"
            raise InputError(f"{prediction!r} is not {what}", where=f"id {identifier}",
                             hint=nearest(str(prediction), written))  # fmt: skip
    lines = ["index\tprediction", *(f"{index}\t{value}" for index, value in sorted(rows))]
    write_text(folder / name, "\n".join(lines) + "\n")
    return folder / name


def _columns(
    *text: str,
    label: str,
    labels: Mapping[str, str],
    id: tuple[str, ...] = (),
    only: tuple[str, str] | None = None,
) -> Columns:
    """One column of text, or two of a pair; without names of ``labels`` the label is a number."""
    first, second = text if len(text) == 2 else (text[0], "")
    return Columns(
        (first,), second, label, id, number=not labels, names=labels or None, only=only, row_ids=True
    )  # fmt: skip


def _plain(name: str, *text: str, labels: Mapping[str, str], label: str = "label") -> Benchmark:
    """A benchmark with ``train.tsv``, ``dev.tsv`` and ``test.tsv``, each with a header."""
    known = _columns(*text, label=label, labels=labels)
    unknown = _columns(*text, label="", labels=labels, id=("index",))
    return Benchmark(
        name,
        {
            "train": (FileLayout("train.tsv", known),),
            "dev": (FileLayout("dev.tsv", known),),
            "test": (FileLayout("test.tsv", unknown),),
        },
        labels,
        {"test": f"{name}.tsv"},
        0,
        0 if labels else 5,
    )


def _as_named(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


def _cola() -> Benchmark:
    labels, header = {"0": "unacceptable", "1": "acceptable"}, ("source", "label", "star", "sentence")
    known = _columns("sentence", label="label", labels=labels)
    return Benchmark(
        "CoLA",
        {
            "train": (FileLayout("train.tsv", known, header=header),),
            "dev": (FileLayout("dev.tsv", known, header=header),),
            "test": (FileLayout("test.tsv", _columns("sentence", label="", labels=labels, id=("index",))),),
        },
        labels,
        {"test": "CoLA.tsv"},
    )


def _mrpc() -> Benchmark:
    labels, text = {"0": "not_equivalent", "1": "equivalent"}, ("#1 String", "#2 String")
    known = _columns(*text, label="Quality", labels=labels)
    paired = _columns(*text, label="Quality", labels=labels, id=("#1 ID", "#2 ID"))
    return Benchmark(
        "MRPC",
        {
            "train": (
                FileLayout("train.tsv", known),
                FileLayout("msr_paraphrase_train.txt", paired, without="dev_ids.tsv"),
            ),
            "dev": (FileLayout("dev.tsv", known), FileLayout("msr_paraphrase_train.txt", paired, within="dev_ids.tsv")),
            "test": (
                FileLayout("test.tsv", _columns(*text, label="Quality", labels=labels)),
                FileLayout("msr_paraphrase_test.txt", known),
            ),
        },
        labels,
        {"test": "MRPC.tsv"},
    )


def _qqp() -> Benchmark:
    labels, text = {"0": "not_duplicate", "1": "duplicate"}, ("question1", "question2")
    known = _columns(*text, label="is_duplicate", labels=labels)
    return Benchmark(
        "QQP",
        {
            "train": (FileLayout("train.tsv", known, leave_out_ragged=True),),
            "dev": (FileLayout("dev.tsv", known, leave_out_ragged=True),),
            "test": (FileLayout("test.tsv", _columns(*text, label="", labels=labels, id=("id",))),),
        },
        labels,
        {"test": "QQP.tsv"},
    )


_NLI = _as_named("entailment", "neutral", "contradiction")
_TWO_WAY = _as_named("entailment", "not_entailment")


def _mnli() -> Benchmark:
    text = ("sentence1", "sentence2")
    known = _columns(*text, label="gold_label", labels=_NLI)
    unknown = _columns(*text, label="", labels=_NLI, id=("index",))
    return Benchmark(
        "MNLI",
        {
            "train": (FileLayout("train.tsv", known),),
            "dev": (FileLayout("dev_matched.tsv", known),),
            "dev_mismatched": (FileLayout("dev_mismatched.tsv", known),),
            "test": (FileLayout("test_matched.tsv", unknown),),
            "test_mismatched": (FileLayout("test_mismatched.tsv", unknown),),
            "test_diagnostic": (FileLayout("diagnostic.tsv", unknown), FileLayout("AX.tsv", unknown)),
        },
        _NLI,
        {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv", "test_diagnostic": "AX.tsv"},
    )


GLUE: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _cola(),
        _plain("SST-2", "sentence", labels={"0": "negative", "1": "positive"}),
        _mrpc(),
        _qqp(),
        _plain("STS-B", "sentence1", "sentence2", label="score", labels={}),
        _mnli(),
        _plain("QNLI", "question", "sentence", labels=_TWO_WAY),
        _plain("RTE", "sentence1", "sentence2", labels=_TWO_WAY),
        _plain("WNLI", "sentence1", "sentence2", labels={"0": "not_entailment", "1": "entailment"}),
    )
}
"""GLUE's nine tasks by name."""

XNLI_LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")


def xnli(language: str = "en", train_language: str = "en") -> Benchmark:
    """XNLI in one language: its files hold all of them; the training data is MultiNLI, translated.

    Raises:
        InputError: XNLI does not have the language; names the nearest.
    """
    for name in (language, train_language):
        if name not in XNLI_LANGUAGES:
            raise InputError(f"XNLI does not have the language {name!r}", hint=nearest(name, XNLI_LANGUAGES))
    text = ("sentence1", "sentence2")
    known = _columns(*text, label="gold_label", labels=_NLI, id=("pairID",), only=("language", language))
    translated = _columns("premise", "hypo", label="label", labels=_NLI | {"contradictory": "contradiction"})
    return Benchmark(
        "XNLI",
        {
            "train": (FileLayout(f"multinli.train.{train_language}.tsv", translated),),
            "dev": (FileLayout("xnli.dev.tsv", known),),
            "test": (FileLayout("xnli.test.tsv", known),),
        },
        _NLI,
    )


def _ag_news() -> Benchmark:
    labels = {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}
    columns = Columns(("title", "description"), label="class", names=labels, row_ids=True)
    layouts = {
        split: (FileLayout(file, columns, "csv", ("class", "title", "description")),)
        for split, file in (("train", "train.csv"), ("dev", "dev.csv"), ("test", "test.csv"))
    }
    return Benchmark("AG News", layouts, labels)


AG_NEWS = _ag_news()
"""Its own files are train.csv and test.csv; a dev.csv is one's own."""

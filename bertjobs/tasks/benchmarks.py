"""GLUE's nine tasks, XNLI and AG News: one class, by the table of their files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bertjobs.tasks.example import Sentences
from bertjobs.tasks.metrics.scores import Scores
from bertjobs.tasks.reading.glue import AG_NEWS, GLUE, Benchmark, read_benchmark, write_submission, xnli
from bertjobs.tasks.sentences import SentenceTask
from bertjobs.tasks.task import Fitted, Prediction

BENCHMARKS: Mapping[str, Benchmark] = {
    **{name.lower().replace("-", ""): benchmark for name, benchmark in GLUE.items()},
    "xnli": xnli(),
    "agnews": AG_NEWS,
}
"""By the name on the command line."""

RANKED_BY: Mapping[str, tuple[str, ...]] = {
    "cola": ("matthews",),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
}
"""What GLUE ranks a task by: of two measures their mean. The others are ranked by accuracy."""

_LANGUAGES = {
    "language": "of the dev and test data, by default en",
    "train_language": "of the training data, by default en",
}


class BenchmarkTask(SentenceTask):
    """A published task in its own files.

    Its `measure` is what GLUE ranks by (`RANKED_BY`); MNLI's is the accuracy on the matched dev data.

    Args:
        name: one of `BENCHMARKS`.

    Raises:
        InputError: as `Task`; XNLI does not have the language.
    """

    def __init__(self, name: str, options: Mapping[str, str] | None = None) -> None:
        self.name = name  # type: ignore[misc]
        self.benchmark = BENCHMARKS[name]
        self.files = self.benchmark.files  # type: ignore[misc]
        self.option_help = _LANGUAGES if name == "xnli" else {}  # type: ignore[misc]
        self.kind = "number" if self.benchmark.is_number else "class"
        self._ranked_by = RANKED_BY.get(name, ("accuracy",))
        self.measure = "_".join(self._ranked_by) + "_mean" * (len(self._ranked_by) > 1)  # type: ignore[misc]
        super().__init__(options)
        layouts = [layout for of_split in self.benchmark.layouts.values() for layout in of_split]
        self._read_pairs(always=any(layout.columns.second for layout in layouts))
        if name == "xnli":
            self.benchmark = xnli(**self.options)
            self.files = self.benchmark.files  # type: ignore[misc]
        self.__doc__ = f"{self.benchmark.name}, in its own files; ranked by {self.measure.replace('_', ' ')}"

    @classmethod
    def named(cls, name: str, options: Mapping[str, str] | None = None) -> BenchmarkTask:
        return cls(name, options)

    def companions(self, path: Path, split: str) -> list[Path]:
        """The list of ids that says which of the training file's rows are dev data, as for MRPC."""
        layouts = self.benchmark.layouts.get(split, ())
        names = {layout.without or layout.within for layout in layouts if path.name in layout.names}
        return [path.parent / name for name in sorted(names - {""}) if (path.parent / name).is_file()]

    def read(self, path: Path, split: str) -> Iterator[Sentences]:
        return read_benchmark(self.benchmark, path, split, self.notes)

    def labels(self, examples: Iterable[Sentences]) -> tuple[str, ...]:  # noqa: ARG002
        """Those that are published, in their order; () for numbers."""
        return tuple(dict.fromkeys(self.benchmark.labels.values()))

    def score(self, scored: Iterable[tuple[Sentences, Prediction]], fitted: Fitted) -> Scores:
        scores = super().score(scored, fitted)
        mean = sum(scores.values[name] for name in self._ranked_by) / len(self._ranked_by)
        return Scores({**scores.values, self.measure: mean}, scores.notes)

    def submits(self, split: str) -> bool:
        return split in self.benchmark.submissions

    def write_submission(self, predictions: Iterable[Prediction], split: str, folder: Path) -> list[Path]:
        """The file that GLUE's server takes.

        Raises:
            InputError: an id is not an index of GLUE's test set.
            OSError: the file cannot be written.
        """
        key = "value" if self.kind == "number" else "label"
        pairs = ((prediction["id"], prediction[key]) for prediction in predictions)
        return [write_submission(self.benchmark, split, pairs, folder)]

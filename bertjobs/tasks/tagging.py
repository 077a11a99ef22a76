"""A tag for each word: names of persons and places, punctuation, parts of speech, normalisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import PreTokenizedString, normalizers, pre_tokenizers

from bertjobs.errors import InputError, nearest
from bertjobs.files.atomic import new_file
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.example import Words
from bertjobs.tasks.metrics.scores import Scores
from bertjobs.tasks.metrics.spans import OUTSIDE, are_span_tags, span_scores, spans_of, tag_scores
from bertjobs.tasks.options import flag
from bertjobs.tasks.probabilities import softmax
from bertjobs.tasks.reading.conll import WordColumns, read_word_lines, read_words
from bertjobs.tasks.reading.lines import with_compressed
from bertjobs.tasks.rows import NOT_SCORED, Head, Output, Row
from bertjobs.tasks.task import Fitted, Prediction, Task, check_keys
from bertjobs.tasks.windows import Window, overlap_of, windows_of

_SUFFIXES = ("conll", "conllu", "tsv", "txt")


class TaggingTask(Task[Words]):
    """A tag for each word, read from CoNLL files, word<TAB>tag lines, or words<TAB>tags lines.

    The tag of a word is predicted from its first piece. Every word gets one: long sentences are read in overlapping
    windows, and a word that the tokenizer removes (of control characters alone) gets `fallback`.
    """

    name = "tagging"
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": with_compressed(*(f"train.{suffix}" for suffix in _SUFFIXES), "eng.train"),
        "dev": with_compressed(*(f"{name}.{suffix}" for name in ("dev", "valid") for suffix in _SUFFIXES), "eng.testa"),
        "test": with_compressed(*(f"test.{suffix}" for suffix in _SUFFIXES), "eng.testb"),
    }
    measure = "f1"
    optional_keys: ClassVar[tuple[str, ...]] = ()
    option_help: ClassVar[Mapping[str, str]] = {
        "lines": "true: a sentence per line, words<TAB>tags; else a word per line, an empty line between sentences",
        "word": "column of the word, from 1; by default the first, in CoNLL-U the second",
        "column": "column of the tag, from 1; by default the last, in CoNLL-U the fourth (UPOS)",
        "comments": "true: lines that begin with # are comments, ranges of words (1-2) are passed over, as in CoNLL-U",
        "strict": "true: a tag I-X that begins a span is refused, not counted",
    }

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        super().__init__(options)
        conll_u, columns = flag(self.options, "comments"), self.options.keys() - {"lines"}
        if flag(self.options, "lines") and columns:
            raise InputError(f"{min(columns)} is not an option of files with one sentence per line",
                             where=f"--option {min(columns)}", hint="leave out one of the two")  # fmt: skip
        self._columns = WordColumns(
            word=self._column("word", 2 if conll_u else 1),
            tag=self._column("column", 4 if conll_u else -1),
            conll_u=conll_u,
            strict=flag(self.options, "strict"),
        )

    def read(self, path: Path, split: str) -> Iterator[Words]:
        if flag(self.options, "lines"):
            return read_word_lines(path, labelled=split != "test")
        return read_words(path, self._columns, self.notes, labelled=split != "test")

    def labels(self, examples: Iterable[Words]) -> tuple[str, ...]:
        """All tags of the examples, the commonest first."""
        counts = Counter(tag for example in examples for tag in example.tags or ())
        return tuple(sorted(counts, key=lambda tag: (-counts[tag], tag)))

    def head(self, labels: Sequence[str]) -> Head:
        return Head("token", len(labels))

    def rows(self, examples: Sequence[Words], encoder: TextEncoder, fitted: Fitted) -> list[list[Row]]:
        numbers = {label: number for number, label in enumerate(fitted.labels)}
        rows = []
        for example, (pieces, windows) in zip(examples, self._in_windows(examples, encoder), strict=True):
            targets = _targets(example, numbers)
            rows.append([_row(window, pieces, targets, encoder) for window in windows])
        return rows

    def predict(
        self, examples: Sequence[Words], outputs: Sequence[Sequence[Output]], encoder: TextEncoder, fitted: Fitted
    ) -> list[Prediction]:
        predictions = []
        with_spans = are_span_tags(fitted.labels)
        encoded = self._in_windows(examples, encoder)
        for example, (pieces, windows), of_example in zip(examples, encoded, outputs, strict=True):
            tags = [fallback(fitted.labels)] * len(example.words)
            shares = [0.0] * len(example.words)
            for window, output in zip(windows, of_example, strict=True):
                words = [word for word in window.read if pieces[word]]
                read = output[: len(words)]
                best = softmax(read).max(1).tolist()
                for word, number, share in zip(words, read.argmax(1).tolist(), best, strict=True):
                    tags[word], shares[word] = fitted.labels[number], share
            prediction: Prediction = {"id": example.id, "words": list(example.words), "tags": tags}
            if with_spans:
                prediction["entities"] = _entities(example, tags, shares)
            predictions.append(prediction)
        return predictions

    def score(self, scored: Iterable[tuple[Words, Prediction]], fitted: Fitted) -> Scores:
        """As conlleval.pl where the tags are B-X, I-X and O, else of each tag; ``f1`` is of all but O together."""
        pairs = ((example.tags or (), prediction["tags"]) for example, prediction in scored)
        return span_scores(pairs) if are_span_tags(fitted.labels) else tag_scores(pairs)

    def write_submission(self, predictions: Iterable[Prediction], split: str, folder: Path) -> list[Path]:
        """Write ``SPLIT.conll``: word<TAB>tag, an empty line between sentences."""
        path = folder / f"{split}.conll"
        with new_file(path) as file:
            for number, prediction in enumerate(predictions):
                lines = [f"{word}\t{tag}\n" for word, tag in zip(prediction["words"], prediction["tags"], strict=True)]
                file.write(("\n" * (number > 0) + "".join(lines)).encode())
        return [path]

    def from_text(self, texts: Sequence[Mapping[str, str]]) -> list[Words]:
        """Raw texts, each under the key ``text``, cut into words as BERT does: at blanks, around punctuation and CJK
        characters.

        Raises:
            InputError: there is another key, or a text without a word.
        """
        check_keys(texts, self.text_keys)
        examples = []
        for number, fields in enumerate(texts, 1):
            cut = words_of(fields["text"])
            if not cut:
                raise InputError("the text has no word", where=f"text {number:,}")
            words, starts = zip(*cut, strict=True)
            examples.append(Words(str(number), words, where=f"text {number:,}", starts=starts))
        return examples

    def _in_windows(
        self, examples: Sequence[Words], encoder: TextEncoder
    ) -> Iterator[tuple[list[list[int]], list[Window]]]:
        """For each example the pieces of each word, and the windows."""
        room = encoder.max_length - 2
        most = overlap_of(room)
        for example, by_word in zip(examples, encoder.words([one.words for one in examples]), strict=True):
            if any(len(of_word) > most for of_word in by_word):
                self.notes.add(f"sentences have words of more than {most} pieces, which were cut off", example.where)
                by_word = [of_word[:most] for of_word in by_word]
            yield by_word, windows_of([len(of_word) for of_word in by_word], room)

    def _column(self, name: str, default: int) -> int:
        text = self.options.get(name)
        if text is None:
            return default
        try:
            if (column := int(text)) > 0 or column == -1:
                return column
        except ValueError:
            pass
        raise InputError(f"{text!r} is not a column: 1, 2 and so on, or -1 for the last", where=f"--option {name}")


def fallback(labels: Sequence[str]) -> str:
    """The tag of a word that has no piece: O, or else the commonest one."""
    return OUTSIDE if OUTSIDE in labels else labels[0]


_CLEAN = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False)
_SPLIT = pre_tokenizers.BertPreTokenizer()


def words_of(text: str) -> list[tuple[str, int]]:
    """The words of a text, as they stand there, and where each begins, in characters."""
    cut = PreTokenizedString(text)
    cut.normalize(_CLEAN.normalize)
    _SPLIT.pre_tokenize(cut)
    offsets = [place for _, place, _ in cut.get_splits(offset_referential="original", offset_type="char")]
    return [(text[start:end], start) for start, end in offsets]


def _targets(example: Words, numbers: Mapping[str, int]) -> list[int] | None:
    if example.tags is None:
        return None
    for place, tag in enumerate(example.tags):
        if tag not in numbers:
            raise InputError(
                f"the tag {tag!r} of word {place + 1:,}, {example.words[place]!r}, does not occur in training",
                where=example.where,
                hint=nearest(tag, numbers),
            )
    return [numbers[tag] for tag in example.tags]


def _row(window: Window, pieces: Sequence[list[int]], targets: Sequence[int] | None, encoder: TextEncoder) -> Row:
    ids, read, target = [encoder.vocabulary.cls_id], [], []
    for word in window.seen:
        if word in window.read and pieces[word]:
            read.append(len(ids))
            target.append(targets[word] if targets else NOT_SCORED)
        ids += pieces[word]
    ids.append(encoder.vocabulary.sep_id)
    if not read:  # no word has a piece: [CLS] is read in their place, and not scored
        read, target = [0], [NOT_SCORED]
    return Row(ids, len(ids), () if targets is None else target, read)


def _entities(example: Words, tags: Sequence[str], shares: Sequence[float]) -> list[dict[str, Any]]:
    """The spans of the tags, in characters of the text, or where that is not known of the words joined by blanks.

    A span's probability is the mean over its words of the probability of their tags.
    """
    starts = example.starts or list(accumulate((len(word) + 1 for word in example.words), initial=0))
    ends = [start + len(word) for start, word in zip(starts, example.words, strict=False)]
    return [
        {"type": span.type, "words": list(example.words[span.start : span.end]),
         "start": starts[span.start], "end": ends[span.end - 1],
         "probability": sum(shares[span.start : span.end]) / (span.end - span.start)}
        for span in spans_of(tags)
    ]  # fmt: skip

"""A tag for each word: names, parts of speech, punctuation, spelled-out forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tokenizers import pre_tokenizers

from bertjobs.errors import InputError, nearest
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.example import Words
from bertjobs.tasks.metrics.scores import Scores
from bertjobs.tasks.metrics.spans import OUTSIDE, are_span_tags, span_scores, spans_of, tag_scores
from bertjobs.tasks.options import flag, whole_number
from bertjobs.tasks.reading.conll import WordColumns, read_words
from bertjobs.tasks.rows import NOT_SCORED, Head, Output, Row
from bertjobs.tasks.task import Fitted, Prediction, Task

SPECIALS = 2
"""[CLS] and [SEP]."""


class TaggingTask(Task[Words]):
    """A tag for each word; files of one word and its tag per line, with an empty line between sentences.

    A word's tag is read off its first piece. Sentences longer than the model become windows that overlap by half, and
    each word's tag is that of the window in which it has most context, so that every word is predicted.
    """

    name = "tagging"
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": ("train.txt", "train.tsv", "train.conll", "eng.train"),
        "dev": ("dev.txt", "dev.tsv", "dev.conll", "valid.txt", "eng.testa"),
        "test": ("test.txt", "test.tsv", "test.conll", "eng.testb"),
    }
    measure = "f1"
    option_help: ClassVar[Mapping[str, str]] = {
        "word": "column of the word, from 1 (default: 1)",
        "tag": "column of the tag, from 1; -1 is the last one (default: -1)",
        "conll_u": "true for CoNLL-U: comments and word ranges are passed over (default: false)",
        "strict": "true refuses spans that begin with I- (default: false, they are counted)",
    }

    def read(self, path: Path, split: str) -> Iterator[Words]:
        columns = WordColumns(
            word=whole_number(self.options, "word", 1),
            tag=whole_number(self.options, "tag", -1, minimum=-1),
            conll_u=flag(self.options, "conll_u"),
            strict=flag(self.options, "strict"),
        )
        return read_words(path, columns, self.notes, labelled=split != "test")

    def labels(self, examples: Iterable[Words]) -> tuple[str, ...]:
        """All tags, O first."""
        tags = {tag for example in examples for tag in example.tags or ()}
        return tuple(sorted(tags, key=lambda tag: (tag != OUTSIDE, tag)))

    def head(self, labels: Sequence[str]) -> Head:
        return Head("token", len(labels))

    def rows(self, examples: Sequence[Words], encoder: TextEncoder, fitted: Fitted) -> list[list[Row]]:
        numbers = {tag: number for number, tag in enumerate(fitted.labels)}
        made = []
        for example, pieces in zip(examples, self._pieces(examples, encoder), strict=True):
            targets = self._targets(example, numbers)
            made.append([_row(window, pieces, targets, encoder) for window in _windows(pieces, encoder.max_length)])
        return made

    def _pieces(self, examples: Sequence[Words], encoder: TextEncoder) -> list[list[list[int]]]:
        """The token ids of each word of each example; those of a word longer than a window are cut off."""
        encoded = iter(encoder.pieces([word for example in examples for word in example.words]))
        longest = encoder.max_length - SPECIALS
        result = []
        for example in examples:
            words = [next(encoded).ids for _ in example.words]
            encoder.truncated += any(len(ids) > longest for ids in words)
            result.append([ids[:longest] for ids in words])
        return result

    def _targets(self, example: Words, numbers: Mapping[str, int]) -> list[int]:
        if example.tags is None:
            return []
        for place, tag in enumerate(example.tags):
            if tag not in numbers:
                word = example.words[place]
                raise InputError(
                    f"the tag {tag!r} of {word!r} does not occur in training",
                    where=example.where,
                    hint=nearest(tag, numbers) or f"the tags of training: {', '.join(list(numbers)[:20])}",
                )
        return [numbers[tag] for tag in example.tags]

    def predict(
        self, examples: Sequence[Words], outputs: Sequence[Sequence[Output]], encoder: TextEncoder, fitted: Fitted
    ) -> list[Prediction]:
        made = []
        for example, pieces, windows in zip(examples, self._pieces(examples, encoder), outputs, strict=True):
            tags = [OUTSIDE if OUTSIDE in fitted.labels else fitted.labels[0]] * len(
                example.words
            )  # a word of no piece
            best = [-1] * len(example.words)
            for (first, last), output in zip(_windows(pieces, encoder.max_length), windows, strict=True):
                chosen = iter(output.argmax(1))
                for word in range(first, last):
                    if not pieces[word]:
                        continue
                    number = int(next(chosen))
                    context = min(word - first, last - 1 - word) if len(windows) > 1 else 0
                    if context > best[word]:
                        tags[word], best[word] = fitted.labels[number], context
            made.append({"id": example.id, "words": list(example.words), "tags": tags, **_entities(example, tags)})
        return made

    def score(self, scored: Iterable[tuple[Words, Prediction]], fitted: Fitted) -> Scores:
        pairs = ((example.tags or (), prediction["tags"]) for example, prediction in scored)
        if are_span_tags(fitted.labels):
            return span_scores(pairs)
        return tag_scores(pairs)

    def write_submission(self, predictions: Iterable[Prediction], split: str, folder: Path) -> list[Path]:
        """Words and tags, one per line, an empty line after each sentence."""
        path = folder / f"{split}.txt"
        with path.open("w", encoding="utf-8") as file:
            for one in predictions:
                lines = (f"{word}\t{tag}\n" for word, tag in zip(one["words"], one["tags"], strict=True))
                file.write("".join(lines) + "\n")
        return [path]

    def from_text(self, texts: Sequence[Mapping[str, str]]) -> list[Words]:
        """Sentences of plain text, under the key ``text``: words as BERT's own tokenizer cuts them."""
        cutter = pre_tokenizers.BertPreTokenizer()
        return [
            Words(one.get("id", str(number)), tuple(word for word, _ in cutter.pre_tokenize_str(one["text"])))
            for number, one in enumerate(texts, 1)
        ]


def _windows(pieces: Sequence[Sequence[int]], max_length: int) -> list[tuple[int, int]]:
    """Ranges of words whose pieces fit a row; from one to the next about half of them repeat."""
    room, sizes = max_length - SPECIALS, [len(ids) for ids in pieces]
    ends = np.cumsum([0, *sizes])
    windows, first = [], 0
    while True:
        last = int(np.searchsorted(ends, ends[first] + room, side="right")) - 1
        windows.append((first, last))
        if last >= len(sizes):
            return windows
        half = int(np.searchsorted(ends, ends[first] + (ends[last] - ends[first]) / 2, side="left"))
        first = max(first + 1, min(half, last))


def _row(window: tuple[int, int], pieces: Sequence[list[int]], targets: Sequence[int], encoder: TextEncoder) -> Row:
    ids: list[int] = []
    read, target = [], []
    for word in range(*window):
        if pieces[word]:
            read.append(len(ids) + 1)
            target.append(targets[word] if targets else NOT_SCORED)
        ids += pieces[word]
    whole = encoder.single(ids)
    return Row(whole, len(whole), target if targets else (), read)


def _entities(example: Words, tags: Sequence[str]) -> dict[str, Any]:
    """The spans, with their places in the words joined by blanks, in characters; nothing where tags have no spans."""
    if not are_span_tags(set(tags) - {OUTSIDE}):
        return {}
    starts = np.cumsum([0, *(len(word) + 1 for word in example.words)])
    return {
        "entities": [
            {
                "type": span.type,
                "text": " ".join(example.words[span.start : span.end]),
                "start": int(starts[span.start]),
                "end": int(starts[span.end]) - 1,
            }
            for span in spans_of(tags)
        ]
    }

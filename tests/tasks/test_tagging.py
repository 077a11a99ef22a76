"""Tags of words: encoded with all of their words, predicted for each, scored as conlleval.pl scores them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, Vocabulary
from bertjobs.errors import InputError
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.example import Words
from bertjobs.tasks.prepare import prepare_task
from bertjobs.tasks.rows import NOT_SCORED, Output, Row
from bertjobs.tasks.tagging import TaggingTask, fallback, words_of
from bertjobs.tasks.task import Fitted, open_task
from tests.tasks.metrics.official.record_conlleval import FILE
from tests.tasks.metrics.test_spans import as_conlleval_prints
from tests.tasks.reading.files import refused, write

TOKENS = [*SPECIAL_TOKENS, "the", "king", "of", "ber", "##lin", "##s", "met", "ann", ",", ".", "word", "-", "1"]
TAGS = ("O", "B-LOC", "B-PER", "I-PER")
REMOVED = "\u200b"
"""A word of which the tokenizer leaves nothing."""


@pytest.fixture
def encoder(tmp_path: Path) -> TextEncoder:
    path = write(tmp_path / "vocab.txt", *TOKENS)
    return TextEncoder(Vocabulary.read(path, lowercase=True), 16)


RECORDED = [entry for entry in json.loads(FILE.read_text(encoding="utf-8")) if "without types" not in entry["name"]]
"""Tags without types (B, I, O) are scored one by one."""


def tokens(encoder: TextEncoder, ids: Sequence[int]) -> list[str]:
    return [encoder.vocabulary.tokens[number] for number in ids]


def outputs_that_say(rows: Sequence[Row], tags: Sequence[int]) -> list[Output]:
    """What a model would say that is sure of these tags, one for each word that is read, in order."""
    wanted = iter(tags)
    of_rows = []
    for row in rows:
        output = np.zeros((len(row.read), max(tags) + 1), dtype=np.float32)
        for place in range(len(row.read)):
            output[place, next(wanted)] = 1
        of_rows.append(output)
    return of_rows


def test_the_tag_of_a_word_is_that_of_its_first_piece(encoder: TextEncoder) -> None:
    example = Words("1", ("Ann", "met", "Berlins", "king,"), ("B-PER", "O", "B-LOC", "O"))
    ((row,),) = open_task("tagging").rows([example], encoder, Fitted(TAGS))
    assert tokens(encoder, row.ids) == ["[CLS]", "ann", "met", "ber", "##lin", "##s", "king", ",", "[SEP]"]
    assert (row.read, row.target, row.second) == ([1, 2, 3, 6], [2, 0, 1, 0], len(row.ids))


def test_a_word_that_the_tokenizer_removes_gets_a_tag_too(encoder: TextEncoder) -> None:
    task = open_task("tagging")
    examples = [Words("1", ("met", REMOVED, "Ann"), ("O", "O", "B-PER")), Words("2", (REMOVED,), ("B-PER",))]
    rows = task.rows(examples, encoder, Fitted(TAGS))
    assert (rows[0][0].read, rows[0][0].target) == ([1, 2], [0, 2])
    assert rows[1] == [Row([2, 3], 2, [NOT_SCORED], [0])]
    outputs = [outputs_that_say(rows[0], [1, 2]), outputs_that_say(rows[1], [3])]
    first, second = task.predict(examples, outputs, encoder, Fitted(TAGS))
    assert (first["tags"], second["tags"]) == (["B-LOC", "O", "B-PER"], ["O"])
    assert fallback(("COMMA", "PERIOD")) == "COMMA"  # labels begin with the commonest


def test_of_a_long_sentence_every_word_is_read(encoder: TextEncoder) -> None:
    task = open_task("tagging")
    words, numbers = ("Berlin", "king", "met") * 30, [1, 0, 3] * 30
    example = Words("1", words, tuple(TAGS[number] for number in numbers))
    (rows,) = task.rows([example], encoder, Fitted(TAGS))
    assert len(rows) > 8
    assert max(len(row.ids) for row in rows) <= 16
    assert [target for row in rows for target in row.target] == numbers
    read = [tokens(encoder, row.ids)[place] for row in rows for place in row.read]
    assert read == ["ber", "king", "met"] * 30
    (prediction,) = task.predict([example], [outputs_that_say(rows, numbers)], encoder, Fitted(TAGS))
    assert tuple(prediction["tags"]) == example.tags


def test_a_word_longer_than_the_model_is_cut_and_said(encoder: TextEncoder) -> None:
    task = open_task("tagging")
    example = Words("1", ("king", "-" * 40, "met"), ("O", "B-PER", "O"), where="train.txt, line 1")
    ((row,),) = task.rows([example], encoder, Fitted(TAGS))
    assert tokens(encoder, row.ids) == ["[CLS]", "king", "-", "-", "-", "-", "met", "[SEP]"]
    assert row.read == [1, 2, 6]
    assert task.notes.lines() == [
        "1 sentences have words of more than 4 pieces, which were cut off (first: train.txt, line 1)"
    ]


@pytest.mark.parametrize("entry", RECORDED, ids=lambda entry: entry["name"])
def test_from_file_to_score_as_conlleval_prints(entry: dict[str, list], tmp_path: Path, encoder: TextEncoder) -> None:
    sentences = [(gold.split(), guess.split()) for gold, guess in entry["sentences"]]
    labels = tuple(sorted({tag for both in sentences for tags in both for tag in tags}))
    blocks = ["".join(f"word\t{tag}\n" for tag in gold) for gold, _ in sentences]
    path = tmp_path / "dev.txt"
    path.write_text("\n".join(blocks))
    task, fitted = open_task("tagging"), Fitted(labels)
    examples = list(task.read(path, "dev"))
    rows = task.rows(examples, encoder, fitted)
    guesses = [[labels.index(tag) for tag in guess] for _, guess in sentences]
    outputs = [outputs_that_say(of_example, guess) for of_example, guess in zip(rows, guesses, strict=True)]
    padded = [[np.pad(one, ((0, 0), (0, len(labels) - one.shape[1]))) for one in of_one] for of_one in outputs]
    predictions = task.predict(examples, padded, encoder, fitted)
    scores = task.score(zip(examples, predictions, strict=True), fitted)
    assert as_conlleval_prints(scores.values) == list(dict.fromkeys(entry["printed"]))
    (written,) = task.write_submission(predictions, "dev", tmp_path)
    assert [list(one.tags) for one in task.read(written, "dev")] == [guess for _, guess in sentences]


def test_a_text_is_cut_into_words_with_their_places() -> None:
    text = "Ann\u200b met  王明,\nin U.S."
    words = words_of(text)
    assert [word for word, _ in words] == ["Ann", "met", "王", "明", ",", "in", "U", ".", "S", "."]
    assert all(text[start : start + len(word)] == word for word, start in words)


def test_entities_of_a_text_have_their_places_in_it(encoder: TextEncoder) -> None:
    task = TaggingTask()
    text = "the  king of Berlin,met\tAnn  Ann."
    (example,) = task.from_text([{"text": text}])
    rows = task.rows([example], encoder, Fitted(TAGS))
    assert rows[0][0].target == ()
    outputs = [outputs_that_say(rows[0], [0, 0, 0, 1, 0, 0, 2, 3, 0])]
    (prediction,) = task.predict([example], outputs, encoder, Fitted(TAGS))
    places = [(one["type"], text[one["start"] : one["end"]]) for one in prediction["entities"]]
    assert places == [("LOC", "Berlin"), ("PER", "Ann  Ann")]
    joined = Words("1", example.words)
    (prediction,) = task.predict([joined], outputs, encoder, Fitted(TAGS))
    joined_text = " ".join(joined.words)
    assert joined_text[prediction["entities"][1]["start"] : prediction["entities"][1]["end"]] == "Ann Ann"


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"text": " \n"}, "the text has no word"), ({"question": "x"}, "takes no 'question'")],
)
def test_what_is_not_a_text_is_refused(fields: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TaggingTask().from_text([fields])


def test_tags_that_are_no_spans_are_scored_one_by_one(encoder: TextEncoder) -> None:
    task, fitted = open_task("tagging"), Fitted(("O", "COMMA"))
    example = Words("1", ("king", "met", "ann"), ("COMMA", "O", "COMMA"))
    (rows,) = task.rows([example], encoder, fitted)
    (prediction,) = task.predict([example], [outputs_that_say(rows, [1, 0, 0])], encoder, fitted)
    assert prediction == {"id": "1", "words": ["king", "met", "ann"], "tags": ["COMMA", "O", "O"]}
    values = task.score([(example, prediction)], fitted).values
    assert (values["precision"], values["recall"], values["f1"]) == (1.0, 0.5, pytest.approx(2 / 3))


def test_a_prepared_task_holds_its_words(tmp_path: Path, encoder: TextEncoder) -> None:
    train = write(tmp_path / "train.txt", "Ann B-PER", "met O", "king O", "", "Berlin B-LOC")
    dev = write(tmp_path / "dev.txt", "Ann B-PER", "Ann I-PER", "")
    (tmp_path / "train.txt").write_text(train.read_text() + "Ann I-PER\n")
    task = open_task("tagging")
    assert task.find(tmp_path) == {"train": train, "dev": dev}
    prepared = prepare_task(task, "tagging", {"train": train, "dev": dev}, encoder, tmp_path / "prepared")
    assert prepared.fitted.labels == ("O", "B-LOC", "B-PER", "I-PER")
    assert prepared.notes == (
        "1 tags of train.txt that begin a span with I-, as IOB1 does; IOB2 begins it with B- (first: train.txt, "
        "line 6)",
    )
    (example,) = prepared.splits["dev"].examples()
    assert example == Words("1", ("Ann", "Ann"), ("B-PER", "I-PER"), "dev.txt, line 1")


def test_a_tag_that_training_does_not_have_is_refused(tmp_path: Path, encoder: TextEncoder) -> None:
    path = write(tmp_path / "dev.txt", "", "king O", "Ann B-PERS")
    task = open_task("tagging")
    with pytest.raises(InputError) as caught:
        task.rows(list(task.read(path, "dev")), encoder, Fitted(TAGS))
    assert caught.value.what == "the tag 'B-PERS' of word 2, 'Ann', does not occur in training"
    assert (caught.value.where, caught.value.hint) == ("dev.txt, line 2", "did you mean 'B-PER'?")


def test_a_single_tag_is_refused(tmp_path: Path, encoder: TextEncoder) -> None:
    path = write(tmp_path / "train.txt", "king O", "met O")
    with pytest.raises(InputError, match="all examples have the same label"):
        prepare_task(open_task("tagging"), "tagging", {"train": path}, encoder, tmp_path / "prepared")


def test_strict_refuses_what_is_else_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "king O", "Ann I-PER")
    task = open_task("tagging")
    assert len(list(task.read(path, "train"))) == 1
    assert "begin a span with I-" in task.notes.lines()[0]
    assert "I-PER follows O" in refused(open_task("tagging", {"strict": "true"}).read(path, "train"))


def test_columns_are_chosen_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.txt", "1 Ann NNP B-PER", "2 met VBD O")
    (example,) = open_task("tagging", {"word": "2", "column": "3"}).read(path, "dev")
    assert (example.words, example.tags) == (("Ann", "met"), ("NNP", "VBD"))
    lines = ["# text = Ann met", "1\tAnn\tann\tPROPN", "2-3\tmet\t_\t_", "2\tmet\tmeet\tVERB"]
    (example,) = open_task("tagging", {"comments": "true"}).read(write(tmp_path / "dev.conllu", *lines), "dev")
    assert (example.words, example.tags) == (("Ann", "met"), ("PROPN", "VERB"))
    assert "there is no column 9" in refused(open_task("tagging", {"column": "9"}).read(path, "dev"))


def test_sentences_can_be_lines(tmp_path: Path) -> None:
    task = open_task("tagging", {"lines": "true"})
    path = write(tmp_path / "train.tsv", "ann met\tB-PER O", "", "berlin\tB-LOC")
    first, second = task.read(path, "train")
    assert (first, second.tags) == (Words("1", ("ann", "met"), ("B-PER", "O"), "train.tsv, line 1"), ("B-LOC",))
    assert next(task.read(write(tmp_path / "test.tsv", "ann met"), "test")).tags is None


@pytest.mark.parametrize(
    ("line", "split", "words"),
    [
        ("ann met\tO", "train", "2 words and 1 tag"),
        ("ann met", "dev", "2 words and 0 tags"),
        ("ann met\tO", "test", "2 words and 1 tag"),
        ("\tO", "train", "no words"),
    ],
)
def test_a_line_with_another_number_of_tags_is_refused(tmp_path: Path, line: str, split: str, words: str) -> None:
    message = refused(open_task("tagging", {"lines": "true"}).read(write(tmp_path / "a.tsv", "ann\tO", line), split))
    assert words in message
    assert "a.tsv, line 2" in message


def test_a_file_of_empty_lines_has_no_sentences(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", "", " ")
    assert "train.tsv has no sentences" in refused(open_task("tagging", {"lines": "true"}).read(path, "train"))


def test_sentences_in_lines_have_no_columns() -> None:
    with pytest.raises(InputError, match="column is not an option of files with one sentence per line"):
        open_task("tagging", {"lines": "true", "column": "2"})


@pytest.mark.parametrize("options", [{"column": "0"}, {"word": "two"}, {"strict": "maybe"}, {"colum": "2"}])
def test_options_that_mean_nothing_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"--option {next(iter(options))}"):
        open_task("tagging", options)

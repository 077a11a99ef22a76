"""Tags: first pieces, windows that lose no word, and what becomes of the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.tasks.example import Words
from bertjobs.tasks.rows import Output, Row
from bertjobs.tasks.tagging import TaggingTask, _windows
from bertjobs.tasks.task import Fitted
from tests.tasks.encoders import encoder_in

FITTED = Fitted(("O", "B-PER", "I-PER"))


def outputs_for(rows: Sequence[Row], tags: int) -> list[Output]:
    """Outputs that say exactly what the targets say."""
    return [np.eye(tags, dtype=np.float32)[np.array(row.target, dtype=int)] for row in rows]


def test_a_tag_is_read_off_the_first_piece(tmp_path: Path) -> None:
    sentence = Words("1", ("harry", "xy", "loves"), ("B-PER", "I-PER", "O"))
    ((row,),) = TaggingTask().rows([sentence], encoder_in(tmp_path, 64), FITTED)
    assert list(row.read) == [1, 2, 4]  # [CLS] harry x ##y love ##s [SEP]
    assert list(row.target) == [1, 2, 0]
    assert len(row.ids) == 7


@pytest.mark.parametrize("words", [1, 5, 40, 200])
def test_every_word_of_a_long_sentence_gets_its_tag(tmp_path: Path, words: int) -> None:
    draw = np.random.default_rng(words)
    text = tuple("".join(draw.choice(list("abc"), draw.integers(1, 6))) for _ in range(words))
    tags = tuple(draw.choice(FITTED.labels, words).tolist())
    sentence, encoder, task = Words("1", text, tags), encoder_in(tmp_path, 16), TaggingTask()
    (rows,) = task.rows([sentence], encoder, FITTED)
    assert all(len(row.ids) <= 16 for row in rows)
    (prediction,) = task.predict([sentence], [outputs_for(rows, 3)], encoder, FITTED)
    assert tuple(prediction["tags"]) == tags
    assert task.score([(sentence, prediction)], FITTED).values["accuracy"] == 1.0


@given(st.lists(st.integers(0, 14), min_size=1, max_size=80))
def test_windows_cover_all_words_and_fit(sizes: list[int]) -> None:
    windows = _windows([[0] * size for size in sizes], 16)
    assert {word for first, last in windows for word in range(first, last)} == set(range(len(sizes)))
    assert all(sum(sizes[first:last]) <= 14 for first, last in windows)
    assert windows == sorted(windows)


def test_entities_have_their_places_in_the_text(tmp_path: Path) -> None:
    sentence = Words("1", ("my", "name", "is", "harry", "red"), ("O", "O", "O", "B-PER", "I-PER"))
    task, encoder = TaggingTask(), encoder_in(tmp_path, 64)
    (rows,) = task.rows([sentence], encoder, FITTED)
    (prediction,) = task.predict([sentence], [outputs_for(rows, 3)], encoder, FITTED)
    (entity,) = prediction["entities"]
    assert entity == {"type": "PER", "text": "harry red", "start": 11, "end": 20}
    assert " ".join(sentence.words)[11:20] == "harry red"


def test_a_word_without_pieces_is_predicted_too(tmp_path: Path) -> None:
    sentence = Words("1", ("red", "\u200b", "blue"))
    task, encoder = TaggingTask(), encoder_in(tmp_path, 64)
    (rows,) = task.rows([sentence], encoder, FITTED)
    outputs = [np.eye(3, dtype=np.float32)[[1] * len(row.read)] for row in rows]
    (prediction,) = task.predict([sentence], [outputs], encoder, FITTED)
    assert prediction["tags"][1] == "O"
    assert len(prediction["tags"]) == 3


def test_a_tag_that_training_lacks_is_refused(tmp_path: Path) -> None:
    sentence = Words("1", ("harry",), ("B-PEX",), "dev.txt, line 3")
    with pytest.raises(InputError, match="'B-PEX' of 'harry' does not occur in training") as caught:
        TaggingTask().rows([sentence], encoder_in(tmp_path, 64), FITTED)
    assert caught.value.where == "dev.txt, line 3"
    assert "B-PER" in (caught.value.hint or "")


def test_tags_without_spans_are_scored_one_by_one() -> None:
    fitted = Fitted(("O", "COMMA", "PERIOD"))
    pairs = [(Words("1", ("a", "b"), ("COMMA", "O")), {"tags": ["COMMA", "PERIOD"]})]
    scores = TaggingTask().score(pairs, fitted).values
    assert scores["accuracy"] == 0.5
    assert scores["precision"] == 0.5
    assert scores["recall"] == 1.0

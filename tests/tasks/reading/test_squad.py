"""SQuAD's JSON: answers at their places, questions without any, and damage of each kind."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bertjobs.tasks.example import Answer
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.squad import read_questions
from tests.tasks.reading.files import refused

CONTEXT = "Harry likes pizza. Ron likes pizza too, and Äpfel."


def asked(identifier: str = "q1", *answers: tuple[str, Any], **others: Any) -> dict[str, Any]:
    given = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": identifier, "question": "What?", "answers": given, **others}


def squad(path: Path, *qas: Any, context: Any = CONTEXT, version: str = "1.1") -> Path:
    article = {"title": "Food", "paragraphs": [{"context": context, "qas": list(qas)}]}
    path.write_text(json.dumps({"version": version, "data": [article]}))
    return path


def test_both_versions_are_read(tmp_path: Path) -> None:
    path = squad(
        tmp_path / "train.json",
        asked("q1", ("pizza", 12), ("Äpfel", 44)),
        asked("q2", is_impossible=True, plausible_answers=[{"text": "Ron", "answer_start": 19}]),
        version="v2.0",
    )
    first, second = read_questions(path, Notes())
    assert first.answers == (Answer("pizza", 12), Answer("Äpfel", 44))
    assert (first.id, first.question, first.context, first.title) == ("q1", "What?", CONTEXT, "Food")
    assert first.where == "train.json, data[0].paragraphs[0].qas[0], id q1"
    assert second.answers == ()
    packed = tmp_path / "train.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [question.id for question in read_questions(packed, Notes())] == ["q1", "q2"]


def test_questions_to_be_answered_need_no_answers(tmp_path: Path) -> None:
    question = {"id": 7, "question": " "}
    path, notes = squad(tmp_path / "t.json", question), Notes()
    (read,) = read_questions(path, notes, labelled=False)
    assert (read.id, read.answers) == ("7", None)
    assert notes.lines() == ["1 questions without text (first: t.json, data[0].paragraphs[0].qas[0], id 7)"]
    assert "has no 'answers'" in refused(read_questions(path, notes))


def test_a_list_of_answers_may_be_empty_or_is_not_looked_at_where_nothing_is_scored(tmp_path: Path) -> None:
    path = squad(tmp_path / "test.json", asked("q1"), asked("q2", is_impossible=True), asked("q3", is_impossible=False))
    answers = [question.answers for question in read_questions(path, Notes(), labelled=False)]
    assert answers == [None, (), None]
    odd = squad(tmp_path / "test.json", asked("q1", ("Ron", 3)), {"id": "q2", "question": "What?", "answers": "?"})
    assert [one.answers for one in read_questions(odd, Notes(), labelled=False, with_answers=False)] == [None, None]
    assert "has no answer" in refused(read_questions(squad(tmp_path / "dev.json", asked("q1")), Notes()))


def test_misplaced_answers_are_refused_with_their_number(tmp_path: Path) -> None:
    path = squad(tmp_path / "t.json", asked("q1", ("Ron", 19)), asked("q2", ("pizza", 13)), asked("q3", ("Ron", -1)))
    message = refused(read_questions(path, Notes()))
    assert "2 of 3 answers of t.json are not where they are said to be" in message
    assert "--option repair=true" in message
    assert "'pizza' is said to be at character 13, where 'izza.' is" in message
    assert "t.json, data[0].paragraphs[0].qas[1], id q2" in message


@pytest.mark.parametrize(("start", "repaired"), [(0, 12), (13, 12), (20, 12), (25, 29), (28, 29), (900, 29), (-4, 12)])
def test_an_answer_is_moved_to_its_nearest_occurrence(tmp_path: Path, start: int, repaired: int) -> None:
    notes = Notes()
    (question,) = read_questions(squad(tmp_path / "t.json", asked("q", ("pizza", start))), notes, repair=True)
    assert question.answers == (Answer("pizza", repaired),)
    assert notes.lines()[0].startswith("1 answers were moved")


def test_an_answer_that_does_not_occur_cannot_be_repaired(tmp_path: Path) -> None:
    path = squad(tmp_path / "t.json", asked("q", ("pasta", 12)))
    assert "1 of 1 answers of t.json" in (message := refused(read_questions(path, Notes(), repair=True)))
    assert "do not occur in their context" in message


@pytest.mark.parametrize(
    ("qas", "says"),
    [
        ([asked("q", ("Ron", 19)), asked("q", ("Ron", 19))], ["the id 'q' occurs a second time", "qas[1]"]),
        ([asked("q")], ["the question has no answer", "qas[0], id q", "is_impossible"]),
        ([asked("q", is_impossible=False)], ["the question has no answer"]),
        ([asked("q", ("Ron", 19), is_impossible=True)], ["is impossible and has answers", "id q"]),
        ([asked("q", is_impossible="no")], ["'is_impossible' is not true or false"]),
        ([asked("q", ("", 19))], ["the answer is empty", "answers[0]"]),
        ([asked("q", ("Ron", "19"))], ["'answer_start' is '19', not a whole number"]),
        ([asked("")], ["id is empty", "qas[0]"]),
        ([{"question": "What?"}], ["there is no 'id', but 'question'", "t.json, data[0].paragraphs[0].qas[0]"]),
        ([{"id": "q", "question": 3}], ["'question' is not a text", "id q"]),
        ([asked("q", ("R\ud800n", 19))], ["'text' holds NUL or half a character", "answers[0]"]),
        (["What?"], ["expected an object, not 'What?'"]),
        ([], ["t.json has no questions"]),
    ],
)
def test_a_bad_question_is_refused(tmp_path: Path, qas: list[Any], says: list[str]) -> None:
    message = refused(read_questions(squad(tmp_path / "t.json", *qas), Notes()))
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"data": [\n{"title": ]}', ["t.json is not JSON", "t.json, line 2"]),
        (b'{"data":\n"\xe9"}', ["is not UTF-8", "t.json, line 2"]),
        (b"[]", ["is not a JSON object"]),
        (b"{}", ["there is no 'data', but nothing"]),
        (b'{"data": {}}', ["'data' is not a list"]),
        (b'{"data": [{"paragraphs": [{"context": " ", "qas": []}]}]}', ["context is empty", "data[0].paragraphs[0]"]),
        (b"", ["t.json is not JSON"]),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: bytes, says: list[str]) -> None:
    (tmp_path / "t.json").write_bytes(content)
    message = refused(read_questions(tmp_path / "t.json", Notes()))
    assert all(part in message for part in says), message

"""Questions about contexts, in the JSON of SQuAD 1.1 and 2.0."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.data.corpus.document import sound
from bertjobs.data.corpus.files import open_text
from bertjobs.errors import InputError, first_line
from bertjobs.files.reading import parse_json
from bertjobs.tasks.example import Answer, Question
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.ids import Ids
from bertjobs.tasks.reading.lines import opened
from bertjobs.wording import shown

_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


@dataclass
class _Misplaced:
    """Answers that are not where they are said to be: how many of how many, and what is said of the first."""

    repair: bool
    notes: Notes
    answers: int = 0
    count: int = 0
    first: str = ""
    first_where: str = ""

    def placed(self, answer: Answer, context: str, where: str) -> Answer:
        """The answer, moved to its nearest occurrence if it is to be repaired."""
        self.answers += 1
        there = context[answer.start : answer.start + len(answer.text)] if answer.start >= 0 else ""
        if there == answer.text:
            return answer
        if self.repair and (start := _nearest(answer, context)) >= 0:
            self.notes.add("answers were moved to where they occur next to the place that is given", where)
            return Answer(answer.text, start)
        self.count += 1
        if self.count == 1:
            self.first_where = where
            self.first = f"{shown(answer.text)} is said to be at character {answer.start:,}, where {shown(there)} is"
        return answer

    def refuse(self, name: str) -> None:
        if not self.count:
            return
        hint = "`bertjobs finetune ... --option repair=true` takes the nearest occurrence of each in its place"
        raise InputError(
            f"{self.count:,} of {self.answers:,} answers of {name} are not where they are said to be; the "
            f"first: {self.first}",
            where=self.first_where,
            hint="they do not occur in their context" if self.repair else hint,
        )


def _nearest(answer: Answer, context: str) -> int:
    """The start of the occurrence of an answer that is nearest to its place; -1 if it does not occur."""
    before = context.rfind(answer.text, 0, max(0, answer.start) + len(answer.text))
    after = context.find(answer.text, max(0, answer.start))
    starts = [start for start in (before, after) if start >= 0]
    return min(starts, key=lambda start: abs(start - answer.start), default=-1)


def read_questions(
    path: Path, notes: Notes, *, labelled: bool = True, repair: bool = False, with_answers: bool = True
) -> Iterator[Question]:
    """The questions of a file in SQuAD's JSON, in its order; the file is held as a whole, and checked before the first
    one is given. ``plausible_answers`` are not read.

    Args:
        notes: here is counted what is odd or repaired.
        labelled: each question must have answers, or be one of SQuAD 2.0's that have none (``is_impossible``). Else
            those without answers are read with None.
        with_answers: else no answers are looked at, and all questions are read with None.
        repair: take the nearest occurrence of an answer that is not at its place.

    Raises:
        InputError: the file is not such JSON, an answer is not at its place (counts them and names the first one), an
            id repeats, a context is empty, or a question has no answers.
    """
    with opened(path), open_text(str(path)) as file:
        document = _parsed(file.read(), path)
    misplaced, ids = _Misplaced(repair, notes), Ids()
    questions = []
    for question in _questions(document, path, notes, labelled, misplaced if with_answers else None):
        ids.add(question.id, question.where)
        questions.append(question)
    ids.check()
    misplaced.refuse(path.name)
    if not questions:
        raise InputError(f"{path.name} has no questions", where=str(path))
    yield from questions


def _parsed(content: bytes, path: Path) -> Any:
    try:
        return parse_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path.name} is not UTF-8", where=f"{path.name}, line {line:,}") from None
    except ValueError as error:
        where = f"{path.name}, line {error.lineno:,}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise InputError(f"{path.name} is not JSON: {first_line(error)}", where=where,
                         hint="was it downloaded as a whole?") from None  # fmt: skip


def _questions(
    document: Any, path: Path, notes: Notes, labelled: bool, misplaced: _Misplaced | None
) -> Iterator[Question]:
    """``misplaced`` counts the answers; None: they are not read."""
    if not isinstance(document, dict):
        raise InputError(f"{path.name} is not a JSON object", where=str(path), hint='SQuAD\'s is {"data": [...]}')
    has_impossible = str(document.get("version", "")).lstrip("v").startswith("2")
    for number, article in enumerate(_list(document, "data", path.name)):
        where = f"{path.name}, data[{number}]"
        title = article.get("title") if isinstance(article, dict) else None
        for place, paragraph in enumerate(_list(article, "paragraphs", where)):
            inside = f"{where}.paragraphs[{place}]"
            context = _text(paragraph, "context", inside)
            if not context.strip():
                raise InputError("the context is empty", where=inside)
            for row, asked in enumerate(_list(paragraph, "qas", inside)):
                at = f"{inside}.qas[{row}]"
                identifier = _id(asked, at)
                at = f"{at}, id {identifier}"
                question = _text(asked, "question", at)
                if not question.strip():
                    notes.add("questions without text", at)
                answers = _answers(asked, context, at, labelled, has_impossible, misplaced) if misplaced else None
                yield Question(identifier, question, context, answers, title if isinstance(title, str) else "", at)


def _answers(
    asked: Mapping[str, Any], context: str, where: str, labelled: bool, has_impossible: bool, misplaced: _Misplaced
) -> tuple[Answer, ...] | None:
    """A question's correct answers: () if it has none by intent, None if the file does not say."""
    impossible = asked.get("is_impossible", None)
    if impossible not in (None, True, False):
        raise InputError("'is_impossible' is not true or false", where=where)
    if "answers" not in asked and not impossible:
        if labelled:
            raise InputError("the question has no 'answers'", where=where)
        return None
    answers = []
    for place, given in enumerate(_list(asked, "answers", where) if "answers" in asked else []):
        at = f"{where}, answers[{place}]"
        text, start = _text(given, "text", at), given.get("answer_start")
        if not text:
            raise InputError("the answer is empty", where=at)
        if type(start) is not int:
            raise InputError(f"'answer_start' is {shown(start)}, not a whole number", where=at)
        answers.append(misplaced.placed(Answer(text, start), context, where))
    if impossible and answers:
        raise InputError("the question is impossible and has answers", where=where)
    if not answers and not impossible and not labelled:
        return None
    if not answers and not (impossible or (impossible is None and has_impossible)):
        raise InputError("the question has no answer", where=where,
                         hint='SQuAD 2.0 marks one that cannot be answered with "is_impossible": true')  # fmt: skip
    return tuple(answers)


def _list(owner: Any, name: str, where: str) -> list[Any]:
    value = _value(owner, name, list, where)
    assert isinstance(value, list)
    return value


def _text(owner: Any, name: str, where: str) -> str:
    text = str(_value(owner, name, str, where))
    if text != sound(text).text:
        raise InputError(f"{name!r} holds NUL or half a character", where=where,
                         hint="they cannot be left out: answers are located by counting characters")  # fmt: skip
    return text


def _id(asked: Any, where: str) -> str:
    """A question's id; some files have numbers."""
    if isinstance(asked, dict) and type(asked.get("id")) is int:
        return str(asked["id"])
    identifier = _text(asked, "id", where)
    if not identifier:
        raise InputError("the question's id is empty", where=where)
    return identifier


def _value(owner: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(owner, dict):
        raise InputError(f"expected an object, not {shown(owner)}", where=where)
    if name not in owner:
        there = ", ".join(map(repr, list(owner)[:20])) or "nothing"
        raise InputError(f"there is no {name!r}, but {there}", where=where,
                         hint="SQuAD's form: data, paragraphs, qas")  # fmt: skip
    if not isinstance(owner[name], kind):
        raise InputError(f"{name!r} is not {_KINDS[kind]}", where=where)
    return owner[name]

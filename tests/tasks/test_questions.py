"""Answers: windows that lose no token, exact places in characters, no answer, thresholds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.asked import read_asked
from bertjobs.tasks.example import Answer, Question
from bertjobs.tasks.questions import Squad1, Squad2, options_for
from bertjobs.tasks.rows import Output, Row
from bertjobs.tasks.task import Fitted
from tests.tasks.encoders import encoder_in
from tests.tasks.metrics.official.record_squad import FILE

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
CONTEXT = "My name is Harry and I grew up in Canada. I love apples."
HARRY = Question("q1", "What food does Harry like?", CONTEXT, (Answer("apples", 49),))
NONE = Fitted()
NARROW = {"stride": "8", "max_query": "8"}


def outputs_for(rows: Sequence[Row]) -> list[Output]:
    """Outputs that point exactly at the targets; a window without the answer is less sure of [CLS]."""
    made = []
    for row in rows:
        output = np.zeros((len(row.ids), 2), dtype=np.float32)
        sure = 9.0 if row.target[0] else 2.0
        output[int(row.target[0]), 0] = output[int(row.target[1]), 1] = sure
        made.append(output)
    return made


@pytest.mark.parametrize("length", [64, 20])
def test_the_answer_is_cut_from_the_context(tmp_path: Path, length: int) -> None:
    task, encoder = Squad1({"stride": "4", "max_query": "8"}), encoder_in(tmp_path, length)
    (rows,) = task.rows([HARRY], encoder, NONE)
    assert (len(rows) > 1) == (length == 20)
    assert all(len(row.ids) <= length for row in rows)
    (prediction,) = task.predict([HARRY], [outputs_for(rows)], encoder, NONE)
    assert (prediction["answer"], prediction["start"]) == ("apples", 49)
    assert CONTEXT[prediction["start"] :].startswith("apples")
    assert prediction["probability"] > 0.9
    assert task.score([(HARRY, prediction)], NONE).values["exact"] == 1.0


def test_places_are_characters_whatever_the_script(tmp_path: Path) -> None:
    context = "\u00c9t\u00e9 \U0001f34e: the \u00c1pples"
    question = Question("q", "what", context, (Answer("\u00c1pples", context.index("\u00c1pples")),))
    task, encoder = Squad1(NARROW), encoder_in(tmp_path, 48)
    (rows,) = task.rows([question], encoder, NONE)
    (prediction,) = task.predict([question], [outputs_for(rows)], encoder, NONE)
    assert prediction["answer"] == "\u00c1pples"
    assert context[prediction["start"] :] == "\u00c1pples"


def test_answers_that_no_row_has_as_its_target_are_counted(tmp_path: Path) -> None:
    context = CONTEXT + " \u200b"
    examples = [
        Question("q1", "what", context, (Answer("\u200b", len(CONTEXT) + 1),), where="a.json, question q1"),
        Question("q2", HARRY.question, context, (Answer(CONTEXT, 0),), where="a.json, question q2"),
        Question("q3", "what", context, ()),
        Question("q4", "what", context, (Answer("apples", 49),)),
    ]
    task = Squad2({"stride": "4", "max_query": "8"})
    task.rows(examples, encoder_in(tmp_path, 20), NONE)
    first, second = task.notes.lines()
    assert first.startswith("1 answers have no token: the loss takes their questions for ones without an answer (first")
    assert second.startswith("1 answers are in no window as a whole")
    assert "question q1" in first
    assert "question q2" in second


def test_spans_end_after_they_start_and_are_not_too_long(tmp_path: Path) -> None:
    task, encoder = Squad1({"max_answer": "2", **NARROW}), encoder_in(tmp_path, 64)
    (rows,) = task.rows([HARRY], encoder, NONE)
    (row,) = rows
    output = np.random.default_rng(3).normal(size=(len(row.ids), 2)).astype(np.float32)
    (prediction,) = task.predict([HARRY], [[output]], encoder, NONE)
    assert len(prediction["n_best"]) == 20
    for one in prediction["n_best"]:
        assert CONTEXT[one["start"] : one["start"] + len(one["text"])] == one["text"] != ""
        assert len(encoder.pieces([one["text"]])[0].ids) <= 2
    shares = [one["probability"] for one in prediction["n_best"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)


def test_a_context_without_tokens_gives_no_answer_and_no_crash(tmp_path: Path) -> None:
    empty = Question("q", "what", "\u200b", ())
    task, encoder = Squad2(NARROW), encoder_in(tmp_path, 48)
    (rows,) = task.rows([empty], encoder, NONE)
    (prediction,) = task.predict([empty], [outputs_for(rows)], encoder, NONE)
    assert (prediction["answer"], prediction["n_best"]) == ("", [])


def test_a_threshold_of_null_odds_is_tuned_on_probabilities_and_applied(tmp_path: Path) -> None:
    task, encoder = Squad2(NARROW), encoder_in(tmp_path, 64)
    impossible = Question("q2", "What is red?", CONTEXT, ())
    rows = task.rows([HARRY, impossible], encoder, NONE)
    outputs = [outputs_for(of_example) for of_example in rows]
    for of_example in outputs:  # both lean towards "no answer", the impossible one more
        of_example[0][0] += 9.2
    predictions = task.predict([HARRY, impossible], outputs, encoder, NONE)
    scored = list(zip([HARRY, impossible], predictions, strict=True))
    assert all(0 < one["null_odds"] < 1 for one in predictions)
    assert [one["answer"] for one in predictions] == ["", ""]
    tuned = task.tune(scored, NONE)
    assert predictions[0]["null_odds"] <= tuned["null_threshold"] < predictions[1]["null_odds"]
    again = task.predict([HARRY, impossible], outputs, encoder, Fitted(tuned=tuned))
    assert [one["answer"] for one in again] == ["apples", ""]
    values = task.score(scored, Fitted(tuned=tuned)).values
    assert values["exact"] == values["f1"] == 1.0


def test_null_odds_do_not_depend_on_how_many_candidates_are_kept(tmp_path: Path) -> None:
    encoder, draw = encoder_in(tmp_path, 64), np.random.default_rng(5)
    (rows,) = Squad2(NARROW).rows([HARRY], encoder, NONE)
    outputs = [draw.normal(size=(len(row.ids), 2)).astype(np.float32) for row in rows]
    odds = []
    for n_best in ("1", "3", "20"):
        (prediction,) = Squad2({**NARROW, "n_best": n_best}).predict([HARRY], [outputs], encoder, NONE)
        assert len(prediction["n_best"]) == int(n_best)
        odds.append(prediction["null_odds"])
    assert odds == [odds[0]] * 3
    spans = [outputs[0][first, 0] + outputs[0][last, 1] for first in range(rows[0].second, len(rows[0].ids) - 1)
             for last in range(first, min(first + 30, len(rows[0].ids) - 1))]  # fmt: skip
    assert odds[0] == pytest.approx(1 / (1 + np.exp(max(spans) - outputs[0][0].sum())), rel=1e-5)


@pytest.mark.parametrize("file", RECORDED["files"], ids=range(len(RECORDED["files"])))
def test_the_tuned_threshold_is_the_official_scripts(file: dict[str, Any]) -> None:
    scored = [
        (
            Question(name, "", "", tuple(Answer(text, 0) for text in file["golds"][name])),
            {"answer": "never looked at", "n_best": [{"text": best}] if best else [], "null_odds": odds},
        )
        for (name, best), odds in zip(file["predictions"].items(), file["null_odds"].values(), strict=True)
    ]
    tuned = Squad2().tune(scored, NONE)
    assert tuned == {"null_threshold": file["official"]["best_f1_thresh"]}
    values = Squad2().score(scored, Fitted(tuned=tuned)).values
    official = file["at_best_f1"] | {name: file["official"][name] for name in ("best_exact", "best_f1")}
    assert {name: values[name] for name in official} == pytest.approx(official, abs=1e-12)


def test_a_threshold_that_was_not_tuned_is_said() -> None:
    prediction = {"n_best": [{"text": "apples"}], "null_odds": 0.6}
    untuned, tuned = Fitted(), Fitted(tuned={"null_threshold": 0.7})
    assert [Squad2().score([(HARRY, prediction)], one).values["exact"] for one in (untuned, tuned)] == [0, 1]
    (note,) = Squad2().untuned(untuned)
    assert note.startswith("the threshold of null odds is 0.5, as none that was tuned on dev data is known")
    assert Squad2().untuned(tuned) == []


def test_a_stride_that_skips_text_is_refused(tmp_path: Path) -> None:
    encoder = encoder_in(tmp_path, 128)
    with pytest.raises(InputError, match="a stride of 128 tokens skips text: a window holds only 61 of") as caught:
        Squad1().rows([HARRY], encoder, NONE)
    assert caught.value.hint == "--option stride=30"
    encoder.positions = 512
    with pytest.raises(InputError, match=r"or longer sequences: --set phase1\.sequence_length=384"):
        Squad1().rows([HARRY], encoder, NONE)


@pytest.mark.parametrize("length", [8, 40, 68, 128, 259, 384])
def test_there_are_options_for_each_length(tmp_path: Path, length: int) -> None:
    assert (length == 384) == (options_for(length) == {})
    assert Squad1(options_for(length)).rows([HARRY], encoder_in(tmp_path, length), NONE)


def test_a_question_without_an_answer_belongs_to_squad2(tmp_path: Path) -> None:
    asked = {"id": "q", "question": "What?", "answers": [], "is_impossible": True}
    document = {"data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": [asked]}]}]}
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="question q has no answer"):
        list(Squad1().read(file, "dev"))
    assert next(iter(Squad2().read(file, "dev"))).answers == ()
    assert [one.example.answers for one in read_asked(Squad1(), file, "dev")] == [None]


def test_the_official_files_are_written(tmp_path: Path) -> None:
    task, encoder = Squad2(NARROW), encoder_in(tmp_path, 64)
    (rows,) = task.rows([HARRY], encoder, NONE)
    predictions = task.predict([HARRY], [outputs_for(rows)], encoder, NONE)
    names = [path.name for path in task.write_submission(predictions, "dev", tmp_path)]
    assert names == ["predictions.json", "nbest_predictions.json", "null_odds.json"]
    assert json.loads((tmp_path / "predictions.json").read_text()) == {"q1": "apples"}
    n_best = json.loads((tmp_path / "nbest_predictions.json").read_text())["q1"]
    assert n_best[0]["text"] == "apples"
    (none,) = [one for one in n_best if not one["text"]]
    assert sum(one["probability"] for one in n_best) == pytest.approx(1)
    odds = none["probability"] / (none["probability"] + n_best[0]["probability"])
    assert json.loads((tmp_path / "null_odds.json").read_text()) == {"q1": pytest.approx(odds)}


@pytest.mark.parametrize(
    "word", ["cafe\u0301", "\u0926\u093f\u0932\u094d\u0932\u0940\u0947", "\u0e17\u0e35\u0e48", "\u2764\ufe0f"]
)
def test_marks_that_are_characters_of_their_own_belong_to_the_answer(tmp_path: Path, word: str) -> None:
    context = f"the {word} of Harry"
    question = Question("q", "what", context, (Answer(word, 4),))
    task, encoder = Squad1(NARROW), encoder_in(tmp_path, 48)
    (rows,) = task.rows([question], encoder, NONE)
    (prediction,) = task.predict([question], [outputs_for(rows)], encoder, NONE)
    assert (prediction["answer"], prediction["start"]) == (word, 4)


def test_an_answer_that_occurs_twice_is_one_candidate(tmp_path: Path) -> None:
    task, encoder = Squad1({"max_answer": "1", **NARROW}), encoder_in(tmp_path, 64)
    (rows,) = task.rows([HARRY], encoder, NONE)
    (prediction,) = task.predict([HARRY], [outputs_for(rows)], encoder, NONE)
    texts = [one["text"] for one in prediction["n_best"]]
    assert texts.count("I") == len(texts) - len(set(texts) - {"I"}) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"question": "What?"}, "there is no 'context'"),
        ({"question": "What?", "context": ""}, "the context is empty"),
        ({"question": " ", "context": CONTEXT}, "the question is empty"),
    ],
)
def test_what_is_typed_needs_both(text: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Squad1().from_text([text])


def test_a_long_question_is_cut_and_counted(tmp_path: Path) -> None:
    task = Squad1({"stride": "8", "max_query": "2"})
    (rows,) = task.rows([HARRY], encoder_in(tmp_path, 64), NONE)
    assert [row.second for row in rows] == [4]
    task.predict([HARRY], [outputs_for(rows)], encoder_in(tmp_path, 64), NONE)
    assert task.notes.lines() == ["1 questions longer than 2 tokens were cut off (first: )"]

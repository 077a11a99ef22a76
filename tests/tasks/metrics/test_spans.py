"""Spans are those of the original conlleval.pl, recorded from it, and of a second reading of what tags mean."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.spans import Span, are_span_tags, span_scores, spans_of, tag_scores
from tests.tasks.metrics.official.record_conlleval import FILE

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
TAG = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
SENTENCES = st.lists(
    st.lists(st.tuples(TAG, TAG), min_size=1, max_size=10).map(lambda pairs: tuple(zip(*pairs, strict=True))),
    min_size=1,
)


def as_conlleval_prints(values: dict[str, float]) -> list[str]:
    def measures(suffix: str) -> str:
        percents = (values[f"{measure}{suffix}"] * 100 for measure in ("precision", "recall", "f1"))
        return "precision: {:6.2f}%; recall: {:6.2f}%; FB1: {:6.2f}".format(*percents)

    return [
        f"processed {values['tokens']} tokens with {values['phrases']} phrases; "
        f"found: {values['found']} phrases; correct: {values['correct']}.",
        f"accuracy: {values['accuracy'] * 100:6.2f}%; {measures('')}",
        *(
            f"{name.partition('/')[2]:>17}: {measures('/' + name.partition('/')[2])}  {count}"
            for name, count in values.items()
            if name.startswith("found/")
        ),
    ]


@pytest.mark.parametrize("entry", RECORDED, ids=lambda entry: entry["name"])
def test_every_number_is_the_one_that_conlleval_prints(entry: dict[str, list]) -> None:
    sentences = [(gold.split(), guess.split()) for gold, guess in entry["sentences"]]
    # Without types conlleval.pl prints the line of the empty type once more for each side that has it.
    printed = list(dict.fromkeys(entry["printed"]))
    assert as_conlleval_prints(span_scores(sentences).values) == printed


def test_the_fixture_is_there() -> None:
    assert RECORDED[0]["name"] == "the fixture"
    assert RECORDED[0]["printed"][0].startswith("processed 961 tokens with 459 phrases")


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B-X I-X O", [Span("X", 1, 3)]),
        ("I-X O", [Span("X", 0, 1)]),  # after O
        ("B-X I-Y", [Span("X", 0, 1), Span("Y", 1, 2)]),  # after another type
        ("B-X B-X I-X", [Span("X", 0, 1), Span("X", 1, 3)]),
        ("I-X I-X B-X I-X", [Span("X", 0, 2), Span("X", 2, 4)]),  # IOB1
        ("B-A-B I-A-B I-A", [Span("A-B", 0, 2), Span("A", 2, 3)]),  # hyphens in types
        ("B-X E-X B-X I-X E-X S-X S-X", [Span("X", 0, 2), Span("X", 2, 5), Span("X", 5, 6), Span("X", 6, 7)]),  # IOBES
        ("B-X L-X U-X U-X", [Span("X", 0, 2), Span("X", 2, 3), Span("X", 3, 4)]),  # BILOU
        ("B I O I", [Span("", 0, 2), Span("", 3, 4)]),
        ("COMMA O PERIOD", []),
        ("", []),
    ],
)
def test_spans(tags: str, spans: list[Span]) -> None:
    assert list(spans_of(tags.split())) == spans


@given(st.lists(st.sampled_from([("X", 1), ("X", 2), ("Y", 3), ("O", 1)]), max_size=12))
def test_spans_are_read_back_from_iob2_and_iobes(entities: list[tuple[str, int]]) -> None:
    iob2, iobes, spans = [], [], []
    for entity, words in entities:
        if entity == "O":
            iob2, iobes = [*iob2, "O"], [*iobes, "O"]
            continue
        spans.append(Span(entity, len(iob2), len(iob2) + words))
        iob2 += [f"B-{entity}"] + [f"I-{entity}"] * (words - 1)
        iobes += [f"S-{entity}"] if words == 1 else [f"B-{entity}", *[f"I-{entity}"] * (words - 2), f"E-{entity}"]
    assert list(spans_of(iob2)) == list(spans_of(iobes)) == spans


@given(SENTENCES)
def test_bounds_perfection_and_symmetry(sentences: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
    values = span_scores(sentences).values
    assert all(0 <= values[name] <= 1 for name in ("accuracy", "precision", "recall", "f1"))
    turned = span_scores([(predicted, gold) for gold, predicted in reversed(sentences)]).values
    assert (turned["precision"], turned["recall"], turned["f1"]) == (
        values["recall"],
        values["precision"],
        values["f1"],
    )
    perfect = span_scores([(gold, gold) for gold, _ in sentences]).values
    assert perfect["f1"] == (1 if perfect["phrases"] else 0)


def test_undefined_values_are_0_and_said() -> None:
    nothing = span_scores([(["O", "O"], ["O", "O"])])
    assert (nothing.values["f1"], nothing.values["accuracy"]) == (0, 1)
    assert nothing.notes == (
        "recall is undefined: no sentence has a span; counted as 0",
        "precision is undefined: no span was predicted; counted as 0",
    )
    other_types = span_scores([(["B-X", "B-Y"], ["B-X", "B-Z"])])
    assert other_types.notes == (
        "recall is undefined for types that are in no sentence, counted as 0: Z",
        "precision is undefined for types that were never predicted, counted as 0: Y",
    )


@pytest.mark.parametrize("score", [span_scores, tag_scores])
def test_every_word_has_a_prediction(score) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="sentence 2 has 2 words and 1 predicted tags"):
        score([(["O"], ["O"]), (["O", "O"], ["O"])])
    with pytest.raises(InputError, match="there is no word to score"):
        score([])


def test_tags_without_spans() -> None:
    scores = tag_scores([(["O", "COMMA", "O"], ["O", "COMMA", "COMMA"]), (["PERIOD"], ["O"])])
    assert scores.values["accuracy"] == 0.5
    assert (scores.values["precision"], scores.values["recall"]) == (0.5, 0.5)
    assert scores.values["f1/COMMA"] == pytest.approx(2 / 3)
    assert scores.values["macro_f1"] == pytest.approx(1 / 3)  # of COMMA and PERIOD, without O
    assert scores.notes == ("precision is undefined for the class without prediction, counted as 0: PERIOD",)


def test_nothing_but_o_is_zero_and_said() -> None:
    scores = tag_scores([(["O", "O"], ["O", "O"])])
    assert (scores.values["accuracy"], scores.values["f1"], scores.values["macro_f1"]) == (1.0, 0.0, 0.0)
    (note,) = scores.notes
    assert note.startswith("precision, recall and F1 are undefined: no tag but O is there")


def test_which_tags_have_spans() -> None:
    assert are_span_tags({"O", "B-X", "I-X"})
    assert are_span_tags({"S-X", "E-X"})
    assert not are_span_tags({"O"})
    assert not are_span_tags({"O", "COMMA"})
    assert not are_span_tags({"O", "B-X", "self-made"})
    assert not are_span_tags({"B", "I", "O"})

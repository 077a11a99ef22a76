"""What a person reads of a prediction."""

from __future__ import annotations

from bertjobs.tasks.in_words import in_words


def test_ids_that_nobody_has_given_are_not_shown_and_lists_are_words() -> None:
    ranked = {"id": "1 1", "query_id": "1", "passage_id": "1", "score": 0.25}
    assert in_words(ranked) == ["  score: 0.25"]
    spans = {"id": "1", "entities": [{"type": "PER", "words": ["Harry", "P"], "start": 0}], "odd": []}
    assert in_words(spans) == ["  entities:", "    type PER, words Harry P, start 0", "  odd: none"]

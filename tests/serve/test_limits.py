"""What is refused before it costs anything."""

from __future__ import annotations

import pytest

from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.serve.limits import Limits, check_words
from bertjobs.serve.refusal import Refusal
from bertjobs.tasks.encoding import TextEncoder
from tests.tasks.test_encoding import MODEL

LIMITS = Limits(tokens=6)


@pytest.mark.parametrize(
    "text", ["a " * 6, "a!?b,.", "\u6f22\u5b57\u3002\u6f22\u5b57 a", "\u0928\u092e\u0938\u094d\u0924\u0947 " * 6]
)
def test_as_many_words_as_a_request_may_have_tokens_are_taken(text: str) -> None:
    check_words([text], LIMITS, truncate=False)
    check_words([text] * 8, LIMITS, truncate=True)
    for texts, truncate in (([text, "b"], False), ([text] * 8 + ["b"], True)):
        with pytest.raises(Refusal, match="and at most 6 are taken at a time") as caught:
            check_words(texts, LIMITS, truncate=truncate)
        assert caught.value.status == 422
    encoder = TextEncoder(Vocabulary.read(MODEL / "vocab.txt", lowercase=True), 512)
    assert len(encoder.pieces([text])[0].ids) >= 6, "each word is a token at least"


def test_a_long_word_is_one() -> None:
    check_words(["a" * 100_000], LIMITS, truncate=False)

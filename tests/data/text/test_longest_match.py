"""Ids equal the reference's WordPiece model's, for words of any length."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.models import WordPiece

from bertjobs.data.text.longest_match import LongestMatch

PIECES = st.text("abกิ", min_size=1, max_size=4)
TOKENS = st.sets(st.one_of(PIECES, PIECES.map("##{}".format)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(tokens=TOKENS, words=st.lists(st.text("abกิ#", max_size=30), max_size=8), limit=st.integers(0, 30))
def test_any_words_are_cut_as_the_reference_does(tokens: set[str], words: list[str], limit: int) -> None:
    ids = {token: number for number, token in enumerate(sorted({"[UNK]", *tokens}))}
    reference = WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=limit)
    match = LongestMatch(reference, ids)
    for word in words:
        assert match.ids(word) == [token.id for token in reference.tokenize(word)], word


def test_another_prefix_and_unknown_token_are_honoured() -> None:
    ids = {"?": 0, "ab": 1, "@c": 2, "##c": 3}
    match = LongestMatch(WordPiece(ids, unk_token="?", continuing_subword_prefix="@"), ids)
    assert [match.ids(word) for word in ("abc", "ab##c", "abcc", "x", "")] == [[1, 2], [0], [1, 2, 2], [0], []]

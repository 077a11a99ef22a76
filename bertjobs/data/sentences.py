"""Documents to sentences, by Punkt (Kiss and Strunk, Computational Linguistics 32(4), 2006)."""

from __future__ import annotations

from functools import cache

import punkt


@cache
def _splitter() -> punkt.PunktSentenceTokenizer:
    # An empty line ends a sentence, so that a heading does not run into the paragraph below it.
    return punkt.tokenizer_for("english", line_breaks="paragraph")


def split_sentences(text: str) -> list[str]:
    """The sentences of an English text, in order, without the white space between them."""
    return _splitter().tokenize(text)

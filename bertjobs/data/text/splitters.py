"""How documents become sentences: the ways to choose from, and which one a corpus gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bertjobs.data.text.sentences import LANGUAGES, split_all, split_paragraphs
from bertjobs.data.text.unicode_sentences import split_all_unicode
from bertjobs.errors import InputError, nearest

Splitter = Callable[[Sequence[str]], list[list[str]]]
"""Texts to the sentences of each, in order, without the white space between them; none is empty."""

AUTO = "auto"
SPLITTERS = ("punkt", "unicode", "lines", "none")
"""NLTK's Punkt; Unicode's sentence ends; each line; each paragraph, that is, up to an empty line."""


def chosen_splitter(asked: str, language: str, of_corpus: str | None) -> str:
    """The one of ``SPLITTERS`` that a corpus gets.

    Args:
        asked: one of ``SPLITTERS``, or ``AUTO``: the corpus's own, else Punkt if it was trained for the language, else
            Unicode's.
        language: as ``languages.language_name`` returns it.
        of_corpus: the one that the form of the corpus asks for, if it does.

    Raises:
        InputError: another name; or Punkt for a language that it was not trained for.
    """
    if asked == AUTO:
        return of_corpus or ("punkt" if language in LANGUAGES else "unicode")
    if asked not in SPLITTERS:
        hint = nearest(asked, (AUTO, *SPLITTERS))
        raise InputError(f"unknown way to split sentences {asked!r}", where="--sentences", hint=hint)
    if asked == "punkt" and language not in LANGUAGES:
        raise InputError(
            f"Punkt was not trained for {language}",
            where="--sentences",
            hint=f"--sentences unicode; Punkt knows {', '.join(LANGUAGES)}",
        )
    return asked


def splitter(name: str, language: str) -> Splitter:
    """What splits texts in the way ``name``, as ``chosen_splitter`` returns it."""
    if name == "punkt":
        return partial(split_all, language=language)
    if name == "unicode":
        return split_all_unicode
    split = {"lines": split_lines, "none": split_paragraphs}[name]
    return lambda texts: [split(text) for text in texts]


def split_lines(text: str) -> list[str]:
    """The lines of a text, each a sentence, without the white space around them; empty ones are left out."""
    return [line for line in map(str.strip, text.split("\n")) if line]

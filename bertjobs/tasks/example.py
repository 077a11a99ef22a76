"""Examples as readers yield them, before anything is tokenised.

``id`` names an example within its file, ``where`` is the file and line (``train.tsv, line 7``) for errors. A target is
None where the file has none, as in a test set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

SPLITS = ("train", "dev", "test")
"""What the parts of a task's data are called here."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """A sentence, or with ``second`` a pair.

    ``label`` is a class's name, a number to be predicted, or a tuple of names where several can be true at once.
    """

    id: str
    text: str
    second: str | None = None
    label: str | float | tuple[str, ...] | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """A sentence in words, each with a tag.

    ``starts`` has where each word begins in the text that was cut into words, in characters; None where there is no
    such text.
    """

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    where: str = ""
    starts: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of a context: its text, and where that begins, in characters."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a context. ``answers`` are all correct ones: () where the context has none, None where that is
    not known."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None = None
    title: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that may answer a query.

    Attributes:
        relevant: 1 if it answers it, else 0.
        rank: its place, from 1, in the list that is to be ordered anew; 0 where there is no such list.
        query_relevant, judged_queries: how many passages the qrels name as relevant to the query, and how many queries
            they judge, with or without candidates; 0 where there are no qrels.
    """

    query_id: str
    passage_id: str
    query: str
    passage: str
    relevant: int | None = None
    rank: int = 0
    where: str = ""
    query_relevant: int = 0
    judged_queries: int = 0

    @property
    def id(self) -> str:
        return f"{self.query_id} {self.passage_id}"


Example = Sentences | Words | Question | Candidate

E = TypeVar("E", bound=Example)

_TARGETS = {Sentences: "label", Words: "tags", Question: "answers", Candidate: "relevant"}


def target_of(example: Example) -> Any:
    """What a model is to say of an example; None if that is not known."""
    return getattr(example, _TARGETS[type(example)])


def without_target(example: E) -> E:
    """The same example, as a test set has it."""
    return replace(example, **{_TARGETS[type(example)]: None})  # type: ignore[arg-type]

"""A small corpus with its own vocabulary, and the data prepared from it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.vocabulary_training import train_vocabulary
from tests.data.website import Site, served

DOCUMENTS = 24
TEXT = (
    "the of and to in a that is for it was on be with as by we our this have from at which are will not "
    "government people country nation congress states union peace war treasury commerce public revenue year "
    "citizens foreign general service subject report relations treaty interest military navy army law "
    "administration industrial unprecedented naïve café Zürich 1,234 don't [MASK] co-operate"
)


def quiet(stage: str, done: float, total: float, unit: str) -> None:
    """A progress callback that does nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server with the files that the test gives it."""
    with served() as site:
        yield site


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text files; document N also says "docX", so that it can be recognised by its tokens."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(7)
    for number in range(DOCUMENTS):
        sentences = []
        for _ in range(draw.randint(60, 140)):
            words = draw.choices(TEXT.split(), k=draw.randint(3, 30))
            words.insert(1, f"doc{chr(97 + number)}")
            sentences.append("The " + " ".join(words) + draw.choice(".?!"))
        (folder / f"speech-{number:02}.txt").write_text("\n\n".join(sentences), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def vocabulary_path(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    train_vocabulary([f"text:{corpus}"], 500, True, path)
    return path


@pytest.fixture(scope="session")
def small_vocabulary_path(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary that cuts most words into pieces."""
    path = tmp_path_factory.mktemp("small-vocabulary") / "vocab.txt"
    train_vocabulary([f"text:{corpus}"], 200, True, path)
    return path


@pytest.fixture(scope="session")
def vocabulary(vocabulary_path: Path) -> Vocabulary:
    return Vocabulary.read(vocabulary_path)


def _prepared(corpus: Path, vocabulary_path: Path, output: Path, **options: object) -> DataManifest:
    settings = {"duplicates": 2, "shards": 4, "held_out": 0.15, "format": "lddl", **options}
    prepare(PrepareOptions((f"text:{corpus}",), str(vocabulary_path), str(output), **settings), quiet)  # type: ignore[arg-type]
    return DataManifest.read(output)


@pytest.fixture(scope="session")
def dynamic(corpus: Path, vocabulary_path: Path, tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    return _prepared(corpus, vocabulary_path, tmp_path_factory.mktemp("dynamic") / "data")


@pytest.fixture(scope="session")
def static(corpus: Path, vocabulary_path: Path, tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    return _prepared(corpus, vocabulary_path, tmp_path_factory.mktemp("static") / "data", masking="static")


@pytest.fixture(scope="session")
def in_pieces(corpus: Path, small_vocabulary_path: Path, tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    """Like `dynamic`, with most words split into pieces."""
    return _prepared(corpus, small_vocabulary_path, tmp_path_factory.mktemp("in-pieces") / "data")

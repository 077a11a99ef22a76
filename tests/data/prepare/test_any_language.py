"""Text of many languages and shapes, prepared: nearly all of it is in the sequences, and half of the pairs are true."""

# ruff: noqa: RUF001  (other scripts have letters and marks that look like Latin ones)

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertjobs.cli.main import main
from bertjobs.data.prepare import PHASES, PrepareOptions, prepare
from bertjobs.data.prepare.pair_counts import PairCounts
from bertjobs.data.shards.ids_shard import read_ids_shard
from bertjobs.data.shards.manifest import MANIFEST_NAME, DataManifest
from bertjobs.data.shards.manifest_form import hashed_text
from bertjobs.data.text.vocabulary import SPECIAL_TOKENS
from bertjobs.data.text.vocabulary_training import train_vocabulary
from bertjobs.errors import InputError
from tests.data.conftest import quiet
from tests.data.declaration import ARTICLE

DOCUMENTS = 60


def _sentence(draw: random.Random, language: str, words: int) -> str:
    """Words of the declaration in random order, with the mark of the article's first sentence."""
    first = ARTICLE[language][0]
    known = [*"".join(ARTICLE[language])] if language == "chinese" else " ".join(ARTICLE[language]).split()
    known = [word for word in (word.strip(".。।、，,") for word in known) if word]
    mark = "" if language == "thai" else first[-1]
    return ("" if language == "chinese" else " ").join(draw.choices(known, k=words)) + mark


def _prose(language: str, gap: str) -> Callable[[random.Random], str]:
    return lambda draw: gap.join(_sentence(draw, language, draw.randint(6, 40)) for _ in range(draw.randint(3, 40)))


def _transcript(draw: random.Random) -> str:
    return _sentence(draw, "english", draw.randint(100, 1500)).lower().rstrip(".")


SHAPES: dict[str, tuple[Callable[[random.Random], str], str]] = {
    "Chinese": (_prose("chinese", ""), "zh"),
    "Thai, in one line": (_prose("thai", " "), "th"),
    "Thai, a line per sentence": (_prose("thai", "\n"), "th"),
    "Arabic": (_prose("arabic", " "), "ar"),
    "Hindi": (_prose("hindi", " "), "hi"),
    "Hindi, taken for English": (_prose("hindi", " "), "english"),
    "lower-case transcripts": (_transcript, "english"),
    "one paragraph": (lambda draw: " ".join(_sentence(draw, "english", 15) for _ in range(draw.randint(2, 6))), "en"),
    "one sentence": (lambda draw: _sentence(draw, "english", draw.randint(9, 60)), "en"),
    "one endless sentence": (lambda draw: _sentence(draw, "english", draw.randint(130, 400)), "en"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_nearly_all_of_the_text_is_used_and_half_of_the_pairs_are_true(shape: str, tmp_path: Path) -> None:
    write, language = SHAPES[shape]
    draw = random.Random(shape)
    documents = DOCUMENTS * (8 if shape.startswith("one ") else 1)
    lines = [json.dumps({"text": write(draw)}) for _ in range(documents)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    corpus = f"jsonl:{tmp_path / 'text.jsonl'}"
    train_vocabulary([corpus], 500, True, tmp_path / "vocab.txt")
    options = PrepareOptions(
        (corpus,), str(tmp_path / "vocab.txt"), str(tmp_path / "data"), language=language, shards=1
    )
    prepare(options, quiet)
    data = DataManifest.read(tmp_path / "data")
    for phase in data.phases.values():
        counts = PairCounts(**phase.train.pairs)
        assert counts.pairs == phase.train.rows
        assert counts.unpaired == 0
        assert counts.used_share >= 0.95
        assert 0.4 < counts.random_next / counts.pairs < 0.7


def _prepared(tmp_path: Path, documents: list[list[str]], **given: object) -> DataManifest:
    """Data of documents of words, each document a line, with a vocabulary of exactly these words."""
    tokens = [*SPECIAL_TOKENS, ".", *dict.fromkeys(word for words in documents for word in words)]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (tmp_path / "lines.txt").write_text("".join(f"{n} {' '.join(words)}.\n" for n, words in enumerate(documents)))
    settings = {"shards": 1, "phases": (PHASES[1],), "duplicates": 1, **given}
    corpora = (f"lddl:{tmp_path / 'lines.txt'}",)
    prepare(PrepareOptions(corpora, str(tmp_path / "vocab.txt"), str(tmp_path / "data"), **settings), quiet)  # type: ignore[arg-type]
    return DataManifest.read(tmp_path / "data")


def _words(count: int) -> list[str]:
    letters = "abcdefghij"
    return ["w" + "".join(letters[int(digit)] for digit in f"{number:05}") for number in range(count)]


@pytest.mark.parametrize("length", [10, 90, 400])
def test_the_used_share_is_that_of_the_shards(length: int, tmp_path: Path) -> None:
    """Each word is in the corpus once: the distinct words of the shards are the tokens used."""
    words = _words(60 * length)
    documents = [words[start : start + length] for start in range(0, len(words), length)]
    data = _prepared(tmp_path, documents)
    split = data.phase(1).train
    shards = [read_ids_shard(split.folder / file.name, data.vocabulary_size) for file in split.files]
    ids = np.concatenate([np.asarray(shard.ids) for shard in shards])
    own = np.unique(ids[ids > len(SPECIAL_TOKENS)])
    counts = PairCounts(**split.pairs)
    periods = data.documents["train"]
    assert counts.tokens == data.documents["train"] * (length + 1)
    assert 0 <= counts.tokens_used - len(own) <= periods
    assert counts.used_share > (0.95 if length == 10 else 0.9)
    # A true B follows A's last word.
    if length == 10:
        assert abs(counts.random_next / counts.pairs - 0.5) < 0.3


def test_documents_of_one_short_sentence_are_refused_unless_that_is_accepted(tmp_path: Path) -> None:
    documents = [words.split() for words in ("war and peace", "the people of the nation", "a union of states")] * 20
    with pytest.raises(InputError, match="100% of phase 1's pairs cannot have a true next sentence"):
        _prepared(tmp_path, documents)
    assert not (tmp_path / "data" / MANIFEST_NAME).exists()
    counts = PairCounts(**_prepared(tmp_path, documents, most_unpaired=1.0).phase(1).train.pairs)
    assert counts.unpaired == counts.random_next == counts.pairs > 0


def test_the_command_says_how_it_split_and_what_it_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw, folder, vocabulary = random.Random(3), tmp_path / "text", tmp_path / "vocab.txt"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(_prose("chinese", "")(draw), encoding="utf-8")
    train_vocabulary([f"text:{folder}"], 300, True, vocabulary)
    command = ["data", "prepare", "--corpus", f"text:{folder}", "--vocab", str(vocabulary)]
    output = tmp_path / "data"
    assert main([*command, "--output", str(output), "--language", "zh", "--shards", "1", "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "sentences: unicode, language chinese\n" in printed
    assert "% of the text's tokens used\n" in printed
    settings = json.loads((output / MANIFEST_NAME).read_bytes())["settings"]
    assert (settings["language"], settings["sentences"]) == ("chinese", "unicode")


def test_data_of_versions_that_did_not_count_is_read(tmp_path: Path) -> None:
    path = _prepared(tmp_path, [_words(40)] * 10).folder / MANIFEST_NAME
    content = json.loads(path.read_bytes())
    assert content["phases"]["1"]["train"].pop("pairs")["pairs"] > 0
    path.write_text(hashed_text(content))
    phase = DataManifest.read(path.parent).phase(1)
    assert (phase.train.pairs, phase.validation.pairs["pairs"]) == ({}, phase.validation.rows)


def test_settings_of_punkt_are_recorded_as_before_there_was_a_choice() -> None:
    plain = PrepareOptions(("text:a",), "vocab.txt", "out")
    assert "sentences" not in plain.settings()
    assert (
        PrepareOptions(("text:a",), "vocab.txt", "out", language="en", sentences="punkt").settings() == plain.settings()
    )
    assert PrepareOptions(("text:a",), "vocab.txt", "out", sentences="lines").settings()["sentences"] == "lines"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"language": "zz"}, "unknown language 'zz'"),
        ({"language": "zh", "sentences": "punkt"}, "Punkt was not trained for chinese"),
        ({"sentences": "words"}, "--sentences"),
        ({"most_unpaired": -0.1}, "--most-unpaired"),
        ({"least_used": 1.1}, "--least-used"),
    ],
)
def test_bad_options_are_refused(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        PrepareOptions(("text:a",), "vocab.txt", "out", **options).check()

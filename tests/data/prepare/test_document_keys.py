"""Documents whose ids repeat are told apart by their text; where no id repeats, the keys are of the ids alone."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.data.corpus import Document, Piece, Source, read, scan
from bertjobs.data.prepare import PHASES, PrepareOptions, prepare
from bertjobs.data.prepare.document_keys import document_key, keyed, with_repeated_ids
from bertjobs.data.prepare.held_out import remark_on_share, validation_share
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.files.atomic import sha256_of
from tests.data.conftest import TEXT, quiet

Lines = list[tuple[str, str]]


def text_of(number: int) -> str:
    draw = random.Random(number)
    return " ".join("The " + " ".join(draw.choices(TEXT.split(), k=12)) + "." for _ in range(8))


def write(path: Path, lines: Lines) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = "".join(f"{identifier} {text}\n" for identifier, text in lines).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return f"lddl:{path}"


def marked(corpus: str, piece_bytes: int = 4000) -> list[Piece]:
    source = Source.parse(corpus)
    return with_repeated_ids(scan([source], piece_bytes), [source])


def all_keyed(corpus: str, piece_bytes: int = 4000) -> list[tuple[tuple[int, int], Document]]:
    return [pair for piece in marked(corpus, piece_bytes) for pair in keyed(read(piece, "lddl"), piece, 1)]


def test_where_no_id_repeats_the_keys_are_of_the_ids(tmp_path: Path) -> None:
    corpus = write(tmp_path / "a.txt", [(f"doc-{number}", text_of(number)) for number in range(60)])
    assert not any(piece.ids_repeat for piece in marked(corpus))
    for (key, part), document in all_keyed(corpus):
        assert (key, part) == document_key(1, document.id) == (
            int.from_bytes(hashlib.blake2b(f"1/{document.id}".encode(), digest_size=8).digest(), "little"), 1
        )  # fmt: skip


@pytest.mark.parametrize(
    "identifier",
    [
        lambda _number: "1",
        lambda number: str(number % 7),
        lambda number: f"wiki#{number}",  # looks like parts of a long document
        lambda number: f"{number % 20}",
    ],
    ids=["one", "seven", "numbered", "counted-per-file"],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_documents_of_equal_ids_have_keys_of_their_own(
    tmp_path: Path, identifier: Callable[[int], str], name: str
) -> None:
    corpus = write(tmp_path / name, [(identifier(number), text_of(number)) for number in range(100)])
    pairs = all_keyed(corpus)
    assert len({key for (key, _), _ in pairs}) == len(pairs) == 100
    assert len({part for (_, part), _ in pairs}) == 100


def test_ids_that_begin_anew_in_each_file_are_noticed(tmp_path: Path) -> None:
    for file in range(5):
        write(tmp_path / "c" / f"{file}.txt", [(str(line), text_of(100 * file + line)) for line in range(30)])
    corpus = f"lddl:{tmp_path / 'c'}"
    assert all(piece.ids_repeat for piece in marked(corpus))
    assert len({key for (key, _), _ in all_keyed(corpus)}) == 150


def test_keys_of_equal_documents_are_equal_and_do_not_depend_on_the_pieces(tmp_path: Path) -> None:
    lines = [("1", text_of(number % 30)) for number in range(60)]
    corpus = write(tmp_path / "a.txt", lines)
    coarse, fine = all_keyed(corpus, 1 << 20), all_keyed(corpus, 1000)
    assert [key for (key, _), _ in coarse] == [key for (key, _), _ in fine]
    assert len({key for (key, _), _ in coarse}) == 30
    assert len({part for (_, part), _ in coarse}) == 60  # the two of one key are in buckets of their own


def test_the_parts_of_a_long_document_share_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertjobs.data.corpus.document.parts.__defaults__", (300,))
    corpus = write(tmp_path / "a.txt", [("1", text_of(0)), ("1", text_of(1)), ("x#2", text_of(2))])
    pairs = all_keyed(corpus, 1 << 20)
    assert [document.id for _, document in pairs[:2]] == ["1", "1#2"]
    by_document: dict[int, list[int]] = {}
    for (key, part), _ in pairs:
        by_document.setdefault(key, []).append(part)
    assert len(by_document) == 3
    assert all(len(parts) > 1 for parts in by_document.values())
    assert len({part for parts in by_document.values() for part in parts}) == len(pairs)


@pytest.mark.parametrize("identifiers", [("a", "b", "c"), ("1", "1", "x#2")], ids=["one-each", "repeated"])
def test_parts_may_have_keys_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identifiers: tuple[str, ...]
) -> None:
    monkeypatch.setattr("bertjobs.data.corpus.document.parts.__defaults__", (300,))
    corpus = write(tmp_path / "a.txt", [(name, text_of(number)) for number, name in enumerate(identifiers)])
    (piece,) = marked(corpus, 1 << 20)
    assert piece.ids_repeat == (identifiers[0] == identifiers[1])
    together = list(keyed(read(piece, "lddl"), piece, 1))
    apart = list(keyed(read(piece, "lddl"), piece, 1, parts_apart=True))
    assert len({key for (key, _), _ in together}) == 3
    assert len({key for (key, _), _ in apart}) == len(apart) > 6
    assert [part for (_, part), _ in apart] == [part for (_, part), _ in together]
    kept = [document.id for (one, _), (other, document) in zip(together, apart, strict=True) if one == other]
    assert kept == list(identifiers), "documents that are not cut keep their keys"


@pytest.mark.parametrize("files", [1, 2])
def test_a_corpus_in_a_few_files_is_not_held_out_as_a_whole(
    tmp_path: Path, vocabulary_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    monkeypatch.setattr("bertjobs.data.corpus.document.parts.__defaults__", (1000,))
    monkeypatch.setattr("bertjobs.data.prepare.data_folder.PIECE_BYTES", 10_000)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for file in range(files):
        text = "\n\n".join(text_of(number) for number in range(200 * file, 200 * (file + 1)))
        (folder / ("corpus.txt", "more.txt")[file]).write_text(text)  # by the default seed the first would be held out
    prepare(PrepareOptions((f"text:{folder}",), str(vocabulary_path), str(tmp_path / "data"), (PHASES[1],),
                           duplicates=1, shards=2), quiet)  # fmt: skip
    data = DataManifest.read(tmp_path / "data")
    assert 0.01 < validation_share(data) < 0.15
    assert remark_on_share(data) == ""


def test_other_kinds_have_ids_that_are_places(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text_of(1))
    source = Source.parse(f"text:{tmp_path}")
    assert not any(piece.ids_repeat for piece in with_repeated_ids(scan([source]), [source]))


def test_a_corpus_of_one_id_is_split_and_said_so(tmp_path: Path, vocabulary_path: Path) -> None:
    corpus = write(tmp_path / "a.txt", [("1", text_of(number)) for number in range(200)])

    def made(name: str) -> DataManifest:
        prepare(PrepareOptions((corpus,), str(vocabulary_path), str(tmp_path / name), (PHASES[1],), held_out=0.2,
                               duplicates=1, shards=2), quiet)  # fmt: skip
        return DataManifest.read(tmp_path / name)

    data = made("one")
    assert 20 <= data.documents["validation"] <= 60  # 40 of 200 on average
    assert data.corpus["with_equal_ids"] == 1
    assert sha256_of(data.folder / "MANIFEST.json") == sha256_of(made("two").folder / "MANIFEST.json")

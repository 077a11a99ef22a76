"""What prepare makes of the kinds of corpora: sentences, counts, and refusals before any work is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.cli.data import _print_oddities
from bertjobs.cli.main import main
from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.prepare.work_folder import FOLDER_NAME, WorkFolder
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary_training import train_vocabulary
from bertjobs.errors import InputError
from bertjobs.files.arrays import map_arrays
from tests.data.conftest import quiet
from tests.data.corpus.test_pieces import HEAD, TAIL, page

LINES = ["of the people. by the people. for the people", "the army", "war was a treaty of the navy", "union of states"]


def run(output: Path, vocabulary_path: Path, *corpora: str, **settings: Any) -> DataManifest:
    given = {"duplicates": 1, "shards": 1, "held_out": 0.3, **settings}
    prepare(PrepareOptions(corpora, str(vocabulary_path), str(output), **given), quiet)
    return DataManifest.read(output)


class StoppedError(Exception):
    """Ends a prepare after its first stage."""


def sentences_per_document(output: Path, vocabulary_path: Path, corpus: str) -> list[int]:
    def stop(stage: str, *_: Any) -> None:
        if stage == "pairs":
            raise StoppedError

    options = PrepareOptions((corpus,), str(vocabulary_path), str(output))
    with pytest.raises(StoppedError):
        prepare(options, stop)
    work = WorkFolder.read(output)
    counts = []
    for path in sorted((output / FOLDER_NAME / "tokenise").glob("*.safetensors")):
        counts += np.diff(map_arrays(path)[0]["document_offsets"]).tolist()
    assert not work.missing("tokenise")
    return sorted(counts)


def test_a_line_of_a_bert_corpus_is_one_sentence(tmp_path: Path, vocabulary_path: Path) -> None:
    documents = [LINES, LINES[:2], LINES[:1]]
    text = "\n\n".join("\n".join(lines) for lines in documents)
    for name in ("bert", "text"):
        (tmp_path / name).mkdir()
    (tmp_path / "bert" / "a.txt").write_text(text)
    for number, lines in enumerate(documents):
        (tmp_path / "text" / f"{number}.txt").write_text("\n".join(lines))
    assert sentences_per_document(tmp_path / "1", vocabulary_path, f"bert:{tmp_path}/bert") == [1, 2, 4]
    assert sentences_per_document(tmp_path / "2", vocabulary_path, f"text:{tmp_path}/text") == [3, 3, 3]


def test_articles_without_text_are_counted(tmp_path: Path, vocabulary_path: Path) -> None:
    articles = [f'<doc id="{n}" url="" title="T">\nT\n\n{text}\n\n</doc>\n' for n, text in enumerate([*LINES, "", ""])]
    (tmp_path / "wiki_00").write_text("".join(articles))
    data = run(tmp_path / "out", vocabulary_path, f"wikiextractor:{tmp_path}")
    assert data.corpus["empty"] == 2
    assert sum(data.documents.values()) == len(LINES)


def test_documents_without_text_are_counted_whatever_the_kind(tmp_path: Path, vocabulary_path: Path) -> None:
    texts = [*LINES, "", None, " \n"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prose = [f"The article says: {text}." for text in LINES]
    pages = [page(number, text) for number, text in enumerate([*prose, "", "{{stub}}", "* a list"], 1)]
    (tmp_path / "a.xml").write_text(HEAD + "".join(pages) + TAIL)
    (tmp_path / "text").mkdir()
    for number, text in enumerate([*LINES, "\n", " ", "\n\n"]):
        (tmp_path / "text" / f"{number}.txt").write_text(text)
    for corpus in ("parquet:{}/a.parquet", "jsonl:{}/a.jsonl", "mediawiki:{}/a.xml", "text:{}/text"):
        data = run(
            tmp_path / corpus[:2], vocabulary_path, corpus.format(tmp_path), max_unknown_share=1, most_unpaired=1
        )
        assert (data.corpus["empty"], sum(data.documents.values())) == (3, len(LINES)), corpus


def test_lines_without_an_id_are_counted_and_named(
    tmp_path: Path, vocabulary_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n} {text}\n" for n, text in enumerate(LINES * 3)) + "word\n\n" * 6)
    data = run(tmp_path / "out", vocabulary_path, f"lddl:{tmp_path}")
    assert sum(data.documents.values()) == 12
    assert (data.corpus["without_id"], data.files_without_id, data.corpus["empty"]) == (6, {"a.txt": 6}, 0)
    _print_oddities(data)
    assert "note: skipped: 6 lines, for want of white space without an id" in (printed := capsys.readouterr().out)
    assert "      in a.txt (6)\n" in printed


def test_what_json_had_as_escapes_is_not_called_invalid_bytes(
    tmp_path: Path, vocabulary_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"text": f"{text}. " * 9}).encode() + b"\n" for text in LINES]
    (tmp_path / "a.jsonl").write_bytes(
        b"".join(lines) + rb'{"text": "war \ud83d \ud83d"}' + b'\n{"text": "the \xff"}\n'
    )
    data = run(tmp_path / "out", vocabulary_path, f"jsonl:{tmp_path}", max_unknown_share=1)
    _print_oddities(data)
    printed = capsys.readouterr().out.splitlines()
    assert "note: replaced by U+FFFD: 1 invalid UTF-8 sequence" in printed
    assert "note: replaced by U+FFFD: 2 half characters among JSON's escapes" in printed


def test_files_that_are_not_read_are_said(
    tmp_path: Path, vocabulary_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    for number, text in enumerate(LINES):
        for suffix in (".txt", ".md"):
            (tmp_path / "text" / f"{number}{suffix}").write_text(f"{text}. " * 9)
    corpus, says = f"text:{tmp_path / 'text'}", "4 files with other names were not read, such as '"
    data = run(tmp_path / "out", vocabulary_path, corpus)
    assert data.corpus["unread_files"] == 4
    _print_oddities(data)
    assert f"note: {says}" in capsys.readouterr().out
    assert main(["data", "duplicates", "--corpus", corpus, "--processes", "1"]) == 0
    assert f"note: {says}" in capsys.readouterr().out
    assert train_vocabulary([corpus], 200, True, tmp_path / "vocab.txt")[-1].startswith(says)


def test_a_source_without_a_document_is_refused_before_the_others_are_read(
    tmp_path: Path, corpus: Path, vocabulary_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.txt").write_text("one\ntwo\n")  # of kind lddl: ids alone

    def unreachable(*_: Any) -> None:
        raise AssertionError("a task was run")

    monkeypatch.setattr("bertjobs.data.prepare.on_this_machine.run_task", unreachable)
    with pytest.raises(InputError, match=r"corpus 'lddl:.*words.txt' holds no text") as caught:
        run(tmp_path / "out", vocabulary_path, f"text:{corpus}", f"lddl:{tmp_path}/words.txt")
    assert "one document per line, <id><white space><text>" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_weight_too_small_to_draw_a_document_is_refused(tmp_path: Path, corpus: Path, vocabulary_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of the \d+ training documents is used") as caught:
        run(tmp_path / "out", vocabulary_path, f"text:{corpus}@0.00001")
    assert "the weight 1e-05 times --duplicates 1 draws each 1e-05 times" in str(caught.value)
    assert not (tmp_path / "out").exists()
    data = run(tmp_path / "both", vocabulary_path, f"text:{corpus}@0.00001", f"text:{corpus}")
    assert data.phase(1).train.rows


def test_a_folder_whose_name_ends_like_a_weight(tmp_path: Path, corpus: Path, vocabulary_path: Path) -> None:
    (tmp_path / "speeches@2023").symlink_to(corpus)
    data = run(tmp_path / "out", vocabulary_path, f"text:{tmp_path}/speeches@2023")
    assert data.settings["corpora"] == [f"text:{tmp_path}/speeches@2023@1"]
    plain = run(tmp_path / "plain", vocabulary_path, f"text:{corpus}")
    assert data.phase(1).train.files[0].rows == plain.phase(1).train.files[0].rows

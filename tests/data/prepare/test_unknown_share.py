"""[UNK] is counted for each source; too much of it is refused, and the work is kept for another limit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import BertTokenizerFast

from bertjobs.cli.data_sources import source_lines
from bertjobs.cli.main import main
from bertjobs.data.check.source_picture import source_panels
from bertjobs.data.prepare import PHASES, PrepareOptions, data_folder, prepare, unknown_share
from bertjobs.data.prepare.unknown_share import check_unknown
from bertjobs.data.prepare.work_folder import WorkFolder
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.manifest_form import hashed_text
from bertjobs.data.shards.source_counts import SourceCounts
from bertjobs.errors import InputError
from tests.data.conftest import quiet
from tests.data.text.scripts import TEXTS


@pytest.fixture
def options(corpus: Path, vocabulary_path: Path, tmp_path: Path) -> PrepareOptions:
    """Two sources, the second in scripts that the vocabulary does not know."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("Russian", "Greek", "Hindi", "English"):
        (foreign / f"{name}.txt").write_text(f"{TEXTS[name]}\n\n" * 40, encoding="utf-8")
    return PrepareOptions(
        (f"text:{corpus}", f"text:{foreign}"), str(vocabulary_path), str(tmp_path / "data"), (PHASES[1],), shards=2
    )


def _reference(folder: Path, vocabulary: Path) -> tuple[int, int]:
    """Tokens and [UNK] of a folder's text, by Hugging Face."""
    tokenizer = BertTokenizerFast(vocab=str(vocabulary), do_lower_case=True)
    ids = [number for file in folder.glob("*.txt")
           for number in tokenizer(file.read_text(encoding="utf-8"), add_special_tokens=False,
                                   split_special_tokens=True)["input_ids"]]  # fmt: skip
    return len(ids), ids.count(tokenizer.unk_token_id)


def test_each_source_has_its_own_count_which_is_hugging_faces(
    options: PrepareOptions, corpus: Path, vocabulary_path: Path, tmp_path: Path
) -> None:
    prepare(replace(options, max_unknown_share=1.0), quiet)
    counts = [(one.corpus, one.tokens, one.unknown) for one in DataManifest.read(tmp_path / "data").sources]
    expected = [_reference(folder, vocabulary_path) for folder in (corpus, tmp_path / "foreign")]
    assert counts == [(name, *each) for name, each in zip(options.corpora, expected, strict=True)]
    assert expected[0][1] == 0
    assert expected[1][1] > 1000


def test_too_much_of_one_source_is_refused_and_another_limit_continues(
    options: PrepareOptions, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"more than 5\.0%") as caught:
        prepare(options, quiet)
    assert f"text:{tmp_path / 'foreign'}" in caught.value.what
    assert str(corpus) not in caught.value.what
    limit = float(str(caught.value.hint).rpartition("--max-unknown-share ")[2])
    stage = tmp_path / "data" / ".prepare" / "tokenise"
    made = {file: file.stat().st_mtime_ns for file in stage.iterdir()}
    assert made
    assert not (tmp_path / "data" / "MANIFEST.json").exists()
    with pytest.raises(InputError, match="are \\[UNK\\]"):
        prepare(replace(options, max_unknown_share=limit - 0.02), quiet)
    seen: list[tuple[str, float, float]] = []
    assert prepare(replace(options, max_unknown_share=limit), lambda *progress: seen.append(progress[:3]))
    (done, total), *others = [(done, total) for stage, done, total in seen if "tokens" in stage]
    assert done == total > 0, "no text is read again"
    assert not others
    assert not prepare(options, quiet), "the limit decides no byte: the folder is complete"


def test_a_source_far_above_the_limit_is_refused_before_all_text_is_encoded(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown_share, "_MANY_TOKENS", 1000)
    monkeypatch.setattr(data_folder, "PIECE_BYTES", 20_000)
    only_foreign = replace(options, corpora=options.corpora[::-1])
    with pytest.raises(InputError, match=r"foreign' are \[UNK\]"):
        prepare(only_foreign, quiet)
    stage = tmp_path / "data" / ".prepare"
    assert 0 < len(list((stage / "tokenise").glob("*.json"))) < len(WorkFolder.read(tmp_path / "data").pieces)
    assert prepare(replace(only_foreign, max_unknown_share=1.0), quiet)


@pytest.mark.parametrize(
    ("share", "limit", "refused"), [(0.05, 0.05, False), (0.0501, 0.05, True), (0.0, 0.0, False), (1.0, 1.0, False)]
)
def test_the_limit_itself_is_allowed(share: float, limit: float, refused: bool) -> None:
    counts = [
        SourceCounts("text:a", tokens=10_000),
        SourceCounts("text:b", tokens=10_000, unknown=round(10_000 * share)),
    ]
    if not refused:
        check_unknown(counts, limit)
        return
    with pytest.raises(InputError, match=r"5\.0% of the tokens of 'text:b'"):
        check_unknown(counts, limit)


def test_a_source_without_tokens_has_no_share() -> None:
    check_unknown([SourceCounts("text:a")], 0.0)


@pytest.mark.parametrize("limit", [-0.1, 1.5])
def test_a_limit_that_is_no_share_is_refused(options: PrepareOptions, limit: float) -> None:
    with pytest.raises(InputError, match="is not a share") as caught:
        prepare(replace(options, max_unknown_share=limit), quiet)
    assert caught.value.where == "--max-unknown-share"


def test_the_text_in_words_that_are_too_long_is_counted_by_its_characters(
    corpus: Path, vocabulary_path: Path, tmp_path: Path
) -> None:
    """A word is one [UNK] whatever its length: by tokens next to nothing would be lost."""
    text = (corpus / "speech-00.txt").read_text(encoding="utf-8")
    (tmp_path / "long.txt").write_text(f"{text}\n\n{'war' * (len(text) // 3)}\n\n{text}", encoding="utf-8")
    (tmp_path / "short.txt").write_text(text, encoding="utf-8")
    options = PrepareOptions((f"text:{tmp_path}",), str(vocabulary_path), str(tmp_path / "data"), (PHASES[1],))
    with pytest.raises(InputError, match=r"error: 2\d\.\d% of the characters of 'text:.* are \[UNK\]") as caught:
        prepare(options, quiet)
    limit = float(str(caught.value.hint).rpartition("--max-unknown-share ")[2])
    assert prepare(replace(options, max_unknown_share=limit), quiet)
    data = DataManifest.read(tmp_path / "data")
    (counts,) = data.sources
    assert counts.unknown == 1
    assert limit - 0.03 < counts.unknown_text_share < limit
    assert data.limits == {"max_unknown_share": limit}
    printed = source_lines(data)
    assert any("[UNK] by character" in line for line in printed)
    assert any(line.startswith("note: 2") and "of the characters of 'text:" in line for line in printed)
    panels = {panel.title: panel for panel in source_panels(data.sources)}
    assert panels["Unknown tokens, [UNK]"].bars == ("tokens", "characters")


def test_inspect_calls_nothing_wrong_that_prepare_accepted(
    corpus: Path, vocabulary_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    for number in range(4):
        words = (corpus / f"speech-{number:02}.txt").read_text(encoding="utf-8").split(" ")
        words[::40] = ["ж"] * len(words[::40])
        (tmp_path / "text" / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    options = PrepareOptions(
        (f"text:{tmp_path / 'text'}",), str(vocabulary_path), str(tmp_path / "data"), (PHASES[1],), shards=1
    )
    assert prepare(options, quiet)
    assert 0.01 < DataManifest.read(tmp_path / "data").sources[0].unknown_share < 0.05
    assert main(["data", "inspect", str(tmp_path / "data"), "--samples", "0"]) == 0
    assert re.search(r"^note: [12]\.\d% of the tokens of 'text:.*' are \[UNK\]", capsys.readouterr().out, re.MULTILINE)

    manifest = json.loads((tmp_path / "data" / "MANIFEST.json").read_bytes())
    del manifest["limits"]  # as in folders of older versions
    (tmp_path / "data" / "MANIFEST.json").write_text(hashed_text(manifest))
    assert main(["data", "inspect", str(tmp_path / "data"), "--samples", "0"]) == 64

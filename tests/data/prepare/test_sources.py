"""The counts of each source: against the shards and the documents, counted anew; as text and as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bertjobs.cli.data_sources import duplicate_lines, source_lines
from bertjobs.cli.main import main
from bertjobs.data.check.histogram import BinLengths, picture
from bertjobs.data.check.source_picture import SHOWN, shown_sources, source_panels
from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.prepare.pair_counts import NewTokens
from bertjobs.data.prepare.source_tally import count_lengths, phase_counts
from bertjobs.data.shards.duplicate_report import DuplicateReport
from bertjobs.data.shards.ids_shard import read_ids_shard
from bertjobs.data.shards.length_counts import quantile
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.source_counts import PhaseCounts, SourceCounts
from bertjobs.data.text.sentences import split_sentences
from bertjobs.data.text.vocabulary import Vocabulary
from tests.data.conftest import DOCUMENTS, quiet


@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=200), st.floats(0.01, 1))
@example([82], 1.0)
def test_quantiles_are_right_to_two_and_a_half_percent_or_one_token(lengths: list[int], share: float) -> None:
    exact = sorted(lengths)[max(0, int(np.ceil(share * len(lengths) - 1e-9)) - 1)]
    assert abs(quantile(count_lengths(np.array(lengths)), share) - exact) <= max(1, 0.025 * exact)


def test_no_length_has_no_quantile() -> None:
    assert quantile({}, 0.5) == 0


@st.composite
def drawn_buckets(draw: st.DrawFn) -> tuple[list[int], list[int], list[tuple[int, int]], list[bool]]:
    """Sources and tokens of documents, and slices of them; every other slice begins a sequence."""
    tokens = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    sources = sorted(draw(st.lists(st.integers(0, 2), min_size=len(tokens), max_size=len(tokens))))
    if draw(st.booleans()):
        sources[-1] = -1
    slices = []
    for _ in range(draw(st.integers(0, 8)) * 2):
        document = draw(st.integers(0, len(tokens) - 1))
        start = draw(st.integers(0, tokens[document] - 1))
        end = draw(st.integers(start + 1, tokens[document]))
        slices.append((sum(tokens[:document]) + start, end - start))
    return sources, tokens, slices, draw(st.lists(st.booleans(), min_size=len(slices), max_size=len(slices)))


@given(drawn_buckets())
def test_what_sequences_use_is_counted_token_by_token(
    bucket: tuple[list[int], list[int], list[tuple[int, int]], list[bool]],
) -> None:
    sources, tokens, slices, flags = bucket
    owner = [source for source, count in zip(sources, tokens, strict=True) for _ in range(count)]
    used = {place for start, length in slices for place in range(start, start + length)}
    firsts, random_next = slices[::2], flags[::2]
    expected = {
        source: PhaseCounts(
            sequences=sum(owner[start] == source for start, _ in firsts),
            random_next=sum(owner[slices[one][0]] == source for one in range(0, len(slices), 2) if flags[one]),
            tokens=owner.count(source),
            used=sum(owner[place] == source for place in used),
        )
        for source in set(owner) - {-1}
    }
    starts, lengths = (np.array([one[part] for one in slices], dtype=np.int64) for part in (0, 1))
    counts = phase_counts(
        np.array(sources), np.array(tokens), NewTokens.of(starts, lengths), starts[::2],
        np.array(random_next, dtype=np.bool_),
    )  # fmt: skip
    assert counts == expected


@pytest.fixture(scope="module")
def two_sources(
    corpus: Path, small_vocabulary_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataManifest, list[list[str]]]:
    """Data of two sources, and the texts of each."""
    folder = tmp_path_factory.mktemp("two-sources")
    lines = [
        "Ein Satz mit fremden Zeichen: ☃ ☃. Noch ein Satz.",
        "Kurz.",
        "Drei Sätze. Hier sind sie. Alle drei ☃.",
    ] * 5
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    corpora = (f"text:{corpus}", f"jsonl:{folder / 'lines.jsonl'}@2")
    options = PrepareOptions(
        corpora, str(small_vocabulary_path), str(folder / "data"), duplicates=3, held_out=0.2, max_unknown_share=0.1
    )
    prepare(options, quiet)
    speeches = [path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir())]
    return DataManifest.read(folder / "data"), [speeches, lines]


def test_documents_sentences_and_tokens_are_those_of_each_source(
    two_sources: tuple[DataManifest, list[list[str]]], small_vocabulary_path: Path
) -> None:
    data, texts = two_sources
    vocabulary = Vocabulary.read(small_vocabulary_path)
    encoder = vocabulary.encoder()
    for counts, of_source in zip(data.sources, texts, strict=True):
        encoded = [encoder.encode(split_sentences(text)) for text in of_source]
        sentences = np.concatenate([lengths[lengths > 0] for _, lengths in encoded])
        ids = np.concatenate([ids for ids, _ in encoded])
        assert (counts.documents, counts.sentences, counts.tokens) == (len(of_source), len(sentences), len(ids))
        assert counts.unknown == np.count_nonzero(ids == vocabulary.unk_id)
        assert counts.document_tokens == count_lengths(np.array([len(ids) for ids, _ in encoded]))
        assert counts.sentence_tokens == count_lengths(sentences)
    assert data.sources[1].unknown > data.sources[0].unknown == 0
    assert sum(counts.tokens for counts in data.sources) == data.corpus["tokens"]
    assert sum(counts.bytes for counts in data.sources) == data.corpus["bytes"]


def test_sequences_are_those_of_the_shards(two_sources: tuple[DataManifest, list[list[str]]]) -> None:
    data, _ = two_sources
    for number, phase in data.phases.items():
        counts = [source.phases[number] for source in data.sources]
        shards = [read_ids_shard(split.folder / file.name, data.vocabulary_size)
                  for split in (phase.train, phase.validation) for file in split.files]  # fmt: skip
        assert sum(one.sequences for one in counts) == sum(shard.rows for shard in shards)
        assert sum(one.random_next for one in counts) == sum(int(shard.is_random_next.sum()) for shard in shards)
        assert all(one.tokens == source.tokens for one, source in zip(counts, data.sources, strict=True))
        assert all(0 < one.used <= one.tokens for one in counts)
        # "Kurz." is one sentence: always the A of a random next one
        assert counts[1].random_next / counts[1].sequences > counts[0].random_next / counts[0].sequences


def test_the_language_of_each_source_is_guessed(two_sources: tuple[DataManifest, list[list[str]]]) -> None:
    speeches, lines = (counts.language for counts in two_sources[0].sources)
    assert speeches == ("English", DOCUMENTS, DOCUMENTS)
    assert lines is not None
    assert lines[0] == "German"
    assert lines[2] == 15


def test_counts_survive_their_file(two_sources: tuple[DataManifest, list[list[str]]]) -> None:
    for counts in two_sources[0].sources:
        assert SourceCounts.from_json(json.loads(json.dumps(counts.as_json()))) == counts
        doubled = counts + counts
        assert doubled.tokens == 2 * counts.tokens
        assert doubled.phases[1].used == 2 * counts.phases[1].used
        assert doubled.document_quantiles == counts.document_quantiles


def test_prepare_and_inspect_show_the_sources(
    two_sources: tuple[DataManifest, list[list[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, _ = two_sources
    file = tmp_path / "picture.png"
    assert main(["data", "inspect", str(data.folder), "--samples", "0", "--histogram", str(file)]) == 0
    printed = capsys.readouterr().out
    lines = source_lines(data)
    assert "\n".join(lines) in printed
    assert lines[1].startswith(f"  1  mostly English (100% of a sample of {DOCUMENTS} documents)  text:")
    head, first, second = (line.split("  ") for line in lines[3:6])
    assert {"documents", "repeated", "sentences", "tokens", "[UNK]", "used, phase 1, 2"} <= {
        cell.strip() for cell in head
    }
    assert f"{data.sources[0].tokens:,}" in {cell.strip() for cell in first}
    assert f"{data.sources[1].tokens:,}" in {cell.strip() for cell in second}
    assert file.read_bytes().startswith(b"\x89PNG")
    assert main(["data", "inspect", str(data.folder), "--samples", "0", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["sources"][1]["corpus"] == data.sources[1].corpus
    assert content["duplicates"]["documents"] == 12  # fifteen lines are three


def test_a_folder_of_an_older_version_shows_no_sources(dynamic: DataManifest) -> None:
    older = replace(dynamic, sources=(), duplicates=None)
    assert source_lines(older) == []


def test_an_older_manifest_is_read(dynamic: DataManifest, tmp_path: Path) -> None:
    content = json.loads((dynamic.folder / "MANIFEST.json").read_bytes())
    for name in ("sources", "duplicates", "limits", "files", "sha256_of_above"):
        del content[name]
    for path in dynamic.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "MANIFEST.json").unlink()
    (tmp_path / "MANIFEST.json").write_text(json.dumps(content))
    older = DataManifest.read(tmp_path)
    assert (older.sources, older.duplicates) == ((), None)
    assert older.documents == dynamic.documents


def test_duplicates_are_worded() -> None:
    found = DuplicateReport("exact", 1, (1,), (("b", "a"),), across_splits=1)
    assert duplicate_lines(found) == [
        "note: 1 document repeats the text of an earlier one; --drop-duplicates exact leaves them out",
        "note: 1 is in another split than the earlier one: held-out losses are too low",
        "  b repeats a",
    ]
    assert duplicate_lines(replace(found, how="near", documents=1200, dropped=True, examples=())) == [
        "dropped: 1,200 documents that are much like an earlier one"
    ]
    assert duplicate_lines(replace(found, documents=0)) == duplicate_lines(None) == []


SOUND = {"corpus": "text:a", "tokens": 3, "document_tokens": {"3": 1}, "languages": {"German": 1},
         "phases": {"1": {"used": 3}}}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        [], {}, {"corpus": 5}, *({**SOUND, name: value} for name, value in [
            ("tokens", "3"), ("tokens", -1), ("tokens", True), ("tokens", None), ("document_tokens", [3]),
            ("document_tokens", {"three": 1}), ("document_tokens", {"3": 1.5}), ("languages", {"German": "1"}),
            ("languages", 7), ("phases", {"1": 3}), ("phases", {"x": {}}), ("phases", {"1": {"used": {}}}),
        ])
    ],
)  # fmt: skip
def test_counts_of_odd_types_are_refused(wrong: object) -> None:
    assert SourceCounts.from_json(SOUND).document_tokens == {3: 1}
    with pytest.raises(ValueError, match="sources"):
        SourceCounts.from_json(wrong)


@pytest.mark.parametrize(
    "change",
    [{"how": "much"}, {"documents": "1"}, {"by_source": 3}, {"by_source": [None]}, {"examples": [["a"]]},
     {"examples": "ab"}, {"examples": [["a", 5]]}, {"across_splits": -1}],
)  # fmt: skip
def test_reports_of_odd_types_are_refused(change: dict[str, object]) -> None:
    sound = json.loads(json.dumps(DuplicateReport("near", 1, (0, 1), (("b", "a"),)).as_json()))
    assert DuplicateReport.from_json(sound).examples == (("b", "a"),)
    with pytest.raises(ValueError, match="duplicates"):
        DuplicateReport.from_json({**sound, **change})


def test_the_picture_leaves_out_what_is_empty() -> None:
    counts = SourceCounts("text:a", documents=3, tokens=90, document_tokens={30: 3}, sentence_tokens={10: 9},
                          phases={1: PhaseCounts(4, 2, 90, 80)})  # fmt: skip
    titles = [panel.title for panel in source_panels([counts])]
    assert "Unknown tokens, [UNK]" not in titles
    assert "Repeated documents" not in titles
    with_unknown = [panel.title for panel in source_panels([counts, replace(counts, unknown=1, repeated=1)])]
    assert set(with_unknown) - set(titles) == {"Unknown tokens, [UNK]", "Repeated documents"}

    full = BinLengths(0, 3, 64, np.bincount([60] * 5))
    empty = BinLengths(1, 65, 128, np.zeros(1, dtype=np.int64))
    alone = picture("lengths", {"train": [full]})
    assert picture("lengths", {"train": [full, empty], "validation": [empty]}) == alone
    assert picture("lengths", {"train": [full]}, [counts]) != alone
    assert picture("lengths", {"validation": [empty]}).startswith(b"\x89PNG")


def test_the_picture_has_no_share_of_nothing() -> None:
    """As the text has "-": a source of which no sequence was drawn is not one without random sentences."""
    some = SourceCounts("text:a", documents=3, tokens=90, phases={1: PhaseCounts(4, 2, 90, 80)})
    none = SourceCounts("text:b", documents=3, tokens=90, phases={1: PhaseCounts(0, 0, 90, 0)})
    panels = {panel.title: panel.values for panel in source_panels([some, none, replace(none, phases={})])}
    assert panels["Random next sentences"] == [[0.5], [None], [None]]
    assert panels["Tokens in sequences"] == [[80 / 90], [0.0], [None]]
    assert picture("lengths", {}, [some, none]) != picture("lengths", {}, [some, replace(none, phases=some.phases)])


def test_names_that_no_font_has_are_drawn_without_an_error(recwarn: pytest.WarningsRecorder) -> None:
    for name in ("text:odd\udcff", "text:กขค", "text:" + "漢字" * 30):
        counts = SourceCounts(name, documents=3, tokens=90, phases={1: PhaseCounts(4, 2, 90, 80)})
        assert picture(f"{name}: lengths", {}, [counts]).startswith(b"\x89PNG")
    assert not [one for one in recwarn if "missing from font" in str(one.message)]


def test_of_many_sources_the_largest_are_drawn_in_their_order() -> None:
    sources = [SourceCounts(str(number), tokens=number % 7 + number) for number in range(SHOWN + 5)]
    shown = shown_sources(sources)
    assert len(shown) == SHOWN
    assert [int(one.corpus) for one in shown] == sorted(int(one.corpus) for one in shown)
    assert min(one.tokens for one in shown) >= max(one.tokens for one in sources if one not in shown)


Run = Callable[..., int]


def test_duplicates_of_a_corpus_are_found_before_it_is_prepared(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (corpus / "speech-07.txt").read_text(encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "same.txt").write_text(text.replace("\n\n", "\n"))
    (tmp_path / "docs" / "nearly.txt").write_text(text.rsplit(maxsplit=8)[0])
    (tmp_path / "docs" / "own.txt").write_text("Nothing of the kind was said here before, by anyone.")
    words = ["data", "duplicates", "--corpus", f"text:{corpus}", "--corpus", f"text:{tmp_path / 'docs'}"]
    for options, repeated in (([], 1), (["--near"], 2), (["--near", "--near-threshold", "1"], 1)):
        listed = tmp_path / "list.tsv"
        assert main([*words, *options, "--processes", str(repeated), "--list", str(listed), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["documents_by_source"] == [DOCUMENTS, 3]
        assert found["by_source"] == [0, repeated]
        copies, first = ("same.txt", "nearly.txt")[:repeated], f"text:{corpus}: speech-07.txt"
        names = {f"text:{tmp_path / 'docs'}: {copy}": first for copy in copies}  # names are alike in several sources
        assert dict(line.split("\t") for line in listed.read_text().splitlines()) == names
    assert main([*words, "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "note: 1 document repeats the text of an earlier one; --drop-duplicates exact leaves them out" in printed
    assert f"  text:{tmp_path / 'docs'}: same.txt repeats text:{corpus}: speech-07.txt" in printed
    (tmp_path / "docs" / "again.txt").write_text(text)
    assert main(["data", "duplicates", "--corpus", f"text:{tmp_path / 'docs'}", "--processes", "1"]) == 0
    assert "  same.txt repeats again.txt" in capsys.readouterr().out
    assert main([*words, "--near-threshold", "0"]) == 64

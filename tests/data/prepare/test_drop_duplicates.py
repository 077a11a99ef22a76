"""A prepare that drops duplicates: which are gone, the same on any number of processes, and after a kill."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.data.prepare import PrepareOptions, ThisMachine, prepare
from bertjobs.data.prepare.work_folder import DUPLICATES, FOLDER_NAME, WorkFolder
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from tests.data.conftest import DOCUMENTS, TEXT, quiet

Make = Callable[..., PrepareOptions]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the small corpus into many pieces, chunks and buckets, like a large one."""
    monkeypatch.setattr("bertjobs.data.prepare.data_folder.PIECE_BYTES", 20_000)
    monkeypatch.setattr("bertjobs.data.prepare.work_folder.BUCKET_BYTES", 60_000)
    monkeypatch.setattr("bertjobs.data.prepare.stage_tokenise.CHUNK_TOKENS", 2_000)


@pytest.fixture(scope="session")
def repeated(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The corpus again, in two sources: the first with three copies that differ in line breaks, and the second with
    four copies of documents of the first, of which two lack their last words."""
    one, other = tmp_path_factory.mktemp("repeated"), tmp_path_factory.mktemp("copied")
    shutil.copytree(corpus, one, dirs_exist_ok=True)
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir())}
    for number in (3, 11, 20):
        (one / f"zz-copy-{number}.txt").write_text(texts[f"speech-{number:02}.txt"].replace("\n\n", "\n\n \n"))
    for number in (0, 11):
        (other / f"copy-{number}.txt").write_text(texts[f"speech-{number:02}.txt"])
    for number in (5, 6):
        (other / f"nearly-{number}.txt").write_text(texts[f"speech-{number:02}.txt"].rsplit(maxsplit=12)[0])
    draw = random.Random(2)
    for number in range(3):
        (other / f"own-{number}.txt").write_text(" ".join(draw.choices(TEXT.split(), k=900)) + ".")
    return one, other


@pytest.fixture
def options(repeated: tuple[Path, Path], vocabulary_path: Path, tmp_path: Path) -> Make:
    def make(name: str = "data", **given: object) -> PrepareOptions:
        settings = {"duplicates": 2, "shards": 3, "held_out": 0.2, "phases": (PrepareOptions.phases[0],), **given}
        corpora = settings.pop("corpora", tuple(f"text:{folder}" for folder in repeated))
        return PrepareOptions(corpora, str(vocabulary_path), str(tmp_path / name), **settings)  # type: ignore[arg-type]

    return make


def hashes(options: PrepareOptions) -> dict[str, str]:
    folder = Path(options.output)
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in folder.rglob("*") if file.is_file()}


def made(options: PrepareOptions, processes: int = 1) -> DataManifest:
    with ThisMachine(processes) as machine:
        prepare(options, quiet, machine)
    return DataManifest.read(options.output)


def test_exact_duplicates_are_counted_by_default_and_change_no_shard(options: Make) -> None:
    data = made(options())
    assert data.duplicates is not None
    assert data.duplicates.how == "exact"
    assert not data.duplicates.dropped
    assert [counts.repeated for counts in data.sources] == [3, 2]
    assert [counts.dropped for counts in data.sources] == [0, 0]
    first, _ = (counts.corpus for counts in data.sources)
    assert (f"{first}: zz-copy-3.txt", f"{first}: speech-03.txt") in data.duplicates.examples
    assert sum(data.documents.values()) == DOCUMENTS + 3 + 7
    assert "drop_duplicates" not in data.settings  # the shards' metadata hash the settings


@pytest.mark.parametrize(("which", "dropped"), [("exact", [3, 2]), ("near", [3, 4])])
def test_all_but_the_first_are_dropped(
    options: Make, repeated: tuple[Path, Path], corpus: Path, tmp_path: Path, which: str, dropped: list[int]
) -> None:
    data = made(options(drop_duplicates=which))
    assert [counts.dropped for counts in data.sources] == [counts.repeated for counts in data.sources] == dropped
    assert sum(data.documents.values()) == DOCUMENTS + 7 - dropped[1]
    assert not any("copy" in name for name in data.held_out)
    assert len(data.held_out) == data.documents["validation"]
    clean = tmp_path / "clean"
    clean.mkdir()
    for name in ("own-0.txt", "own-1.txt", "own-2.txt", *(["nearly-5.txt", "nearly-6.txt"] * (which == "exact"))):
        shutil.copy(repeated[1] / name, clean / name)
    without = made(options("without", corpora=(f"text:{corpus}", f"text:{clean}")))
    assert without.documents == data.documents
    assert set(without.held_out) == set(data.held_out)
    for counts, expected in zip(data.sources, without.sources, strict=True):
        assert counts.phases[1].tokens == expected.phases[1].tokens


def test_the_first_source_keeps_its_document(options: Make, tmp_path: Path, corpus: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "a.txt").write_text("\n\n".join(["Completely different words.", "They stand first."] * 40))
    (first / "b.txt").write_text((corpus / "speech-00.txt").read_text(encoding="utf-8").replace("\n\n", "\n"))
    data = made(options(corpora=(f"text:{first}", f"text:{corpus}"), drop_duplicates="exact"))
    assert data.duplicates is not None
    assert data.duplicates.examples == ((f"text:{corpus}: speech-00.txt", f"text:{first}: b.txt"),)
    assert "speech-00.txt" not in data.held_out


@pytest.mark.parametrize("which", ["exact", "near"])
def test_any_number_of_processes_drops_the_same(options: Make, which: str) -> None:
    made(options("one", drop_duplicates=which))
    made(options("three", drop_duplicates=which), processes=3)
    assert hashes(options("three")) == hashes(options("one"))


class Killed(Exception):
    """Stands for a kill: nothing in `prepare` handles it."""


@pytest.mark.parametrize("stage", ["tokenise", DUPLICATES, "pairs", "shards"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_prepare_resumes_to_the_same_bytes(options: Make, stage: str, when: str) -> None:
    class Dies:
        def run(self, work: WorkFolder, now: str, numbers: list[int], done: Callable[[int], None]) -> None:
            if now == stage and when == "before":
                numbers = numbers[: len(numbers) // 2]
            ThisMachine(1).run(work, now, numbers, done)
            if now == stage:
                raise Killed

    made(options("whole", drop_duplicates="near"))
    with pytest.raises(Killed):
        prepare(options(drop_duplicates="near"), quiet, Dies())
    assert (Path(options().output) / FOLDER_NAME / DUPLICATES).is_dir()
    made(options(drop_duplicates="near"))
    assert hashes(options()) == hashes(options("whole"))


def test_what_an_older_version_left_half_done_is_completed(options: Make) -> None:
    """Its markers count less, and there are no tables: the first stage is done again, the others are not."""

    class Dies:
        def run(self, work: WorkFolder, now: str, numbers: list[int], done: Callable[[int], None]) -> None:
            ThisMachine(1).run(work, now, numbers, done)
            if now == "pairs":
                raise Killed

    made(options("whole"))
    with pytest.raises(Killed):
        prepare(options(), quiet, Dies())
    work = Path(options().output) / FOLDER_NAME
    for table in (work / "tokenise").glob("*.documents"):
        table.unlink()
    for marker in work.glob("*/*.json"):
        content = json.loads(marker.read_bytes())
        newer = ("sentences", "unknown", "document_tokens", "sentence_tokens", "sources")
        marker.write_text(json.dumps({name: value for name, value in content.items() if name not in newer}))
    data, whole = made(options()), DataManifest.read(options("whole").output)
    shards = [{name: sha256 for name, sha256 in hashes(one).items() if "shard-" in name} for one in
              (options(), options("whole"))]  # fmt: skip
    assert shards[0] == shards[1] != {}
    assert [counts.tokens for counts in data.sources] == [counts.tokens for counts in whole.sources]


def test_a_corpus_of_one_document_many_times_is_refused(options: Make, tmp_path: Path) -> None:
    folder = tmp_path / "same"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text("One sentence. Another sentence.")
    with pytest.raises(InputError, match="has 1 document with text"):
        made(options(corpora=(f"text:{folder}",), drop_duplicates="exact"))


def test_a_split_that_loses_its_only_document_gets_another(options: Make, tmp_path: Path) -> None:
    """Names decide what is held out: find a copy that would be alone in validation, and drop it."""
    for seed in range(200):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        texts = {"a": "One text. It is short. ", "b": "Another. It differs. ", "c": "One text. It is short. "}
        for name, text in texts.items():
            (folder / f"{name}.txt").write_text(text * 20)
        given = {"corpora": (f"text:{folder}",), "seed": seed}
        kept = made(options(f"kept-{seed}", **given))
        if kept.held_out == ("c.txt",):
            break
    dropped = made(options("dropped", **given, drop_duplicates="exact"))
    assert dropped.documents == {"train": 1, "validation": 1}
    assert dropped.held_out in (("a.txt",), ("b.txt",))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"drop_duplicates": "fuzzy"}, "unknown drop-duplicates 'fuzzy'"),
        ({"near_threshold": 0.0}, "0.0 is not a share above 0"),
        ({"near_threshold": 1.5}, "1.5 is not a share above 0"),
        ({"shingle_words": 0}, "0 is too small"),
    ],
)
def test_bad_options_are_refused(options: Make, given: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        made(options(**given))


def test_the_settings_name_what_was_dropped(options: Make) -> None:
    exact, near = made(options("exact", drop_duplicates="exact")), made(options("near", drop_duplicates="near"))
    assert exact.settings["drop_duplicates"] == "exact"
    assert "near_threshold" not in exact.settings
    assert (near.settings["near_threshold"], near.settings["shingle_words"]) == (0.8, 5)
    with pytest.raises(InputError, match="drop_duplicates was 'exact', now 'near'"):
        made(options("exact", drop_duplicates="near"))
    assert json.loads((near.folder / "MANIFEST.json").read_bytes())["duplicates"]["how"] == "near"

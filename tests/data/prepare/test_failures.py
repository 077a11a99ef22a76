"""What a prepare does when something fails: what it has done is kept, and what it says is right."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertjobs.data.corpus import http, persistent
from bertjobs.data.corpus.changes import CorpusChangedError
from bertjobs.data.corpus.persistent import UnavailableError
from bertjobs.data.prepare import PHASES, PrepareOptions, ThisMachine, prepare
from bertjobs.data.prepare.work_folder import FOLDER_NAME, PLAN_NAME, WorkFolder
from bertjobs.data.shards.manifest import MANIFEST_NAME, DataManifest
from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.arrays import map_arrays
from tests.data.conftest import quiet
from tests.data.corpus.server import Behaviour, serving

SENTENCES = ("The people of the nation are at peace. ", "The war of the states was general. ", "Our navy is here. ")
LINES = 300


def lines(count: int = LINES) -> bytes:
    return "".join(
        f"id{line} {''.join(SENTENCES[(line + n) % 3] for n in range(6))}\n" for line in range(count)
    ).encode()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent, "WAITS_S", (0.01,) * 3)
    monkeypatch.setattr(http, "TIMEOUT_S", 2.0)
    monkeypatch.setattr("bertjobs.data.prepare.data_folder.PIECE_BYTES", 8_000)


@pytest.fixture
def options(vocabulary_path: Path, tmp_path: Path) -> Callable[..., PrepareOptions]:
    def make(corpus: object, name: str = "data") -> PrepareOptions:
        given: dict[str, Any] = {"duplicates": 1, "shards": 2, "phases": (PHASES[1],)}
        return PrepareOptions((str(corpus),), str(vocabulary_path), str(tmp_path / name), **given)

    return make


def shards(output: str) -> dict[str, list[int]]:
    """The token ids of each shard."""
    paths = Path(output).rglob("shard-*")
    return {str(path.relative_to(output)): map_arrays(path)[0]["ids"].tolist() for path in paths}


def done(output: str) -> dict[Path, int]:
    """The markers of pieces that were read, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in (Path(output) / FOLDER_NAME / "tokenise").glob("*.json")}


class StopsAfter(ThisMachine):
    """Reads some pieces, does something, and then the others."""

    def __init__(self, pieces: int, then: Callable[[], None]) -> None:
        super().__init__(1)
        self._pieces, self._then = pieces, then

    def run(self, work: WorkFolder, stage: str, numbers: list[int], done: Callable[[int], None]) -> None:
        if stage == "tokenise":
            super().run(work, stage, numbers[: self._pieces], done)
            self._then()
            numbers = numbers[self._pieces :]
        super().run(work, stage, numbers, done)


# ---------------------------------------------------------------- networks and disks


@pytest.mark.parametrize("processes", [1, 2])
def test_a_connection_that_is_lost_for_good_keeps_what_was_done(
    options: Callable[..., PrepareOptions], tmp_path: Path, processes: int
) -> None:
    (tmp_path / "a.txt").write_bytes(lines())
    prepare(options(f"lddl:{tmp_path}/a.txt", "local"), quiet)
    behaviour = Behaviour({"/a.txt": lines()})

    def lose(stage: str, done: float, *_: object) -> None:
        if stage == "sentences and tokens" and done:
            behaviour.dropping = 0

    with serving(behaviour) as address:
        given = options(f"lddl:{address}/a.txt")
        with ThisMachine(processes) as machine, pytest.raises(UnavailableError) as caught:
            prepare(given, lose, machine)
        assert caught.value.exit_code == 70
        assert "finished tasks are kept: run the same command again" in str(caught.value)
        kept = done(given.output)
        assert kept
        behaviour.dropping = 1500
        with ThisMachine(processes) as machine:
            prepare(given, lambda *_: None if not done(given.output) else _as_before(kept), machine)
    assert shards(given.output) == shards(options("x", "local").output)


def _as_before(kept: dict[Path, int]) -> None:
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items() if path.exists())


def test_a_refusal_in_the_middle_keeps_what_was_done(options: Callable[..., PrepareOptions]) -> None:
    behaviour = Behaviour({"/a.txt": lines()})
    with serving(behaviour) as address:
        given = options(f"lddl:{address}/a.txt")
        with pytest.raises(UnavailableError, match="403"):
            prepare(given, quiet, StopsAfter(3, lambda: behaviour.statuses.extend([403] * 9)))
        assert len(done(given.output)) == 3


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "once there is space"), (errno.EIO, "once that is mended")]
)
def test_a_disk_that_fails_keeps_what_was_done(
    options: Callable[..., PrepareOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    (tmp_path / "a.txt").write_bytes(lines())
    given = options(f"lddl:{tmp_path}/a.txt")

    def fail() -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number), "/disk/file")

        monkeypatch.setattr("bertjobs.data.prepare.stage_tokenise.write_arrays", refuse)

    with pytest.raises(BertjobsError, match=os.strerror(number)) as caught:
        prepare(given, quiet, StopsAfter(3, fail))
    assert caught.value.exit_code == 70
    assert f"finished tasks are kept: {hint}, run the same command again" in str(caught.value)
    assert len(done(given.output)) == 3


# ---------------------------------------------------------------- refusals


def test_when_a_task_is_refused_no_other_runs_any_more(
    options: Callable[..., PrepareOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(lines())
    monkeypatch.setattr("bertjobs.data.prepare.data_folder.PIECE_BYTES", 500)  # more than a hundred tasks
    given, seen = options(f"lddl:{tmp_path}/a.txt"), tmp_path / "seen"
    seen.mkdir()

    def slow(_work: object, number: int, *_: object) -> None:
        (seen / f"begun-{number}").touch()
        time.sleep(0.3 if number else 0.1)
        if not number:
            raise InputError("it is refused")
        (seen / f"ended-{number}").touch()

    class Seeing(ThisMachine):
        def run(self, *given: Any) -> None:
            try:
                super().run(*given)
            finally:
                begun, ended = ({path.name.partition("-")[2] for path in seen.glob(f"{what}-*")}
                                for what in ("begun", "ended"))  # fmt: skip
                self.running = begun - ended

    monkeypatch.setattr("bertjobs.data.prepare.on_this_machine.tokenise_piece", slow)
    with Seeing(2) as machine:
        with pytest.raises(InputError, match="it is refused"):
            prepare(given, quiet, machine)
        assert machine.running == {"0"}
        assert len(list(seen.glob("begun-*"))) < 50, "those that waited are not begun"
        assert not Path(given.output).exists()


def test_what_tasks_of_another_plan_left_is_not_trusted(options: Callable[..., PrepareOptions], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(lines())
    (tmp_path / "b.txt").write_bytes(lines().replace(b"peace", b"war"))
    given = options(f"lddl:{tmp_path}/a.txt")
    stopped_after(given, 5)
    (Path(given.output) / FOLDER_NAME / PLAN_NAME).unlink()
    given = options(f"lddl:{tmp_path}/b.txt")
    prepare(given, quiet)
    prepare(options(f"lddl:{tmp_path}/b.txt", "whole"), quiet)
    assert shards(given.output) == shards(options("x", "whole").output)


def test_pairs_that_a_limit_refuses_are_kept_for_another_limit(
    options: Callable[..., PrepareOptions], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"".join(b"id%d It is.\n" % line for line in range(LINES)))
    given = options(f"lddl:{tmp_path}/a.txt")
    with pytest.raises(InputError, match="cannot have a true next sentence"):
        prepare(given, quiet)
    told: list[tuple[str, float, float]] = []
    prepare(replace(given, most_unpaired=1.0), lambda *progress: told.append(progress[:3]))
    assert [done == total for stage, done, total in told if "tokens" in stage] == [True], "no text is read again"


# ---------------------------------------------------------------- changes


def stopped_after(given: PrepareOptions, pieces: int) -> dict[Path, int]:
    """A prepare that stops when some pieces are read; returns their markers."""

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(given, quiet, StopsAfter(pieces, stop))
    assert len(done(given.output)) == pieces
    return done(given.output)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(lines())
    os.utime(path, ns=(10**18, 10**18))
    return path


def changed_at(path: Path, place: int) -> None:
    """Change a letter, and nothing else but the time."""
    content = bytearray(path.read_bytes())
    assert content[place : place + 1].isalpha()
    content[place] ^= 1
    path.write_bytes(content)


def test_a_corpus_that_changes_between_runs_is_refused_and_nothing_is_lost(
    options: Callable[..., PrepareOptions], source: Path
) -> None:
    given = options(f"lddl:{source}")
    kept = stopped_after(given, 3)
    changed_at(source, 100)
    with pytest.raises(CorpusChangedError) as caught:
        prepare(given, quiet)
    assert f"'{source}' has changed since this prepare began: it was last written at" in str(caught.value)
    assert f"restore the file to resume, or start over: rm -r {given.output}" in str(caught.value)
    assert done(given.output) == kept
    changed_at(source, 100)
    prepare(given, quiet)
    prepare(options(f"lddl:{source}", "whole"), quiet)
    assert shards(given.output) == shards(options("x", "whole").output)


def test_a_corpus_that_was_only_touched_is_compared_and_resumed(
    options: Callable[..., PrepareOptions], source: Path
) -> None:
    given = options(f"lddl:{source}")
    kept = stopped_after(given, 3)
    os.utime(source, ns=(2 * 10**18, 2 * 10**18))
    stages = []
    prepare(given, lambda stage, *_: stages.append(stage), StopsAfter(0, lambda: _as_before(kept)))
    assert "what was read, compared" in stages
    assert (Path(given.output) / MANIFEST_NAME).exists()


def test_a_change_in_what_was_not_read_yet_is_no_change(options: Callable[..., PrepareOptions], source: Path) -> None:
    given = options(f"lddl:{source}")
    stopped_after(given, 3)
    place = len(lines()) - 5
    changed_at(source, place)
    prepare(given, quiet)
    prepare(options(f"lddl:{source}", "whole"), quiet)
    assert shards(given.output) == shards(options("x", "whole").output)


def test_a_work_folder_of_an_earlier_version_is_resumed(options: Callable[..., PrepareOptions], source: Path) -> None:
    given = options(f"lddl:{source}")
    kept = stopped_after(given, 3)
    work = Path(given.output) / FOLDER_NAME
    plan = json.loads((work / "plan.json").read_bytes())
    for piece in plan["pieces"]:
        for name in ("encoding", "sizes", "versions"):
            del piece[name]
    (work / "plan.json").write_text(json.dumps(plan))
    for path in kept:
        marker = json.loads(path.read_bytes())
        del marker["odd"], marker["digest"]
        path.write_text(json.dumps(marker))
    prepare(given, quiet)
    prepare(options(f"lddl:{source}", "whole"), quiet)
    assert shards(given.output) == shards(options("x", "whole").output)


def test_files_that_swap_their_sizes_are_noticed(options: Callable[..., PrepareOptions], tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text(SENTENCES[0] * (20 + number))
    given = options(f"text:{folder}")
    stopped_after(given, 1)
    (folder / "0.txt").write_text(SENTENCES[0] * 21)
    (folder / "1.txt").write_text(SENTENCES[0] * 20)
    with pytest.raises(InputError, match="has changed since this prepare began: it had"):
        prepare(given, quiet)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_corpus_that_changes_during_a_run_is_noticed(
    options: Callable[..., PrepareOptions], source: Path, processes: int
) -> None:
    given = options(f"lddl:{source}")

    class Changes(ThisMachine):
        def run(self, work: WorkFolder, stage: str, numbers: list[int], done: Callable[[int], None]) -> None:
            if stage == "tokenise":
                super().run(work, stage, numbers[:2], done)
                changed_at(source, 100)
            super().run(work, stage, numbers, done)

    with Changes(processes) as machine, pytest.raises(CorpusChangedError, match="since the prepare began"):
        prepare(given, quiet, machine)
    assert len(done(given.output)) == 2
    assert not (Path(given.output) / MANIFEST_NAME).exists()


def test_a_complete_output_of_a_file_that_was_written_since_is_said(
    options: Callable[..., PrepareOptions], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(f"lddl:{source}")
    assert prepare(given, quiet)
    assert not prepare(given, quiet)
    assert capsys.readouterr().err == ""
    manifest = Path(given.output) / MANIFEST_NAME
    os.utime(source, ns=(0, manifest.stat().st_mtime_ns + 10**9))
    assert not prepare(given, quiet)
    assert f"note: {source} was written after this data was made" in capsys.readouterr().err


# ---------------------------------------------------------------- what is not text, named


def test_files_with_bytes_that_are_not_text_are_named(
    options: Callable[..., PrepareOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_bytes((SENTENCES[number % 3] * 200).encode() + b"\xff" * (number % 3))
    given = options(f"text:{folder}")
    prepare(given, quiet)
    data = DataManifest.read(given.output)
    assert data.odd_files == {"2.txt": 2, "5.txt": 2, "1.txt": 1, "4.txt": 1, "7.txt": 1}
    assert data.corpus["replaced"] == 7

    from bertjobs.cli.data import _print_oddities

    _print_oddities(data)
    printed = capsys.readouterr().out
    assert "7 invalid UTF-8 sequences" in printed
    assert "in 2.txt (2), 5.txt (2), 1.txt (1), 4.txt (1), 7.txt (1)" in printed


def test_a_clean_corpus_s_manifest_says_nothing_of_odd_files(
    options: Callable[..., PrepareOptions], source: Path
) -> None:
    given = options(f"lddl:{source}")
    prepare(given, quiet)
    assert b"odd_files" not in (Path(given.output) / MANIFEST_NAME).read_bytes()
    assert DataManifest.read(given.output).odd_files == {}

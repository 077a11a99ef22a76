"""A prepare in stages: killed, resumed, run by several processes, locked, out of space; and what its options do."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bertjobs.data.check.target import find_target
from bertjobs.data.prepare import PHASES, PrepareOptions, ThisMachine, prepare
from bertjobs.data.prepare.document_keys import document_key
from bertjobs.data.prepare.held_out import Moved, settle_split
from bertjobs.data.prepare.stage_tokenise import assign_buckets, copies, held_out_draws
from bertjobs.data.prepare.work_folder import FOLDER_NAME, STAGES, WorkFolder
from bertjobs.data.shards.manifest import MANIFEST_NAME, DataManifest
from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.files.lock import locked
from tests.data.conftest import quiet

Make = Callable[..., PrepareOptions]


@pytest.fixture
def options(corpus: Path, vocabulary_path: Path, tmp_path: Path) -> Make:
    """Options of a quick prepare into the test's own folder."""

    def make(name: str = "data", **given: object) -> PrepareOptions:
        settings = {"duplicates": 2, "shards": 3, "held_out": 0.15, "masking": "static", **given}
        corpora = settings.pop("corpora", (f"text:{corpus}",))
        return PrepareOptions(corpora, str(vocabulary_path), str(tmp_path / name), **settings)  # type: ignore[arg-type]

    return make


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the small corpus into many pieces, chunks and buckets, like a large one."""
    monkeypatch.setattr("bertjobs.data.prepare.data_folder.PIECE_BYTES", 20_000)
    monkeypatch.setattr("bertjobs.data.prepare.work_folder.BUCKET_BYTES", 60_000)
    monkeypatch.setattr("bertjobs.data.prepare.stage_tokenise.CHUNK_TOKENS", 2_000)


def _hashes(output: str | Path) -> dict[str, str]:
    folder = Path(output)
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.usefixtures("small_parts")
def test_any_number_of_processes_gives_the_same_bytes(options: Make) -> None:
    prepare(options("one"), quiet)
    for processes in (2, 3):
        with ThisMachine(processes) as machine:
            prepare(options(f"with{processes}"), quiet, machine)
        assert _hashes(options(f"with{processes}").output) == _hashes(options("one").output)


class _Killed(Exception):
    """Stands for a kill: nothing in `prepare` handles it."""


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("stage", STAGES)
def test_a_prepare_that_was_killed_resumes_and_redoes_nothing(options: Make, stage: str) -> None:
    prepare(options("whole"), quiet)

    class Dies:
        def run(self, work: WorkFolder, now: str, numbers: list[int], done: Callable[[int], None]) -> None:
            if now == stage:
                numbers = numbers[: len(numbers) // 2]
            ThisMachine(1).run(work, now, numbers, done)
            if now == stage:
                raise _Killed

    with pytest.raises(_Killed):
        prepare(options(), quiet, Dies())
    output = Path(options().output)
    assert not (output / MANIFEST_NAME).exists()
    with pytest.raises(InputError, match="half-written") as caught:
        DataManifest.read(output)
    assert "resumes where it stopped" in str(caught.value)
    before = {
        path: path.stat().st_mtime_ns
        for path in output.rglob("*")
        if path.is_file() and path.name not in ("lock", "vocab.txt", "tokenizer_config.json")
    }

    ran: list[tuple[str, int]] = []

    class Counts:
        def run(self, work: WorkFolder, now: str, numbers: list[int], done: Callable[[int], None]) -> None:
            ran.extend((now, number) for number in numbers)
            ThisMachine(1).run(work, now, numbers, done)
            if now == stage:  # what existed is unchanged
                assert all(path.stat().st_mtime_ns == then for path, then in before.items())

    prepare(options(), quiet, Counts())
    assert ran
    assert {now for now, _ in ran} == set(STAGES[STAGES.index(stage) :])
    assert min(number for now, number in ran if now == stage) > 0
    assert _hashes(output) == _hashes(options("whole").output)
    assert not (output / FOLDER_NAME).exists()


def test_a_process_that_is_killed_for_real_leaves_what_it_did(options: Make) -> None:
    """SIGKILL in the middle of a stage, from outside; then the same command resumes."""
    prepare(options("whole"), quiet)
    given = options()
    code = (
        "import sys; from bertjobs.data.prepare import PrepareOptions, data_folder, prepare\n"
        "data_folder.PIECE_BYTES = 20_000\n"
        "def show(stage, done, total, unit): print(stage, done, flush=True); sys.stdin.readline()\n"
        f"prepare(PrepareOptions({given.corpora!r}, {given.vocabulary!r}, {given.output!r}, duplicates=2, shards=3, "
        "held_out=0.15, masking='static'), show)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    for _ in range(4):  # scan, then some pieces
        assert process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = list((Path(given.output) / FOLDER_NAME / "tokenise").glob("*.json"))
    assert done
    with pytest.raises(InputError, match="was started with other settings: the files of the corpus"):
        prepare(given, quiet)  # in pieces of another size the result would differ


@pytest.mark.usefixtures("small_parts")
def test_an_unfinished_output_of_other_settings_names_the_difference(options: Make) -> None:
    class Dies:
        def run(self, *_: object) -> None:
            raise _Killed

    with pytest.raises(_Killed):
        prepare(options(), quiet, Dies())
    with pytest.raises(InputError) as caught:
        prepare(options(seed=7, duplicates=3), quiet)
    assert "was started with other settings: duplicates was 2, now 3; seed was 42, now 7" in str(caught.value)
    assert "rm -r" in str(caught.value)
    prepare(options(), quiet)


def test_a_complete_output_is_left_as_it_is(options: Make, corpus: Path) -> None:
    assert prepare(options(), quiet)
    before = _hashes(options().output)
    assert not prepare(options(), quiet)
    assert _hashes(options().output) == before
    extra = corpus / "zzz.txt"
    extra.write_text("The people. The war.")
    try:
        with pytest.raises(InputError, match="the files of the corpus have changed"):
            prepare(options(), quiet)
    finally:
        extra.unlink()


def test_what_to_type_about_a_folder_whose_name_has_a_space_is_quoted(options: Make, tmp_path: Path) -> None:
    given = replace(options(), output=str(tmp_path / "my data"))
    folder = Path(given.output) / FOLDER_NAME
    folder.mkdir(parents=True)
    with locked(folder), pytest.raises(BertjobsError, match=f"remove the lock: rm '{folder}/lock'"):
        prepare(given, quiet)
    prepare(given, quiet)
    with pytest.raises(InputError, match=f"start over: rm -r '{given.output}'"):
        prepare(replace(given, seed=1), quiet)
    (stray := Path(given.output) / "phase1/train/stray").touch()
    with pytest.raises(InputError, match=f"data verify '{given.output}' lists"):
        find_target(stray)


def test_a_second_prepare_at_once_is_refused_and_the_owner_is_named(options: Make) -> None:
    given = options()
    folder = Path(given.output) / FOLDER_NAME
    folder.mkdir(parents=True)
    with locked(folder), pytest.raises(BertjobsError) as caught:
        prepare(given, quiet)
    assert f"process {os.getpid()} of " in str(caught.value)
    assert caught.value.exit_code == 70
    prepare(given, quiet)


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 1234"), OSError("No username set")])
def test_a_user_without_a_name_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def nameless() -> str:
        raise error

    monkeypatch.setattr("getpass.getuser", nameless)
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["user"] == str(os.getuid())
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # bytes
    try:
        with pytest.raises(OSError, match="File too large"), locked(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    script = (
        "import os, pathlib\nfrom bertjobs.files.lock import locked\n"
        f"with locked(pathlib.Path({str(tmp_path)!r})): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert (tmp_path / "lock").exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_host_is_stale_when_it_is_not_renewed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    owner = {"host": "node7", "process": 1, "begun": "1", "user": "ada", "since": "today"}
    lock.write_text(json.dumps(owner))
    with pytest.raises(BertjobsError, match="process 1 of ada on node7"), locked(tmp_path):
        pass
    assert json.loads(lock.read_text()) == owner
    old = time.time() - 600
    os.utime(lock, (old, old))
    with locked(tmp_path):
        assert json.loads(lock.read_text())["process"] == os.getpid()


def test_a_worker_process_that_is_killed_is_reported(options: Make) -> None:
    class KillsOne(ThisMachine):
        def run(self, work: WorkFolder, stage: str, numbers: list[int], done: Callable[[int], None]) -> None:
            if stage == "shards":
                assert self._pool
                os.kill(next(iter(self._pool._processes)), signal.SIGKILL)
            super().run(work, stage, numbers, done)

    with KillsOne(2) as machine, pytest.raises(BertjobsError, match="was killed") as caught:
        prepare(options(), quiet, machine)
    assert "resumes where it stopped" in str(caught.value)
    prepare(options("other"), quiet)
    prepare(options(), quiet)
    assert _hashes(options().output) == _hashes(options("other").output)


def test_bad_input_in_a_worker_process_reaches_the_user_whole(options: Make, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "The people. The war."}\n' * 5 + "no json\n")
    with ThisMachine(2) as machine, pytest.raises(InputError) as caught:
        prepare(options(corpora=(f"jsonl:{lines}",)), quiet, machine)
    assert "lines.jsonl" in str(caught.value)
    assert str(caught.value).count("error:") == 1
    assert not Path(options().output).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_keeps_what_was_done(options: Make, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        with pytest.raises(BertjobsError) as caught:
            prepare(options("small/data"), quiet)
        assert "No space left on device" in str(caught.value)
        assert "once there is space" in str(caught.value)
        assert list((small / "data" / FOLDER_NAME / "tokenise").glob("*.json"))
        subprocess.run(["mount", "-o", "remount,size=40m", str(small)], check=True)
        prepare(options("small/data"), quiet)
        prepare(options("large"), quiet)
        assert _hashes(small / "data") == _hashes(options("large").output)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_odd_bytes_are_counted(options: Make, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "a.txt").write_bytes((b"The people\x00 of the war.\xff " + b"The nation is at peace. " * 100) * 20)
    (folder / "b.txt").write_bytes(b"The union. The states. The congress of the nation. " * 20)
    prepare(options(corpora=(f"text:{folder}",)), quiet)
    data = DataManifest.read(options().output)
    assert (data.corpus["nul"], data.corpus["replaced"]) == (20, 20)


def test_a_document_of_one_short_sentence_gets_a_random_partner(options: Make, tmp_path: Path) -> None:
    source = tmp_path / "lines.txt"
    source.write_text("".join(f"{number} The people of state {number}\n" for number in range(40)))
    given = options(
        corpora=(f"lddl:{source}",), format="lddl", shards=1, phases=(PHASES[1],), most_unpaired=1.0,
        max_unknown_share=1.0,
    )  # fmt: skip
    prepare(given, quiet)
    split = DataManifest.read(options().output).phase(1).train
    rows = [row for file in split.files for row in pq.read_table(split.folder / file.name).to_pylist()]
    assert rows
    assert all(row["is_random_next"] for row in rows)


def _counts(options: PrepareOptions) -> dict[str, int]:
    prepare(options, quiet)
    data = DataManifest.read(options.output)
    return {"rows": data.phase(1).train.rows, **data.documents}


@pytest.mark.usefixtures("small_parts")
def test_a_document_alone_in_its_bucket_borrows_random_segments(options: Make, tmp_path: Path) -> None:
    """Long documents, each with a word of its own: a random B never comes from A's own document."""
    folder = tmp_path / "few"
    folder.mkdir()
    own = ("war", "peace", "treaty")
    for word in own:
        (folder / f"{word}.txt").write_text(f"The {word} of the people. " * 4000)
    given = options(corpora=(f"text:{folder}",), phases=(PHASES[1],), format="lddl", held_out=1e-9, masking="dynamic")
    prepare(given, quiet)
    split = DataManifest.read(given.output).phase(1).train
    rows = [row for file in split.files for row in pq.read_table(split.folder / file.name).to_pylist()]
    assert sum(row["is_random_next"] for row in rows) > 20
    for row in rows:
        of_a, of_b = ([word for word in own if word in row[name].split()] for name in ("A", "B"))
        assert (of_a != of_b) == row["is_random_next"]


def test_weights_and_sample_ratio(options: Make, corpus: Path) -> None:
    whole = _counts(options("whole", phases=(PHASES[1],)))
    thrice = _counts(options("thrice", corpora=(f"text:{corpus}@3",), phases=(PHASES[1],)))
    half = _counts(options("half", corpora=(f"text:{corpus}@0.25",), phases=(PHASES[1],)))
    some = _counts(options("some", sample_ratio=0.5, phases=(PHASES[1],)))
    assert thrice["train"] == half["train"] == whole["train"]
    assert thrice["rows"] / whole["rows"] == pytest.approx(3, rel=0.1)
    assert 0.1 < half["rows"] / whole["rows"] < 0.5  # each of 20 documents is drawn once or not at all
    assert 4 <= some["train"] + some["validation"] <= 20


def test_held_out_documents_do_not_depend_on_the_others_and_parts_stay_together() -> None:
    keys = np.array([document_key(1, f"document-{number}")[0] for number in range(2000)], dtype=np.uint64)
    chosen = held_out_draws(keys) < 0.05
    assert abs(chosen.mean() - 0.05) < 5 * np.sqrt(0.05 * 0.95 / 2000)
    buckets = assign_buckets(keys, np.ones_like(keys), 0.05, 7, 2)
    assert ((buckets >= 7) == chosen).all()
    assert set(buckets.tolist()) == set(range(9))
    assert document_key(1, "book")[0] == document_key(1, "book#2")[0] != document_key(2, "book")[0]
    assert document_key(1, "book#12")[1] == 12
    parts = np.arange(1, 1001, dtype=np.uint64)
    spread = assign_buckets(np.full(1000, keys[0]), parts, 0.05, 7, 2)
    assert len(set(spread.tolist())) in (2, 7)  # all on one side, in all its buckets


def test_copies_are_right_on_average() -> None:
    keys = np.array([document_key(3, str(number))[0] for number in range(4000)], dtype=np.uint64)
    drawn = copies(keys, np.full(4000, 2.5))
    assert set(drawn.tolist()) == {2, 3}
    assert abs(drawn.mean() - 2.5) < 5 * 0.5 / np.sqrt(4000)
    assert (copies(keys, np.full(4000, 5.0)) == 5).all()


def test_each_split_gets_a_document() -> None:
    def result(train: list | None, held_out: list | None) -> dict:
        return {"documents": bool(train) + bool(held_out), "held_out": int(bool(held_out)),
                "lowest_train": train, "highest_held_out": held_out}  # fmt: skip

    assert settle_split([result([0.5, 0, 3, "a"], [0.01, 0, 4, "b"])]) is None
    alone = settle_split([result([0.5, 0, 3, "a"], None), result([0.4, 2, 1, "c"], None)])
    assert alone == Moved("validation", 1, 2, 1, "c")
    both = settle_split([result(None, [0.01, 0, 3, "a"]), result(None, [0.04, 2, 1, "c"])])
    assert both == Moved("train", 1, 2, 1, "c")


@pytest.mark.parametrize("held_out", [1e-9, 0.999999])
def test_even_a_tiny_corpus_is_split(options: Make, held_out: float) -> None:
    prepare(options(held_out=held_out, format="lddl"), quiet)
    data = DataManifest.read(options().output)
    assert 1 in (data.documents["train"], data.documents["validation"])
    assert sum(data.documents.values()) == 24
    assert all(split.rows for phase in data.phases.values() for split in (phase.train, phase.validation))

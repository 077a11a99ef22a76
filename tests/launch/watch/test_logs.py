"""Workers' logs: which one is shown, whose lines, and how it is followed."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.launch.watch import logs as logs_module
from bertjobs.launch.watch import watch as watch_module
from bertjobs.launch.watch.logs import (
    LogReader,
    Selection,
    follow,
    is_labelled,
    log_files,
    newest_log,
    shown,
    whole_log,
)
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from tests.conftest import Bertjobs
from tests.launch.conftest import Tool

LABELLED = """\
0: run big: recipe dgx1-16g
0: phase 1 step 1/20  loss 9.1
3: rank 3: error: CUDA out of memory
3:   hint:  smaller
0:
1: warning
"""
UNLABELLED = "run big: recipe dgx1-16g\nphase 1 step 1/20\nrank 3: error: CUDA out of memory\n"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run queued as job 7, without a log."""
    flags = {"recipe": "laptop-scratch", "results": str(tmp_path / "results")}
    spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec
    made = RunDirectory(tmp_path / "results" / spec.run)
    made.create()
    made.write_lockfile(lockfile(spec))
    for phase in spec.phases:
        made.phase(phase.phase).create()
    made.record("submitted", backend="slurm", phase=1, job="7")
    return made


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm({"PATH": str(tmp_path / "bin"), "SEEN": str(tmp_path / "seen")})


def log(directory: RunDirectory, phase: int, job: str, attempt: int, text: str, written: float) -> Path:
    file = directory.phase(phase).logs / f"{job}-{attempt}.out"
    file.write_text(text)
    os.utime(file, (written, written))
    return file


@pytest.fixture
def logs(directory: RunDirectory) -> dict[str, Path]:
    """Four attempts, oldest first, and a batch script's own log."""
    (directory.phase(1).logs / "slurm-7.out").write_text("batch")
    return {
        "first": log(directory, 1, "7", 0, "0: first\n", 1.0),
        "second": log(directory, 1, "7", 1, "0: second\n", 2.0),
        "spare": log(directory, 1, "9", 0, "0: spare\n", 3.0),
        "local": log(directory, 2, "local-4", 0, "0: local\n", 4.0),
    }


@pytest.mark.parametrize(
    ("selection", "name"),
    [
        (Selection(), "local"),
        (Selection(phase=1), "spare"),
        (Selection(job="7"), "second"),
        (Selection(job="7", attempt=0), "first"),
        (Selection(attempt=1), "second"),
        (Selection(job="local-4"), "local"),
    ],
)
def test_the_newest_of_the_selected_logs(
    directory: RunDirectory, logs: dict[str, Path], selection: Selection, name: str
) -> None:
    assert newest_log(directory, selection).path == logs[name]


@pytest.mark.usefixtures("logs")
def test_logs_are_listed_with_job_attempt_and_size(directory: RunDirectory) -> None:
    listed = [(file.phase, file.job, file.attempt, file.bytes) for file in log_files(directory, Selection())]
    assert listed == [(1, "7", 0, 9), (1, "7", 1, 10), (1, "9", 0, 9), (2, "local-4", 0, 9)]


def test_a_missing_log_is_an_error_that_names_the_existing_ones(directory: RunDirectory, logs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"no log of phase 2, attempt 3(.|\n)*phase 1, job 7, attempt 1"):
        newest_log(directory, Selection(phase=2, attempt=3))
    for file in logs.values():
        file.unlink()
    with pytest.raises(InputError, match="has no log yet"):
        newest_log(directory, Selection())


@pytest.mark.parametrize(
    ("text", "rank", "expected"),
    [
        (
            LABELLED,
            None,
            "run big: recipe dgx1-16g\nphase 1 step 1/20  loss 9.1\nrank 3: error: CUDA out of memory\n"
            "rank 3:   hint:  smaller\n\nrank 1: warning\n",
        ),
        (LABELLED, 0, "run big: recipe dgx1-16g\nphase 1 step 1/20  loss 9.1\n\n"),
        (LABELLED, 3, "rank 3: error: CUDA out of memory\n  hint:  smaller\n"),
        (UNLABELLED, None, UNLABELLED),
        (UNLABELLED, 0, "run big: recipe dgx1-16g\nphase 1 step 1/20\n"),
        (UNLABELLED, 3, "rank 3: error: CUDA out of memory\n"),
        ("00: a\n 7: b\n12: c\n", 7, "b\n"),
        ("0: a\nslurmstepd: error: *** STEP 7.0 CANCELLED\n", None, "a\nslurmstepd: error: *** STEP 7.0 CANCELLED\n"),
        ("0: a\nslurmstepd: error: *** STEP 7.0 CANCELLED\n", 0, "a\n"),
        ("0: no line break", None, "no line break\n"),
        ("0: caf\u00e9\n", 0, "caf\u00e9\n"),
    ],
)
def test_lines_are_shown_by_rank(directory: RunDirectory, text: str, rank: int | None, expected: str) -> None:
    log(directory, 1, "7", 0, text, 1.0)
    assert "".join(whole_log(directory, Selection(), rank)) == expected


def test_a_rank_without_lines_is_an_error(directory: RunDirectory) -> None:
    log(directory, 1, "7", 0, LABELLED, 1.0)
    with pytest.raises(InputError, match="no line of rank 9"):
        list(whole_log(directory, Selection(), 9))


@given(
    lines=st.lists(st.tuples(st.integers(0, 99), st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])))),
    rank=st.integers(0, 99),
)
def test_removing_a_label_leaves_the_line_as_it_was(lines: list[tuple[int, str]], rank: int) -> None:
    """Labels as srun writes them: right-justified if there are more than ten tasks."""
    written = [f"{number:2d}: {text}" for number, text in lines]
    assert all(is_labelled(line) for line in written)
    shown_lines = [text for line in written if (text := shown(line, rank, True)) is not None]
    assert shown_lines == [text for number, text in lines if number == rank]


@given(text=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_a_log_read_as_it_grows_is_the_log(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, cuts: list[int]
) -> None:
    directory = RunDirectory(tmp_path_factory.mktemp("run"))
    directory.phase(1).create()
    path = directory.phase(1).logs / "7-0.out"
    path.touch()
    (file,) = log_files(directory, Selection())
    growing, read = LogReader(file), []
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for first, last in pairwise(edges):
        with open(path, "ab") as handle:
            handle.write(text[first:last])
        read += growing.read()
    read += growing.read(to_the_end=True)
    assert read == list(LogReader(file).read(to_the_end=True))


def test_follow_shows_the_whole_newest_log_then_the_next_and_no_older_one(
    directory: RunDirectory, slurm: Slurm, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(watch_module, "ASK_EVERY_S", 0.0)
    log(directory, 1, "6", 0, "0: old\n", 1.0)
    new = log(directory, 1, "7", 0, "0: first\n0: sec", 2.0)
    state = "$([[ -e $SEEN ]] && echo COMPLETED || echo RUNNING)"
    tool("squeue", f'echo "7|{state}|None|node1|1:00:00|1800000000"')
    shown_lines = []
    following = follow(directory, Selection(), slurm)
    for line in following:
        shown_lines.append(line)
        if line == "first\n":
            with open(new, "a") as handle:
                handle.write("\u00f3nd\n0: third\n")
        if line == "third\n":
            log(directory, 1, "7", 1, "0: again\n0: the end", 3.0)
        if line == "again\n":
            (tmp_path / "seen").touch()
    next_log = directory.phase(1).logs / "7-1.out"
    assert shown_lines == ["first\n", "sec\u00f3nd\n", "third\n", f"==> {next_log} <==\n", "again\n", "the end\n"]


def test_following_an_attempt_ends_with_it(
    directory: RunDirectory, slurm: Slurm, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(watch_module, "ASK_EVERY_S", 0.0)
    tool("squeue", "echo '7|RUNNING|None|node1|1:00:00|1800000000'")
    log(directory, 1, "7", 0, "0: first\n", 1.0)
    log(directory, 1, "7", 1, "0: second\n", 1.0)
    for attempt in (0, 1):
        directory.record("started", scheduler="slurm", phase=1, job="7", attempt=attempt, world_size=1)
    assert list(follow(directory, Selection(job="7", attempt=0), slurm)) == ["first\n"]


def test_the_command_shows_and_lists(directory: RunDirectory, bertjobs: Bertjobs) -> None:
    log(directory, 1, "7", 0, LABELLED, 1.0)

    def logs_command(*arguments: object) -> subprocess.CompletedProcess[str]:
        return bertjobs("logs", directory.name, *arguments)

    assert logs_command("--rank", 1).stdout == "warning\n"
    (listed,) = json.loads(logs_command("--json").stdout)
    assert (listed["phase"], listed["job"], listed["attempt"], listed["bytes"]) == (1, "7", 0, len(LABELLED))
    assert logs_command("--list").stdout.splitlines()[1].split()[:4] == ["1", "7", "0", str(len(LABELLED))]
    wrong = logs_command("--job", 8)
    assert (wrong.returncode, wrong.stdout) == (64, "")
    assert "there is no log of job 8" in wrong.stderr


def test_escapes_in_a_log_are_written_out(directory: RunDirectory) -> None:
    log = directory.phase(1).logs / "7-0.out"
    log.write_bytes(b"0: step 1\r 50%\r100%\n0: \x1b]0;owned\x07\xc2\x9b2J \xe2\x80\xaeabc\n")
    assert list(whole_log(directory, Selection())) == [
        "step 1\\x0d 50%\\x0d100%\n",
        "\\x1b]0;owned\\x07\\x9b2J \\u202eabc\n",
    ]


def test_what_is_no_log_is_left_out_of_the_list(directory: RunDirectory) -> None:
    logs = directory.phase(1).logs
    for name in ("node1-20261130-180000.out", "7-x.out", "7-\u00b2.out", "slurm-7.out", "7.out"):
        (logs / name).write_text("")
    (logs / "8-0.out").mkdir()
    (logs / "9-0.out").symlink_to("nowhere")
    os.mkfifo(logs / "10-0.out")
    assert log_files(directory, Selection()) == []

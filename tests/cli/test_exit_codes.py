"""Exit codes are those of docs/exit-codes.md: bad input is 64 in every command, and never a traceback."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs import errors
from bertjobs.cli.main import build_parser, main

TABLE = Path(__file__).parents[2] / "docs" / "exit-codes.md"
NONSENSE = {"RUN": "nosuch", "N": "x", "X": "x", "TOKENS": "x", "SHARE": "x", "K": "x", "N=DIR": "1=nosuch"}
BASE = {
    ("recipes",): ["--recipes", "nosuch.yml"],
    ("data", "prepare"): ["--corpus", "text:nosuch", "--vocab", "nosuch", "--output", "made"],
    ("data", "vocab"): ["--corpus", "text:nosuch", "--output", "made"],
}


def verbs() -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command with its parser."""

    def below(words: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator:
        subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if parser.get_default("handler"):
            yield words, parser
        for action in subparsers:
            for name, child in action.choices.items():
                yield from below((*words, name), child)

    yield from below((), build_parser())


def takes(action: argparse.Action) -> bool:
    """Whether an argument has a value."""
    return action.nargs != 0 and not isinstance(action, argparse._SubParsersAction)


def nonsense(action: argparse.Action) -> str:
    return NONSENSE.get(str(action.metavar), "/nosuch folder/file")


def base(words: tuple[str, ...], parser: argparse.ArgumentParser) -> list[str]:
    """A command line that is refused, whatever is added to it."""
    if words in BASE:
        return [*words, *BASE[words]]
    given = list(words)
    for action in parser._actions:
        if not takes(action):
            continue
        if not action.option_strings:
            given.append(nonsense(action))
        elif action.required or action.dest == "setting_recipe":
            given += [action.option_strings[0], nonsense(action)]
    return given


ALL = {" ".join(words): (words, parser) for words, parser in verbs()}
OPTIONS = [
    (name, action.option_strings[0], nonsense(action))
    for name, (_, parser) in ALL.items()
    for action in parser._actions
    if action.option_strings and takes(action)
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and a machine without Slurm, sites and settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.delenv("RESULTS", raising=False)


def ended(arguments: list[str]) -> int:
    """The exit code of a command; an exception that is not caught fails the test."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(arguments) == 64, arguments
    output = capsys.readouterr()
    assert output.err.startswith("error: "), output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize("name", ALL)
def test_bad_input_is_64(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(base(*ALL[name]), capsys)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_flag_is_64(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused([*base(*ALL[name]), "--nosuch"], capsys)


@pytest.mark.parametrize(("name", "flag", "value"), OPTIONS)
def test_a_flag_s_bad_value_is_64(name: str, flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused([*base(*ALL[name]), f"{flag}={value}"], capsys)


DAMAGE = {
    "an empty run.yml": ("run.yml", b""),
    "a run.yml of bytes": ("run.yml", bytes(range(256))),
    "a run.yml of YAML that does not parse": ("run.yml", b"recipes: {x: [\n"),
    "a run.yml of other YAML": ("run.yml", b"- 1\n- 2\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("verb", ["resume", "logs", "report"])
def test_a_run_that_cannot_be_read_is_bad_input(
    verb: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_damaged(tmp_path, damage)
    assert ended([verb, "hurt"]) == 64
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("verb", "says"),
    [("status", "run.yml"), ("cancel", "no queued or running jobs"), ("doctor", "restore it from a copy")],
)
def test_who_only_looks_at_a_run_that_cannot_be_read_says_so_and_ends_with_0(
    verb: str, says: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_damaged(tmp_path, damage)
    assert ended([verb, "hurt"]) == 0
    assert says in capsys.readouterr().out


def write_damaged(folder: Path, damage: str) -> None:
    name, content = DAMAGE[damage]
    (folder / "results" / "hurt").mkdir(parents=True)
    (folder / "results" / "hurt" / name).write_bytes(content)


def test_help_and_version_are_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["--version"]) == 0
    for words, _ in ALL.values():
        assert ended([*words, "--help"]) == 0
    assert capsys.readouterr().err == ""


def test_ctrl_c_is_130(tmp_path: Path) -> None:
    """In the middle of reading a file that does not end."""
    os.mkfifo(tmp_path / "mine.yml")
    words = [sys.executable, "-m", "bertjobs", "recipes", "--recipes", "mine.yml"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        with open(tmp_path / "mine.yml", "w"):  # returns when the command has opened it too
            time.sleep(0.5)  # it reads now: an interrupt in a destructor of Python's before that would be dropped
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == ""


def test_a_closed_pipe_is_not_a_failure() -> None:
    done = subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {sys.executable} -m bertjobs recipes --json | /bin/true"],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""


def test_the_table_has_the_codes_of_the_package() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)}
    package = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert codes == package | {130}

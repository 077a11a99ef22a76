"""TAB in real shells: what `bertjobs completion` prints completes verbs, flags and existing names."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.slurm import PATIENCE_S
from tests.conftest import Bertjobs

Complete = Callable[[str], list[str]]

BASH = """\
eval "$(bertjobs completion bash)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
_python_argcomplete bertjobs
((${#COMPREPLY[@]})) && printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = "bertjobs completion fish | source; complete -C $argv[1]"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A shell that finds bertjobs, in a folder with runs, a site and a recipe file."""
    for run in ("results/first", "results/fourth", "other/second"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "run.yml").write_text("")
    (tmp_path / ".config" / "bertjobs" / "sites").mkdir(parents=True)
    (tmp_path / ".config" / "bertjobs" / "sites" / "juno.yml").write_text("")
    (tmp_path / "mine.yml").write_text("recipes:\n  mine: {system: laptop, model: bert-tiny}\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name != "RESULTS"}
    return {**kept, "PATH": path, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}


@pytest.fixture(params=["bash", "fish"])
def complete(request: pytest.FixtureRequest, tmp_path: Path, environ: dict[str, str]) -> Complete:
    """What a shell offers at the end of a line: whole words, or what may follow the last `=`."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"{request.param} is not installed")
    words = [shell, "--norc", "-c", BASH, "bash"] if request.param == "bash" else [shell, "--no-config", "-c", FISH]

    def run(line: str) -> list[str]:
        done = subprocess.run([*words, line], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.stderr == ""
        offers = [offered.split("\t")[0].rpartition("=")[2].rstrip() for offered in done.stdout.splitlines()]
        return sorted(offers)

    return run


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bertjobs rep", ["report"]),
        ("bertjobs data ver", ["verify"]),
        ("bertjobs logs --fo", ["--follow"]),
        ("bertjobs status --res", ["--results"]),
        ("bertjobs plan --backend lo", ["local"]),
        ("bertjobs plan --precision b", ["bf16"]),
        ("bertjobs completion ", ["bash", "fish", "zsh"]),
        ("bertjobs plan --recipe dgxh", ["dgxh100-80g"]),
        ("bertjobs plan --recipe=dgxh", ["dgxh100-80g"]),
        ("bertjobs recipes show laptop-", ["laptop-masked", "laptop-scratch"]),
        ("bertjobs submit --recipes mine.yml --recipe mine", ["mine"]),
        ("bertjobs status ", ["first", "fourth"]),
        ("bertjobs status --results other ", ["second"]),
        ("bertjobs resume fi", ["first"]),
        ("bertjobs scaling first fo", ["fourth"]),
        ("bertjobs cancel results/fo", ["results/fourth/"]),
        ("bertjobs plan --site ", ["juno", "none"]),
        ("bertjobs plan --data oth", ["other/"]),
        ("bertjobs plan --recipes min", ["mine.yml"]),
        ("bertjobs plan --nodes ", []),
    ],
)
def test_a_word_is_completed(complete: Complete, line: str, offered: list[str]) -> None:
    assert complete(line) == offered


@pytest.mark.parametrize("line", ["bertjobs plan --recipe ", "bertjobs status --site nosuch "])
def test_missing_and_unreadable_files_offer_no_completions(complete: Complete, tmp_path: Path, line: str) -> None:
    (tmp_path / "bertjobs.yml").write_text("recipes: {broken: [\n")
    shutil.rmtree(tmp_path / "results")
    assert complete(line) == []


@pytest.mark.parametrize(
    ("shell", "started", "ready"),
    [
        ("bash", ["--norc", "-i"], 'eval "$(bertjobs completion bash)"'),
        ("zsh", ["-f", "-i"], 'autoload -U compinit && compinit -u -D; eval "$(bertjobs completion zsh)"'),
    ],
)
def test_tab_in_a_terminal(environ: dict[str, str], tmp_path: Path, shell: str, started: list[str], ready: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    with terminal([program, *started], {**environ, "PS1": "> ", "TERM": "vt100"}, tmp_path) as screen:
        screen(f"{ready}; echo rea''dy\n", "ready\r\n")
        screen("bertjobs status fir\t", "bertjobs status first")


@contextmanager
def terminal(words: list[str], environ: dict[str, str], folder: Path) -> Iterator[Callable[[str, str], None]]:
    """A program in a terminal; the function types a text and waits until the screen shows another."""
    child, keyboard = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execve(words[0], words, environ)

    def screen(typed: str, shown: str) -> None:
        os.write(keyboard, typed.encode())
        seen, deadline = "", time.monotonic() + PATIENCE_S
        while shown not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([keyboard], [], [], 0.2)[0]:
                seen += os.read(keyboard, 4096).decode(errors="replace")

    try:
        yield screen
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(keyboard)
        os.waitpid(child, 0)


def test_an_unknown_shell_is_refused(bertjobs: Bertjobs) -> None:
    done = bertjobs("completion", "tcsh")
    assert done.returncode == 64
    assert "'bash', 'zsh', 'fish'" in done.stderr


def test_no_argcomplete_is_loaded_without_a_tab() -> None:
    code = (
        "import sys\nfrom bertjobs.cli.main import main\ncode = main(['recipes'])\nprint('argcomplete' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"

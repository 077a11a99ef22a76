"""Ctrl-C ends a command with 130 and without a traceback, at whatever moment it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bertjobs.cli.interrupts import interrupts_held

READY = """\
import sys, threading
from bertjobs.__main__ import run
print("ready", flush=True)
sys.exit(run())
"""
SENTENCE = "The people of the {} are at peace with the {} of the nation number {}. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of some megabytes, a vocabulary, and data made of a little of it."""
    folder = tmp_path_factory.mktemp("interrupts")
    (folder / "corpus").mkdir()
    words = ["states", "union", "war", "treaty", "navy", "army", "law", "senate", "house", "people"]
    for number in range(40):
        text = "".join(
            SENTENCE.format(words[line % 10], words[line * number % 10], 3000 * number + line) for line in range(3000)
        )
        (folder / "corpus" / f"{number}.txt").write_text(text)
    for words_ in (
        ["vocab", "--corpus", f"text:{folder}/corpus/1.txt", "--size", "200", "--output", "vocab.txt"],
        ["prepare", "--corpus", f"text:{folder}/corpus", "--vocab", "vocab.txt", "--output", "whole",
         "--sample-ratio", "0.3", "--duplicates", "2", "--phases", "1", "--format", "lddl"],
    ):  # fmt: skip
        subprocess.run([sys.executable, "-m", "bertjobs", "data", *words_], cwd=folder, check=True, capture_output=True)
    return folder


COMMANDS = {
    "prepare": ["prepare", "--corpus", "text:corpus", "--vocab", "vocab.txt", "--output", "{}", "--processes", "2"],
    "alone": ["prepare", "--corpus", "text:corpus", "--vocab", "vocab.txt", "--output", "{}", "--processes", "1"],
    "vocab": ["vocab", "--corpus", "text:corpus", "--size", "300", "--output", "{}"],
    "verify": ["verify", "whole"],
    "inspect": ["inspect", "whole"],
    "adopt": ["adopt", "--phase", "1=whole/phase1/train", "--vocab", "vocab.txt", "--output", "{}"],
}


@pytest.mark.parametrize("delay_s", [0.1, 0.5, 1.2])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_prints_a_traceback(folder: Path, name: str, delay_s: float) -> None:
    output = f"out-{name}-{delay_s}"
    words = [word.format(output) for word in COMMANDS[name]]
    process = subprocess.Popen(
        [sys.executable, "-c", READY, "data", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in errors, errors
    assert "Error" not in errors, errors
    assert "KeyboardInterrupt" not in errors, errors
    # -SIGINT, which a shell calls 130 too: while nothing had begun, or Python was ending. 0: it was done before.
    assert process.returncode in (130, -signal.SIGINT, 0)
    assert delay_s > 0.2 or process.returncode != 0
    if process.returncode == 130 and (folder / output / ".prepare").exists():
        assert "interrupted: finished tasks are kept, and the same command resumes" in errors


def test_an_interrupted_prepare_resumes(folder: Path) -> None:
    words = [word.format("resumed") for word in COMMANDS["prepare"]]
    process = subprocess.Popen(
        [sys.executable, "-c", READY, "data", *words], cwd=folder, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        tokenised = folder / "resumed" / ".prepare" / "tokenise"
        deadline = time.monotonic() + 60
        while not any(tokenised.glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    kept = {path: path.stat().st_mtime_ns for path in tokenised.glob("*.json")}
    assert kept
    done = subprocess.run([sys.executable, "-m", "bertjobs", "data", *words], cwd=folder, check=False)
    assert done.returncode == 0


def _ends(code: str, sent: Sequence[float]) -> tuple[int, str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        for delay_s in sent:
            time.sleep(delay_s)
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, errors


def test_an_interrupt_in_a_destructor_is_not_lost() -> None:
    code = """
import sys, time
from bertjobs.cli.interrupts import run

class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(1)

def command():
    Slow()
    time.sleep(30)
    return 0

sys.exit(run(command))
"""
    assert _ends(code, [0.2]) == (130, "")


def test_what_a_library_makes_of_an_interrupt_is_130_too() -> None:
    code = """
import sys, time
from bertjobs.cli.interrupts import run

def command():
    print("ready", flush=True)
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import")

sys.exit(run(command))
"""
    assert _ends(code, [0.2]) == (130, "")


def test_a_second_interrupt_while_python_ends_says_nothing() -> None:
    code = """
import atexit, sys, time
from bertjobs.cli.interrupts import run
atexit.register(time.sleep, 20)

def command():
    print("ready", flush=True)
    time.sleep(30)
    return 0

sys.exit(run(command))
"""
    assert _ends(code, [0.2, 0.5]) == (-signal.SIGINT, "")


def test_an_interrupt_that_is_held_comes_at_the_end() -> None:
    reached = []

    def held() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        held()
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_the_shell_has_ignored_stays_ignored() -> None:
    code = (
        "trap '' INT; exec "
        + sys.executable
        + """ -c '
import signal, sys
from bertjobs.cli.interrupts import run
sys.exit(run(lambda: signal.raise_signal(signal.SIGINT) or 0))
'"""
    )
    assert subprocess.run(["/bin/sh", "-c", code], check=False).returncode == 0

"""The command line as a whole."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib import import_module

import pytest

from bertjobs.cli.main import VERBS
from tests.conftest import Bertjobs

HEAVY = ("torch", "pyarrow", "numpy", "tokenizers", "matplotlib", "transformers", "submitit", "yaml")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom bertjobs.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Exit codes: 0 done, 75" in done.stdout


def test_help_takes_at_most_400_ms_of_cpu_time() -> None:
    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "bertjobs", "--help"], capture_output=True, check=True)
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])  # of children, in user and system mode

    assert min(seconds() for _ in range(5)) < 0.4


def test_each_module_adds_the_verbs_that_main_names() -> None:
    for module in set(VERBS.values()):
        verbs = argparse.ArgumentParser().add_subparsers()
        import_module(f"bertjobs.cli.{module}").register(verbs)
        assert set(verbs.choices) == {verb for verb, name in VERBS.items() if name == module}


def test_a_verb_loads_no_other() -> None:
    code = (
        "import sys\nfrom bertjobs.cli.main import main\n"
        "try: main(['data', 'prepare', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('bertjobs.recipe') or name == 'bertjobs.cli.submit'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.startswith("usage: bertjobs data prepare")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sumbit"], "did you mean 'submit'?"),
        (["submit", "--recipe", "laptop", "--node", "2"], "did you mean '--nodes'?"),
        (["plan", "--recipes-file", "x"], "unrecognized arguments: --recipes-file x"),
        ([], "the following arguments are required: VERB"),
        (["status", "nosuch"], "there is no run named 'nosuch'"),
        (["logs", "nosuch"], "there is no run named 'nosuch'"),
        (["cancel", "nosuch"], "there is no run named 'nosuch'"),
        (["resume", "nosuch"], "there is no run named 'nosuch'"),
        (["report", "nosuch"], "there is no run named 'nosuch'"),
        (["scaling", "nosuch"], "there is no run named 'nosuch'"),
    ],
)
def test_bad_arguments_exit_with_64(bertjobs: Bertjobs, arguments: list[str], message: str) -> None:
    done = bertjobs(*arguments)
    assert done.returncode == 64
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_status_without_runs_says_how_to_start_one(bertjobs: Bertjobs) -> None:
    assert "bertjobs submit --recipe NAME" in bertjobs("status").stdout


@pytest.mark.parametrize("verb", ["prepare", "vocab", "duplicates"])
def test_no_default_of_a_switch_or_an_empty_one_is_shown(bertjobs: Bertjobs, verb: str) -> None:
    shown = " ".join(bertjobs("data", verb, "--help").stdout.split())
    assert "(default: utf-8)" in shown
    assert [words for words in ("(default: )", "(default: True)", "(default: False)") if words in shown] == []

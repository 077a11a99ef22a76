"""The check of a GPU, on a machine without one: with stand-ins for the driver, Python and `timeout`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bertjobs.recipe import schema

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
Script = Callable[..., "subprocess.CompletedProcess[str]"]
USAGE = "error: usage: scripts/gpu_check.sh [--wheels DIR] [--half 1|2] FOLDER, or --list\n"

PYTHON = """\
#!/usr/bin/env bash
# Stands in for the interpreter: what a part does follows from STAND_IN, "WORD=DEED WORD=DEED ...", the first whose word
# is among the arguments.
case "$*" in
  *"-m venv"*) mkdir -p "${@: -1}/bin"; ln -s "$0" "${@: -1}/bin/python"; exit ;;
  *benchmarks/gpu_machine.py*)
    echo '{"what": "machine", "date": "2026-01-02", "device": "a stand-in", "versions": {"torch": "2.11.0"}}' >>"$2"
    exit ;;
  *benchmarks/gpu_summary.py*) exec "$REAL_PYTHON" "$@" ;;
  *"-c import sysconfig"*) dirname "$(dirname "$0")"; exit ;;
  "- "*) cat >/dev/null; exit ;;
esac
for rule in $STAND_IN; do
  [[ "$*" == *"${rule%%=*}"* ]] || continue
  case ${rule#*=} in
    fails) echo "it went wrong"; exit 3 ;;
    hangs | waits) echo '{"what": "copy", "tb_per_s": 4.25}' >>"$RESULTS/results.jsonl"; sleep 600 ;;
    ignores) trap '' INT; for _ in 1 2 3 4 5 6 7 8 9; do sleep 60; done ;;
  esac
done
echo "ran $*"
"""

TIMEOUT = """\
#!/usr/bin/env bash
# Writes down a part's limit, and shortens that of one which will not end by itself.
[[ $1 == --signal=INT ]] || exec /usr/bin/timeout "$@"
echo "$3" >>"$RESULTS/limits"
limit=$3
for rule in $STAND_IN; do
  [[ "$*" != *"${rule%%=*}"* || ! $rule =~ =(hangs|ignores)$ ]] || limit=3
done
exec /usr/bin/timeout "$1" "$2" "$limit" "${@:4}"
"""


def write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def run(
    name: str, *arguments: str, cwd: Path, environ: Mapping[str, str], scripts: Path = SCRIPTS
) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PATH": f"{cwd / 'bin'}:{os.environ['PATH']}", **environ}
    return subprocess.run(
        [scripts / name, *arguments], cwd=cwd, env=environ, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Runs a script on a machine whose driver finds no GPU."""
    home = tmp_path / "no-gpu"
    home.mkdir()
    write(home / "bin" / "nvidia-smi", "#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    return lambda name, *arguments: run(name, *arguments, cwd=home, environ={})


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]:
    """Runs the check with stand-ins; returns how it ended, and its summary."""
    write(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: a stand-in'\n")
    write(tmp_path / "bin" / "python", PYTHON)
    write(tmp_path / "bin" / "timeout", TIMEOUT)

    def check(
        *arguments: str, stand_in: str = "", scripts: Path = SCRIPTS
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        environ = {"PYTHON": str(tmp_path / "bin" / "python"), "REAL_PYTHON": sys.executable, "STAND_IN": stand_in,
                   "RESULTS": str(tmp_path / "results")}  # fmt: skip
        end = run("gpu_check.sh", *arguments, "results", cwd=tmp_path, environ=environ, scripts=scripts)
        return end, json.loads((tmp_path / "results" / "summary.json").read_text())

    return check


def test_without_a_gpu_it_says_so_and_does_nothing(script: Script, tmp_path: Path) -> None:
    end = script("gpu_check.sh", "results")
    assert (end.returncode, end.stdout) == (64, "")
    assert end.stderr == "error: no NVIDIA GPU here (nvidia-smi -L finds none): nothing was checked\n"
    assert not (tmp_path / "no-gpu" / "results").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--wheels", "w"),
        ("one", "two"),
        ("--help",),
        ("--wheels",),
        ("--half", "3", "results"),
        ("--list", "results"),
    ],
)
def test_its_arguments_are_checked_first(script: Script, arguments: tuple[str, ...]) -> None:
    end = script("gpu_check.sh", *arguments)
    assert (end.returncode, end.stdout) == (64, "")
    assert end.stderr == USAGE


@pytest.mark.parametrize("arguments", [(), ("--help",), ("one", "two")])
def test_the_download_needs_a_folder(script: Script, arguments: tuple[str, ...]) -> None:
    end = script("gpu_wheels.sh", *arguments)
    assert (end.returncode, end.stdout) == (64, "")
    assert end.stderr == "error: usage: scripts/gpu_wheels.sh DIR\n"


def listed(script: Script, half: str) -> list[tuple[int, str, str]]:
    """Seconds, name and command of a half's parts."""
    end = script("gpu_check.sh", "--list", "--half", half)
    assert end.returncode == 0, end.stderr
    rows = [line.split(maxsplit=2) for line in end.stdout.splitlines()[1:-1]]
    return [(int(seconds), name, command) for seconds, name, command in rows]


@pytest.mark.parametrize("half", ["1", "2"])
def test_each_half_takes_less_than_330_seconds(script: Script, half: str) -> None:
    parts = listed(script, half)
    assert sum(seconds for seconds, *_ in parts) <= 322
    assert min(seconds for seconds, *_ in parts) >= 10
    assert len({name for _, name, _ in parts}) == len(parts)


def test_each_file_of_gpu_tests_is_a_part_of_its_own(script: Script) -> None:
    parts = [command for half in ("1", "2") for _, _, command in listed(script, half) if " pytest " in command]
    files = [word for command in parts for word in command.split() if word.startswith("tests/")]
    assert sorted(files) == sorted(f"tests/gpu/{file.name}" for file in (ROOT / "tests/gpu").glob("test_*.py"))


def test_what_is_compared_are_settings_that_there_are(script: Script) -> None:
    words = [word for half in ("1", "2") for *_, command in listed(script, half) for word in command.split()]
    keys = {words[place + 1].partition("=")[0] for place, word in enumerate(words) if word == "--set"}
    assert keys >= {"compile", "attention", "fused_layers", "compile_mode"}
    assert keys <= set(schema.RUN)


def test_all_parts_run_and_the_summary_names_them(checked: Callable[..., Any], script: Script, tmp_path: Path) -> None:
    end, summary = checked("--half", "1")
    assert end.returncode == 0, end.stdout + end.stderr
    names = [part["name"] for part in summary["parts"]]
    assert names == [name for _, name, _ in listed(script, "1")]
    assert {part["exit_code"] for part in summary["parts"]} == {0}
    assert (summary["device"], summary["date"], summary["versions"]) == (
        "a stand-in", "2026-01-02", {"torch": "2.11.0"},
    )  # fmt: skip
    assert (summary["failed"], summary["skipped"]) == ([], [])
    assert "phase 1: sequences/s, micro-batch 512" in end.stdout
    assert "not measured" in end.stdout
    log = (tmp_path / "results" / "check.log").read_text()
    assert "benchmarks/gpu_limits.py" in log
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == [
        "check.log", "limits", "results.jsonl", "summary.json",
    ]  # fmt: skip


def test_a_part_that_hangs_is_ended_and_one_that_fails_is_named(checked: Callable[..., Any], tmp_path: Path) -> None:
    end, summary = checked("--half", "1", stand_in="gpu_limits=hangs gpu_worker=ignores lamb=fails")
    assert end.returncode == 70, end.stdout + end.stderr
    codes = {part["name"]: part["exit_code"] for part in summary["parts"]}
    assert codes.pop("limits") == 124
    assert codes.pop("worker") == 137
    assert codes.pop("lamb") == 3
    assert set(codes.values()) == {0}
    assert summary["failed"] == ["limits", "worker", "lamb"]
    assert summary["copy_tb_per_s"] == 4.25  # what it had measured before it was ended
    assert "FAILED lamb: exit code 3" in end.stdout
    assert "limits was ended" in end.stdout
    assert "it went wrong" in (tmp_path / "results" / "check.log").read_text()


def test_what_a_part_does_not_use_is_the_next_one_s(
    checked: Callable[..., Any], script: Script, tmp_path: Path
) -> None:
    """The limits are those of a plan in which each part ends when all before it should have."""
    checked("--half", "2")
    given = [int(line) for line in (tmp_path / "results" / "limits").read_text().split()]
    own = [seconds for seconds, *_ in listed(script, "2")]
    planned = [sum(own[: number + 1]) - 3 for number in range(len(own))]
    assert len(given) == len(planned)
    assert all(0 <= latest - limit < 60 for latest, limit in zip(planned, given, strict=True))
    assert all(limit >= seconds - 3 for limit, seconds in zip(given, own, strict=True))
    assert given[-1] < 322


def test_when_the_time_is_over_the_last_parts_are_skipped(
    checked: Callable[..., Any], script: Script, tmp_path: Path
) -> None:
    text = (SCRIPTS / "gpu_check.sh").read_text()
    assert "half_seconds=322" in text
    write(tmp_path / "scripts" / "gpu_check.sh", text.replace("half_seconds=322", "half_seconds=12"))
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    end, summary = checked("--half", "1", stand_in="gpu_limits=waits", scripts=tmp_path / "scripts")
    assert end.returncode == 70, end.stdout + end.stderr
    names = [name for _, name, _ in listed(script, "1")]
    assert (summary["failed"], summary["skipped"]) == (["limits"], names[2:])
    assert "SKIPPED worker: no time was left" in end.stdout
    assert max(int(line) for line in (tmp_path / "results" / "limits").read_text().split()) <= 12 - 3


def test_an_unknown_gpu_ends_it_before_anything_runs(checked: Callable[..., Any], tmp_path: Path) -> None:
    end, _ = checked("--half", "1")
    assert end.returncode == 0
    write(tmp_path / "bin" / "python", "#!/bin/sh\necho 'error: no code for it' >&2\nexit 64\n")
    environ = {"PYTHON": str(tmp_path / "bin" / "python"), "RESULTS": str(tmp_path / "results")}
    end = run("gpu_check.sh", "other", cwd=tmp_path, environ=environ)
    assert (end.returncode, end.stdout) == (64, "")
    assert end.stderr == "error: no code for it\nerror: nothing was checked\n"

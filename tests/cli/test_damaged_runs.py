"""A damaged file costs its own row, not the command: each file of a real run is damaged in turn, in every way."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertjobs.cli.main import main
from bertjobs.run.bench_file import BENCH_FILE
from bertjobs.run.suspects import FILE as SUSPECTS
from tests.cli.damage import DAMAGES, Damage, closed, copied, files_of
from tests.conftest import run_bertjobs

NOBODY = 65534

RUN, OTHER = "damaged", "whole"
READERS: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("status", "--json"),
    ("status", RUN),
    ("doctor", RUN),
    ("doctor", RUN, "--json"),
    ("cancel", RUN),
    ("logs", RUN),
    ("logs", RUN, "--list"),
    ("resume", RUN, "--dry-run"),
)
SHORT = (READERS[0], READERS[2], READERS[3], READERS[5])
PLAN = ("plan", "--recipe", "laptop-scratch", "--backend", "local", "--run", "new")
REPORT = ("report", RUN)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, speeches_data: Path) -> Path:
    """The results folder of a run that trained here: phase 1 done, phase 2 stopped with a checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    small = {"steps": 4, "global_batch": 4, "checkpoint_every": 2}
    sets = [f"phase{number}.{key}={value}" for number in (1, 2) for key, value in small.items()]
    words = ["submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--backend", "local", "--run", RUN]
    words += ["--model", "bert-nano", *(word for setting in sets for word in ("--set", setting))]
    done = run_bertjobs(words, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    results = folder / "results"
    (results / RUN / "phase2" / "DONE.json").unlink()
    shutil.copytree(results / RUN, results / OTHER, copy_function=os.link)
    (results / SUSPECTS).write_text(
        '{"node": "node1", "reason": "slow", "fatal": true, "run": "r", "job": "7", "time_unix_s": 1.7e9, '
        '"expires_unix_s": 9e9}\n'
    )
    work = {"model": {}, "precision": "fp32", "activation_checkpointing": False, "unpadded": True}
    sizes = {"sequence_length": 128, "max_predictions": 20, "micro_batch": 4}
    device = {"name": "cpu", "kind": "cpu", "memory_gb": 8.0}
    line = {"device": device, **work, **sizes, "sequences_per_s": 10.0, "peak_memory_gb": 1.0}
    (results / BENCH_FILE).write_text(json.dumps(line) + "\n")
    return results


@pytest.fixture(autouse=True)
def _plain_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Slurm, a user without files of their own."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def command(words: Sequence[str], results: Path) -> tuple[int, str]:
    """A command's exit code and all that it prints; an exception that it lets through is one of the test."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        try:
            code = main([*words, "--results", str(results)])
        except SystemExit as stop:
            code = int(stop.code or 0)
    text = out.getvalue()
    text.encode("utf-8")  # can be printed
    return code, text


def check(results: Path, commands: Sequence[tuple[str, ...]], what: str) -> None:
    """Run commands over a results folder with one damaged run: each ends with 0 or 64 and a word about it."""
    for words in commands:
        code, text = command(words, results)
        assert code in (0, 64), f"{what}: {words} ended with {code}\n{text}"
        assert "Traceback" not in text, f"{what}: {words}\n{text}"
        assert text.strip() or words == ("logs", RUN), f"{what}: {words} says nothing"
        assert "\x1b" not in text, f"{what}: {words} lets a terminal's escapes through"
        if words == ("status",):
            assert code == 0, f"{what}\n{text}"
            rows = [line.split()[:3] for line in text.splitlines()]
            assert [OTHER, "1", "DONE"] in rows, f"{what}: the other run is not shown\n{text}"
            assert any(row[:1] == [RUN] for row in rows), f"{what}: the damaged run is not shown\n{text}"
        if words == ("status", "--json"):
            assert {OTHER, RUN} <= {row["run"] for row in json.loads(text)}, what


@pytest.fixture
def damaged(trained: Path) -> Iterator[Callable[[str, Damage, int], Path]]:
    """Makes a results folder in which one file of one run is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        made = iter(range(10**6))

        def make(file: str, damage: Damage, seed: int) -> Path:
            results = copied(trained, Path(folder) / str(next(made)))
            path = results / file if (results / file).exists() else results / RUN / file
            damage(path, random.Random(f"{file} {seed}"))
            return results

        yield make


METRICS = ("phase1/metrics.jsonl", "phase2/metrics.jsonl")
IMPORTANT = ("run.yml", "jobs.jsonl", "phase1/DONE.json", "owners/000001.json", *METRICS)


@pytest.mark.parametrize("file", IMPORTANT)
def test_a_damaged_file_costs_its_own_row(damaged, file: str) -> None:
    for damage in DAMAGES:
        check(damaged(file, damage, 0), SHORT, f"{file}, {damage.__name__}")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_no_damage_to_any_file_ends_a_command(damaged, trained: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from([*files_of(trained / RUN), SUSPECTS, BENCH_FILE]), label="file")
    damage = data.draw(st.sampled_from(DAMAGES), label="damage")
    seed = data.draw(st.integers(0, 1000), label="seed")
    results = damaged(file, damage, seed)
    commands = (*READERS, PLAN) if file in (SUSPECTS, BENCH_FILE) or "metrics" in file else READERS
    check(results, commands, f"{file}, {damage.__name__}, seed {seed}")
    shutil.rmtree(results)


@pytest.mark.slow
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_no_damage_ends_a_report(damaged, data: st.DataObject) -> None:
    files = (*METRICS, "phase1/validation.jsonl", "jobs.jsonl", "phase1/DONE.json")
    file = data.draw(st.sampled_from(files), label="file")
    damage = data.draw(st.sampled_from(DAMAGES), label="damage")
    seed = data.draw(st.integers(0, 1000), label="seed")
    results = damaged(file, damage, seed)
    check(results, (REPORT,), f"{file}, {damage.__name__}, seed {seed}")
    shutil.rmtree(results)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("file", ["run.yml", "jobs.jsonl", "phase1", "phase2/checkpoints", "."])
def test_what_a_plain_user_may_not_read_costs_its_own_row(trained: Path, file: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        results = shutil.copytree(trained, Path(folder) / "results")
        path = results / RUN / file
        for each in (results, *results.rglob("*")):
            os.chown(each, NOBODY, NOBODY, follow_symlinks=False)
        if path.is_file():
            closed(path, random.Random(0))
            os.chown(path, NOBODY, NOBODY)
        else:
            path.chmod(0)
        check(trained, READERS, "undamaged")  # imports what may lie where only root reads
        problem = as_nobody(lambda: check(results, READERS, f"{file}, closed"), Path(folder))
        assert not problem, problem


def as_nobody(act: Callable[[], None], folder: Path) -> str:
    """Do something in a process of a plain user, in ``folder``; the traceback of what it raises, "" if it ends well."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.chdir(folder)
            os.environ |= {"XDG_CONFIG_HOME": str(folder), "PATH": str(folder)}
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            act()
        except BaseException:
            os.write(writing, traceback.format_exc().encode(errors="replace")[-60_000:])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text

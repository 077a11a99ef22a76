"""`bertjobs finetune --find-lr` as users start it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from bertjobs.cli.main import main
from bertjobs.files.json_lines import read_lines
from tests.cli.test_json import check
from tests.finetune.conftest import bertjobs

WORDS = ("finetune", "--from", "model", "--data", "data", "--backend", "local", "--set", "phase1.sequence_length=32",
         "--set", "phase1.global_batch=32", "--set", "phase1.lr=1e-3")  # fmt: skip


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all files below a folder."""
    facts = {path: path.stat() for path in folder.rglob("*")}
    return {str(path): (one.st_size, one.st_mtime_ns) for path, one in facts.items()}


def test_it_suggests_a_rate_draws_its_curve_and_leaves_runs_alone(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert bertjobs(place, *WORDS, "--run", "same", "--set", "phase1.epochs=1").returncode == 0
    run = place / "results" / "same"
    before = snapshot(run)
    words = ("--run", "same", "--set", "phase1.epochs=40", "--find-lr", "--lr-range", "1e-5,1")
    done = bertjobs(place, *WORDS, *words, "--json")
    assert done.returncode == 0, done.stderr
    check("finetune --find-lr", done.stdout)
    answer = json.loads(done.stdout)
    assert 1e-5 < answer["suggested_learning_rate"] < answer["least_loss_at"] < 1
    assert answer["cautious_learning_rate"] == pytest.approx(answer["least_loss_at"] / 10, rel=0.05)
    assert answer["setting"] == f"--set phase1.lr={answer['suggested_learning_rate']:g}"
    assert answer["steps"] == 100
    # The first step of the run itself, before its first update.
    first = read_lines(run / "phase1" / "metrics.jsonl")[0]
    assert answer["points"][0]["loss"] == pytest.approx(first["loss_nats"], rel=1e-5)
    table, curve = Path(answer["table"]), Path(answer["curve"])
    assert json.loads(table.read_text())["points"] == answer["points"]
    assert curve.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", curve.read_bytes()[16:24]) == (800, 450)
    assert table.parent == curve.parent == place / "results" / ".rates" / "same"
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--find-lr", "0"), "'0' is not a whole number of steps above 0"),
        (("--find-lr", "many"), "'many' is not a whole number of steps above 0"),
        (("--find-lr", "10"), "10 steps are too few"),
        (("--find-lr", "--lr-range", "1e-3"), "'1e-3' is not two rates above 0"),
        (("--find-lr", "--lr-range", "1,1e-3"), "the lower one first"),
        (("--find-lr", "--lr-range", "0,1"), "the lower one first"),
        (("--lr-range", "1e-5,1"), "add --find-lr"),
        (("--find-lr", "--seeds", "2"), "where: --seeds"),
        (("--find-lr", "--sweep", "seed=1,2"), "where: --sweep"),
        (("--find-lr", "--dry-run"), "where: --dry-run"),
        (("--find-lr", "--after", "17"), "where: --after"),
        (("--find-lr", "--backend", "slurm"), "where: --backend slurm"),
        (("--find-lr", "--data", "nowhere"), "there is no such folder"),
        (("--find-lr", "--recipe", "laptop", "--set", "phase1.sequence_length=128"), "no task was given"),
        (("--find-lr", "--set", "phase1.epochs=2"), "the run has only 6 steps"),
    ],
)
def test_bad_input_is_refused(
    place: Path,
    words: tuple[str, ...],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    assert main([*WORDS, "--run", "refused", *words]) == 64
    assert what in capsys.readouterr().err
    assert not (place / "results" / "refused").exists()
    assert not (place / "results" / ".rates" / "refused").exists()

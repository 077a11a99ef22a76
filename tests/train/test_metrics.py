"""The lines of metrics.jsonl, and that they stay one series whatever a crash leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.files.json_lines import append_line, read_lines
from bertjobs.run.series import continued
from bertjobs.train import metrics
from bertjobs.train.metrics import MetricsLog, gaps, log_line, step_metrics
from bertjobs.train.objective import GlobalBatch
from bertjobs.train.pretraining import measures
from bertjobs.train.pretraining.measures import SCORES

BATCH = GlobalBatch(divisors=(10, 4), sequences=4, tokens=200, flops=6e12)


def step_line(step: int, **fields: Any) -> dict[str, Any]:
    """A line as the training loop makes it."""
    settings: dict[str, Any] = {"peak_flops": 4e13, "step_time_s": 0.5}
    settings |= {name: fields.pop(name) for name in settings.keys() & fields.keys()}
    others = {
        "phase": 1, "step": step, "attempt": 1, "time_unix_s": 1.7e9 + step, "learning_rate": 1e-3,
        "gradient_norm": 2.0, "loss_scale": 1.0, "skipped_steps": 0, "data_wait_s": 0.0, "checkpoint_s": None,
        "checkpoint_stall_s": 0.0, "peak_memory_gb": 1.5,
    }  # fmt: skip
    means = measures.measures([70.0, 3.0, 2.8, 1.0], BATCH.divisors)
    return step_metrics(measures=means, batch=BATCH, **settings, **{**others, **fields})


def held_out_line(step: int) -> dict[str, Any]:
    return {
        "phase": 1, "step": step, "mlm_loss_nats": 7.0, "mlm_accuracy": 0.1, "nsp_loss_nats": 0.7, "nsp_accuracy": 0.5,
        "masked_tokens": 9, "sequences": 3, "unigram_cross_entropy_nats": 6.5,
    }  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    return MetricsLog(
        tmp_path / "metrics.jsonl", tmp_path / "validation.jsonl", tmp_path / "board", SCORES, active=True
    )


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_line_holds_means_and_rates_of_the_global_batch() -> None:
    line = step_line(3)
    expected = {
        "mlm_loss_nats": 7.0, "nsp_loss_nats": 0.7, "loss_nats": 7.7, "mlm_accuracy": 0.3, "nsp_accuracy": 0.25,
        "tokens": 200, "sequences_per_s": 8.0, "tokens_per_s": 400.0, "model_flops_per_s": 12 * 10**12,
        "peak_share": 0.3, "step_time_s": 0.5,
    }  # fmt: skip
    assert {name: line[name] for name in expected} == pytest.approx(expected)
    assert "step 3/10  loss 7.7  lr 1.000e-03" in log_line(line, 10, "loss 7.7")
    assert "30.0% of the peak" in log_line(line, 10, "loss 7.7")


def test_without_a_known_peak_there_is_no_share() -> None:
    line = step_line(3, peak_flops=None)
    assert line["peak_share"] is None
    assert "peak" not in log_line(line, 10, "loss 7.7")


def test_every_field_of_a_line_is_documented() -> None:
    documented = f"{metrics.__doc__}{measures.__doc__}"
    assert [name for name in step_line(1) if f"``{name}``" not in documented] == []


def test_a_restart_drops_the_lines_of_steps_that_will_be_done_again(log: MetricsLog, tmp_path: Path) -> None:
    log.resume_after(0)
    for step in range(1, 8):
        log.step(step_line(step), 10, "")
        if step % 3 == 0:
            log.validation(held_out_line(step), "")
    log.resume_after(5)
    log.step(step_line(6), 10, "")
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5, 6]
    assert steps(tmp_path / "validation.jsonl") == [3]
    log.resume_after(0)
    assert steps(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize(
    "rest", [b'{"phase": 1, "st', b"\0" * 300, b"4\n", b"null\n", b'{"phase": 1}\n', b'{"step": "x"}\n']
)
def test_a_line_that_a_crash_damaged_is_repaired(log: MetricsLog, tmp_path: Path, rest: bytes) -> None:
    for step in (1, 2):
        log.step(step_line(step), 10, "")
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(rest)
    log.resume_after(2)
    log.step(step_line(3), 10, "")
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3]


def test_a_whole_line_without_its_end_is_kept(log: MetricsLog, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        log.step(step_line(step), 10, "")
    os.truncate(path, path.stat().st_size - 1)
    log.resume_after(2)
    log.step(step_line(3), 10, "")
    assert steps(path) == [1, 2, 3]


def test_lost_steps_are_named_and_the_run_continues(
    log: MetricsLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 4, 8):
        log.step(step_line(step), 20, "")
    log.resume_after(10)
    assert "metrics.jsonl lacks the lines of steps 3, 5-7, 9-10" in capsys.readouterr().out
    log.step(step_line(11), 20, "")
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 4, 8, 11]


def test_lines_wait_until_their_file_can_be_written(
    log: MetricsLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.step(step_line(1), 10, "")
    path, away = tmp_path / "metrics.jsonl", tmp_path / "away"
    path.rename(away)
    path.mkdir()
    for step in (2, 3):
        log.step(step_line(step), 10, "")
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        log.sync()
    assert capsys.readouterr().out.count("metrics.jsonl cannot be written") == 1
    path.rmdir()
    away.rename(path)
    log.step(step_line(4), 10, "")
    log.sync()
    assert steps(path) == [1, 2, 3, 4]


def test_a_series_that_needs_no_repair_is_not_rewritten(log: MetricsLog, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log.step(step_line(1, gradient_norm=float("inf")), 10, "")
    before = path.stat()
    log.resume_after(1)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@given(st.lists(st.integers(1, 12), max_size=30), st.integers(0, 12))
def test_each_step_appears_once_and_what_is_missing_is_known(written: list[int], last: int) -> None:
    lines = [{"step": step, "written": number} for number, step in enumerate(written)]
    kept = continued(lines, last)
    assert [line["step"] for line in kept] == sorted({step for step in written if step <= last})
    for line in kept:
        assert line["written"] == max(number for number, step in enumerate(written) if step == line["step"])
    missing = {step for first, end in gaps(kept, last) for step in range(first, end + 1)}
    assert missing == set(range(1, last + 1)) - set(written)


def test_only_the_first_rank_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = MetricsLog(
        tmp_path / "metrics.jsonl", tmp_path / "validation.jsonl", tmp_path / "board", SCORES, active=False
    )
    log.resume_after(0)
    log.step(step_line(1), 10, "")
    log.validation(held_out_line(1), "")
    log.sync()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_lines_of_earlier_versions_are_continued(log: MetricsLog, tmp_path: Path) -> None:
    new = ("tokens", "model_flops_per_s", "peak_share", "checkpoint_s", "checkpoint_stall_s", "peak_memory_gb")
    old = {name: value for name, value in step_line(1).items() if name not in new}
    append_line(tmp_path / "metrics.jsonl", old)
    log.resume_after(1)
    log.step(step_line(2), 10, "")
    assert read_lines(tmp_path / "metrics.jsonl") == [old, step_line(2)]
    assert len(list((tmp_path / "board").iterdir())) == 1


def test_flushing_needs_no_lines_yet(log: MetricsLog, tmp_path: Path) -> None:
    log.sync()
    log.step(step_line(1), 10, "")
    log.sync()
    assert steps(tmp_path / "metrics.jsonl") == [1]

"""Mean and spread over the runs of a study, and the runs that failed."""

from __future__ import annotations

import math

import pytest

from bertjobs.launch.watch.study import MemberResult, spreads, study_json, study_text


def member(number: int, value: float | None, lr: str = "1e-5", state: str = "DONE", **more: object) -> MemberResult:
    settings = {"phase1.lr": lr, "seed": str(41 + number)}
    return MemberResult(f"st-{number}", settings, state, 1, 4, 4, "dev_accuracy", value, **more)  # type: ignore[arg-type]


FAILED = member(4, None, "2e-5", "FAILED", why="crashed: a rank ended", command="bertjobs logs st-4")
STUDY = [member(1, 0.5), member(2, 0.7), member(3, 0.25, "2e-5"), FAILED]


def test_the_spread_is_that_of_a_sample() -> None:
    first, second = spreads(STUDY)
    assert first.settings == {"phase1.lr": "1e-5"}
    assert (first.runs, first.done, first.least, first.most) == (2, 2, 0.5, 0.7)
    assert first.mean == pytest.approx(0.6)
    assert first.deviation == pytest.approx(math.sqrt(2 * 0.1**2 / (2 - 1)))
    assert (second.runs, second.done, second.mean) == (2, 1, 0.25)
    assert second.deviation is None, "one run has no spread"


def test_a_study_without_a_result_has_no_mean() -> None:
    (only,) = spreads([FAILED])
    assert (only.runs, only.done, only.mean) == (1, 0, None)
    assert "mean" not in study_text("st", [FAILED])


def test_the_table_names_failed_runs_with_cause_and_remedy() -> None:
    text = study_text("st", STUDY)
    lines = text.splitlines()
    assert lines[0] == "study st: 3 of 4 runs done"
    assert lines[2].split() == ["run", "phase1.lr", "seed", "state", "phase", "step", "dev_accuracy"]
    assert lines[3].split() == ["st-1", "1e-5", "42", "DONE", "1", "4/4", "0.5000"]
    assert "1e-5       2 of 2     0.6000  0.1414     0.5000  0.7000" in lines
    assert "2e-5       1 of 2     0.2500  -          0.2500  0.2500" in lines
    assert text.endswith("st-4 failed: crashed: a rank ended\n  bertjobs logs st-4")


def test_a_run_that_waits_has_not_failed() -> None:
    waiting = member(4, None, state="PENDING", is_active=True)
    assert not waiting.has_failed
    assert "PENDING" in study_text("st", [waiting])


def test_json_has_the_same() -> None:
    content = study_json("st", STUDY)
    assert content["measure"] == "dev_accuracy"
    assert [one["has_failed"] for one in content["members"]] == [False, False, False, True]
    assert content["spreads"][1]["deviation"] is None

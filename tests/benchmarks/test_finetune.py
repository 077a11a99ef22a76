"""What the comparison with the Trainer records and accepts, and that theirs reads the same rows as ours."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.benchmarks.test_data import BENCHMARKS, load


@pytest.fixture(scope="module")
def finetune() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield load("benchmark_finetune", BENCHMARKS / "finetune.py")


SCORES = {
    "measure": "accuracy",
    "training_examples": 100,
    "mean_tokens": 20.0,
    "bertjobs": {"mean": 0.83, "deviation": 0.01, "seeds": [0.82, 0.84]},
    "trainer": {"mean": 0.835, "deviation": 0.004, "seeds": [0.83, 0.84]},
}
RATES = {"bertjobs": 30.0, "trainer": 15.0, "times": 2.0, "rounds": {}}


def test_a_task_is_reached_by_both_its_parts(finetune: ModuleType) -> None:
    result = {"scores": SCORES, "rates": RATES}
    assert finetune.reached("movies", result)
    assert not finetune.reached("movies", {"scores": SCORES})
    assert not finetune.reached("movies", {"rates": RATES})


@pytest.mark.parametrize(
    ("part", "path", "value"),
    [
        ("rates", ["times"], 1.4),
        ("scores", ["bertjobs", "mean"], 0.81),  # two deviations from theirs, and below what movies should have
        ("scores", ["trainer", "mean"], 0.85),
    ],
)
def test_what_falls_short_is_not_reached(finetune: ModuleType, part: str, path: list[str], value: float) -> None:
    result: dict[str, Any] = copy.deepcopy({"scores": SCORES, "rates": RATES})
    place = result[part]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert not finetune.reached("movies", result)


def test_a_part_measured_later_joins_the_other(finetune: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    args = argparse.Namespace(output=tmp_path, threads=2, pad="longest")
    finetune.record("news", "rates", RATES, args)
    finetune.record("movies", "rates", RATES, args)
    finetune.record("movies", "scores", SCORES, args)
    tasks = json.loads((tmp_path / "finetune.json").read_text())["tasks"]
    assert list(tasks) == ["movies", "news"]
    assert tasks["movies"]["rates"]["times"] == 2.0
    assert tasks["movies"]["scores"]["measured"]["threads"] == 2
    table = finetune.table(tasks).splitlines()
    assert "0.830 +- 0.010" in table[1]
    assert "2.00" in table[1]
    assert table[2].split() == ["news", "-", "-", "-", "-", "-", "30.0", "15.0", "2.00"]


def test_a_spread_of_one_seed_is_zero(finetune: ModuleType) -> None:
    assert finetune.summary([0.5]) == {"mean": 0.5, "deviation": 0.0, "seeds": [0.5]}
    assert finetune.summary([0.4, 0.6])["deviation"] == pytest.approx(0.1414, abs=1e-4)

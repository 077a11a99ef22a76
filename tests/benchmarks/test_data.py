"""What the data benchmark claims, and the stand-in for LDDL's preprocessor."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str, path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return load("benchmark_data", BENCHMARKS / "data.py")


@pytest.fixture(scope="module")
def baseline() -> ModuleType:
    return load("benchmark_baseline", BENCHMARKS / "lddl/baseline.py")


def seconds(whole: float, steady: float) -> dict[str, Any]:
    names = ("steady_best", "whole_best", "steady_median", "whole_median", "steady_cpu_best")
    return {"seconds": {name: whole if name.startswith("whole") else steady for name in names}}


def prepared(**contenders: dict[str, Any]) -> dict[str, Any]:
    return {"settings": {"megabytes": 12.0}, "prepare": [{"case": "a case", "contenders": contenders}]}


def test_prepare_claims_the_smaller_of_the_steady_and_the_overall_ratio(data: ModuleType) -> None:
    result = prepared(ids=seconds(3.0, 1.0), lddl=seconds(1.0, 0.5), LDDL=seconds(24.0, 20.0))
    ids, lddl = data.prepare_claims(result, None)
    assert (ids["ratio"], ids["reached"], ids["ours"], ids["yardstick"]) == (8.0, False, 12.0, 0.6)
    assert (lddl["ratio"], lddl["reached"]) == (24.0, True)


def test_without_lddl_the_recorded_ratio_times_the_baseline_replaces_it(data: ModuleType) -> None:
    result = prepared(ids=seconds(1.0, 1.0), lddl=seconds(1.0, 1.0), baseline=seconds(8.0, 8.0))
    ids, _ = data.prepare_claims(result, {"a case": dict.fromkeys(data.RATIOS, 1.5)})
    assert ids["ratio"] == 12.0


def test_the_loader_claims_our_slower_mode_over_lddls_single_process(data: ModuleType) -> None:
    def runs(*rates: float) -> list[dict[str, float]]:
        return [{"sequences_a_second": rate, "sequences_a_cpu_second": rate} for rate in rates]

    readers = {
        "ids, step of 64": runs(100, 120),
        "ids, step of 1024": runs(200, 220),
        "lddl, step of 64": runs(60, 50),
        "lddl, step of 1024": runs(70, 70),
        data.IN_PROCESS: runs(4, 5),
        "LDDL, workers: 2": runs(8),
    }
    ids, lddl = data.loader_claims({"loader": [{"length": 128, "masking": "static", "readers": readers}]})
    assert (ids["ratio"], ids["reached"]) == (24.0, True)
    assert (lddl["ratio"], lddl["ratios"]["over_its_fastest"]) == (12.0, 7.5)


@pytest.mark.parametrize("megabytes", [0.0005, 0.005])
def test_a_source_is_cut_or_repeated_to_its_size(data: ModuleType, tmp_path: Path, megabytes: float) -> None:
    data.write_source([f"id{number} " + "words " * 20 for number in range(10)], megabytes, tmp_path / "source")
    text = (tmp_path / "source/0.txt").read_text()
    assert megabytes * 1e6 <= len(text) < megabytes * 1e6 + 200
    ids = [line.split()[0] for line in text.splitlines()]
    assert len(set(ids)) == len(ids)


def test_the_baseline_draws_pairs_as_bert_does(baseline: ModuleType) -> None:
    draw = random.Random(1)
    documents = [[[f"{d}.{s}.{t}" for t in range(draw.randint(1, 30))] for s in range(40)] for d in range(20)]
    drawn = [pair for place in range(20) for pair in baseline.pairs(documents, place, 64, draw)]
    assert all(a and b and len(a) + len(b) <= 61 for a, b, _ in drawn)
    for a, b, is_random in drawn:
        assert (a[0].split(".")[0] != b[0].split(".")[0]) == is_random
    assert 0.4 < sum(is_random for *_, is_random in drawn) / len(drawn) < 0.7  # one-sentence chunks are always random


def test_the_baseline_masks_as_bert_does(baseline: ModuleType) -> None:
    draw = random.Random(1)
    a, b = [f"a{n}" for n in range(60)], [f"b{n}" for n in range(65)]
    masks = kept = total = 0
    for _ in range(200):
        new_a, new_b, places, labels = baseline.mask(a, b, ["word"], draw)
        row, original = ["[CLS]", *new_a, "[SEP]", *new_b, "[SEP]"], ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
        assert len(places) == round(128 * 0.15)
        assert places == sorted(set(places))
        assert [original[place] for place in places] == labels
        assert all(row[place] == original[place] for place in set(range(128)) - set(places))
        masks += sum(row[place] == "[MASK]" for place in places)
        kept += sum(row[place] == original[place] for place in places)
        total += len(places)
    assert abs(masks / total - 0.8) < 0.03
    assert abs(kept / total - 0.1) < 0.03

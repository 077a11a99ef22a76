"""Expected time: from measurements of earlier runs, from published figures, from this machine's speed."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bertjobs.launch.plan.estimate import changes, earlier_runs, estimate_phase, measured_peaks
from bertjobs.launch.plan.packs import Packs
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.bench_file import BENCH_FILE, is_same_gpu
from bertjobs.run.directory import RunDirectory

CATALOGUE = load_catalogue([builtin_file()])


def resolved(recipe: str, *sets: str, **flags: object) -> RunSpec:
    return resolve(CATALOGUE, flags={"recipe": recipe, **flags}, environ={}, sets=sets).spec


def leave(
    results: Path, spec: RunSpec, rates: dict[int, list[object]], age_s: int = 0, memory_gb: float = 20.0
) -> None:
    """A run directory with these sequences/s in its metrics."""
    directory = RunDirectory(results / spec.run)
    directory.create()
    directory.write_lockfile(lockfile(spec))
    os.utime(directory.lockfile, (1e9 - age_s, 1e9 - age_s))
    for number, values in rates.items():
        directory.phase(number).create()
        lines = [{"step": step, "sequences_per_s": rate, "peak_memory_gb": memory_gb} for step, rate in
                 enumerate(values, 1)]  # fmt: skip
        directory.phase(number).metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_median_of_a_run_s_last_steps_is_scaled_by_ranks(tmp_path: Path) -> None:
    leave(tmp_path, resolved("h200", run="before", nodes=2), {1: [1.0] * 900 + [8000.0] * 900 + [9000.0] * 100})
    spec = resolved("h200", nodes=4)
    estimate = estimate_phase(spec, spec.phases[0], 30522, None, earlier_runs(tmp_path))
    assert estimate
    assert 15_500 < estimate.sequences_per_s < 16_000
    assert estimate.seconds == 7038 * 65536 / estimate.sequences_per_s
    assert estimate.gpu_hours == pytest.approx(32 * estimate.seconds / 3600)
    assert estimate.source == (
        "8,000 sequences/s measured in run before, scaled from 16 ranks to 32 by the model of a step's time "
        "(docs/scaling.md)"
    )
    assert estimate_phase(spec, spec.phases[1], 30522, None, earlier_runs(tmp_path)) is None


@pytest.mark.parametrize(
    "other",
    [
        resolved("h200", precision="tf32", run="other"),
        resolved("h200", model="bert-base", run="other"),
        resolved("h200", "activation_checkpointing=true", run="other"),
        resolved("h200", "phase1.sequence_length=256", run="other"),
        resolved("dgxh100-80g", run="other"),
        resolved("h200", phase=2, run="other"),
    ],
    ids=["precision", "model", "checkpointing", "length", "system", "phase"],
)
def test_a_run_that_did_other_work_is_ignored(tmp_path: Path, other: RunSpec) -> None:
    leave(tmp_path, other, {1: [100.0], 2: [100.0]})
    spec = resolved("h200")
    runs = earlier_runs(tmp_path)
    assert len(runs) == 1
    assert estimate_phase(spec, spec.phases[0], 30522, None, runs) is None


def test_packs_that_cannot_be_divided_over_more_ranks_are_counted(tmp_path: Path) -> None:
    leave(tmp_path, resolved("h200", run="before", nodes=2), {1: [8000.0]})
    spec, runs = resolved("h200", nodes=4), earlier_runs(tmp_path)
    even, uneven = (
        estimate_phase(spec, spec.phases[0], 30522, None, runs, packs=Packs(count, True, 50_000, 0.9))
        for count in (64, 48)
    )
    assert even
    assert uneven
    # 48 packs fill 16 ranks three times, and 32 ranks one and a half times, for which they need two.
    assert uneven.sequences_per_s == pytest.approx(0.75 * even.sequences_per_s, rel=0.01)


def test_a_run_on_a_network_of_unknown_speed_is_scaled_by_ranks(tmp_path: Path) -> None:
    leave(tmp_path, resolved("laptop-scratch", run="before", nodes=2), {1: [100.0]})
    spec = resolved("laptop-scratch", nodes=4)
    estimate = estimate_phase(spec, spec.phases[0], 30522, None, earlier_runs(tmp_path))
    assert estimate
    assert estimate.sequences_per_s == 200
    assert estimate.source.endswith("scaled from 2 ranks to 4: no loss to communication counted")


def test_the_newest_run_counts(tmp_path: Path) -> None:
    spec = resolved("h200")
    leave(tmp_path, resolved("h200", run="old"), {1: [100.0]}, age_s=50)
    leave(tmp_path, resolved("h200", run="new"), {1: [200.0]})
    leave(tmp_path, resolved("h200", run="not-begun"), {}, age_s=-50)
    estimate = estimate_phase(spec, spec.phases[0], 30522, None, earlier_runs(tmp_path))
    assert estimate
    assert estimate.sequences_per_s == 200


def test_damaged_runs_are_skipped(tmp_path: Path) -> None:
    leave(tmp_path, resolved("h200", run="good"), {1: ["fast", None, float("nan"), 300.0, True]}, age_s=50)
    for name, text in (("cut", "recipes: {"), ("empty", ""), ("binary", "\x00"), ("list", "[1, 2]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.yml").write_text(text)
    (tmp_path / "folder" / "run.yml").mkdir(parents=True)
    leave(tmp_path, resolved("h200", run="odd"), {})
    (tmp_path / "odd" / "phase1").mkdir()
    (tmp_path / "odd" / "phase1" / "metrics.jsonl").write_text('[1]\n"x"\n{"step": 1}\n{"cut')
    (tmp_path / "odd" / "phase2").mkdir()
    (tmp_path / "odd" / "phase2" / "metrics.jsonl").write_bytes(b'\xff\xfe\n{"sequences_per_s": 5}\n{"cut')
    runs = {run.spec.run: run for run in earlier_runs(tmp_path)}
    assert set(runs) == {"good", "odd"}
    assert runs["good"].sequences_per_s == {1: 300.0}
    assert runs["odd"].sequences_per_s == {2: 5}
    assert earlier_runs(tmp_path / "nowhere") == []


def test_a_published_figure_counts_if_nothing_was_measured(tmp_path: Path) -> None:
    spec = resolved("dgxa100-80g", nodes=2)
    first, second = (estimate_phase(spec, phase, 30522, None) for phase in spec.phases)
    assert first
    assert second
    # NVIDIA's own two nodes reach 9,191 and 3,291.
    assert (first.sequences_per_s, second.sequences_per_s) == pytest.approx((9191, 3291), rel=0.03)
    assert "580 sequences/s that NVIDIA publishes for one A100-SXM4-80GB, times 16 ranks, less " in first.source
    for other in (resolved("dgxa100-80g", precision="bf16"), resolved("dgxa100-80g", model="bert-base")):
        assert estimate_phase(other, other.phases[0], 30522, None) is None
    leave(tmp_path, resolved("dgxa100-80g", run="before"), {1: [4000.0]})
    measured = estimate_phase(spec, spec.phases[0], 30522, None, earlier_runs(tmp_path))
    assert measured
    assert 7_700 < measured.sequences_per_s < 8_000


def test_on_cpus_the_machine_s_own_rate_counts_last(tmp_path: Path) -> None:
    spec = resolved("laptop")
    estimate = estimate_phase(spec, spec.phases[0], 30522, 1e11)
    assert estimate
    assert (estimate.gpus, estimate.gpu_hours) == (0, 0)
    assert "GFLOP/s measured here" in estimate.source
    assert estimate_phase(spec, spec.phases[0], 30522, None) is None
    leave(tmp_path, resolved("laptop", run="before"), {1: [12.0]})
    measured = estimate_phase(spec, spec.phases[0], 30522, 1e11, earlier_runs(tmp_path))
    assert measured
    assert measured.source == "12 sequences/s measured in run before"


def test_measured_memory_is_that_of_the_same_micro_batch(tmp_path: Path) -> None:
    leave(tmp_path, resolved("h200", "phase2.micro_batch=16", run="before"), {1: [9.0], 2: [9.0]}, memory_gb=77.5)
    peaks = measured_peaks(resolved("h200"), earlier_runs(tmp_path))
    assert list(peaks) == [1]
    assert (peaks[1].where, peaks[1].tensors_gb) == ("run before", 77.5)


def test_what_differs_from_the_last_run_of_the_recipe_is_named_with_both_values(tmp_path: Path) -> None:
    leave(tmp_path, resolved("h200", "phase1.lr=0.004", run="last"), {})
    leave(tmp_path, resolved("dgxh100-80g", run="another-recipe"), {}, age_s=-50)
    runs = earlier_runs(tmp_path)
    assert changes(resolved("h200", "seed=7", nodes=8), runs) == ("last", ["seed 42 -> 7", "phase1.lr 0.004 -> 0.006"])
    assert changes(resolved("h200", "phase1.lr=0.004", run="again"), runs) == ("last", [])
    assert changes(resolved("laptop"), runs) is None


H200 = {"kind": "cuda", "name": "NVIDIA H200", "memory_gb": 150.1, "threads": 0}


def bench_line(spec: RunSpec, number: int = 1, **other: Any) -> dict[str, Any]:
    """A line as `bertjobs bench` writes it, from a rank that trains on 2,500 sequences/s."""
    phase = spec.phase(number)
    return {
        "device": H200,
        "model": {name: value for name, value in asdict(spec.model).items() if name not in ("name", "vocab_size")},
        "precision": spec.precision,
        "activation_checkpointing": spec.activation_checkpointing,
        "unpadded": spec.is_unpadded,
        "sequence_length": phase.sequence_length,
        "max_predictions": phase.max_predictions,
        "micro_batch": phase.micro_batch,
        "sequences_per_s": 2500.0,
        "peak_memory_gb": 66.0,
        **other,
    }


def leave_bench(results: Path, *lines: object) -> None:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (results / BENCH_FILE).write_text(text)


def test_a_benchmark_counts_if_no_run_has_measured(tmp_path: Path) -> None:
    spec = resolved("h200", nodes=2)
    leave_bench(tmp_path, bench_line(spec))
    estimate = estimate_phase(spec, spec.phases[0], 30522, None, earlier_runs(tmp_path))
    assert estimate
    assert 0.94 * 16 * 2500 < estimate.sequences_per_s < 0.97 * 16 * 2500
    assert re.fullmatch(
        r"bertjobs bench, this recipe's model on NVIDIA H200: 2,500 sequences/s, times 16 ranks, "
        r"less [3-6]\.\d% lost between them \(docs/scaling\.md\)",
        estimate.source,
    )
    alone = resolved("h200", nodes=1, gpus=1)
    single = estimate_phase(alone, alone.phases[0], 30522, None, earlier_runs(tmp_path))
    assert single
    assert single.sequences_per_s == 2500
    assert estimate_phase(spec, spec.phases[1], 30522, None, earlier_runs(tmp_path)) is None
    leave(tmp_path, resolved("h200", run="before", nodes=2), {1: [8000.0]})
    trained = estimate_phase(spec, spec.phases[0], 30522, None, earlier_runs(tmp_path))
    assert trained
    assert trained.sequences_per_s == 8000
    assert changes(resolved("dgxh100-80g"), earlier_runs(tmp_path)) is None


def test_the_benchmark_with_the_nearest_micro_batch_counts_then_the_newest(tmp_path: Path) -> None:
    spec = resolved("h200")
    phase = spec.phases[0]
    own = phase.micro_batch
    sizes = ((own // 4, 1000.0), (own // 2, 2000.0), (4 * own, 4000.0), (own // 2, 2200.0))
    lines = [bench_line(spec, micro_batch=size, sequences_per_s=rate) for size, rate in sizes]
    leave_bench(tmp_path, *lines)
    estimate = estimate_phase(spec, phase, 30522, None, earlier_runs(tmp_path))
    assert estimate
    assert 0.95 * 8 * 2200 < estimate.sequences_per_s < 8 * 2200
    assert f"with a micro-batch of {own // 2}" in estimate.source
    assert measured_peaks(spec, earlier_runs(tmp_path)) == {}
    leave_bench(tmp_path, *lines, bench_line(spec))
    peak = measured_peaks(spec, earlier_runs(tmp_path))[1]
    assert (peak.micro_batch, peak.tensors_gb) == (own, 66.0)


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "tf32"},
        {"unpadded": not resolved("h200").is_unpadded},
        {"sequence_length": 256},
        {"device": {**H200, "name": "NVIDIA H100 80GB HBM3", "memory_gb": 85.0}},
        {"device": {**H200, "kind": "cpu", "name": "AMD EPYC"}},
        {"sequences_per_s": 0.0},
        {"micro_batch": "many"},
        {"model": {"hidden_size": 1024}},
        {"device": None},
    ],
    ids=str,
)
def test_a_benchmark_of_other_work_or_a_nonsensical_one_is_ignored(tmp_path: Path, other: dict[str, Any]) -> None:
    spec = resolved("h200")
    leave_bench(tmp_path, bench_line(spec, **other), "[1]", "{", '"x"')
    runs = earlier_runs(tmp_path)
    assert estimate_phase(spec, spec.phases[0], 30522, None, runs) is None
    assert measured_peaks(spec, runs) == {}


def test_a_cpu_recipe_uses_only_a_benchmark_of_a_cpu(tmp_path: Path) -> None:
    spec = resolved("laptop")
    leave_bench(tmp_path, bench_line(spec))
    assert estimate_phase(spec, spec.phases[0], 30522, None, earlier_runs(tmp_path)) is None
    leave_bench(tmp_path, bench_line(spec, device={**H200, "kind": "cpu", "name": "AMD EPYC"}, sequences_per_s=12.5))
    estimate = estimate_phase(spec, spec.phases[0], 30522, 1e11, earlier_runs(tmp_path))
    assert estimate
    assert estimate.sequences_per_s == 12.5 * spec.world_size
    assert "AMD EPYC" in estimate.source


@pytest.mark.parametrize(
    ("name", "memory_gb", "recipe"),
    [
        ("NVIDIA H200", 150.1, "h200"),
        ("NVIDIA H100 80GB HBM3", 85.0, "dgxh100-80g"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "dgxa100-80g"),
        ("NVIDIA A100-SXM4-40GB", 42.4, "dgxa100-40g"),
        ("Tesla V100-SXM2-16GB", 16.9, "dgx1-16g"),
    ],
)
def test_a_gpu_is_recognised_by_its_driver_s_name_and_memory(name: str, memory_gb: float, recipe: str) -> None:
    same = [other for other in ("h200", "dgxh100-80g", "dgxa100-80g", "dgxa100-40g", "dgx1-16g", "dgx1-32g")
            if is_same_gpu(name, memory_gb, resolved(other).system)]  # fmt: skip
    assert same == [recipe]


def test_another_form_of_a_gpu_is_another_gpu() -> None:
    system = resolved("dgxh100-80g").system
    assert not is_same_gpu("NVIDIA H100 PCIe", 85.0, system)
    assert not is_same_gpu("NVIDIA H100 NVL", 85.0, system)

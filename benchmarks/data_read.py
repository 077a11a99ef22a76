"""Speed of reading shards, ours and with LDDL 0.1.0's loader, and of seeking. See data.py."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prepare import PHASES, Case, Setting, ours, timed

BATCH = 64
STEPS = (BATCH, 16 * BATCH)
"""Sequences per optimizer step of our loader."""
LDDL_WORKERS = (0, 1, 2)
"""Worker processes of LDDL's loader, one set per bin; with two it keeps both cores busy, ours never does."""
IN_PROCESS = "LDDL, in this process"
DUPLICATES = 5
SEED = 42
SEEKS = 300
OPENINGS = 15


def measure_loader(setting: Setting, repeats: int) -> list[dict[str, Any]]:
    """One entry per length and masking, with the sequences per second of every way to read; they take turns."""
    import torch

    torch.set_num_threads(1)
    entries = []
    with_lddl = importlib.util.find_spec("lddl") is not None
    if not with_lddl:
        print("LDDL's loader is not installed (pip install --no-deps lddl==0.1.0)", file=sys.stderr)
    for length, masking in itertools.product(PHASES, ("dynamic", "static")):
        case = Case(2, length, DUPLICATES, masking)
        folders = {name: prepared(setting, case, name) for name in ("ids", "lddl")}
        rates: dict[str, list[dict[str, float]]] = {}
        for _ in range(repeats):
            for name, step in itertools.product(folders, STEPS):
                rates.setdefault(f"{name}, step of {step}", []).append(read_ours(folders[name], length, step))
            for workers in LDDL_WORKERS if with_lddl else ():
                way = f"LDDL, workers: {workers}" if workers else IN_PROCESS
                rates.setdefault(way, []).append(read_lddl(setting, folders["lddl"], length, workers))
        for folder in folders.values():
            shutil.rmtree(folder)
        entries.append({"length": length, "masking": masking, "readers": rates})
        best = {way: max(run["sequences_a_second"] for run in runs) for way, runs in rates.items()}
        shown = "; ".join(f"{way} {rate:,.0f}/s" for way, rate in best.items())
        print(f"loader, {length}, {masking}: {shown}", file=sys.stderr, flush=True)
    return entries


def prepared(setting: Setting, case: Case, shard_format: str) -> Path:
    """A folder of shards of the corpus, made by bertjobs."""
    folder = setting.scratch / f"{shard_format}-{case.length}-{case.masking}"
    timed(ours(shard_format)(setting, case, setting.source, folder), setting)
    return folder


def read_ours(folder: Path, length: int, step: int) -> dict[str, float]:
    """An epoch of whole optimizer steps, from the folder's name on."""
    from bertjobs.data.batches.batches import BatchStream, Masking
    from bertjobs.data.shards.manifest import DataManifest
    from bertjobs.data.shards.shard_set import ShardSet

    def batches() -> Iterator[Any]:
        manifest = DataManifest.read(folder)
        phase = manifest.phase(PHASES[length])
        shards = ShardSet.load(manifest, phase.phase, "train")
        masking = Masking(manifest.masking, SEED, phase.max_predictions)
        with BatchStream(shards, masking, global_batch=step, micro_batch=BATCH) as stream:
            for own in itertools.islice(stream, shards.rows // step):
                yield from (batch.input_ids for batch in own)

    return _rate(batches())


def read_lddl(setting: Setting, folder: Path, length: int, workers: int) -> dict[str, float]:
    """An epoch of LDDL's loader on our `lddl` shards; making the loader is not timed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = lddl_loader(folder / f"phase{PHASES[length]}/train", setting.vocab, workers)
        return _rate(batch["input_ids"] for batch in loader)


def lddl_loader(shards: Path, vocab: Path, workers: int) -> Any:
    """LDDL's loader with worker processes, or, with none, its datasets and collate function in this process.

    LDDL cannot be asked for no workers: it always sets ``persistent_workers``.
    """
    from lddl.torch import get_bert_pretrain_data_loader

    loader = get_bert_pretrain_data_loader(
        str(shards),
        vocab_file=str(vocab),
        data_loader_kwargs={"batch_size": BATCH, "num_workers": max(workers, 1)},
        log_level=logging.CRITICAL,
    )
    if not workers:
        loader._dataloaders = [
            type(part)(part.dataset, batch_size=BATCH, collate_fn=part.collate_fn) for part in loader._dataloaders
        ]
    return loader


def _rate(input_ids: Iterator[Any]) -> dict[str, float]:
    began, cpu_began, rows, places = time.perf_counter(), time.process_time(), 0, 0
    for tensor in input_ids:
        rows += tensor.shape[0]
        places += tensor.numel()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return {
        "sequences": rows,
        "seconds": round(seconds, 4),
        "sequences_a_second": round(rows / seconds, 1),
        "sequences_a_cpu_second": round(rows / cpu_seconds, 1),
        "mean_padded_length": round(places / rows, 1),
    }


def measure_seek(setting: Setting, _repeats: int) -> list[dict[str, Any]]:
    """Median milliseconds to the first batch, at the start and in the middle of an epoch.

    With shards that are open, and from the folder's name on. Each time has its own seed: nothing that was
    computed for another place is reused, and no place holds the longer sequences by chance.
    """
    from bertjobs.data.batches.batches import BatchStream, Masking
    from bertjobs.data.shards.manifest import DataManifest
    from bertjobs.data.shards.shard_set import ShardSet

    def first_batch(shards: ShardSet, seed: int, steps: int) -> float:
        masking = Masking("dynamic", seed, 20)
        start = BatchStream(shards, masking, global_batch=BATCH, micro_batch=BATCH).state(steps)
        began = time.perf_counter()
        next(BatchStream(shards, masking, global_batch=BATCH, micro_batch=BATCH, start=start))
        return time.perf_counter() - began

    entries, seeds = [], itertools.count()
    for length in PHASES:
        folder = prepared(setting, Case(2, length, DUPLICATES, "dynamic"), "ids")

        def load(number: int = PHASES[length], folder: Path = folder) -> ShardSet:
            return ShardSet.load(DataManifest.read(folder), number, "train")

        shards = load()
        middle = shards.rows // BATCH // 2
        seconds: dict[tuple[str, int], list[float]] = {}
        for _, place in itertools.product(range(SEEKS), (0, middle)):
            seconds.setdefault(("open", place), []).append(first_batch(shards, next(seeds), place))
        for _, place in itertools.product(range(OPENINGS), (0, middle)):
            began = time.perf_counter()
            opened = load()
            opening = time.perf_counter() - began
            seconds.setdefault(("closed", place), []).append(opening + first_batch(opened, next(seeds), place))
        del shards, opened
        shutil.rmtree(folder)
        entry: dict[str, Any] = {"length": length, "middle_step": middle}
        for name in ("open", "closed"):
            start, there = (statistics.median(seconds[name, place]) for place in (0, middle))
            entry[name] = {"start_ms": round(start * 1e3, 4), "middle_ms": round(there * 1e3, 4)}
            entry[name]["middle_over_start"] = round(there / start, 4)
        entries.append(entry)
        print(f"seek, {length}: {entry}", file=sys.stderr, flush=True)
    return entries

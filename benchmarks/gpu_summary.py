"""What scripts/gpu_check.sh measured: summary.json, and a table beside the targets and the prediction.

    python benchmarks/gpu_summary.py [--table] FOLDER

Reads FOLDER/results.jsonl, to which every part appends, so that what a part has measured counts even if it was ended;
of lines about the same thing the last counts. Writes FOLDER/summary.json, with ``--table`` also the planned memory: for
that it imports this repository, and else nothing but Python's own library.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PREDICTION = ROOT / "benchmarks/results/costs.json"
RECIPE = "h200"
MICRO_BATCHES = {1: 512, 2: 64}
"""The recipe's own."""

SHARE, OPTIMIZER, MEMORY = 0.60, 0.01, 0.10
RATES, TIMES = {1: 2400.0, 2: 950.0}, {1: 1.6, 2: 2.5}
"""Targets by phase: sequences/s, and times as fast as the best of Hugging Face's."""

TOKENS = {1: 65536, 2: 32768}
LONGEST = {1: 128, 2: 512}
THEIRS = "Hugging Face"

Line = dict[str, Any]


def main() -> None:
    """Write the summary, and print the table if asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the table as well")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    lines = read(args.folder / "results.jsonl")
    prediction = json.loads(PREDICTION.read_text(encoding="utf-8")) if PREDICTION.exists() else {}
    summary = summarise(lines, planned_gb() if args.table else {})
    (args.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    if args.table:
        print("\n".join(table(summary, prediction)))


def read(file: Path) -> list[Line]:
    """The lines that are whole."""
    values = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            value = json.loads(text)
        except ValueError:  # cut short
            continue
        if isinstance(value, dict):
            values.append(value)
    return values


def of(lines: Iterable[Line], what: str, **fields: Any) -> list[Line]:
    """Lines of a kind that have these fields."""
    return [line for line in lines if line.get("what") == what and all(line.get(k) == v for k, v in fields.items())]


def last(lines: Iterable[Line], what: str, **fields: Any) -> Line | None:
    return next(reversed(of(lines, what, **fields)), None)


def sweep_of(lines: Sequence[Line], phase: int, settings: Sequence[str] = ()) -> Line | None:
    """The recipe's own micro-batch with these settings."""
    micro_batch = MICRO_BATCHES[phase]
    return last(lines, "sweep", recipe=RECIPE, phase=phase, micro_batch=micro_batch, settings=list(settings))


def summarise(lines: Sequence[Line], planned: dict[int, float]) -> dict[str, Any]:
    """Date, device, versions, parts and key numbers.

    Args:
        planned: GB of tensors by phase, as `bertjobs plan` expects them.
    """
    machine = {key: value for key, value in (last(lines, "machine") or {}).items() if key != "what"}
    names = dict.fromkeys(line["name"] for line in of(lines, "part"))
    parts = [last(lines, "part", name=name) or {} for name in names]
    return {
        **machine,
        "parts": [{key: value for key, value in part.items() if key != "what"} for part in parts],
        "failed": [part["name"] for part in parts if part["exit_code"] not in (0, None)],
        "skipped": [part["name"] for part in parts if part["exit_code"] is None],
        "copy_tb_per_s": (last(lines, "copy") or {}).get("tb_per_s"),
        "square_product_tflops": (last(lines, "square product") or {}).get("tflops"),
        "lamb_ms": {line["lamb"]: statistics.median(line["ms"]) for line in of(lines, "lamb")},
        "phases": {str(phase): key_numbers(lines, phase, planned.get(phase)) for phase in MICRO_BATCHES},
    }


def key_numbers(lines: Sequence[Line], phase: int, planned: float | None) -> dict[str, Any]:
    """One phase's; what was not measured is None."""
    own = sweep_of(lines, phase) or {}
    theirs = [line for line in of(lines, "comparison", phase=phase) if line["name"].startswith(THEIRS)]
    ran = [line for line in theirs if line.get("ours_is_times_as_fast")]
    best = min(ran, key=lambda line: line["ours_is_times_as_fast"], default={})
    ways = {line["attention"]: line["forward_ms"] + line["backward_ms"]
            for line in of(lines, "attention", tokens=TOKENS[phase], longest=LONGEST[phase])
            if "forward_ms" in line}  # fmt: skip
    peak = own.get("peak_memory_gb")
    return {
        "micro_batch": own.get("micro_batch"),
        "sequences_per_s": own.get("sequences_per_s"),
        "share_of_product_rate": own.get("peak_share"),
        "optimizer_share": own.get("optimizer_share"),
        "forward": own.get("forward"),
        "peak_memory_gb": peak,
        "planned_memory_gb": planned,
        "memory_off_by": peak / planned - 1 if peak and planned else None,
        "times_as_fast_as_hugging_face": best.get("ours_is_times_as_fast"),
        "best_of_hugging_face": best.get("name"),
        "products_of_a_layer_ms": (last(lines, "products of a layer", tokens=TOKENS[phase]) or {}).get("ms"),
        "attention_ms": ways,
        "shares": (last(lines, "profile", phase=phase, settings=[]) or {}).get("shares"),
        "with_settings": with_settings(lines, phase),
    }


def with_settings(lines: Sequence[Line], phase: int) -> dict[str, Any]:
    """Sequences/s and times the recipe's own, by what was set otherwise."""
    own = (sweep_of(lines, phase) or {}).get("sequences_per_s")
    rates = {}
    for line in of(lines, "sweep", recipe=RECIPE, phase=phase):
        micro_batch, settings = line["micro_batch"], line.get("settings") or []
        words = [*settings, *([f"micro-batch {micro_batch}"] if micro_batch != MICRO_BATCHES[phase] else [])]
        if words:
            rate = line["sequences_per_s"]
            rates[", ".join(words)] = {"sequences_per_s": rate, "times_own": rate / own if own else None}
    return rates


def planned_gb() -> dict[int, float]:
    """GB of tensors that `bertjobs plan` expects, by phase; {} if this repository cannot be imported."""
    sys.path.insert(0, str(ROOT))
    try:
        from bertjobs.launch.plan.memory import FIXED_GB, memory_need
        from bertjobs.recipe.catalogue import builtin_file, load_catalogue
        from bertjobs.recipe.resolve import resolve

        flags = {"recipe": RECIPE, "gpus": 1, "data": "/no/such/folder"}
        spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}, sets=()).spec
        size = spec.model.vocab_size or 30522
        return {
            phase.phase: memory_need(spec, phase, size, MICRO_BATCHES[phase.phase]).total - FIXED_GB
            for phase in spec.phases
        }
    except Exception as error:  # a summary without it is better than none
        print(f"the planned memory is not known: {error!r}", file=sys.stderr)
        return {}


def table(summary: dict[str, Any], prediction: dict[str, Any]) -> list[str]:
    """For a person: each number beside its target and what was predicted."""
    versions = ", ".join(f"{name} {version}" for name, version in (summary.get("versions") or {}).items())
    rows: list[tuple[str, ...]] = [("", "at least", "predicted", "measured", "")]
    copy, square = summary["copy_tb_per_s"], summary["square_product_tflops"]
    rates = prediction.get("rates", {})
    rows.append(("copies, TB/s", "", text(rates.get("copy_tb_per_s")), text(copy), ""))
    rows.append(("8192^3, TFLOP/s", "", text(rates.get("square_product_tflops")), text(square), ""))
    rows += [(f"LAMB of BERT-base, ms, {name}", "", "", text(ms), "") for name, ms in summary["lamb_ms"].items()]
    for number, phase in MICRO_BATCHES.items():
        rows += phase_rows(
            number, phase, summary["phases"][str(number)], prediction.get("phases", {}).get(str(number), {})
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    out = ["", f"{summary.get('device', 'no device')}, {summary.get('date', '')}: {versions}"]
    out += ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                       zip(row[1:4], widths[1:4], strict=True)), row[4]]).rstrip() for row in rows]  # fmt: skip
    for number, numbers in summary["phases"].items():
        for words, one in numbers["with_settings"].items():
            rate, times = text(one["sequences_per_s"]), text(one["times_own"])
            out.append(f"phase {number}: {words}: {rate} sequences/s, {times} times the recipe's own")
    for part in summary["parts"]:
        if part["exit_code"] not in (0, None):
            out.append(f"FAILED {part['name']}: exit code {part['exit_code']} after {part['seconds']} s")
    return [*out, *(f"SKIPPED {name}: no time was left" for name in summary["skipped"])]


def phase_rows(
    number: int, micro_batch: int, numbers: dict[str, Any], predicted: dict[str, Any]
) -> list[tuple[str, ...]]:
    """One phase's rows: what, at least, predicted, measured, verdict."""
    name = f"phase {number}"
    # Of packs as large as those that were measured; the recipe's own are smaller.
    times_larger = TOKENS[number] / predicted.get("tokens", TOKENS[number])
    layer = {kind: times_larger * ms for kind, ms in predicted.get("layer_ms", {}).items()}
    rate, share = numbers["sequences_per_s"], numbers["share_of_product_rate"]
    times = numbers["times_as_fast_as_hugging_face"]
    optimizer, off = numbers["optimizer_share"], numbers["memory_off_by"]
    rows: list[tuple[str, ...]] = [
        (f"{name}: sequences/s, micro-batch {micro_batch}", text(RATES[number]), text(predicted.get("sequences_per_s")),
         text(rate), verdict(rate, rate is not None and rate >= RATES[number])),
        (f"{name}: share of the product rate", f"{SHARE:.0%}", percent(predicted.get("share")), percent(share),
         verdict(share, share is not None and share >= SHARE)),
        (f"{name}: times {numbers['best_of_hugging_face'] or 'Hugging Face'}", f"{TIMES[number]}x", "",
         "" if times is None else f"{times:.2f}x", verdict(times, times is not None and times >= TIMES[number])),
        (f"{name}: optimizer's share of a step", f"under {OPTIMIZER:.0%}", percent(predicted.get("optimizer_share")),
         percent(optimizer), verdict(optimizer, optimizer is not None and optimizer < OPTIMIZER)),
        (f"{name}: memory of tensors, GB", f"+-{MEMORY:.0%}", text(numbers["planned_memory_gb"]),
         text(numbers["peak_memory_gb"]), verdict(off, off is not None and abs(off) <= MEMORY)),
        (f"{name}: products of a layer, ms", "", text(layer.get("matrix products")),
         text(numbers["products_of_a_layer_ms"]), ""),
    ]  # fmt: skip
    rows += [(f"{name}: attention of a layer, ms, {way}", "", text(layer.get("attention")), text(ms), "")
             for way, ms in numbers["attention_ms"].items()]  # fmt: skip
    shares = predicted.get("shares", {})
    rows += [(f"{name}: {kind}, share of a step", "", percent(shares.get(kind)), percent(measured), "")
             for kind, measured in (numbers["shares"] or {}).items()]  # fmt: skip
    return rows


def text(value: float | None) -> str:
    """Three digits at least; "" for nothing."""
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}" if value >= 0.001 else f"{value:.2%}"


def verdict(value: float | None, reached: bool) -> str:
    return "not measured" if value is None else "reached" if reached else "NOT REACHED"


if __name__ == "__main__":
    main()

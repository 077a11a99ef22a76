"""The results of a benchmark, as a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from bertjobs.bench.compare import OURS, THEIRS, Comparison, Result
from bertjobs.bench.profile import Profile
from bertjobs.bench.sweep import Measurement, Sweep
from bertjobs.recipe.spec import RunSpec

HEADS = (
    "micro-batch", "token budget", "peak GB", "sequences/s", "real tokens/s", "model TFLOP/s", "of peak",
    "packed to", "optimizer", "spread",
)  # fmt: skip


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, all but the first aligned to the right."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in
                  enumerate(zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]  # fmt: skip


def number(value: float) -> str:
    """Three digits at least: ``0.0123``, ``12.3``, ``1,234``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def head(sweep: Sweep) -> str:
    """What a phase's table is about, in lines."""
    return "\n".join(
        [
            f"phase {sweep.phase.phase}, {sweep.phase.sequence_length} tokens, one rank on {sweep.device.describe()}",
            f"  {sweep.source}",
            f"  {sweep.forward}; optimizer {sweep.optimizer}",
            f"  matrix products reach {sweep.product_flops_per_s / 1e12:.3g} TFLOP/s here: the peak",
        ]
    )


def sweep_text(spec: RunSpec, sweep: Sweep) -> str:
    """The whole of a phase: its head, one row per micro-batch, what ended it, and what is best."""
    best = sweep.best
    rows = [[*_cells(one), *(["<- best"] if one is best else [""])] for one in sweep.measurements]
    return "\n".join(
        [
            head(sweep),
            *("  " + line for line in table([*HEADS, ""], rows)),
            f"  no larger: {sweep.ended}",
            f"  {suggestion(spec, sweep)}",
        ]
    )


def _cells(measurement: Measurement) -> list[str]:
    return [
        f"{measurement.micro_batch:,}",
        f"{measurement.token_budget:,}",
        f"{measurement.peak_memory_gb:.2f}",
        number(measurement.sequences_per_s),
        number(measurement.tokens_per_s),
        number(measurement.flops_per_s / 1e12),
        f"{measurement.peak_share:.1%}",
        f"{measurement.efficiency:.1%}",
        f"{measurement.optimizer_share:.2%}",
        f"{measurement.spread:.1%}",
    ]


def suggestion(spec: RunSpec, sweep: Sweep) -> str:
    """How to give the recipe the best micro-batch."""
    best, phase = sweep.best, sweep.phase
    if best.micro_batch == phase.micro_batch:
        return f"the recipe's own micro-batch of {phase.micro_batch} is the best: nothing to set"
    own = next((one for one in sweep.measurements if one.micro_batch == phase.micro_batch), None)
    if own is None and not sweep.is_whole:
        return f"the recipe's own micro-batch of {phase.micro_batch} was not measured: add `recipe` to --micro-batches"
    faster = f", {best.sequences_per_s / own.sequences_per_s - 1:.1%} faster than {own.micro_batch}" if own else ""
    exact = phase.rank_batch % best.micro_batch == 0
    setting = f"GRADIENT_STEPS={best.gradient_steps} with PHASE={phase.phase}, or " if exact else ""
    return f"set {setting}--set phase{phase.phase}.micro_batch={best.micro_batch} (recipe {spec.recipe}){faster}"


def comparison_text(comparison: Comparison) -> str:
    """One row per variant, with how many times as fast the unpadded path is."""
    mean = comparison.tokens / comparison.sequences
    order = "ordered by length" if comparison.by_length else "in the stream's order"
    lines = [
        f"phase {comparison.phase}: {comparison.sequences} sequences, mean length {mean:.0f} of "
        f"{comparison.sequence_length} tokens; one rank on {comparison.device.describe()}",
        f"  {comparison.source}; padded micro-batches {order}",
        f"  {comparison.forward}",
        f"  matrix products reach {comparison.product_flops_per_s / 1e12:.3g} TFLOP/s here: the peak",
    ]
    heads = ("", "micro-batch", "padding", "sequences/s", "of peak", "spread", "ours is")
    lines += ["  " + line for line in table(heads, [_compared(comparison, result) for result in comparison.results])]
    lines += [f"  {result.name} did not run: {result.failed}" for result in comparison.results if result.failed]
    losses = [result.loss for result in comparison.results if not result.failed]
    lines.append(f"  without dropout all have a loss of {min(losses):.5f} to {max(losses):.5f} nats")
    best = comparison.best_of(THEIRS)
    if best is not None:
        lines.append(f"  {OURS}: {comparison.ratio(best):.2f} times as fast as {best}, the best of Hugging Face's")
    return "\n".join(lines)


def _compared(comparison: Comparison, result: Result) -> list[str]:
    if result.failed:
        return [result.name, "", "", "failed", "", "", ""]
    rates = result.sequences_per_s
    ratio = comparison.ratio(result.name)
    return [
        result.name,
        f"{result.micro_batch:,}",
        f"{1 - comparison.tokens / result.places:.1%}",
        number(result.rate),
        f"{comparison.flops_per_s(result.name) / comparison.product_flops_per_s:.1%}",
        f"{(max(rates) - min(rates)) / result.rate:.1%}",
        "" if result.name == OURS else f"{ratio:.2f}x",
    ]


def compared_text(comparison: Comparison, result: Result) -> str:
    """One variant's row as soon as it is measured."""
    name, micro_batch, padding, rate, share, _, ours_is = _compared(comparison, result)
    if result.failed:
        return f"phase {comparison.phase}: {name}: failed: {result.failed}"
    words = f"phase {comparison.phase}: {name}: {rate} sequences/s, {share} of peak, {padding} padding, {micro_batch}"
    return f"{words} sequences per micro-batch" + (f"; ours is {ours_is}" if ours_is else "")


def profile_text(profile: Profile) -> str:
    """The shares of a phase's step, and what took longest."""
    rows = [[kind, f"{share:.1%}"] for kind, share in profile.shares.items()]
    top = [[f"{share:.1%}", kind, name] for name, kind, share in profile.top]
    return "\n".join(
        [
            f"phase {profile.phase}: where a step's time goes; one rank on {profile.device.describe()}",
            f"  {profile.forward}; {profile.micro_batches} micro-batches, {profile.sequences} sequences profiled",
            *("  " + line for line in table(("", "share"), rows)),
            "  longest, of all operations or kernels:",
            *(f"    {share:>6}  {kind}: {name}" for share, kind, name in top),
        ]
    )


def progress(say: Callable[[str], None]) -> Callable[[Measurement], None]:
    """Shows each measurement in a line."""

    def show(one: Measurement) -> None:
        say(
            f"phase {one.phase}: micro-batch {one.micro_batch}: {number(one.sequences_per_s)} sequences/s, "
            f"{one.peak_memory_gb:.2f} GB"
        )

    return show


def sweep_json(sweep: Sweep) -> dict[str, Any]:
    """A sweep for programs; units in the names."""
    rows = [{**asdict(one), "optimizer_share": one.optimizer_share} for one in sweep.measurements]
    return {**asdict(sweep), "measurements": rows, "best_micro_batch": sweep.best.micro_batch}


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison for programs: ratios by variant, of ours to theirs."""
    rows = [compared_json(comparison, result) for result in comparison.results]
    best = comparison.best_of()
    ratio = None if best is None else comparison.ratio(best)
    return {**asdict(comparison), "results": rows, "best_of_hugging_face": best, "ours_is_times_as_fast": ratio}


def compared_json(comparison: Comparison, result: Result) -> dict[str, Any]:
    """One variant for programs: shares are of the matrix products' rate."""
    share = None if result.failed else comparison.flops_per_s(result.name) / comparison.product_flops_per_s
    loss = None if result.failed else result.loss
    return {**asdict(result), "loss": loss, "ours_is_times_as_fast": result.ratio, "peak_share": share}

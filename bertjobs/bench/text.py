"""What a benchmark found, as a person reads it."""

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
    """The whole of a phase: its head, a row a micro-batch, what ended it, and what is best."""
    best = sweep.best
    rows = [[*_cells(found), *(["<- best"] if found is best else [""])] for found in sweep.measurements]
    return "\n".join(
        [
            head(sweep),
            *("  " + line for line in table([*HEADS, ""], rows)),
            f"  no larger: {sweep.ended}",
            f"  {suggestion(spec, sweep)}",
        ]
    )


def _cells(found: Measurement) -> list[str]:
    return [
        f"{found.micro_batch:,}",
        f"{found.token_budget:,}",
        f"{found.peak_memory_gb:.2f}",
        number(found.sequences_per_s),
        number(found.tokens_per_s),
        number(found.flops_per_s / 1e12),
        f"{found.peak_share:.1%}",
        f"{found.efficiency:.1%}",
        f"{found.optimizer_share:.2%}",
        f"{found.spread:.1%}",
    ]


def suggestion(spec: RunSpec, sweep: Sweep) -> str:
    """How to give the recipe the best micro-batch."""
    best, phase = sweep.best, sweep.phase
    if best.micro_batch == phase.micro_batch:
        return f"the recipe's own micro-batch of {phase.micro_batch} is the best: nothing to set"
    own = next((found for found in sweep.measurements if found.micro_batch == phase.micro_batch), None)
    faster = f", {best.sequences_per_s / own.sequences_per_s - 1:.1%} faster than {own.micro_batch}" if own else ""
    exact = phase.rank_batch % best.micro_batch == 0
    setting = f"GRADIENT_STEPS={best.gradient_steps} with PHASE={phase.phase}, or " if exact else ""
    return f"set {setting}--set phase{phase.phase}.micro_batch={best.micro_batch} (recipe {spec.recipe}){faster}"


def comparison_text(found: Comparison) -> str:
    """A row a variant, with how many times as fast the unpadded path is."""
    mean = found.tokens / found.sequences
    order = "ordered by length" if found.by_length else "in the stream's order"
    lines = [
        f"phase {found.phase}: {found.sequences} sequences of {mean:.0f} tokens at the mean, "
        f"{found.sequence_length} at most; one rank on {found.device.describe()}",
        f"  {found.source}; padded micro-batches {order}",
        f"  {found.forward}",
        f"  matrix products reach {found.product_flops_per_s / 1e12:.3g} TFLOP/s here: the peak",
    ]
    heads = ("", "micro-batch", "padding", "sequences/s", "of peak", "spread", "ours is")
    lines += ["  " + line for line in table(heads, [_compared(found, result) for result in found.results])]
    lines += [f"  {result.name} did not run: {result.failed}" for result in found.results if result.failed]
    losses = [result.loss for result in found.results if not result.failed]
    lines.append(f"  without dropout all have a loss of {min(losses):.5f} to {max(losses):.5f} nats")
    best = found.best_of(THEIRS)
    if best is not None:
        lines.append(f"  {OURS}: {found.ratio(best):.2f} times as fast as {best}, the best of Hugging Face's")
    return "\n".join(lines)


def _compared(found: Comparison, result: Result) -> list[str]:
    if result.failed:
        return [result.name, "", "", "failed", "", "", ""]
    rates = result.sequences_per_s
    ratio = found.ratio(result.name)
    return [
        result.name,
        f"{result.micro_batch:,}",
        f"{1 - found.tokens / result.places:.1%}",
        number(result.rate),
        f"{found.flops_per_s(result.name) / found.product_flops_per_s:.1%}",
        f"{(max(rates) - min(rates)) / result.rate:.1%}",
        "" if result.name == OURS else f"{ratio:.2f}x",
    ]


def profile_text(found: Profile) -> str:
    """The shares of a phase's step, and what took longest."""
    rows = [[kind, f"{share:.1%}"] for kind, share in found.shares.items()]
    top = [[f"{share:.1%}", kind, name] for name, kind, share in found.top]
    return "\n".join(
        [
            f"phase {found.phase}: where a step's time goes; one rank on {found.device.describe()}",
            f"  {found.forward}; {found.micro_batches} micro-batches, {found.sequences} sequences profiled",
            *("  " + line for line in table(("", "share"), rows)),
            "  longest, of all operations or kernels:",
            *(f"    {share:>6}  {kind}: {name}" for share, kind, name in top),
        ]
    )


def progress(say: Callable[[str], None]) -> Callable[[Measurement], None]:
    """Tells of each measurement in a line."""

    def told(found: Measurement) -> None:
        say(
            f"phase {found.phase}: micro-batch {found.micro_batch}: {number(found.sequences_per_s)} sequences/s, "
            f"{found.peak_memory_gb:.2f} GB"
        )

    return told


def sweep_json(sweep: Sweep) -> dict[str, Any]:
    """A sweep for programs; units in the names."""
    rows = [{**asdict(found), "optimizer_share": found.optimizer_share} for found in sweep.measurements]
    return {**asdict(sweep), "measurements": rows, "best_micro_batch": sweep.best.micro_batch}


def comparison_json(found: Comparison) -> dict[str, Any]:
    """A comparison for programs: ratios by variant, of ours to theirs."""
    rows = [
        {
            **asdict(result),
            "loss": None if result.failed else result.loss,
            "ours_is_times_as_fast": found.ratio(result.name),
            "peak_share": None if result.failed else found.flops_per_s(result.name) / found.product_flops_per_s,
        }
        for result in found.results
    ]
    best = found.best_of()
    ratio = None if best is None else found.ratio(best)
    return {**asdict(found), "results": rows, "best_of_hugging_face": best, "ours_is_times_as_fast": ratio}

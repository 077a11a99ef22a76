"""Tables of scaling as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bertjobs.report.scaling import WARM_UP_STEPS, Scaling, ScalingRow
from bertjobs.wording import harmless, right_aligned


def scaling_text(tables: Sequence[Scaling]) -> str:
    """The tables, for a terminal of 110 columns."""
    return harmless("\n\n".join("\n".join(_lines(table)) for table in tables))


def _lines(table: Scaling) -> list[str]:
    spec, phase = table.spec, table.phase
    kept = "batch per rank" if table.is_weak else "global batch"
    lines = [
        f"recipe {spec.recipe}, phase {phase.phase}: {spec.model.name}, {phase.sequence_length} tokens, "
        f"{spec.precision}; the {kept} is kept"
    ]
    lines += right_aligned([_head(table), *(_cells(table, row) for row in table.rows)])
    lines.append(f"time per step: median without the first {WARM_UP_STEPS} steps of each attempt; expansion: speed-up "
                 "per node, efficiency: per rank")  # fmt: skip
    if predicted := [row for row in table.rows if row.parts]:
        names = ("compute", "uneven packs", "slowest rank", "exchange", "optimizer", "data")
        head = ["a predicted step, ms", *names]
        cells = [[f"{row.world.ranks:,}", *(f"{1e3 * part:,.1f}" for part in vars(row.parts).values())]
                 for row in predicted]  # fmt: skip
        lines += ["", *right_aligned([head, *cells])]
    return lines + [f"note: {note}" for note in table.notes]


def _head(table: Scaling) -> list[str]:
    unit = "GPUS" if table.spec.gpus else "RANKS"
    return ["RUN", "NODES", unit, "GLOBAL BATCH", "TIME PER STEP", "SEQUENCES/S", "SPEED-UP", "EXPANSION", "EFFICIENCY"]


def _cells(table: Scaling, row: ScalingRow) -> list[str]:
    return [
        row.run or "predicted",
        f"{row.world.nodes:,}",
        f"{row.world.ranks:,}",
        f"{row.global_batch:,}",
        f"{row.step_s:.4g} s",
        f"{row.sequences_per_s:,.0f}" if row.sequences_per_s >= 100 else f"{row.sequences_per_s:.3g}",
        f"{table.speed_up(row):,.2f}",
        f"{table.expansion(row):.2f}",
        f"{table.efficiency(row):.2f}",
    ]


def scaling_json(tables: Sequence[Scaling]) -> dict[str, Any]:
    """The tables for programs; times in seconds."""
    spec = tables[0].spec
    return {
        "recipe": spec.recipe,
        "model": spec.model.name,
        "precision": spec.precision,
        "phases": [_phase_json(table) for table in tables],
    }


def _phase_json(table: Scaling) -> Mapping[str, Any]:
    machine = table.fit.machine
    return {
        "phase": table.phase.phase,
        "sequence_length": table.phase.sequence_length,
        "kept": "rank_batch" if table.is_weak else "global_batch",
        "rank_sequences_per_s": machine.rate,
        "exchange_factor": machine.exchange_factor,
        "exchange_measured": table.fit.is_exchange_measured,
        "rows": [
            {
                "run": row.run or None,
                "predicted": not row.run,
                "nodes": row.world.nodes,
                "ranks": row.world.ranks,
                "global_batch": row.global_batch,
                "steps_counted": row.steps or None,
                "step_time_s": row.step_s,
                "sequences_per_s": row.sequences_per_s,
                "speed_up": table.speed_up(row),
                "expansion": table.expansion(row),
                "efficiency": table.efficiency(row),
                "parts": asdict(row.parts) if row.parts else None,
            }
            for row in table.rows
        ],
        "notes": list(table.notes),
    }

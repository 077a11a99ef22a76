"""The scaling of a recipe as a figure: speed-up and efficiency against the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from bertjobs.report.curves import HELD_OUT, QUIET, SENTENCES, STYLE, WORDS, drawn
from bertjobs.report.scaling import Scaling, ScalingRow

COLOURS = (WORDS, HELD_OUT, SENTENCES, QUIET)


def draw_scaling(tables: Sequence[Scaling], format: Literal["svg", "png"] = "png") -> bytes:
    """A colour per phase: full dots are measured, hollow ones predicted; the dashed line is as many times the speed as
    ranks."""
    spec = tables[0].spec
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.5), layout="constrained", facecolor="white")
        speed, efficiency = figure.subplots(1, 2)
        unit = "GPUs" if spec.gpus else "ranks"
        speed.set_title(f"Speed-up over {tables[0].reference.world.ranks:,} {unit}: recipe {spec.recipe}")
        efficiency.set_title(f"Efficiency: speed-up per {'GPU' if spec.gpus else 'rank'}")
        for number, table in enumerate(tables):
            colour = COLOURS[number % len(COLOURS)]
            _draw(speed, table, [table.speed_up(row) for row in table.rows], colour)
            _draw(efficiency, table, [table.efficiency(row) for row in table.rows], colour)
        _draw_ideal(speed, tables)
        efficiency.axhline(1, color=QUIET, linewidth=1.1, linestyle=(0, (5, 3)))
        efficiency.set_ylim(0, 1.08 * max(1.0, *(table.efficiency(row) for table in tables for row in table.rows)))
        efficiency.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        for axes in (speed, efficiency):
            _finish(axes, tables, unit)
        _plain(speed, "y", [table.speed_up(row) for table in tables for row in table.rows])
        speed.legend(loc="upper left")
        return drawn(figure, format)


def _draw(axes: Axes, table: Scaling, values: Sequence[float], colour: str) -> None:
    def points(rows: Sequence[tuple[ScalingRow, float]]) -> tuple[list[int], list[float]]:
        return [row.world.ranks for row, _ in rows], [value for _, value in rows]

    pairs = list(zip(table.rows, values, strict=True))
    axes.plot(*points(pairs), color=colour, linewidth=1, alpha=0.4)
    name = f"phase {table.phase.phase} ({table.phase.sequence_length} tokens)"
    measured, predicted = [pair for pair in pairs if pair[0].run], [pair for pair in pairs if not pair[0].run]
    axes.plot(*points(measured), color=colour, linewidth=0, marker="o", label=f"{name}, measured")
    if predicted:
        axes.plot(
            *points(predicted),
            color=colour,
            linewidth=0,
            marker="o",
            markerfacecolor="white",
            label=f"{name}, predicted",
        )


def _draw_ideal(axes: Axes, tables: Sequence[Scaling]) -> None:
    first = tables[0].reference.world.ranks
    ends = [row.world.ranks for table in tables for row in table.rows]
    line = [min(ends), max(ends)]
    axes.plot(line, [ranks / first for ranks in line], color=QUIET, linewidth=1.1, linestyle=(0, (5, 3)), label="ideal")
    axes.set_yscale("log")


def _finish(axes: Axes, tables: Sequence[Scaling], unit: str) -> None:
    axes.set_xlabel(unit)
    axes.set_xscale("log")
    _plain(axes, "x", [row.world.ranks for table in tables for row in table.rows])
    axes.margins(x=0.06)
    axes.set_axisbelow(True)


def _plain(axes: Axes, name: Literal["x", "y"], values: Sequence[float]) -> None:
    """Powers of two as ticks, written out: axes in powers of ten say little about numbers of nodes."""
    axis = axes.xaxis if name == "x" else axes.yaxis
    powers = [2.0**power for power in range(-4, 13) if min(values) / 1.5 <= 2.0**power <= max(values) * 1.5]
    axis.set_ticks(powers[:: 1 + len(powers) // 9] or [1.0])
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())

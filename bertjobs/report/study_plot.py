"""The measures of a study's runs, as one figure: a dot per run, a line of dots per setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bertjobs.launch.watch.study import MemberResult, Spread, grouped, measure_name
from bertjobs.report.curves import HELD_OUT, QUIET, STYLE, WORDS, drawn

Groups = Sequence[tuple[Spread, Sequence[MemberResult]]]


def draw_study(members: Sequence[MemberResult], format: Literal["svg", "png"] = "svg") -> bytes:
    """A row per setting, the first at the top: a dot per run that is done and measured, a bar at their mean, and a
    line of one standard deviation to either side of it. At least one run must have been measured."""
    groups = grouped(members)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.2 + 0.4 * len(groups)), layout="constrained", facecolor="white")
        axes = figure.subplots()
        _draw(axes, groups)
        axes.set_xlabel(measure_name(members) or "measure")
        return drawn(figure, format)


def _draw(axes: Axes, groups: Groups) -> None:
    for row, (spread, runs) in enumerate(groups):
        values = [run.value for run in runs if run.value is not None]
        axes.plot(values, [row] * len(values), "o", color=WORDS, alpha=0.7, markersize=7, markeredgecolor="white",
                  zorder=4)  # fmt: skip
        if spread.mean is None:
            axes.text(0.5, row, "not measured yet", ha="center", va="center", color=QUIET,
                      transform=axes.get_yaxis_transform())  # fmt: skip
        else:
            axes.errorbar(
                spread.mean, row, xerr=spread.deviation, color=HELD_OUT, marker="|", markersize=18, capsize=3, zorder=3
            )
    axes.set_yticks(range(len(groups)), [spread.words or "all runs" for spread, _ in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.ticklabel_format(axis="x", useOffset=False)

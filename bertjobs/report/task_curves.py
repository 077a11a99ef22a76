"""The curves of a run of fine-tuning, and its confusion matrix, as one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bertjobs.report.curves import HELD_OUT, QUIET, STYLE, WORDS, downsample, drawn, running_mean
from bertjobs.report.task_summary import TaskSummary

LOSSES = ("loss_nats", "squared_error")
MOST_CLASSES = 30
"""A larger confusion matrix is not drawn."""


def draw_task(summary: TaskSummary, format: Literal["svg", "png"] = "svg") -> bytes:
    """Training and dev loss, dev measures, learning rate and, for classes, the confusion matrix."""
    labels = sorted({label for pair in summary.confusion for label in pair})
    with_matrix = 1 < len(labels) <= MOST_CLASSES
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 7 if with_matrix else 4), layout="constrained", facecolor="white")
        rows: list[Any] = [["loss", "measures", "rate"], *([["matrix"] * 3] if with_matrix else [])]
        axes = figure.subplot_mosaic(rows, height_ratios=(1, 1.4)[: len(rows)])
        _draw_loss(axes["loss"], summary)
        _draw_measures(axes["measures"], summary)
        _draw_rate(axes["rate"], summary.steps)
        for name in ("loss", "measures", "rate"):
            axes[name].set_xlabel("optimizer step")
            axes[name].set_xlim(0, max(2, summary.steps[-1]["step"]) * 1.02)
            axes[name].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if with_matrix:
            _draw_matrix(axes["matrix"], labels, summary.confusion)
        return drawn(figure, format)


def _draw_loss(ax: Axes, summary: TaskSummary) -> None:
    field = next(field for field in LOSSES if field in summary.steps[-1])
    steps = np.array([line["step"] for line in summary.steps], dtype=np.float64)
    values = np.array([line[field] for line in summary.steps], dtype=np.float64)
    ax.set_title("Loss")
    ax.set_ylabel("nats per example" if field == "loss_nats" else "squared error")
    ax.plot(*downsample(steps, values), color=WORDS, alpha=0.3, linewidth=0.7, label="training")
    window = 2 * round(len(values) * 0.02) + 1
    ax.plot(
        *downsample(steps, running_mean(values, window)), color=WORDS, linewidth=1.8, label="training, running mean"
    )
    _dots(ax, summary.validations, f"dev_{field}", HELD_OUT, "dev")
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right")


def _draw_measures(ax: Axes, summary: TaskSummary) -> None:
    ax.set_title("Dev measures")
    measure = summary.result.get("measure") or (summary.prepared.measure if summary.prepared else None)
    if measure is None or not any(measure in line for line in summary.validations):
        ax.text(0.5, 0.5, "not measured", ha="center", color=QUIET, transform=ax.transAxes)
        return
    _dots(ax, summary.validations, measure, HELD_OUT, measure, line=True)
    best = summary.result.get("step")
    if best is not None:
        ax.axvline(best, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), label="the result")
    ax.legend(loc="lower right")


def _dots(
    ax: Axes, lines: Sequence[Mapping[str, Any]], field: str, color: str, label: str, *, line: bool = False
) -> None:
    known = [(one["step"], one[field]) for one in lines if field in one]
    if known:
        ax.plot(*zip(*known, strict=True), color=color, linewidth=1.2 if line else 0, marker="o", markersize=5,
                markeredgecolor="white", label=label)  # fmt: skip


def _draw_rate(ax: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    ax.set_title("Learning rate")
    x = np.array([line["step"] for line in steps], dtype=np.float64)
    ax.plot(*downsample(x, np.array([line["learning_rate"] for line in steps])), color=WORDS, linewidth=1.5)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_ylim(bottom=0)


def _draw_matrix(ax: Axes, labels: Sequence[str], confusion: Mapping[tuple[str, str], int]) -> None:
    counts = np.array([[confusion.get((gold, guess), 0) for guess in labels] for gold in labels], dtype=np.float64)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    ax.set_title("Confusion matrix of the dev examples (colour: share of the row)")
    ax.grid(visible=False)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(labels)), labels, rotation=0 if len(labels) <= 8 else 60)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    if len(labels) <= 15:
        for row, column in np.ndindex(counts.shape):
            color = "white" if shares[row, column] > 0.6 else "#1f2937"
            ax.text(column, row, f"{counts[row, column]:,.0f}", ha="center", va="center", color=color, fontsize=9)

"""The curve of a range test: its losses against the rising learning rate, and the rate that they suggest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from bertjobs.files.atomic import new_file, write_json
from bertjobs.report.curves import HELD_OUT, STYLE, WORDS, drawn

TABLE_FILE, CURVE_FILE = "learning-rates.json", "learning-rates.png"

ROOM = 2.0
"""The axis ends at so many times the smoothed loss of the first rate: above, all rates are too high alike."""


def write_test(folder: Path, table: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write a test's table, which docs/exit-codes.md describes, and its curve; returns the two files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TABLE_FILE, table)
    with new_file(folder / CURVE_FILE) as file:
        file.write(draw_test(table))
    return folder / TABLE_FILE, folder / CURVE_FILE


def draw_test(table: Mapping[str, Any]) -> bytes:
    """A PNG of a test's curve."""
    rates, losses, smooth = (
        np.array([point[field] for point in table["points"]], dtype=np.float64)
        for field in ("learning_rate", "loss", "smoothed_loss")
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
        ax = figure.subplots()
        ax.set_title(f"{table['run']}: loss at a rising learning rate")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("squared error" if table["loss"] == "squared_error" else "loss in nats")
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(LogFormatter())  # without formulas, which STYLE does not read
        ax.xaxis.set_minor_formatter(LogFormatter())
        ax.set_xlim(table["lowest_learning_rate"], table["highest_learning_rate"])
        ax.plot(rates, losses, color=WORDS, alpha=0.3, linewidth=0.7, label="of each step")
        ax.plot(rates, smooth, color=WORDS, linewidth=1.8, label="smoothed")
        ax.plot(table["least_loss_at"], smooth.min(), color=WORDS, linewidth=0, marker="o", label="lowest")
        if (rate := table["suggested_learning_rate"]) is not None:
            ax.axvline(rate, color=HELD_OUT, linewidth=1.2, label=f"suggested: {rate:g}")
        if (top := min(ROOM * smooth[0], 1.05 * losses.max())) > 0:
            ax.set_ylim(0, top)
        ax.legend(loc="lower left")
        return drawn(figure, "png")

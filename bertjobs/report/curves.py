"""A run's curves as one figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from bertjobs.errors import InputError
from bertjobs.files.reading import DamagedFileError
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.spec import PhaseSpec
from bertjobs.report.summary import NEXT_SENTENCE_FIELD
from bertjobs.run.directory import RunDirectory
from bertjobs.run.series import read_steps

Floats = NDArray[np.float64]

POINTS = 2000
"""A longer series is drawn as this many means."""

SMOOTHED_SHARE = 0.04
"""Share of a phase's steps that the running mean spans."""

RIGHT_MARGIN = 1.015
"""Room to the right of the last step, so that its dot is whole."""

METRICS = ("mlm_loss_nats", "mlm_accuracy", "nsp_accuracy", "learning_rate", "sequences_per_s")
VALIDATION = ("mlm_loss_nats", "mlm_accuracy", "nsp_accuracy", "unigram_cross_entropy_nats")
LAYERS_ALONE = ("distillation_loss", "learning_rate", "sequences_per_s")
"""What is drawn of a student that learns from its teacher's layers alone, and no masked words."""

WORDS, SENTENCES, HELD_OUT, QUIET, LINE = "#2563a8", "#5f8a3c", "#c2510c", "#6b7280", "#d1d5db"

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": "#1f2937",
    "axes.labelcolor": "#374151",
    "axes.edgecolor": "#9ca3af",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "xtick.color": "#6b7280",
    "ytick.color": "#6b7280",
    "legend.facecolor": "white",
    "legend.edgecolor": "white",
    "legend.framealpha": 0.9,
    "legend.fontsize": 9,
    "legend.handlelength": 1.4,
    "legend.labelcolor": "#374151",
    "text.parse_math": False,  # names of classes and runs may hold a $
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "bertjobs",  # the same ids, and so the same bytes, each time
}


@dataclass(frozen=True)
class Series:
    """One phase's lines; steps count on over the phases: ``first_step`` were made before it. ``learns_words``: whether
    there are masked words among them."""

    phase: PhaseSpec
    first_step: int
    metrics: Sequence[dict[str, Any]]
    validation: Sequence[dict[str, Any]]
    learns_words: bool = True

    @property
    def end(self) -> int:
        """Steps made at the phase's end, or so far."""
        return self.first_step + self.metrics[-1]["step"]

    def of(self, field: str) -> tuple[Floats, Floats]:
        """Steps and values of a metric, at most ``POINTS``."""
        return downsample(*self._columns(self.metrics, field))

    def smoothed(self, field: str) -> tuple[Floats, Floats]:
        """As ``of``, the running mean."""
        steps, values = self._columns(self.metrics, field)
        return downsample(steps, running_mean(values, 2 * round(len(values) * SMOOTHED_SHARE / 2) + 1))

    def held_out(self, field: str) -> tuple[Floats, Floats]:
        """Steps and values of the validations."""
        return self._columns(self.validation, field)

    def _columns(self, lines: Sequence[dict[str, Any]], field: str) -> tuple[Floats, Floats]:
        steps = np.array([self.first_step + line["step"] for line in lines], dtype=np.float64)
        return steps, np.array([line[field] for line in lines], dtype=np.float64)


def draw(directory: RunDirectory, format: Literal["svg", "png"] = "svg") -> bytes:
    """The figure of a run: losses, accuracies, learning rate and speed by optimizer step.

    Equal metrics give equal SVG bytes.

    Raises:
        InputError: no step has been made yet.
    """
    series = read_series(directory)
    if not series:
        raise InputError(f"run {directory.name!r} has no metrics to draw", where=str(directory.root))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 7), layout="constrained", facecolor="white")
        axes = figure.subplot_mosaic(
            [["loss"] * 3, ["accuracy", "rate", "speed"]], height_ratios=(1.5, 1), sharex=False
        )
        _draw_loss(axes["loss"], series)
        _draw_accuracy(axes["accuracy"], series)
        _draw_rate(axes["rate"], series)
        _draw_speed(axes["speed"], series)
        for ax in axes.values():
            _finish_axes(ax, series)
        for one in series:
            _label_phase(axes["loss"], one)
        return drawn(figure, format)


def drawn(figure: Figure, format: Literal["svg", "png"]) -> bytes:
    """A figure's file. Equal figures give equal SVG bytes; call it in the figure's `STYLE`."""
    buffer = io.BytesIO()
    if format == "png":
        FigureCanvasAgg(figure).print_png(buffer)
    else:
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def read_series(directory: RunDirectory) -> list[Series]:
    """The phases that have made a step, in order, on one axis of steps."""
    series: list[Series] = []
    spec = read_lockfile(directory.lockfile)
    of_steps, of_validations = (
        [field for field in fields if spec.next_sentence or field != NEXT_SENTENCE_FIELD]
        for fields in (METRICS, VALIDATION)
    )
    for phase in spec.phases:
        folder = directory.phase(phase.phase)
        first = series[-1].end if series else 0
        if metrics := _lines(folder.metrics, of_steps):
            series.append(Series(phase, first, metrics, _lines(folder.validation, of_validations)))
        elif spec.teacher and (metrics := _lines(folder.metrics, LAYERS_ALONE)):
            series.append(Series(phase, first, metrics, [], learns_words=False))
    return series


def _lines(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The lines with all that is drawn; [] for a damaged file, which the summary names."""
    try:
        return read_steps(path, *fields)
    except DamagedFileError:
        return []


def downsample(steps: Floats, values: Floats, points: int = POINTS) -> tuple[Floats, Floats]:
    """Means over ``points`` equal parts of a series; a shorter series as it is."""
    if len(steps) <= points:
        return steps, values
    parts = np.linspace(0, len(steps), points + 1).astype(np.int64)
    sizes = np.diff(parts)
    return np.add.reduceat(steps, parts[:-1]) / sizes, np.add.reduceat(values, parts[:-1]) / sizes


def running_mean(values: Floats, window: int) -> Floats:
    """The mean over ``window`` values (an odd number) around each one; towards the ends over fewer, equally many on
    both sides, so that nothing is shifted."""
    places = np.arange(len(values))
    reach = np.minimum(window // 2, np.minimum(places, len(values) - 1 - places))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def _draw_loss(ax: Axes, series: Sequence[Series]) -> None:
    learns_words = all(one.learns_words for one in series)
    ax.set_title("Masked-LM loss" if learns_words else "Distillation loss")
    ax.set_ylabel("nats per masked token" if learns_words else "weighted sum")
    field = "mlm_loss_nats" if learns_words else "distillation_loss"
    for number, one in enumerate(series):
        ax.plot(*one.of(field), color=WORDS, alpha=0.3, linewidth=0.7, label=_once("training", number))
        ax.plot(*one.smoothed(field), color=WORDS, linewidth=1.8, label=_once("training, running mean", number))
        _draw_held_out(ax, one, "mlm_loss_nats", HELD_OUT)
    for number, one in enumerate(series):
        if one.validation:
            _draw_unigram_line(ax, one, labelled=number == 0)
    ax.legend(loc="upper right")


def _draw_unigram_line(ax: Axes, one: Series, *, labelled: bool) -> None:
    level = one.validation[-1]["unigram_cross_entropy_nats"]
    ax.plot([one.first_step, one.end], [level, level], color=QUIET, linewidth=1.1, linestyle=(0, (5, 3)))
    if labelled:
        ax.annotate(
            f"unigram line {level:.2f}: word frequencies, no context",
            (one.first_step, level),
            xytext=(6, -4),
            textcoords="offset points",
            color=QUIET,
            fontsize=9,
            verticalalignment="top",
        )


def _draw_accuracy(ax: Axes, series: Sequence[Series]) -> None:
    ax.set_title("Accuracy (dots: held-out)")
    ax.set_ylabel("share guessed correctly")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for number, one in enumerate(series):
        for field, name, color in (
            (NEXT_SENTENCE_FIELD, "next sentence", SENTENCES),
            ("mlm_accuracy", "masked words", WORDS),
        ):
            if field not in one.metrics[0]:
                continue
            ax.plot(*one.smoothed(field), color=color, linewidth=1.5, label=_once(name, number))
            _draw_held_out(ax, one, field, color, labelled=False)
    ax.set_ylim(0, 1)
    if ax.lines:
        ax.legend(loc="upper left")


def _draw_rate(ax: Axes, series: Sequence[Series]) -> None:
    ax.set_title("Learning rate")
    ax.set_ylabel("learning rate")
    for one in series:
        ax.plot(*one.of("learning_rate"), color=WORDS, linewidth=1.5)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.set_ylim(bottom=0)


def _draw_speed(ax: Axes, series: Sequence[Series]) -> None:
    ax.set_title("Speed")
    ax.set_ylabel("sequences/s, all ranks")
    for one in series:
        ax.plot(*one.of("sequences_per_s"), color=WORDS, alpha=0.3, linewidth=0.7)
        ax.plot(*one.smoothed("sequences_per_s"), color=WORDS, linewidth=1.5)
    ax.set_ylim(bottom=0)


def _draw_held_out(ax: Axes, one: Series, field: str, color: str, *, labelled: bool = True) -> None:
    if one.validation:
        first = one.first_step == 0 and labelled
        ax.plot(
            *one.held_out(field),
            color=color,
            linewidth=0,
            marker="o",
            markersize=5,
            markeredgecolor="white",
            label="held-out" if first else None,
        )


def _finish_axes(ax: Axes, series: Sequence[Series]) -> None:
    """What all panels share: the axis of steps and the boundaries of the phases."""
    ax.set_xlabel("optimizer step")
    ax.set_xlim(0, max(2, series[-1].end) * RIGHT_MARGIN)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_axisbelow(True)
    for one in series[1:]:
        ax.axvline(one.first_step, color=LINE, linewidth=1.2, zorder=1)


def _label_phase(ax: Axes, one: Series) -> None:
    """Name a phase above the panel: over its middle, or flush right where that is near the edge."""
    middle = (one.first_step + one.end) / 2 / ax.get_xlim()[1]
    ax.annotate(
        f"phase {one.phase.phase}: {one.phase.sequence_length} tokens",
        (middle if middle < 0.9 else 1, 1),
        xycoords="axes fraction",
        xytext=(0, 5),
        textcoords="offset points",
        color=QUIET,
        fontsize=9,
        horizontalalignment="center" if middle < 0.9 else "right",
        annotation_clip=False,
    )


def _once(label: str, number: int) -> str | None:
    """A label for the first phase only, so that the legend names each curve once."""
    return label if number == 0 else None

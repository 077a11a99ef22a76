"""Lengths of sequences, bin by bin: as bars of text, and as a picture."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.check.source_picture import draw_sources, shown_sources
from bertjobs.data.check.source_picture import height as source_height
from bertjobs.data.shards.source_counts import SourceCounts
from bertjobs.wording import harmless

Int64s = NDArray[np.int64]

LINES = 16  # of text, about, over all bins
BAR = 40  # characters of the longest bar
PANEL_BARS = 64  # in a bin's panel at most
COLUMNS = 4  # panels side by side
CUT = 4  # times higher than all others: a full bar is cut off and labelled with its number

_EIGHTHS = " ▏▎▍▌▋▊▉"
_BAR, _BAR_CUT, _CUT, _QUIET = "#2563a8", "#e0a178", "#c2510c", "#6b7280"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": "#1f2937",
    "axes.labelcolor": "#374151",
    "axes.edgecolor": "#9ca3af",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "text.parse_math": False,  # names of files and sources may hold a $
}


@dataclass(frozen=True)
class BinLengths:
    """A bin: its number, the fewest and most tokens of its rows, and how many rows have each number of tokens."""

    number: int
    least: int
    most: int
    lengths: Int64s  # [longest + 1]

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return int(self.lengths.sum())

    @property
    def mean(self) -> float:
        """Mean tokens per row."""
        return float(np.arange(len(self.lengths)) @ self.lengths / max(1, self.rows))

    def grouped(self, groups: int) -> tuple[Int64s, Int64s]:
        """The rows in at most ``groups`` ranges of equal width: their edges ``[groups + 1]`` and rows ``[groups]``.

        Rows outside the bin's own lengths widen it.
        """
        present = np.flatnonzero(self.lengths)
        least, most = self.least, self.most
        if len(present):
            least, most = min(least, int(present[0])), max(most, int(present[-1]))
        width = max(1, -(-(most - least + 1) // groups))
        # The last range ends with the bin, so that full sequences are not hidden in a short one.
        edges = np.arange(most + 1, least - width, -width)[::-1]
        edges[0] = least
        counts = np.zeros(most + 1, dtype=np.int64)
        counts[: len(self.lengths)] = self.lengths[: most + 1]
        return edges, np.add.reduceat(counts, edges[:-1])


def text_bars(bins: Sequence[BinLengths]) -> list[str]:
    """Lines of a histogram; bars are shares of all rows, the longest is 40 characters wide."""
    groups = max(2, LINES // max(1, len(bins)))
    parts = [(one, *one.grouped(groups)) for one in bins]
    total = max(1, sum(one.rows for one in bins))
    highest = max((int(rows.max()) for *_, rows in parts), default=1) or 1
    lines = []
    for one, edges, rows in parts:
        for place, (start, stop, count) in enumerate(zip(edges, edges[1:], rows, strict=False)):
            label = f"bin {one.number}" if not place else ""
            bar = _bar(count / highest)
            lines.append(f"  {label:<7}{start:>5}-{stop - 1:<5} {count:>13,} {count / total:>6.1%}  {bar}".rstrip())
    return lines


def _bar(share: float) -> str:
    eighths = round(share * BAR * 8)
    if share and not eighths:
        eighths = 1
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def picture(title: str, parts: Mapping[str, Sequence[BinLengths]], sources: Sequence[SourceCounts] = ()) -> bytes:
    """A PNG: what the sources hold, and for each part (a split of a phase) a row of panels, one per bin, each with its
    own scale. Bins and parts without sequences are left out."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = {name: kept for name, bins in parts.items() if (kept := [one for one in bins if one.rows])}
    shown = shown_sources(sources)
    heights = [*([source_height(shown)] if shown else []),
               *(0.5 + 2.0 * -(-len(bins) // COLUMNS) for bins in drawn.values())]  # fmt: skip
    title = harmless(title)
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a name's script; a box stands for it
        figure = Figure(figsize=(11, 0.6 + sum(heights)), layout="constrained", facecolor="white")
        figure.suptitle(title if heights else f"{title}: none", x=0.01, horizontalalignment="left", fontsize=12,
                        fontweight="bold")  # fmt: skip
        rows = figure.subfigures(max(1, len(heights)), 1, height_ratios=heights or None, squeeze=False)
        figures = list(rows[: len(heights), 0])
        if shown:
            draw_sources(figures.pop(0), shown)
        for part, (name, bins) in zip(figures, drawn.items(), strict=True):
            _draw_part(part, name, bins)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw_part(part: Any, name: str, bins: Sequence[BinLengths]) -> None:
    rows = sum(one.rows for one in bins)
    mean = sum(one.rows * one.mean for one in bins) / rows
    part.suptitle(f"{name}: {rows:,} sequences, mean {mean:.0f} tokens", x=0.01, horizontalalignment="left",
                  fontsize=11)  # fmt: skip
    columns = min(COLUMNS, len(bins))
    axes = part.subplots(-(-len(bins) // columns), columns, squeeze=False).ravel()
    for place, ax in enumerate(axes):
        if place < len(bins):
            _draw_bin(ax, bins[place], rows, first=place % columns == 0, last=place + columns >= len(bins))
        else:
            ax.axis("off")


def _draw_bin(ax: Any, one: BinLengths, rows: int, *, first: bool, last: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    edges, counts = one.grouped(PANEL_BARS)
    rest = int(counts[:-1].max(initial=0))
    cut = rest > 0 and counts[-1] > CUT * rest  # most sequences are as long as they may be: that bar hides the others
    top = 1.45 * rest if cut else 1.3 * counts.max()
    colors = [_BAR] * (len(counts) - 1) + [_BAR_CUT if cut else _BAR]
    ax.bar(edges[:-1] - 0.5, counts, width=np.diff(edges), align="edge", color=colors, linewidth=0)
    ax.set_title(f"bin {one.number}, {one.least} to {one.most} tokens", fontweight="bold")
    ax.set_xlim(edges[0] - 1.5 if one.number else -0.5, edges[-1])
    ax.set_ylim(0, max(1.0, top))
    words = f"{one.rows:,} ({one.rows / max(1, rows):.1%})"
    _note(ax, words + (f", mean {one.mean:.0f}" if one.rows else ""), (4, -3), right=False)
    if cut:
        _note(ax, f"↑ {counts[-1]:,} with {_range(edges[-2], edges[-1])}", (-16, -18), right=True)
    ax.set_xticks(np.unique(np.linspace(one.least - 1 if one.number else 0, one.most, 5).round()))
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if first:
        ax.set_ylabel("sequences")
    if last:
        ax.set_xlabel("tokens per sequence")


def _note(ax: Any, text: str, offset: tuple[int, int], *, right: bool) -> None:
    side, color = ("right", _CUT) if right else ("left", _QUIET)
    place = {"xycoords": "axes fraction", "xytext": offset, "textcoords": "offset points"}
    ax.annotate(
        text, (int(right), 1), **place, horizontalalignment=side, verticalalignment="top", color=color, fontsize=9
    ).set_in_layout(False)


def _range(start: int, stop: int) -> str:
    return str(start) if stop == start + 1 else f"{start}-{stop - 1}"

"""The sources of a data folder as a picture: panels side by side, a row of each for every source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bertjobs.data.shards.source_counts import SourceCounts
from bertjobs.wording import harmless

PANELS = 4  # side by side
SHOWN = 20  # sources; where there are more, those with the most tokens

# Blue, orange, grey-blue: told apart without red and green.
_BAR, _SECOND, _THIRD, _QUIET, _MARK = "#2563a8", "#e0a178", "#94a3b8", "#6b7280", "#c2510c"
_NAME = 30  # characters of a source's name
_LEGEND_BELOW = 0.5  # inches


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        values: of each source a list of bars, one per label of ``bars`` (or one without a label); None where there is
            nothing to have a share of.
        percent: values are shares.
        spread: values are (5%, median, 95%) and drawn as a line with a point.
        mark: where a line with the words ``marked`` stands, or None.
    """

    title: str
    axis: str
    values: Sequence[Sequence[float | None]]
    bars: Sequence[str] = ("",)
    percent: bool = False
    spread: bool = False
    mark: float | None = None
    marked: str = ""


def shown_sources(sources: Sequence[SourceCounts]) -> list[SourceCounts]:
    """Those that are drawn, in their order."""
    largest = sorted(range(len(sources)), key=lambda number: -sources[number].tokens)[:SHOWN]
    return [sources[number] for number in sorted(largest)]


def source_panels(sources: Sequence[SourceCounts]) -> list[Panel]:
    """The panels that have something to show."""
    phases = sorted({phase for counts in sources for phase in counts.phases})
    names = [f"phase {phase}" for phase in phases]

    def of_phases(part: str, whole: str) -> list[list[float | None]]:
        return [
            [_share(getattr(one, part), getattr(one, whole)) if (one := counts.phases.get(phase)) else None
             for phase in phases] for counts in sources
        ]  # fmt: skip

    def shares(part: str, whole: str) -> list[list[float | None]]:
        return [[_share(getattr(counts, part), getattr(counts, whole))] for counts in sources]

    panels = [
        Panel("Tokens", "million tokens", [[counts.tokens / 1e6] for counts in sources]),
        Panel("Length of documents", "tokens: median, 5% to 95%",
              [list(counts.document_quantiles) for counts in sources], spread=True),
        Panel("Length of sentences", "tokens: median, 5% to 95%",
              [list(counts.sentence_quantiles) for counts in sources], spread=True),
        Panel("Tokens in sequences", "share of the tokens", of_phases("used", "tokens"), names, percent=True),
        Panel("Random next sentences", "share of the sequences", of_phases("random_next", "sequences"), names,
              percent=True, mark=0.5, marked="half"),
        _unknown_panel(sources),
        Panel("Repeated documents", "share of the documents", shares("repeated", "documents"),
              percent=True),
    ]  # fmt: skip
    return [panel for panel in panels if any(value for values in panel.values for value in values)]


def _unknown_panel(sources: Sequence[SourceCounts]) -> Panel:
    """What became [UNK]: of the tokens, and of the characters where they were counted and are more."""
    tokens = [counts.unknown_share for counts in sources]
    text = [counts.unknown_text_share for counts in sources]
    if not any(more > share for more, share in zip(text, tokens, strict=True)):
        return Panel("Unknown tokens, [UNK]", "share of the tokens", [[share] for share in tokens], percent=True)
    return Panel("Unknown tokens, [UNK]", "share", list(zip(tokens, text, strict=True)), ("tokens", "characters"),
                 percent=True)  # fmt: skip


def height(sources: Sequence[SourceCounts]) -> float:
    """Inches that the panels take."""
    rows = -(-len(source_panels(sources)) // PANELS)
    return 0.6 + rows * (1.1 + 0.5 * len(sources))


def draw_sources(figure: Any, sources: Sequence[SourceCounts]) -> None:
    """Draw the panels into a (sub)figure of matplotlib's."""
    panels = source_panels(sources)
    if not panels:
        return
    rows = -(-len(panels) // PANELS)
    tokens = sum(counts.tokens for counts in sources)
    figure.suptitle(f"sources: {tokens:,} tokens", x=0.01, horizontalalignment="left", fontsize=11)
    grid = figure.add_gridspec(rows, PANELS)
    for place, panel in enumerate(panels):
        ax = figure.add_subplot(grid[place // PANELS, place % PANELS])
        _draw(ax, panel)
        ax.set_yticks(range(len(sources)), [_name(counts) for counts in sources] if place % PANELS == 0 else [])
        ax.set_ylim(len(sources) - 0.4, -0.6)


def _draw(ax: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator
    from matplotlib.transforms import ScaledTranslation

    ax.set_title(panel.title, fontweight="bold")
    ax.set_xlabel(panel.axis)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0, labelcolor="#1f2937")
    if panel.spread:
        _draw_spread(ax, panel)
        return
    width = 0.72 / len(panel.bars)
    highest = max(value or 0.0 for values in panel.values for value in values)
    for bar, (label, color) in enumerate(zip(panel.bars, (_BAR, _SECOND, _THIRD) * len(panel.bars), strict=False)):
        places = [row - 0.36 + width * (bar + 0.5) for row in range(len(panel.values))]
        values = [values[bar] for values in panel.values]
        ax.barh(places, [value or 0.0 for value in values], height=0.9 * width, color=color, label=label, linewidth=0)
        for place, value in zip(places, values, strict=True):
            ax.annotate(_words(value, panel.percent), (value or 0.0, place), xytext=(3, 0), textcoords="offset points",
                        verticalalignment="center", color=_QUIET, fontsize=8)  # fmt: skip
    ax.set_xlim(0, 1.3 * highest)
    handles = list(ax.containers) if len(panel.bars) > 1 else []
    if panel.mark is not None and panel.mark < 1.3 * highest:
        handles.append(ax.axvline(panel.mark, color=_MARK, linewidth=1, linestyle=(0, (4, 3)), label=panel.marked))
    ticks = MaxNLocator(3).tick_values(0, highest)
    ax.set_xticks([tick for tick in ticks if tick <= (1 if panel.percent else 1.3 * highest)])
    if panel.percent:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4%}".rstrip("0%").rstrip(".") + "%"))
    if handles:
        below = ax.transAxes + ScaledTranslation(0, -_LEGEND_BELOW, ax.figure.dpi_scale_trans)
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, ncols=3, fontsize=8,
                  frameon=False, columnspacing=0.8, handlelength=1.2, handletextpad=0.4, borderpad=0)  # fmt: skip


def _draw_spread(ax: Any, panel: Panel) -> None:
    spreads = [[value or 0.0 for value in values] for values in panel.values]
    for row, (low, median, high) in enumerate(spreads):
        ax.plot([max(low, 1), max(high, 1)], [row, row], color=_BAR, linewidth=5, alpha=0.35, solid_capstyle="round")
        ax.plot([max(median, 1)], [row], "o", color=_BAR, markersize=7)
        ax.annotate(f"{median:,.0f}", (max(median, 1), row), xytext=(0, 8), textcoords="offset points",
                    horizontalalignment="center", color=_QUIET, fontsize=8)  # fmt: skip
    ax.set_xscale("log")
    ax.margins(x=0.12)
    ticks = _round_numbers(min(low for low, *_ in spreads), max(high for *_, high in spreads))
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()


def _round_numbers(least: float, most: float) -> list[int]:
    """Four numbers at most, 1, 2 or 5 times a power of ten, from ``least`` to ``most``."""
    numbers = [factor * 10**power for power in range(10) for factor in (1, 2, 5)]
    inside = [number for number in numbers if least <= number <= most]
    return inside[:: -(-len(inside) // 4)] if inside else [round(least)]


def _words(value: float | None, percent: bool) -> str:
    if value is None:
        return "-"
    if percent:
        return f"{100 * value:.3g}%"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _name(counts: SourceCounts) -> str:
    name = harmless(counts.corpus)
    if len(name) > _NAME:
        name = name[: _NAME // 3] + "…" + name[-_NAME * 2 // 3 + 1 :]
    guess = counts.language
    return name if guess is None else f"{name}\nmostly {guess[0]}"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

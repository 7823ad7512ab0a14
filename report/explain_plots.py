"""Charts of explanations: bars with their spread, and attention over time.

Needs matplotlib, so import it where a chart is drawn; colours and helpers are `report.plots`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from report.explanation import FloatArray, Spread
from report.plots import BLACK, BLUE, DAY_SECONDS, GREY, MOST_BARS, VERMILION, tidy
from report.text import shorten

LINE = "#e4e4e4"
LEAST = 0.1  # per cent, of an axis: what is nothing looks like nothing
ROW_HEIGHT = 0.27  # inches of a bar
WIDTH, WIDE, NAMES = (
    5.8,
    7.5,
    2.35,
)  # inches: of a figure that a phone can still show, and of its names
HOUR_STEPS = (1, 2, 3, 4, 6, 8, 12, 24, 48)  # between marks of an axis in hours
MOST_MARKS, NAME_LENGTH = 9, 34


@dataclass(frozen=True)
class Bar:
    """A variable's bar, of a group of variables."""

    group: str
    name: str
    value: Spread
    """Per cent."""


def spread_bars(bars: Sequence[Bar], title: str, note: str, colour: str = BLUE) -> Figure:
    """Draw a bar for each variable under its group's name, with a whisker from low to high.

    Args:
        bars: in the order to draw, groups together; of a group at most 15 are drawn.
        title: says what is measured.
        note: stands under the axis: what bar and whisker are.
        colour: of the bars.
    """
    rows: list[Bar | str] = []
    for group in dict.fromkeys(bar.group for bar in bars):
        mine = [bar for bar in bars if bar.group == group]
        rest = len(mine) - MOST_BARS
        more = f" (first {MOST_BARS} of {len(mine)})" if rest > 0 else ""
        rows += [f"{group} variables{more}", *mine[:MOST_BARS]]
    height = 0.55 + ROW_HEIGHT * len(rows) + 0.55
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots()
    figure.subplots_adjust(
        left=NAMES / WIDTH, right=1 - 0.15 / WIDTH, bottom=0.55 / height, top=1 - 0.45 / height
    )
    drawn = [row for row in rows if isinstance(row, Bar)]
    ends = [end for bar in drawn for end in bar.value if np.isfinite(end)]
    right, left = max([*ends, LEAST]), min([*ends, 0.0])
    span = right - left
    for place, row in enumerate(rows):
        if isinstance(row, str):
            _name(axes, place, row, fontweight="bold")
            continue
        _name(axes, place, shorten(row.name, NAME_LENGTH))
        mean, low, high = np.nan_to_num(row.value)  # its label says where it is unknown
        axes.barh(place, mean, height=0.6, color=colour)
        axes.plot([low, high], [place, place], color=BLACK, linewidth=1.4, solid_capstyle="butt")
        axes.text(
            max(mean, high, 0.0) + 0.02 * span,
            place,
            per_cent(row.value.mean),
            va="center",
            fontsize=9,
        )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left - (0.02 * span if left < 0 else 0.0), right + 0.2 * span)
    tidy(axes, grid=None)
    axes.grid(axis="x", color=LINE, linewidth=0.7)
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_xlabel(note, fontsize=9, loc="right")
    figure.suptitle(title, x=0.1 / WIDTH, ha="left", fontsize=12, fontweight="bold")
    return figure


def lag_curve(by_lag: FloatArray, step_seconds: int, other: FloatArray | None = None) -> Figure:
    """Draw how much attention a tick gets by how long before the step asked for it lies.

    Args:
        by_lag: [L] attention, 1 = as much as every tick of history alike, NaN where no step could
            look; entry n is n ticks before the step.
        step_seconds: of a tick.
        other: [L] drawn beside it in grey: the whole fleet's.
    """
    figure = Figure(figsize=(WIDE, 3.0))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.97, bottom=0.17, top=0.96)
    hours = np.arange(len(by_lag)) * step_seconds / 3600
    days = np.arange(DAY_SECONDS / 3600, hours[-1] + 1e-9, DAY_SECONDS / 3600)
    for number, day in enumerate(days):
        axes.axvline(day, color=VERMILION, linewidth=1.0, linestyle="--", zorder=1)
        label = "same time of day" if number == 0 else ""
        axes.annotate(
            label, (day, 1.0), (-4, -3), xycoords=("data", "axes fraction"), ha="right", va="top",
            textcoords="offset points", fontsize=9, color=VERMILION,
        )  # fmt: skip
    axes.axhline(1.0, color=GREY, linewidth=0.8, zorder=1)
    if other is not None:
        axes.plot(hours, other, color=GREY, linewidth=1.4, label="all servers")
    axes.plot(hours, by_lag, color=BLUE, linewidth=2.0, label="this server")
    axes.set_xlim(hours[-1], 0.0)  # time runs to the right, as in every chart
    every = by_lag if other is None else np.concatenate([by_lag, other])
    highest = float(np.nanmax(every, initial=1.0))
    axes.set_ylim(0.0, 1.2 * highest)  # room for what is written at the top
    _hours_axis(axes, hours[-1])
    axes.set_xlabel("hours before the step asked for", fontsize=9)
    axes.set_ylabel("attention (1 = even)", fontsize=9)
    tidy(axes, grid=None)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    if other is not None:
        axes.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def attention_map(by_step: FloatArray, context: int, step_seconds: int) -> Figure:
    """Draw which tick each step of the horizon looks at.

    Args:
        by_step: [H, L] attention, 1 = as much as every tick alike, NaN where a step never looks.
        context: T ticks of history; the first forecast tick is column T.
        step_seconds: of a tick.
    """
    H, L = by_step.shape
    hour = step_seconds / 3600
    figure = Figure(figsize=(WIDE, 3.2))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.92, bottom=0.16, top=0.96)
    seen = by_step[np.isfinite(by_step)]
    image = axes.imshow(
        by_step, aspect="auto", origin="lower", cmap="Blues", vmin=0.0, interpolation="nearest",
        vmax=max(float(np.quantile(seen, 0.99)) if seen.size else 1.0, 1.5),
        extent=(-context * hour, (L - context) * hour, hour / 2, (H + 0.5) * hour),
    )  # fmt: skip
    axes.axvline(0.0, color=GREY, linewidth=1.2, linestyle="--")
    axes.set_xlabel("hours from the origin of the tick looked at", fontsize=9)
    axes.set_ylabel("hours ahead asked for", fontsize=9)
    _hours_axis(axes, L * hour)
    tidy(axes, grid=None)
    bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.04)
    bar.set_label("attention (1 = even)", fontsize=9)
    bar.ax.tick_params(labelsize=9)
    bar.outline.set_visible(False)
    return figure


def per_cent(value: float) -> str:
    """Write a percentage with about two digits, on one line."""
    if not np.isfinite(value):
        return "unknown"
    text = f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.1f}"
    return f"{'0.0' if text == '-0.0' else text}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def _name(axes: Axes, place: int, name: str, **style: Any) -> None:
    """Write a row's name left of the bars."""
    at = axes.get_yaxis_transform()
    axes.text(
        -(NAMES - 0.1) / (WIDTH - NAMES - 0.15), place, name, transform=at, ha="left", va="center",
        fontsize=9, parse_math=False, **style,
    )  # fmt: skip


def _hours_axis(axes: Axes, hours: float) -> None:
    """Mark whole hours, not too many; fractions where there is no whole one."""
    for step in HOUR_STEPS:
        if hours / step <= MOST_MARKS and hours >= 2:
            axes.xaxis.set_major_locator(MultipleLocator(step))
            return

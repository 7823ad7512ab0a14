"""Charts: forecasts as fans, variables as bars, and the learning-rate range test.

Needs matplotlib, so import it where a chart is drawn. It draws through `Figure` alone: no pyplot,
no global state, no display. Colours are of Okabe and Ito's colour-blind safe palette.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, num2date
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

from report.text import shorten

FloatArray = npt.NDArray[np.floating[Any]]
TimeArray = npt.NDArray[np.datetime64]

BLACK, BLUE, VERMILION, GREY = "#1a1a1a", "#0072B2", "#D55E00", "#767676"
INTERVAL_SHADES = {2: ("#cfe3f2", "#8fc0e4"), 1: ("#8fc0e4",)}  # widest first, opaque, of BLUE
MOST_ROWS = MOST_COLUMNS = 4  # more would be too small to read
DAY_SECONDS = 86_400
MOST_BARS = 15
NAME_LENGTH = 28  # longer names of servers and metrics lose their middle
TITLE_LENGTH, BAR_NAME_LENGTH = 40, 50  # where there is more room
DPI = 120


@dataclass(frozen=True)
class FanPanel:
    """One server's metric: its history, forecast and, where known, what came after."""

    server: str
    metric: str
    origin_seconds: int
    """Unix seconds of the first forecast tick."""
    step_seconds: int
    history: FloatArray  # [T] in raw units, NaN where missing; the last tick is before the origin
    forecast: FloatArray  # [H, Q]
    quantiles: tuple[float, ...]
    """Levels of the forecast, ascending, the median among them."""
    actual: FloatArray | None = None  # [H], NaN where missing
    log_scale: bool = False
    """Whether to draw on a logarithmic scale (linear from -1 to 1), for rates over decades.

    It stops at zero where no value seen is negative.
    """

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if self.forecast.ndim != 2 or self.forecast.shape[1] != len(self.quantiles):
            raise ValueError(
                f"{self.server} {self.metric}: forecast is {self.forecast.shape}, "
                f"expected [H, {len(self.quantiles)}] for quantiles {self.quantiles}"
            )
        if 0.5 not in self.quantiles:
            raise ValueError(f"quantiles {self.quantiles} lack the median 0.5, which is drawn")
        if self.actual is not None and self.actual.shape != self.forecast.shape[:1]:
            raise ValueError(
                f"{self.server} {self.metric}: actual is {self.actual.shape}, "
                f"expected {self.forecast.shape[:1]} like the forecast"
            )


def fan_figure(panels: Sequence[FanPanel], title: str) -> Figure:
    """Draw forecasts with their intervals, a row per metric and a column per server.

    Rows and columns are in the order in which the panels first name them; the history's last day
    is shown. Missing ticks are gaps. What comes after starts from the history's last tick, "now".

    Args:
        panels: at most 4 metrics of at most 4 servers, each pair once; a pair may be left out.
        title: names the model or run.

    Raises:
        ValueError: no panel, too many rows or columns, or a pair given twice.
    """
    servers = list(dict.fromkeys(panel.server for panel in panels))
    metrics = list(dict.fromkeys(panel.metric for panel in panels))
    by_place = {(panel.metric, panel.server): panel for panel in panels}
    if not panels or len(by_place) != len(panels):
        raise ValueError(f"{len(panels)} panels, {len(by_place)} different; give each pair once")
    if len(servers) > MOST_COLUMNS or len(metrics) > MOST_ROWS:
        raise ValueError(
            f"{len(metrics)} metrics x {len(servers)} servers do not fit one chart; "
            f"give at most {MOST_ROWS} x {MOST_COLUMNS}"
        )
    figure, axes = _panel_grid(len(metrics), len(servers))
    handles: dict[str, Any] = {}
    for row, metric in enumerate(metrics):
        for column, server in enumerate(servers):
            panel = by_place.get((metric, server))
            cell = axes[row, column]
            if panel is None:
                cell.text(0.5, 0.5, "no data", ha="center", color=GREY, transform=cell.transAxes)
                cell.set(xticks=[], yticks=[])
                tidy(cell)
            else:
                handles |= _draw_fan(cell, panel)
            if row == 0:
                cell.set_title(shorten(server, TITLE_LENGTH), fontsize=11).set_parse_math(False)
            if row == len(metrics) - 1:
                cell.set_xlabel("time (UTC)", fontsize=9)
            if column == 0:
                cell.set_ylabel(shorten(metric, NAME_LENGTH)).set_parse_math(False)
    _title(figure, title)
    entries = 6 if len(servers) > 2 else 3  # in a row, as many as there is room for
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncols=entries, frameon=False
    )
    return figure


def selection_bars(weights_by_group: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Draw the weights of the network's variables, a panel per group of inputs, largest on top.

    Args:
        weights_by_group: a group's name to its variables' names to their weights, which sum to 1.
            Beyond the 15 largest of a group the others are one bar.
        title: names the model or run.
    """
    groups = {name: _largest(weights) for name, weights in weights_by_group.items()}
    most = max(map(len, groups.values()))
    largest = max(0.01, *(weight for weights in groups.values() for weight in weights.values()))
    width, height = 4.4 * len(groups), 0.8 + 0.42 * most
    figure = Figure(figsize=(width, height))
    columns = figure.subplots(1, len(groups), squeeze=False)[0]
    figure.subplots_adjust(
        left=0.2 / width, right=1 - 0.2 / width, bottom=0.1 / height, top=1 - 0.7 / height
    )
    for axes, (group, weights) in zip(columns, groups.items(), strict=True):
        per_cent = 100 * np.array(list(weights.values()))
        lengths = np.nan_to_num(per_cent)
        bars = axes.barh(range(len(weights)), lengths, height=0.36, align="edge", color=BLUE)
        axes.bar_label(bars, [f"{value:.1f} %" for value in per_cent], padding=3, fontsize=9)
        for place, name in enumerate(weights):  # above its bar, where a long name has room
            label = shorten(name, BAR_NAME_LENGTH)
            axes.text(0.0, place - 0.12, label, fontsize=9, parse_math=False)
        axes.set_ylim(most - 0.4, -0.5)  # bars are as thick in every panel,
        axes.set_xlim(0.0, 120 * largest)  # and as long
        axes.set_title(f"{group} variables", fontsize=11, loc="left")
        axes.set_axis_off()
    _title(figure, title)
    return figure


def as_image(figure: Figure, dpi: int = DPI) -> npt.NDArray[np.uint8]:
    """Return a figure as pixels [height, width, 3] instead of a file."""
    figure.set_dpi(dpi)
    figure.set_facecolor("white")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def lr_curve(
    path: Path | str,
    learning_rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float,
) -> None:
    """Draw a learning-rate range test.

    Args:
        path: PNG file to write.
        learning_rates: of each step, ascending.
        losses: of each step, over the untrained network's.
        smoothed: means of neighbouring losses.
        suggestion: one of `learning_rates`.
    """
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(learning_rates, losses, color=GREY, linewidth=0.8, alpha=0.6, label="loss of a step")
    axes.plot(learning_rates, smoothed, color=BLUE, linewidth=2.0, label="smoothed")
    at = smoothed[list(learning_rates).index(suggestion)]
    axes.axvline(suggestion, color=VERMILION, linewidth=1.0, linestyle="--", zorder=0)
    axes.plot(
        [suggestion], [at], linestyle="none", marker="o", markersize=9, color=VERMILION,
        label=f"suggestion: {suggestion:.2g}",
    )  # fmt: skip
    low, high = min(losses), smoothed[0]
    axes.set_ylim(low - 0.1 * (high - low) - 1e-6, high + 0.5 * (high - low) + 1e-6)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, relative to the untrained network's")
    axes.legend(frameon=False)
    tidy(axes)
    figure.suptitle("Learning-rate range test", fontsize=13, fontweight="bold")
    save_figure(figure, Path(path))


def _panel_grid(rows: int, columns: int) -> tuple[Figure, Any]:
    """Return a figure and its axes [rows, columns].

    In inches instead of by a layout engine, which would take as long as everything else.
    """
    width, height = max(1.2 + 4.2 * columns, 7.5), 1.4 + 2.3 * rows
    left, right, top, between = 0.85, 0.15, 0.65, 0.5
    bottom = 0.95 if columns > 2 else 1.2  # the legend has one row or two
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False)
    panel_width = (width - left - right - between * (columns - 1)) / columns
    panel_height = (height - bottom - top - between * (rows - 1)) / rows
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, wspace=between / panel_width,
        bottom=bottom / height, top=1 - top / height, hspace=between / panel_height,
    )  # fmt: skip
    for cell in axes.flat:
        cell.xaxis.set_label_coords(0.5, -0.45 / panel_height)
        cell.yaxis.set_label_coords(-0.65 / panel_width, 0.5)
    return figure, axes


def _title(figure: Figure, title: str) -> None:
    """Write a figure's title a tenth of an inch below its top."""
    top = 1 - 0.1 / figure.get_figheight()
    text = figure.suptitle(title, y=top, fontsize=13, fontweight="bold")
    text.set_parse_math(False)


def _draw_fan(axes: Axes, panel: FanPanel) -> dict[str, Any]:
    """Draw one panel; return its legend entries, label to artist."""
    step, horizon = panel.step_seconds, len(panel.forecast)
    history = panel.history[-max(DAY_SECONDS // step, 1) :]
    past = _times(panel.origin_seconds - len(history) * step, len(history), step)
    now = history[-1] if len(history) else np.nan
    ahead = _times(panel.origin_seconds - step, 1 + horizon, step)
    if panel.log_scale:  # before drawing: limits already chosen are not chosen again
        axes.set_yscale("symlog", linthresh=1.0)
        locator = SymmetricalLogLocator(base=10.0, linthresh=1.0)
        locator.set_params(numticks=6)
        axes.yaxis.set_major_locator(locator)
    handles: dict[str, Any] = {}
    handles["history"] = _line(axes, past, history, color=BLACK, linewidth=1.0)
    pairs = _intervals(panel.quantiles)
    for (low, high), shade in zip(pairs, INTERVAL_SHADES.get(len(pairs), ()), strict=True):
        lower, upper = (
            _from(now, panel.forecast[:, panel.quantiles.index(level)]) for level in (low, high)
        )
        label = f"{low * 100:g}–{high * 100:g} % interval"
        handles[label] = axes.fill_between(
            ahead.astype(object), lower, upper, color=shade, linewidth=0, zorder=1
        )
    median = _from(now, panel.forecast[:, panel.quantiles.index(0.5)])
    handles["median forecast"] = _line(axes, ahead, median, color=BLUE, linewidth=2.0, zorder=3)
    if panel.actual is not None:
        actual = _from(now, panel.actual)
        handles["actual"] = _line(axes, ahead, actual, color=VERMILION, linewidth=1.0)
    handles["now"] = axes.axvline(
        ahead[0].astype(object), color=GREY, linewidth=1.2, linestyle="--", zorder=2
    )
    axes.set_xlim(past[0] if len(past) else ahead[0], ahead[-1])
    hours = AutoDateLocator(tz=UTC, minticks=4, maxticks=8)
    axes.xaxis.set_major_locator(hours)
    axes.xaxis.set_major_formatter(FuncFormatter(_write_time))
    seen = history if panel.actual is None else np.concatenate([history, panel.actual])
    if panel.log_scale and axes.get_ylim()[0] < 0.0 and not (seen < 0.0).any():
        axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter(FuncFormatter(_write_number))
    tidy(axes)
    return handles


def _from(now: float, values: FloatArray) -> FloatArray:
    """Put the history's last value before what follows it, NaN where either is missing."""
    first = now if len(values) and np.isfinite(values[0]) else np.nan
    return np.concatenate([[first], values])


def _line(axes: Axes, times: TimeArray, values: FloatArray, **style: Any) -> Any:
    """Draw a line with gaps at NaN, and a dot for a tick observed between two gaps."""
    (line,) = axes.plot(times, values, **style)
    known = np.concatenate([[False], ~np.isnan(values), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    if alone.any():
        axes.plot(times[alone], values[alone], ".", color=style["color"], markersize=3)
    return line


def _intervals(quantiles: tuple[float, ...]) -> list[tuple[float, float]]:
    """Return the widest symmetric pair of levels and the 80 % one, or the narrowest, once each."""
    pairs = [
        (low, high)
        for low, high in zip(quantiles, quantiles[::-1], strict=True)
        if low < 0.5 and abs(low + high - 1.0) < 1e-6
    ]
    inner = [pair for pair in pairs if abs(pair[0] - 0.1) < 1e-6] or pairs[-1:]
    return sorted({*pairs[:1], *inner})


def _largest(weights: Mapping[str, float]) -> dict[str, float]:
    """Sort weights, largest first; those beyond the chart's room become one."""
    ranked = sorted(weights.items(), key=lambda item: -item[1])
    if len(ranked) <= MOST_BARS:
        return dict(ranked)
    rest = ranked[MOST_BARS:]
    return dict(ranked[:MOST_BARS]) | {f"{len(rest)} others": sum(weight for _, weight in rest)}


def _times(first_seconds: int, count: int, step_seconds: int) -> TimeArray:
    """Return UTC times from one on, [count]."""
    seconds = first_seconds + step_seconds * np.arange(count, dtype=np.int64)
    return seconds.astype("datetime64[s]")


def _write_time(days: float, position: int | None) -> str:
    """Write an axis' time as hours, with the date at midnight and on the first tick."""
    time = num2date(days, tz=UTC)
    dated = position == 0 or (time.hour, time.minute) == (0, 0)
    return f"{time:%H:%M}\n{time.day} {time:%b}" if dated else f"{time:%H:%M}\n"


def _write_number(value: float, position: int | None) -> str:
    """Write 250000 as 250 k; below ten thousand as it is."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def tidy(axes: Axes, grid: Literal["y", "both"] | None = "y") -> None:
    """Leave only the lines that carry something."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        axes.grid(axis=grid, color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG under a temporary name beside it, then rename: nobody sees half a chart."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

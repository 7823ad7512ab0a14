"""A backtest of alerts as charts, and as a section of the report's page.

Needs matplotlib, so import it where a chart is drawn; see `report.plots`.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from report.early_warning.alerts import LEAD_LIMITS, MOST_FALSE
from report.early_warning.results import (
    ALERTS_HEADER,
    CALIBRATION_HEADER,
    CURVE_HEADER,
    NOTES,
    WATCHED_HEADER,
    WarningReport,
    alert_rows,
    calibration_rows,
    curve_rows,
    summary_lines,
    watched_rows,
)
from report.html import Section, items, paragraph, picture, table
from report.plots import BLUE, GREY, VERMILION, tidy
from report.scores import duration

GREEN = "#009E73"
STYLES = ((BLUE, "-", 2.2), (VERMILION, "--", 1.5), (GREY, "-.", 1.5), (GREEN, ":", 1.8))
LEAD_SHADES = ("#cfe3f2", "#8fc0e4", "#4a98cd", "#0072B2")  # shortest lead first
MISSED = "#e4e4e4"
FEW_ORIGINS = 30  # a share of fewer is drawn hollow
MOST_PANELS = 6
LABELLED = (0.1, 0.5)  # alarm probabilities written beside the model's curve


def warning_figures(report: WarningReport) -> list[Figure]:
    """Draw operating curves, calibration and lead times; nothing without an episode."""
    if not report.metrics[-1].episodes:
        return []
    return [_operating_curves(report), _calibration(report), _lead_times(report)]


def warning_section(report: WarningReport) -> Section:
    """Return the early warning's part of the page."""
    model = report.forecasters[0]
    rows = alert_rows(report)
    strong = [number for number, row in enumerate(rows) if row[1] == model.name]
    captions = (
        (
            "Operating curves",
            f"Up and to the left is better. Numbers: alarm probabilities of {model.name}; "
            f"dashed: {MOST_FALSE:g} false alarm per server and week.",
        ),
        (
            "Calibration",
            "On the diagonal, what is said to happen in 3 of 10 cases does in 3 of 10.",
        ),
        ("Lead times", "At each forecaster's alarm of the best F1, over all metrics."),
    )
    pictures = [
        picture(figure, f"{name} of alerts", caption)
        for figure, (name, caption) in zip(warning_figures(report), captions, strict=False)
    ]
    parts = [
        paragraph(
            "Would alerts from these forecasts have come in time, and how many for nothing? The "
            "forecasts are replayed over data it was not trained on, beside naive forecasters "
            "whose alerts are raised and judged by the same rules."
        ),
        items(summary_lines(report), "soft"),
        table(WATCHED_HEADER, watched_rows(report)),
        table(ALERTS_HEADER, rows, text_columns=2, strong=strong) if rows else "",
        items(NOTES, "soft"),
        *pictures,
        paragraph(f"An alarm of {model.name} at each probability, over all metrics:"),
        table(CURVE_HEADER, curve_rows(model.rows[-1]), text_columns=0),
        paragraph(f"Calibration of {model.name}, over all metrics:"),
        table(CALIBRATION_HEADER, calibration_rows(model.rows[-1])),
    ]
    return Section("Early warning", "\n".join(parts), "early-warning")


def _operating_curves(report: WarningReport) -> Figure:
    """Draw recall over false alarms, a panel per metric with an episode and one for all."""
    shown = [number for number, metric in enumerate(report.metrics) if metric.episodes]
    if len(shown) > MOST_PANELS:
        shown = [*shown[: MOST_PANELS - 1], shown[-1]]
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.6, 3.2 * rows + 1.0), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).flat
    for cell in list(cells)[len(shown) :]:
        cell.set_axis_off()
    for place, (number, cell) in enumerate(zip(shown, figure.axes, strict=False)):
        _draw_curves(cell, report, number)
        metric = report.metrics[number]
        cell.set_title(f"{metric.name}, {metric.episodes:,} episodes", fontsize=11).set_parse_math(
            False
        )
        if place % columns == 0:
            cell.set_ylabel("recall")
        if place + columns >= len(shown):
            cell.set_xlabel("false alarms per server and week")
    _legend(figure, figure.axes[0])
    figure.suptitle("Alerts: breaches caught, for how many false alarms", fontweight="bold")
    return figure


def _draw_curves(axes: Axes, report: WarningReport, number: int) -> None:
    """Draw every forecaster's recall over false alarms, with the model's alarm probabilities."""
    for forecaster, (colour, line, width) in zip(report.forecasters, STYLES, strict=False):
        points = forecaster.rows[number].points
        false = [point.false_per_week for point in points]
        recall = [point.recall for point in points]
        axes.plot(
            false, recall, color=colour, linestyle=line, linewidth=width, marker="o", markersize=3,
            label=forecaster.name,
        )  # fmt: skip
        if forecaster is report.forecasters[0]:
            for point in points:
                if point.probability in LABELLED:
                    axes.annotate(
                        f"{point.probability:g}", (point.false_per_week, point.recall),
                        xytext=(4, -9), textcoords="offset points", fontsize=8, color=colour,
                    )  # fmt: skip
    axes.axvline(MOST_FALSE, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlim(left=0.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    tidy(axes)


def _calibration(report: WarningReport) -> Figure:
    """Draw what came over what was said, over all metrics, and how often it was said."""
    figure = Figure(figsize=(7.0, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    for forecaster, (colour, line, width) in zip(report.forecasters, STYLES, strict=False):
        bins = [each for each in forecaster.rows[-1].bins if each.origins]
        said = [each.mean_probability for each in bins]
        came = [each.reached / each.origins for each in bins]
        upper.plot(said, came, color=colour, linestyle=line, linewidth=width, label=forecaster.name)
        for x, y, each in zip(said, came, bins, strict=True):
            face = colour if each.origins >= FEW_ORIGINS else "white"
            upper.plot(x, y, "o", color=colour, markerfacecolor=face, markersize=5, zorder=3)
    bins = list(report.forecasters[0].rows[-1].bins)
    low = np.array([each.low for each in bins])
    width_of = np.array([each.high for each in bins]) - low
    counts = [each.origins for each in bins]
    lower.bar(low, counts, width_of, align="edge", color=BLUE, edgecolor="white")
    lower.set_yscale("log")
    lower.set_ylim(bottom=0.8)
    lower.set_ylabel(f"origins of {report.forecasters[0].name}", fontsize=9)
    lower.set_xlabel("forecast probability of reaching the threshold")
    upper.set_ylabel("share that reached it")
    upper.set_ylim(-0.02, 1.02)
    lower.set_xlim(-0.02, 1.02)
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.xaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (upper, lower):
        tidy(axes)
    upper.legend(frameon=False, loc="upper left", fontsize=9)
    upper.set_title(
        f"hollow: fewer than {FEW_ORIGINS} origins", fontsize=9, color=GREY, loc="right"
    )
    figure.suptitle("Calibration of the alarm probability, all metrics", fontweight="bold")
    return figure


def _lead_times(report: WarningReport) -> Figure:
    """Draw how long before their start episodes were warned of, a bar per forecaster."""
    figure = Figure(figsize=(8.0, 0.6 * len(report.forecasters) + 1.9), layout="constrained")
    axes = figure.subplots()
    edges = [report.nearest_seconds, *LEAD_LIMITS]
    labels = [
        f"{duration(low)} to {duration(high)}"
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    names = []
    for place, forecaster in enumerate(report.forecasters):
        point = forecaster.rows[-1].best_f1()
        names.append(f"{forecaster.name}\nalarm at {point.probability:g}")
        counts = [*reversed(point.lead_counts), point.episodes - point.caught]
        left = 0.0
        for count, shade, label in zip(
            counts, (*reversed(LEAD_SHADES), MISSED), (*reversed(labels), "not warned of"),
            strict=True,
        ):  # fmt: skip
            share = count / point.episodes
            axes.barh(
                place, share, left=left, color=shade, height=0.65, edgecolor="white",
                label=label if place == 0 else "_",
            )  # fmt: skip
            if share >= 0.06:
                ink = "white" if shade in LEAD_SHADES[2:] else "#1a1a1a"
                axes.text(
                    left + share / 2, place, f"{share:.0%}".replace("%", " %"), ha="center",
                    va="center", fontsize=9, color=ink,
                )  # fmt: skip
            left += share
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"share of {report.metrics[-1].episodes:,} episodes, by time of the warning")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.suptitle("Lead times, all metrics", fontweight="bold")
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """Name the lines below the figure, once."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)

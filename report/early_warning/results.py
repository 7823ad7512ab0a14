"""A backtest of alerts as plain data, and as text for the terminal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from report.early_warning.alerts import MOST_FALSE, AlertScores, OperatingPoint
from report.scores import duration
from report.text import NO_SCORE, number_cell, share_cell

ALL_METRICS = "all metrics"
WATCHED_HEADER = ("metric", "threshold", "episodes", "of servers", "may alert", "then reached")
ALERTS_HEADER = (
    "metric", "forecaster", "alarm at", "precision", "recall", "F1", "false/week", "median lead",
    "few false",
)  # fmt: skip
CURVE_HEADER = (
    "alarm at", "alerts", "precision", "recall", "F1", "false/week", "median lead",
    "lead quartiles",
)  # fmt: skip
CALIBRATION_HEADER = ("forecast probability", "origins", "mean forecast", "reached")
NOTES = (
    "episodes: those with an origin before them, in time, at which an alert could be raised",
    "may alert, then reached: origins outside a breach, and the share of them after which the "
    "threshold was reached in time",
    "alarm at: the probability of the best F1, chosen on these very origins, for every forecaster "
    "its own",
    "precision: share of alerts with an episode in time after them; recall: share of episodes "
    "warned of",
    "false/week: false alarms per server and week watched",
    f"few false: the highest recall at {MOST_FALSE:g} false alarm per server and week or fewer; "
    f"{NO_SCORE} where every alarm brings more",
)


@dataclass(frozen=True)
class WatchedMetric:
    """What there was to warn of in a metric, or in all of them together."""

    name: str
    threshold: float | None
    """In the metric's unit; None where it has none: it is not watched then."""
    origins: int
    """That may alert."""
    reached: int
    """Of these, followed by a tick at or over the threshold 30 min to 8 h ahead."""
    episodes: int
    """That could be warned of."""
    servers: int
    """Servers these episodes are of."""
    server_weeks: float
    """Time watched."""


@dataclass(frozen=True)
class ForecasterAlerts:
    """How one forecaster warned."""

    name: str
    rows: tuple[AlertScores, ...]
    """One per metric, then all of them together."""


@dataclass(frozen=True)
class WarningReport:
    """A rolling backtest of alerts."""

    step_seconds: int
    every: int
    """Ticks from one origin to the next."""
    nearest_seconds: int
    """A breach warned of starts at least so far ahead."""
    farthest_seconds: int
    """And at most so far."""
    servers: int
    origins: int
    """Forecast, whether an alert may be raised there or not."""
    origins_left_out: int
    """Not forecast, to save time."""
    first_origin: str
    """UTC time, RFC 3339."""
    last_origin: str
    metrics: tuple[WatchedMetric, ...]
    """Every target metric, then all of them together."""
    forecasters: tuple[ForecasterAlerts, ...]
    """The model first."""
    seconds: float
    """Time the backtest took."""

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "WarningReport":
        """Build it from what `to_dict` returned."""
        metrics = tuple(WatchedMetric(**metric) for metric in plain["metrics"])
        forecasters = tuple(
            ForecasterAlerts(each["name"], tuple(map(AlertScores.from_dict, each["rows"])))
            for each in plain["forecasters"]
        )
        return cls(**{**plain, "metrics": metrics, "forecasters": forecasters})


def warning_lines(report: WarningReport) -> list[str]:
    """Say in a line or two how the model warned, over all metrics; the page has the rest."""
    model, watched = report.forecasters[0], report.metrics[-1]
    if not watched.episodes:
        return ["early warning: no threshold was reached in what it was not trained on"]
    point = model.rows[-1].best_f1()
    reach = f"{duration(report.nearest_seconds)} to {duration(report.farthest_seconds)}"
    return [
        f"early warning {reach} ahead of {watched.episodes:,} breaches: precision "
        f"{share_cell(point.precision)}, recall {share_cell(point.recall)}, "
        f"{point.false_per_week:.1f} false alarms per server and week",
        f"at the best alarm probability ({point.probability:g}, chosen on these breaches); F1 "
        + ", ".join(f"{each.name} {each.rows[-1].best_f1().f1:.2f}" for each in report.forecasters),
    ]


def summary_lines(report: WarningReport) -> list[str]:
    """Say what was backtested, and what there was nothing to say of."""
    nearest, farthest = duration(report.nearest_seconds), duration(report.farthest_seconds)
    left_out = f", {report.origins_left_out:,} left out" if report.origins_left_out else ""
    lines = [
        f"{report.servers} servers, {report.origins:,} origins from {report.first_origin} to "
        f"{report.last_origin}, one every {duration(report.every * report.step_seconds)}{left_out}",
        f"a breach is warned of in time {nearest} to {farthest} before it starts",
    ]
    for metric in report.metrics[:-1]:
        if metric.threshold is None:
            lines.append(f"{metric.name}: not watched; no training row to take a threshold from")
        elif not metric.episodes:
            lines.append(
                f"{metric.name}: no episode over {number_cell(metric.threshold)} to warn of, so no "
                "recall; every alert is false"
            )
    for forecaster in report.forecasters:
        if unknown := forecaster.rows[-1].not_finite:
            lines.append(
                f"{forecaster.name}: {unknown:,} origins without a forecast, no alert there"
            )
    return lines


def watched_rows(report: WarningReport) -> list[list[str]]:
    """Write what there was to warn of, a row per metric and one of all."""
    return [
        [
            metric.name,
            NO_SCORE if metric.threshold is None else number_cell(metric.threshold),
            f"{metric.episodes:,}",
            f"{metric.servers:,}",
            f"{metric.origins:,}",
            share_cell(metric.reached / metric.origins if metric.origins else math.nan),
        ]
        for metric in report.metrics
    ]


def alert_rows(report: WarningReport) -> list[list[str]]:
    """Write how each forecaster warned of each metric that had an episode, then of all."""
    rows = []
    for number, metric in enumerate(report.metrics):
        for forecaster in report.forecasters if metric.episodes else ():
            scores = forecaster.rows[number]
            point, borne = scores.best_f1(), scores.most_recall()
            rows.append(
                [
                    metric.name,
                    forecaster.name,
                    f"{point.probability:g}",
                    *_point_cells(point),
                    f"{share_cell(borne.recall)} at {borne.probability:g}" if borne else NO_SCORE,
                ]
            )
    return rows


def curve_rows(scores: AlertScores) -> list[list[str]]:
    """Write what an alarm at each probability would have done."""
    return [
        [
            f"{point.probability:g}",
            f"{point.alerts:,}",
            *_point_cells(point),
            " to ".join(hours(point.lead_seconds[at]) for at in (0, 2))
            if point.lead_seconds
            else NO_SCORE,
        ]
        for point in scores.points
    ]


def calibration_rows(scores: AlertScores) -> list[list[str]]:
    """Write forecast probabilities beside what came."""
    return [
        [
            f"{each.low:g} to {each.high:g}",
            f"{each.origins:,}",
            share_cell(each.mean_probability if each.origins else math.nan),
            share_cell(each.reached / each.origins if each.origins else math.nan),
        ]
        for each in scores.bins
    ]


def hours(seconds: float) -> str:
    """Write 5400 as '1.5 h'."""
    return NO_SCORE if math.isnan(seconds) else f"{seconds / 3600:.1f} h"


def _point_cells(point: OperatingPoint) -> Sequence[str]:
    """Write precision, recall, F1, false alarms and median lead."""
    return (
        share_cell(point.precision),
        share_cell(point.recall),
        f"{point.f1:.2f}",
        NO_SCORE if math.isnan(point.false_per_week) else f"{point.false_per_week:.2f}",
        hours(point.median_lead),
    )

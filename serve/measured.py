"""What the run's evaluation says of alerts, to be shown beside the alerts of now."""

import math
from collections.abc import Mapping
from typing import Any

from report.early_warning.alerts import OperatingPoint
from report.early_warning.results import WarningReport

# What a reader must know to take the figures for what they are.
MEASURED = (
    "Measured by `evaluate` on ticks it was not trained on: an alarm wherever the probability of "
    "reaching the threshold 30 min to 8 h ahead is alarm_at or more, looked at every 30 minutes. "
    "They hold for that threshold, and for alerts raised at that probability: of those measured "
    "the highest that is not above the rules'. That alerts wait, and do not flap, is not measured."
)


def measured(
    evaluation: Mapping[str, Any], alarm_at: float = 0.5
) -> dict[str, dict[str, float | None]] | None:
    """Return how alerts on each metric did in a run's evaluation.

    Args:
        evaluation: what evaluation.json holds.
        alarm_at: `AlertRules.alarm_at`. The figures are of the closest probability at or below it
            that was evaluated.

    Returns:
        By metric: precision, recall, false_per_server_week and median_lead_seconds, None where
        there was nothing to measure it by; the threshold and the alarm_at they hold for; how many
        breaches they rest on. None where no alert could be judged.

    Raises:
        ValueError: the evaluation is not what `evaluate` writes.
    """
    report = _read(evaluation)
    if report is None:
        return None
    found = {}
    for watched, scores in zip(report.metrics[:-1], report.forecasters[0].rows, strict=False):
        point = _operating_point(scores.points, alarm_at)
        found[watched.name] = {
            "precision": _known(point.precision),
            "recall": _known(point.recall),
            "median_lead_seconds": _known(point.median_lead),
            "false_per_server_week": _known(point.false_per_week),
            "alarm_at": point.probability,
            "threshold": watched.threshold,
            "breaches": point.episodes,
        }
    return found


def evaluated_thresholds(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the thresholds a run was evaluated with, by metric; those it has none for left out.

    Raises:
        ValueError: the evaluation is not what `evaluate` writes.
    """
    report = _read(evaluation)
    watched = report.metrics[:-1] if report is not None else ()
    return {each.name: each.threshold for each in watched if each.threshold is not None}


def _read(evaluation: Mapping[str, Any]) -> WarningReport | None:
    """Return the evaluation's backtest of alerts; None where too little was held out for one."""
    if "early_warning" not in evaluation:
        return None
    try:
        return WarningReport.from_dict(evaluation["early_warning"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"evaluation.json: early_warning is not what `evaluate` writes ({error!r}); "
            "evaluate the run again"
        ) from error


def _operating_point(points: tuple[OperatingPoint, ...], alarm_at: float) -> OperatingPoint:
    at_or_below = [point for point in points if point.probability <= alarm_at]
    return at_or_below[-1] if at_or_below else points[0]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value

"""Alerts counted against what happened: operating points, calibration, lead times.

`report.early_warning.backtest` defines alerts and episodes. N origins, E episodes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.fleet import BoolArray, IntArray
from report.early_warning.breaches import History, Watch

FloatArray = npt.NDArray[np.floating[Any]]

# Where an alarm may be set: alerts are counted at each.
ALARM_PROBABILITIES = (
    0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95,
)  # fmt: skip
BIN_LIMITS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of forecast probabilities
LEAD_LIMITS = (3_600, 7_200, 14_400, 28_800)  # seconds: how lead times are counted
MOST_FALSE = 1.0  # false alarms per server and week an operator is taken to bear


@dataclass(frozen=True)
class OperatingPoint:
    """What an alarm at one probability would have done."""

    probability: float
    """Alerts are raised from it on."""
    alerts: int
    """Raised; consecutive alerting origins are one, for as long as an alert looks ahead."""
    true_alerts: int
    """Followed by an episode in time."""
    episodes: int
    """That could have been warned of."""
    caught: int
    """Episodes with an alerting origin in time before."""
    server_weeks: float
    """Time in which an alert could have been raised."""
    lead_seconds: tuple[float, ...]
    """Quartiles of the lead times of caught episodes; empty where none was caught."""
    lead_counts: tuple[int, ...]
    """Caught episodes by lead time, up to each of `LEAD_LIMITS`."""

    @property
    def precision(self) -> float:
        """Share of alerts that were true, NaN without an alert."""
        return self.true_alerts / self.alerts if self.alerts else math.nan

    @property
    def recall(self) -> float:
        """Share of episodes that were caught, NaN without an episode."""
        return self.caught / self.episodes if self.episodes else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 without a true alert."""
        if not self.true_alerts or not self.caught:
            return 0.0
        return 2.0 / (1.0 / self.precision + 1.0 / self.recall)

    @property
    def false_per_week(self) -> float:
        """False alarms per server and week, NaN where nothing was watched."""
        false = self.alerts - self.true_alerts
        return false / self.server_weeks if self.server_weeks else math.nan

    @property
    def median_lead(self) -> float:
        """Median lead time in seconds, NaN where nothing was caught."""
        return self.lead_seconds[1] if self.lead_seconds else math.nan


@dataclass(frozen=True)
class CalibrationBin:
    """Origins whose forecast probability lies in a range, and how many were right to worry."""

    low: float
    """Least probability; the last bin holds 1 too."""
    high: float
    """The next bin begins here."""
    origins: int
    mean_probability: float
    """0 without an origin."""
    reached: int
    """Origins after which the threshold was reached in the ticks warned of."""


@dataclass(frozen=True)
class AlertScores:
    """How one forecaster's alerts on a metric did."""

    metric: str
    points: tuple[OperatingPoint, ...]
    """By `ALARM_PROBABILITIES`."""
    bins: tuple[CalibrationBin, ...]
    brier: float | None
    """Mean squared error of the probability; None without an origin."""
    not_finite: int
    """Origins without a forecast: none of them raises an alert."""

    @property
    def brier_skill(self) -> float:
        """1 - Brier score / that of always saying the share reached; NaN where it is 0 or 1."""
        origins = sum(each.origins for each in self.bins)
        share = sum(each.reached for each in self.bins) / origins if origins else 0.0
        base = share * (1.0 - share)
        return 1.0 - self.brier / base if base and self.brier is not None else math.nan

    def best_f1(self) -> OperatingPoint:
        """Return the point of the highest F1; of equals the one of the highest probability."""
        return max(self.points, key=lambda point: (point.f1, point.probability))

    def most_recall(self, most_false: float = MOST_FALSE) -> OperatingPoint | None:
        """Return the point of the highest recall at so many false alarms per server and week.

        None where every alarm probability brings more, or nothing was watched.
        """
        bearable = [point for point in self.points if point.false_per_week <= most_false]
        return max(bearable, key=lambda point: (point.caught, point.probability), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "AlertScores":
        """Build it from what `to_dict` returned."""
        points = tuple(
            OperatingPoint(
                **{
                    **point,
                    "lead_seconds": tuple(point["lead_seconds"]),
                    "lead_counts": tuple(point["lead_counts"]),
                }
            )
            for point in plain["points"]
        )
        bins = tuple(CalibrationBin(**each) for each in plain["bins"])
        return cls(**{**plain, "points": points, "bins": bins})


class Tally(NamedTuple):
    """Counts of a metric's alerts at one probability."""

    alerts: int
    true_alerts: int
    episodes: int
    lead_ticks: IntArray  # one per caught episode


class Ranges(NamedTuple):
    """For episodes that can be warned of, the origins from which they are ahead in time."""

    start: IntArray  # [E] absolute ticks
    low: IntArray  # [E] first origin's number
    high: IntArray  # [E] last one's, plus 1


def warnable(history: History, column: int, watch: Watch) -> Ranges:
    """List the episodes of a metric before which some origin may alert in time."""
    server, start = history.episodes[column]
    # Servers lie one after the other on one axis, too far apart for a range to reach another.
    apart = watch.farthest + 1 + int(max(history.origin.max(initial=0), start.max(initial=0)))
    place = history.server * apart + history.origin
    low = np.searchsorted(place, server * apart + start + 1 - watch.farthest, side="left")
    high = np.searchsorted(place, server * apart + start + 1 - watch.nearest, side="right")
    may = np.flatnonzero(history.may_alert[:, column])
    judged = _first_within(may, low, high) >= 0
    return Ranges(start[judged], low[judged], high[judged])


def tally(
    history: History,
    column: int,
    chance: FloatArray,
    probability: float,
    watch: Watch,
    episodes: Ranges,
) -> Tally:
    """Count a metric's alerts and the episodes they warned of.

    Args:
        history: N origins.
        column: the metric's.
        chance: [N] probability of crossing; NaN raises no alert.
        probability: from which on an alert is raised.
        watch: ticks.
        episodes: `warnable` ones of the metric.
    """
    alerting = history.may_alert[:, column] & (chance >= probability)
    begins = _alert_begins(history, alerting, watch)
    number = np.cumsum(begins)
    true_alerts = np.unique(number[alerting & history.followed[:, column]])
    first = _first_within(np.flatnonzero(alerting), episodes.low, episodes.high)
    caught = first >= 0
    lead = episodes.start[caught] - history.origin[first[caught]] + 1
    return Tally(int(begins.sum()), len(true_alerts), len(episodes.start), lead)


def _alert_begins(history: History, alerting: BoolArray, watch: Watch) -> BoolArray:
    """Tell where alerts begin, [N]: after what does not alert, and again as far on as they look."""
    goes_on = np.zeros(len(alerting), dtype=np.bool_)
    goes_on[1:] = (
        alerting[:-1] & (np.diff(history.server) == 0) & (np.diff(history.origin) == watch.every)
    )
    starts_run = alerting & ~goes_on
    last_start = np.maximum.accumulate(np.where(starts_run, np.arange(len(alerting)), 0))
    renewals = (history.origin - history.origin[last_start]) // watch.farthest
    renewed = alerting & goes_on & (np.diff(renewals, prepend=0) != 0)
    return np.asarray(starts_run | renewed)


def operating_point(
    probability: float, tallies: Sequence[Tally], server_weeks: float, step_seconds: int
) -> OperatingPoint:
    """Sum tallies of one or more metrics at the same probability."""
    empty = np.empty(0, dtype=np.int64)
    lead = np.concatenate([empty, *(each.lead_ticks for each in tallies)]) * step_seconds
    upto = np.searchsorted(np.sort(lead), LEAD_LIMITS, side="right")
    quartiles = np.quantile(lead, (0.25, 0.5, 0.75)).tolist() if len(lead) else []
    return OperatingPoint(
        probability=probability,
        alerts=sum(each.alerts for each in tallies),
        true_alerts=sum(each.true_alerts for each in tallies),
        episodes=sum(each.episodes for each in tallies),
        caught=len(lead),
        server_weeks=server_weeks,
        lead_seconds=tuple(quartiles),
        lead_counts=tuple(np.diff(upto, prepend=0).tolist()),
    )


def calibration(chance: FloatArray, reached: BoolArray) -> tuple[CalibrationBin, ...]:
    """Compare forecast probabilities with what happened, in bins.

    Args:
        chance: [N] probabilities, none NaN.
        reached: [N] whether the threshold was reached.
    """
    place = np.searchsorted(BIN_LIMITS[1:-1], chance, side="right")
    bins = []
    for number, (low, high) in enumerate(zip(BIN_LIMITS[:-1], BIN_LIMITS[1:], strict=True)):
        here = place == number
        mean = float(chance[here].mean()) if here.any() else 0.0
        bins.append(CalibrationBin(low, high, int(here.sum()), mean, int(reached[here].sum())))
    return tuple(bins)


def _first_within(numbers: IntArray, low: IntArray, high: IntArray) -> IntArray:
    """Return the first of ascending numbers in each range [low, high), -1 where none is."""
    padded = np.append(numbers, np.iinfo(np.int64).max)
    first = padded[np.searchsorted(numbers, low)]
    return np.where(first < high, first, -1)

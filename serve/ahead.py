"""What an outlook says of breaches: how sure, how soon, how high.

S servers, K ticks looked at, M target metrics, Q quantiles, A alerts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.fleet import BoolArray, IntArray
from report.early_warning.crossing import crossing_probability, reached_by
from serve.alert_rules import AlertRules
from serve.outlook import Outlook, Status

STALE_SECONDS = 900  # since the end of the last tick received: older data are not of now
CHUNK = 512  # alerts whose peaks are found at once, in some 30 MB

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Ahead:
    """The breaches forecast, as far ahead as the rules look.

    Of a server that is not current this is what was last forecast, NaN and 0 where nothing was.
    """

    current: BoolArray  # [S] whether there is a forecast, from data that are not stale
    nearest: int
    """Ticks ahead of the first one warned of: what is nearer is too late to act on."""
    probability: FloatArray  # [S, M] of a breach in the ticks warned of
    any_tick: FloatArray  # [S, M] of one in these or the nearer ones
    first: IntArray  # [S, M] ticks ahead by which half of the first breaches that may come have


def ticks_warned_of(rules: AlertRules, step_seconds: int) -> slice:
    """Return the steps of a horizon that the rules warn of; step k is k + 1 ticks ahead."""
    nearest = max(int(-(-rules.nearest_minutes * 60 // step_seconds)), 1)
    return slice(nearest - 1, int(rules.farthest_minutes * 60 // step_seconds))


def look_ahead(outlook: Outlook, rules: AlertRules) -> Ahead:
    """Find the breaches in an outlook. Tick t is t - origin + 1 ahead, as in every score."""
    warned, step = ticks_warned_of(rules, outlook.step_seconds), outlook.step_seconds
    by_tick = reached_by(outlook.chance[:, : warned.stop], step)  # [S, K, M]
    any_tick = by_tick[:, -1]
    half = (by_tick >= 0.5 * any_tick[:, None]).argmax(axis=1) + 1
    return Ahead(
        current=current_servers(outlook),
        nearest=warned.start + 1,
        probability=reached_by(outlook.chance[:, warned], step)[:, -1],
        any_tick=any_tick,
        first=np.where(np.isfinite(any_tick), half, 0),
    )


def current_servers(outlook: Outlook) -> BoolArray:
    """Tell which servers have a forecast from data that are not stale, [S]."""
    forecast = np.array([each is Status.FORECAST for each in outlook.status], dtype=np.bool_)
    age = outlook.made_at - outlook.origin * float(outlook.step_seconds)
    return np.asarray(forecast & (age <= STALE_SECONDS))


def is_stale(origin: int, step_seconds: int, now: float) -> bool:
    """Tell whether the data before an origin, the first tick forecast, are stale now."""
    return now - origin * step_seconds > STALE_SECONDS


def gate_peaks(outlook: Outlook, row: IntArray, column: IntArray, rules: AlertRules) -> FloatArray:
    """Return the gate quantile of the peak in the ticks warned of, of some servers' metrics.

    It is at or over the threshold where the probability of a breach is `alarm_at` or more. Between
    values whose probability is known it lies on a straight line: these are the threshold and the
    highest value of each quantile, none of which it exceeds.

    Args:
        outlook: with a forecast of these servers.
        row: [A] servers.
        column: [A] metrics.
        rules: gate, nearest and farthest ticks.

    Returns:
        [A] in the metrics' units.
    """
    warned, levels = ticks_warned_of(rules, outlook.step_seconds), outlook.levels
    peaks = np.empty(len(row))
    for begin in range(0, len(row), CHUNK):
        rows, columns = row[begin : begin + CHUNK], column[begin : begin + CHUNK]
        forecast = outlook.quantiles[rows, warned, columns]  # [A, K, Q]
        threshold = outlook.thresholds[rows, columns]
        value = np.sort(np.c_[forecast.max(axis=1), threshold])  # [A, Q + 1]
        over = crossing_probability(
            np.repeat(forecast[:, :, None], value.shape[1], axis=2), levels, value[:, None],
            outlook.step_seconds,
        )  # fmt: skip
        for place, (x, y) in enumerate(zip(1.0 - over, value, strict=True)):
            peaks[begin + place] = np.interp(rules.gate, x, y)
    return peaks

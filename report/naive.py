"""Naive forecasts: what any model has to beat.

Each takes history with NaN where a tick is missing and looks at its last day only, so a history
padded with NaN on the left gives the same forecast as the shorter one. Without one observed value
in that day, all quantiles are the last value observed before it; with none at all, NaN. Quantiles
never cross.

N windows, T context, H horizon, M metrics, Q quantiles, D ticks in a day.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from data.fleet import BoolArray

FloatArray = npt.NDArray[np.floating[Any]]

STEPS_PER_DAY = 288  # ticks of 5 minutes
SMOOTHING_TICKS = 12  # one hour of 5-minute ticks: what `seasonal_naive` calls the trend


class NaiveForecast(Protocol):
    """A forecast from history alone."""

    def __call__(
        self,
        history: FloatArray,
        horizon: int,
        quantiles: Sequence[float],
        steps_per_day: int = STEPS_PER_DAY,
    ) -> FloatArray:
        """Forecast [N, H, M, Q] float32 from [N, T, M] history, NaN where missing."""


def last_value(
    history: FloatArray,
    horizon: int,
    quantiles: Sequence[float],
    steps_per_day: int = STEPS_PER_DAY,
) -> FloatArray:
    """Hold the last observed value.

    The 0.1 and 0.9 quantiles lie twice the mean change from tick to tick below and above it
    (0 where no two neighbouring ticks were observed); other levels follow a normal distribution
    through these two.

    Args:
        history: [N, T, M] in raw units, NaN where missing.
        horizon: H steps to forecast.
        quantiles: Q levels between 0 and 1.
        steps_per_day: D ticks in a day.

    Returns:
        [N, H, M, Q] float32.
    """
    change = np.abs(np.diff(_last_day(history, steps_per_day), axis=1))
    spread = 2.0 * _mean(change, ~np.isnan(change))  # [N, M]
    normal = NormalDist()
    scale = np.array([normal.inv_cdf(level) / normal.inv_cdf(0.9) for level in quantiles])
    return _hold(_last_observed(history)[..., None] + spread[..., None] * scale, horizon)


def seasonal_naive(
    history: FloatArray,
    horizon: int,
    quantiles: Sequence[float],
    steps_per_day: int = STEPS_PER_DAY,
) -> FloatArray:
    """Repeat yesterday's same ticks.

    Other quantiles than the median are offset by those of the day's residuals around its own
    moving mean of twelve ticks, kept below (above) zero below (above) the median. A tick missing
    yesterday is forecast around the last observed value.

    Args:
        history: [N, T, M] in raw units, NaN where missing.
        horizon: H steps to forecast; beyond a day, yesterday repeats.
        quantiles: Q levels between 0 and 1.
        steps_per_day: D ticks in a day.

    Returns:
        [N, H, M, Q] float32.
    """
    day = _last_day(history, steps_per_day)
    offsets = masked_quantiles(day - _moving_mean(day), quantiles)  # [N, M, Q]
    levels = np.asarray(quantiles)
    offsets = np.where(levels < 0.5, np.minimum(offsets, 0.0), np.maximum(offsets, 0.0))
    offsets = np.where((levels == 0.5) | np.isnan(offsets), 0.0, offsets)
    base = yesterdays_values(history, horizon, steps_per_day)
    base = np.where(np.isnan(base), _last_observed(history)[:, None], base)  # [N, H, M]
    return (base[..., None] + offsets[:, None]).astype(np.float32)


def window_quantiles(
    history: FloatArray,
    horizon: int,
    quantiles: Sequence[float],
    steps_per_day: int = STEPS_PER_DAY,
) -> FloatArray:
    """Hold the quantiles of the last day's observed values: hard to beat on bursty metrics.

    Args:
        history: [N, T, M] in raw units, NaN where missing.
        horizon: H steps to forecast.
        quantiles: Q levels between 0 and 1.
        steps_per_day: D ticks in a day.

    Returns:
        [N, H, M, Q] float32.
    """
    values = masked_quantiles(_last_day(history, steps_per_day), quantiles)  # [N, M, Q]
    last = _last_observed(history)[..., None]
    return _hold(np.where(np.isnan(values), last, values), horizon)


def straight_line(
    history: FloatArray,
    horizon: int,
    quantiles: Sequence[float],
    steps_per_day: int = STEPS_PER_DAY,
) -> FloatArray:
    """Go on along the least-squares line through the last 4 hours: Prometheus' `predict_linear`.

    Other quantiles than the median follow a normal distribution as wide as the residuals (with
    n - 2 degrees of freedom). With fewer than three observed ticks in these hours, all quantiles
    are the last value observed.

    Args:
        history: [N, T, M] in raw units, NaN where missing.
        horizon: H steps to forecast.
        quantiles: Q levels between 0 and 1.
        steps_per_day: D ticks in a day.

    Returns:
        [N, H, M, Q] float32.
    """
    recent = _last_day(history, steps_per_day)[:, -max(steps_per_day // 6, 3) :]
    observed = ~np.isnan(recent)
    tick = np.arange(-recent.shape[1], 0.0)[:, None]  # the first forecast tick is 0
    middle, level = (
        _mean(np.where(observed, tick, 0.0), observed),
        _mean(recent, observed),
    )  # [N, M]
    run = np.where(observed, tick - middle[:, None], 0.0)
    rise = np.where(observed, recent - level[:, None], 0.0)
    slope = (run * rise).sum(axis=1) / np.maximum((run**2).sum(axis=1), 1e-9)
    count = observed.sum(axis=1)
    squares = ((rise - slope[:, None] * run) ** 2).sum(axis=1)
    spread = np.sqrt(squares / np.maximum(count - 2, 1))
    scale = np.array([NormalDist().inv_cdf(level) for level in quantiles])
    ahead = np.arange(horizon)[:, None] - middle[:, None]  # [N, H, M]
    line = level[:, None] + slope[:, None] * ahead
    forecast = line[..., None] + spread[:, None, :, None] * scale
    last = _last_observed(history)[:, None, :, None]
    return np.where((count < 3)[:, None, :, None], last, forecast).astype(np.float32)


NAIVE_FORECASTS: dict[str, NaiveForecast] = {
    "last_value": last_value,
    "seasonal_naive": seasonal_naive,
    "window_quantiles": window_quantiles,
}
FLAT = "window_quantiles"  # the strongest of them on most fleets


def yesterdays_values(
    history: FloatArray, horizon: int, steps_per_day: int = STEPS_PER_DAY
) -> FloatArray:
    """Return each horizon tick's value one day before; beyond a day, the last day repeats.

    Args:
        history: [N, T, M], NaN where missing.
        horizon: H steps.
        steps_per_day: D ticks in a day.

    Returns:
        [N, H, M] float64, NaN where the tick was missing or before the history.
    """
    return _last_day(history, steps_per_day)[:, np.arange(horizon) % steps_per_day]


def masked_quantiles(values: FloatArray, quantiles: Sequence[float]) -> FloatArray:
    """Return quantiles over the ticks that are not NaN, interpolated linearly like `np.quantile`.

    Args:
        values: [N, T, M].
        quantiles: Q levels between 0 and 1.

    Returns:
        [N, M, Q] float64 that never cross, NaN where no tick was observed.
    """
    ordered = np.sort(values.transpose(0, 2, 1), axis=-1)  # [N, M, T], NaN last
    count = (~np.isnan(ordered)).sum(axis=-1, keepdims=True)
    position = np.maximum(count - 1, 0) * np.asarray(quantiles, dtype=np.float64)  # [N, M, Q]
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0))
    lower = np.take_along_axis(ordered, below, axis=-1).astype(np.float64)
    upper = np.take_along_axis(ordered, above, axis=-1).astype(np.float64)
    # The minimum keeps rounding from lifting a quantile above the next one.
    return np.asarray(np.minimum(lower + (position - below) * (upper - lower), upper))


def _last_day(history: FloatArray, steps_per_day: int) -> FloatArray:
    """Return the last D ticks in float64, NaN on the left of a shorter history, [N, D, M]."""
    windows, ticks, metrics = history.shape
    day = np.full((windows, steps_per_day, metrics), np.nan)
    kept = min(ticks, steps_per_day)
    day[:, steps_per_day - kept :] = history[:, ticks - kept :]
    return day


def _last_observed(history: FloatArray) -> FloatArray:
    """Return the last value that is not NaN, NaN where there is none, [N, M] float64."""
    newest_first = history[:, ::-1]
    position = (~np.isnan(newest_first)).argmax(axis=1)[:, None]  # 0 where none was observed
    return np.take_along_axis(newest_first, position, axis=1)[:, 0].astype(np.float64)


def _mean(values: FloatArray, observed: BoolArray) -> FloatArray:
    """Average [N, T, M] over the observed ticks, 0 where there is none."""
    total = np.where(observed, values, 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(observed.sum(axis=1), 1))


def _moving_mean(day: FloatArray) -> FloatArray:
    """Average the observed of the twelve ticks around each, six of them before it, [N, D, M].

    At the ends of the day the mean is scaled by the share of the twelve that lies inside: what
    `np.convolve(..., "same")` gives on a day without gaps, as peers are scored with.
    """
    steps = day.shape[1]
    observed = ~np.isnan(day)
    start = np.maximum(np.arange(steps) - SMOOTHING_TICKS // 2, 0)
    stop = np.minimum(np.arange(steps) + (SMOOTHING_TICKS + 1) // 2, steps)

    def window_sum(values: npt.NDArray[Any]) -> FloatArray:
        running = np.zeros((len(day), steps + 1, day.shape[2]))
        np.cumsum(values, axis=1, out=running[:, 1:])
        return running[:, stop] - running[:, start]

    mean = window_sum(np.where(observed, day, 0.0)) / np.maximum(window_sum(observed), 1.0)
    return np.asarray(mean * ((stop - start) / SMOOTHING_TICKS)[:, None])


def _hold(values: FloatArray, horizon: int) -> FloatArray:
    """Repeat [N, M, Q] over the horizon, [N, H, M, Q] float32."""
    return np.repeat(values[:, None].astype(np.float32), horizon, axis=1)

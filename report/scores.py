"""Scores of quantile forecasts in raw units, summed batch by batch.

A NaN actual is missing and left out of every score. A forecast of an observed actual that is not
finite makes the scores of its metric and their mean NaN: no forecaster gains by passing on what is
hard. `comparable` leaves out for all what naive forecasts cannot know.

N windows, H horizon steps, M metrics, Q quantiles.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

SCORED_QUANTILES = (0.1, 0.5, 0.9)  # the median and the 80 % interval
BUCKET_LIMITS = (1_800, 7_200, 28_800)  # seconds ahead: up to 30 minutes, 2 hours, 8 hours
# A pair of quantiles closer than this has not crossed: float32 rounding of equal quantiles.
CROSSING_TOLERANCE = 1e-6
MEAN = "mean"  # the row that holds the mean over metrics
_SUMS = (
    "observed", "pinball", "absolute", "error", "squared", "paired_error", "paired_season",
    "inside", "width", "crossed",
)  # fmt: skip


def pick_quantiles(
    forecast: FloatArray,
    quantiles: Sequence[float],
    wanted: Sequence[float] = SCORED_QUANTILES,
) -> FloatArray:
    """Return the wanted levels of a forecast that may carry more.

    Args:
        forecast: [..., Q] quantiles of the levels `quantiles`.
        quantiles: Q levels the forecast was made for.
        wanted: levels to pick, in the order to return them.

    Returns:
        [..., len(wanted)].

    Raises:
        ValueError: the last axis is not as long as `quantiles`, or a wanted level is not there.
    """
    if forecast.shape[-1] != len(quantiles):
        raise ValueError(
            f"forecast has {forecast.shape[-1]} quantiles on its last axis, "
            f"but {len(quantiles)} levels were given: {tuple(quantiles)}"
        )
    positions = []
    for level in wanted:
        found = [i for i, q in enumerate(quantiles) if math.isclose(q, level, abs_tol=1e-6)]
        if not found:
            raise ValueError(
                f"quantile {level} is not among the forecast's {tuple(quantiles)}; "
                f"scoring needs {tuple(wanted)}, so forecast them too"
            )
        positions.append(found[0])
    return forecast[..., positions]


def comparable(actual: FloatArray, *forecasts: FloatArray) -> FloatArray:
    """Return `actual` with NaN wherever any of the forecasts has one.

    Args:
        actual: [N, H, M].
        forecasts: each [N, H, M, Q]; Q may differ.

    Returns:
        [N, H, M], the elements on which all of them can be compared.
    """
    missing = np.isnan(actual)
    for forecast in forecasts:
        missing = missing | np.isnan(forecast).any(axis=-1)
    return np.where(missing, np.nan, actual)


def pinball(forecast: FloatArray, actual: FloatArray, quantiles: Sequence[float]) -> FloatArray:
    """Return max(q e, (q - 1) e) of the error e = actual - forecast, in float64.

    Args:
        forecast: [N, H, M, Q].
        actual: [N, H, M].
        quantiles: Q levels.

    Returns:
        [N, H, M, Q], NaN where the actual is missing.
    """
    levels = np.asarray(quantiles, dtype=np.float64)
    error = actual[..., None].astype(np.float64) - forecast
    return np.maximum(levels * error, (levels - 1.0) * error)


class Bucket(NamedTuple):
    """A stretch of the horizon: its name and half-open range of steps."""

    name: str
    start: int
    stop: int


def horizon_buckets(
    horizon: int, step_seconds: int, limits: Sequence[int] = BUCKET_LIMITS
) -> tuple[Bucket, ...]:
    """Split a horizon at times ahead: 96 steps of 300 s give steps 1-6, 7-24 and 25-96.

    Args:
        horizon: number of steps.
        step_seconds: seconds between steps; step 1 is that far ahead.
        limits: seconds ahead, ascending; a bucket ends with the last step not beyond its limit.

    Returns:
        The buckets that hold a step; where the horizon is longer, one more for the rest.
    """
    buckets = []
    start, name_start = 0, 0
    end = horizon * step_seconds
    for limit in [*(limit for limit in limits if limit < end), end]:
        stop = limit // step_seconds
        if stop > start:
            name = f"{duration(name_start)} to {duration(limit)}"
            buckets.append(Bucket(name if start else f"up to {duration(limit)}", start, stop))
            start, name_start = stop, limit
    return tuple(buckets)


@dataclass(frozen=True)
class Scores:
    """One row of scores: a metric's, or the mean over metrics."""

    metric: str
    wql: float
    """Weighted quantile loss over the scored quantiles."""
    mae: float
    """Mean absolute error of the median, in the metric's unit."""
    rmse: float
    """Root mean squared error of the median, in the metric's unit."""
    rmae_seasonal: float
    """MAE over that of yesterday's same ticks."""
    coverage: float
    """Share of actuals inside the 80 % interval."""
    width: float
    """Mean width of the 80 % interval, in the metric's unit."""
    crossing: float
    """Share of neighbouring quantiles in the wrong order."""
    observed: int
    """Actuals scored."""

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: None stands for NaN and infinity."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Scores":
        """Build a row from what `to_dict` returned."""
        values: dict[str, Any] = {
            name: math.nan if value is None else value for name, value in plain.items()
        }
        return cls(**values)


class ScoreSums:
    """Sums that give every score of the windows added so far, per metric and horizon bucket.

    Memory does not grow with the windows: the float64 sums are [H, M].
    """

    def __init__(
        self,
        metrics: Sequence[str],
        quantiles: Sequence[float],
        horizon: int,
        step_seconds: int = 300,
    ) -> None:
        """Start with nothing added; M metric names, the forecasts' Q levels and H steps are given.

        Raises:
            ValueError: a scored level is not among `quantiles`.
        """
        pick_quantiles(np.zeros(len(quantiles)), quantiles)
        self.metrics = tuple(metrics)
        self.quantiles = tuple(quantiles)
        self.buckets = horizon_buckets(horizon, step_seconds)
        self.windows = 0
        self._shape = (horizon, len(self.metrics))
        self._sums = {name: np.zeros(self._shape) for name in _SUMS}

    def add(
        self, forecast: FloatArray, actual: FloatArray, yesterday: FloatArray | None = None
    ) -> None:
        """Add a batch of windows.

        Args:
            forecast: [N, H, M, Q] in raw units; of its levels only the scored ones count.
            actual: [N, H, M], NaN where missing.
            yesterday: [N, H, M], each horizon tick's value one day before, NaN where missing;
                left out, the batch adds nothing to `rmae_seasonal`.

        Raises:
            ValueError: a shape differs from the one announced.
        """
        forecast = pick_quantiles(forecast, self.quantiles)
        if yesterday is None:
            yesterday = np.full(actual.shape, np.nan)
        expected = (len(actual), *self._shape)
        given = {"forecast": forecast.shape[:-1], "actual": actual.shape}
        for name, shape in {**given, "yesterday": yesterday.shape}.items():
            if shape != expected:
                raise ValueError(f"{name} is {shape} (N, H, M), expected {expected}")
        self.windows += len(actual)
        for name, value in _elements(forecast, actual, yesterday).items():
            self._sums[name] += value.sum(axis=0, dtype=np.float64)

    def merge(self, other: "ScoreSums") -> None:
        """Add all that was added to another, of the same metrics, levels and horizon."""
        self.add_array(other.to_array(), other.windows)

    def to_array(self) -> FloatArray:
        """Return every sum, [sums, H, M] float64, for `add_array`."""
        return np.stack([self._sums[name] for name in _SUMS])

    def add_array(self, sums: FloatArray, windows: int) -> None:
        """Add what `to_array` returned of sums of the same metrics and horizon."""
        self.windows += windows
        for name, values in zip(_SUMS, sums, strict=True):
            self._sums[name] += values

    def rows(self, bucket: Bucket | None = None) -> tuple[Scores, ...]:
        """Return one row per metric, then the mean over the metrics that have the score.

        Args:
            bucket: one of `buckets`; the whole horizon when left out.
        """
        start, stop = (0, self._shape[0]) if bucket is None else (bucket.start, bucket.stop)
        total = {name: values[start:stop].sum(axis=0) for name, values in self._sums.items()}
        count = total["observed"]
        columns: dict[str, FloatArray] = {
            "wql": _ratio(2.0 * total["pinball"], total["absolute"]),
            "mae": _ratio(total["error"], count),
            "rmse": np.sqrt(_ratio(total["squared"], count)),
            "rmae_seasonal": _ratio(total["paired_error"], total["paired_season"]),
            "coverage": _ratio(total["inside"], count),
            "width": _ratio(total["width"], count),
            "crossing": _ratio(total["crossed"], count),
        }
        rows = []
        for m, metric in enumerate(self.metrics):
            scores: dict[str, Any] = {name: float(column[m]) for name, column in columns.items()}
            rows.append(Scores(metric=metric, observed=int(count[m]), **scores))
        return (*rows, mean_row(rows))

    def bucket_rows(self) -> dict[str, tuple[Scores, ...]]:
        """Return the rows of each horizon bucket, by its name."""
        return {bucket.name: self.rows(bucket) for bucket in self.buckets}


def skill(loss: float, naive_loss: float) -> float:
    """Return 1 - loss / naive loss: above zero is better than naive; NaN where it has none."""
    return 1.0 - loss / naive_loss if naive_loss else math.nan


def mean_row(rows: Sequence[Scores]) -> Scores:
    """Return the mean of each score over the rows that have it, NaN where none has.

    All are NaN where a metric was observed but not forecast: the mean of the others would flatter.
    """
    means: dict[str, Any] = {}
    passed_on = any(row.observed and math.isnan(row.mae) for row in rows)
    for name in [
        field.name for field in fields(Scores) if field.name not in ("metric", "observed")
    ]:
        present = [getattr(row, name) for row in rows if not math.isnan(getattr(row, name))]
        means[name] = sum(present) / len(present) if present and not passed_on else math.nan
    return Scores(metric=MEAN, observed=sum(row.observed for row in rows), **means)


def _elements(
    forecast: FloatArray, actual: FloatArray, yesterday: FloatArray
) -> dict[str, FloatArray]:
    """Return what each sum of `ScoreSums` adds up, [N, H, M] each, zero where not observed."""
    forecast = np.where(np.isfinite(forecast).all(-1, keepdims=True), forecast, np.nan)
    lower, median, upper = (forecast[..., i].astype(np.float64) for i in range(3))
    inside = (actual >= lower) & (actual <= upper)
    observed = ~np.isnan(actual)
    paired = observed & ~np.isnan(yesterday)
    error = np.abs(_error(median, actual))
    values = {
        "observed": np.ones(actual.shape),
        "pinball": pinball(forecast, actual, SCORED_QUANTILES).mean(axis=-1),
        "absolute": np.abs(actual),
        "error": error,
        "squared": error**2,
        "paired_error": error,
        "paired_season": np.abs(_error(yesterday, actual)),
        "inside": np.where(np.isnan(median), np.nan, inside),
        "width": upper - lower,
        "crossed": _crossed(forecast),
    }
    return {
        name: np.where(paired if name.startswith("paired") else observed, value, 0.0)
        for name, value in values.items()
    }


def _error(estimate: FloatArray, actual: FloatArray) -> FloatArray:
    """Return actual - estimate in float64."""
    return actual.astype(np.float64) - estimate


def _crossed(forecast: FloatArray) -> FloatArray:
    """Return the share of neighbouring quantiles in the wrong order, [N, H, M]."""
    gaps = np.diff(forecast.astype(np.float64), axis=-1)
    crossed = np.where(np.isnan(gaps), np.nan, gaps < -CROSSING_TOLERANCE)
    return np.asarray(crossed.mean(axis=-1))


def _ratio(numerator: FloatArray, denominator: npt.NDArray[Any]) -> FloatArray:
    """Divide, NaN where the denominator is zero."""
    undefined = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=undefined, where=denominator != 0)
    return undefined


def duration(seconds: int) -> str:
    """Write 1800 as '30 min', 7200 as '2 h', 5400 as '1 h 30 min'."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (left, "s")) if n]
    return " ".join(parts) or "0 min"

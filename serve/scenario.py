"""What the model would forecast had the last hours been otherwise: its response, not causation.

C servers, H horizon, M target metrics, Q quantiles.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from data.fleet import Fleet, FloatArray, IntArray
from data.forecasts import BATCH_SIZE
from data.windows import WindowStore
from serve.engine import judge, judge_forecast, origins
from serve.outlook import Status
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema


@dataclass(frozen=True)
class Change:
    """What a metric's recent values become: value * scale + shift, within the metric's bounds."""

    scale: float = 1.0
    shift: float = 0.0
    """In the metric's own unit."""

    def __post_init__(self) -> None:
        """Refuse a change that makes no values."""
        if not math.isfinite(self.scale) or self.scale < 0.0:
            raise ValueError(f"scale {self.scale}: expected a finite number, at least 0")
        if not math.isfinite(self.shift):
            raise ValueError(f"shift {self.shift}: expected a finite number")


@dataclass(frozen=True)
class WhatIf:
    """One server's forecast, and the one of the changed history."""

    server: str
    profile: str | None
    origin: int
    """Absolute tick, the first forecast in both."""
    reason: str | None
    """Why there are no forecasts; None where there are."""
    unchanged: FloatArray  # [H, M, Q] raw units, NaN where there is a reason
    changed: FloatArray  # [H, M, Q] the same way
    outside_training_range: tuple[str, ...]
    """Changed metrics with a value beyond the 0.1 or 99.9 % quantile of training, or whose
    quantiles are not known."""


def what_if(
    forecaster: Forecaster,
    fleet: Fleet,
    changes: Mapping[str, Change],
    hours: float,
    now: float,
    clock_hours: float = 0.0,
) -> tuple[WhatIf, ...]:
    """Forecast servers as they are, and with some metrics' recent values or the calendar changed.

    Args:
        forecaster: in evaluation mode.
        fleet: the servers to look at, with the forecaster's columns.
        changes: by metric, target or observed.
        hours: how much of the history before the first forecast changes.
        now: Unix seconds; a server whose whole forecast is past gets none.
        clock_hours: how far on the calendar is, for history and forecast alike: Saturday's clock on
            Friday's metrics.

    Raises:
        ValueError: a metric is unknown, the hours are none or more than the model's context, or a
            changed value is too large for float32.
    """
    schema = forecaster.schema
    columns = [_column(name, schema) for name in changes]
    rows = _recent_rows(fleet, _ticks(hours, schema))
    values = fleet.values.copy()
    for column, change in zip(columns, changes.values(), strict=True):
        values[rows, column] = _changed(fleet.values[rows, column], change, column, schema)
    verdicts = judge(fleet, schema, now)
    may = np.flatnonzero([verdict.status is Status.FORECAST for verdict in verdicts])
    later = round(clock_hours * 3_600 / schema.step_seconds)
    before = _forecast(forecaster, fleet, may)
    after = _forecast(forecaster, replace(fleet, values=values), may, later)
    outside = _outside(forecaster, fleet, values, rows, columns)
    found = []
    for server, verdict in enumerate(verdicts):
        for each in (before[server], after[server]):
            if verdict.reason is None:
                verdict = judge_forecast(each, schema)
        if verdict.reason is not None:
            before[server] = after[server] = np.nan
        found.append(
            WhatIf(
                fleet.servers[server],
                fleet.profiles[server],
                int(origins(fleet)[server]),
                verdict.reason,
                before[server],
                after[server],
                tuple(schema.metric_names[c] for c in columns if outside[server, c]),
            )
        )
    return tuple(found)


def _column(name: str, schema: FeatureSchema) -> int:
    if name not in schema.metric_names:
        known = ", ".join(schema.metric_names)
        raise ValueError(f"no metric {name!r} to change; the model sees {known}")
    return schema.metric_names.index(name)


def _ticks(hours: float, schema: FeatureSchema) -> int:
    """Return how many ticks a number of hours is."""
    most = schema.context_length * schema.step_seconds / 3_600
    least = schema.step_seconds / 3_600
    if not least <= hours <= most:
        raise ValueError(
            f"hours {hours:g}: expected at least a tick, {least:g}, and at most what the model "
            f"sees, {most:g}"
        )
    return round(hours / least)


def _recent_rows(fleet: Fleet, ticks: int) -> IntArray:
    """Return the rows of every server's last ticks."""
    first = np.maximum(fleet.offsets[1:] - ticks, fleet.offsets[:-1])
    spans = [np.arange(*span) for span in zip(first, fleet.offsets[1:], strict=True)]
    return np.concatenate([np.empty(0, np.int64), *spans])


def _changed(values: FloatArray, change: Change, column: int, schema: FeatureSchema) -> FloatArray:
    """Return a metric's values changed, within its bounds; missing ones stay missing."""
    metric = schema.metrics[column]
    with np.errstate(over="ignore"):  # refused below
        exact = values.astype(np.float64) * change.scale + change.shift
        low = -math.inf if metric.lower is None else metric.lower
        high = math.inf if metric.upper is None else metric.upper
        changed = exact.clip(low, high).astype(np.float32)
    if np.isinf(changed).any():
        raise ValueError(f"metric {metric.name!r}: the change makes values too large for float32")
    return changed


def _forecast(
    forecaster: Forecaster, fleet: Fleet, servers: IntArray, later: int = 0
) -> FloatArray:
    """Return forecasts [C, H, M, Q] of some of a fleet's servers, NaN of the others.

    Their calendar is so many ticks later than it is.
    """
    schema = forecaster.schema
    shape = (schema.prediction_horizon, len(schema.targets), len(schema.quantiles))
    forecast = np.full((len(fleet.servers), *shape), np.nan, np.float32)
    store = WindowStore(fleet, schema, "cpu", forecaster.facts.servers)
    store.calendar = store.calendar.roll(-later, 0)  # of a week, so it goes round
    for start in range(0, len(servers), BATCH_SIZE):
        part = servers[start : start + BATCH_SIZE]
        batch = store.gather(part, origins(fleet)[part])
        forecast[part] = forecaster.forecast(batch.to(forecaster.quantiles.device)).cpu().numpy()
    return forecast


def _outside(
    forecaster: Forecaster, fleet: Fleet, values: FloatArray, rows: IntArray, columns: list[int]
) -> np.ndarray:
    """Tell which servers' changed rows leave the training range of which metrics."""
    facts = forecaster.facts
    whose = np.repeat(np.arange(len(fleet.servers)), fleet.lengths)[rows]
    outside = np.zeros((len(fleet.servers), len(fleet.metrics)), bool)
    for column in columns:
        recent = values[rows, column]
        low = facts.metric_low[column] if facts.metric_low else None
        high = facts.metric_high[column] if facts.metric_high else None
        if low is None or high is None:
            beyond = ~np.isnan(recent)
        else:
            beyond = (recent < low) | (recent > high)
        outside[whose[beyond], column] = True
    return outside

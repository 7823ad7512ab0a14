"""What happened to a fleet's metrics: when thresholds were reached, and what was known before.

An origin is the first tick to forecast; the tick before it is the last one known. Tick t is
t - origin + 1 ticks ahead, as in every score of `report`. `backtest` defines the words.

N origins, M target metrics, E episodes, T ticks of one series.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.cold_start import is_cold_start
from data.fleet import BoolArray, Fleet, IntArray
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

FloatArray = npt.NDArray[np.floating[Any]]

PERCENT_BOUND = 100.0  # a metric with this upper bound is a percentage
PERCENT_THRESHOLD = 90.0
TRAINING_QUANTILE = 0.995  # of any other metric
NEAREST_SECONDS, FARTHEST_SECONDS = 1_800, 28_800  # ahead: time to act, and the horizon sold
CALM_SECONDS = 1_800
SEEN_SHARE = 0.5  # of the ticks ahead, for an origin to be judged


class Watch(NamedTuple):
    """How alerts are raised and judged, in ticks."""

    every: int  # from one origin to the next
    nearest: int  # fewest ticks ahead a warned breach may start
    farthest: int  # most ticks ahead
    calm: int  # observed ticks below the threshold that end a breach
    memory: int  # how far back these may lie


def watch_ticks(schema: FeatureSchema, every: int) -> Watch:
    """Turn the times of an early warning into ticks of a schema.

    Raises:
        ValueError: `every` is not positive, or nothing 30 minutes ahead is forecast.
    """
    step = schema.step_seconds
    nearest = max(-(-NEAREST_SECONDS // step), 1)
    farthest = min(FARTHEST_SECONDS // step, schema.prediction_horizon)
    if every < 1:
        raise ValueError(f"every is {every} ticks; expected at least 1 between origins")
    if farthest < nearest:
        raise ValueError(
            f"early warning looks {NEAREST_SECONDS // 60} min to {FARTHEST_SECONDS // 3600} h "
            f"ahead, but {schema.prediction_horizon} ticks of {step} s are forecast; forecast more"
        )
    return Watch(every, nearest, farthest, max(-(-CALM_SECONDS // step), 1), schema.context_length)


def choose_thresholds(
    forecaster: Forecaster, given: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return a threshold per target metric, in its unit; NaN where there is none to be had.

    A given one counts; else 90 on a metric with an upper bound of 100; else the 99.5th percentile
    of the metric's training rows, NaN where it was in none of them.

    Raises:
        ValueError: a threshold is given for what is no target metric, or is not finite.
    """
    names, given = forecaster.schema.target_names, given or {}
    peaks = forecaster.facts.metric_peak
    for name, value in given.items():
        if name not in names:
            raise ValueError(f"threshold for {name!r}, which is not forecast; give {names}")
        if not np.isfinite(value):
            raise ValueError(f"threshold of {name} is {value}; give a finite number in its unit")
    thresholds = {}
    for column, metric in enumerate(forecaster.schema.targets):
        if metric.name in given:
            threshold = given[metric.name]
        elif metric.upper == PERCENT_BOUND:
            threshold = PERCENT_THRESHOLD
        else:
            peak = peaks[column] if peaks else None
            threshold = math.nan if peak is None else peak
        thresholds[metric.name] = float(threshold)
    return thresholds


class Episodes(NamedTuple):
    """Breach episodes of one metric, by server and start."""

    server: IntArray  # [E]
    start: IntArray  # [E] absolute ticks


@dataclass(frozen=True)
class History:
    """What is known afterwards of every origin."""

    server: IntArray  # [N], ascending
    origin: IntArray  # [N] absolute ticks, ascending within a server
    may_alert: BoolArray  # [N, M] whether an alert may be raised there
    reached: BoolArray  # [N, M] whether the threshold was reached in the ticks warned of
    followed: BoolArray  # [N, M] whether an episode started in them
    episodes: tuple[Episodes, ...]  # [M]


def look_back(
    fleet: Fleet,
    schema: FeatureSchema,
    server: IntArray,
    origin: IntArray,
    thresholds: FloatArray,
    watch: Watch,
) -> History:
    """Tell of every origin what an alert there is to be judged by.

    Args:
        fleet: series.
        schema: targets and lengths.
        server: [N] numbers in the fleet, ascending.
        origin: [N] absolute ticks, ascending within a server.
        thresholds: [M], NaN where a metric is not watched.
        watch: ticks.
    """
    N, M = len(server), len(thresholds)
    flags = np.zeros((3, N, M), dtype=np.bool_)
    found: list[list[tuple[IntArray, IntArray]]] = [[] for _ in range(M)]
    for number in np.unique(server).tolist():
        rows = slice(*np.searchsorted(server, (number, number + 1)))
        first = int(fleet.first_tick[number])
        local = origin[rows] - first
        for column in range(M):
            series = fleet.series(number)[:, column]
            start, *told = _one_series(series, float(thresholds[column]), local, watch)
            flags[:, rows, column] = told
            found[column].append((np.full(len(start), number), start + first))
    flags[0] &= ~is_cold_start(fleet, server, origin, schema)[:, None]
    empty = np.empty(0, dtype=np.int64)
    episodes = tuple(
        Episodes(*(np.concatenate([empty, *column]) for column in zip(*parts, strict=True)))
        if parts
        else Episodes(empty, empty)
        for parts in found
    )
    return History(server, origin, flags[0], flags[1], flags[2], episodes)


def _one_series(
    values: FloatArray, threshold: float, local: IntArray, watch: Watch
) -> tuple[IntArray, BoolArray, BoolArray, BoolArray]:
    """Return episode starts, and for origins `local` what `History` tells of them."""
    seen = ~np.isnan(values)
    over = seen & (values >= threshold)
    calm = _calm(seen, over, watch)
    start = np.flatnonzero(over & calm[:-1])
    started = np.zeros(len(values), dtype=np.bool_)
    started[start] = True
    ticks = watch.farthest - watch.nearest + 1
    judged = _ahead(seen, local, watch) >= SEEN_SHARE * ticks
    return (
        start,
        calm[local] & judged & bool(np.isfinite(threshold)),
        _ahead(over, local, watch) > 0,
        _ahead(started, local, watch) > 0,
    )


def _calm(seen: BoolArray, over: BoolArray, watch: Watch) -> BoolArray:
    """Tell for ticks 0..T whether the last observed ticks before it were below, [T + 1]."""
    position = np.flatnonzero(seen)
    breaches = np.concatenate([[0], np.cumsum(over[position])])
    count = np.concatenate([[0], np.cumsum(seen)])  # observed ticks before each
    enough = count >= watch.calm
    oldest = np.maximum(count - watch.calm, 0)  # of the ticks looked at, among the observed
    calm = enough & (breaches[count] == breaches[oldest])
    if len(position):
        recent = position[np.minimum(oldest, len(position) - 1)]
        calm &= recent >= np.arange(len(seen) + 1) - watch.memory
    return np.asarray(calm)


def _ahead(flags: BoolArray, local: IntArray, watch: Watch) -> IntArray:
    """Count the flags set in the ticks warned of, per origin."""
    total = np.concatenate([[0], np.cumsum(flags)])
    begin, end = (
        np.minimum(local + ahead, len(flags)) for ahead in (watch.nearest - 1, watch.farthest)
    )
    return np.asarray(total[end] - total[begin])

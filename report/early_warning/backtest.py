"""Early warning: would alerts from forecasts have come in time, and how many for nothing?

The rules of the backtest, with their defaults:

* A **breach episode** of a metric starts at a tick seen at or over its threshold when the last
  30 minutes of ticks seen before it (6 of 5 minutes) were all below, none of them older than the
  forecaster's context. It lasts until so many were seen below again. A missing tick neither starts
  nor ends one.
* **Origins** lie every 30 minutes. Tick t is t - origin + 1 ticks ahead: an origin is the first
  tick not yet known, one ahead of the last one known.
* An **alert** at probability p is raised where P(some tick 30 min to 8 h ahead is at or over the
  threshold) >= p; see `crossing`. None is raised in a breach (the last 30 minutes seen were
  not all below), on a cold start, or without a finite forecast; and an origin counts for nothing
  where less than half of the ticks 30 min to 8 h ahead were seen, as nobody knows what happened.
* Consecutive alerting origins of a server and metric are **one alert**, as on a pager. It says
  "within 8 h", so one that goes on longer is raised anew every 8 h: otherwise an alarm that never
  ends would be a single one. It is true if from one of its origins an episode starts 30 min to 8 h
  ahead; else it is a **false alarm**, also where the episode starts sooner, with no time to act.
* **Recall** is the share of episodes with an alerting origin 30 min to 8 h before their start,
  among those with an origin there that may alert. Their **lead time** is from the first of these
  alerting origins to the start.
* False alarms are per server and **week watched**: the time of origins that may alert.
* **Calibration** compares the probability with how often the threshold was in fact reached 30 min
  to 8 h ahead, over the origins that may alert. Neighbouring origins share most of these hours, so
  there is less evidence than their count suggests.

All forecasters are judged on the same origins and by the same rules, their probabilities made from
their quantiles in the same way. The operating points named best are chosen on the origins they are
judged on, which flatters all of them alike.

N origins, M target metrics.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from data.fleet import Fleet, IntArray
from data.splits import spread_evenly
from data.windows import WindowIndex, WindowStore
from report.batches import BATCH_SIZE, MODEL_NAME, naive_store
from report.early_warning.alerts import (
    ALARM_PROBABILITIES,
    AlertScores,
    calibration,
    operating_point,
    tally,
    warnable,
)
from report.early_warning.breaches import History, Watch, choose_thresholds, look_back, watch_ticks
from report.early_warning.crossing import crossing_probability
from report.early_warning.results import ALL_METRICS, ForecasterAlerts, WarningReport, WatchedMetric
from report.evaluate import iso_time
from report.naive import NaiveForecast, seasonal_naive, straight_line, window_quantiles
from tft.forecaster import Forecaster

FloatArray = npt.NDArray[np.floating[Any]]

BESIDE: dict[str, NaiveForecast] = {
    "seasonal_naive": seasonal_naive,
    "window_quantiles": window_quantiles,
    "straight_line": straight_line,
}
EVERY = 6  # ticks from one origin to the next: 30 minutes
MOST_ORIGINS = 32_768  # forecast in about a minute on one core
WEEK_SECONDS = 604_800


def backtest(
    forecaster: Forecaster,
    fleet: Fleet,
    index: WindowIndex,
    thresholds: Mapping[str, float] | None = None,
    every: int = EVERY,
    most_origins: int | None = MOST_ORIGINS,
    progress: Callable[[float], None] | None = None,
) -> WarningReport:
    """Raise alerts on what was held out, as if it came tick by tick, and judge them.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        index: windows to choose origins from, such as `report.evaluate.held_out_windows` lists.
        thresholds: in each metric's unit, for those that shall not have the default of
            `report.early_warning.breaches.choose_thresholds`.
        every: ticks from one origin to the next.
        most_origins: about so many at most; whole days of servers are left out, evenly. None: all.
        progress: called with the fraction done.

    Raises:
        ValueError: a threshold is of no target metric, nothing lies far enough ahead, or no origin
            is there.
    """
    started = time.monotonic()
    schema = forecaster.schema
    watch = watch_ticks(schema, every)
    limits = np.array(list(choose_thresholds(forecaster, thresholds).values()))
    all_servers, all_origins = _aligned(index, every)
    server, origin = _spread_days(all_servers, all_origins, schema.day_ticks, most_origins)
    if len(origin) == 0:
        raise ValueError(
            f"no origin to warn from: none of {len(index):,} windows starts at a multiple of "
            f"{every} ticks; bring more data or lower every"
        )
    history = look_back(fleet, schema, server, origin, limits, watch)
    chances = _chances(forecaster, fleet, history, limits, watch, progress)
    weeks = _server_weeks(history, watch, schema.step_seconds)
    names = (*schema.target_names, ALL_METRICS)
    return WarningReport(
        step_seconds=schema.step_seconds,
        every=every,
        nearest_seconds=watch.nearest * schema.step_seconds,
        farthest_seconds=watch.farthest * schema.step_seconds,
        servers=len(np.unique(server)),
        origins=len(origin),
        origins_left_out=len(all_origins) - len(origin),
        first_origin=iso_time(int(origin.min()), schema),
        last_origin=iso_time(int(origin.max()), schema),
        metrics=_watched(names, limits, history, watch, weeks),
        forecasters=tuple(
            ForecasterAlerts(
                name, _scores(names, history, chance, watch, weeks, schema.step_seconds)
            )
            for name, chance in chances.items()
        ),
        seconds=time.monotonic() - started,
    )


def _aligned(index: WindowIndex, every: int) -> tuple[IntArray, IntArray]:
    """Return the servers and origins [N] of an index at multiples of `every` ticks, in order."""
    counts = np.diff(index.ends, prepend=0)
    first = -(-index.first_origin // every) * every
    kept = np.maximum(-(-(index.first_origin + counts - first) // every), 0)
    run = np.repeat(np.arange(len(kept)), kept)
    position = np.arange(len(run)) - np.repeat(np.cumsum(kept) - kept, kept)
    server, origin = index.server[run], first[run] + position * every
    order = np.lexsort((origin, server))
    return server[order], origin[order]


def _spread_days(
    server: IntArray, origin: IntArray, day_ticks: int, most: int | None
) -> tuple[IntArray, IntArray]:
    """Keep whole days of servers, evenly, so that about `most` origins are left.

    Whole days, as alerts are counted by neighbouring origins.
    """
    if most is None or len(origin) <= most:
        return server, origin
    day = origin // day_ticks
    new_day = np.r_[True, (np.diff(server) != 0) | (np.diff(day) != 0)]
    number = np.cumsum(new_day) - 1
    days = int(number[-1]) + 1
    kept = np.isin(number, spread_evenly(days, max(days * most // len(origin), 1)))
    return server[kept], origin[kept]


def _chances(
    forecaster: Forecaster,
    fleet: Fleet,
    history: History,
    thresholds: FloatArray,
    watch: Watch,
    progress: Callable[[float], None] | None,
) -> dict[str, FloatArray]:
    """Return each forecaster's probability of crossing at every origin, [N, M] float32.

    Forecasts are made in batches and dropped: what stays is a number per origin and metric.
    """
    schema, device = forecaster.schema, forecaster.quantiles.device
    store = WindowStore(fleet, schema, device, forecaster.facts.servers)
    naives = naive_store(fleet, schema)
    N, M, H = len(history.origin), len(thresholds), schema.prediction_horizon
    chances = {name: np.empty((N, M), np.float32) for name in (MODEL_NAME, *BESIDE)}
    ahead = slice(watch.nearest - 1, watch.farthest)
    for begin in range(0, N, BATCH_SIZE):
        rows = slice(begin, begin + BATCH_SIZE)
        server, origin = history.server[rows], history.origin[rows]
        forecasts = {MODEL_NAME: forecaster.forecast(store.gather(server, origin)).cpu().numpy()}
        past = naives.gather(server, origin).past[:, :, :M].numpy()
        for name, naive in BESIDE.items():
            forecasts[name] = naive(past, H, schema.quantiles, schema.day_ticks)
        for name, forecast in forecasts.items():
            chances[name][rows] = crossing_probability(
                forecast[:, ahead], schema.quantiles, thresholds, schema.step_seconds
            )
        if progress is not None:
            progress(min(begin + BATCH_SIZE, N) / N)
    return chances


def _server_weeks(history: History, watch: Watch, step_seconds: int) -> list[float]:
    """Return the time watched of every metric, and that in which any of them was."""
    may = history.may_alert
    origins = [*may.sum(axis=0).tolist(), int(may.any(axis=1).sum())]
    return [count * watch.every * step_seconds / WEEK_SECONDS for count in origins]


def _watched(
    names: tuple[str, ...],
    thresholds: FloatArray,
    history: History,
    watch: Watch,
    weeks: list[float],
) -> tuple[WatchedMetric, ...]:
    """Say of every metric, then of all together, what there was to warn of."""
    found, affected = [], []
    for column, threshold in enumerate(thresholds.tolist()):
        may = history.may_alert[:, column]
        episodes = warnable(history, column, watch)
        affected.append(history.server[episodes.low])
        found.append(
            WatchedMetric(
                name=names[column],
                threshold=threshold if math.isfinite(threshold) else None,
                origins=int(may.sum()),
                reached=int((may & history.reached[:, column]).sum()),
                episodes=len(episodes.start),
                servers=len(np.unique(affected[-1])),
                server_weeks=weeks[column],
            )
        )
    together = WatchedMetric(
        name=names[-1],
        threshold=None,
        origins=sum(each.origins for each in found),
        reached=sum(each.reached for each in found),
        episodes=sum(each.episodes for each in found),
        servers=len(np.unique(np.concatenate(affected))),
        server_weeks=weeks[-1],
    )
    return (*found, together)


def _scores(
    names: tuple[str, ...],
    history: History,
    chance: FloatArray,
    watch: Watch,
    weeks: list[float],
    step_seconds: int,
) -> tuple[AlertScores, ...]:
    """Judge one forecaster's probabilities [N, M], by metric and over all metrics."""
    columns = range(chance.shape[1])
    episodes = [warnable(history, column, watch) for column in columns]
    tallies = [
        [
            tally(history, column, chance[:, column], probability, watch, episodes[column])
            for column in columns
        ]
        for probability in ALARM_PROBABILITIES
    ]
    rows = []
    for number, name in enumerate(names):
        taken = slice(number, number + 1) if number < len(columns) else slice(None)
        may = history.may_alert[:, taken]
        said, came = chance[:, taken][may], history.reached[:, taken][may]
        finite = ~np.isnan(said)
        error = said[finite] - came[finite]
        rows.append(
            AlertScores(
                metric=name,
                points=tuple(
                    operating_point(probability, counts[taken], weeks[number], step_seconds)
                    for probability, counts in zip(ALARM_PROBABILITIES, tallies, strict=True)
                ),
                bins=calibration(said[finite], came[finite]),
                brier=float(np.mean(error.astype(np.float64) ** 2)) if len(error) else None,
                not_finite=int((~finite).sum()),
            )
        )
    return tuple(rows)

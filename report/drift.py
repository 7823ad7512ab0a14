"""Tell when the data have left what a forecaster was trained on.

Two questions for each metric, of every tick from a moment on:

* Range: what share lies outside the range that 99.8 % of the training rows lay in? Warned of above
  5 %, twenty-five times what training had.
* Level: how many servers' medians have moved by more than 2 of their own standard deviations in
  training? Warned of where it is more than a quarter of the known servers, and more than one.

Chosen so as not to cry wolf. Trained on the first 25 to 90 % of the time and asked of the next day,
3 days, week and all the rest (28 questions a metric), on Bitbrains (48 servers, July and August
2013) nothing was warned of: at most 1.4 % of ticks out of range, 13 % of servers moved. On the
built-in fleet (20 servers, 30 days) at most 3.5 % and, but for one metric, 7 %: `disk_percent`
climbs all the time, and was warned of in 4 of its 28, all with half the month or less to train on.
Planted into the last fifth, a factor of 2 is found in cpu and memory of both fleets and a factor of
100, a unit confused, in every metric; idle fleets that fall further can go unnoticed.

S servers, M metrics.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.fleet import Fleet, IntArray
from data.splits import spread_evenly
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

RANGE = (0.001, 0.999)  # quantiles of the training rows
MOST_OUTSIDE = 0.05  # of the ticks
MOVED = 2.0  # of a server's own standard deviations
MOST_MOVED = 0.25  # of the servers
FLOOR = 0.1  # of the metric's median standard deviation: a constant server moves by more than that
MOST_TICKS = 2_000  # of a server that are looked at, evenly spaced

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Drift:
    """How far one metric is from its training."""

    metric: str
    ticks: int
    """Observed since the moment asked about, of all servers."""
    low: float | None
    """Of the training range, in the metric's unit; None where nothing was seen in training."""
    high: float | None
    outside: float | None
    """Share of those ticks outside the range; None with less than a day of them, or no range."""
    servers: int
    """Known from training, with a day of ticks both then and since."""
    moved: int
    """Of these, whose median moved by more than 2 of its own standard deviations."""
    shift: float | None
    """Median over these servers of the move, in standard deviations, up or down."""

    @property
    def left_range(self) -> bool:
        """Whether the range is worth a warning."""
        return self.outside is not None and self.outside > MOST_OUTSIDE

    @property
    def left_level(self) -> bool:
        """Whether the level is worth a warning."""
        return self.moved > max(1.0, MOST_MOVED * self.servers)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {**asdict(self), "left_range": self.left_range, "left_level": self.left_level}


class Levels(NamedTuple):
    """Where servers' metrics lie, and how much they vary; NaN with less than a day of ticks."""

    level: Array  # [S, M] median, in the metric's unit
    spread: Array  # [S, M] standard deviation


def server_levels(fleet: Fleet, start: int | None, stop: int | None, servers: IntArray) -> Levels:
    """Measure the rows of servers from tick `start` to before `stop`; None: from or to the end."""
    shape = (len(servers), len(fleet.metrics))
    levels = Levels(np.full(shape, np.nan), np.full(shape, np.nan))
    for row, server in enumerate(servers):
        for m, column in enumerate(_rows(fleet, int(server), start, stop).T):
            seen = column[np.isfinite(column)]
            if len(seen) >= 86_400 // fleet.step_seconds:
                seen = seen[spread_evenly(len(seen), MOST_TICKS)].astype(np.float64)
                levels.level[row, m], levels.spread[row, m] = np.median(seen), np.std(seen)
    return levels


def drift(forecaster: Forecaster, fleet: Fleet, since: int) -> tuple[Drift, ...]:
    """Compare a fleet from a moment on with what a forecaster was trained on.

    Args:
        forecaster: knows its training's range and levels.
        fleet: read with the forecaster's schema.
        since: the first tick to look at, absolute; later than training to be of any use.

    Returns:
        One for each metric, targets first; none where the forecaster keeps no range, having been
        trained before there were any.
    """
    schema, facts = forecaster.schema, forecaster.facts
    if not facts.metric_low:
        return ()
    names = schema.metric_names
    known = {name: row for row, name in enumerate(facts.servers)}
    here = np.array([s for s, name in enumerate(fleet.servers) if name in known], dtype=np.int64)
    then = [known[fleet.servers[server]] for server in here]
    table = (len(facts.servers), len(names))
    level, spread = (
        np.array(values, dtype=np.float64).reshape(table)
        for values in (facts.server_level, facts.server_spread)
    )
    typical = np.array([np.median(v[v > 0]) if (v > 0).any() else 1.0 for v in spread.T])
    now = server_levels(fleet, since, None, here).level
    moves = (now - level[then]) / np.maximum(spread, FLOOR * typical)[then]  # [S, M]
    recent = [_rows(fleet, server, since, None) for server in range(len(fleet.servers))]
    return tuple(
        _of_metric(
            name,
            np.concatenate([rows[:, m] for rows in recent]),
            (facts.metric_low[m], facts.metric_high[m]),
            moves[:, m],
            schema,
        )
        for m, name in enumerate(names)
    )


def drift_lines(drifts: Sequence[Drift]) -> list[str]:
    """Write a line for each warning; none where there is nothing to warn of."""
    if not drifts:
        return ["drift: not looked for, the forecaster keeps no training range; train it again"]
    lines = []
    for each in drifts:
        if each.left_range:
            lines.append(
                f"drift: {each.metric} left its training range: {each.outside:.1%} of "
                f"{each.ticks:,} ticks outside {each.low:.4g} to {each.high:.4g}, where 99.8 % of "
                "training lay"
            )
        if each.left_level:
            lines.append(
                f"drift: {each.metric} left its training level: the median of {each.moved} of "
                f"{each.servers} servers moved by more than {MOVED:g} standard deviations, that of "
                f"all by {each.shift:+.1f}"
            )
    return lines


def _of_metric(
    name: str,
    values: Array,
    limits: tuple[float | None, float | None],
    moves: Array,
    schema: FeatureSchema,
) -> Drift:
    """Judge one metric by its recent ticks and the moves of known servers, NaN where unknown."""
    values, moves = values[np.isfinite(values)], moves[np.isfinite(moves)]
    low, high = limits
    outside = None
    if low is not None and high is not None and len(values) >= 86_400 // schema.step_seconds:
        outside = float(((values < low) | (values > high)).mean())
    return Drift(
        metric=name,
        ticks=len(values),
        low=low,
        high=high,
        outside=outside,
        servers=len(moves),
        moved=int((np.abs(moves) > MOVED).sum()),
        shift=float(np.median(moves)) if len(moves) else None,
    )


def _rows(fleet: Fleet, server: int, start: int | None, stop: int | None) -> Array:
    """Return one server's rows from tick `start` to before `stop`, [ticks, M], as a view."""
    first, length = int(fleet.first_tick[server]), int(fleet.lengths[server])
    begin = 0 if start is None else min(max(start - first, 0), length)
    end = length if stop is None else min(max(stop - first, 0), length)
    return fleet.series(server)[begin:end]

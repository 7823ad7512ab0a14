"""A running service judges its own forecasts when what they were about has come.

Once an hour a forecast of each server is put by, until its horizon and half an hour for late rows
have passed; then it is scored by the rules of `report.scores`, added to the sums of its hour, and
thrown away. So what is kept does not grow: `MOST_SERVERS` forecasts an hour, for as many hours as
the horizon has, and a week of hourly sums, each for its own model.

N forecasts, H horizon steps, M target metrics.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from data.fleet import Fleet
from report.results import as_json
from report.scores import SCORED_QUANTILES, ScoreSums, pick_quantiles
from serve.outlook import Outlook, Status
from serve.state import FleetState
from serve.store import Store

HOUR = 3600
DAY, WEEK = 24, 168  # hours
LATE_SECONDS = 1800  # rows later than that after the horizon are not waited for
MOST_SERVERS = 500  # of a larger fleet, always the same ones by a stable hash
SCORED_AT_ONCE = 250
COVERAGE_MARGIN = 0.10  # to either side of the evaluated coverage
WORSE = 1.5  # times the evaluated loss
FEWEST = 20  # forecasts below which nothing is said of drift

_TABLES = (
    "CREATE TABLE IF NOT EXISTS forecasts (server TEXT, hour INTEGER, model TEXT NOT NULL,"
    " origin INTEGER NOT NULL, due INTEGER NOT NULL, quantiles BLOB NOT NULL,"
    " PRIMARY KEY (server, hour))",
    "CREATE INDEX IF NOT EXISTS forecasts_due ON forecasts (due)",
    "CREATE TABLE IF NOT EXISTS live_scores (model TEXT, hour INTEGER, windows INTEGER NOT NULL,"
    " sums BLOB NOT NULL, PRIMARY KEY (model, hour))",
)


class Evaluated(NamedTuple):
    """What `evaluate` measured of a metric; by default what is expected where nothing was."""

    loss: float = math.inf
    """Weighted quantile loss of the 0.1, 0.5 and 0.9 quantiles."""
    coverage: float = 0.80
    """Of the 80 % interval."""

    @property
    def coverage_range(self) -> tuple[float, float]:
        """Lowest and highest coverage that is no drift."""
        low, high = self.coverage - COVERAGE_MARGIN, self.coverage + COVERAGE_MARGIN
        return max(round(low, 9), 0.0), min(round(high, 9), 1.0)


@dataclass(frozen=True)
class LiveScore:
    """How forecasts whose horizon ended in a stretch of time did, of one metric."""

    coverage: float
    """Share of what came inside the 80 % interval."""
    quantile_loss: float
    """Weighted quantile loss of the 0.1, 0.5 and 0.9 quantiles; NaN if all that came was zero."""
    forecasts: int
    """Forecasts of a server scored."""


@dataclass(frozen=True)
class LiveSummary:
    """What the current model's past forecasts were worth."""

    day: Mapping[str, LiveScore]
    """By metric, of the last 24 hours; a metric is left out while nothing of it was scored."""
    week: Mapping[str, LiveScore]
    """The same of the last seven days."""
    drift: tuple[str, ...]
    """A line for each metric that has left the range of its evaluation."""

    def to_dict(self, metrics: Sequence[str]) -> dict[str, Any]:
        """Return what JSON can hold, None where nothing was scored."""
        spans = {"day": self.day, "week": self.week}
        return {
            name: {
                span: as_json(asdict(scores[name])) if name in scores else None
                for span, scores in spans.items()
            }
            for name in metrics
        }


NOTHING_SCORED = LiveSummary({}, {}, ())


class _Kept(NamedTuple):
    """A forecast put by: a row of the table `forecasts`."""

    server: str
    hour: int
    """Of the origin, by the server's own clock: see `_keep`."""
    model: str
    origin: int
    due: int
    """The tick that must have come before it is scored."""
    quantiles: bytes  # [H, M, 3] float32


class LiveScores:
    """Keeps forecasts, scores them in their time, and sums up; for one thread."""

    def __init__(
        self, store: Store, state: FleetState, evaluated: Mapping[str, Evaluated] | None = None
    ) -> None:
        """Go on from what the store holds.

        Args:
            store: keeps forecasts and sums.
            state: knows what came.
            evaluated: scores by metric, see `evaluated_scores`; None, or a metric left out: 80 % of
                what comes is expected in its interval, and its loss is compared with nothing.
        """
        self.evaluated: Mapping[str, Evaluated] = evaluated or {}
        self.summary = NOTHING_SCORED
        """As of the last update; replaced as a whole, so any thread may read it."""
        self._store, self._state = store, state
        with store.transaction() as db:
            for statement in _TABLES:
                db.execute(statement)

    def update(self, outlook: Outlook) -> None:
        """Put forecasts of a new outlook by, score those whose time has come, and sum up.

        Raises:
            ValueError: the outlook lacks one of the scored quantiles.
            OSError: the store cannot be written.
        """
        self._keep(outlook)
        while self._score_due(outlook):
            pass
        now = int(outlook.made_at) // HOUR
        with self._store.transaction() as db:
            db.execute("DELETE FROM live_scores WHERE hour <= ?", (now - WEEK,))
        day, week = (self._scores(outlook, now - hours) for hours in (DAY, WEEK))
        self.summary = LiveSummary(day, week, drift_lines(day, week, self.evaluated))

    def _keep(self, outlook: Outlook) -> None:
        step, sample = outlook.step_seconds, scored_servers(outlook.servers)
        wait = outlook.quantiles.shape[1] - (-LATE_SECONDS // step)  # ticks from the origin on
        kept = []
        for row, name in enumerate(outlook.servers):
            origin = int(outlook.origin[row])
            known = origin + wait <= (self._state.newest_tick or 0)  # it was scored, or never will
            if name not in sample or known or outlook.status[row] is not Status.FORECAST:
                continue
            # A server's hours begin at a second of its own, so that no tick has all the work.
            hour = (origin * step + sample[name] % HOUR) // HOUR
            quantiles = pick_quantiles(outlook.quantiles[row], outlook.levels)  # [H, M, 3]
            blob = quantiles.astype("<f4").tobytes()
            kept.append(_Kept(name, hour, outlook.model.hash, origin, origin + wait, blob))
        with self._store.transaction() as db:  # the first of an hour stays
            db.executemany("INSERT OR IGNORE INTO forecasts VALUES (?, ?, ?, ?, ?, ?)", kept)

    def _score_due(self, outlook: Outlook) -> bool:
        """Score some of the forecasts that are due, and tell whether there were any."""
        with self._store.transaction() as db:
            due = [
                _Kept(*row)
                for row in db.execute(
                    "SELECT * FROM forecasts WHERE due <= ? LIMIT ?",
                    (self._state.newest_tick or 0, SCORED_AT_ONCE),
                )
            ]
        fleet = self._state.fleet({each.server for each in due})
        groups: dict[tuple[str, int], list[_Kept]] = {}
        for each in due:
            hour = each.due * outlook.step_seconds // HOUR
            groups.setdefault((each.model, hour), []).append(each)
        # Sums grow and forecasts go in one transaction: killed in between, none counts twice.
        with self._store.transaction() as db:
            for key, group in groups.items():
                sums = _score(outlook, fleet, group)
                select = "SELECT windows, sums FROM live_scores WHERE model = ? AND hour = ?"
                _add(sums, db.execute(select, key))
                blob = sums.to_array().astype("<f8").tobytes()
                db.execute(
                    "INSERT OR REPLACE INTO live_scores VALUES (?, ?, ?, ?)",
                    (*key, sums.windows, blob),
                )
            db.executemany(
                "DELETE FROM forecasts WHERE server = ? AND hour = ?", [each[:2] for each in due]
            )
        return bool(due)

    def _scores(self, outlook: Outlook, after: int) -> dict[str, LiveScore]:
        """Return by metric the scores of the current model's forecasts due after an hour."""
        total = _no_sums(outlook, outlook.quantiles.shape[1])
        select = "SELECT windows, sums FROM live_scores WHERE model = ? AND hour > ?"
        with self._store.transaction() as db:
            _add(total, db.execute(select, (outlook.model.hash, after)))
        return {
            row.metric: LiveScore(row.coverage, row.wql, total.windows)
            for row in total.rows()[:-1]
            if row.observed
        }


def scored_servers(names: Iterable[str]) -> dict[str, int]:
    """Return a stable hash of each server that is scored, `MOST_SERVERS` at most."""
    hashes = {
        name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        for name in names
    }
    chosen = sorted(hashes, key=lambda name: (hashes[name], name))[:MOST_SERVERS]
    return {name: hashes[name] for name in chosen}


def evaluated_scores(evaluation: Mapping[str, Any]) -> dict[str, Evaluated]:
    """Return the model's scores by metric, of what `evaluate` wrote as JSON.

    Raises:
        ValueError: it holds no scores of a model.
    """
    try:
        return {
            row["metric"]: Evaluated(
                math.inf if row["wql"] is None else float(row["wql"]),
                Evaluated().coverage if row["coverage"] is None else float(row["coverage"]),
            )
            for row in evaluation["forecasters"][0]["rows"]
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            "the evaluation holds no scores of a model; run `evaluate` again"
        ) from error


def drift_lines(
    day: Mapping[str, LiveScore],
    week: Mapping[str, LiveScore],
    evaluated: Mapping[str, Evaluated],
) -> tuple[str, ...]:
    """Say of each metric whether its forecasts left what is expected of them.

    Those of the last day, or else those of the last week, of which there are more.
    """
    lines: list[str] = []
    for name in {**week, **day}:
        expected = evaluated.get(name, Evaluated())
        spans = [
            (scores[name], f"of {scores[name].forecasts:,} forecasts of the last {span}")
            for span, scores in (("day", day), ("week", week))
            if name in scores and scores[name].forecasts >= FEWEST
        ]
        for drift in (_coverage_drift, _loss_drift):
            told = (drift(score, expected, which) for score, which in spans)
            lines += (f"{name}: {line}" for line in islice(filter(None, told), 1))
    return tuple(lines)


def _coverage_drift(score: LiveScore, expected: Evaluated, which: str) -> str | None:
    low, high = expected.coverage_range
    if low <= score.coverage <= high:
        return None
    return (
        f"the 80 % interval {which} held {score.coverage:.0%} of what came, expected {low:.0%} to "
        f"{high:.0%}"
    )


def _loss_drift(score: LiveScore, expected: Evaluated, which: str) -> str | None:
    if not score.quantile_loss > WORSE * expected.loss:  # NaN is none
        return None
    return (
        f"the weighted quantile loss {which} is {score.quantile_loss:.3g}, over {WORSE:g} times "
        f"the evaluated {expected.loss:.3g}"
    )


def _no_sums(outlook: Outlook, horizon: int) -> ScoreSums:
    return ScoreSums(outlook.metrics, SCORED_QUANTILES, horizon, outlook.step_seconds)


def _add(sums: ScoreSums, rows: Iterable[tuple[int, bytes]]) -> None:
    """Add windows and sums of rows of the table `live_scores`."""
    for windows, blob in rows:
        sums.add_array(np.frombuffer(blob, "<f8").reshape(sums.to_array().shape), windows)


def _score(outlook: Outlook, fleet: Fleet, group: Sequence[_Kept]) -> ScoreSums:
    """Score forecasts of one model; one of which nothing came is not counted."""
    shape = (len(group), -1, len(outlook.metrics), len(SCORED_QUANTILES))
    forecast = np.frombuffer(b"".join(each.quantiles for each in group), "<f4").reshape(shape)
    N, H, M, _ = forecast.shape
    actual = np.full((N, H, M), np.nan, np.float32)
    places = {name: place for place, name in enumerate(fleet.servers)}
    for row, each in enumerate(group):
        if each.server in places:
            place = places[each.server]
            ticks = np.arange(each.origin, each.origin + H) - fleet.first_tick[place]
            inside = (ticks >= 0) & (ticks < fleet.lengths[place])
            actual[row, inside] = fleet.series(place)[ticks[inside], :M]
    came = ~np.isnan(actual).all(axis=(1, 2))
    sums = _no_sums(outlook, H)
    sums.add(forecast[came], actual[came])
    return sums

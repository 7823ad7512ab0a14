"""From queries to ticks: which times to ask for, in what portions, and where answers belong.

A tick's step is that of `data.reading`: it starts up to 30 s (at most a tenth of a step) before the
tick's own time. A tick is asked for when its time plus a step has come, so its samples have as long
again to arrive.

Shapes: S servers, N ticks, M metrics.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.fleet import IntArray
from data.prometheus.client import Client, Series, TooLargeError
from data.prometheus.queries import Queries
from data.reading.clean import EARLY_MILLISECONDS

MOST_POINTS = 11_000  # of one series in one answer; the server refuses more
MOST_VALUES = 500_000  # of all series in one answer, to decode 100 MB at most
MANY_SERIES = 10_000  # what the first answer is taken to hold
Progress = Callable[[float], None]


class Block(NamedTuple):
    """What servers reported in some ticks."""

    servers: tuple[str, ...]
    """Sorted; those with any value."""
    profiles: tuple[str | None, ...]
    """Each server's, by its newest series."""
    first_tick: int
    values: npt.NDArray[np.float64]  # [S, N, M], NaN where missing


class Row(NamedTuple):
    """What one server reported in one tick."""

    server: str
    tick: int
    """Unix seconds // step_seconds."""
    profile: str | None
    values: dict[str, float | None]
    """By metric; None where missing or not finite."""


class Fetcher:
    """Asks one Prometheus for ticks."""

    def __init__(self, client: Client, queries: Queries) -> None:
        self.client, self.queries = client, queries
        self._step = queries.step_seconds * 1_000  # milliseconds, as all times here
        self._early = min(EARLY_MILLISECONDS, self._step // 10)
        self._lookback: int | None = None
        self._most_points = MOST_POINTS
        self._most_series = 0  # in any answer so far

    def end_tick(self, now: float) -> int:
        """Return the first tick that is not over, by a clock and by the server's, the earlier.

        Args:
            now: Unix seconds. Where this clock runs ahead of the server's, ticks whose samples are
                still to come would be taken for missing ones.
        """
        return math.floor(min(now, self.client.number("time()"))) // self.queries.step_seconds

    def block(self, first: int, end: int, progress: Progress = lambda share: None) -> Block:
        """Fetch the ticks from `first` to before `end`.

        Raises:
            ValueError: a query is refused, or its answer does not say which server's a value is.
            ConnectionError: no answer after all attempts.
        """
        if self._lookback is None:
            self._lookback = self._measure_lookback()
        names = tuple(self.queries.metrics)
        cells = _Cells(self.queries, first, end)
        for column, name in enumerate(names):
            promql = self.queries.promql(name, self._lookback)
            for answer, done in self._portions(promql, first, end):
                for series in answer:
                    cells.put(column, series, self._ticks(series, first, end))
                progress((column + done) / len(names))
        return cells.block()

    def latest(self, since: float, now: float) -> list[Row]:
        """Fetch the ticks that ended after `since`, up to `now`, the oldest first.

        So one question that begins where another ended leaves out no tick. A row that came late to
        the server is found by asking for its tick again.

        Args:
            since: Unix seconds.
            now: Unix seconds.

        Returns:
            A row for each server and tick with a value.
        """
        first, end = math.floor(since) // self.queries.step_seconds, self.end_tick(now)
        if first >= end:
            return []
        block, names = self.block(first, end), tuple(self.queries.metrics)
        ticks, servers = np.nonzero(~np.isnan(block.values).all(axis=2).T)
        return [
            Row(
                block.servers[s],
                first + n,
                block.profiles[s],
                {
                    name: value if math.isfinite(value) else None
                    for name, value in zip(names, block.values[s, n].tolist(), strict=True)
                },
            )
            for n, s in zip(ticks.tolist(), servers.tolist(), strict=True)
        ]

    def _portions(self, promql: str, first: int, end: int) -> Iterator[tuple[list[Series], float]]:
        """Yield answers no larger than the server gives them, and the share of ticks done."""
        start = first
        while start < end:
            fits = max(1, MOST_VALUES // (self._most_series or MANY_SERIES))
            stop = min(end, start + min(self._most_points, fits))
            try:
                answer = self.client.series(
                    promql, self._time(start), self._time(stop - 1), self.queries.step_seconds
                )
            except TooLargeError as error:
                if stop - start == 1:
                    raise ValueError(
                        f"{error}; that was for a single tick: raise the server's own "
                        "limits (or --timeout of ingest), or ask for fewer series"
                    ) from error
                self._most_points = (stop - start) // 2
                continue
            self._most_series = max(self._most_series, len(answer), 1)
            start = stop
            yield answer, (start - first) / (end - first)

    def _time(self, tick: int) -> int:
        """Return the last millisecond of a tick's step: where a query looks back from."""
        return (tick + 1) * self._step - self._early - 1

    def _ticks(self, series: Series, first: int, end: int) -> IntArray:
        """Return the tick of each value of a series, [n]."""
        ticks = (series.milliseconds + self._early + 1) // self._step - 1
        in_place = (ticks >= first) & (ticks < end)
        if not (in_place & (ticks * self._step == series.milliseconds - self._time(0))).all():
            raise ValueError(
                f"{self.client.endpoint.url} answers for other times than those asked for; "
                "expected a Prometheus, which answers for exactly these"
            )
        return ticks

    def _measure_lookback(self) -> int:
        """Return how far to look back so that two ticks share no millisecond and leave out none.

        Up to Prometheus 2 a range holds both its ends, from Prometheus 3 on only the later one.
        """
        samples = self.client.number("scalar(count_over_time(vector(1)[2s:1s]))", at=1_000_000_000)
        if samples not in (2, 3):
            raise ValueError(
                f"{self.client.endpoint.url} finds {samples:g} samples a second apart in two "
                "seconds; expected 3, as Prometheus 2 does, or 2, as Prometheus 3"
            )
        return self._step - 1 if samples == 3 else self._step


class _Cells:
    """What was found so far: values by server, each in its place."""

    def __init__(self, queries: Queries, first: int, end: int) -> None:
        self.queries, self.first, self.end = queries, first, end
        self.names = tuple(queries.metrics)
        self.values: dict[str, npt.NDArray[np.float64]] = {}  # [N, M]
        self.profiles: dict[str, tuple[int, str | None]] = {}  # newest tick of a series, profile

    def put(self, column: int, series: Series, ticks: IntArray) -> None:
        """Take in a series of a metric; ticks [n]."""
        place = f"query {self.names[column]}"
        server = series.labels.get(self.queries.server_label, "").strip()
        if not server:
            raise ValueError(
                f"{place}: series {series} has no label {self.queries.server_label!r}, which names "
                "the server; keep it with by (...), or name another in server_label"
            )
        shape = (self.end - self.first, len(self.names))
        if server not in self.values:
            self.values[server] = np.full(shape, np.nan)
        cells = self.values[server][:, column]  # a view
        seen = ~np.isnan(series.values)
        rows = ticks[seen] - self.first
        if not np.isnan(cells[rows]).all():
            tick = self.first + int(rows[~np.isnan(cells[rows])][0])
            time = np.datetime64(tick * self.queries.step_seconds, "s")
            raise ValueError(
                f"{place}: server {server!r} has two values at {time}Z, the second of {series}; "
                "make them one in the query, such as avg by ($labels) (...)"
            )
        cells[rows] = series.values[seen]
        if self.queries.profile_label and len(rows):
            profile = series.labels.get(self.queries.profile_label) or None
            newest = self.profiles.get(server, (0, None))
            self.profiles[server] = max(newest, (int(ticks.max()), profile), key=lambda p: p[0])

    def block(self) -> Block:
        """Return it all, servers sorted."""
        servers = sorted(name for name, cells in self.values.items() if not np.isnan(cells).all())
        values = np.zeros((len(servers), self.end - self.first, len(self.names)))
        for number, name in enumerate(servers):
            values[number] = self.values[name]
        profiles = tuple(self.profiles.get(name, (0, None))[1] for name in servers)
        return Block(tuple(servers), profiles, self.first, values)

"""An outlook as JSON, made once for all its readers: what is long is bytes already when asked for.

What depends on the moment, whether a server's data are stale, is put in between for each answer.

S servers, H horizon steps, M target metrics, Q quantiles.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from report.early_warning.crossing import reached_by
from report.scores import SCORED_QUANTILES
from serve.ahead import STALE_SECONDS, look_ahead
from serve.alert_rules import AlertRules
from serve.outlook import Outlook, Status
from serve.times import utc

PEAK_LEVELS = (0.5, 0.9)
HOUR = 3600


class Rendering:
    """The answers that an outlook gives."""

    def __init__(self, outlook: Outlook, rules: AlertRules) -> None:
        """Write down what every reader is told.

        Args:
            outlook: of the newest tick.
            rules: which say how probable a breach must be to be told.
        """
        self.outlook = outlook
        self.rows = {name: row for row, name in enumerate(outlook.servers)}
        self.usual = tuple(
            column for column, level in enumerate(outlook.levels) if level in SCORED_QUANTILES
        )
        ends = outlook.origin.astype(np.float64) * outlook.step_seconds
        self.stale_from: list[float] = (ends + STALE_SECONDS).tolist()
        self.hours = _hours(outlook)
        self._breaches = _Breaches(outlook, rules, self.hours)
        self.order = self._breaches.order()
        self._heads = [_head(outlook, row) for row in range(len(outlook.servers))]
        self._lines = [self._line(row) for row in range(len(outlook.servers))]
        every, H = range(len(outlook.metrics)), outlook.quantiles.shape[1]
        self._usual = [self._metrics(row, every, self.usual, H) for row in range(len(self.rows))]

    def steps(self, minutes: float) -> int:
        """Return in how many steps of the horizon so many minutes have passed."""
        steps = math.ceil(minutes * 60 / self.outlook.step_seconds)
        return min(steps, self.outlook.quantiles.shape[1])

    def head(self, row: int, now: float) -> bytes:
        """Return the members every entry of a server begins with."""
        before, after = self._heads[row]
        return before + (b"true" if now > self.stale_from[row] else b"false") + after

    def fleet(self, now: float) -> list[bytes]:
        """Return an entry for each server, the ones in trouble first."""
        return [b"{" + self.head(row, now) + self._lines[row] + b"}" for row in self.order]

    def forecast(
        self,
        row: int,
        now: float,
        columns: Sequence[int] | None = None,
        levels: Sequence[int] | None = None,
        steps: int | None = None,
    ) -> bytes:
        """Return the members of a server's forecast, without the braces.

        Args:
            row: of the server.
            now: Unix seconds.
            columns: of the metrics told; None: all.
            levels: places of the quantiles told; None: the usual ones.
            steps: how many ticks; None: all.
        """
        if columns is levels is steps is None:
            metrics = self._usual[row]
        else:
            M, H = len(self.outlook.metrics), self.outlook.quantiles.shape[1]
            metrics = self._metrics(
                row,
                range(M) if columns is None else columns,
                self.usual if levels is None else levels,
                H if steps is None else steps,
            )
        first = self.outlook.origin[row] * self.outlook.step_seconds
        known = self.outlook.status[row] is Status.FORECAST
        first_tick = plain(utc(float(first)) if known else None)
        return self.head(row, now) + b',"first_tick":' + first_tick + b',"metrics":' + metrics

    def breaches(self, row: int) -> list[dict[str, Any]]:
        """Return what is to be said of each watched metric of a server."""
        return self._breaches.of(row)

    def _metrics(
        self, row: int, columns: Iterable[int], levels: Sequence[int], steps: int
    ) -> bytes:
        """Write a server's numbers; an empty list where there is no forecast."""
        outlook = self.outlook
        if outlook.status[row] is not Status.FORECAST:
            return b"[]"
        entries = []
        for column in columns:
            values = outlook.quantiles[row, :steps, column]  # [H, Q]
            quantiles = ",".join(
                f'"{outlook.levels[q]:g}":' + numbers(values[:, q].tolist()) for q in levels
            )
            threshold = float(outlook.thresholds[row, column])
            entries.append(
                f'{{"metric":{json.dumps(outlook.metrics[column])},'
                f'"threshold":{"null" if np.isnan(threshold) else f"{threshold:.7g}"},'
                f'"quantiles":{{{quantiles}}}}}'
            )
        return ("[" + ",".join(entries) + "]").encode()

    def _line(self, row: int) -> bytes:
        """Write what the overview adds to a server's head."""
        origin = utc(float(self.outlook.origin[row]) * self.outlook.step_seconds)
        known = self.outlook.status[row] is Status.FORECAST
        line = {"origin": origin if known else None} | self._breaches.line(row)
        return b"," + plain(line)[1:-1]


class _Breaches:
    """What an outlook says of thresholds, of all servers."""

    def __init__(self, outlook: Outlook, rules: AlertRules, hours: Sequence[float]) -> None:
        self.outlook = outlook
        ahead = look_ahead(outlook, rules)
        # [S, M] ticks ahead, 0: none is forecast with the probability that raises an alert
        self.first = np.where(ahead.any_tick >= rules.alarm_at, ahead.first, 0)
        last = [max(int(hour * HOUR) // outlook.step_seconds, 1) - 1 for hour in hours]
        by_tick = reached_by(outlook.chance, outlook.step_seconds)  # [S, H, M]
        self.by_hour = by_tick[:, last]  # [S, hours, M]
        self.any = self.by_hour[:, -1]  # [S, M] in the whole horizon
        self.over = outlook.latest >= outlook.thresholds  # [S, M] already, in the last tick
        known = np.where(np.isnan(self.any), -1.0, self.any)
        self.worst = known.argmax(axis=1)  # [S]
        self.watched = known.max(axis=1) >= 0.0  # [S] whether there is a probability at all

    def soonest(self, row: int) -> int | None:
        """Return the metric whose forecast reaches its threshold first."""
        first = self.first[row]
        found = np.flatnonzero(first > 0)
        return int(found[np.argmin(first[found])]) if len(found) else None

    def order(self) -> list[int]:
        """Sort servers: those over a threshold, by first breach, by probability, by name."""

        def key(row: int) -> tuple[bool, float, float, str]:
            metric = self.soonest(row)
            at = np.inf if metric is None else self.time(row, metric)
            chance = self.any[row, self.worst[row]] if self.watched[row] else -1.0
            over = bool(self.over[row].any())
            return not over, float(at), -float(chance), self.outlook.servers[row]

        return sorted(range(len(self.outlook.servers)), key=key)

    def time(self, row: int, metric: int) -> float:
        """Return Unix seconds of a first breach."""
        tick = int(self.outlook.origin[row]) + int(self.first[row, metric]) - 1
        return float(tick * self.outlook.step_seconds)

    def line(self, row: int) -> dict[str, Any]:
        """Return what the overview says of a server."""
        metrics, soonest = self.outlook.metrics, self.soonest(row)
        known = {"over": [metrics[column] for column in np.flatnonzero(self.over[row])]}
        if not self.watched[row]:
            return known | {"worst_metric": None, "chance_by_hour": None, "first_breach": None}
        chance = np.nanmax(self.by_hour[row], axis=-1)
        return known | {
            "worst_metric": metrics[self.worst[row]],
            "chance_by_hour": [round(float(each), 4) for each in chance],
            "first_breach": None
            if soonest is None
            else {
                "metric": metrics[soonest],
                "at": utc(self.time(row, soonest)),
                "probability": round(float(self.any[row, soonest]), 4),
            },
        }

    def of(self, row: int) -> list[dict[str, Any]]:
        """Return an entry for each metric of a server that is watched and forecast."""
        outlook, found = self.outlook, []
        peak = outlook.quantiles[row].max(axis=0)  # [M, Q]
        for column, metric in enumerate(outlook.metrics):
            if np.isnan(self.any[row, column]):
                continue
            first = int(self.first[row, column])
            found.append(
                {
                    "metric": metric,
                    "threshold": float(f"{outlook.thresholds[row, column]:.7g}"),
                    "probability": round(float(self.any[row, column]), 4),
                    "first_breach": utc(self.time(row, column)) if first else None,
                    "lead_seconds": float(first * outlook.step_seconds) if first else None,
                    "peak": {
                        f"{level:g}": float(f"{peak[column, q]:.6g}")
                        for q, level in enumerate(outlook.levels)
                        if level in PEAK_LEVELS
                    },
                }
            )
        return found


def answer(head: dict[str, Any], *members: bytes) -> bytes:
    """Put an answer together from its head and further members, each `"name":value`."""
    return b",".join([plain(head)[:-1], *members]) + b"}"


def member(name: str, value: Any) -> bytes:
    """Write one member of an answer."""
    return f'"{name}":'.encode() + plain(value)


def listed(name: str, entries: Iterable[bytes]) -> bytes:
    """Write one member that is a list of what is written already."""
    return f'"{name}":['.encode() + b",".join(entries) + b"]"


def numbers(values: Sequence[float]) -> str:
    """Write a list of numbers, with six significant digits; NaN is null.

    One format of the whole list takes a third of the time of `json.dumps`, and 160 servers have
    184,000 numbers.
    """
    text = ",".join(["%.6g"] * len(values)) % tuple(values)
    return "[" + text.replace("nan", "null") + "]"


def plain(value: Any) -> bytes:
    """Write JSON; NaN, which is none, is a mistake of ours."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _hours(outlook: Outlook) -> list[float]:
    """Return 1, 2 and so on up to the horizon, which may end within an hour."""
    horizon = outlook.quantiles.shape[1] * outlook.step_seconds / HOUR
    whole = [float(hour) for hour in range(1, int(horizon) + 1)]
    return whole if whole and whole[-1] == horizon else [*whole, horizon]


def _head(outlook: Outlook, row: int) -> tuple[bytes, bytes]:
    """Write what a server's entries begin with, before and after whether it is stale."""
    before = {
        "name": outlook.servers[row],
        "profile": outlook.profiles[row],
        "status": str(outlook.status[row]),
        "reason": outlook.reasons[row],
    }
    last = utc(float(outlook.origin[row] - 1) * outlook.step_seconds)
    return plain(before)[1:-1] + b',"stale":', b',"last_tick":' + plain(last)

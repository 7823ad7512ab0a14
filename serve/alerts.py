"""Alerts that stay switched on: raised late, kept through wobbles, one per server and metric.

The life of an alert, in ticks of its server, so that a clock may run as fast as it likes:

* **pending**: a breach is forecast: its probability in the hours warned of is what the rules' gate
  asks for, and half of the first breaches that may come are no nearer than these hours. Nothing
  begins with a breach that is nearer, as that is no early warning. A pending alert is taken back by
  the first forecast that does not say so any more.
* **firing**: every forecast has said so for `pending_ticks`.
* **clearing**: the probability is lower by the margin; or nothing is known, as the server is silent
  or refused. The alert fires again where that ends.
* Over, and in the book no more: no forecast has held it for `clear_ticks`. What comes then is a new
  alert. So it is when its server is gone, or it is not watched any more.

Nothing begins on a cold start, on stale data, or without a finite forecast.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from data.fleet import BoolArray, IntArray
from serve.ahead import Ahead, gate_peaks, look_ahead
from serve.alert_rules import AlertRules
from serve.outlook import Outlook


class State(StrEnum):
    """Where an alert is in its life."""

    FIRING = "firing"
    CLEARING = "clearing"
    PENDING = "pending"


@dataclass(frozen=True)
class Alert:
    """A breach ahead. What is None is not known: the server is silent or refused at present."""

    server: str
    metric: str
    state: State
    since: float
    """Unix seconds of the tick whose forecast began it."""
    threshold: float
    gate: float
    """The quantile of the peak that must reach the threshold."""
    first_breach: float | None = None
    """Unix seconds of the tick by which half of the first breaches that may come have."""
    lead_seconds: float | None = None
    """From the last tick received to that one."""
    probability: float | None = None
    """Of a breach in the ticks warned of; see `report.early_warning.crossing`."""
    peak: float | None = None
    """Gate quantile of the highest value in these ticks."""


@dataclass(frozen=True)
class _Memory:
    """What is kept of an alert from one outlook to the next; ticks are absolute."""

    firing: bool
    since: int
    """The tick whose forecast began it."""
    confirmed: int
    """The last tick whose forecast held it."""


class _Signs(NamedTuple):
    """What forecasts say of alerts, [S, M] each; all of them false on servers not current."""

    begins: BoolArray  # one may begin
    stays: BoolArray  # a pending one stays, and all that begins
    holds: BoolArray  # one that fires goes on


class AlertBook:
    """The alerts of a fleet, from one outlook to the next."""

    def __init__(self, rules: AlertRules) -> None:
        self.rules = rules
        self._memory: dict[tuple[str, str], _Memory] = {}

    def update(self, outlook: Outlook) -> tuple[Alert, ...]:
        """Take in an outlook and return the alerts there are, firing ones first, soonest first."""
        ahead = look_ahead(outlook, self.rules)
        signs = _read_signs(ahead, self.rules)
        asked = self._to_look_at(outlook, signs.begins)
        peaks = gate_peaks(outlook, asked[:, 0], asked[:, 1], self.rules).tolist()
        memory, alerts = {}, []
        for (row, column), peak in zip(asked.tolist(), peaks, strict=True):
            key = outlook.servers[row], outlook.metrics[column]
            if ahead.current[row]:
                tick = int(outlook.origin[row]) - 1
            else:  # its own ticks stand still: the last one that has ended
                tick = int(outlook.made_at // outlook.step_seconds) - 1
            stays, holds = bool(signs.stays[row, column]), bool(signs.holds[row, column])
            after = _go_on(self._memory.get(key), tick, stays, holds, self.rules)
            if after is None:
                continue
            memory[key] = after
            alert = Alert(
                *key,
                state=_state(after, holds),
                since=float(after.since * outlook.step_seconds),
                threshold=_plain(outlook.thresholds[row, column]),
                gate=self.rules.gate,
            )
            if ahead.current[row]:
                ticks = int(ahead.first[row, column])
                alert = replace(
                    alert,
                    first_breach=float((tick + ticks) * outlook.step_seconds),
                    lead_seconds=float(ticks * outlook.step_seconds),
                    probability=float(ahead.probability[row, column]),
                    peak=peak,
                )
            alerts.append(alert)
        self._memory = memory
        return tuple(sorted(alerts, key=_urgency))

    def _to_look_at(self, outlook: Outlook, begins: BoolArray) -> IntArray:
        """Return the rows and columns [A, 2] of the alerts there are and those that may begin."""
        rows = {server: row for row, server in enumerate(outlook.servers)}
        columns = {metric: column for column, metric in enumerate(outlook.metrics)}
        asked = begins.copy()
        for server, metric in self._memory:
            if server in rows and metric in columns:
                asked[rows[server], columns[metric]] = True
        asked &= np.isfinite(outlook.thresholds)
        return np.argwhere(asked)

    def to_dict(self) -> dict[str, Any]:
        """Return what must outlive a restart, as JSON can hold it."""
        return {
            "alerts": [
                {"server": server, "metric": metric, **asdict(memory)}
                for (server, metric), memory in sorted(self._memory.items())
            ]
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], rules: AlertRules) -> "AlertBook":
        """Build a book from what `to_dict` returned; the rules may have changed since.

        Raises:
            ValueError: it is something else.
        """
        book = cls(rules)
        try:
            for each in plain["alerts"]:
                key = str(each["server"]), str(each["metric"])
                book._memory[key] = _Memory(
                    bool(each["firing"]), int(each["since"]), int(each["confirmed"])
                )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the kept alerts are not what an AlertBook writes ({error!r}); delete them to "
                "start without"
            ) from error
        return book


def _read_signs(ahead: Ahead, rules: AlertRules) -> _Signs:
    """Compare forecasts with the rules; a NaN is never enough."""
    current = ahead.current[:, None]
    in_time = (ahead.probability >= rules.alarm_at) & (ahead.first >= ahead.nearest)
    return _Signs(
        begins=current & in_time,
        stays=current & (ahead.any_tick >= rules.alarm_at),
        holds=current & (ahead.any_tick >= (1.0 - rules.clear_margin) * rules.alarm_at),
    )


def _go_on(
    before: _Memory | None, tick: int, stays: bool, holds: bool, rules: AlertRules
) -> _Memory | None:
    """Return what an alert there is, or that begins, becomes at a tick; None: it is over."""
    if before is not None and before.firing:
        if holds:
            return replace(before, confirmed=tick)
        return before if tick - before.confirmed < rules.clear_ticks else None
    if not stays:
        return None
    since = tick if before is None else before.since
    return _Memory(firing=tick - since >= rules.pending_ticks, since=since, confirmed=tick)


def _state(memory: _Memory, holds: bool) -> State:
    if not memory.firing:
        return State.PENDING
    return State.FIRING if holds else State.CLEARING


def _plain(value: np.floating[Any]) -> float:
    """Return a float32 as a person wrote it: 85.3, not 85.30000305."""
    return float(f"{value:.6g}")


def _urgency(alert: Alert) -> tuple[int, float, str, str]:
    soon = np.inf if alert.first_breach is None else alert.first_breach
    return list(State).index(alert.state), soon, alert.server, alert.metric

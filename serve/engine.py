"""The forecast of the whole fleet, once a tick: what is computed, what is kept, what is refused.

S servers, C servers of a chunk, H horizon, M target metrics, Q quantiles.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import numpy as np

from data.cold_start import fewest_seen, seen_ticks
from data.fleet import Fleet, FloatArray, IntArray
from data.forecasts import BATCH_SIZE
from data.windows import WindowStore
from report.early_warning.crossing import exceedance
from serve.ahead import STALE_SECONDS
from serve.models import ModelShelf
from serve.outlook import ModelIdentity, Outlook, Status
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

log = logging.getLogger(__name__)

ACTIVE_SECONDS = 3_600  # a server heard of within it is waited for
QUIET_STEPS = 2  # after so many without a tick, what is told is looked at again
GRACE = 0.1  # of a step: how long the last servers are waited for after a tick's first row
POLL_SECONDS = 0.25  # between two looks at what is due, by the wall clock, where no row comes
PAUSE_SECONDS = 0.02  # the same where rows come one by one

Thresholds = Callable[[Sequence[str], Sequence[str | None], Sequence[str]], FloatArray]
"""From servers [C], their profiles [C] and metrics [M] to thresholds [C, M], NaN: not watched."""


class Roster(Protocol):
    """Who is in the rolling state."""

    @property
    def servers(self) -> tuple[str, ...]:
        """Names, sorted."""

    @property
    def profiles(self) -> tuple[str | None, ...]:
        """Of each server; None where none was named."""

    @property
    def last_tick(self) -> IntArray:
        """The last tick received of each server, [S]."""

    @property
    def revision(self) -> IntArray:
        """Numbers [S] that change whenever anything of the server does."""


class History(Protocol):
    """What is asked of the rolling state, `serve.state.FleetState`."""

    @property
    def newest_tick(self) -> int | None:
        """The newest tick received; None without any."""

    def roster(self) -> Roster:
        """Return who is there."""

    def fleet(self, servers: Sequence[str]) -> Fleet:
        """Copy the series of servers; those no longer there are left out."""


class Verdict(NamedTuple):
    """Whether a server's latest window may be forecast, and why not."""

    status: Status
    reason: str | None


GONE = Verdict(Status.REFUSED, "its last row is older than what is kept")


def make_outlook(
    forecaster: Forecaster,
    identity: ModelIdentity,
    history: History,
    thresholds: Thresholds,
    now: float,
    previous: Outlook | None = None,
) -> Outlook:
    """Forecast every server from the tick after its last, a chunk of servers at a time.

    A forecast in `previous`, by the same model and of a history that has not changed, is kept: that
    of a server that has stopped stays until all of it is past.

    Args:
        forecaster: in evaluation mode, on the device that is to forecast.
        identity: of the forecaster.
        history: may change meanwhile; each server is forecast from one state of it.
        thresholds: of the chance of a breach.
        now: Unix seconds.
        previous: the outlook before.
    """
    schema, roster = forecaster.schema, history.roster()
    S, H, M = len(roster.servers), schema.prediction_horizon, len(schema.targets)
    draft = _Draft(
        origin=roster.last_tick + 1,
        quantiles=np.full((S, H, M, len(schema.quantiles)), np.nan, np.float32),
        latest=np.full((S, M), np.nan, np.float32),
        verdicts=[GONE] * S,
    )
    if previous is not None and previous.model == identity:
        anew = _keep(draft, roster, schema, now, previous)
    else:
        anew = list(range(S))
    for start in range(0, len(anew), BATCH_SIZE):
        rows = {roster.servers[row]: row for row in anew[start : start + BATCH_SIZE]}
        _forecast(draft, forecaster, history.fleet(list(rows)), rows, now)
    limits, chance = _compare(draft.quantiles, roster, schema, thresholds)
    for array in (draft.origin, draft.quantiles, draft.latest, limits, chance):
        array.setflags(write=False)  # readers share them
    return Outlook(
        model=identity,
        made_at=now,
        step_seconds=schema.step_seconds,
        metrics=schema.target_names,
        levels=schema.quantiles,
        servers=roster.servers,
        profiles=roster.profiles,
        status=tuple(verdict.status for verdict in draft.verdicts),
        reasons=tuple(verdict.reason for verdict in draft.verdicts),
        origin=draft.origin,
        quantiles=draft.quantiles,
        latest=draft.latest,
        thresholds=limits,
        chance=chance,
        revisions=tuple(roster.revision.tolist()),
    )


def _compare(
    quantiles: FloatArray, roster: Roster, schema: FeatureSchema, thresholds: Thresholds
) -> tuple[FloatArray, FloatArray]:
    """Return thresholds [S, M], and the chance [S, H, M] that each step is at or over its own."""
    S, H, M, _ = quantiles.shape
    limits, chance = np.empty((S, M), np.float32), np.empty((S, H, M), np.float32)
    for start in range(0, S, BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        names, profiles = roster.servers[part], roster.profiles[part]
        limits[part] = thresholds(names, profiles, schema.target_names)
        chance[part] = exceedance(quantiles[part], schema.quantiles, limits[part][:, None])
    return limits, chance


def origins(fleet: Fleet) -> IntArray:
    """Return each server's tick after its last, [S]: the first to forecast."""
    return fleet.first_tick + fleet.lengths


def judge(fleet: Fleet, schema: FeatureSchema, now: float) -> list[Verdict]:
    """Tell of each server whether its latest window may be forecast: FORECAST where it may."""
    everyone, latest, fewest = np.arange(len(fleet.servers)), origins(fleet), fewest_seen(schema)
    counts = seen_ticks(fleet, everyone, latest, schema).tolist()
    verdicts = []
    for server, (origin, seen) in enumerate(zip(latest.tolist(), counts, strict=True)):
        ticks, need = int(fleet.lengths[server]), schema.min_context_length
        if ticks < need:
            reason = f"cold start: {ticks} ticks since its first, a forecast needs {need}"
            verdicts.append(Verdict(Status.COLD_START, reason))
        elif not seen:
            reason = f"no target metric seen in its last {schema.context_length} ticks"
            verdicts.append(Verdict(Status.REFUSED, reason))
        elif seen < fewest:
            which = f"a target metric seen in {seen} of its last {schema.context_length} ticks"
            reason = f"cold start: {which}, a forecast needs {fewest}"
            verdicts.append(Verdict(Status.COLD_START, reason))
        else:
            verdicts.append(_judge_age(origin, schema, now))
    return verdicts


def _judge_age(origin: int, schema: FeatureSchema, now: float) -> Verdict:
    """Refuse a forecast the last step of which has ended."""
    end = (origin + schema.prediction_horizon) * schema.step_seconds
    if now < end:
        return Verdict(Status.FORECAST, None)
    last = datetime.fromtimestamp(origin * schema.step_seconds, UTC)
    return Verdict(
        Status.REFUSED,
        f"no data since {last:%Y-%m-%dT%H:%M:%SZ}: its whole forecast is of the past",
    )


def judge_forecast(forecast: FloatArray, schema: FeatureSchema) -> Verdict:
    """Refuse a forecast [H, M, Q] that is not finite."""
    finite = np.isfinite(forecast).all(axis=(0, 2))
    if finite.all():
        return Verdict(Status.FORECAST, None)
    metric = schema.target_names[int(np.argmin(finite))]
    return Verdict(
        Status.REFUSED,
        f"the forecast of {metric} is not finite: its values are too large for float32",
    )


class _Draft(NamedTuple):
    """An outlook in the making."""

    origin: IntArray  # [S]
    quantiles: FloatArray  # [S, H, M, Q], NaN until forecast
    latest: FloatArray  # [S, M], NaN until known
    verdicts: list[Verdict]  # [S]


def _keep(
    draft: _Draft, roster: Roster, schema: FeatureSchema, now: float, previous: Outlook
) -> list[int]:
    """Take over the forecasts of histories that have not changed; returns the other rows."""
    revisions = zip(previous.servers, previous.revisions, strict=True)
    before = {pair: row for row, pair in enumerate(revisions)}
    anew = []
    for row, pair in enumerate(zip(roster.servers, roster.revision.tolist(), strict=True)):
        old = before.get(pair)
        if old is None or previous.status[old] is not Status.FORECAST:
            anew.append(row)
            continue
        draft.origin[row] = previous.origin[old]
        draft.latest[row] = previous.latest[old]
        draft.verdicts[row] = _judge_age(int(previous.origin[old]), schema, now)
        if draft.verdicts[row].status is Status.FORECAST:
            draft.quantiles[row] = previous.quantiles[old]
    return anew


def _forecast(
    draft: _Draft, forecaster: Forecaster, fleet: Fleet, rows: Mapping[str, int], now: float
) -> None:
    """Judge and forecast a fleet's servers into their rows."""
    schema, origin = forecaster.schema, origins(fleet)
    verdicts = judge(fleet, schema, now)
    place = np.array([rows[name] for name in fleet.servers], np.int64)
    draft.origin[place] = origin
    targets = [fleet.metrics.index(name) for name in schema.target_names]
    draft.latest[place] = fleet.values[fleet.offsets[1:] - 1][:, targets]
    may = np.flatnonzero([verdict.status is Status.FORECAST for verdict in verdicts])
    if len(may):
        store = WindowStore(fleet, schema, "cpu", forecaster.facts.servers)
        batch = store.gather(may, origin[may]).to(forecaster.quantiles.device)
        for server, forecast in zip(may, forecaster.forecast(batch).cpu().numpy(), strict=True):
            verdicts[server] = judge_forecast(forecast, schema)
            if verdicts[server].status is Status.FORECAST:
                draft.quantiles[place[server]] = forecast
    for row, verdict in zip(place.tolist(), verdicts, strict=True):
        draft.verdicts[row] = verdict


def _expiry(outlook: Outlook) -> float:
    """Return Unix seconds when a forecast has come to be past, or the data of one to be stale.

    Ticks lie on steps: however many last ones a fleet has, this comes once or twice a step.
    """
    given = np.array([status is Status.FORECAST for status in outlook.status], bool)
    begins = outlook.origin[given] * float(outlook.step_seconds)
    moments = begins + outlook.quantiles.shape[1] * outlook.step_seconds
    stale = np.nextafter(begins + STALE_SECONDS, math.inf)  # older than that, not as old
    if outlook.step_seconds < STALE_SECONDS:  # else no alert would outlive the wait for a tick
        moments = np.append(moments, stale[stale > outlook.made_at])
    return float(moments.min(initial=math.inf))


class Ticker:
    """Makes outlooks, in a thread of its own; readers take the newest and never wait for one.

    An outlook is due when a new tick has come from every server heard of within the hour before
    it, or a tenth of a step after the tick's first row; rows that come later are forecast from a
    tenth of a step after the outlook. One is also due at the start, when asked for, when a forecast
    has come to lie in the past or its data to be stale, and two steps after the last. If making one
    fails, the old one stays, and it is tried again after a tenth of a step.
    """

    def __init__(
        self,
        history: History,
        shelf: ModelShelf,
        thresholds: Thresholds,
        clock: Callable[[], float],
        listeners: Sequence[Callable[[Outlook], None]] = (),
    ) -> None:
        """Bind what an outlook is made from, and who is told of it, in the ticker's thread.

        Args:
            history: asked in the ticker's thread.
            shelf: whose current model forecasts.
            thresholds: see `make_outlook`.
            clock: Unix seconds, by which steps pass.
            listeners: called with every new outlook.
        """
        self.history, self.shelf, self.thresholds = history, shelf, thresholds
        self.clock, self.listeners = clock, tuple(listeners)
        self.outlook: Outlook | None = None
        self.error: str | None = None  # of the last outlook that was due, None where it was made
        self.seconds: float | None = None  # the newest outlook took, by the wall clock
        self._made: int | None = None  # the newest tick when the outlook was made
        self._expires = math.inf  # Unix seconds, see `_expiry`
        self._newest: int | None = None  # the newest tick noticed
        self._since = 0.0  # when it was
        self._retry_at = -math.inf
        self._made_at = -math.inf  # Unix seconds
        self._asked, self._stopping = threading.Event(), threading.Event()
        self._heard = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the outlook it may be making."""
        self._stopping.set()
        self._heard.set()
        self._thread.join()

    def hear(self) -> None:
        """Look at once whether an outlook is due: rows have come."""
        self._heard.set()

    def remake(self) -> None:
        """Ask for an outlook now, as after a change of model or thresholds."""
        self._retry_at = -math.inf
        self._asked.set()
        self._heard.set()

    def turn(self) -> bool:
        """Make an outlook if one is due, and tell whether one was made."""
        now = self.clock()
        try:
            if not self._due(now):
                return False
            self._asked.clear()
            self._make(now)
        except Exception as error:  # whatever it is, it must be shown and not end the thread
            log.exception("no outlook could be made; the old one stays")
            self.error = f"no outlook could be made: {error!r}"
            self._retry_at = now + GRACE * self._step_seconds
            self._asked.set()
            return False
        return True

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_SECONDS):
            self._heard.wait(POLL_SECONDS)
            self._heard.clear()
            if not self._stopping.is_set():
                self.turn()

    @property
    def _step_seconds(self) -> int:
        return self.shelf.current.forecaster.schema.step_seconds

    def _due(self, now: float) -> bool:
        if now < self._retry_at:
            return False
        newest = self.history.newest_tick
        if newest != self._newest:
            self._newest, self._since = newest, now
        if self.outlook is None or self._asked.is_set() or now >= self._expires:
            return True
        if newest is None:
            return False
        if now - self._made_at >= QUIET_STEPS * self._step_seconds:
            return True
        roster = self.history.roster()
        if newest == self._made:
            told = self.outlook.servers, self.outlook.revisions
            late = told != (roster.servers, tuple(roster.revision.tolist()))
            return late and now - self._made_at >= GRACE * self._step_seconds
        if now - self._since >= GRACE * self._step_seconds:
            return True
        last = roster.last_tick
        hour_before = newest - ACTIVE_SECONDS // self._step_seconds
        return not ((last < newest) & (last >= hour_before)).any()

    def _make(self, now: float) -> None:
        """Make the outlook and hand it on."""
        begin, newest, model = time.perf_counter(), self._newest, self.shelf.current
        outlook = make_outlook(
            model.forecaster, model.identity, self.history, self.thresholds, now, self.outlook
        )
        self.seconds = time.perf_counter() - begin
        self._made, self._made_at = newest, now
        self._expires = _expiry(outlook)
        self.outlook, self.error = outlook, None
        for listener in self.listeners:
            try:
                listener(outlook)
            except Exception as error:  # the others must hear of it all the same
                log.exception("the outlook was made, but not all that follows from it")
                self.error = f"the outlook was made, but not all that follows from it: {error!r}"

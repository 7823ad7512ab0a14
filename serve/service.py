"""The service itself: takes ticks in, has the fleet forecast, and knows what readers are told.

Nothing here knows of HTTP but for the problems it raises.
"""

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from data.fleet import Fleet
from report.scores import SCORED_QUANTILES
from serve.about import About, about
from serve.ahead import STALE_SECONDS
from serve.alert_rules import AlertRules
from serve.alerts import Alert, AlertBook
from serve.answers import history, insight_told, no_outlook, scenario_told
from serve.engine import Ticker
from serve.exposition import fleet_text, service_text
from serve.feed import read_feed
from serve.insight import NoForecastError, explain_server
from serve.live_scores import NOTHING_SCORED, Evaluated, LiveScores
from serve.models import LoadedModel, ModelShelf
from serve.observations import Observation, Receipt
from serve.outlook import ModelIdentity, Outlook
from serve.poll import Fetch, Poller
from serve.problems import ProblemError
from serve.rendering import Rendering
from serve.scenario import Change, what_if
from serve.schemas import ScenarioRequest
from serve.state import FleetState, kept_ticks
from serve.store import Store
from serve.times import utc
from tft.schema import FeatureSchema

log = logging.getLogger(__name__)

ALERTS = "alerts"  # the store's document of what must outlive a restart
COUNTERS = {
    "ticks_accepted": "Ticks taken in.",
    "ticks_duplicate": "Ticks that were held already.",
    "ticks_rejected": "Ticks refused.",
    "outlooks": "Forecasts of the fleet.",
}


class Shown(NamedTuple):
    """What readers are told, made once for each outlook and replaced whole."""

    rendering: Rendering
    alerts: tuple[Alert, ...]
    text: str
    """For Prometheus."""


@dataclass(frozen=True)
class Waiting:
    """A server that has reported, but has no place in an outlook yet."""

    name: str
    profile: str | None
    last_tick: int


class Service:
    """One fleet, one model at a time, one thread that forecasts; any thread may ask."""

    def __init__(
        self,
        state: FleetState,
        store: Store,
        shelf: ModelShelf,
        rules: AlertRules,
        clock: Callable[[], float],
    ) -> None:
        """Bind the parts; `start` sets them going.

        Args:
            state: of the fleet, kept in the store.
            store: keeps what must outlive a restart.
            shelf: models; the current one's schema is the state's.
            rules: of the alerts.
            clock: Unix seconds.

        Raises:
            ValueError: the model lacks a quantile readers are told, or something kept is damaged.
        """
        self.schema: FeatureSchema = shelf.current.forecaster.schema
        missing = [level for level in SCORED_QUANTILES if level not in self.schema.quantiles]
        if missing:
            raise ValueError(
                f"the model does not forecast quantile {', '.join(map(str, missing))}, which the "
                "service tells; train with quantiles that contain 0.1, 0.5 and 0.9"
            )
        self.state, self.store, self.shelf, self.rules = state, store, shelf, rules
        self.clock = clock
        kept = store.document(ALERTS)
        self._book = AlertBook(rules) if kept is None else AlertBook.from_dict(kept, rules)
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._about: dict[ModelIdentity, About] = {}
        self.shown = Shown(Rendering(no_outlook(self.schema, self.identity), rules), (), "")
        told = self._about_of(shelf.current)
        self._scores = LiveScores(store, state, told.scores)
        self._slips: set[str] = set()  # names in the rules that nobody bears, once each
        self._waiting: Mapping[str, Waiting] = {}  # who has reported since an outlook
        self._look_who_waits()
        self.poller: Poller | None = None
        self._ticker = Ticker(state, shelf, rules.thresholds, clock, [self._show, self._score])

    @property
    def identity(self) -> ModelIdentity:
        """Which model forecasts."""
        return self.shelf.current.identity

    @property
    def not_watched(self) -> list[str]:
        """Metrics no server has a threshold of but by a rule of its own."""
        return list(self.rules.not_watched(self.schema.target_names))

    def poll(self, fetch: Fetch, stopping: threading.Event | None = None) -> None:
        """Ask a source for ticks from `start` on.

        Args:
            fetch: asks it; what it says of a tick replaces what it said before.
            stopping: is set by `stop`, for a source that watches it.
        """
        step = self.schema.step_seconds
        history = kept_ticks(self.schema) * step
        state = self.state
        self.poller = Poller(
            fetch=fetch,
            take=lambda rows: self.take(rows, replacing=True),
            newest_tick=lambda: state.newest_tick,
            clock=self.clock,
            step_seconds=step,
            history_seconds=history,
            stopping=stopping,
        )

    def start(self) -> None:
        """Begin to forecast, and to ask the source if there is one."""
        self._ticker.start()
        if self.poller is not None:
            self.poller.start()

    def stop(self) -> None:
        """Finish the outlook that is being made, and close the store."""
        if self.poller is not None:
            self.poller.stop()
        self._ticker.stop()
        self.store.close()

    def turn(self) -> bool:
        """Make an outlook if one is due; what the thread does, for those who start none."""
        return self._ticker.turn()

    def trouble(self) -> str | None:
        """Say why the service is not ready; None if it is."""
        if self._ticker.error is not None:
            return self._ticker.error
        if self.poller is not None and self.poller.error is not None:
            return self.poller.error
        if not self.shown.rendering.outlook.made_at:
            return "the first outlook is being made"
        return None

    def head(self, model: ModelIdentity) -> dict[str, Any]:
        """Return what stands atop an answer that rests on a model."""
        now, newest = self.clock(), self.state.newest_tick
        step = self.schema.step_seconds
        age = None if newest is None else now - (newest + 1) * step
        return {
            "now": utc(now),
            "model": {"hash": model.hash, "trained_until": _time(model.trained_until)},
            "data": {
                "newest_tick": None if newest is None else utc(newest * step),
                "age_seconds": None if age is None else round(age, 3),
                "stale": age is None or age > STALE_SECONDS,
            },
        }

    def seed(self, fleet: Fleet) -> int:
        """Take in a table's history; returns how many ticks of it are new.

        Raises:
            ValueError: see `FleetState.seed`.
            OSError: see there.
        """
        taken = self.state.seed(fleet)
        self._look_who_waits()
        return taken

    def accept(self, body: bytes) -> dict[str, Any]:
        """Take in the rows of a feed; those accepted are on disk when this returns.

        Raises:
            ProblemError: the body is no feed, or nothing can be written now.
        """
        rows = read_feed(body)
        try:
            receipt = self.take(rows.sound)
        except OSError as error:
            detail = f"no tick could be written, none is accepted: {error}"
            raise ProblemError(503, detail, headers={"Retry-After": "10"}) from error
        self._count(ticks_rejected=len(rows.rejected))
        rejected = rows.rejected + [
            replace(each, index=rows.places[each.index]) for each in receipt.rejected
        ]
        return {
            "accepted": receipt.accepted,
            "duplicates": receipt.duplicates,
            "late": receipt.late,
            "rejected": [asdict(each) for each in sorted(rejected)],
        }

    def take(self, rows: Sequence[Observation], replacing: bool = False) -> Receipt:
        """Take in rows; those accepted are on disk when this returns.

        Args:
            rows: of any servers and times.
            replacing: they replace other rows held of the same server and time.

        Raises:
            OSError: nothing can be written now.
        """
        receipt = self.state.accept(rows, replacing)
        self._ticker.hear()
        self._look_who_waits()
        self._count(
            ticks_accepted=receipt.accepted,
            ticks_duplicate=receipt.duplicates,
            ticks_rejected=len(receipt.rejected),
        )
        return receipt

    def waiting(self, rendering: Rendering) -> dict[str, Waiting]:
        """Return the servers that have reported but are not in a rendering, by name."""
        found = self._waiting.items()
        return {name: each for name, each in found if name not in rendering.rows}

    def history(self, name: str) -> bytes:
        """Return a server's last 24 hours as received, as JSON."""
        return history(self.state.fleet([name]))

    def measured_alerts(self) -> dict[str, Any] | None:
        """Return how alerts did where the model was evaluated, None where it was not."""
        return self._about_of(self.shelf.current).alerts

    def explain(self, name: str) -> tuple[ModelIdentity, dict[str, Any]]:
        """Return what a server's forecast looks at now, and by which model.

        Raises:
            ProblemError: the server has no forecast.
        """
        model, fleet = self.shelf.current, self.state.fleet([name])
        if not fleet.servers:
            raise ProblemError(404, f"server {name!r} is forgotten, it has been silent so long")
        try:
            insight = explain_server(model.forecaster, fleet, name, self.clock())
        except NoForecastError as error:
            raise ProblemError(409, str(error)) from error
        return model.identity, insight_told(insight, self.schema.step_seconds, self.clock())

    def scenario(self, asked: ScenarioRequest) -> tuple[ModelIdentity, dict[str, Any]]:
        """Return forecasts as they would be, beside what they are, and by which model.

        Raises:
            ProblemError: the request names an unknown metric, or makes values there cannot be.
        """
        unknown = [name for name in asked.metrics if name not in self.schema.metric_names]
        if unknown:
            known = ", ".join(self.schema.metric_names)
            raise ProblemError(404, f"no metric {unknown[0][:80]!a}; the model sees {known}")
        model, fleet = self.shelf.current, self.state.fleet(asked.servers)
        ticks = math.ceil(asked.hours * 3600 / self.schema.step_seconds)
        hours = ticks * self.schema.step_seconds / 3600
        changes = {name: Change(each.scale, each.shift) for name, each in asked.metrics.items()}
        try:
            found = what_if(
                model.forecaster, fleet, changes, hours, self.clock(), asked.clock_hours
            )
        except ValueError as error:
            raise ProblemError(422, str(error)) from error
        return model.identity, scenario_told(found, self.schema, self.clock())

    def model(self) -> dict[str, Any]:
        """Return what forecasts, what was measured of it, and how it has done since."""
        current, previous = self.shelf.current, self.shelf.previous
        told = self._about_of(current)
        return {
            "current": told.facts,
            "previous": None if previous is None else self._about_of(previous).facts,
            "measured": told.evaluation,
            "live": self._scores.summary.to_dict(self.schema.target_names),
            "drift": list(self._scores.summary.drift),
            "rules": self.rules.to_dict(),
        }

    def reload(self, name: str | None) -> dict[str, Any]:
        """Load a model by name, or the current one anew; it forecasts from now on.

        Raises:
            ProblemError: there is none, or it does not fit; the current one stays.
        """
        before = self.identity
        try:
            if self.shelf.reload(name, self._learn_of).identity == before:
                self._learn_of(self.shelf.current)  # the same weights, but perhaps measured since
        except ValueError as error:
            raise ProblemError(409, str(error)) from error
        if self.identity != before:
            self._swapped()
        return self.model()

    def rollback(self) -> dict[str, Any]:
        """Return to the model before the current one.

        Raises:
            ProblemError: there is none.
        """
        try:
            self.shelf.rollback()
        except ValueError as error:
            raise ProblemError(409, str(error)) from error
        self._swapped()
        return self.model()

    def exposition(self) -> str:
        """Return what Prometheus is told."""
        shown = self.shown
        outlook = shown.rendering.outlook if shown.rendering.outlook.made_at else None
        with self._counting:
            counters = {n: (text, float(self._counts[n])) for n, text in COUNTERS.items()}
        names, evaluated = self.schema.target_names, self._scores.evaluated
        live = self._scores.summary.to_dict(names)
        expected = {name: evaluated.get(name, Evaluated()).coverage_range for name in names}
        return shown.text + service_text(
            self.clock(), outlook, self.identity, live, expected, counters
        )

    def _show(self, outlook: Outlook) -> None:
        """Take in a new outlook, in the ticker's thread."""
        alerts = self._book.update(outlook)
        self.store.keep_document(ALERTS, self._book.to_dict())
        rendering = Rendering(outlook, self.rules)
        self.shown = Shown(rendering, alerts, fleet_text(outlook, self.rules, alerts))
        self._look_who_waits()
        self._count(outlooks=1)
        if outlook.servers:
            slips = self.rules.unmatched(outlook.servers, outlook.profiles)
            for line in slips:
                if line not in self._slips:
                    log.warning(line)
            self._slips.update(slips)

    def _score(self, outlook: Outlook) -> None:
        """Put forecasts by, and score those whose time has come; in the ticker's thread."""
        self._scores.evaluated = self._about_of(self.shelf.current).scores
        self._scores.update(outlook)

    def _look_who_waits(self) -> None:
        rows, roster = self.shown.rendering.rows, self.state.roster()
        every = zip(roster.servers, roster.profiles, roster.last_tick.tolist(), strict=True)
        self._waiting = {each[0]: Waiting(*each) for each in every if each[0] not in rows}

    def _count(self, **more: int) -> None:
        with self._counting:
            self._counts.update(more)

    def _swapped(self) -> None:
        """Have the fleet forecast by another model than before."""
        self._scores.summary = NOTHING_SCORED  # of the model before, until the next outlook
        self._ticker.remake()

    def _about_of(self, model: LoadedModel) -> About:
        return self._about.get(model.identity) or self._learn_of(model)

    def _learn_of(self, model: LoadedModel) -> About:
        """Read what was measured of a model, anew: `evaluate` may have run since.

        Raises:
            ValueError: it is not what `evaluate` writes.
        """
        self._about[model.identity] = about(model, self.rules.alarm_at)
        return self._about[model.identity]


def _time(seconds: int) -> str | None:
    return utc(seconds) if seconds else None

"""Forecasts of a whole fleet: true ones, of the newest history, or a reason why there is none."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from data.fleet import Fleet, FloatArray
from data.forecasts import latest_origins, write_forecasts
from report.early_warning.crossing import exceedance
from serve.ahead import current_servers
from serve.engine import Ticker, judge, make_outlook
from serve.models import LoadedModel
from serve.outlook import ModelIdentity, Outlook, Status
from tests.builders import SCHEMA, small_fleet, tiny_forecaster
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

H, M, STEP = SCHEMA.prediction_horizon, len(SCHEMA.targets), SCHEMA.step_seconds
MODEL = ModelIdentity("0123456789ab", 0)
NOBODY = np.full((1, M), np.nan, np.float32)


@dataclass
class KnownHistory:
    """Stands for the rolling state: a fleet, and how often each server has changed."""

    known: Fleet
    revisions: dict[str, int] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)

    @property
    def newest_tick(self) -> int | None:
        return self.known.end_tick - 1 if self.known.servers else None

    def roster(self) -> SimpleNamespace:
        return SimpleNamespace(
            servers=self.known.servers,
            profiles=self.known.profiles,
            last_tick=self.known.first_tick + self.known.lengths - 1,
            revision=np.array([self.revisions.get(name, 0) for name in self.known.servers], int),
        )

    def fleet(self, servers: Sequence[str]) -> Fleet:
        there = [name for name in servers if name not in self.forgotten]
        return only(self.known, [self.known.servers.index(name) for name in there])

    def change(self, fleet: Fleet, *servers: str) -> None:
        self.known = fleet
        for name in servers:
            self.revisions[name] = self.revisions.get(name, 0) + 1


def only(fleet: Fleet, numbers: list[int]) -> Fleet:
    """Return some of a fleet's servers."""
    series = [fleet.series(number) for number in numbers]
    return replace(
        fleet,
        servers=tuple(fleet.servers[number] for number in numbers),
        profiles=tuple(fleet.profiles[number] for number in numbers),
        values=np.concatenate([np.empty((0, len(fleet.metrics)), np.float32), *series]),
        offsets=np.cumsum([0, *map(len, series)]),
        first_tick=fleet.first_tick[numbers],
        static=fleet.static[numbers],
    )


def shorter(fleet: Fleet, ticks: dict[str, int]) -> Fleet:
    """Return the fleet as it was so many ticks ago, by server."""
    series = [
        fleet.series(n)[: len(fleet.series(n)) - ticks.get(name, 0)]
        for n, name in enumerate(fleet.servers)
    ]
    return replace(fleet, values=np.concatenate(series), offsets=np.cumsum([0, *map(len, series)]))


def together(schema: Any = SCHEMA, length: int = 60) -> Fleet:
    """Return three servers whose last tick is the same."""
    fleet = small_fleet((length,) * 3, schema=schema)
    return replace(fleet, first_tick=np.full(3, 1000))


def unwatched(servers: Sequence[str], *_: Any) -> FloatArray:
    return np.full((len(servers), M), np.nan, np.float32)


def now_of(fleet: Fleet) -> float:
    """Return the moment the fleet's newest tick has passed."""
    return float(fleet.end_tick * fleet.step_seconds)


def outlook_of(history: KnownHistory, **other: Any) -> Outlook:
    given = {
        "forecaster": tiny_forecaster(),
        "identity": MODEL,
        "thresholds": unwatched,
        "now": now_of(history.known) if history.known.servers else 0.0,
    }
    return make_outlook(history=history, **{**given, **other})


def counted(forecaster: Forecaster, batches: list[Any]) -> Forecaster:
    """Let a forecaster note what it forecasts."""
    forecast = forecaster.forecast

    def noting(batch: Any) -> torch.Tensor:
        batches.append(batch)
        return forecast(batch)

    forecaster.forecast = noting  # type: ignore[method-assign]
    return forecaster


# --- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "tolerance"), [(256, 0.0), (2, 1e-6)])
def test_numbers_are_those_the_forecast_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, tolerance: float
) -> None:
    fleet, forecaster = small_fleet((60, 80, 50, 20)), tiny_forecaster()
    path = tmp_path / "forecasts.parquet"
    write_forecasts(forecaster, fleet, latest_origins(fleet, SCHEMA), path, SCHEMA.quantiles)
    written = pd.read_parquet(path)
    monkeypatch.setattr("serve.engine.BATCH_SIZE", chunk)
    early = float((fleet.first_tick + fleet.lengths).min() * STEP)  # nothing is past
    outlook = outlook_of(KnownHistory(fleet), now=early)
    assert outlook.status == (Status.FORECAST,) * 4 and outlook.reasons == (None,) * 4
    assert (outlook.metrics, outlook.levels) == (SCHEMA.target_names, SCHEMA.quantiles)
    assert (outlook.servers, outlook.profiles) == (fleet.servers, fleet.profiles)
    expected = written[["q0.1", "q0.5", "q0.9"]].to_numpy().reshape(4, H, M, 3)
    rounding = tolerance * np.abs(expected).max()  # of what a small difference is left of, too
    np.testing.assert_allclose(outlook.quantiles, expected, rtol=tolerance, atol=rounding)
    first = written.groupby("server_name").timestamp.min().astype("datetime64[s, UTC]")
    assert (outlook.origin * STEP == first.astype(np.int64)).all()


def test_the_first_tick_is_the_one_after_the_last_received_whatever_the_clock_says() -> None:
    """Known inputs are of that tick and those after it, in UTC, with a clock that stands still."""
    fleet, batches = small_fleet(), []
    forecaster = counted(tiny_forecaster(), batches)
    soon, later = (
        outlook_of(KnownHistory(fleet), forecaster=forecaster, now=now)
        for now in (0.0, now_of(fleet) - STEP)
    )
    assert soon.origin.tolist() == (fleet.first_tick + fleet.lengths).tolist()
    given = np.isfinite(later.quantiles[:, 0, 0, 0])
    assert given.any()
    rounding = 1e-6 * soon.quantiles[given].max()  # of what a small difference is left of, too
    np.testing.assert_allclose(
        later.quantiles[given], soon.quantiles[given], rtol=1e-5, atol=rounding
    )
    known = batches[0].known[:, -H:]  # [S, H, K, 2]
    for server, origin in enumerate(soon.origin.tolist()):
        seconds = (origin + np.arange(H)) * STEP
        for place, period in enumerate((86_400, 7 * 86_400)):
            turn = seconds % period / period * 2 * math.pi
            expected = np.stack([np.sin(turn), np.cos(turn)], axis=-1)
            np.testing.assert_allclose(known[server, :, place], expected, atol=1e-6)
    assert batches[0].future.isnan().all()


def test_chances_are_of_each_servers_own_thresholds() -> None:
    fleet = small_fleet()
    limits = np.array([[30.0, np.nan], [20.0, 25.0], [np.nan, np.nan]], np.float32)
    asked = []

    def thresholds(*names: Any) -> FloatArray:
        asked.append(tuple(map(tuple, names)))
        return limits

    outlook = outlook_of(KnownHistory(fleet), thresholds=thresholds, now=0.0)
    assert asked == [(fleet.servers, fleet.profiles, SCHEMA.target_names)]
    np.testing.assert_array_equal(outlook.thresholds, limits)
    for server in range(3):
        alone = outlook.quantiles[server : server + 1]
        expected = exceedance(alone, SCHEMA.quantiles, limits[server])[0]
        np.testing.assert_allclose(outlook.chance[server], expected, rtol=1e-6)
    watched = np.isfinite(limits)[:, None].repeat(H, axis=1)
    np.testing.assert_array_equal(np.isfinite(outlook.chance), watched)


def test_an_empty_fleet_has_an_empty_outlook() -> None:
    outlook = outlook_of(KnownHistory(only(small_fleet(), [])))
    assert outlook.servers == () and outlook.quantiles.shape == (0, H, M, 3)


def test_readers_cannot_change_what_they_share() -> None:
    outlook = outlook_of(KnownHistory(small_fleet()))
    for array in (outlook.quantiles, outlook.chance, outlook.thresholds, outlook.origin):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0


# --- no number without a forecast ---------------------------------------------------------------


def test_a_cold_start_gets_its_reason_and_no_number() -> None:
    """The first tick with enough history is the first with a forecast, gaps not counted."""
    need = SCHEMA.min_context_length
    fleet = small_fleet((need - 1, need, 50, 50))
    fleet.series(3)[-SCHEMA.context_length : -need + 1, :M] = np.nan  # before, all was seen
    outlook = outlook_of(KnownHistory(fleet), now=0.0, thresholds=lambda *_: np.zeros((4, M)))
    cold, warm = Status.COLD_START, Status.FORECAST
    assert outlook.status == (cold, warm, warm, cold)
    assert outlook.reasons[0] == "cold start: 3 ticks since its first, a forecast needs 4"
    gaps = "cold start: a target metric seen in 3 of its last 30 ticks, a forecast needs 4"
    assert outlook.reasons[3] == gaps
    for server in (0, 3):
        assert np.isnan(outlook.quantiles[server]).all() and np.isnan(outlook.chance[server]).all()
    assert np.isfinite(outlook.quantiles[1:3]).all() and np.isfinite(outlook.chance[1:3]).all()


def test_a_server_with_many_gaps_is_no_cold_start() -> None:
    """Half of the ticks are enough, wherever they lie, also for who was trained on whole days."""
    for need in (72, 288):
        schema = replace(SCHEMA, step_seconds=300, context_length=288, min_context_length=need)
        fleet = small_fleet((288, 40 * 12), schema=schema)
        fleet.series(0)[np.random.default_rng(0).permutation(288)[:144]] = np.nan
        fleet.series(1)[1:-1] = np.nan  # a value 40 hours ago and one now
        many, one = judge(fleet, schema, 0.0)
        assert many.status is Status.FORECAST
        assert one.status is Status.COLD_START and "in 1 of its last 288 ticks" in str(one.reason)


def test_a_server_of_which_no_target_was_seen_is_refused() -> None:
    fleet = small_fleet()
    fleet.series(1)[-SCHEMA.context_length :, :M] = np.nan  # observed metrics came all the same
    outlook = outlook_of(KnownHistory(fleet), now=0.0)
    assert outlook.status == (Status.FORECAST, Status.REFUSED, Status.FORECAST)
    assert outlook.reasons[1] == "no target metric seen in its last 30 ticks"
    assert np.isnan(outlook.quantiles[1]).all()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_forecast_that_is_not_finite_is_refused(value: float) -> None:
    forecaster = tiny_forecaster()
    forecast = forecaster.forecast

    def overflowing(batch: Any) -> torch.Tensor:
        values = forecast(batch)
        values[1, 0, 1, 2] = value
        return values

    forecaster.forecast = overflowing  # type: ignore[method-assign]
    outlook = outlook_of(KnownHistory(small_fleet()), forecaster=forecaster, now=0.0)
    assert outlook.status == (Status.FORECAST, Status.REFUSED, Status.FORECAST)
    assert str(outlook.reasons[1]).startswith("the forecast of load_average is not finite")
    assert np.isnan(outlook.quantiles[1]).all() and np.isnan(outlook.chance[1]).all()


def test_a_server_forgotten_meanwhile_is_refused() -> None:
    outlook = outlook_of(KnownHistory(small_fleet(), forgotten={"server1"}), now=0.0)
    assert outlook.status[1] is Status.REFUSED and "what is kept" in str(outlook.reasons[1])
    assert np.isnan(outlook.quantiles[1]).all() and np.isfinite(outlook.quantiles[[0, 2]]).all()


# --- what is kept from the outlook before --------------------------------------------------------


def test_a_stopped_server_keeps_its_forecast_until_all_of_it_is_past() -> None:
    fleet, batches = together(), []
    forecaster = counted(tiny_forecaster(), batches)
    history = KnownHistory(shorter(fleet, {"server0": 1, "server2": 1}))
    first = outlook_of(history, forecaster=forecaster)
    history.change(shorter(fleet, {"server0": 1}), "server2")
    second = outlook_of(history, forecaster=forecaster, previous=first)
    assert [len(batch.past) for batch in batches] == [3, 1]
    assert second.origin.tolist() == [1059, 1060, 1060]
    np.testing.assert_array_equal(second.quantiles[:2], first.quantiles[:2])
    assert (second.quantiles[2] != first.quantiles[2]).any()

    end = (1059 + H) * STEP
    last = outlook_of(history, forecaster=forecaster, previous=second, now=end - 1)
    over = outlook_of(history, forecaster=forecaster, previous=last, now=end)
    assert last.status == (Status.FORECAST,) * 3
    assert over.status == (Status.REFUSED, Status.FORECAST, Status.FORECAST)
    when = pd.Timestamp(1059 * STEP, unit="s").isoformat()
    assert over.reasons[0] == f"no data since {when}Z: its whole forecast is of the past"
    assert np.isnan(over.quantiles[0]).all()
    assert len(batches) == 2  # nothing was forecast again


def test_a_row_that_comes_late_is_made_use_of() -> None:
    """The origin is the same, the history is not."""
    fleet = together()
    history = KnownHistory(replace(fleet, values=fleet.values.copy()))
    history.known.series(1)[-5] = np.nan
    first = outlook_of(history)
    history.change(fleet, "server1")
    second = outlook_of(history, previous=first)
    assert second.origin.tolist() == first.origin.tolist()
    assert (second.quantiles[1] != first.quantiles[1]).any()
    expected = outlook_of(KnownHistory(fleet)).quantiles
    np.testing.assert_allclose(second.quantiles, expected, rtol=1e-6)


def test_nothing_of_another_model_is_kept() -> None:
    history, other = KnownHistory(together()), tiny_forecaster(seed=1)
    first = outlook_of(history)
    identity = ModelIdentity("ba9876543210", 0)
    second = outlook_of(history, forecaster=other, identity=identity, previous=first)
    assert second.model == identity
    np.testing.assert_array_equal(second.quantiles, outlook_of(history, forecaster=other).quantiles)
    assert (second.quantiles != first.quantiles).any(axis=(1, 2, 3)).all()


# --- the ticker ----------------------------------------------------------------------------------

MINUTES = replace(SCHEMA, step_seconds=300)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def loaded(seed: int = 0, name: str = "first", schema: FeatureSchema = MINUTES) -> LoadedModel:
    return LoadedModel(Path(name), tiny_forecaster(seed, schema), ModelIdentity(name, 0))


def ticker_of(
    fleet: Fleet,
    *listeners: Callable[[Outlook], None],
    thresholds: Any = unwatched,
    schema: FeatureSchema = MINUTES,
) -> Ticker:
    """Return a ticker of a fleet whose first outlook is made, a second after its newest tick."""
    clock = Clock(now_of(fleet) + 1)
    shelf: Any = SimpleNamespace(current=loaded(schema=schema))
    ticker = Ticker(KnownHistory(fleet), shelf, thresholds, clock, listeners)
    assert ticker.turn()
    return ticker


def receive(ticker: Any, fleet: Fleet, *servers: str) -> None:
    """Let servers' newest ticks come, within the step after them."""
    ticker.history.change(fleet, *servers)


def test_an_outlook_waits_for_every_server_and_is_made_once_a_tick() -> None:
    fleet = together(MINUTES)
    names = set(fleet.servers)
    ticker = ticker_of(shorter(fleet, dict.fromkeys(names, 1)))
    assert not ticker.turn()
    ticker.clock.now += 300
    receive(ticker, shorter(fleet, {"server1": 1, "server2": 1}), "server0")
    assert not ticker.turn()
    receive(ticker, shorter(fleet, {"server2": 1}), "server1")
    assert not ticker.turn()
    receive(ticker, fleet, "server2")
    assert ticker.turn() and not ticker.turn()
    assert ticker.outlook.origin.tolist() == [1060] * 3
    assert ticker.outlook.made_at == ticker.clock.now


def test_the_last_servers_are_waited_for_a_tenth_of_a_step() -> None:
    fleet = together(MINUTES)
    ticker = ticker_of(shorter(fleet, dict.fromkeys(fleet.servers, 1)))
    ticker.clock.now += 300
    receive(ticker, shorter(fleet, {"server1": 1, "server2": 1}), "server0")
    assert not ticker.turn()
    ticker.clock.now += 29
    assert not ticker.turn()
    ticker.clock.now += 1
    assert ticker.turn()
    assert ticker.outlook.origin.tolist() == [1060, 1059, 1059]
    receive(ticker, fleet, "server1", "server2")
    ticker.clock.now += 29
    assert not ticker.turn()
    ticker.clock.now += 1
    assert ticker.turn() and not ticker.turn()
    assert ticker.outlook.origin.tolist() == [1060] * 3


def test_a_server_silent_for_an_hour_is_not_waited_for() -> None:
    fleet = together(MINUTES)
    hour = 12
    for silent, waited in ((hour, True), (hour + 1, False)):
        before = {"server0": 1, "server1": 1, "server2": silent}
        ticker = ticker_of(shorter(fleet, before))
        receive(ticker, shorter(fleet, {"server2": silent}), "server0", "server1")
        assert ticker.turn() is not waited


def test_time_alone_makes_an_outlook_when_a_forecast_has_become_past() -> None:
    ticker = ticker_of(together(MINUTES))
    ticker.clock.now = (1060 + H) * 300 - 1
    ticker.turn()
    assert ticker.outlook.status == (Status.FORECAST,) * 3
    ticker.clock.now += 1
    assert ticker.turn() and not ticker.turn()
    assert ticker.outlook.status == (Status.REFUSED,) * 3


def test_without_ticks_what_is_told_is_looked_at_again() -> None:
    """Alerts must not go on as if a forecast from data long stale were of now."""
    ticker = ticker_of(together(MINUTES))
    ticker.clock.now += 599
    assert not ticker.turn()
    ticker.clock.now += 1
    assert ticker.turn() and not ticker.turn()
    assert ticker.outlook.made_at == ticker.clock.now


def test_when_data_become_stale_an_outlook_says_so_at_once() -> None:
    """Whenever the last outlooks were made: alerts and peaks of stale data are none of now."""
    fleet = together(MINUTES)
    ticker, end = ticker_of(fleet), now_of(fleet)
    for now, made in ((end + 601, True), (end + 900, False), (end + 900.25, True)):
        assert current_servers(ticker.outlook).all()
        ticker.clock.now = now
        assert ticker.turn() is made and not ticker.turn()
    assert not current_servers(ticker.outlook).any()
    assert ticker.outlook.status == (Status.FORECAST,) * 3


def test_servers_that_stopped_at_many_times_cause_one_outlook_a_step() -> None:
    """One of a large fleet takes long."""
    number = 30
    fleet = small_fleet((60,) * number, schema=MINUTES)
    ticker = ticker_of(replace(fleet, first_tick=1000 + np.arange(number) % 3))
    made = [ticker.clock.now]
    begin = math.ceil(made[0] / 300) * 300
    for ticker.clock.now in np.arange(begin, begin + 6 * 300, 0.25).tolist():
        if ticker.turn():
            made.append(ticker.clock.now)
    assert len(made) <= 1 + 6 and min(np.diff(made)) >= 299


def test_data_of_long_steps_are_not_stale_between_their_ticks() -> None:
    """An alert that waits for its second tick would be taken back each time."""
    fleet = together()
    ticker = ticker_of(fleet, schema=SCHEMA)
    ticker.clock.now = now_of(fleet) + STEP - 1
    assert not ticker.turn()


def test_a_model_swapped_in_forecasts_when_asked_to() -> None:
    told: list[str] = []
    ticker = ticker_of(together(MINUTES), lambda outlook: told.append(outlook.model.hash))
    ticker.shelf.current = loaded(seed=1, name="second")
    assert not ticker.turn()
    ticker.remake()
    assert ticker.turn() and not ticker.turn()
    assert told == ["first", "second"]


def test_a_failure_is_shown_and_the_old_outlook_stays(caplog: pytest.LogCaptureFixture) -> None:
    broken = False

    def thresholds(*names: Any) -> FloatArray:
        if broken:
            raise OSError("rules cannot be read")
        return unwatched(*names)

    fleet = together(MINUTES)
    ticker = ticker_of(shorter(fleet, dict.fromkeys(fleet.servers, 1)), thresholds=thresholds)
    old, broken = ticker.outlook, True
    ticker.clock.now += 300
    receive(ticker, fleet, *fleet.servers)
    assert not ticker.turn()
    assert ticker.outlook is old
    assert "no outlook could be made" in caplog.text
    assert "rules cannot be read" in str(ticker.error)
    broken = False
    ticker.clock.now += 29
    assert not ticker.turn()  # nobody is served by trying without pause
    ticker.clock.now += 1
    assert ticker.turn() and ticker.error is None
    assert ticker.outlook.origin.tolist() == [1060] * 3


def test_a_listener_that_fails_keeps_nobody_else_from_hearing() -> None:
    heard: list[Outlook] = []

    def failing(outlook: Outlook) -> None:
        raise RuntimeError("disk full")

    ticker = ticker_of(together(MINUTES), failing, heard.append)
    assert heard == [ticker.outlook]
    assert "disk full" in str(ticker.error)
    ticker.listeners = (heard.append,)
    ticker.remake()
    assert ticker.turn() and ticker.error is None


def test_the_thread_makes_outlooks_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as rows have come, or it is asked to: it does not sleep over either."""
    monkeypatch.setattr("serve.engine.POLL_SECONDS", 3600)
    fleet, made = together(MINUTES), threading.Semaphore(0)
    shelf: Any = SimpleNamespace(current=loaded())
    ticker = Ticker(
        KnownHistory(fleet), shelf, unwatched, Clock(now_of(fleet)), [lambda _: made.release()]
    )
    ticker.start()
    ticker.hear()
    assert made.acquire(timeout=30)
    ticker.remake()
    assert made.acquire(timeout=30)
    ticker.stop()
    assert not any(thread.name == "ticker" for thread in threading.enumerate())

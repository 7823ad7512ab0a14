"""A service's own forecasts are scored when their future has come, each once."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import serve.live_scores
from report.scores import SCORED_QUANTILES, ScoreSums
from serve.live_scores import (
    Evaluated,
    LiveScore,
    LiveScores,
    drift_lines,
    evaluated_scores,
    scored_servers,
)
from serve.outlook import ModelIdentity, Outlook, Status
from serve.state import FleetState
from tests.feeds import KEPT, SMALL, START, STEP, again, row, state

H, METRICS = SMALL.prediction_horizon, SMALL.target_names
WAIT = H + 1  # ticks after an origin: the horizon, and half an hour for late rows


def outlook(
    origin: int = START,
    servers: tuple[str, ...] = ("a",),
    spread: float = 10.0,
    model: str = "m1",
    **changes,
) -> Outlook:
    """Return forecasts of 50, with a spread to either side, made at their origin."""
    S, levels = len(servers), (0.1, 0.25, 0.5, 0.9)
    offsets = np.array([-spread, -spread / 2, 0, spread], np.float32)
    return replace(
        Outlook(
            model=ModelIdentity(model, 0),
            made_at=origin * STEP + 30.0,
            step_seconds=STEP,
            metrics=METRICS,
            levels=levels,
            servers=servers,
            profiles=(None,) * S,
            status=(Status.FORECAST,) * S,
            reasons=(None,) * S,
            origin=np.full(S, origin),
            quantiles=np.full((S, H, 2, 4), 50, np.float32) + offsets,
            latest=np.full((S, 2), 50, np.float32),
            thresholds=np.full((S, 2), np.nan, np.float32),
            chance=np.full((S, H, 2), np.nan, np.float32),
        ),
        **changes,
    )


def come(fed: FleetState, start: int, stop: int, cpu=50.0, server: str = "a") -> None:
    """Let ticks arrive."""
    fed.accept([row(server, tick, cpu=cpu) for tick in range(start, stop)])


def silent(origin: int) -> Outlook:
    """Return an outlook at a later time in which nothing is forecast."""
    return outlook(origin, status=(Status.REFUSED,))


def kept(fed: FleetState) -> list[tuple[str, int]]:
    """Return server and origin of the forecasts put by."""
    with fed._store.transaction() as db:
        return db.execute("SELECT server, origin FROM forecasts ORDER BY origin, server").fetchall()


@pytest.mark.parametrize("at_once", [1, 250])
def test_scores_are_those_of_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(serve.live_scores, "SCORED_AT_ONCE", at_once)
    draw = np.random.default_rng(0)
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    made = outlook(servers=("a", "b"))
    made = replace(made, quantiles=np.sort(draw.uniform(0, 100, made.quantiles.shape)))
    live.update(made)
    cells = draw.choice([0, 20, 60, np.nan], (2, H, 2)).astype(np.float32)
    for server, series in zip("ab", cells, strict=True):
        for tick, (cpu, load) in enumerate(series.tolist()):
            values = {"cpu_percent": cpu, "load_average": load}
            fed.accept([row(server, START + tick, values=values)])
    come(fed, START + WAIT, START + WAIT + 1)
    live.update(silent(START + WAIT))
    sums = ScoreSums(METRICS, made.levels, H, STEP)
    sums.add(made.quantiles.astype(np.float32), cells)
    for expected in sums.rows()[:-1]:
        found = live.summary.day[expected.metric]
        assert (
            found
            == LiveScore(expected.coverage, expected.wql, 2)
            == live.summary.week[expected.metric]
        )
    plain = json.loads(json.dumps(live.summary.to_dict(SMALL.metric_names), allow_nan=False))
    assert plain["cpu_percent"]["day"]["forecasts"] == 2
    assert plain["temperature"] == {"day": None, "week": None}


def test_a_forecast_is_scored_when_its_horizon_and_half_an_hour_have_come(tmp_path: Path) -> None:
    """A row that is late by then is in time."""
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    live.update(outlook())
    come(fed, START, START + H - 1, cpu=55)
    come(fed, START + H, START + WAIT)
    live.update(silent(START + WAIT))
    assert live.summary.day == {} and kept(fed) == [("a", START)]
    come(fed, START + H - 1, START + H, cpu=70)  # late, and outside the interval
    come(fed, START + WAIT, START + WAIT + 1)
    live.update(silent(START + WAIT))
    assert live.summary.day["cpu_percent"].coverage == pytest.approx((H - 1) / H)
    assert kept(fed) == []


def test_each_server_has_one_forecast_an_hour(tmp_path: Path) -> None:
    """At a minute of its own, also after a restart; of ten hours of five-minute outlooks."""
    fed = state(tmp_path)
    servers = tuple(f"server{i}" for i in range(40))
    live = LiveScores(fed._store, fed)
    first = START * 12
    for tick in range(first, first + 120):
        if tick == first + 61:
            fed = again(fed, tmp_path)
            live = LiveScores(fed._store, fed)
        live.update(outlook(tick, servers, step_seconds=300))
    origins: dict[str, list[int]] = {}
    for server, origin in kept(fed):
        origins.setdefault(server, []).append(origin - first)
    assert origins.keys() == {*servers}
    for ticks in origins.values():
        assert len(ticks) in (10, 11) and {*np.diff(ticks[1:]).tolist()} == {12}
    assert len({ticks[1] % 12 for ticks in origins.values()}) > 6, "the work is spread"


def test_of_a_large_fleet_some_servers_are_scored_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.live_scores, "MOST_SERVERS", 5)
    names = tuple(f"server{i:02}" for i in range(30))
    assert [*scored_servers(names)] == [*scored_servers(names[::-1])]
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    for tick in range(3):
        live.update(outlook(START + tick, names))
    assert len(kept(fed)) == 15
    assert {server for server, _ in kept(fed)} == {*scored_servers(names)}


def test_nothing_is_scored_twice_over_restarts(tmp_path: Path) -> None:
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    for tick in range(20):
        come(fed, START + tick, START + tick + 1, cpu=50.0 + tick)
        live.update(outlook(START + tick + 1))
    whole = live.summary
    assert whole.day["cpu_percent"].forecasts == 19 - WAIT
    for _ in range(2):
        fed = again(fed, tmp_path)
        live = LiveScores(fed._store, fed)
        live.update(outlook(START + 20))
        assert live.summary == whole


def test_the_forecast_of_a_server_that_stopped_is_scored_once(tmp_path: Path) -> None:
    """An outlook may show it for as long as it likes."""
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    for tick in range(START, START + WAIT + 4):
        come(fed, tick, tick + 1)
        live.update(outlook(START, made_at=tick * STEP))
    assert live.summary.day["cpu_percent"].forecasts == 1 and kept(fed) == []


def test_a_day_and_a_week(tmp_path: Path) -> None:
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    live.update(outlook())
    come(fed, START, START + WAIT + 1)
    scored = START + WAIT
    counts = []
    for hours in (0, 23, 24, 167, 168):
        live.update(silent(scored + hours))
        spans = (live.summary.day, live.summary.week)
        counts.append(tuple(len(span) for span in spans))
    assert counts == [(2, 2), (2, 2), (0, 2), (0, 2), (0, 0)]
    with fed._store.transaction() as db:
        assert db.execute("SELECT count(*) FROM live_scores").fetchone() == (0,)


@pytest.mark.parametrize("status", [Status.COLD_START, Status.REFUSED])
def test_what_is_no_forecast_is_not_put_by(tmp_path: Path, status: Status) -> None:
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    live.update(outlook(servers=("a", "b"), status=(status, Status.FORECAST)))
    assert kept(fed) == [("b", START)]


def test_a_forecast_nothing_came_of_does_not_count(tmp_path: Path) -> None:
    """Its server vanished, or was never heard of again; a horizon of which some came counts."""
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    come(fed, START - 2, START, server="gone")
    live.update(outlook(servers=("gone", "never", "some")))
    come(fed, START + H - 1, START + H, server="some")
    come(fed, START + WAIT, START + WAIT + 1, server="other")
    live.update(silent(START + WAIT))
    assert kept(fed) == []
    assert live.summary.day["cpu_percent"] == LiveScore(
        1.0, pytest.approx(2 * (1 + 0 + 1) / 3 / 50), 1
    )


def test_after_a_long_silence_old_forecasts_go_unscored(tmp_path: Path) -> None:
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    live.update(outlook())
    come(fed, START + 5 * KEPT, START + 5 * KEPT + 1)
    live.update(silent(START + 5 * KEPT))
    assert kept(fed) == [] and live.summary.day == {}


def test_a_model_is_judged_by_its_own_forecasts(tmp_path: Path) -> None:
    """Those of the one before are scored too, for the day it is put back."""
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    live.update(outlook(START, spread=10, model="old"))
    live.update(outlook(START + 1, spread=1, model="new"))
    come(fed, START, START + WAIT + 2, cpu=55)
    live.update(replace(silent(START + WAIT + 1), model=ModelIdentity("new", 0)))
    assert live.summary.day["cpu_percent"].coverage == 0
    live.update(replace(silent(START + WAIT + 1), model=ModelIdentity("old", 0)))
    assert live.summary.day["cpu_percent"].coverage == 1


def test_a_model_without_the_scored_quantiles_is_told(tmp_path: Path) -> None:
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed)
    with pytest.raises(ValueError, match=r"quantile 0.1 is not among .*forecast them too"):
        live.update(outlook(levels=(0.2, 0.25, 0.5, 0.9)))


def test_drift_is_told_where_coverage_or_loss_leave_their_range(tmp_path: Path) -> None:
    fed = state(tmp_path)
    live = LiveScores(fed._store, fed, {"cpu_percent": Evaluated(0.01, 0.85)})
    servers = tuple(f"server{i}" for i in range(25))
    live.update(outlook(servers=servers))
    for server in servers:
        come(fed, START, START + WAIT + 1, cpu=70, server=server)
    live.update(silent(START + WAIT))
    assert live.summary.drift == (
        "cpu_percent: the 80 % interval of 25 forecasts of the last day held 0% of what came, "
        "expected 75% to 95%",
        "cpu_percent: the weighted quantile loss of 25 forecasts of the last day is 0.21, over "
        "1.5 times the evaluated 0.01",
        "load_average: the 80 % interval of 25 forecasts of the last day held 0% of what came, "
        "expected 70% to 90%",
    )


@pytest.mark.parametrize(
    ("score", "lines"),
    [
        (LiveScore(0.7, 0.15, 20), 0),
        (LiveScore(0.9, 0.15, 20), 0),
        (LiveScore(0.69, 0.1, 20), 1),
        (LiveScore(0.91, 0.1, 20), 1),
        (LiveScore(0.8, 0.16, 20), 1),
        (LiveScore(0.8, math.nan, 20), 0),
        (LiveScore(0.1, 9.0, 19), 0),  # too few to say
    ],
)
def test_where_drift_begins(score: LiveScore, lines: int) -> None:
    for span in ({"day": {"cpu": score}, "week": {}}, {"day": {}, "week": {"cpu": score}}):
        assert len(drift_lines(**span, evaluated={"cpu": Evaluated(loss=0.1)})) == lines
        assert len(drift_lines(**span, evaluated={})) <= lines


@pytest.mark.parametrize(
    ("evaluated", "inside", "outside"),
    [
        (0.62, (0.52, 0.62, 0.72), (0.51, 0.73, 0.8)),
        (0.95, (0.85, 1.0), (0.84, 0.8)),
        (0.8, (0.7, 0.9), (0.69, 0.91)),
    ],
)
def test_coverage_is_compared_with_the_evaluated_one(
    evaluated: float, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    for coverage in (*inside, *outside):
        scores = {"cpu": LiveScore(coverage, 0.1, 20)}
        lines = drift_lines(scores, scores, {"cpu": Evaluated(coverage=evaluated)})
        assert len(lines) == (coverage in outside), coverage


def test_a_week_tells_of_drift_where_the_day_does_not() -> None:
    """A line of each score is enough."""
    good, bad, worse = LiveScore(0.8, 0.1, 30), LiveScore(0.6, 0.1, 200), LiveScore(0.5, 0.2, 30)
    evaluated = {"cpu": Evaluated(loss=0.1)}
    (line,) = drift_lines({"cpu": good}, {"cpu": bad}, evaluated)
    assert line.startswith("cpu: the 80 % interval of 200 forecasts of the last week held 60%")
    (few,) = drift_lines({"cpu": replace(worse, forecasts=19)}, {"cpu": bad}, evaluated)
    assert few == line
    both = drift_lines({"cpu": worse}, {"cpu": bad}, evaluated)
    assert len(both) == 2 and all("30 forecasts of the last day" in each for each in both)


def test_scores_are_read_from_an_evaluation() -> None:
    rows = [
        {"metric": "cpu", "wql": 0.12, "coverage": 0.77},
        {"metric": "idle", "wql": None, "coverage": 0.9},
        {"metric": "unseen", "wql": None, "coverage": None},
    ]
    assert evaluated_scores({"forecasters": [{"rows": rows}, {}]}) == {
        "cpu": Evaluated(0.12, 0.77),
        "idle": Evaluated(math.inf, 0.9),
        "unseen": Evaluated(math.inf, 0.8),
    }
    for other in ({}, {"forecasters": []}, {"forecasters": [{"rows": [{"metric": "cpu"}]}]}):
        with pytest.raises(ValueError, match="no scores of a model; run `evaluate` again"):
            evaluated_scores(other)


def test_scored_quantiles_are_the_median_and_the_interval() -> None:
    """What is put by carries no level of its own."""
    assert SCORED_QUANTILES == (0.1, 0.5, 0.9)

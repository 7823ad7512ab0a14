"""Windows by index: what is valid, and that gathering equals slicing."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.calendar import weekly_table
from data.fleet import Fleet
from data.windows import WindowIndex, WindowStore, index_windows
from tests.builders import SCHEMA, small_fleet
from tft.schema import UNKNOWN_CODE

T, H, MIN = SCHEMA.context_length, SCHEMA.prediction_horizon, SCHEMA.min_context_length


def pairs(index: WindowIndex) -> list[tuple[int, int]]:
    server, origin = index.lookup(np.arange(len(index)))
    return list(zip(server.tolist(), origin.tolist(), strict=True))


def by_slicing(fleet: Fleet, server: int, origin: int) -> tuple[np.ndarray, np.ndarray]:
    """One window's context and horizon, tick by tick."""
    series, first = fleet.series(server), int(fleet.first_tick[server])
    rows = [
        series[tick - first]
        if 0 <= tick - first < len(series)
        else np.full(series.shape[1], np.nan)
        for tick in range(origin - T, origin + H)
    ]
    return np.stack(rows[:T]), np.stack(rows[T:])[:, : len(SCHEMA.targets)]


def test_every_window_with_enough_history_and_a_whole_horizon_is_listed_once() -> None:
    fleet = small_fleet((60, 12, 9))  # the last is one tick short of MIN + H
    expected = [
        (server, int(fleet.first_tick[server]) + row)
        for server, length in ((0, 60), (1, 12))
        for row in range(MIN, length - H + 1)
    ]
    assert pairs(index_windows(fleet, SCHEMA)) == expected


def test_windows_that_saw_or_will_see_nothing_are_left_out() -> None:
    fleet = small_fleet((100,))
    fleet.values[40:80, :2] = np.nan  # targets; the observed metric stays
    first = int(fleet.first_tick[0])
    expected = []
    for row in range(MIN, 100 - H + 1):
        past = fleet.values[max(row - T, 0) : row, :2]
        future = fleet.values[row : row + H, :2]
        if np.isfinite(past).any() and np.isfinite(future).any():
            expected.append((0, first + row))
    assert pairs(index_windows(fleet, SCHEMA)) == expected
    assert len(expected) < 100 - H + 1 - MIN


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), hole=st.integers(0, 60))
def test_gathering_equals_slicing(seed: int, hole: int) -> None:
    fleet = small_fleet(seed=seed)
    fleet.values[np.random.default_rng(seed).random(len(fleet.values)) < hole / 100] = np.nan
    index = index_windows(fleet, SCHEMA)
    chosen = np.random.default_rng(seed).integers(0, len(index), 16)
    server, origin = index.lookup(chosen)
    batch = WindowStore(fleet, SCHEMA).gather(server, origin)
    for row in range(16):
        past, future = by_slicing(fleet, int(server[row]), int(origin[row]))
        np.testing.assert_array_equal(batch.past[row].numpy(), past)
        np.testing.assert_array_equal(batch.future[row].numpy(), future)
        history = min(int(origin[row] - fleet.first_tick[server[row]]), T)
        assert batch.history_length[row] == history


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_earlier_ticks_are_those_before_the_origin(seed: int) -> None:
    """As far as the series goes, whose end may lie before the origin."""
    schema = replace(SCHEMA, days_before=3)
    fleet = small_fleet((90, 60))
    draw = np.random.default_rng(seed)
    server = draw.integers(0, 2, 8)
    local = draw.integers(1, fleet.lengths[server] + 5)
    batch = WindowStore(fleet, schema).gather(server, fleet.first_tick[server] + local)
    assert batch.earlier.shape == (8, 72, 2)
    for row, (who, begin) in enumerate(zip(server, local, strict=True)):
        series = np.full((72 + 90 + 5, 2), np.nan)
        series[72 : 72 + fleet.lengths[who]] = fleet.series(who)[:, :2]
        np.testing.assert_array_equal(batch.earlier[row].numpy(), series[begin : begin + 72])


def test_a_forecast_of_the_real_future_needs_no_rows_for_it() -> None:
    fleet = small_fleet()
    after = fleet.first_tick + fleet.lengths
    batch = WindowStore(fleet, SCHEMA).gather(np.arange(3), after)
    assert batch.future.isnan().all()
    for server in range(3):
        np.testing.assert_array_equal(batch.past[server].numpy(), fleet.series(server)[-T:])


def test_a_window_before_its_server_is_refused() -> None:
    fleet = small_fleet()
    with pytest.raises(ValueError, match="no history"):
        WindowStore(fleet, SCHEMA).gather(np.array([0]), fleet.first_tick[:1])


def test_static_inputs_are_each_servers_own() -> None:
    fleet = small_fleet()
    batch = WindowStore(fleet, SCHEMA).gather(np.array([2, 0]), fleet.first_tick[[2, 0]] + 40)
    np.testing.assert_array_equal(batch.static_reals.numpy(), fleet.static[[2, 0]])
    expected = [[SCHEMA.server_code(f"server{i}"), 1 + i % 2] for i in (2, 0)]
    assert batch.static_codes.tolist() == expected


def test_a_server_nobody_trained_on_has_the_unknown_code() -> None:
    """Hashed, it would borrow a stranger's code, or one that was never trained."""
    fleet = small_fleet()
    store = WindowStore(fleet, SCHEMA, known_servers=["server0", "server2"])
    batch = store.gather(np.arange(3), fleet.first_tick + 40)
    codes = [SCHEMA.server_code("server0"), UNKNOWN_CODE, SCHEMA.server_code("server2")]
    assert batch.static_codes[:, 0].tolist() == codes


def test_known_inputs_are_the_clocks() -> None:
    """Tick numbers count from the epoch: hour and weekday follow from them, in UTC."""
    fleet = small_fleet()
    origin = fleet.first_tick[:1] + 40
    batch = WindowStore(fleet, SCHEMA).gather(np.array([0]), origin)
    for step in range(T + H):
        moment = datetime.fromtimestamp((int(origin[0]) - T + step) * SCHEMA.step_seconds, UTC)
        hour, weekday = batch.known[0, step]
        day = moment.hour / 24
        # 1970-01-01 was a Thursday: the weekly circle begins there.
        week = ((moment.weekday() - 3) % 7 + day) / 7
        for circle, turn in ((hour, day), (weekday, week)):
            expected = [np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)]
            np.testing.assert_allclose(circle.numpy(), expected, atol=1e-6)


def test_a_step_that_does_not_divide_a_week_is_refused() -> None:
    with pytest.raises(ValueError, match="step_seconds 77 must divide a week"):
        weekly_table(77)


def test_a_fleet_of_other_columns_or_step_is_refused() -> None:
    fleet = small_fleet()
    with pytest.raises(ValueError, match="read it with the schema's roles"):
        WindowStore(fleet, replace(SCHEMA, observed=()))
    with pytest.raises(ValueError, match="ticks every 3600 s, the schema every 300"):
        WindowStore(fleet, replace(SCHEMA, step_seconds=300))


def test_the_store_shares_the_series() -> None:
    """Nothing is copied: a fleet is in memory once."""
    fleet = small_fleet()
    assert WindowStore(fleet, SCHEMA).values.data_ptr() == fleet.values.ctypes.data


def test_gathering_leaves_the_series_alone() -> None:
    fleet = small_fleet()
    before = fleet.values.copy()
    store = WindowStore(fleet, SCHEMA)
    batch = store.gather(np.array([0]), fleet.first_tick[:1] + 20)
    batch.past.fill_(0)
    assert torch.equal(store.values, torch.from_numpy(before))

"""What-if: the forecast as it is, beside that of a changed history."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from data.fleet import Fleet
from serve.scenario import Change, WhatIf, what_if
from tests.builders import SCHEMA, small_fleet, tiny_forecaster
from tft.batch import WindowBatch
from tft.forecaster import Forecaster, TrainingFacts

H, M, STEP = SCHEMA.prediction_horizon, len(SCHEMA.targets), SCHEMA.step_seconds
RANGES = TrainingFacts(metric_low=(0.0, 0.0, 0.0), metric_high=(60.0, 60.0, 60.0))


def forecaster_of(facts: TrainingFacts = RANGES) -> Forecaster:
    forecaster = tiny_forecaster()
    forecaster.facts = facts
    return forecaster


def scenario(
    fleet: Fleet,
    hours: float = 2.0,
    now: float = 0.0,
    facts: TrainingFacts = RANGES,
    **changes: Any,
) -> tuple[WhatIf, ...]:
    return what_if(forecaster_of(facts), fleet, changes, hours, now)


def windows(
    fleet: Fleet, hours: float = 2.0, clock_hours: float = 0.0, **changes: Change
) -> tuple[WindowBatch, WindowBatch]:
    """Return what is forecast unchanged and changed."""
    forecaster, batches = forecaster_of(), []
    forecast = forecaster.forecast

    def noting(batch: WindowBatch) -> torch.Tensor:
        batches.append(batch)
        return forecast(batch)

    forecaster.forecast = noting  # type: ignore[method-assign]
    what_if(forecaster, fleet, changes, hours, 0.0, clock_hours)
    unchanged, changed = batches
    return unchanged, changed


def test_the_clock_goes_on_and_nothing_else_does() -> None:
    """A day on the hours are the same and the weekday is another; a week on all is as it was."""
    for clock_hours, weekday in ((24.0, True), (-24.0, True), (168.0, False)):
        unchanged, changed = windows(small_fleet(), clock_hours=clock_hours)
        np.testing.assert_allclose(changed.known[..., 0, :], unchanged.known[..., 0, :], atol=1e-6)
        assert (changed.known[..., 1, :] != unchanged.known[..., 1, :]).any().item() is weekday
        np.testing.assert_array_equal(changed.past, unchanged.past)
    on = windows(small_fleet(), clock_hours=1.0)
    np.testing.assert_array_equal(on[1].known[:, :-1], on[0].known[:, 1:])


def test_only_the_last_hours_of_the_metrics_named_change() -> None:
    """Targets and observed metrics alike, in every server."""
    change = {"cpu_percent": Change(scale=1.5), "temperature": Change(scale=0.5, shift=3.0)}
    unchanged, changed = windows(small_fleet(), 3.0, **change)
    expected = unchanged.past.clone()
    expected[:, -3:, 0] *= 1.5
    expected[:, -3:, 2] = expected[:, -3:, 2] * 0.5 + 3.0
    np.testing.assert_allclose(changed.past, expected, rtol=1e-6)
    for field in ("known", "static_reals", "static_codes", "history_length"):
        assert torch.equal(getattr(changed, field), getattr(unchanged, field))


def test_the_changed_hours_are_seen_in_the_earlier_ticks_too() -> None:
    """A day of 24 ticks: what changes in the context changes where it is shown again."""
    unchanged, changed = windows(small_fleet(), 24.0, cpu_percent=Change(shift=5.0))
    np.testing.assert_allclose(
        changed.earlier[:, -24:, 0], unchanged.earlier[:, -24:, 0] + 5.0, rtol=1e-6
    )
    before = slice(None, -24)
    assert torch.equal(
        changed.earlier[:, before].nan_to_num(), unchanged.earlier[:, before].nan_to_num()
    )


def test_values_stay_within_bounds_and_missing_ones_missing() -> None:
    fleet = small_fleet()
    fleet.series(0)[-1, 0] = np.nan
    changes = {"cpu_percent": Change(scale=100.0), "load_average": Change(shift=-1000.0)}
    _, changed = windows(fleet, 2.0, **changes)
    assert changed.past[:, -2:, 0].nan_to_num(100.0).eq(100.0).all()
    assert changed.past[0, -1, 0].isnan()
    assert changed.past[:, -2:, 1].eq(0.0).all()


def test_the_forecast_of_the_changed_history_stands_beside_the_unchanged_one() -> None:
    fleet = small_fleet()
    values = fleet.values.copy()
    same = scenario(fleet, cpu_percent=Change())
    other = scenario(fleet, cpu_percent=Change(shift=40.0))
    for number, (one, two) in enumerate(zip(same, other, strict=True)):
        assert one.server == two.server == fleet.servers[number]
        assert one.profile == fleet.profiles[number]
        assert one.origin == fleet.first_tick[number] + fleet.lengths[number]
        assert one.unchanged.shape == (H, M, 3) and one.reason is None
        np.testing.assert_array_equal(one.unchanged, one.changed)
        np.testing.assert_array_equal(two.unchanged, one.unchanged)
        assert (two.changed != two.unchanged).any()
    np.testing.assert_array_equal(fleet.values, values)


def test_metrics_that_leave_the_training_range_are_named_by_server() -> None:
    fleet = small_fleet((60, 60))
    fleet.series(0)[-2:] = 20.0
    fleet.series(1)[-2:] = 40.0
    found = scenario(fleet, cpu_percent=Change(2.0), temperature=Change(1.4))
    assert [one.outside_training_range for one in found] == [(), ("cpu_percent",)]
    found = scenario(fleet, temperature=Change(shift=-20.5))
    assert [one.outside_training_range for one in found] == [("temperature",), ()]


@pytest.mark.parametrize(
    "facts", [TrainingFacts(), replace(RANGES, metric_high=(None, 60.0, 60.0))]
)
def test_where_no_range_is_known_nothing_is_said_to_lie_in_it(facts: TrainingFacts) -> None:
    found = scenario(small_fleet(), facts=facts, cpu_percent=Change())
    assert {one.outside_training_range for one in found} == {("cpu_percent",)}


def test_a_server_without_a_forecast_gets_its_reason_and_no_number() -> None:
    fleet = small_fleet((3, 60))
    cold, warm = scenario(fleet, cpu_percent=Change(2.0))
    assert str(cold.reason).startswith("cold start") and warm.reason is None
    assert np.isnan(cold.unchanged).all() and np.isnan(cold.changed).all()
    assert np.isfinite(warm.changed).all()
    past = scenario(fleet, now=1e12, cpu_percent=Change(2.0))[1]
    assert "of the past" in str(past.reason) and np.isnan(past.changed).all()


def test_a_changed_forecast_that_is_not_finite_takes_both_away() -> None:
    forecaster, calls = forecaster_of(), []
    forecast = forecaster.forecast

    def overflowing(batch: WindowBatch) -> torch.Tensor:
        calls.append(batch)
        return forecast(batch) * (math.inf if len(calls) == 2 else 1.0)

    forecaster.forecast = overflowing  # type: ignore[method-assign]
    (found, *_) = what_if(forecaster, small_fleet(), {"cpu_percent": Change(2.0)}, 1.0, 0.0)
    assert "not finite" in str(found.reason)
    assert np.isnan(found.unchanged).all() and np.isnan(found.changed).all()


def test_many_servers_are_forecast_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scenario(small_fleet(), cpu_percent=Change(2.0))
    monkeypatch.setattr("serve.scenario.BATCH_SIZE", 2)
    chunked = scenario(small_fleet(), cpu_percent=Change(2.0))
    for one, two in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(one.changed, two.changed, rtol=1e-5)


@pytest.mark.parametrize(
    ("hours", "changes", "message"),
    [
        (2.0, {"disk": Change()}, "no metric 'disk' to change; the model sees cpu_percent, load_a"),
        (0.0, {}, "hours 0: expected at least a tick, 1, and at most what the model sees, 30"),
        (30.5, {}, "hours 30.5"),
        (math.nan, {}, "hours nan"),
        (2.0, {"temperature": Change(1e300)}, "'temperature': the change makes values too large"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused(
    hours: float, changes: dict[str, Change], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        scenario(small_fleet(), hours, **changes)


@pytest.mark.parametrize("scale", [-1.0, math.inf, math.nan])
def test_a_scale_is_a_number_from_0(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale {scale}: expected a finite number, at least 0"):
        Change(scale=scale)


def test_a_shift_is_a_number() -> None:
    with pytest.raises(ValueError, match="shift nan: expected a finite number"):
        Change(shift=math.nan)

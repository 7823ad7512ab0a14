"""New servers are scored from short histories as if there were no others."""

from dataclasses import replace

import numpy as np
import torch

from data.windows import WindowStore
from report.groups import ValidationPart, cold_start_groups, with_short_histories
from tests.builders import SCHEMA, small_fleet, tiny_forecaster
from tft.forecaster import Forecaster, TrainingFacts

H = SCHEMA.prediction_horizon


def trained(*servers: str, end: int = 1040) -> Forecaster:
    forecaster = tiny_forecaster()
    forecaster.facts = TrainingFacts(servers, end)
    return forecaster


def test_each_length_is_a_group_on_the_same_windows_and_short_ones_are_cold_starts() -> None:
    """One hour is below min_context_length, 4 ticks of an hour here."""
    groups = cold_start_groups(trained("server0", "server1"), small_fleet())
    assert [group.history_hours for group in groups] == [1, 6, 24]
    assert [group.cold_start for group in groups] == [True, False, False]
    assert len({group.windows for group in groups}) == 1
    assert all(group.new and group.servers == 1 for group in groups)
    assert groups[0].name == "new servers, 1 h of history"
    assert set(groups[0].scores) == {"tft", "last_value", "seasonal_naive", "window_quantiles"}


def test_there_is_no_cold_start_where_every_server_was_trained_on() -> None:
    assert cold_start_groups(trained("server0", "server1", "server2"), small_fleet()) == ()


def test_a_length_beyond_the_context_is_left_out() -> None:
    forecaster = tiny_forecaster(schema=replace(SCHEMA, context_length=8))
    forecaster.facts = TrainingFacts(("server0", "server1"), 1040)
    assert [g.history_hours for g in cold_start_groups(forecaster, small_fleet())] == [1, 6]


def test_a_new_server_with_too_little_history_for_the_longest_length_gives_no_group() -> None:
    assert cold_start_groups(trained("server0", "server1"), small_fleet((60, 80, 20))) == ()


def test_windows_that_chose_the_epoch_are_left_out_where_there_are_others() -> None:
    fleet, forecaster = small_fleet((60, 80, 90)), trained("server0", "server1")
    begin = int(fleet.first_tick[2])
    whole = cold_start_groups(forecaster, fleet)[0]
    part = ValidationPart(begin + 60, begin + 90, None)
    held_out = cold_start_groups(forecaster, fleet, part)[0]
    assert whole.validation is None and held_out.validation is False
    assert 0 < held_out.windows < whole.windows
    everything = ValidationPart(begin, begin + 90, None)
    assert cold_start_groups(forecaster, fleet, everything)[0].validation is True


def test_a_short_history_holds_the_last_ticks_and_nothing_before_them() -> None:
    fleet = small_fleet()
    server, origin = np.array([2, 0]), np.array([1036, 1031])
    short = with_short_histories(fleet, server, origin, 5, H)
    mine = WindowStore(short, SCHEMA).gather(np.arange(2), origin)
    whole = WindowStore(fleet, SCHEMA).gather(server, origin)
    assert torch.equal(mine.past[:, -5:], whole.past[:, -5:])
    assert mine.past[:, :-5].isnan().all() and mine.history_length.tolist() == [5, 5]
    for name in ("known", "future", "static_reals", "static_codes"):
        assert torch.equal(getattr(mine, name), getattr(whole, name))


def test_a_window_overlaps_the_validation_part_with_any_tick_it_forecasts() -> None:
    fleet, part = small_fleet(), ValidationPart(1040, 1050, frozenset(("server0",)))
    origin = np.array([1034, 1035, 1049, 1050])
    on_it = part.overlaps(fleet, np.zeros(4, dtype=np.int64), origin, H)
    assert on_it.tolist() == [False, True, True, False]
    assert not part.overlaps(fleet, np.ones(4, dtype=np.int64), origin, H).any()

"""No tick that validation forecasts is seen in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.fleet import Fleet
from data.splits import Split, split_by_time, split_fold, spread_evenly, training_stretches
from data.windows import index_windows
from tests.builders import SCHEMA, small_fleet

T, H, MIN = SCHEMA.context_length, SCHEMA.prediction_horizon, SCHEMA.min_context_length


def cut_at(fleet: Fleet, cutoff: int) -> Split:
    index = index_windows(fleet, SCHEMA)
    return Split(index, index, cutoff, fleet.end_tick, fleet.first_tick < cutoff)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=4),
    share=st.floats(0.05, 0.6),
)
def test_no_target_tick_of_validation_is_seen_in_training(lengths: list[int], share: float) -> None:
    fleet = small_fleet((*lengths, 90))
    split = split_by_time(fleet, SCHEMA, share)
    _, trained = split.train.lookup(np.arange(len(split.train)))
    _, validated = split.validation.lookup(np.arange(len(split.validation)))
    assert (trained + H).max() <= split.cutoff <= validated.min()


def test_the_share_is_of_the_time_span() -> None:
    fleet = small_fleet((200,))
    assert split_by_time(fleet, SCHEMA, 0.25).cutoff == fleet.first_tick[0] + 150


def test_a_short_table_keeps_one_horizon_to_validate() -> None:
    fleet = small_fleet((MIN + 2 * H,))
    split = split_by_time(fleet, SCHEMA, 0.01)
    assert len(split.train) == len(split.validation) == 1


def test_too_short_a_table_says_how_much_is_needed() -> None:
    with pytest.raises(ValueError, match=f"= {MIN + 2 * H} ticks are needed"):
        split_by_time(small_fleet((MIN + 2 * H - 1,)), SCHEMA, 0.2)


def test_statistics_never_see_validation() -> None:
    fleet = small_fleet((60, 80, 50))
    cutoff = int(fleet.first_tick.min()) + 45
    before = training_stretches(fleet, cut_at(fleet, cutoff), ticks=10)
    for server in range(3):
        fleet.series(server)[max(cutoff - int(fleet.first_tick[server]), 0) :] = 1e9
    after = training_stretches(fleet, cut_at(fleet, cutoff), ticks=10)
    assert torch.equal(before.nan_to_num(-1), after.nan_to_num(-1))
    assert before.nan_to_num(0).max() < 1e9


def test_statistics_see_every_training_row_once() -> None:
    fleet = small_fleet((60, 80, 50))
    cutoff = int(fleet.first_tick.min()) + 45
    days = training_stretches(fleet, cut_at(fleet, cutoff), ticks=10)
    seen = np.sort(days[~days.isnan().any(-1)].flatten().numpy())
    rows = [fleet.series(s)[: cutoff - int(fleet.first_tick[s])] for s in range(3)]
    np.testing.assert_array_equal(seen, np.sort(np.concatenate(rows).ravel()))


def test_statistics_of_a_huge_fleet_look_at_a_part() -> None:
    fleet = small_fleet((60, 80, 50))
    days = training_stretches(fleet, cut_at(fleet, 10**6), ticks=10, most=7)
    assert days.shape == (7, 10, 3)


def test_a_server_that_appears_after_the_cutoff_is_left_out_of_statistics() -> None:
    fleet = small_fleet((60, 80))
    late = replace(fleet, first_tick=np.array([1000, 5000]))
    days = training_stretches(late, cut_at(late, 1060), ticks=10)
    assert len(days) == 6


def test_spread_evenly() -> None:
    assert spread_evenly(10, None).tolist() == spread_evenly(10, 99).tolist() == list(range(10))
    assert spread_evenly(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert len(set(spread_evenly(1001, 1000).tolist())) == 1000


def test_a_server_held_out_is_validated_and_leaves_no_trace_in_training() -> None:
    fleet = small_fleet((90, 90, 90))
    split = split_by_time(fleet, SCHEMA, 0.3, held_out=("server1",))
    assert set(split.train.server.tolist()) == {0, 2}
    assert set(split.validation.server.tolist()) == {0, 1, 2}
    assert split.trained.tolist() == [True, False, True]
    before = training_stretches(fleet, split, ticks=10)
    fleet.series(1)[:] = 1e9
    after = training_stretches(fleet, split, ticks=10)
    assert torch.equal(before.nan_to_num(-1), after.nan_to_num(-1))


def test_a_server_held_out_must_be_there() -> None:
    with pytest.raises(ValueError, match="no server 'server7' in the table; did you mean server"):
        split_by_time(small_fleet((90,)), SCHEMA, 0.3, held_out=("server7",))


def test_folds_roll_forward() -> None:
    """Every fold trains on all that came before the part it validates on, and on nothing else."""
    fleet = small_fleet((160, 160))
    begin, span = int(fleet.first_tick.min()), fleet.end_tick - int(fleet.first_tick.min())
    splits = [split_fold(fleet, SCHEMA, fold, 3) for fold in (1, 2, 3)]
    for fold, split in enumerate(splits, 1):
        assert split.cutoff == begin + span * fold // 4
        assert split.end == begin + span * (fold + 1) // 4
        _, trained = split.train.lookup(np.arange(len(split.train)))
        _, validated = split.validation.lookup(np.arange(len(split.validation)))
        assert (trained + H).max() <= split.cutoff <= validated.min()
        assert (validated + H).max() <= split.end
    assert splits[-1].end == fleet.end_tick


def test_a_fold_too_short_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="no training window"):
        split_fold(small_fleet((40,)), SCHEMA, 1, 9)


def test_a_server_without_a_window_before_the_cutoff_is_not_trained_on() -> None:
    """It began an hour before: its bucket would be untrained, so it counts as unknown."""
    fleet = small_fleet((90, 30))
    late = replace(fleet, first_tick=np.array([1000, 1060]))
    split = split_by_time(late, SCHEMA, 0.3)
    assert 1060 < split.cutoff < 1060 + MIN + H
    assert split.trained.tolist() == [True, False]

"""The order of windows is a function of seed, epoch and position alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.sampling import WindowOrder, shuffle


@settings(max_examples=100, deadline=None)
@given(total=st.integers(1, 3000), seed=st.integers(0, 2**40))
def test_a_shuffle_is_a_permutation(total: int, seed: int) -> None:
    assert sorted(shuffle(np.arange(total), total, (seed, 0))) == list(range(total))


def test_a_shuffle_keeps_no_trace_of_the_order() -> None:
    shuffled = shuffle(np.arange(20_000), 20_000, (7, 0))
    assert abs(np.corrcoef(shuffled, np.arange(20_000))[0, 1]) < 0.03
    assert abs(np.corrcoef(shuffled[1:], shuffled[:-1])[0, 1]) < 0.03
    halves = shuffled[:10_000] < 10_000
    assert 0.47 < halves.mean() < 0.53


def test_a_full_epoch_is_every_window_once_and_no_two_epochs_alike() -> None:
    order = WindowOrder(1000, seed=1)
    first, second = order.windows(0, 0, 1000), order.windows(1, 0, 1000)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first == second).mean() < 0.02


def test_sampled_epochs_see_every_window_before_any_twice() -> None:
    order = WindowOrder(1000, seed=1, windows_per_epoch=300)
    stream = np.concatenate([order.windows(epoch, 0, 300) for epoch in range(10)])
    for number in range(3):
        assert sorted(stream[number * 1000 : (number + 1) * 1000]) == list(range(1000))


@settings(max_examples=50, deadline=None)
@given(start=st.integers(0, 299), length=st.integers(0, 100), epoch=st.integers(0, 20))
def test_any_stretch_equals_that_part_of_the_whole(start: int, length: int, epoch: int) -> None:
    """Resuming in mid-epoch, workers and ranks rest on it."""
    order = WindowOrder(130, seed=5, windows_per_epoch=300)
    whole = order.windows(epoch, 0, 300)
    np.testing.assert_array_equal(
        order.windows(epoch, start, start + length), whole[start : start + length]
    )


def test_seeds_differ() -> None:
    one, two = (WindowOrder(1000, seed).windows(0, 0, 1000) for seed in (1, 2))
    assert (one == two).mean() < 0.02


def test_the_order_of_a_huge_fleet_needs_no_memory() -> None:
    order = WindowOrder(10**15, seed=0)
    drawn = order.windows(3, 10**14, 10**14 + 1000)
    assert len(np.unique(drawn)) == 1000
    assert drawn.min() >= 0 and drawn.max() < 10**15


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        WindowOrder(0, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        WindowOrder(5, seed=0, windows_per_epoch=0)

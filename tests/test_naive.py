"""Naive forecasts equal the scorer's on windows without gaps and are defined on all others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from report.naive import (
    NAIVE_FORECASTS,
    last_value,
    masked_quantiles,
    straight_line,
    yesterdays_values,
)
from tests.test_scores import load_scorer

THREE = (0.1, 0.5, 0.9)
SEVEN = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
SCORERS_NAMES = {
    "last_value": "last_value",
    "seasonal_naive": "seasonal_naive",
    "window_quantiles": "last_window_quantiles",
}
BY_NAME = pytest.mark.parametrize("name", list(NAIVE_FORECASTS))


def make_history(seed, shape=(5, 288, 3), missing=0.0):
    rng = np.random.default_rng(seed)
    history = rng.gamma(2.0, 20.0, shape).astype(np.float32)
    history[rng.random(shape) < missing] = np.nan
    return history


@BY_NAME
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_shared_scorers(name, dtype):
    scorer = load_scorer()
    history = make_history(1).astype(dtype)
    expected = getattr(scorer, SCORERS_NAMES[name])(history)
    forecast = NAIVE_FORECASTS[name](history, 96, THREE)
    assert forecast.dtype == np.float32
    np.testing.assert_allclose(forecast, expected, rtol=1e-5, atol=1e-5)


@BY_NAME
def test_more_levels_keep_those_of_fewer(name):
    history = make_history(2, missing=0.1)
    many = NAIVE_FORECASTS[name](history, 96, SEVEN)
    few = NAIVE_FORECASTS[name](history, 96, THREE)
    assert many.shape == (5, 96, 3, 7)
    np.testing.assert_array_equal(many[..., [1, 3, 5]], few)
    assert np.all(many[..., 0] < many[..., 1]) and np.all(many[..., 5] < many[..., 6])


@BY_NAME
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    ticks=st.sampled_from([1, 2, 11, 72, 288, 300]),
    missing=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    shape=st.sampled_from(["noise", "rising", "constant"]),
)
def test_never_crosses_and_is_nan_only_where_nothing_was_observed(
    name, seed, ticks, missing, shape
):
    """A steadily rising history has residuals above zero only; the lower quantiles must hold."""
    history = make_history(seed, (3, ticks, 2), missing)
    if shape == "rising":
        history = np.where(np.isnan(history), np.nan, np.arange(ticks)[:, None]) + 0.1
    if shape == "constant":
        history = np.where(np.isnan(history), np.nan, 0.3)
    forecast = NAIVE_FORECASTS[name](history, 40, SEVEN)
    seen = (~np.isnan(history)).any(axis=1)  # [N, M]
    np.testing.assert_array_equal(
        ~np.isnan(forecast), np.broadcast_to(seen[:, None, :, None], forecast.shape)
    )
    assert np.all(np.diff(np.nan_to_num(forecast), axis=-1) >= 0.0)


@BY_NAME
@pytest.mark.parametrize("ticks", [1, 5, 72, 250])
def test_padding_on_the_left_changes_nothing(name, ticks):
    history = make_history(3, (4, ticks, 2), missing=0.2)
    padded = np.full((4, 288, 2), np.nan, dtype=np.float32)
    padded[:, 288 - ticks :] = history
    np.testing.assert_array_equal(
        NAIVE_FORECASTS[name](history, 96, SEVEN), NAIVE_FORECASTS[name](padded, 96, SEVEN)
    )


@BY_NAME
def test_only_the_last_day_counts(name):
    history = make_history(4, (4, 400, 2))
    changed = history.copy()
    changed[:, :112] = 1e6
    np.testing.assert_array_equal(
        NAIVE_FORECASTS[name](history, 96, SEVEN), NAIVE_FORECASTS[name](changed, 96, SEVEN)
    )
    changed[:, 112] = 1e6  # the first tick of the last day
    assert not np.array_equal(
        NAIVE_FORECASTS[name](history, 96, SEVEN), NAIVE_FORECASTS[name](changed, 96, SEVEN)
    )


@BY_NAME
def test_a_silent_day_falls_back_to_the_last_value_before_it(name):
    history = make_history(5, (2, 400, 2))
    history[0, 100:] = np.nan
    history[1, :, 1] = np.nan
    forecast = NAIVE_FORECASTS[name](history, 96, SEVEN)
    expected = np.broadcast_to(history[0, 99][None, :, None], (96, 2, 7))
    np.testing.assert_array_equal(forecast[0], expected)
    assert np.isnan(forecast[1, :, 1]).all() and not np.isnan(forecast[1, :, 0]).any()


def test_last_value_spreads_by_the_steps_between_observed_neighbours():
    history = np.array([1.0, 2.0, np.nan, 9.0, 6.0, np.nan])[None, :, None]
    forecast = last_value(history, 2, THREE)
    # Two steps were seen, of 1 and 3: twice their mean is 4 around the last value of 6.
    np.testing.assert_allclose(forecast, np.tile([2.0, 6.0, 10.0], (1, 2, 1, 1)), rtol=1e-6)


def test_seasonal_naive_stands_on_yesterday_and_fills_its_gaps_with_the_last_value():
    history = make_history(6, (1, 288, 1))
    history[0, 10, 0] = np.nan
    median = NAIVE_FORECASTS["seasonal_naive"](history, 96, THREE)[0, :, 0, 1]
    expected = history[0, :96, 0].copy()
    expected[10] = history[0, -1, 0]
    np.testing.assert_array_equal(median, expected)


def test_yesterdays_values():
    history = np.arange(300.0)[None, :, None]
    same_ticks = yesterdays_values(history, 300)[0, :, 0]
    np.testing.assert_array_equal(same_ticks[:288], np.arange(12.0, 300.0))
    np.testing.assert_array_equal(same_ticks[288:], np.arange(12.0, 24.0))  # the day repeats
    short = yesterdays_values(history[:, :200], 96)[0, :, 0]
    np.testing.assert_array_equal(short, np.r_[np.full(88, np.nan), np.arange(8.0)])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ticks=st.integers(1, 40),
    missing=st.sampled_from([0.0, 0.3, 0.8]),
)
def test_masked_quantiles_equal_numpys_on_the_observed(seed, ticks, missing):
    values = make_history(seed, (3, ticks, 2), missing)
    ours = masked_quantiles(values, SEVEN)
    for n in range(3):
        for m in range(2):
            series = values[n, :, m]
            seen = series[~np.isnan(series)].astype(np.float64)
            expected = np.quantile(seen, SEVEN) if len(seen) else np.full(7, np.nan)
            np.testing.assert_allclose(ours[n, m], expected, rtol=1e-6)


def test_a_straight_line_goes_on_through_gaps_and_from_the_last_four_hours_only():
    history = (3.0 + 0.5 * np.arange(288))[None, :, None]
    history[0, :240] = 999.0
    history[0, 250:260] = np.nan
    forecast = straight_line(history, 96, THREE)
    expected = 3.0 + 0.5 * np.arange(288, 384)
    for q in range(3):  # no residual, no spread
        np.testing.assert_allclose(forecast[0, :, 0, q], expected, rtol=1e-5)


def test_a_straight_line_is_as_wide_as_its_residuals():
    """Against numpy's own least squares."""
    history = make_history(7, (1, 288, 1)).astype(np.float64)
    forecast = straight_line(history, 96, THREE)[0, :, 0]
    tick = np.arange(240, 288)
    line = np.polyfit(tick, history[0, 240:, 0], 1)
    residual = history[0, 240:, 0] - np.polyval(line, tick)
    spread = np.sqrt((residual**2).sum() / 46)
    np.testing.assert_allclose(forecast[:, 1], np.polyval(line, np.arange(288, 384)), rtol=1e-4)
    np.testing.assert_allclose(forecast[:, 2] - forecast[:, 1], 1.2816 * spread, rtol=1e-3)


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_a_straight_line_through_too_few_ticks_holds_the_last_value(seen):
    history = make_history(8, (1, 288, 1))
    history[0, 240 : 288 - seen] = np.nan
    last = history[0, 239 if seen == 0 else 287, 0]
    np.testing.assert_array_equal(straight_line(history, 4, SEVEN), np.full((1, 4, 1, 7), last))

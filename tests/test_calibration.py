"""Shares at or below quantiles and inside intervals, counted plainly."""

import math

import numpy as np
import pytest

from report.calibration import CalibrationSums, symmetric_pairs

LEVELS = (0.1, 0.5, 0.9)


def windows(seed=0):
    draw = np.random.default_rng(seed)
    forecast = np.sort(draw.normal(50, 20, (9, 4, 2, 3)), axis=-1)
    actual = draw.normal(50, 20, (9, 4, 2))
    actual[draw.random(actual.shape) < 0.2] = np.nan
    return forecast, actual


def rows_of(*batches):
    sums = CalibrationSums(("cpu_percent", "net_in_kbs"), LEVELS)
    for forecast, actual in batches:
        sums.add(forecast, actual)
    return sums.rows()


def test_shares_are_those_counted_one_by_one():
    forecast, actual = windows()
    cpu = rows_of((forecast, actual))[0]
    seen = [
        (forecast[i, h, 0], actual[i, h, 0])
        for i in range(9)
        for h in range(4)
        if not math.isnan(actual[i, h, 0])
    ]
    for level in range(3):
        share = sum(value <= quantiles[level] for quantiles, value in seen) / len(seen)
        assert cpu.at_or_below[level] == pytest.approx(share)
    (interval,) = cpu.intervals
    inside = sum(quantiles[0] <= value <= quantiles[2] for quantiles, value in seen)
    assert interval.coverage == pytest.approx(inside / len(seen))
    width = sum(quantiles[2] - quantiles[0] for quantiles, _ in seen)
    assert interval.width == pytest.approx(width / len(seen))
    near = sum(abs(value - quantiles[1]) <= 10 for quantiles, value in seen)
    assert cpu.within_10_points == pytest.approx(near / len(seen))


def test_only_percentages_have_points():
    assert rows_of(windows())[1].within_10_points is None


def test_batches_add_up():
    forecast, actual = windows()
    apart = rows_of((forecast[:3], actual[:3]), (forecast[3:], actual[3:]))
    for one, other in zip(rows_of((forecast, actual)), apart, strict=True):
        assert one.at_or_below == pytest.approx(other.at_or_below)
        assert one.intervals[0].width == pytest.approx(other.intervals[0].width)


def test_what_the_model_passes_on_leaves_its_metric_without_shares():
    forecast, actual = windows()
    actual[0, 0] = 50.0
    forecast[0, 0, 0, 1] = np.inf
    cpu, net = rows_of((forecast, actual))
    assert math.isnan(cpu.at_or_below[0]) and math.isnan(cpu.intervals[0].width)
    assert math.isfinite(net.at_or_below[0])


def test_a_forecast_that_is_no_number_counts_for_nothing_where_nothing_was_observed():
    forecast, actual = windows()
    actual[0, 0] = np.nan
    forecast[0, 0] = np.nan
    assert all(math.isfinite(each.at_or_below[0]) for each in rows_of((forecast, actual)))


def test_a_metric_never_observed_has_no_shares():
    forecast, actual = windows()
    assert math.isnan(rows_of((forecast, np.full_like(actual, np.nan)))[0].at_or_below[1])


def test_symmetric_pairs_are_widest_first():
    assert symmetric_pairs((0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)) == [(0, 6), (1, 5), (2, 4)]
    assert symmetric_pairs((0.1, 0.5, 0.8)) == []

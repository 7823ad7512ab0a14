"""What is told of history: by hand, and with nothing seen."""

import numpy as np
import pytest
import torch

from tft.analogs import LIKENESSES, analogs
from tft.history import (
    HOURS_CHANNELS,
    LAGS,
    NAIVE_FORECASTS,
    NEAR,
    WINDOW_CHANNELS,
    days_of,
    memory,
    naive_forecasts,
    same_hours,
    summarise,
    window_summary,
)
from tft.normalise import WindowScale


def test_same_hours_by_hand() -> None:
    days = torch.full((1, 2, 5, 1), torch.nan)
    days[0, 0, :, 0] = torch.tensor([1.0, 2.0, 3.0, torch.nan, 5.0])
    days[0, 1, :, 0] = torch.tensor([torch.nan, 4.0, 5.0, 6.0, 7.0])
    alike = torch.tensor([1.0, 2.0, torch.nan]).expand(1, 5, 1, 3)
    told = same_hours(days, alike)
    assert told.shape == (1, 5, 1, HOURS_CHANNELS)
    near = np.array([1, 2, 3, 5, 4, 5, 6, 7.0])  # of both days, two ticks either side
    expected = [
        *(np.arcsinh(3), 1, np.arcsinh(2.75)),  # yesterday, all of it within six ticks
        *(np.arcsinh(near.mean()), np.arcsinh(near.std()), 0.8),
        *(np.arcsinh(5), 1),
        *(np.arcsinh(1), np.arcsinh(2), 0),  # of moments like now
    ]
    np.testing.assert_allclose(told[0, 2, 0].numpy(), expected, rtol=1e-5)
    assert told[0, 3, 0, :2].tolist() == [0, 0], "missing yesterday"
    assert told[0, 0, 0, 6:8].tolist() == [0, 0], "missing a week before"


def test_a_windows_summary_by_hand() -> None:
    past = torch.arange(1.0, 22).view(1, 21, 1)
    past[0, 0] = torch.nan
    days = torch.full((1, 2, 5, 1), torch.nan)
    days[0, 0, :, 0] = torch.arange(5.0)
    told = window_summary(past, days, torch.tensor([[3.0]]))
    assert told.shape == (1, 1, WINDOW_CHANNELS)
    whole, hour = np.arange(2.0, 22), np.arange(10.0, 22)  # 12 ticks are the last hour
    rows = [
        [4, 12, 19, whole.std(), 21],  # places 2, 10 and 17 of 20 values
        [11, 16, 20, hour.std(), 21],  # places 1, 6 and 10 of 12
        [4, 12, 19, whole.std(), 21],  # there are no six hours
    ]
    expected = np.arcsinh([*np.concatenate(rows), 0, 2, 4]).tolist() + [0.5, np.arcsinh(3)]
    np.testing.assert_allclose(told[0, 0].numpy(), expected, rtol=1e-5)


def test_what_was_seen_of_the_month_is_told_of_the_forecasts_made_of_it() -> None:
    earlier = torch.arange(240.0).view(1, 240, 1).expand(1, 240, 2).clone()
    earlier[0, :180, 0] = torch.nan
    days = days_of(earlier, 4, 24)
    scale = WindowScale(torch.zeros(1, 2), torch.ones(1, 2))
    told = summarise(earlier[:, -24:], days, earlier, scale, (0.1, 0.5, 0.9), 24)
    months = len(LIKENESSES)
    assert told.seen[0].tolist() == [[*4 * [1], *months * [0.25]], (4 + months) * [1]]
    earlier[0, :120, 0], earlier[0, -120:, 0] = 1.0, torch.nan  # what is like now is not known
    blind = summarise(earlier[:, -24:], days, earlier, scale, (0.1, 0.5, 0.9), 24)
    assert blind.seen[0].tolist() == [[*4 * [1], *months * [0]], (4 + months) * [1]]


def test_naive_forecasts_by_hand() -> None:
    past = torch.arange(1.0, 102).view(1, 101, 1)
    past[0, -2:] = torch.nan
    alike = torch.arange(2.0 * len(LIKENESSES)).view(-1, 2).expand(1, 5, 1, -1, 2).clone()
    alike[0, 4] = torch.nan
    told = naive_forecasts(past, alike, memory(past, 5), (0.1, 0.5))
    assert told.shape == (1, 5, 1, len(NAIVE_FORECASTS), 2)
    held = [[11, 50], [91, 94], [37, 64]]  # of 99, 10 and 70 observed ticks
    assert told[0, :, 0, :3].tolist() == [held] * 5
    for way in range(4, len(NAIVE_FORECASTS)):
        own = [2 * (way - 4), 2 * (way - 4) + 1]
        assert told[0, 3:, 0, way].tolist() == [own, held[0]], "nothing seen: the context's"


def test_days_are_the_same_hours_and_never_the_future() -> None:
    """A horizon of over a day reaches beyond yesterday: what is not known yet is missing."""
    earlier = torch.arange(60.0).view(1, 60, 1)  # two days and a half of 24 ticks
    days = days_of(earlier, horizon=30, day=24)
    assert days.shape == (1, 2, 30, 1)
    np.testing.assert_array_equal(days[0, 0, :, 0], [*range(36, 60), *[np.nan] * 6])
    np.testing.assert_array_equal(days[0, 1, :, 0], range(12, 42))
    assert days_of(torch.zeros(1, 9 * 24, 1), 6, 24).shape == (1, 7, 6, 1), "a week of them"


def test_memory_is_the_autocorrelation() -> None:
    """Of a window without gaps or far values, lag by lag."""
    walk = np.random.default_rng(3).standard_normal(288).cumsum()
    values = (walk - walk.mean()) / walk.std()
    assert abs(values).max() < NEAR
    rho = memory(torch.tensor(values).view(1, -1, 1), 100)[0, 0]
    found = [
        np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))
        for a, b in ((values[lag:], values[:-lag]) for lag in LAGS)
    ]
    expected = np.minimum.accumulate(np.clip([1, *found], 0, None))
    np.testing.assert_allclose(rho[[0, *LAGS]].numpy(), expected, rtol=1e-6)
    assert expected[6] > expected[7] > 0, "it falls within the horizon"
    assert rho[30] == pytest.approx((rho[24] + rho[36]) / 2), "a straight line between"
    assert rho[100] == rho[96], "level behind the last"


def test_gaps_leave_memory_as_it_is() -> None:
    past = torch.arange(288.0).mul(0.05).sin().view(1, -1, 1)
    gaps = past.clone()
    gaps[:, torch.rand(288, generator=torch.Generator().manual_seed(1)) < 0.3] = torch.nan
    torch.testing.assert_close(
        memory(past, 12)[..., :13], memory(gaps, 12)[..., :13], atol=0.05, rtol=0
    )


def test_the_last_tick_fades_as_it_is_forgotten() -> None:
    slow = torch.arange(288.0).mul(0.02).sin()
    noise = torch.randn(288, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)
    late = slow.clone()
    late[-6:] = torch.nan  # the newest tick seen is half an hour old
    past = torch.stack([slow, noise, late], dim=-1).unsqueeze(0)
    unseen = torch.full((1, 96, 3, len(LIKENESSES), 3), torch.nan)
    told = naive_forecasts(past, unseen, memory(past, 96), (0.1, 0.5, 0.9))[0]
    context, last = told[:, :, 0], told[:, :, NAIVE_FORECASTS.index("last tick")]
    width = last[..., 2] - last[..., 0]
    whole = context[..., 2] - context[..., 0]
    assert (last[0, 0] - slow[-1]).abs().max() < 0.2
    assert width[0, 0] < 0.2 * whole[0, 0]
    assert width[0, 2] > 2 * width[0, 0], "half an hour was forgotten"
    assert width[12, 2] > width[12, 0] > width[0, 0]
    assert width[0, 1] > 0.95 * whole[0, 1], "noise is forgotten at once"
    assert (last[0, 1, 1] - context[0, 1, 1]).abs() < 0.3


def test_nothing_moves_nothing_is_remembered() -> None:
    past = torch.full((1, 40, 1), 7.0)
    assert memory(past, 5).tolist() == [[[1, *[0] * 96]]]


def test_nothing_seen_says_nothing() -> None:
    past, days = torch.full((2, 9, 3), torch.nan), torch.full((2, 7, 4, 3), torch.nan)
    scale = WindowScale(torch.zeros(2, 3), torch.ones(2, 3))
    earlier = torch.full((2, 240, 3), torch.nan)
    told = analogs(earlier, scale, torch.ones(2, 3, 4), (0.1, 0.5), day=24)
    assert told.quantiles.isnan().all() and told.distance.isnan().all()
    three = torch.full((2, 4, 3, 3), torch.nan)
    assert (window_summary(past, days, told.distance) == 0).all()
    assert (same_hours(days, three) == 0).all()
    assert (naive_forecasts(past, told.quantiles, memory(past, 4), (0.1, 0.5)) == 0).all()


def test_values_of_any_size_stay_finite() -> None:
    past, days = torch.full((1, 9, 1), 1e30), torch.full((1, 7, 4, 1), -1e30)
    scale = WindowScale(torch.zeros(1, 1), torch.ones(1, 1))
    earlier = torch.full((1, 240, 1), 1e30)
    told = analogs(earlier, scale, torch.ones(1, 1, 4), (0.1, 0.5, 0.9), day=24)
    assert window_summary(past, days, told.distance).abs().max() < 6
    assert same_hours(days, told.quantiles[:, :, :, 0]).abs().max() < 6


def test_what_was_always_alike_deviates_by_nothing() -> None:
    """In single precision the difference of squares would be a thousandth of the mean."""
    days = torch.linspace(-90, 90, 41).expand(1, 7, 96, 41).clone()
    days[:, 1:] = torch.nan
    alike = torch.full((1, 96, 41, 3), torch.nan)
    assert same_hours(days, alike)[..., 4].max() < 1e-5

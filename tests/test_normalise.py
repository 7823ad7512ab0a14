"""Statistics of windows with and without missing ticks."""

import pytest
import torch

from tft.normalise import CLIP, WindowNormaliser, WindowScale, presence_channels


def measure(normaliser: WindowNormaliser, past: torch.Tensor) -> WindowScale:
    """Measure windows of servers without earlier days."""
    return normaliser.measure(past, torch.full((len(past), 7, 3, 2), torch.nan))


def fitted() -> WindowNormaliser:
    torch.manual_seed(0)
    normaliser = WindowNormaliser(2, 1)
    days = torch.stack([torch.randn(50, 24) * 3 + 40, torch.randn(50, 24).exp() * 1000], dim=-1)
    normaliser.fit(days, torch.tensor([[1.0], [4.0], [torch.nan]]))
    return normaliser


def test_level_and_spread_are_of_the_seen_ticks() -> None:
    past = torch.tensor([[1.0, 5.0], [torch.nan, 7.0], [3.0, torch.nan]]).unsqueeze(0) * 1000
    level, spread = measure(fitted(), past)
    torch.testing.assert_close(level, torch.tensor([[2000.0, 6000.0]]))
    torch.testing.assert_close(spread, torch.tensor([[1000.0, 1000.0]]))


@pytest.mark.parametrize("level", [3.8e5, 1e7])
def test_a_level_of_many_spreads_is_not_rounded_coarsely(level: float) -> None:
    """Summed up in float32, 288 ticks of a counter are off by more than its last digit."""
    torch.manual_seed(0)
    past = torch.randn(200, 288, 2) * 100 + level
    found = measure(fitted(), past).level
    exact = past.double().mean(1)
    last_digit = torch.tensor(level).nextafter(torch.tensor(torch.inf)) - level
    assert (found - exact).abs().max() <= 0.5001 * last_digit


def test_values_too_large_to_be_summed_are_not_called_unseen() -> None:
    """Their forecasts are refused as not finite; typical ones would be made up."""
    past = torch.full((1, 288, 2), 3e38)
    assert (measure(fitted(), past).level == torch.inf).all()


def test_round_trip() -> None:
    normaliser = fitted()
    values = torch.rand(4, 9, 2) * 100
    scale = measure(normaliser, values)
    back = normaliser.denormalise(normaliser.normalise(values, scale).unsqueeze(-1), scale)
    torch.testing.assert_close(back.squeeze(-1), values)


@pytest.mark.parametrize("level", [40.0, 37.3, 62.7, 0.1, 55.57, 1e9 + 7])
def test_a_window_that_never_moves_uses_the_floor_of_training(level: float) -> None:
    """Also where the mean of equal numbers is not quite that number in float32."""
    normaliser = fitted()
    scale = measure(normaliser, torch.full((1, 288, 2), level))
    assert torch.equal(scale.spread[0], normaliser.spread_floor)
    assert (normaliser.spread_floor > 0).all()


def test_days_that_moved_more_set_the_spread() -> None:
    """Tonight's backup is a few spreads, not thousands, where the nights before are known."""
    past = torch.zeros(1, 288, 2) + torch.randn(1, 288, 2) * 10
    days = torch.zeros(1, 7, 96, 1)
    days[:, :, 40:50] = 5000.0
    normaliser = fitted()
    quiet, told = measure(normaliser, past), normaliser.measure(past, days)
    assert torch.equal(told.level, quiet.level)
    assert 500 < told.spread[0, 0] < 5000 and quiet.spread[0, 0] < 20
    assert told.spread[0, 1] == quiet.spread[0, 1], "of an observed metric no earlier day is seen"
    still = normaliser.measure(past, torch.zeros(1, 7, 96, 1))
    assert torch.equal(still.spread, quiet.spread), "days that moved less change nothing"


def test_a_metric_never_seen_in_the_window_uses_what_is_typical() -> None:
    normaliser = fitted()
    past = torch.full((1, 9, 2), torch.nan)
    past[..., 0] = torch.arange(9.0)
    level, spread = measure(normaliser, past)
    assert level[0, 1] == normaliser.typical_level[1]
    assert spread[0, 1] == normaliser.typical_spread[1]


def test_training_that_saw_nothing_or_no_change_has_finite_statistics() -> None:
    for days in (torch.full((3, 5, 2), torch.nan), torch.full((3, 5, 2), 7.0)):
        normaliser = WindowNormaliser(2, 1)
        normaliser.fit(days, torch.full((3, 1), torch.nan))
        assert all(buffer.isfinite().all() for buffer in normaliser.buffers())
        assert (normaliser.spread_floor > 0).all()


def test_constant_stretches_do_not_set_the_floor() -> None:
    torch.manual_seed(0)
    stretches = torch.randn(100, 288, 1) * 3 + 40
    stretches[:40] = torch.tensor([62.7, 55.57, 37.3, 0.1]).repeat(10).view(40, 1, 1)
    normaliser = WindowNormaliser(1, 0)
    normaliser.fit(stretches, torch.zeros(1, 0))
    assert 2 < normaliser.spread_floor < 3.5


def test_static_inputs_are_standardised() -> None:
    normaliser = fitted()
    days = torch.stack([torch.randn(500, 24) * 3 + 40, torch.randn(500, 24).exp() * 1000], dim=-1)
    features = normaliser.scale_features(measure(normaliser, days))
    assert features.mean((0, 1)).abs().max() < 0.3
    assert (features.std((0, 1)) - 1).abs().max() < 0.3
    assert torch.equal(
        normaliser.static_features(torch.tensor([[torch.nan]])), torch.zeros(1, 1, 2)
    )


def test_level_and_spread_stay_within_what_training_had() -> None:
    """A machine that has become busier than any is taken for the busiest."""
    normaliser = fitted()
    calm = torch.stack([torch.randn(50, 24) * 3 + 40, torch.randn(50, 24).exp() * 1000], dim=-1)
    low, high = normaliser.feature_low, normaliser.feature_high
    assert (low < -1).all() and (high > 1).all()
    inside = normaliser.scale_features(measure(normaliser, calm))
    assert ((inside > low) & (inside < high)).float().mean() > 0.9
    busy = normaliser.scale_features(measure(normaliser, calm * 1e6))
    assert torch.equal(busy, high.expand_as(busy))


def test_few_stretches_do_not_hold_every_window_at_one_level() -> None:
    normaliser = WindowNormaliser(1, 0)
    normaliser.fit(torch.randn(1, 288, 1) + 40, torch.zeros(1, 0))
    unseen = torch.full((20, 7, 3, 1), torch.nan)
    scale = normaliser.measure(torch.randn(20, 24, 1) * 3 + 40, unseen)
    told = normaliser.scale_features(scale)
    assert (told.std(0) > 0.01).all()


def test_presence_tells_missing_from_zero_and_clips() -> None:
    channels = presence_channels(torch.tensor([0.0, torch.nan, 1e9, -torch.inf]))
    expected = torch.tensor([[0.0, 1.0], [0.0, 0.0], [CLIP, 1.0], [-CLIP, 1.0]])
    assert torch.equal(channels, expected)

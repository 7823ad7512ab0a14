"""Factors on the gaps between quantiles: what they mend, and what they never do."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.builders import SCHEMA, random_batch, tiny_forecaster
from tft.bundle import load_forecaster, save_forecaster
from tft.calibration import LARGEST_FACTOR, fit_gap_factors, scale_gaps
from tft.forecaster import Forecaster
from tft.schema import DEFAULT_QUANTILES

LEVELS = torch.tensor(DEFAULT_QUANTILES)
MEDIAN = DEFAULT_QUANTILES.index(0.5)
H, M, Q = SCHEMA.prediction_horizon, len(SCHEMA.targets), len(DEFAULT_QUANTILES)
GAPS = (H, M, len(SCHEMA.quantiles) - 1)
WHOLE = [(0, 4)]


def normal(N: int = 4000, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return forecasts [N, 4, 1, Q] of a normal of this spread, and what came of spread 1."""
    draw = torch.Generator().manual_seed(seed)
    level = torch.randn(N, 4, 1, generator=draw) * 5
    quantiles = level.unsqueeze(-1) + spread * torch.special.ndtri(LEVELS)
    return quantiles, level + torch.randn(N, 4, 1, generator=draw)


def fit(quantiles: Tensor, actual: Tensor, independent: float = 1e9) -> Tensor:
    return fit_gap_factors(quantiles, actual, actual, DEFAULT_QUANTILES, WHOLE, independent)


def shares(quantiles: Tensor, actual: Tensor) -> Tensor:
    return (actual.unsqueeze(-1) <= quantiles).double().mean((0, 1, 2))


def calibrated(factors: Tensor) -> Forecaster:
    forecaster = tiny_forecaster()
    forecaster.calibration = factors
    return forecaster


@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
    zeros=st.floats(0, 1),
)
def test_quantiles_never_cross_and_the_median_stays(seed: int, size: float, zeros: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    quantiles = (torch.randn(5, H, M, Q, generator=draw) * size).sort(dim=-1).values
    factors = torch.rand(H, M, Q - 1, generator=draw) * LARGEST_FACTOR
    factors[torch.rand(factors.shape, generator=draw) < zeros] = 0.0
    out = scale_gaps(quantiles, factors, MEDIAN)
    assert (out.diff(dim=-1) >= 0).all()
    assert torch.equal(out[..., MEDIAN], quantiles[..., MEDIAN])
    expected = quantiles.diff(dim=-1) * factors
    torch.testing.assert_close(out.diff(dim=-1), expected, atol=1e-5 * size, rtol=1e-4)


@given(seed=st.integers(0, 1000), factor=st.sampled_from([0.0, 0.5, 2.0, LARGEST_FACTOR]))
def test_forecasts_stay_ordered_and_inside_bounds(seed: int, factor: float) -> None:
    batch = random_batch(seed=seed)
    forecaster = calibrated(torch.full(GAPS, factor))
    forecast, before = forecaster.forecast(batch), forecaster.forecast(batch, calibrated=False)
    assert (forecast.diff(dim=-1) >= 0).all()
    assert forecast[:, :, 0].min() >= 0 and forecast[:, :, 0].max() <= 100
    assert forecast[:, :, 1].min() >= 0
    assert torch.equal(forecast[..., 1], before[..., 1]), "the median"
    assert torch.equal(before, tiny_forecaster().forecast(batch))
    assert not torch.equal(forecast, before)


@pytest.mark.parametrize("spread", [0.4, 0.8, 1.5])
def test_a_wrong_spread_is_mended_at_every_level(spread: float) -> None:
    """Over-confident or too timid; on windows it was not fitted on, too."""
    factors = fit(*normal(spread=spread))
    torch.testing.assert_close(factors, torch.full_like(factors, 1 / spread), atol=0.0, rtol=0.15)
    quantiles, actual = normal(spread=spread, seed=1)
    wrong = (shares(quantiles, actual) - LEVELS).abs().max()
    left = (shares(scale_gaps(quantiles, factors, MEDIAN), actual) - LEVELS).abs().max()
    assert left < 0.015 < 0.04 < wrong


def test_on_the_windows_of_the_fit_every_level_holds_what_it_says() -> None:
    """Whatever the shape: one side too wide, the other too narrow, a tail too thin."""
    quantiles, actual = normal()
    quantiles = scale_gaps(quantiles, torch.tensor([0.5, 3.0, 1.0, 0.5, 0.5, 4.0]), MEDIAN)
    peaked = actual - quantiles[..., MEDIAN]
    actual = quantiles[..., MEDIAN] + peaked.sign() * peaked.square()
    held = shares(scale_gaps(quantiles, fit(quantiles, actual), MEDIAN), actual)
    assert (shares(quantiles, actual) - LEVELS).abs().max() > 0.1
    others = LEVELS != 0.5
    torch.testing.assert_close(held[others], LEVELS[others].double(), atol=1e-3, rtol=0.0)


def test_what_is_calibrated_is_left_alone() -> None:
    factors = fit(*normal(N=20_000))
    torch.testing.assert_close(factors, torch.ones_like(factors), atol=0.05, rtol=0.0)


@pytest.mark.parametrize("independent", [0, 3, 400])
def test_few_independent_windows_move_little(independent: int) -> None:
    """Overlapping windows may be many and still tell little; of outer levels they tell least."""
    quantiles, actual = normal(spread=0.5)
    full, moved = fit(quantiles, actual) - 1, fit(quantiles, actual, independent) - 1
    misses = independent * torch.minimum(LEVELS, 1 - LEVELS)[LEVELS != 0.5]
    torch.testing.assert_close(moved, full * misses / (misses + 20))
    assert moved.max() < (0.04 if independent <= 3 else 0.9)


def test_windows_that_saw_little_of_a_metric_tell_little_of_it() -> None:
    quantiles, actual = normal(spread=0.5)
    actual[:2000] = torch.nan
    half, few = fit(quantiles, actual, 400), fit(quantiles[2000:], actual[2000:], 200)
    torch.testing.assert_close(half, few)


def test_each_stretch_and_metric_has_its_own_factors() -> None:
    """The second of two metrics is over-confident, in the first of four steps."""
    (right, actual), (narrow, other) = normal(), normal(spread=0.5, seed=1)
    narrow[:, 1:] = normal(seed=1)[0][:, 1:]
    quantiles, actual = torch.cat([right, narrow], dim=2), torch.cat([actual, other], dim=2)
    factors = fit_gap_factors(
        quantiles, actual, actual, DEFAULT_QUANTILES, [(0, 1), (1, 4)], 1e9
    )  # [4, 2, Q - 1]
    expected = torch.tensor([[1.0, 2.0]] + 3 * [[1.0, 1.0]])
    torch.testing.assert_close(factors.mean(-1), expected, atol=0.1, rtol=0.0)


def test_a_target_at_a_bound_is_held_by_what_is_clamped_to_it() -> None:
    """An idle disk forecast a little below zero is forecast as zero: nothing is to be widened."""
    quantiles = torch.special.ndtri(LEVELS).expand(500, 4, 1, Q) - 3.0  # of zero, the lower bound
    idle = torch.zeros(500, 4, 1)
    apart = fit_gap_factors(
        quantiles, torch.full_like(idle, -torch.inf), idle, DEFAULT_QUANTILES, WHOLE, 1e9
    )
    assert (apart <= 1).all()
    blind = fit(quantiles, idle)
    assert blind[..., MEDIAN:].max() > 2


def test_a_metric_never_observed_is_left_alone() -> None:
    quantiles, actual = normal(N=10)
    assert torch.equal(fit(quantiles, actual * torch.nan), torch.ones(4, 1, Q - 1))


def test_gaps_that_are_nothing_have_finite_factors() -> None:
    quantiles, actual = normal(N=100)
    factors = fit(quantiles[..., :1].expand_as(quantiles), actual)
    assert factors.isfinite().all() and factors.max() <= LARGEST_FACTOR * 1.0001


def test_a_bundle_keeps_the_calibration(tmp_path: Path) -> None:
    forecaster = calibrated(torch.rand(GAPS) * 3)
    save_forecaster(forecaster, tmp_path)
    loaded = load_forecaster(tmp_path)
    assert loaded.calibration is not None and forecaster.calibration is not None
    assert torch.equal(loaded.calibration, forecaster.calibration)
    assert torch.equal(loaded.forecast(random_batch()), forecaster.forecast(random_batch()))
    save_forecaster(tiny_forecaster(), tmp_path)
    assert load_forecaster(tmp_path).calibration is None


def test_explanations_are_of_the_calibrated_forecast() -> None:
    forecaster, batch = calibrated(torch.full(GAPS, 2.0)), random_batch()
    assert torch.equal(forecaster.explain(batch, True).quantiles, forecaster.forecast(batch))


def test_the_loss_knows_of_no_calibration() -> None:
    """Training, and the loss that chose the best epoch, can be measured again from the bundle."""
    batch = random_batch()
    forecaster, plain = calibrated(torch.zeros(GAPS)), tiny_forecaster()
    assert torch.equal(forecaster(batch).total, plain(batch).total)

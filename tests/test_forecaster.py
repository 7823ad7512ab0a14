"""Raw units in, raw units out: bounds, missing data, short histories, new servers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import SCHEMA, random_batch, tiny_forecaster
from tft.batch import WindowBatch
from tft.forecaster import Forecaster, future_names, network_config, past_names, static_names
from tft.history import HOURS_CHANNELS, days_of
from tft.model import TFT
from tft.normalise import WindowNormaliser

T, H = SCHEMA.context_length, SCHEMA.prediction_horizon


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    weights=st.sampled_from([0.5, 5.0, 50.0]),
    level=st.sampled_from([0.0, 1.0, 1e4, 1e12, 1e25]),
    missing=st.floats(0, 1),
)
def test_ordered_inside_bounds_and_finite_whatever_comes(
    seed: int, weights: float, level: float, missing: float
) -> None:
    forecaster = tiny_forecaster(seed)
    for parameter in forecaster.network.parameters():
        parameter.data = torch.randn_like(parameter) * weights
    batch = random_batch(seed=seed)
    past = batch.past * level
    past[torch.rand(past.shape) < missing] = torch.nan
    past[0, 0, 0] = torch.inf
    forecast = forecaster.forecast(batch._replace(past=past))
    assert forecast.isfinite().all()
    assert (forecast.diff(dim=-1) >= 0).all()
    assert forecast[:, :, 0].min() >= 0 and forecast[:, :, 0].max() <= 100
    assert forecast[:, :, 1].min() >= 0


@pytest.mark.parametrize("length", [1, 3, 12, 29])
def test_left_padding_equals_the_shorter_sequence(length: int) -> None:
    """Also where yesterday's values, an input of the horizon, are older than the history."""
    forecaster, batch = tiny_forecaster(), random_batch()
    past = batch.past.clone()
    past[:, : T - length] = torch.nan
    padded = batch._replace(past=past, history_length=torch.full((3,), length))
    shorter = batch._replace(
        past=batch.past[:, T - length :],
        known=batch.known[:, T - length :],
        history_length=torch.full((3,), length),
    )
    torch.testing.assert_close(forecaster.forecast(padded), forecaster.forecast(shorter))


def test_a_mixed_batch_equals_each_window_alone() -> None:
    forecaster, batch = tiny_forecaster(), random_batch()
    lengths = torch.tensor([5, T, 17])
    past = batch.past.clone()
    for row, length in enumerate(lengths):
        past[row, : T - length] = torch.nan
    batch = batch._replace(past=past, history_length=lengths)
    together = forecaster.forecast(batch)
    for row in range(3):
        alone = forecaster.forecast(WindowBatch(*(part[row : row + 1] for part in batch)))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("metric", range(3))
def test_a_fully_missing_metric_gives_finite_numbers_and_gradients(metric: int) -> None:
    forecaster, batch = tiny_forecaster().train(), random_batch()
    past, future = batch.past.clone(), batch.future.clone()
    past[:, :, metric] = torch.nan
    if metric < len(SCHEMA.targets):
        future[:, :, metric] = torch.nan
    loss = forecaster(batch._replace(past=past, future=future))
    loss.mean().backward()
    assert loss.total.isfinite().all()
    assert all(p.grad.isfinite().all() for p in forecaster.network.parameters())
    assert forecaster.forecast(batch._replace(past=past)).isfinite().all()


def test_a_missing_tick_is_not_a_zero() -> None:
    forecaster, batch = tiny_forecaster(), random_batch()
    missing, zero = batch.past.clone(), batch.past.clone()
    missing[:, 10], zero[:, 10] = torch.nan, 0.0
    assert not torch.allclose(
        forecaster.forecast(batch._replace(past=missing)),
        forecaster.forecast(batch._replace(past=zero)),
    )


def test_values_hidden_behind_missing_do_not_matter() -> None:
    """Whatever a loader leaves in the future, the forecast does not read it."""
    forecaster, batch = tiny_forecaster(), random_batch()
    blind = batch._replace(future=torch.full_like(batch.future, torch.nan))
    assert torch.equal(forecaster.forecast(batch), forecaster.forecast(blind))


def days(batch: WindowBatch) -> torch.Tensor:
    """Return the horizon's hours on the days before."""
    return days_of(batch.earlier, SCHEMA.prediction_horizon, SCHEMA.day_ticks)


def test_the_loss_is_of_the_forecast() -> None:
    """Pinball loss of raw forecasts, measured in each window's spread, is what is trained on."""
    forecaster, batch = tiny_forecaster(), random_batch()
    forecaster.bounds = torch.tensor([[-torch.inf] * 2, [torch.inf] * 2])
    raw = forecaster.forecast(batch)
    spread = forecaster.normaliser.measure(batch.past, days(batch)).spread[:, :2]
    error = (batch.future.unsqueeze(-1) - raw) / spread[:, None, :, None]
    levels = torch.tensor(SCHEMA.quantiles)
    expected = torch.maximum(levels * error, (levels - 1) * error).mean()
    torch.testing.assert_close(forecaster(batch).mean(), expected)


def test_forecasts_scale_with_the_unit() -> None:
    """A server a thousand times busier is the same server in another unit, but for its level."""
    forecaster = tiny_forecaster()
    forecaster.normaliser.spread_floor.fill_(1e-3)
    inputs, scale = forecaster.encode(random_batch())
    batch = random_batch()
    busier, busier_scale = forecaster.encode(
        batch._replace(past=batch.past * 1000, earlier=batch.earlier * 1000)
    )
    torch.testing.assert_close(busier.past, inputs.past)
    hours = slice(0, HOURS_CHANNELS)
    torch.testing.assert_close(busier.future[..., hours], inputs.future[..., hours])
    torch.testing.assert_close(busier_scale.spread, scale.spread * 1000)
    assert not torch.allclose(busier.static_reals, inputs.static_reals)


def test_the_days_before_are_an_input_of_the_same_hour() -> None:
    forecaster, batch = tiny_forecaster(), random_batch()
    inputs, scale = forecaster.encode(batch)
    told = inputs.future[:, :, len(SCHEMA.known) :]  # [B, H, targets, channels]
    yesterday = forecaster.normaliser.normalise(days(batch)[:, 0], scale).asinh()
    torch.testing.assert_close(told[..., 0], yesterday)
    assert (told[..., 1] == 1).all()
    unknown = torch.full_like(batch.earlier, torch.nan)
    blind = forecaster.encode(batch._replace(earlier=unknown)).inputs.future
    assert (blind[:, :, len(SCHEMA.known) :, :HOURS_CHANNELS] == 0).all()


def test_codes_are_hidden_in_training_only() -> None:
    forecaster = tiny_forecaster()
    forecaster.unknown_rate = 0.5
    batch = random_batch(B=2000)._replace(static_codes=torch.ones(2000, 2, dtype=torch.int64))
    assert forecaster.encode(batch).inputs.static_codes.min() == 1
    torch.manual_seed(0)
    codes = forecaster.train().encode(batch).inputs.static_codes
    assert 0.45 < (codes == 0).float().mean() < 0.55


def test_calendars_are_hidden_in_training_only() -> None:
    forecaster = tiny_forecaster()
    forecaster.calendar_dropout = 0.5
    batch = random_batch(B=2000)
    batch = batch._replace(known=torch.ones_like(batch.known))
    known, metrics = len(SCHEMA.known), len(SCHEMA.metrics)
    assert (forecaster.encode(batch).inputs.future[:, :, :known, :2] == 1).all()
    torch.manual_seed(0)
    inputs = forecaster.train().encode(batch).inputs
    hidden = (inputs.future[:, :, :known, :2] == 0).all((1, 2, 3))
    assert 0.45 < hidden.float().mean() < 0.55
    assert (inputs.past[hidden][:, :, metrics:] == 0).all(), "of the whole window or of nothing"
    assert (inputs.past[~hidden][:, :, metrics:] == 1).all()


def test_names_fit_the_network() -> None:
    config = network_config(SCHEMA)
    assert len(past_names(SCHEMA)) == config.num_past
    assert len(future_names(SCHEMA)) == config.num_future
    assert len(static_names(SCHEMA)) == config.num_static_reals + len(config.static_cardinalities)


def test_a_network_for_another_schema_is_refused() -> None:
    network = TFT(network_config(SCHEMA, hidden_size=8))
    other = replace(SCHEMA, observed=())
    with pytest.raises(ValueError, match="num_past is 5, the schema needs 4"):
        Forecaster(other, network, WindowNormaliser(2, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_normalisation_stays_in_float32_under_autocast(dtype: torch.dtype) -> None:
    forecaster, batch = tiny_forecaster(), random_batch()
    big = batch._replace(past=batch.past * 1e6)  # over fp16's largest number
    with torch.autocast("cpu", dtype=dtype):
        inputs, scale = forecaster.encode(big)
        forecast = forecaster.forecast(big)
    assert inputs.past.dtype == scale.level.dtype == torch.float32
    assert forecast.isfinite().all() and forecast[:, :, 1].median() > 1e6

"""What is said of an epoch by metric is what a person would count."""

import pytest
import torch

from tests.builders import random_batch, tiny_forecaster
from train.config import TrainConfig
from train.validate import validate

CONFIG = TrainConfig()


def test_losses_and_coverage_by_metric() -> None:
    forecaster = tiny_forecaster().train()
    batches = [random_batch(B=3, seed=1), random_batch(B=2, seed=2)]
    hidden = batches[0].future.clone()
    hidden[:, :4, 1] = torch.nan
    batches[0] = batches[0]._replace(future=hidden)
    result = validate(forecaster, batches, CONFIG)
    assert not forecaster.training, "dropout would be measured too"
    inside, observed = torch.zeros(2), torch.zeros(2)
    for batch in batches:
        forecast = forecaster.forecast(batch)
        within = (forecast[..., 0] <= batch.future) & (batch.future <= forecast[..., -1])
        inside += within.sum((0, 1))
        observed += batch.future.isfinite().sum((0, 1))
    assert observed.tolist() == [30, 18]
    coverage = dict(zip(("cpu_percent", "load_average"), (inside / observed).tolist(), strict=True))
    assert result.coverage_by_metric == pytest.approx(coverage)
    losses = result.loss_by_metric
    mean = (30 * losses["cpu_percent"] + 18 * losses["load_average"]) / 48
    assert result.loss == pytest.approx(mean)
    assert losses["cpu_percent"] != pytest.approx(losses["load_average"], rel=1e-3)


def test_a_metric_never_observed_is_left_out() -> None:
    batch = random_batch()
    future = batch.future.clone()
    future[:, :, 1] = torch.nan
    result = validate(tiny_forecaster(), [batch._replace(future=future)], CONFIG)
    assert set(result.loss_by_metric) == set(result.coverage_by_metric) == {"cpu_percent"}

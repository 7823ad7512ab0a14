"""Averages of weights, and which epoch is the best."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.builders import tiny_forecaster
from tests.test_loop import CONFIG, loaders, run_fit, weights
from tft.bundle import load_forecaster
from train.state import TrainState
from train.step import StepResult


def step(state: TrainState) -> None:
    """Move every weight by one, as a step that was applied."""
    with torch.no_grad():
        for parameter in state.forecaster.parameters():
            parameter += 1.0
    one = torch.ones(())
    state.count(StepResult(one, one, one, True))


def test_the_average_is_of_the_weights_after_each_step() -> None:
    """Faster at first: (1 + n) / (10 + n) until that exceeds the decay."""
    state = TrainState(tiny_forecaster(), replace(CONFIG, ema_decay=0.5))
    start = weights(state.forecaster).clone()
    expected = 1.0  # the first step is taken over as it is
    step(state)
    for taken in range(1, 12):
        step(state)
        decay = min(0.5, (1 + taken) / (10 + taken))
        expected = decay * expected + (1 - decay) * (taken + 1)
    torch.testing.assert_close(weights(state.judged) - start, torch.full_like(start, expected))
    assert state.judged is not state.forecaster


def test_what_is_validated_and_kept_is_the_average(tmp_path: Path) -> None:
    config = replace(CONFIG, ema_decay=0.9)
    result, forecaster = run_fit(tmp_path / "run", config)
    kept = load_forecaster(tmp_path / "run" / "model")
    assert not torch.equal(weights(kept), weights(forecaster))
    batches = list(loaders()[1])
    with torch.no_grad():
        sums = [kept(batch) for batch in batches]
    loss = sum(float(s.total.sum()) for s in sums) / sum(int(s.observed.sum()) for s in sums)
    assert result.best_validation_loss == pytest.approx(loss, rel=1e-5)
    assert math.isfinite(loss)


def test_a_loss_that_is_not_finite_is_never_the_best() -> None:
    state = TrainState(tiny_forecaster(), CONFIG)
    state.judge(math.nan)
    assert (state.best_epoch, state.best_loss) == (0, math.inf)
    state.judge(0.5)
    state.judge(math.nan)
    assert (state.best_epoch, state.best_loss) == (1, 0.5)

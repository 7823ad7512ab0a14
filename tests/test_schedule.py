"""Learning rates that follow a course, and averages of weights."""

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import tiny_forecaster
from tests.test_loop import CONFIG, loaders, records, run_fit, weights
from tft.bundle import load_forecaster
from train.course import Course
from train.schedule import cosine_factor
from train.state import TrainState
from train.step import StepResult


@given(done=st.floats(0, 1), warmup=st.floats(0, 1))
def test_a_factor_is_a_share(done: float, warmup: float) -> None:
    assert 0.0 <= cosine_factor(done, warmup) <= 1.0


def test_the_rate_rises_then_falls_to_nothing() -> None:
    assert [cosine_factor(done, 0.2) for done in (0.0, 0.1, 0.2)] == [0.0, 0.5, 1.0]
    assert cosine_factor(0.6, 0.2) == pytest.approx(0.5)
    assert cosine_factor(1.0, 0.2) == pytest.approx(0.0)
    assert cosine_factor(0.0, 0.0) == 1.0


def test_a_cosine_over_steps(tmp_path: Path) -> None:
    """4 epochs of 4 steps; the last step of an epoch is step 4k - 1 of 16."""
    config = replace(CONFIG, schedule="cosine", warmup=0.25, epochs=4)
    run_fit(tmp_path / "run", config)
    expected = [0.01 * cosine_factor((4 * k - 1) / 16, 0.25) for k in (1, 2, 3, 4)]
    rates = [record["learning_rate"] for record in records(tmp_path / "run")]
    assert rates == pytest.approx(expected)


def test_a_cosine_over_the_time_given() -> None:
    """Without a number of epochs the clock decides; a resumed training goes on where it was."""
    config = replace(CONFIG, schedule="cosine", epochs=None, max_minutes=10.0)
    course = Course(config, loaders()[0], deadline=time.monotonic() + 600)
    state = TrainState(tiny_forecaster(), config)
    assert course.done(state) == pytest.approx(0.0, abs=1e-3)
    state.seconds_before = 300.0
    assert course.done(state) == pytest.approx(300 / 900, abs=1e-3)
    course.began -= 600.0
    course.deadline -= 600.0
    assert course.done(state) == pytest.approx(1.0)


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

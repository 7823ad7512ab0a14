"""The range test sweeps a copy, and suggests a rate between steepest descent and minimum."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import tiny_forecaster, without_dropout
from tests.test_loop import CONFIG, loaders, weights
from train.lr_find import lr_range_test, smooth, suggest


def test_nothing_given_in_is_changed() -> None:
    forecaster = tiny_forecaster()
    before, state = weights(forecaster).clone(), torch.get_rng_state()
    lr_range_test(forecaster, loaders()[0], CONFIG, steps=30)
    assert torch.equal(weights(forecaster), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not forecaster.training
    assert all(p.grad is None for p in forecaster.parameters())


@pytest.mark.parametrize(
    "how", [{}, {"precision": "bf16"}, {"precision": "fp16"}, {"accumulate_grad_batches": 2}]
)
def test_the_sweep_is_exponential_and_repeatable(tmp_path: Path, how: dict[str, Any]) -> None:
    config = replace(CONFIG, **how)
    torch.manual_seed(0)
    one = lr_range_test(tiny_forecaster(), loaders()[0], config, steps=40)
    torch.manual_seed(0)
    two = lr_range_test(tiny_forecaster(), loaders()[0], config, steps=40)
    assert one == two
    torch.manual_seed(0)
    plain = lr_range_test(tiny_forecaster(), loaders()[0], CONFIG, steps=40)
    assert (one.losses != plain.losses) == bool(how), "it sweeps as it would train"
    ratios = np.diff(np.log(one.learning_rates))
    np.testing.assert_allclose(ratios, ratios[0])
    assert 1e-4 < one.suggestion < 1
    one.write_csv(tmp_path / "sweep.csv")
    lines = (tmp_path / "sweep.csv").read_text().splitlines()
    assert lines[0] == "learning_rate,loss,relative_loss,smoothed_relative_loss"
    assert len(lines) == 1 + len(one.losses)


def test_it_stops_where_the_loss_explodes() -> None:
    torch.manual_seed(0)
    test = lr_range_test(tiny_forecaster(), loaders()[0], CONFIG, highest=1e4, steps=60)
    assert len(test.losses) < 60
    assert test.suggestion < 10


def test_the_suggestion_is_where_the_fall_is_nearly_done() -> None:
    rates = list(np.geomspace(1e-5, 1, 101))
    # Falls in a straight line to 1e-3, a little more to 1e-2, then explodes.
    smoothed = np.interp(np.log10(rates), [-5, -3, -2, 0], [1.0, 0.52, 0.5, 40.0]).tolist()
    assert suggest(rates, smoothed) == pytest.approx(10 ** (-5 + 2 * 0.475 / 0.48), rel=0.13)
    low = 0.5 + 1e-6  # a floor that is flat: its lowest point may be anywhere
    floor = np.interp(np.log10(rates), [-5, -3, -1, 0], [1.0, low, 0.5, 40.0]).tolist()
    assert suggest(rates, floor) == pytest.approx(10**-3.1, rel=0.13)  # the sweep's steps are 12 %


def test_noise_is_smoothed_over_a_third_of_a_decade() -> None:
    rates = list(np.geomspace(1e-5, 1, 101))
    assert smooth(rates, [2.0] * 101) == pytest.approx([2.0] * 101)
    spike = smooth(rates, [0.0] * 50 + [1.0] + [0.0] * 50)
    assert spike[50] == max(spike) and spike[57] / spike[50] == pytest.approx(np.exp(-0.5), rel=0.1)


def test_the_losses_are_relative_to_the_untrained_networks() -> None:
    """With a rate of almost nothing they stay near one, however different the batches are."""
    forecaster = tiny_forecaster()
    without_dropout(forecaster)
    test = lr_range_test(forecaster, loaders()[0], CONFIG, lowest=1e-6, highest=1e-5, steps=30)
    assert np.std(test.losses) > 0.001
    assert test.relative == pytest.approx([1.0] * 30, abs=0.01)


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    with pytest.raises(FloatingPointError, match="diverged after 12 steps"):
        suggest(list(np.geomspace(1e-5, 1e-4, 12)), list(np.linspace(1, 2, 12)))
    with pytest.raises(FloatingPointError, match="diverged after 0 steps"):
        suggest([], [])

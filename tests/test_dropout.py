"""Cheap dropout masks are as random as they must be."""

import pytest
import torch

from tft.dropout import Dropout, dropout, keep_mask

N = 1_000_000


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.5, 0.9])
def test_rate_scale_and_independence(rate: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(N), rate)
    kept = mask > 0
    assert set(mask.unique().tolist()) == {0.0, float(mask.max())}
    assert float(mask.max()) == pytest.approx(1 / (1 - rate), rel=1e-4)
    assert float(kept.float().mean()) == pytest.approx(1 - rate, abs=4 * (rate / N) ** 0.5)
    for shift in (1, 2, 3, 4, 16):  # within a draw of four elements and between draws
        together = float((kept[shift:] & kept[:-shift]).float().mean())
        assert together == pytest.approx((1 - rate) ** 2, abs=0.004)


@pytest.mark.parametrize("rate", [1e-7, 1 - 1e-7])
def test_extreme_rates_are_the_nearest_there_are(rate: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(4 * N, dtype=torch.float64), rate)
    assert 0 < float((mask > 0).double().mean()) < 1
    assert float(mask.mean()) == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_other_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"dropout rate {rate} must be"):
        Dropout(rate)


def test_masks_of_any_size_follow_the_seed() -> None:
    torch.manual_seed(1)
    first = [keep_mask(torch.empty(n), 0.5) for n in (1, 2, 3, 5, 8, 13)]
    torch.manual_seed(1)
    for mask in first:
        assert torch.equal(mask, keep_mask(mask, 0.5))
    assert keep_mask(torch.empty(0), 0.5).shape == (0,)
    assert keep_mask(torch.empty(3, dtype=torch.float64), 0.5, (2, 7)).dtype == torch.float64


def test_only_in_training_and_only_where_there_is_a_rate() -> None:
    x = torch.ones(1000)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    layer = Dropout(0.5)
    assert not torch.equal(layer(x), x)
    assert layer.eval()(x) is x
    assert repr(layer) == "Dropout(rate=0.5)"


def test_the_gradient_is_the_mask() -> None:
    x = torch.ones(1000, requires_grad=True)
    out = dropout(x, 0.3, training=True)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out.detach())

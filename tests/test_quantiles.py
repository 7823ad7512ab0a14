"""Quantiles that cannot cross and a loss that is the paper's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tft.quantiles import QuantileHead, quantile_loss
from tft.schema import DEFAULT_QUANTILES

LEVELS = torch.tensor(DEFAULT_QUANTILES, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([1e-3, 1.0, 1e3, 1e6]))
def test_quantiles_ascend_for_any_weights_and_inputs(seed: int, size: float) -> None:
    torch.manual_seed(seed)
    naive = (torch.randn(16, 3, 4, 7) * size).sort(-1).values
    for head, given_too in (
        (QuantileHead(8, 3, DEFAULT_QUANTILES), None),
        (QuantileHead(8, 3, DEFAULT_QUANTILES, num_naive=4), naive),
    ):
        for parameter in head.parameters():
            parameter.data = torch.randn_like(parameter) * size
        out = head(torch.randn(16, 8) * size, given_too)
        assert out.isfinite().all()
        assert (out.diff(dim=-1) >= 0).all()


def test_a_head_can_repeat_a_naive_forecast_of_any_size() -> None:
    """Which no head can that reads the output of a layer norm alone."""
    head = QuantileHead(8, 2, DEFAULT_QUANTILES, num_naive=3)
    naive = (torch.randn(5, 2, 3, 7) * torch.tensor([1.0, 100.0, 1.0]).view(3, 1)).sort(-1).values
    with torch.no_grad():
        head.linear.bias.copy_(torch.tensor([-100.0, -100, -100, 0, -100, -100, -100]).repeat(2))
        head.shares.bias.copy_(torch.tensor([0.0, 0.0, 100.0, 0.0]).repeat(2))
    torch.testing.assert_close(head(torch.zeros(5, 8), naive), naive[:, :, 1])


def test_shares_of_naive_forecasts_sum_to_one() -> None:
    shares = QuantileHead(8, 2, DEFAULT_QUANTILES, num_naive=3).naive_shares(torch.randn(5, 8))
    assert shares.shape == (5, 2, 4)
    torch.testing.assert_close(shares.sum(-1), torch.ones(5, 2))


def test_what_was_half_seen_has_half_the_share_beside_what_was_seen() -> None:
    head, x = QuantileHead(8, 2, DEFAULT_QUANTILES, num_naive=3), torch.randn(5, 4, 8)
    seen = torch.tensor([1.0, 0.5, 0.0]).expand(5, 1, 2, 3)
    shares = head.naive_shares(x, seen)
    ratio = shares / head.naive_shares(x)
    torch.testing.assert_close(ratio[..., 2], ratio[..., 1] / 2)
    torch.testing.assert_close(ratio[..., 3], ratio[..., 1] * head.UNSEEN)
    torch.testing.assert_close(shares.sum(-1), torch.ones(5, 4, 2))
    alike = QuantileHead(8, 2, DEFAULT_QUANTILES, num_naive=3)
    torch.nn.init.zeros_(alike.shares.weight)
    own = [alike.naive_shares(x, each)[..., 0] for each in (seen, None)]
    torch.testing.assert_close(own[0], own[1], msg="together they keep their share")


def test_a_fresh_head_forecasts_a_standard_normal() -> None:
    head = QuantileHead(8, 2, DEFAULT_QUANTILES)
    expected = torch.special.ndtri(LEVELS).float().expand(2, -1)
    torch.testing.assert_close(head(torch.zeros(8)), expected)


def test_half_precision_inputs_give_float32_quantiles() -> None:
    head = QuantileHead(8, 2, DEFAULT_QUANTILES).bfloat16()
    assert head(torch.zeros(1, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(QuantileHead(8, 2, DEFAULT_QUANTILES).double(), (x,))


def test_loss_equals_equation_25() -> None:
    torch.manual_seed(0)
    forecast, target = torch.randn(2, 4, 5, 7).double(), torch.randn(2, 4, 5).double()
    total = torch.zeros(5, dtype=torch.float64)
    for q, column in zip(DEFAULT_QUANTILES, forecast.unbind(-1), strict=True):
        error = target - column
        total += (q * error.clamp(min=0) + (1 - q) * (-error).clamp(min=0)).sum((0, 1))
    loss = quantile_loss(forecast, target, LEVELS)
    torch.testing.assert_close(loss.total, total / 7)
    assert loss.observed.tolist() == [8] * 5
    assert loss.mean().item() == pytest.approx(float(total.sum()) / 7 / 40)


def test_missing_targets_add_neither_loss_nor_gradient() -> None:
    target = torch.tensor([[[1.0]], [[torch.nan]]], dtype=torch.float64)
    forecast = torch.zeros(2, 1, 1, 7, dtype=torch.float64, requires_grad=True)
    loss = quantile_loss(forecast, target, LEVELS)
    (gradient,) = torch.autograd.grad(loss.total, forecast)
    assert loss.observed.item() == 1
    assert gradient.isfinite().all()
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


def test_nothing_observed_is_a_loss_of_zero() -> None:
    loss = quantile_loss(torch.zeros(2, 3, 1, 7), torch.full((2, 3, 1), torch.nan), LEVELS.float())
    assert loss.mean().item() == 0

"""Quantiles that cannot cross, and their loss.

B batch, H horizon, M targets, Q quantiles, D hidden.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class QuantileHead(nn.Module):
    """Linear quantile outputs (equation 23) made monotone: the median, and gaps on both sides.

    A fresh head with no input forecasts a standard normal: the unit of normalised targets.
    """

    def __init__(self, hidden_size: int, num_targets: int, quantiles: Sequence[float]) -> None:
        super().__init__()
        self.shape = (num_targets, len(quantiles))
        self.median = list(quantiles).index(0.5)
        self.linear = nn.Linear(hidden_size, num_targets * len(quantiles))
        normal = torch.special.ndtri(torch.tensor(quantiles, dtype=torch.float64))
        gaps = normal.diff().expm1().log()  # softplus of it is the gap
        bias = torch.cat([gaps[: self.median], torch.zeros(1), gaps[self.median :]])
        with torch.no_grad():
            self.linear.bias.copy_(bias.repeat(num_targets))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., M, Q], ascending in Q, in float32 or wider."""
        raw = self.linear(x)
        raw = raw.view(*raw.shape[:-1], *self.shape)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        columns = list(raw.unbind(-1))  # a sum per column: cumsum is not deterministic on a GPU
        gaps = F.softplus(raw).unbind(-1)
        for q in range(self.median + 1, len(columns)):
            columns[q] = columns[q - 1] + gaps[q]
        for q in reversed(range(self.median)):
            columns[q] = columns[q + 1] - gaps[q]
        return torch.stack(columns, dim=-1)


class LossSum(NamedTuple):
    """A loss before division, so that parts of a batch add up to the whole batch's."""

    total: Tensor  # [M] sum over each target's observed ticks of the loss averaged over quantiles
    observed: Tensor  # [M] number of them

    def mean(self) -> Tensor:
        """Return the loss per observed tick of any target; 0 where nothing was observed."""
        return self.total.sum() / self.observed.sum().clamp(min=1)


def quantile_loss(forecast: Tensor, target: Tensor, quantiles: Tensor) -> LossSum:
    """Sum the quantile loss (equation 25) over the observed ticks of each target.

    Args:
        forecast: [B, H, M, Q].
        target: [B, H, M], NaN where missing.
        quantiles: [Q] levels.
    """
    observed = target.isfinite()
    error = target.nan_to_num().unsqueeze(-1) - forecast
    loss = torch.maximum(quantiles * error, (quantiles - 1) * error).mean(-1)
    return LossSum(torch.where(observed, loss, 0.0).sum((0, 1)), observed.sum((0, 1)))

"""Quantiles that cannot cross, and their loss.

B batch, H horizon, M targets, Q quantiles, D hidden, K naive forecasts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class QuantileHead(nn.Module):
    """Linear quantile outputs (equation 23) made monotone: the median, and gaps on both sides.

    A fresh head with no input forecasts a standard normal: the unit of normalised targets.

    Given naive forecasts it adds a share of each (not in the paper): what comes out of the layers
    before has passed a layer norm and is of one size, but tonight's backup is as large as last
    night's was; and where there is nothing to learn, the last day's own quantiles are hard to beat.
    Their gaps are stretched by factors of 0 and more, so quantiles still cannot cross.
    """

    OWN, NAIVE = 0.0, -2.0  # first logits of the shares: of seven naive forecasts 7 % each
    UNSEEN = 0.01  # a naive forecast of which less was seen counts as if so much had been

    def __init__(
        self,
        hidden_size: int,
        num_targets: int,
        quantiles: Sequence[float],
        num_naive: int = 0,
    ) -> None:
        super().__init__()
        M, Q = num_targets, len(quantiles)
        self.shape, self.num_naive = (M, Q), num_naive
        self.median = list(quantiles).index(0.5)
        self.linear = nn.Linear(hidden_size, M * Q)
        normal = torch.special.ndtri(torch.tensor(quantiles, dtype=torch.float64))
        gaps = _softplus_of(normal.diff())
        bias = torch.cat([gaps[: self.median], torch.zeros(1), gaps[self.median :]])
        with torch.no_grad():
            self.linear.bias.copy_(bias.repeat(M))
        if num_naive:
            self.shares = nn.Linear(hidden_size, M * (1 + num_naive))
            self.stretch = nn.Linear(hidden_size, M * (Q - 1))
            logits = torch.tensor([self.OWN] + num_naive * [self.NAIVE])
            with torch.no_grad():
                self.shares.bias.copy_(logits.repeat(M))
                self.stretch.bias.copy_(_softplus_of(torch.ones(M * (Q - 1))))

    def forward(self, x: Tensor, naive: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Forecast, in float32 or wider.

        Args:
            x: [..., D].
            naive: [..., M, K, Q], ascending in Q; none where the head was built for none.
            seen: see `naive_shares`.

        Returns:
            [..., M, Q], ascending in Q.

        Raises:
            ValueError: naive forecasts are missing, or the head was built for none.
        """
        if (naive is None) != (self.num_naive == 0):
            given = "none" if naive is None else "some"
            raise ValueError(f"the head takes {self.num_naive} naive forecasts, {given} were given")
        own = self._outputs(self.linear, x)  # [..., M, Q]
        below, middle, above = own.tensor_split((self.median, self.median + 1), dim=-1)
        middle, gaps = middle.squeeze(-1), F.softplus(torch.cat([below, above], dim=-1))
        if naive is not None:
            mixed = (self.naive_shares(x, seen)[..., 1:].unsqueeze(-1) * naive).sum(-2)
            middle = middle + mixed[..., self.median]
            gaps = gaps + F.softplus(self._outputs(self.stretch, x)) * mixed.diff(dim=-1)
        return outward(middle, gaps, self.median)

    def naive_shares(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return [..., M, 1 + K], each row's sum 1; the first is left to the linear outputs.

        What was made of half of its ticks gets half the share beside the other naive forecasts;
        together they keep theirs, whatever was seen. Training's months are mostly unseen, as the
        table has just begun; a network that was told how much is seen, as one more input, would
        be told of a whole month only after training.

        Args:
            x: [..., D].
            seen: broadcastable to [..., M, K], share of its ticks that was seen; None: all.
        """
        logits = self._outputs(self.shares, x)
        if seen is not None:
            seen = seen.to(logits.dtype).clamp(min=self.UNSEEN)
            logits = logits + F.pad((seen / seen.mean(-1, keepdim=True)).log(), (1, 0))
        logits = logits.movedim(-1, 0)
        return logits.softmax(0).movedim(0, -1)  # of few values in a row it takes 9 times as long

    def _outputs(self, linear: nn.Linear, x: Tensor) -> Tensor:
        raw: Tensor = linear(x)
        raw = raw.view(*raw.shape[:-1], self.shape[0], -1)
        return raw.to(torch.promote_types(raw.dtype, torch.float32))


def outward(middle: Tensor, gaps: Tensor, median: int) -> Tensor:
    """Go outward from the median [...] by gaps [..., Q - 1] of 0 and more, to quantiles [..., Q].

    Args:
        middle: the median.
        gaps: between neighbouring quantiles, lowest first.
        median: how many of them lie below it.
    """
    apart = gaps.unbind(-1)  # a sum per column: cumsum is not deterministic on a GPU
    columns = [middle]
    for gap in apart[median:]:
        columns.append(columns[-1] + gap)
    for gap in reversed(apart[:median]):
        columns.insert(0, columns[0] - gap)
    return torch.stack(columns, dim=-1)


def _softplus_of(positive: Tensor) -> Tensor:
    """Return what softplus maps to it."""
    return positive.expm1().log()


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

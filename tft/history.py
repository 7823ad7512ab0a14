"""Summaries of history that the network reads beside the ticks: of the last day, and of the days
before at the hours that are forecast.

Rhythms longer than the context, a nightly backup or a weekly batch, show in them, and what a window
held is told in numbers where a recurrent layer would have to count. Everything is measured in the
window's own spread around its own level; beyond a few spreads it is compressed by asinh.

B batch, T context, H horizon, M metrics, days: of the days before, newest first.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = (0.1, 0.5, 0.9)  # of the quantiles given of a day's and of the other days' values
RECENT = 12  # ticks that count as now
NEIGHBOURS = 2  # ticks on either side that count as the same hour
BEYOND = 100.0  # spreads: further away is as far
HORIZON_CHANNELS, WINDOW_CHANNELS = 7, 8


def same_hours(days: Tensor) -> Tensor:
    """Say of every horizon step what its hour was like before.

    Args:
        days: [B, days, H, M] the horizon's ticks on the days before, NaN where unseen.

    Returns:
        [B, H, M, 7]: a day before and whether it was seen; mean and standard deviation over all
        days and neighbouring ticks and the share of them seen; the oldest day (a week before) and
        whether it was seen. 0 where nothing was.
    """
    yesterday, oldest = days[:, 0], days[:, -1]
    mean, deviation, share = _over_days(days)
    channels = [
        _compressed(yesterday),
        _seen(yesterday),
        mean.asinh(),
        deviation.asinh(),
        share,
        _compressed(oldest),
        _seen(oldest),
    ]
    return torch.stack(channels, dim=-1)


def window_summary(past: Tensor, days: Tensor) -> Tensor:
    """Say what a window's history holds.

    Args:
        past: [B, T, M] the context, NaN where missing.
        days: [B, days, H, M] the horizon's ticks on the days before, NaN where unseen.

    Returns:
        [B, M, 8]: three quantiles of the context and the mean of its last hour, the same quantiles
        of the days before and the share of them seen. 0 where nothing was.
    """
    others = days.flatten(1, 2)
    recent = past[:, -RECENT:].nanmean(1)
    channels = [
        *_quantiles(past),
        _compressed(recent),
        *_quantiles(others),
        _seen(others).mean(1),
    ]
    return torch.stack(channels, dim=-1)


def _over_days(days: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, standard deviation and share seen over days and neighbours, [B, H, M] each."""
    seen = _seen(days)
    values = days.clamp(-BEYOND, BEYOND).nan_to_num(0.0)
    share, mean, square = (_near(each.mean(1)) for each in (seen, values, values.square()))
    some = share.clamp(min=1e-6)
    mean, square = mean / some, square / some
    return mean, (square - mean.square()).clamp(min=0.0).sqrt(), share


def _near(values: Tensor) -> Tensor:
    """Average [B, H, M] over neighbouring ticks; beyond the ends nothing was seen."""
    width = 2 * NEIGHBOURS + 1
    return F.avg_pool1d(values.transpose(1, 2), width, 1, NEIGHBOURS).transpose(1, 2)


def _quantiles(values: Tensor) -> list[Tensor]:
    """Return the nearest observed value at each level of [B, n, M], compressed, [B, M] each."""
    count = (~values.isnan()).sum(1, keepdim=True)
    ordered = values.nan_to_num(nan=torch.inf).sort(dim=1).values
    chosen = []
    for level in LEVELS:
        place = ((count - 1).clamp(min=0) * level).round().long()
        chosen.append(ordered.gather(1, place).masked_fill(count == 0, torch.nan).squeeze(1))
    return [_compressed(value) for value in chosen]


def _compressed(values: Tensor) -> Tensor:
    return values.clamp(-BEYOND, BEYOND).asinh().nan_to_num(0.0)


def _seen(values: Tensor) -> Tensor:
    return (~values.isnan()).to(values.dtype)

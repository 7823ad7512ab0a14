"""Summaries of history that the network reads beside the ticks themselves.

Rhythms longer than the context, a nightly backup or a weekly batch, show in the days before at the
hours that are forecast; and what a window held is told in numbers where a recurrent layer would
have to count. Everything is in a window's own spreads around its own level, compressed by asinh:
one spread more matters near the level, not a hundred away.

B batch, T context, H horizon, M metrics; days: the horizon's ticks on days before, newest first.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = (0.1, 0.5, 0.9)  # quantiles that are told
SPANS = (12, 72)  # last ticks summarised beside the whole context: of 5 minutes, 1 and 6 hours
AROUND_DAYS, AROUND_YESTERDAY = 2, 6  # ticks on either side that count as the same hour
FARTHEST = 100.0  # spreads; what is farther away is told as that far
HOURS_CHANNELS = 8
WINDOW_CHANNELS = (1 + len(SPANS)) * (len(LEVELS) + 2) + len(LEVELS) + 1


def same_hours(days: Tensor) -> Tensor:
    """Tell of every horizon step what its hour was like before.

    Args:
        days: [B, days, H, M], NaN where unseen.

    Returns:
        [B, H, M, 8]: yesterday's tick, whether it was seen, and the mean around it; mean and
        standard deviation around it over all days, and the share of these ticks seen; the tick of
        the oldest day and whether it was seen. 0 where nothing was.
    """
    yesterday, oldest = days[:, 0], days[:, -1]
    around, _, _ = _around(days[:, :1], AROUND_YESTERDAY)
    mean, deviation, share = _around(days, AROUND_DAYS)
    channels = (
        compressed(yesterday),
        _seen(yesterday),
        compressed(around),
        compressed(mean),
        compressed(deviation),
        share,
        compressed(oldest),
        _seen(oldest),
    )
    return torch.stack(channels, dim=-1)


def window_summary(past: Tensor, days: Tensor) -> Tensor:
    """Tell what a window's history holds.

    Args:
        past: [B, T, M], NaN where missing.
        days: [B, days, H, M], NaN where unseen.

    Returns:
        [B, M, 19]: of the context and of its last ticks (`SPANS`) three quantiles, the standard
        deviation and the largest value each; of the days before three quantiles and the share
        seen. 0 where nothing was.
    """
    others = days.flatten(1, 2)
    spans = (past, *(past[:, -ticks:] for ticks in SPANS))
    channels = [channel for span in spans for channel in _summary(span)]
    told = [compressed(channel) for channel in (*channels, *_quantiles(others))]
    return torch.stack([*told, _seen(others).mean(1)], dim=-1)


def compressed(values: Tensor) -> Tensor:
    """Return asinh of values, 0 for NaN."""
    return values.clamp(-FARTHEST, FARTHEST).asinh().nan_to_num(0.0)


def _summary(values: Tensor) -> list[Tensor]:
    """Return quantiles, standard deviation and largest of [B, n, M], [B, M] each."""
    near = values.clamp(-FARTHEST, FARTHEST)
    deviation = (near - near.nanmean(1, keepdim=True)).square().nanmean(1).sqrt()
    largest = near.nan_to_num(nan=-torch.inf).amax(1)
    return [*_quantiles(near), deviation, largest.masked_fill(largest.isinf(), torch.nan)]


def _quantiles(values: Tensor) -> list[Tensor]:
    """Return the nearest observed value at each level of [B, n, M], [B, M] each."""
    count = (~values.isnan()).sum(1, keepdim=True)
    ordered = values.nan_to_num(nan=torch.inf).sort(dim=1).values
    chosen = []
    for level in LEVELS:
        place = ((count - 1).clamp(min=0) * level).round().long()
        chosen.append(ordered.gather(1, place).masked_fill(count == 0, torch.nan).squeeze(1))
    return chosen


def _around(days: Tensor, ticks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, deviation and share seen over days and ticks on either side, [B, H, M] each.

    Beyond the ends of the horizon nothing is seen; mean and deviation are 0 where nothing is.
    """
    values, width = days.clamp(-FARTHEST, FARTHEST).nan_to_num(0.0), 2 * ticks + 1
    share, mean, square = (
        F.avg_pool1d(each.mean(1).transpose(1, 2), width, 1, ticks).transpose(1, 2)
        for each in (_seen(days), values, values.square())
    )
    some = share.clamp(min=1e-6)
    mean, square = mean / some, square / some
    return mean, (square - mean.square()).clamp(min=0.0).sqrt(), share


def _seen(values: Tensor) -> Tensor:
    return (~values.isnan()).to(values.dtype)

"""What came after the moments in a server's own history that were most like now.

A job that starts when another has ended, a queue that drains within the hour, a backup of some
weekday: what follows is in the month before, and no layer that sees a day can know it. The method
of analogues (Lorenz 1969) looks for it, metric by metric.

B batch, W earlier ticks, H horizon, M metrics, Q quantiles, n moments, F what describes one, k of
them that are most like now.
"""

from math import pi
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FARTHEST = 100.0  # spreads; what is farther away is taken for that far
ALIKE = 32  # moments in the history that were most like now
APART = 6  # ticks between moments looked at
RECENT = (6, 12, 72)  # ticks before a moment whose means are compared, beside the last one
HOUR_MEAN = 1 + RECENT.index(12)  # which of them is the last hour's
HOUR = 0.5  # squared distance of two moments a quarter of a day apart is twice as much
OTHER_WEEKDAY = 0.02  # added to it on another day of the week,
PER_DAY = 1e-4  # and for every day ago, so that the newer of two equal moments comes first


class Analogs(NamedTuple):
    """What came after the moments most like now."""

    quantiles: Tensor  # [B, H, M, Q] ascending in Q, NaN where nothing was seen
    distance: Tensor  # [B, M] of these moments in the mean, NaN where there are none


def analogs(earlier: Tensor, kept: Tensor, levels: tuple[float, ...], day: int) -> Analogs:
    """Forecast by what came after the moments in a metric's own history that were most like now.

    The method of analogues (Lorenz 1969), metric by metric: a moment is described by the means of
    its last ticks, compressed, and by its hour; what followed the nearest counts the more the
    nearer it was, and the farthest for nothing, so that a forecast changes smoothly. By as much as
    the last hour is above a moment's, what followed that is lifted, fading as it is forgotten.

    Args:
        earlier: [B, W, M] ticks before the first to forecast, in spreads, NaN where missing.
        kept: [B, M, H] how much of the last hour's height is left at a step, 0 to 1.
        levels: Q quantile levels, ascending.
        day: ticks in a day.
    """
    means = _recent_means(earlier)  # [B, M, n, F], the last one is now
    moments = means.sign() * means.abs().log1p()
    n, horizon = moments.shape[2], kept.shape[2]
    ago = (n - 1 - torch.arange(n - 1, device=earlier.device)) * APART  # ticks
    apart = (moments[:, :, :-1] - moments[:, :, -1:]).square()
    both = (~apart.isnan()).to(apart.dtype)
    distance = apart.nan_to_num(0.0).sum(-1) * (both.shape[-1] / both.sum(-1))  # 0 / 0 where unseen
    turn = 2 * pi / day * ago.to(apart.dtype)
    other = ((ago + day // 2) // day % 7 != 0).to(apart.dtype)
    distance = distance + 2 * HOUR * (1 - turn.cos()) + OTHER_WEEKDAY * other + PER_DAY / day * ago
    whole = n + -horizon // APART  # moments whose horizon has passed
    if whole <= 0:
        nothing = earlier.new_full((*earlier.shape[::2], horizon, len(levels)), torch.nan)
        return Analogs(nothing.transpose(1, 2), nothing[:, :, 0, 0])
    near = distance[..., :whole].nan_to_num(nan=torch.inf).topk(min(ALIKE, whole), largest=False)
    rows = earlier.shape[1] - ago[near.indices]  # first tick after each
    rows = rows.unsqueeze(2) + torch.arange(horizon, device=rows.device)[:, None]  # [B, M, H, k]
    series = earlier.transpose(1, 2).unsqueeze(2).expand(-1, -1, horizon, -1)
    came = series.gather(3, rows)
    hour = means[..., HOUR_MEAN]
    above = (hour[..., -1:] - hour[..., :-1].gather(2, near.indices)).nan_to_num(0.0)  # [B, M, k]
    came = came + kept.unsqueeze(3) * above.unsqueeze(2)
    some = near.values.isfinite()
    reach = near.values.masked_fill(~some, 0.0).amax(-1, keepdim=True).clamp(min=1e-9)
    weight = torch.where(some, (1 - near.values / reach).clamp(min=1e-3), 0.0)
    distance = (near.values.nan_to_num(posinf=0.0) * weight).sum(-1) / weight.sum(-1)
    return Analogs(_weighted(levels, came, weight.unsqueeze(2)).transpose(1, 2), distance)


def _recent_means(earlier: Tensor) -> Tensor:
    """Return the last tick before every `APART`-th moment and means of those before, [B, M, n, F].

    NaN where nothing was seen.
    """
    B, W, M = earlier.shape
    n = W // APART
    values = earlier[:, W - n * APART :].reshape(B, n, APART * M).clamp(-FARTHEST, FARTHEST)
    both = torch.stack([values.nan_to_num(0.0), _seen(values)])  # [2, B, n, APART x M]
    blocks = both @ torch.eye(M, dtype=both.dtype, device=both.device).repeat(APART, 1)
    running = F.pad(blocks.double().cumsum(2), (0, 0, 1, 0))  # single would lose a digit a day
    means = [values[..., -M:]]
    for ticks in RECENT:
        begin = (torch.arange(n, device=both.device) + 1 - ticks // APART).clamp(min=0)
        total, count = (running[:, :, 1:] - running[:, :, begin]).to(both.dtype)
        means.append(total / count)  # 0 / 0 where unseen
    return torch.stack(means, dim=-1).transpose(1, 2)


def _weighted(levels: tuple[float, ...], values: Tensor, weight: Tensor) -> Tensor:
    """Return quantiles of weighted values, straight lines between them.

    Args:
        levels: Q.
        values: [..., k], NaN where missing.
        weight: broadcastable to it.

    Returns:
        [..., Q], NaN where nothing has weight.
    """
    weight = torch.where(values.isnan(), 0.0, weight)
    ordered, order = values.nan_to_num(nan=torch.inf).sort(-1)
    weight = weight.gather(-1, order)
    total = weight.cumsum(-1)
    middle = (total - weight / 2) / total[..., -1:].clamp(min=1e-9)  # place of each, 0 to 1
    last = (weight > 0).sum(-1, keepdim=True) - 1
    above = torch.stack([(middle < level).sum(-1) for level in levels], dim=-1)
    below = (above - 1).clamp(min=0)
    above = above.minimum(last.clamp(min=0))
    below = below.minimum(above)
    start, end = middle.gather(-1, below), middle.gather(-1, above)
    way = (middle.new_tensor(levels) - start) / (end - start).clamp(min=1e-9)
    found = torch.lerp(ordered.gather(-1, below), ordered.gather(-1, above), way.clamp(0.0, 1.0))
    return found.masked_fill(last < 0, torch.nan)


def _seen(values: Tensor) -> Tensor:
    return (~values.isnan()).to(values.dtype)

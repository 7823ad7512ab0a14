"""What came after the moments in a server's own history that were most like now.

A job that starts when another has ended, a queue that drains within the hour, a backup of some
weekday: what follows is in the month before, and no layer that sees a day can know it. The method
of analogues (Lorenz 1969) looks for it: a metric's forecast is made of its own ticks, and which
moments count may depend on all metrics.

B batch, W earlier ticks, H horizon, M metrics, Q quantiles, n moments, F what describes one, k of
them that are most like now, N ways to be alike.
"""

from math import pi
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tft.normalise import WindowScale
from tft.order import count_below, places_in_order

FARTHEST = 100.0  # spreads; what is farther away is taken for that far
ALIKE = 24  # moments in the history that were most like now
APART = 12  # ticks between moments looked at
RECENT = (12, 72)  # ticks before a moment whose means are compared, beside the last one
HOUR_MEAN = 1 + RECENT.index(12)  # which of them is the last hour's
OTHER_WEEKDAY = 0.02  # added to the squared distance on another day of the week


class Likeness(NamedTuple):
    """What makes moments alike, beside the last ticks before them."""

    hour: float
    """Added to the squared distance: twice this for moments a quarter of a day apart."""
    per_day: float
    """Added for every day ago; of two moments that are equal otherwise the newer comes first."""
    shared: float
    """Share of the last ticks' distance that is the mean over all metrics, its own included."""


LIKENESSES = {
    "moments like now": Likeness(hour=0.5, per_day=1e-4, shared=0.0),
    "moments of late": Likeness(hour=0.5, per_day=0.01, shared=0.5),
    "moments at this hour": Likeness(hour=5.0, per_day=1e-4, shared=0.5),
}
"""Each makes a naive forecast; their mean was better than any one, see benchmarks/NOTES.md."""


class Analogs(NamedTuple):
    """What came after the moments most like now, in each of `LIKENESSES`."""

    quantiles: Tensor  # [B, H, M, N, Q] in spreads, ascending in Q, NaN where nothing was seen
    distance: Tensor  # [B, M] of the first way's moments in the mean, NaN where there are none
    share: Tensor  # [B, M] of the earlier ticks that were seen


def analogs(
    earlier: Tensor, scale: WindowScale, kept: Tensor, levels: tuple[float, ...], day: int
) -> Analogs:
    """Forecast by what came after the moments in a server's own history that were most like now.

    A moment is described by the means of its last ticks, compressed, and by when it was. What
    followed the nearest counts the more the nearer it was, and the farthest for nothing, so that a
    forecast changes smoothly. By as much as the last hour is above a moment's, what followed that
    is lifted, fading as it is forgotten. What makes moments alike is said in several ways, each a
    forecast.

    Args:
        earlier: [B, W, M] ticks before the first to forecast, raw units, missing is not finite.
        scale: of these metrics first.
        kept: [B, M, H] how much of the last hour's height is left at a step, 0 to 1.
        levels: Q quantile levels, ascending.
        day: ticks in a day.
    """
    long_ago = earlier.shape[1] // APART * APART  # ticks that moments could be of
    earlier = _since_anything_was_seen(earlier, day)
    (B, W, M), horizon = earlier.shape, kept.shape[2]
    level, spread = (each[:, :M, None] for each in scale)  # [B, M, 1]
    means, seen = _recent_means(earlier)  # [F, B, M, n], the last one is now
    share = seen / max(long_ago, 1)
    means = means.sub_(level).div_(spread).clamp_(-FARTHEST, FARTHEST)
    n = means.shape[3]
    whole = n + -horizon // APART  # moments whose horizon has passed
    if whole <= 0:
        nothing = earlier.new_full((B, horizon, M, len(LIKENESSES), len(levels)), torch.nan)
        return Analogs(nothing, nothing[:, 0, :, 0, 0], share)
    ago = torch.arange(n - 1, n - 1 - whole, -1, device=earlier.device) * APART  # ticks
    series = earlier.transpose(1, 2).unsqueeze(2).expand(-1, -1, horizon, -1)
    last_hour, apart = means[HOUR_MEAN], _distances(means, whole)
    shared = apart.nanmean(1, keepdim=True)
    every, distances = [], []
    for likeness in LIKENESSES.values():
        distance = torch.lerp(apart, shared, likeness.shared) + _calendar(
            ago.to(apart.dtype), day, likeness
        )
        near = distance.nan_to_num(nan=torch.inf).topk(min(ALIKE, whole), largest=False)
        rows = (W - ago[near.indices]).unsqueeze(2)  # [B, M, 1, k]
        came = series.gather(3, rows + torch.arange(horizon, device=ago.device)[:, None])
        came.sub_(level.unsqueeze(3)).div_(spread.unsqueeze(3))  # [B, M, H, k]
        above = (last_hour[..., -1:] - last_hour.gather(2, near.indices)).nan_to_num(0.0)
        some = near.values < torch.inf
        came.addcmul_(kept.unsqueeze(3), above.masked_fill(~some, torch.nan).unsqueeze(2))
        far = near.values.masked_fill(~some, 0.0)
        weight = (1 - far / far.amax(-1, keepdim=True).clamp(min=1e-9)).clamp(min=1e-3) * some
        every.append(_weighted(levels, came, weight.unsqueeze(2)).transpose(1, 2))
        distances.append((far * weight).sum(-1) / weight.sum(-1))
    return Analogs(torch.stack(every, dim=3), distances[0], share)


def _since_anything_was_seen(earlier: Tensor, day: int) -> Tensor:
    """Drop whole days [B, W, M] of which nothing was seen by any window: no moment is of them.

    A table that has just begun has weeks of them. An exported program, of one shape, keeps all.
    """
    if torch.compiler.is_compiling():
        return earlier
    while earlier.shape[1] > day and not bool(earlier[:, :day].isfinite().any()):
        earlier = earlier[:, day:]
    return earlier


def _distances(means: Tensor, whole: int) -> Tensor:
    """Return squared distances of the first moments to the last, [B, M, whole], NaN where unseen.

    Args:
        means: [F, B, M, n] in spreads, NaN where nothing was seen.
        whole: how many of the n.
    """
    described = means.sign() * means.abs().log1p()
    apart = (described[..., :whole] - described[..., -1:]).square()
    both = (apart == apart).to(apart.dtype).sum(0)
    return apart.nan_to_num(0.0).sum(0) * (len(apart) / both)  # 0 / 0 where unseen


def _calendar(ago: Tensor, day: int, likeness: Likeness) -> Tensor:
    """Return what hour, weekday and age add to the squared distance of moments, [moments].

    Args:
        ago: [moments] ticks from each of them to now.
        day: ticks in a day.
        likeness: how much they do.
    """
    days = ago / day
    other = ((ago + day // 2) // day % 7 != 0).to(days.dtype)
    hours = 2 * likeness.hour * (1 - (2 * pi * days).cos())
    return hours + likeness.per_day * days + OTHER_WEEKDAY * other


def _recent_means(earlier: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last tick before every `APART`-th moment and means of those before, [F, B, M, n].

    NaN where nothing was seen. And the number of all ticks that was, [B, M].
    """
    B, W, M = earlier.shape
    n = W // APART
    values = earlier[:, W - n * APART :].reshape(B, n, APART, M)
    known = values.nan_to_num(0.0, 0.0, 0.0)
    seen = known == values  # `isfinite` takes four passes over memory
    blocks = torch.stack([_added(known), _added(seen.to(torch.uint8)).to(values.dtype)])
    running = blocks.double().cumsum(2)  # single precision would lose a digit a day
    means = [known[:, :, -1].masked_fill(~seen[:, :, -1], torch.nan)]
    for ticks in RECENT:
        before = F.pad(running, (0, 0, ticks // APART, 0))[:, :, :n]
        total, count = running - before
        means.append((total / count).to(values.dtype))  # 0 / 0 where unseen
    return torch.stack([mean.transpose(1, 2) for mean in means]), blocks[1].sum(1)


def _added(ticks: Tensor) -> Tensor:
    """Sum over the ticks [B, n, ticks, M] between two moments, [B, n, M].

    Half of them to the other half, while they can be halved: `sum` over few short rows is slow.
    """
    while (half := ticks.shape[2] // 2) and ticks.shape[2] % 2 == 0:
        ticks = ticks[:, :, :half] + ticks[:, :, half:]
    first, *others = ticks.unbind(2)
    return sum(others, start=first)


def _weighted(levels: tuple[float, ...], values: Tensor, weight: Tensor) -> Tensor:
    """Return quantiles of weighted values, straight lines between them.

    Args:
        levels: Q.
        values: [..., k], not finite where missing.
        weight: broadcastable to it.

    Returns:
        [..., Q], NaN where nothing has weight.
    """
    inf = torch.inf
    values = values.nan_to_num(inf, inf, inf)
    order = places_in_order(values)
    ordered = values.gather(-1, order)
    weight = weight.expand_as(values).gather(-1, order).mul_(ordered < inf)
    last = count_below(ordered, ordered.new_full((*ordered.shape[:-1], 1), inf)) - 1
    total = weight.cumsum(-1)
    whole = total[..., -1:].clamp(min=1e-9)
    middle = total.sub_(weight.div_(2)).div_(whole)  # place of each, 0 to 1
    places = middle.new_tensor(levels).expand(*middle.shape[:-1], -1).contiguous()
    above = count_below(middle, places)
    below = (above - 1).clamp(min=0)
    above = above.minimum(last.clamp(min=0))
    below = below.minimum(above)
    start, end = middle.gather(-1, below), middle.gather(-1, above)
    way = (places - start) / (end - start).clamp(min=1e-9)
    found = torch.lerp(ordered.gather(-1, below), ordered.gather(-1, above), way.clamp(0.0, 1.0))
    return found.masked_fill(last < 0, torch.nan)

"""Summaries of history that the network reads beside the ticks, and naive forecasts it leans on.

Rhythms longer than the context, a nightly backup or a weekly batch, show in the days before at the
hours that are forecast; and what a window held is told in numbers where a recurrent layer would
have to count. Everything is in a window's own spreads around its own level. Summaries are
compressed by asinh: one spread more matters near the level, not a hundred away.

B batch, T context, W earlier ticks, H horizon, M metrics, K naive forecasts, Q quantiles; days: the
horizon's ticks on days before, newest first.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tft.analogs import FARTHEST, LIKENESSES, analogs
from tft.normalise import WindowScale
from tft.order import ascending

LEVELS = (0.1, 0.5, 0.9)  # quantiles that are told
SPANS = (12, 72)  # last ticks summarised beside the whole context: of 5 minutes, 1 and 6 hours
AROUND_DAYS, AROUND_YESTERDAY = 2, 6  # ticks on either side that count as the same hour
NAIVE_FORECASTS = ("context", "last hour", "last 6 hours", "last tick", *LIKENESSES)
DAYS = 7  # whose same hours are seen
LAGS = (1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72, 96)  # ticks at which memory is measured
NEAR = 3.0  # spreads from the mean; in measuring memory what is farther away is that far
HOURS_CHANNELS = 8 + len(LEVELS)
WINDOW_CHANNELS = (1 + len(SPANS)) * (len(LEVELS) + 2) + len(LEVELS) + 2


class History(NamedTuple):
    """What the network is told of a window's history."""

    hours: Tensor  # [B, H, M, HOURS_CHANNELS] of `same_hours`
    window: Tensor  # [B, M, WINDOW_CHANNELS] of `window_summary`
    naive: Tensor  # [B, H, M, K, Q] of `naive_forecasts`
    seen: Tensor  # [B, M, K] share of the month that was seen, of those made of it; else 1


def summarise(
    past: Tensor,
    days: Tensor,
    earlier: Tensor,
    scale: WindowScale,
    levels: tuple[float, ...],
    day: int,
) -> History:
    """Sum up a history.

    Args:
        past: [B, T, M] in spreads, NaN where missing.
        days: [B, days, H, M] in spreads, NaN where unseen.
        earlier: [B, W, M] ticks before the first to forecast, raw units.
        scale: leads from raw units to spreads, these metrics first.
        levels: Q quantile levels, ascending, the median among them.
        day: ticks in a day.
    """
    H = days.shape[2]
    rho = memory(past, H)
    alike, distance, share = analogs(earlier, scale, rho[..., 1 : H + 1], levels, day)
    naive = naive_forecasts(past, alike, rho, levels)
    ways = share.unsqueeze(-1) * (alike == alike).any(-1).any(1)  # 0 of what found no moment
    seen = F.pad(ways, (naive.shape[3] - len(LIKENESSES), 0), value=1.0)
    near = [min(levels, key=lambda level: abs(level - told)) for told in LEVELS]
    return History(
        same_hours(days, alike[..., 0, [levels.index(level) for level in near]]),
        window_summary(past, days, distance),
        naive,
        seen,
    )


def days_of(earlier: Tensor, horizon: int, day: int) -> Tensor:
    """Return the horizon's ticks on the days before, newest first, NaN where unseen.

    Args:
        earlier: [B, W, M] ticks before the first to forecast.
        horizon: H.
        day: ticks in a day; W is at least that.

    Returns:
        [B, days, H, M], a week of them where W has one.
    """
    W, days = earlier.shape[1], []
    for begin in range(W - day, max(W - DAYS * day, 0) - 1, -day):
        seen = earlier[:, begin : begin + horizon]
        days.append(F.pad(seen, (0, 0, 0, horizon - seen.shape[1]), value=torch.nan))
    return torch.stack(days, dim=1)


def same_hours(days: Tensor, alike: Tensor) -> Tensor:
    """Tell of every horizon step what its hour was like before.

    Args:
        days: [B, days, H, M], NaN where unseen.
        alike: [B, H, M, 3] quantiles of what came after moments like now, at `LEVELS`.

    Returns:
        [B, H, M, 11]: yesterday's tick, whether it was seen, and the mean around it; mean and
        standard deviation around it over all days, and the share of these ticks seen; the tick of
        the oldest day and whether it was seen; the quantiles of moments like now. 0 where
        nothing was.
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
        *compressed(alike).unbind(-1),
    )
    return torch.stack(channels, dim=-1)


def window_summary(past: Tensor, days: Tensor, distance: Tensor) -> Tensor:
    """Tell what a window's history holds.

    Args:
        past: [B, T, M], NaN where missing.
        days: [B, days, H, M], NaN where unseen.
        distance: [B, M] of moments like now.

    Returns:
        [B, M, 20]: of the context and of its last ticks (`SPANS`) three quantiles, the standard
        deviation and the largest value each; of the days before three quantiles and the share
        seen; the distance. 0 where nothing was.
    """
    others = days.flatten(1, 2)
    spans = (past, *(past[:, -ticks:] for ticks in SPANS))
    channels = [channel for span in spans for channel in _summary(span)]
    told = [compressed(channel) for channel in (*channels, *_quantiles(others))]
    return torch.stack([*told, _seen(others).mean(1), compressed(distance)], dim=-1)


def naive_forecasts(past: Tensor, alike: Tensor, rho: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Forecast every step by quantiles of what was seen.

    Args:
        past: [B, T, M], NaN where missing.
        alike: [B, H, M, N, Q] of `tft.analogs`.
        rho: [B, M, lags] of `memory`.
        levels: Q quantile levels, ascending.

    Returns:
        [B, H, M, K, Q], ascending in Q: see `NAIVE_FORECASTS`. The first three hold for the whole
        horizon, the fourth fades from the last tick to the first (see `_fading`), the others are
        what came after moments in the month before (`LIKENESSES`). Where one has seen nothing it
        is the context's, and 0 where that has not either.
    """
    H = alike.shape[1]
    spans = (past, *(past[:, -ticks:] for ticks in SPANS))
    held = [_at(levels, span.transpose(1, 2)) for span in spans]  # [B, M, Q] each
    steady = (each.unsqueeze(1).expand(-1, H, -1, -1) for each in held)
    every = [*steady, _fading(past, held[0], rho, levels, H), *alike.unbind(3)]
    whole = every[0].nan_to_num(0.0)
    return torch.stack([torch.where(each.isnan(), whole, each) for each in every], dim=-2)


def _fading(past: Tensor, whole: Tensor, rho: Tensor, levels: tuple[float, ...], H: int) -> Tensor:
    """Forecast from the last tick seen, fading to the context's quantiles as it is forgotten.

    What one value tells of another one, rho being their correlation: the median and rho of the
    value's distance to it, and sqrt(1 - rho^2) of the spread around that. How fast it is forgotten
    says the window's own autocorrelation.

    Args:
        past: [B, T, M], NaN where missing.
        whole: [B, M, Q], quantiles of it at the levels.
        rho: [B, M, lags] of `memory`.
        levels: with the median.
        H: steps ahead.

    Returns:
        [B, H, M, Q], ascending in Q, NaN where nothing was seen.
    """
    T = past.shape[1]
    places = torch.arange(1, T + 1, device=past.device, dtype=past.dtype)
    newest = (_seen(past) * places[:, None]).argmax(1)  # [B, M], 0 where nothing was seen
    last = past.gather(1, newest.unsqueeze(1)).transpose(1, 2)  # [B, M, 1]
    ahead = (T - newest).unsqueeze(-1) + torch.arange(H, device=past.device)
    rho = rho.gather(-1, ahead.clamp(max=rho.shape[-1] - 1)).unsqueeze(-1)  # [B, M, H, 1]
    median = whole[..., levels.index(0.5), None]  # [B, M, 1]
    kept = (1 - rho.square()).clamp(min=0.0).sqrt()
    centre, apart = rho * (last - median).unsqueeze(2), kept * (whole - median).unsqueeze(2)
    return (median.unsqueeze(2) + centre + apart).transpose(1, 2)


def memory(past: Tensor, horizon: int) -> Tensor:
    """Return the autocorrelation of windows, taken as never negative and never rising again.

    Args:
        past: [B, T, M], NaN where missing.
        horizon: H.

    Returns:
        [B, M, 1 + lags] at lags from 0 to H and to the last of `LAGS`: of the pairs seen at these,
        straight lines between them and level behind the last. 0 but at lag 0 where nothing moved.
    """
    near = (past - past.nanmean(1, keepdim=True)).clamp(-NEAR, NEAR)
    seen, apart = _seen(near), (near - near.nanmean(1, keepdim=True)).nan_to_num(0.0)
    square = apart.square()
    before, rho = 0, torch.ones_like(square[:, 0])
    lines = [rho.unsqueeze(-1)]
    for lag in LAGS:
        product = (apart[:, lag:] * apart[:, :-lag]).sum(1)
        late = (square[:, lag:] * seen[:, :-lag]).sum(1)
        early = (square[:, :-lag] * seen[:, lag:]).sum(1)
        lower = product / (late * early).sqrt().clamp(min=1e-6)
        lower = lower.clamp(min=0.0).minimum(rho)
        way = torch.arange(1, lag - before + 1, device=past.device) / (lag - before)
        lines.append(torch.lerp(rho.unsqueeze(-1), lower.unsqueeze(-1), way.to(past.dtype)))
        before, rho = lag, lower
    lines.append(rho.unsqueeze(-1).expand(-1, -1, max(horizon - before, 0)))
    return torch.cat(lines, dim=-1)


def compressed(values: Tensor) -> Tensor:
    """Return asinh of values, 0 for NaN."""
    values = values.nan_to_num(0.0).clamp(-FARTHEST, FARTHEST)
    size, square = values.abs(), values * values
    # log(1 + size + sqrt(1 + size^2) - 1): PyTorch's own asinh takes five times as long.
    grown = size + square / (1 + (1 + square).sqrt())
    return grown.log1p() * values.sign()


def _summary(values: Tensor) -> list[Tensor]:
    """Return quantiles, standard deviation and largest of [B, n, M], [B, M] each."""
    near = values.clamp(-FARTHEST, FARTHEST)
    deviation = (near - near.nanmean(1, keepdim=True)).square().nanmean(1).sqrt()
    largest = near.nan_to_num(nan=-torch.inf).amax(1)
    return [*_quantiles(near), deviation, largest.masked_fill(largest.isinf(), torch.nan)]


def _quantiles(values: Tensor) -> tuple[Tensor, ...]:
    """Return the nearest observed value at each of LEVELS of [B, n, M], [B, M] each."""
    return _at(LEVELS, values.transpose(1, 2)).unbind(-1)


def _at(levels: tuple[float, ...], values: Tensor) -> Tensor:
    """Return the nearest observed value at each level of [..., n], [..., levels], NaN for none."""
    last = (~values.isnan()).sum(-1, keepdim=True) - 1  # observed, but one
    place = (last.clamp(min=0) * values.new_tensor(levels)).round().long()
    return ascending(values).gather(-1, place).masked_fill(last < 0, torch.nan)


def _around(days: Tensor, ticks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, deviation and share seen over days and ticks on either side, [B, H, M] each.

    Beyond the ends of the horizon nothing is seen; mean and deviation are 0 where nothing is.
    """
    # In double precision: a difference of squares is left with half of the digits.
    values, width = days.clamp(-FARTHEST, FARTHEST).nan_to_num(0.0).double(), 2 * ticks + 1
    share, mean, square = (
        F.pad(each.mean(1), (0, 0, ticks, ticks)).unfold(1, width, 1).mean(-1)
        for each in (_seen(days).double(), values, values.square())
    )
    some = share.clamp(min=1e-6)
    mean, square = mean / some, square / some
    deviation = (square - mean.square()).clamp(min=0.0).sqrt()
    return mean.to(days.dtype), deviation.to(days.dtype), share.to(days.dtype)


def _seen(values: Tensor) -> Tensor:
    return (~values.isnan()).to(values.dtype)

"""Raw units to the network's and back: every window is standardised by its own history.

Servers differ by decades in level and spread, and a forecaster must serve servers it never saw. So
each metric of each window is measured in its own standard deviations around its own mean, and both
are given back to the network as static inputs (reversible instance normalisation, Kim et al. 2022,
without its learned affine).

B batch, T context, M metrics (targets first), R static reals, K stretches of training rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RESOLUTION = 1e-6  # of the level: less movement than that is float32's rounding
CLIP = 10.0  # inputs stay within so many standard deviations; targets are not clipped
# Of the training stretches' standard deviations; a quieter window is measured by it instead.
FLOOR_QUANTILE = 0.1


class WindowScale(NamedTuple):
    """Level and spread of each metric in each window's history, raw units."""

    level: Tensor  # [B, M]
    spread: Tensor  # [B, M], positive


class WindowNormaliser(nn.Module):
    """Standardises windows; its buffers are statistics of training rows, saved with the model."""

    typical_level: Tensor
    typical_spread: Tensor
    spread_floor: Tensor
    feature_mean: Tensor
    feature_std: Tensor
    feature_low: Tensor
    feature_high: Tensor
    static_mean: Tensor
    static_std: Tensor

    def __init__(self, num_metrics: int, num_static_reals: int) -> None:
        super().__init__()
        self.register_buffer("typical_level", torch.zeros(num_metrics))
        self.register_buffer("typical_spread", torch.ones(num_metrics))
        self.register_buffer("spread_floor", torch.ones(num_metrics))
        self.register_buffer("feature_mean", torch.zeros(num_metrics, 2))
        self.register_buffer("feature_std", torch.ones(num_metrics, 2))
        self.register_buffer("feature_low", torch.full((num_metrics, 2), -CLIP))
        self.register_buffer("feature_high", torch.full((num_metrics, 2), CLIP))
        self.register_buffer("static_mean", torch.zeros(num_static_reals))
        self.register_buffer("static_std", torch.ones(num_static_reals))

    @torch.no_grad()
    def fit(self, stretches: Tensor, static_reals: Tensor) -> None:
        """Take statistics from training rows.

        Args:
            stretches: [K, ticks, M] raw units, NaN where missing; each is of one server's rows.
            static_reals: [training servers, R] raw units, NaN where missing.
        """
        level, spread = _level_and_spread(stretches)  # [K, M], NaN where nothing was seen
        moving = torch.where(spread > 0, spread, torch.nan)
        self.typical_level.copy_(level.nanmedian(0).values.nan_to_num(0.0))
        self.typical_spread.copy_(moving.nanmedian(0).values.nan_to_num(1.0))
        floor = torch.nanquantile(moving, FLOOR_QUANTILE, dim=0).nan_to_num(1.0)
        self.spread_floor.copy_(floor.clamp(min=1e-6))
        features = self._features(WindowScale(level, spread.clamp(min=self.spread_floor)))
        self.feature_mean.copy_(_nan_mean(features, 0).nan_to_num(0.0))
        self.feature_std.copy_(_nan_std(features, 0))
        standard = ((features - self.feature_mean) / self.feature_std).nan_to_num(0.0)
        self.feature_low.copy_(standard.amin(0).clamp(max=-1.0))  # few stretches tell of no range
        self.feature_high.copy_(standard.amax(0).clamp(min=1.0))
        compressed = static_reals.asinh()
        self.static_mean.copy_(_nan_mean(compressed, 0).nan_to_num(0.0))
        self.static_std.copy_(_nan_std(compressed, 0))

    def measure(self, past: Tensor, days: Tensor) -> WindowScale:
        """Return level and spread of histories; training's typical ones where unseen.

        A quiet day's spread would make thousands of spreads of tonight's backup: where the days
        before moved more at the hours to come, a target's spread is that of both together.

        Args:
            past: [B, T, M] raw units, NaN where missing.
            days: [B, days, H, targets] the horizon's ticks on the days before, the same way.
        """
        level, spread = _level_and_spread(past)
        targets = days.shape[-1]
        _, both = _level_and_spread(torch.cat([past[..., :targets], days.flatten(1, 2)], dim=1))
        both = F.pad(both.nan_to_num(0.0), (0, spread.shape[-1] - targets))
        spread = torch.maximum(spread, both)  # NaN stays
        return WindowScale(
            torch.where(level.isnan(), self.typical_level, level),
            torch.where(spread.isnan(), self.typical_spread, spread).clamp(min=self.spread_floor),
        )

    def normalise(self, values: Tensor, scale: WindowScale) -> Tensor:
        """Map raw values [B, steps, metrics], targets first, to standard deviations, NaN to NaN."""
        M = values.shape[-1]
        return (values - scale.level[:, None, :M]) / scale.spread[:, None, :M]

    def denormalise(self, forecast: Tensor, scale: WindowScale) -> Tensor:
        """Map forecasts [B, H, targets, Q] back to raw units."""
        M = forecast.shape[2]
        return forecast * scale.spread[:, None, :M, None] + scale.level[:, None, :M, None]

    def scale_features(self, scale: WindowScale) -> Tensor:
        """Return level and spread as two standardised channels, [B, M, 2].

        They stay within what training's stretches had: of a machine that was given another job,
        and is now busier than any, a network says anything.
        """
        standard = (self._features(scale) - self.feature_mean) / self.feature_std
        return standard.clamp(self.feature_low, self.feature_high)

    def static_features(self, static_reals: Tensor) -> Tensor:
        """Return static reals as value and presence, [B, R, 2]."""
        return presence_channels((static_reals.asinh() - self.static_mean) / self.static_std)

    def _features(self, scale: WindowScale) -> Tensor:
        """Compress level and spread, which may span decades, to [..., M, 2]."""
        level = (scale.level / self.typical_spread).asinh()
        return torch.stack([level, (scale.spread / self.typical_spread).log()], dim=-1)


def presence_channels(values: Tensor) -> Tensor:
    """Turn values [...] with NaN for missing into [..., 2]: clipped value or 0, and seen or not."""
    seen = ~values.isnan()
    clipped = values.clamp(-CLIP, CLIP).nan_to_num()
    return torch.stack([clipped, seen.to(values.dtype)], dim=-1)


def _level_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population standard deviation over dim 1, NaN where nothing was seen."""
    level = _nan_mean(values, 1)
    rest = _nan_mean(values - level.unsqueeze(1), 1)  # a sum of large numbers is rounded coarsely
    level = level + rest.nan_to_num(0.0, 0.0, 0.0)
    centred = (values - level.unsqueeze(1)).abs()
    largest = centred.nan_to_num(0.0).amax(1).clamp(min=1e-30)  # its square may overflow float32
    relative = _nan_mean((centred / largest.unsqueeze(1)).square(), 1).sqrt()
    spread = relative * largest
    moves = spread > RESOLUTION * level.abs()
    return level, torch.where(moves | spread.isnan(), spread, 0.0)


def _nan_mean(values: Tensor, dim: int) -> Tensor:
    return values.nansum(dim) / (~values.isnan()).sum(dim)


def _nan_std(values: Tensor, dim: int) -> Tensor:
    """Return the standard deviation ignoring NaN, 1 where nothing varies."""
    centred = values - _nan_mean(values, dim).unsqueeze(dim)
    std = _nan_mean(centred.square(), dim).sqrt()
    return torch.where(std > 1e-6, std, 1.0)

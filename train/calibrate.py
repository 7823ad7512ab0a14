"""Calibration of the forecaster that was kept on windows that did not train it.

N windows, H horizon steps, M targets, Q quantiles.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from report.scores import horizon_buckets
from tft.batch import WindowBatch
from tft.calibration import fit_gap_factors, scale_gaps
from tft.forecaster import Forecaster
from tft.schema import UNKNOWN_CODE


@dataclass(frozen=True)
class CalibrationResult:
    """What calibrating was done on, and what it did there."""

    windows: int
    """Windows, each forecast with its server's and profile's codes and with both hidden."""
    independent: int
    """Of them not overlapping: servers times disjoint horizons."""
    coverage_before: dict[str, float]
    """Share of each target's observed ticks inside the 80 % interval, on these windows."""
    coverage_after: dict[str, float]
    """The same once calibrated; no measure of what holds elsewhere."""

    def line(self) -> str:
        """Say in one line what it did."""
        changes = (
            f"{name} {before:.1%} to {self.coverage_after[name]:.1%}"
            for name, before in self.coverage_before.items()
        )
        return (
            f"calibrated on {self.windows:,} validation windows, {self.independent:,} of them "
            f"apart; there the 80 % interval holds {', '.join(changes)}"
        )


class _Forecasts(NamedTuple):
    """Uncalibrated forecasts in each window's spreads, and what came."""

    quantiles: Tensor  # [N, H, M, Q]
    lowest: Tensor  # [N, H, M], NaN where missing, -inf at the lower bound
    highest: Tensor  # [N, H, M], the same, inf at the upper bound


def calibrate(
    forecaster: Forecaster, batches: Iterable[WindowBatch], windows: int, independent: int
) -> CalibrationResult:
    """Calibrate a forecaster in place, replacing any calibration it has.

    Every window is forecast as the server it is and as one never seen: one set of factors serves
    both.

    Args:
        forecaster: in evaluation mode.
        batches: windows it was not trained on.
        windows: how many they are.
        independent: how many of them do not overlap.
    """
    schema, levels = forecaster.schema, forecaster.schema.quantiles
    found = _forecasts(forecaster, batches)
    buckets = horizon_buckets(schema.prediction_horizon, schema.step_seconds)
    factors = fit_gap_factors(
        *found, levels, [(bucket.start, bucket.stop) for bucket in buckets], independent
    )
    after = found._replace(quantiles=scale_gaps(found.quantiles, factors, levels.index(0.5)))
    forecaster.calibration = factors.to(forecaster.quantiles.device)
    before, after_all = (_coverage(each, forecaster) for each in (found, after))
    return CalibrationResult(windows, independent, before, after_all)


@torch.no_grad()
def _forecasts(forecaster: Forecaster, batches: Iterable[WindowBatch]) -> _Forecasts:
    """Forecast all windows twice, with codes and without; on the CPU."""
    lower, upper = forecaster.bounds  # [M] each
    parts = []
    for batch in batches:
        batch = batch.to(forecaster.quantiles.device)
        hidden = batch._replace(static_codes=torch.full_like(batch.static_codes, UNKNOWN_CODE))
        for each in (batch, hidden):
            quantiles, target = forecaster.normalised(each)
            lowest = target.masked_fill(each.future <= lower, -torch.inf)
            highest = target.masked_fill(each.future >= upper, torch.inf)
            parts.append((quantiles.cpu(), lowest.cpu(), highest.cpu()))
    return _Forecasts(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _coverage(found: _Forecasts, forecaster: Forecaster) -> dict[str, float]:
    """Return the share of each observed target's ticks inside the 80 % interval."""
    schema = forecaster.schema
    low, high = (found.quantiles[..., schema.quantiles.index(level)] for level in (0.1, 0.9))
    inside = ((low <= found.highest) & (found.lowest <= high)).sum((0, 1))
    observed = (~found.lowest.isnan()).sum((0, 1))
    return {
        name: float(inside[m] / observed[m])
        for m, name in enumerate(schema.target_names)
        if observed[m] > 0
    }

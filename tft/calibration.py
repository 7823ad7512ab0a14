"""Calibration after training: factors on the gaps between neighbouring quantiles.

Outward from the median, which stays, every gap is widened or narrowed until its quantile lies
where it says on windows that were not trained on; a multiplicative form of conformalized quantile
regression (Romano, Patterson, Candes 2019). Factors are never negative, so quantiles cannot cross.
Conformal prediction's guarantee is not claimed: it asks for exchangeable windows, and those of a
fleet overlap, and come before what is forecast.

N windows, H horizon steps, M targets, Q quantiles.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tft.quantiles import outward

# Misses expected beyond a level that earn its factor half its way from 1. A share counted on that
# many independent misses is uncertain by a fifth of itself.
HALF_TRUSTED_MISSES = 20.0
LARGEST_FACTOR = 10.0  # of a metric that hardly ever moves, gaps may be next to nothing


def scale_gaps(quantiles: Tensor, factors: Tensor, median: int) -> Tensor:
    """Multiply the gaps between neighbouring quantiles, the median staying where it is.

    Args:
        quantiles: [..., Q] ascending.
        factors: [..., Q - 1] of the gaps, at least 0; broadcast against the quantiles.
        median: its place among the Q.
    """
    return outward(quantiles[..., median], quantiles.diff(dim=-1) * factors, median)


def fit_gap_factors(
    forecast: Tensor,
    lowest: Tensor,
    highest: Tensor,
    levels: Sequence[float],
    steps: Sequence[tuple[int, int]],
    independent: float,
) -> Tensor:
    """Find the factors with which every level holds the share it says, shrunk towards 1.

    The target is given twice, as it is compared with a forecast that will be clamped to bounds:
    one at the lower bound lies below any upper quantile, one at the upper bound above any lower.

    Args:
        forecast: [N, H, M, Q] uncalibrated, ascending.
        lowest: [N, H, M] targets in the same unit, NaN where missing, -inf at the lower bound.
        highest: [N, H, M] the same, inf at the upper bound.
        levels: Q levels, the median among them.
        steps: stretches of the horizon, from and to, that share a factor.
        independent: windows of these N that do not overlap.

    Returns:
        [H, M, Q - 1].
    """
    _, H, M, Q = forecast.shape
    median = list(levels).index(0.5)
    factors = forecast.new_ones(H, M, Q - 1)
    sides = ((1, range(median + 1, Q), lowest), (-1, range(median - 1, -1, -1), highest))
    for start, stop in steps:
        for m in range(M):
            for side, places, target in sides:
                seen = ~target[:, start:stop, m].isnan()
                actual = target[:, start:stop, m][seen]  # [ticks]
                columns = forecast[:, start:stop, m][seen].unbind(-1)
                trusted = independent * float(seen.double().mean())
                edge = columns[median]
                for q in places:
                    gap = side * (columns[q] - columns[q - side])
                    beyond = min(levels[q], 1.0 - levels[q])
                    factor = _needed(side * (actual - edge), gap, beyond)
                    factors[start:stop, m, min(q, q - side)] = _shrunk(factor, trusted * beyond)
                    edge = edge + side * factor * gap
    return factors


def _needed(distance: Tensor, gap: Tensor, beyond: float) -> float:
    """Return the smallest factor at which a share of at most `beyond` lies outside the gap.

    Args:
        distance: [ticks] from the gap's inner edge outward, negative inside it.
        gap: [ticks] its width.
        beyond: share that may lie outside.
    """
    if len(distance) == 0:
        return 1.0
    rank = max(1, math.ceil(len(distance) * (1.0 - beyond) - 1e-9))
    ratio = distance / gap.clamp(min=torch.finfo(gap.dtype).tiny)
    return min(max(0.0, float(ratio.kthvalue(rank).values)), LARGEST_FACTOR)


def _shrunk(factor: float, misses: float) -> float:
    """Move a factor towards 1, the farther the fewer independent misses it was told by."""
    return 1.0 + (factor - 1.0) * misses / (misses + HALF_TRUSTED_MISSES)

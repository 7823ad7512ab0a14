"""Whether quantiles lie where they say: counted batch by batch, per metric.

N windows, H horizon steps, M metrics, Q quantiles.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from report.results import Calibration, Interval

FloatArray = npt.NDArray[np.floating[Any]]

POINTS = 10.0  # of a percentage: what operators call close


def symmetric_pairs(quantiles: Sequence[float]) -> list[tuple[int, int]]:
    """Return the positions of levels that lie equally far from both ends, widest first."""
    last = len(quantiles) - 1
    return [
        (low, last - low)
        for low in range(len(quantiles) // 2)
        if abs(quantiles[low] + quantiles[last - low] - 1.0) < 1e-6
    ]


def is_percentage(metric: str) -> bool:
    """Tell whether a metric is in points of a hundred, by its name."""
    return metric.endswith("percent")


class CalibrationSums:
    """Counts of the windows added so far; memory does not grow with them.

    A forecast of an observed actual that is not finite makes its metric's shares NaN, as it does
    its scores.
    """

    def __init__(self, metrics: Sequence[str], quantiles: Sequence[float]) -> None:
        """Start with nothing added; M metric names and Q levels, the median among them."""
        self.metrics, self.quantiles = tuple(metrics), tuple(quantiles)
        self.pairs = symmetric_pairs(quantiles)
        M = len(self.metrics)
        self._observed, self._near = np.zeros(M), np.zeros(M)
        self._below = np.zeros((M, len(self.quantiles)))
        self._inside, self._width = np.zeros((2, M, len(self.pairs)))

    def add(self, forecast: FloatArray, actual: FloatArray) -> None:
        """Add a batch of windows.

        Args:
            forecast: [N, H, M, Q] in raw units.
            actual: [N, H, M], NaN where missing.
        """
        observed = ~np.isnan(actual)
        finite = np.isfinite(forecast).all(axis=-1)
        counted = np.where(observed, np.where(finite, 1.0, np.nan), 0.0)  # [N, H, M]
        forecast = np.where((finite & observed)[..., None], forecast, 0.0)
        value = np.where(observed, actual, 0.0)
        low, high = ([pair[side] for pair in self.pairs] for side in (0, 1))
        below = value[..., None] <= forecast
        inside = (forecast[..., low] <= value[..., None]) & below[..., high]
        width = forecast[..., high] - forecast[..., low]
        near = np.abs(value - forecast[..., self.quantiles.index(0.5)]) <= POINTS
        self._observed += observed.sum((0, 1))
        self._near += (near * counted).sum((0, 1))
        for total, each in ((self._below, below), (self._inside, inside), (self._width, width)):
            total += (each * counted[..., None]).sum((0, 1), dtype=np.float64)

    def rows(self) -> tuple[Calibration, ...]:
        """Return one row per metric; shares are NaN where nothing was observed."""
        count = np.where(self._observed > 0, self._observed, np.nan)
        rows = []
        for m, metric in enumerate(self.metrics):
            intervals = tuple(
                Interval(
                    self.quantiles[low],
                    self.quantiles[high],
                    float(self._inside[m, pair] / count[m]),
                    float(self._width[m, pair] / count[m]),
                )
                for pair, (low, high) in enumerate(self.pairs)
            )
            shares = tuple((self._below[m] / count[m]).tolist())
            near = float(self._near[m] / count[m]) if is_percentage(metric) else None
            rows.append(Calibration(metric, self.quantiles, shares, intervals, near))
        return tuple(rows)

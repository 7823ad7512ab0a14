"""Scores server by server, to find those that are forecast badly.

N windows, H horizon steps, S servers, M metrics, Q quantiles.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.fleet import IntArray
from report.batches import MODEL_NAME
from report.naive import FLAT
from report.results import ServerScores
from report.scores import SCORED_QUANTILES, pick_quantiles, pinball, skill

FloatArray = npt.NDArray[np.floating[Any]]


class ServerSums:
    """Sums of the windows added so far, [S, M], of the model and of the flat forecast."""

    def __init__(
        self, servers: Sequence[str], metrics: Sequence[str], quantiles: Sequence[float]
    ) -> None:
        """Start with nothing added; the fleet's server names, M metric names, Q levels."""
        self.servers, self.metrics, self.quantiles = servers, metrics, quantiles
        shape = (len(servers), len(metrics))
        self._loss = {name: np.zeros(shape) for name in (MODEL_NAME, FLAT)}
        self._absolute, self._observed = np.zeros((2, *shape))
        self._windows = np.zeros(len(servers), dtype=np.int64)

    def add(
        self, server: IntArray, forecasts: Mapping[str, FloatArray], actual: FloatArray
    ) -> None:
        """Add a batch of windows.

        Args:
            server: [N] server numbers.
            forecasts: by forecaster [N, H, M, Q]; others than the model and the flat are ignored.
            actual: [N, H, M], NaN where missing.
        """
        observed = ~np.isnan(actual)
        np.add.at(self._windows, server, 1)
        np.add.at(self._observed, server, observed.sum(axis=1))
        np.add.at(self._absolute, server, np.where(observed, np.abs(actual), 0.0).sum(axis=1))
        for name, total in self._loss.items():
            forecast = pick_quantiles(forecasts[name], self.quantiles)
            loss = pinball(forecast, actual, SCORED_QUANTILES).mean(axis=-1)  # [N, H, M]
            loss = np.where(np.isfinite(forecast).all(axis=-1), loss, np.nan)
            np.add.at(total, server, np.where(observed, loss, 0.0).sum(axis=1))

    def rows(self, known: Collection[str]) -> tuple[ServerScores, ...]:
        """Return a row per server with a window, in the fleet's order.

        Args:
            known: names of the servers trained on.
        """
        weight = np.where(self._absolute > 0, self._absolute, np.nan)
        wql = {name: 2.0 * loss / weight for name, loss in self._loss.items()}  # [S, M]
        rows = []
        for s in np.flatnonzero(self._windows).tolist():
            scored = self._absolute[s] > 0  # a metric that was all zero has no weighted loss
            mean = {
                name: float(each[s, scored].mean()) if scored.any() else float("nan")
                for name, each in wql.items()
            }
            ranked = np.where(np.isnan(wql[MODEL_NAME][s]), -np.inf, wql[MODEL_NAME][s])
            rows.append(
                ServerScores(
                    server=self.servers[s],
                    new=self.servers[s] not in known,
                    windows=int(self._windows[s]),
                    observed=int(self._observed[s].sum()),
                    wql=mean[MODEL_NAME],
                    flat_wql=mean[FLAT],
                    worst_metric=self.metrics[int(ranked.argmax())] if scored.any() else "",
                )
            )
        return tuple(rows)


def worst_by_loss(servers: Sequence[ServerScores], most: int) -> list[ServerScores]:
    """Return the servers with the highest weighted quantile loss, worst first."""
    scored = [each for each in servers if np.isfinite(each.wql)]
    return sorted(scored, key=lambda each: -each.wql)[:most]


def worst_by_skill(servers: Sequence[ServerScores], most: int) -> list[ServerScores]:
    """Return the servers that gain least over the flat forecast, or lose most, worst first."""
    scored = [each for each in servers if np.isfinite(skill(each.wql, each.flat_wql))]
    return sorted(scored, key=lambda each: skill(each.wql, each.flat_wql))[:most]

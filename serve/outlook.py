"""What the service knows of the hours ahead: one immutable `Outlook` per tick, shared by readers.

S servers, H horizon steps, M target metrics, Q quantiles.
"""

from dataclasses import dataclass
from enum import StrEnum

from data.fleet import FloatArray, IntArray


class Status(StrEnum):
    """What a server's entry in an outlook is."""

    FORECAST = "forecast"
    COLD_START = "cold_start"
    """Less history than any training window had, or mostly gaps: no number is given."""
    REFUSED = "refused"
    """Nothing to forecast from, or a forecast that is not finite; the reason says which."""


@dataclass(frozen=True)
class ModelIdentity:
    """Which model made a number."""

    hash: str
    """First 12 hex digits of the sha256 of its weights."""
    trained_until: int
    """Unix seconds of the first tick after every training window; 0 if unknown."""


@dataclass(frozen=True)
class Outlook:
    """The forecast of a whole fleet, as of the last tick received from each server."""

    model: ModelIdentity
    made_at: float
    """Unix seconds, by the service's clock."""
    step_seconds: int
    metrics: tuple[str, ...]
    """Names of the target metrics."""
    levels: tuple[float, ...]
    """Quantile levels, ascending."""
    servers: tuple[str, ...]
    """Sorted."""
    profiles: tuple[str | None, ...]
    status: tuple[Status, ...]
    reasons: tuple[str | None, ...]
    """Why a server has no forecast; None where it has one."""
    origin: IntArray  # [S] absolute ticks, the first forecast: the one after the last received
    quantiles: FloatArray  # [S, H, M, Q] raw units, NaN where the status is not FORECAST
    latest: FloatArray  # [S, M] raw units: values in each server's last tick, NaN where missing
    thresholds: FloatArray  # [S, M] raw units, NaN where a metric is not watched
    chance: FloatArray  # [S, H, M] of being at or over the threshold at each step, NaN as above
    revisions: tuple[int, ...] = ()
    """Of each server's history, as the state counts them: what changed since is forecast anew."""

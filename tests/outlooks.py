"""Outlooks as a test needs them: every forecast is chosen, nothing is computed."""

from collections.abc import Sequence

import numpy as np

from report.early_warning.crossing import exceedance
from serve.outlook import ModelIdentity, Outlook, Status
from tft.schema import FeatureSchema, Metric

SCHEMA = FeatureSchema(
    targets=(Metric("cpu_percent", 0.0, 100.0), Metric("load_average", 0.0)),
    profiles=("database", "web_api"),
)
STEP, H = SCHEMA.step_seconds, SCHEMA.prediction_horizon
ORIGIN = 5_890_000  # of the first outlook: a tick in January 2026
MODEL = ModelIdentity("0123456789ab", 5_880_000 * STEP)
# A quantile is 1 over the next lower one: a median of 90 reaches 90.5 with probability 0.375.
SPREADS = np.linspace(-3.0, 3.0, len(SCHEMA.quantiles), dtype=np.float32)
CALM = 50.0


def spike(value: float, ahead: int = 24) -> np.ndarray:
    """Return medians [H] that are calm, but at a value in the one tick so many ahead."""
    return np.where(np.arange(1, H + 1) == ahead, value, CALM)


def make_outlook(
    cpu: Sequence[np.ndarray],
    tick: int = 0,
    *,
    servers: Sequence[str] | None = None,
    behind: Sequence[int] | None = None,
    status: Sequence[Status] | None = None,
    ceiling: float = 90.0,
    load_ceiling: float = np.nan,
) -> Outlook:
    """Return what is forecast of servers at a tick, counted from ORIGIN.

    Args:
        cpu: medians [H] of each server; the load average is always 1.
        tick: of the fleet; the outlook is made as it ends.
        servers: names; a, b, c without.
        behind: ticks that each server has not reported.
        status: FORECAST without.
        ceiling: of every server's cpu.
        load_ceiling: of every server's load.
    """
    S = len(cpu)
    status = tuple(status or [Status.FORECAST] * S)
    late = np.array(behind or [0] * S)
    medians = np.stack([np.stack([each, np.ones(H)], axis=1) for each in cpu])  # [S, H, M]
    quantiles = (medians[..., None] + SPREADS).astype(np.float32)
    quantiles[[each is not Status.FORECAST for each in status]] = np.nan
    thresholds = np.tile(np.array([ceiling, load_ceiling], np.float32), (S, 1))
    return Outlook(
        model=MODEL,
        made_at=float((ORIGIN + tick) * STEP),
        step_seconds=STEP,
        metrics=SCHEMA.target_names,
        levels=SCHEMA.quantiles,
        servers=tuple(servers or "abcdefgh"[:S]),
        profiles=(None,) * S,
        status=status,
        reasons=tuple(None if each is Status.FORECAST else "why" for each in status),
        origin=ORIGIN + tick - late,
        quantiles=quantiles,
        latest=medians[:, 0].astype(np.float32),
        thresholds=thresholds,
        chance=exceedance(quantiles, SCHEMA.quantiles, thresholds[:, None]).astype(np.float32),
    )

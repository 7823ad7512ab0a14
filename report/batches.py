"""Forecasts of the model and of every naive method for the same windows, batch by batch.

N windows, H horizon steps, M metrics, Q quantiles.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.fleet import Fleet, IntArray
from data.windows import WindowStore
from report.naive import NAIVE_FORECASTS, yesterdays_values
from report.scores import comparable
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

FloatArray = npt.NDArray[np.floating[Any]]

MODEL_NAME = "tft"
UNCALIBRATED = "tft_uncalibrated"  # the model without its calibration, where it has one
BATCH_SIZE = 256


class JudgedBatch(NamedTuple):
    """Some windows' forecasts, and what came."""

    windows: slice  # which of the windows asked for
    forecasts: dict[str, FloatArray]  # by forecaster, the model first, [N, H, M, Q] in raw units
    actual: FloatArray  # [N, H, M], NaN where missing or unknowable to a naive forecast
    yesterday: FloatArray  # [N, H, M], each tick's value a day before, NaN where missing
    seconds: dict[str, float]  # by forecaster, time to forecast these windows


def judged_batches(
    forecaster: Forecaster, fleet: Fleet, server: IntArray, origin: IntArray
) -> Iterator[JudgedBatch]:
    """Forecast windows with the model, calibrated and not if it is, and every naive method.

    An actual counts where every naive forecast could know something. The model has no say in it:
    what it passes on makes its score NaN.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        server: [W] server numbers.
        origin: [W] absolute ticks, the first to forecast.
    """
    schema, device = forecaster.schema, forecaster.quantiles.device
    M, H, levels = len(schema.targets), schema.prediction_horizon, schema.quantiles
    store = WindowStore(fleet, schema, device, forecaster.facts.servers)
    past_days, day = naive_store(fleet, schema), schema.day_ticks
    for start in range(0, len(server), BATCH_SIZE):
        part = slice(start, min(start + BATCH_SIZE, len(server)))
        batch = store.gather(server[part], origin[part])
        naive_batch = past_days.gather(server[part], origin[part])
        history = naive_batch.past[:, :, :M].numpy()
        clock = time.perf_counter()
        forecasts = {MODEL_NAME: forecaster.forecast(batch).cpu().numpy()}
        seconds = {MODEL_NAME: time.perf_counter() - clock}
        if forecaster.calibration is not None:
            clock = time.perf_counter()
            forecasts[UNCALIBRATED] = forecaster.forecast(batch, calibrated=False).cpu().numpy()
            seconds[UNCALIBRATED] = time.perf_counter() - clock
        for name, naive in NAIVE_FORECASTS.items():
            clock = time.perf_counter()
            forecasts[name] = naive(history, H, levels, day)
            seconds[name] = time.perf_counter() - clock
        known = (forecasts[name] for name in NAIVE_FORECASTS)
        actual = comparable(naive_batch.future.numpy(), *known)
        yield JudgedBatch(part, forecasts, actual, yesterdays_values(history, H, day), seconds)


def naive_store(fleet: Fleet, schema: FeatureSchema) -> WindowStore:
    """Store windows with a day of history at least.

    Naive forecasts are named for a day: a forecaster of less context must not lower the bar. On
    the CPU the store shares the fleet's series.
    """
    ticks = max(schema.context_length, schema.day_ticks)
    return WindowStore(fleet, replace(schema, context_length=ticks, days_before=1))

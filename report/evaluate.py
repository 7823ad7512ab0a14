"""Judge a forecaster beside naive forecasts, on windows it was not trained on."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.fleet import Fleet, IntArray
from data.loaders import EvalLoader
from data.splits import spread_evenly
from data.windows import WindowIndex, WindowStore, index_windows
from report.examples import FAN_SERVERS, choose_examples, fan_panels
from report.naive import NAIVE_FORECASTS, yesterdays_values
from report.plots import fan_chart
from report.scores import ScoreSums, comparable
from report.text import EvaluationReport, ForecasterScores
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

MODEL_NAME = "tft"
BATCH_SIZE = 256


class HeldOut(NamedTuple):
    """Windows to judge on."""

    windows: WindowIndex
    known: int  # servers trained on
    new: int  # servers never trained on


class WindowScores(NamedTuple):
    """What scoring windows gave."""

    forecasters: tuple[ForecasterScores, ...]
    not_finite: int  # observed target ticks for which the model forecast NaN or infinity


def held_out_windows(fleet: Fleet, forecaster: Forecaster, end: int | None = None) -> HeldOut:
    """List windows no target tick of which was trained on.

    Of servers that were trained on, those after the training's last tick; of others, all.

    Args:
        fleet: read with the forecaster's schema.
        forecaster: knows what it was trained on.
        end: the tick after a fold's validation part; only windows of that part then, whether a
            server was trained on or not. None: no such limit.

    Raises:
        ValueError: there is none.
    """
    schema, facts = forecaster.schema, forecaster.facts
    trained = set(facts.servers)
    seen = np.array([name in trained for name in fleet.servers])
    begin = None if end is None else facts.end_tick
    parts = [
        index_windows(fleet, schema, facts.end_tick, end, servers=np.flatnonzero(seen)),
        index_windows(fleet, schema, begin, end, servers=np.flatnonzero(~seen)),
    ]
    index = WindowIndex(
        np.concatenate([part.server for part in parts]),
        np.concatenate([part.first_origin for part in parts]),
        np.concatenate([parts[0].ends, len(parts[0]) + parts[1].ends]),
    )
    if len(index) == 0:
        since = iso_time(facts.end_tick, schema)
        raise ValueError(
            f"no window to evaluate: servers trained on ({int(seen.sum())}) need "
            f"{schema.prediction_horizon} ticks after {since}, where training ended, and others "
            f"{schema.min_context_length} + {schema.prediction_horizon} ticks; bring later data"
        )
    known, new = (len(np.unique(part.server)) for part in parts)
    return HeldOut(index, known, new)


def evaluate(
    forecaster: Forecaster,
    fleet: Fleet,
    run_name: str,
    data_name: str,
    windows: int | None = 2048,
    progress: Callable[[float], None] | None = None,
    end: int | None = None,
) -> EvaluationReport:
    """Score the forecaster and every naive forecast on the same windows.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        run_name: for the report.
        data_name: for the report, without a folder.
        windows: most windows, evenly spaced; None: all of them.
        progress: called with the fraction done.
        end: judge a fold's validation part only, up to this tick; see `held_out_windows`.

    Raises:
        ValueError: there is nothing to evaluate on.
    """
    started = time.monotonic()
    schema = forecaster.schema
    held_out = held_out_windows(fleet, forecaster, end)
    chosen = spread_evenly(len(held_out.windows), windows)
    scores = _score_windows(forecaster, fleet, held_out.windows, chosen, progress)
    _, origins = held_out.windows.lookup(chosen)
    return EvaluationReport(
        run=run_name,
        data=data_name,
        servers_known=held_out.known,
        servers_new=held_out.new,
        windows=len(chosen),
        not_finite=scores.not_finite,
        first_origin=iso_time(int(origins.min()), schema),
        last_origin=iso_time(int(origins.max()), schema),
        step_seconds=schema.step_seconds,
        horizon=schema.prediction_horizon,
        forecasters=scores.forecasters,
        seconds=time.monotonic() - started,
    )


def _score_windows(
    forecaster: Forecaster,
    fleet: Fleet,
    index: WindowIndex,
    chosen: IntArray,
    progress: Callable[[float], None] | None,
) -> WindowScores:
    """Score every forecaster on the chosen windows of an index.

    An actual counts where every naive forecast could know something. The model has no say in it:
    what it passes on makes its score NaN.
    """
    schema, device = forecaster.schema, forecaster.quantiles.device
    store = WindowStore(fleet, schema, device, forecaster.facts.servers)
    loader = EvalLoader(store, index, chosen, BATCH_SIZE)
    naive_loader = EvalLoader(naive_store(fleet, schema), index, chosen, BATCH_SIZE)
    names = [MODEL_NAME, *NAIVE_FORECASTS]
    M, H, levels = len(schema.targets), schema.prediction_horizon, schema.quantiles
    sums = {name: ScoreSums(schema.target_names, levels, H, schema.step_seconds) for name in names}
    seconds, not_finite, day = dict.fromkeys(names, 0.0), 0, ticks_per_day(schema)
    for number, (batch, naive_batch) in enumerate(zip(loader, naive_loader, strict=True), 1):
        clock = time.monotonic()
        forecasts = {MODEL_NAME: forecaster.forecast(batch).cpu().numpy()}
        seconds[MODEL_NAME] += time.monotonic() - clock
        history = naive_batch.past[:, :, :M].numpy()
        for name, naive in NAIVE_FORECASTS.items():
            clock = time.monotonic()
            forecasts[name] = naive(history, H, levels, day)
            seconds[name] += time.monotonic() - clock
        actual = comparable(
            naive_batch.future.numpy(), *(forecasts[name] for name in NAIVE_FORECASTS)
        )
        finite = np.isfinite(forecasts[MODEL_NAME]).all(axis=-1)  # [N, H, M]
        not_finite += int((~finite & ~np.isnan(actual)).sum())
        yesterday = yesterdays_values(history, H, day)
        for name, forecast in forecasts.items():
            sums[name].add(forecast, actual, yesterday)
        if progress is not None:
            progress(number / len(loader))
    rows = (
        ForecasterScores(name, sums[name].rows(), sums[name].bucket_rows(), seconds[name])
        for name in names
    )
    return WindowScores(tuple(rows), not_finite)


def naive_store(fleet: Fleet, schema: FeatureSchema) -> WindowStore:
    """Store windows with a day of history at least.

    Naive forecasts are named for a day: a forecaster of less context must not lower the bar. On
    the CPU the store shares the fleet's series.
    """
    ticks = max(schema.context_length, ticks_per_day(schema))
    return WindowStore(fleet, replace(schema, context_length=ticks))


def ticks_per_day(schema: FeatureSchema) -> int:
    """Return the ticks in a day."""
    return 86_400 // schema.step_seconds


def draw_examples(
    forecaster: Forecaster, fleet: Fleet, path: Path, title: str, servers: int = FAN_SERVERS
) -> None:
    """Draw the latest forecast whose future is known, for a few servers and up to four metrics."""
    device, known = forecaster.quantiles.device, forecaster.facts.servers
    store = WindowStore(fleet, forecaster.schema, device, known)
    index = held_out_windows(fleet, forecaster).windows
    fan_chart(path, fan_panels(forecaster, choose_examples(fleet, store, index, servers)), title)


def iso_time(tick: int, schema: FeatureSchema) -> str:
    """Write a tick as UTC time, RFC 3339."""
    moment = datetime.fromtimestamp(tick * schema.step_seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

"""Judge a forecaster beside naive forecasts, on windows it was not trained on."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.fleet import Fleet
from data.loaders import EvalLoader
from data.splits import spread_evenly
from data.windows import WindowIndex, WindowStore, index_windows
from report.naive import NAIVE_FORECASTS, yesterdays_values
from report.plots import FanPanel, fan_chart
from report.scores import ScoreSums, comparable
from report.text import EvaluationReport, ForecasterScores
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

MODEL_NAME = "tft"
BATCH_SIZE = 256
FAN_SERVERS = 3


class HeldOut(NamedTuple):
    """Windows to judge on."""

    windows: WindowIndex
    known: int  # servers trained on
    new: int  # servers never trained on


def held_out_windows(fleet: Fleet, forecaster: Forecaster) -> HeldOut:
    """List windows no target tick of which was trained on.

    Of servers that were trained on, those after the training's last tick; of others, all.

    Raises:
        ValueError: there is none.
    """
    schema, facts = forecaster.schema, forecaster.facts
    trained = set(facts.servers)
    seen = np.array([name in trained for name in fleet.servers])
    parts = [
        index_windows(fleet, schema, facts.end_tick, servers=np.flatnonzero(seen)),
        index_windows(fleet, schema, servers=np.flatnonzero(~seen)),
    ]
    index = WindowIndex(
        np.concatenate([part.server for part in parts]),
        np.concatenate([part.first_origin for part in parts]),
        np.concatenate([parts[0].ends, len(parts[0]) + parts[1].ends]),
    )
    if len(index) == 0:
        end = iso_time(facts.end_tick, schema)
        raise ValueError(
            f"no window to evaluate: the {int(seen.sum())} servers trained on need "
            f"{schema.prediction_horizon} ticks after {end}, where training ended, and others "
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
) -> EvaluationReport:
    """Score the forecaster and every naive forecast on the same windows.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        run_name: for the report.
        data_name: for the report, without a folder.
        windows: most windows, evenly spaced; None: all of them.
        progress: called with the fraction done.

    Raises:
        ValueError: there is nothing to evaluate on.
    """
    started = time.monotonic()
    schema = forecaster.schema
    held_out = held_out_windows(fleet, forecaster)
    chosen = spread_evenly(len(held_out.windows), windows)
    store = WindowStore(fleet, schema, forecaster.quantiles.device, forecaster.facts.servers)
    loader = EvalLoader(store, held_out.windows, chosen, BATCH_SIZE)
    names = [MODEL_NAME, *NAIVE_FORECASTS]
    sums = {
        name: ScoreSums(
            schema.target_names, schema.quantiles, schema.prediction_horizon, schema.step_seconds
        )
        for name in names
    }
    seconds = dict.fromkeys(names, 0.0)
    day, M, H = 86_400 // schema.step_seconds, len(schema.targets), schema.prediction_horizon
    for number, batch in enumerate(loader, 1):
        clock = time.monotonic()
        forecasts = {MODEL_NAME: forecaster.forecast(batch).cpu().numpy()}
        seconds[MODEL_NAME] += time.monotonic() - clock
        history = batch.past[:, :, :M].cpu().numpy()
        for name, naive in NAIVE_FORECASTS.items():
            clock = time.monotonic()
            forecasts[name] = naive(history, H, schema.quantiles, day)
            seconds[name] += time.monotonic() - clock
        actual = comparable(batch.future.cpu().numpy(), *forecasts.values())
        yesterday = yesterdays_values(history, H, day)
        for name, forecast in forecasts.items():
            sums[name].add(forecast, actual, yesterday)
        if progress is not None:
            progress(number / len(loader))
    _, origins = held_out.windows.lookup(chosen)
    return EvaluationReport(
        run=run_name,
        data=data_name,
        servers_known=held_out.known,
        servers_new=held_out.new,
        windows=len(chosen),
        first_origin=iso_time(int(origins.min()), schema),
        last_origin=iso_time(int(origins.max()), schema),
        step_seconds=schema.step_seconds,
        horizon=H,
        forecasters=tuple(
            ForecasterScores(name, sums[name].rows(), sums[name].bucket_rows(), seconds[name])
            for name in names
        ),
        seconds=time.monotonic() - started,
    )


def draw_examples(
    forecaster: Forecaster, fleet: Fleet, path: Path, title: str, servers: int = FAN_SERVERS
) -> None:
    """Draw the latest forecast whose future is known, for a few servers and up to four metrics."""
    schema = forecaster.schema
    index = held_out_windows(fleet, forecaster).windows
    last_run = np.flatnonzero(np.diff(index.server, append=-1))  # each server's latest origins
    runs = last_run[spread_evenly(len(last_run), servers)]
    store = WindowStore(fleet, schema, forecaster.quantiles.device, forecaster.facts.servers)
    server, origin = index.lookup(index.ends[runs] - 1)
    batch = store.gather(server, origin)
    forecast = forecaster.forecast(batch).cpu().numpy()
    past, future = batch.past.cpu().numpy(), batch.future.cpu().numpy()
    panels = [
        FanPanel(
            server=fleet.servers[server[row]],
            metric=metric,
            origin_seconds=int(origin[row]) * schema.step_seconds,
            step_seconds=schema.step_seconds,
            history=past[row, :, column],
            forecast=forecast[row, :, column],
            quantiles=schema.quantiles,
            actual=future[row, :, column],
            log_scale=_spans_decades(past[:, :, column]),
        )
        for column, metric in enumerate(schema.target_names[:4])
        for row in range(len(server))
    ]
    fan_chart(path, panels, title)


def _spans_decades(values: np.ndarray) -> bool:
    """Tell whether bursts would hide everything else on a linear axis."""
    seen = np.abs(values[np.isfinite(values)])
    return bool(seen.size) and bool(seen.max() > 50 * max(float(np.median(seen)), 1e-9))


def iso_time(tick: int, schema: FeatureSchema) -> str:
    """Write a tick as UTC time, RFC 3339."""
    moment = datetime.fromtimestamp(tick * schema.step_seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

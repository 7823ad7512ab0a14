"""Judge a forecaster beside naive forecasts, on windows it was not trained on."""

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from data.fleet import BoolArray, Fleet, IntArray
from data.splits import spread_evenly
from data.windows import WindowIndex, WindowStore, index_windows
from report.batches import BATCH_SIZE, MODEL_NAME, judged_batches
from report.calibration import CalibrationSums
from report.examples import FAN_SERVERS, choose_examples, fan_panels
from report.groups import GroupSums, ValidationPart, merged
from report.plots import fan_figure
from report.results import (
    Calibration,
    EvaluationReport,
    ForecasterScores,
    GroupScores,
    Latency,
    ServerScores,
)
from report.servers import ServerSums
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema


class HeldOut(NamedTuple):
    """Windows to judge on."""

    windows: WindowIndex
    known: int  # servers trained on
    new: int  # servers never trained on


class WindowScores(NamedTuple):
    """What scoring windows gave."""

    forecasters: tuple[ForecasterScores, ...]
    calibration: tuple[Calibration, ...]
    groups: tuple[GroupScores, ...]
    servers: tuple[ServerScores, ...]
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
    validation: ValidationPart | None = None,
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
        validation: what chose the best epoch, told apart then; None: nobody knows.

    Raises:
        ValueError: there is nothing to evaluate on.
    """
    started = time.monotonic()
    schema = forecaster.schema
    held_out = held_out_windows(fleet, forecaster, end)
    server, origin = held_out.windows.lookup(spread_evenly(len(held_out.windows), windows))
    found = _score_windows(forecaster, fleet, server, origin, validation, progress)
    return EvaluationReport(
        run=run_name,
        data=data_name,
        servers_known=held_out.known,
        servers_new=held_out.new,
        windows=len(server),
        not_finite=found.not_finite,
        first_origin=iso_time(int(origin.min()), schema),
        last_origin=iso_time(int(origin.max()), schema),
        step_seconds=schema.step_seconds,
        horizon=schema.prediction_horizon,
        forecasters=found.forecasters,
        calibration=found.calibration,
        groups=found.groups,
        servers=found.servers,
        seconds=time.monotonic() - started,
    )


def _score_windows(
    forecaster: Forecaster,
    fleet: Fleet,
    server: IntArray,
    origin: IntArray,
    validation: ValidationPart | None,
    progress: Callable[[float], None] | None,
) -> WindowScores:
    """Score every forecaster on windows of these servers and origins, [W] each."""
    schema, known = forecaster.schema, forecaster.facts.servers
    names, levels = schema.target_names, schema.quantiles
    calibration = CalibrationSums(names, levels)
    by_server = ServerSums(fleet.servers, names, levels)
    kinds = _kinds(fleet, forecaster, server, origin, validation)
    groups = {kind: GroupSums(schema, *kind) for kind in kinds}
    seconds: dict[str, float] = {}
    not_finite = 0
    for batch in judged_batches(forecaster, fleet, server, origin):
        forecast, of_batch = batch.forecasts[MODEL_NAME], server[batch.windows]
        finite = np.isfinite(forecast).all(axis=-1)  # [N, H, M]
        not_finite += int((~finite & ~np.isnan(batch.actual)).sum())
        calibration.add(forecast, batch.actual)
        by_server.add(of_batch, batch.forecasts, batch.actual)
        for kind, members in kinds.items():
            groups[kind].add(batch, of_batch, members[batch.windows])
        for name, spent in batch.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + spent
        if progress is not None:
            progress(batch.windows.stop / len(server))
    return WindowScores(
        forecasters=tuple(
            ForecasterScores(name, sums.rows(), sums.bucket_rows(), seconds[name])
            for name, sums in merged(schema, groups.values()).items()
        ),
        calibration=calibration.rows(),
        groups=tuple(group.result() for group in groups.values()),
        servers=by_server.rows(known),
        not_finite=not_finite,
    )


def _kinds(
    fleet: Fleet,
    forecaster: Forecaster,
    server: IntArray,
    origin: IntArray,
    validation: ValidationPart | None,
) -> dict[tuple[bool, bool | None], BoolArray]:
    """Tell windows [W] apart: of new servers or not; of the validation part, not, or who knows.

    Only kinds that exist are returned, held out ones first.
    """
    trained = set(forecaster.facts.servers)
    new = np.array([name not in trained for name in fleet.servers])[server]
    if validation is None:
        masks: dict[tuple[bool, bool | None], BoolArray] = {(False, None): ~new, (True, None): new}
    else:
        horizon = forecaster.schema.prediction_horizon
        chose = validation.overlaps(fleet, server, origin, horizon)
        masks = {
            (False, False): ~new & ~chose,
            (False, True): ~new & chose,
            (True, False): new & ~chose,
            (True, True): new & chose,
        }
    return {kind: members for kind, members in masks.items() if members.any()}


def measure_latency(
    forecaster: Forecaster, fleet: Fleet, report: EvaluationReport, repeats: int = 20
) -> Latency:
    """Time single forecasts, beside the throughput that an evaluation already saw.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        report: of both.
        repeats: single forecasts, after three that warm up.
    """
    device = forecaster.quantiles.device
    store = WindowStore(fleet, forecaster.schema, device, forecaster.facts.servers)
    index = held_out_windows(fleet, forecaster).windows
    window = store.gather(*index.lookup(np.array([len(index) - 1])))
    times = []
    for _ in range(3 + repeats):
        clock = time.perf_counter()
        forecaster.forecast(window).cpu()  # waits for the device
        times.append(time.perf_counter() - clock)
    cuda = device.type == "cuda"
    return Latency(
        device=torch.cuda.get_device_name(device) if cuda else device.type,
        threads=torch.get_num_threads(),
        batch_size=min(BATCH_SIZE, report.windows),
        windows_per_second=report.windows / report.model.seconds,
        one_window_ms=1000 * statistics.median(times[3:]),
    )


def example_figure(
    forecaster: Forecaster, fleet: Fleet, title: str, servers: int = FAN_SERVERS
) -> Figure:
    """Draw the latest forecast whose future is known, for a few servers and up to four metrics."""
    device, known = forecaster.quantiles.device, forecaster.facts.servers
    store = WindowStore(fleet, forecaster.schema, device, known)
    index = held_out_windows(fleet, forecaster).windows
    return fan_figure(fan_panels(forecaster, choose_examples(fleet, store, index, servers)), title)


def iso_time(tick: int, schema: FeatureSchema) -> str:
    """Write a tick as UTC time, RFC 3339."""
    moment = datetime.fromtimestamp(tick * schema.step_seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

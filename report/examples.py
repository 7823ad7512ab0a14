"""A few windows to draw: the same servers' forecasts, epoch after epoch or after training.

B batch, T context, H horizon, M targets, Q quantiles.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from data.fleet import Fleet
from data.splits import spread_evenly
from data.windows import WindowIndex, WindowStore
from report.weights import selection_weights, variable_names
from tft.batch import WindowBatch
from tft.forecaster import Forecaster

if TYPE_CHECKING:  # it imports matplotlib, which only drawing needs
    from report.plots import FanPanel

FAN_SERVERS = 3


class Examples(NamedTuple):
    """Windows whose forecasts are drawn."""

    batch: WindowBatch  # [B] windows, on the device of the store they come from
    servers: tuple[str, ...]  # [B] names
    origins: tuple[int, ...]  # [B] Unix seconds of the first forecast tick


def choose_examples(
    fleet: Fleet, store: WindowStore, index: WindowIndex, servers: int = FAN_SERVERS
) -> Examples:
    """Take the latest window of a few servers, evenly spread over those that have one.

    Args:
        fleet: the servers' names.
        store: of this fleet.
        index: windows to choose from, at least one.
        servers: most servers.
    """
    last_run = np.flatnonzero(np.diff(index.server, append=-1))  # each server's latest origins
    runs = last_run[spread_evenly(len(last_run), servers)]
    server, origin = index.lookup(index.ends[runs] - 1)
    return Examples(
        batch=store.gather(server, origin),
        servers=tuple(fleet.servers[number] for number in server),
        origins=tuple(int(tick) * fleet.step_seconds for tick in origin),
    )


def fan_panels(forecaster: Forecaster, examples: Examples) -> "list[FanPanel]":
    """Forecast the examples' first four metrics.

    Args:
        forecaster: in evaluation mode.
        examples: on any device.

    Returns:
        A panel per metric and server, in this order, with what came after.
    """
    from report.plots import MOST_ROWS, FanPanel

    schema = forecaster.schema
    batch = examples.batch.to(forecaster.quantiles.device)
    forecast = forecaster.forecast(batch).cpu().numpy()  # [B, H, M, Q]
    past, future = batch.past.cpu().numpy(), batch.future.cpu().numpy()
    return [
        FanPanel(
            server=server,
            metric=metric,
            origin_seconds=origin,
            step_seconds=schema.step_seconds,
            history=past[row, :, column],
            forecast=forecast[row, :, column],
            quantiles=schema.quantiles,
            actual=future[row, :, column],
            log_scale=_spans_decades(past[:, :, column]),
        )
        for column, metric in enumerate(schema.target_names[:MOST_ROWS])
        for row, (server, origin) in enumerate(zip(examples.servers, examples.origins, strict=True))
    ]


def mean_selection_weights(
    forecaster: Forecaster, examples: Examples
) -> dict[str, dict[str, float]]:
    """Say how much of what the network reads of the examples is which variable.

    Args:
        forecaster: in evaluation mode.
        examples: on any device.

    Returns:
        Of past, future and static inputs each variable's selection weight, averaged over ticks,
        then windows; each group's sum to 1. Ticks before a series began do not count.
    """
    batch = examples.batch.to(forecaster.quantiles.device)
    T = batch.past.shape[1]
    begun = torch.arange(T) >= T - batch.history_length[:, None]  # [B, T]
    output = forecaster.explain(batch, return_weights=True)
    weights = iter(selection_weights(begun.to(batch.past.device), output).mean(0).tolist())
    names = variable_names(forecaster.schema)
    return {group: {name: next(weights) for name in names[group]} for group in names}


def _spans_decades(values: np.ndarray) -> bool:
    """Tell whether bursts would hide everything else on a linear axis."""
    seen = np.abs(values[np.isfinite(values)])
    return bool(seen.size) and bool(seen.max() > 50 * max(float(np.median(seen)), 1e-9))

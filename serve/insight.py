"""What the forecast of one server looked at: weights of the inputs, attention by lag.

They are what the network did for this one forecast. They say nothing of causes, nor of what the
forecast would lose without an input: `cli.py explain` measures that on many windows.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.fleet import Fleet
from data.windows import WindowStore
from report.weights import history_by_lag, selection_weights, share_on_history, variable_names
from serve.engine import Verdict, judge, judge_forecast, origins
from serve.outlook import Status
from tft.forecaster import Forecaster


class NoForecastError(ValueError):
    """A server was asked about that has no forecast; the message says why."""


class Weight(NamedTuple):
    """An input's share of what was selected from its group."""

    variable: str
    weight: float  # 0 to 1


class Look(NamedTuple):
    """How much a tick of history was looked at, by how long before the forecast step it is."""

    lag_minutes: float
    weight: float  # 1: as much as the step's ticks of history get on average


@dataclass(frozen=True)
class Insight:
    """What one forecast looked at; weights of a group sum to 1, the heaviest first."""

    server: str
    origin: int
    """Absolute tick, the first forecast."""
    past: tuple[Weight, ...]
    """Mean over the ticks of history that hold a value."""
    future: tuple[Weight, ...]
    """Mean over the horizon."""
    static: tuple[Weight, ...]
    attention: tuple[Look, ...]
    """Mean over the steps of the horizon that could look back so far."""
    on_history: float
    """Share of the attention on the history; the rest is on the horizon's own steps."""


def explain_server(forecaster: Forecaster, fleet: Fleet, server: str, now: float) -> Insight:
    """Forecast a server's latest window, and tell what was looked at.

    Args:
        forecaster: in evaluation mode.
        fleet: with the forecaster's columns; holds the server.
        server: its name.
        now: Unix seconds; see `serve.engine.judge`.

    Raises:
        NoForecastError: the server has no forecast; the message says why.
    """
    schema, number = forecaster.schema, fleet.servers.index(server)
    verdict = judge(fleet, schema, now)[number]
    _refuse(server, verdict)
    origin = origins(fleet)[[number]]
    store = WindowStore(fleet, schema, "cpu", forecaster.facts.servers)
    batch = store.gather(np.array([number]), origin).to(forecaster.quantiles.device)
    output = forecaster.explain(batch, return_weights=True)
    _refuse(server, judge_forecast(output.quantiles[0].cpu().numpy(), schema))
    assert output.attention is not None and output.even is not None
    seen = batch.past.isfinite().any(-1)  # [1, T], as `Forecaster.encode` has it
    weights = iter(selection_weights(seen, output)[0].tolist())
    groups = {
        group: tuple(sorted((Weight(name, next(weights)) for name in names), key=_lightest_last))
        for group, names in variable_names(schema).items()
    }
    sums, pairs = history_by_lag(output.attention, output.even)  # [1, L]
    by_lag = (sums / pairs)[0].double().cpu().numpy()  # NaN where no step could look
    looked = np.flatnonzero(np.isfinite(by_lag))
    minutes = looked * schema.step_seconds / 60
    return Insight(
        server=server,
        origin=int(origin[0]),
        **groups,
        attention=tuple(map(Look, minutes.tolist(), by_lag[looked].tolist())),
        on_history=float(share_on_history(seen, output.attention)[0, 0]),
    )


def _lightest_last(each: Weight) -> float:
    return -each.weight


def _refuse(server: str, verdict: Verdict) -> None:
    if verdict.status is not Status.FORECAST:
        raise NoForecastError(f"server {server!r} has no forecast to explain: {verdict.reason}")

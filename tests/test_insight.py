"""What one server's forecast looked at is told by name and by time."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from data.forecasts import latest_origins
from data.windows import WindowStore
from report.weights import variable_names
from serve.insight import Insight, NoForecastError, explain_server
from tests.builders import SCHEMA, small_fleet, tiny_forecaster

T, H, STEP = SCHEMA.context_length, SCHEMA.prediction_horizon, SCHEMA.step_seconds


def insight_of(fleet: Any, server: str = "server1", **other: Any) -> Insight:
    given = {"forecaster": tiny_forecaster(), "now": 0.0}
    return explain_server(fleet=fleet, server=server, **{**given, **other})


def test_weights_are_those_of_the_servers_current_window() -> None:
    fleet, forecaster = small_fleet(), tiny_forecaster()
    read = insight_of(fleet)
    server, origin = latest_origins(fleet, SCHEMA)
    batch = WindowStore(fleet, SCHEMA, known_servers=()).gather(server[[1]], origin[[1]])
    output = forecaster.explain(batch, return_weights=True)
    assert (read.server, read.origin) == ("server1", int(origin[1]))
    assert output.past_weights is not None and output.future_weights is not None
    assert output.static_weights is not None
    for group, expected in (
        ("past", output.past_weights[0].mean(0)),
        ("future", output.future_weights[0].mean(0)),
        ("static", output.static_weights[0]),
    ):
        found = dict(getattr(read, group))
        assert list(found.values()) == sorted(found.values(), reverse=True)
        in_order = [found[name] for name in variable_names(SCHEMA)[group]]
        np.testing.assert_allclose(in_order, expected, rtol=1e-4)
        assert sum(in_order) == pytest.approx(1.0)


def test_attention_is_told_by_minutes_before_the_forecast_step() -> None:
    """A single tick that can be looked at gets it all, from every step of the horizon."""
    fleet, ago, one_is_enough = small_fleet(), 4, replace(SCHEMA, min_context_length=1)
    series = fleet.series(1)
    series[-T:][np.arange(T) != T - ago] = np.nan
    read = insight_of(fleet, forecaster=tiny_forecaster(schema=one_is_enough))
    minutes = [STEP / 60 * (ago + step) for step in range(H)]
    assert [look.lag_minutes for look in read.attention] == minutes
    assert [look.weight for look in read.attention] == pytest.approx([1.0] * H)
    assert 0.0 < read.on_history < 1.0


def test_a_whole_history_is_looked_at_at_every_lag() -> None:
    read = insight_of(small_fleet())
    lags = [look.lag_minutes * 60 / STEP for look in read.attention]
    assert lags == list(range(1, T + H))


@pytest.mark.parametrize(
    ("ticks", "now", "reason"),
    [(3, 0.0, "cold start: 3 ticks"), (60, 1e12, "its whole forecast is of the past")],
)
def test_what_has_no_forecast_has_no_explanation(ticks: int, now: float, reason: str) -> None:
    with pytest.raises(NoForecastError, match=f"'server1' has no forecast to explain: .*{reason}"):
        insight_of(small_fleet((60, ticks)), now=now)


def test_a_forecast_that_is_not_finite_is_not_explained() -> None:
    forecaster = tiny_forecaster()
    with torch.no_grad():
        forecaster.normaliser.spread_floor.fill_(torch.inf)
    with pytest.raises(NoForecastError, match="not finite"):
        insight_of(small_fleet(), forecaster=forecaster)

"""Scores of each server are those of its windows alone, and the worst are found."""

import math

import numpy as np
import pytest

from report.results import ServerScores
from report.scores import ScoreSums
from report.servers import ServerSums, worst_by_loss, worst_by_skill

LEVELS = (0.1, 0.5, 0.9)
METRICS = ("cpu", "net")


def windows(count=12, seed=0):
    draw = np.random.default_rng(seed)
    forecasts = {
        name: np.sort(draw.uniform(1, 9, (count, 4, 2, 3)), axis=-1)
        for name in ("tft", "window_quantiles")
    }
    actual = draw.uniform(1, 9, (count, 4, 2))
    actual[draw.random(actual.shape) < 0.2] = np.nan
    return draw.integers(0, 3, count), forecasts, actual


def test_a_servers_loss_is_the_mean_row_of_its_windows():
    server, forecasts, actual = windows()
    sums = ServerSums(("a", "b", "c"), METRICS, LEVELS)
    for part in (slice(0, 5), slice(5, None)):
        batch = {name: each[part] for name, each in forecasts.items()}
        sums.add(server[part], batch, actual[part])
    for row in sums.rows(known=("a", "c")):
        mine = server == ("a", "b", "c").index(row.server)
        for name, loss in (("tft", row.wql), ("window_quantiles", row.flat_wql)):
            alone = ScoreSums(METRICS, LEVELS, 4)
            alone.add(forecasts[name][mine], actual[mine])
            assert loss == pytest.approx(alone.rows()[-1].wql)
        assert row.windows == mine.sum() and row.observed == alone.rows()[-1].observed
        assert row.new == (row.server == "b")
        losses = [each.wql for each in alone.rows()[:-1]]
        assert row.worst_metric in METRICS and len(losses) == 2


def test_a_server_without_a_window_has_no_row():
    server, forecasts, actual = windows()
    sums = ServerSums(("a", "b", "c", "never"), METRICS, LEVELS)
    sums.add(server, forecasts, actual)
    assert "never" not in [row.server for row in sums.rows(())]


def test_what_the_model_passes_on_leaves_the_server_without_a_score():
    server, forecasts, actual = windows()
    actual[0, 0, 0] = 5.0
    forecasts["tft"][0, 0, 0] = np.nan
    sums = ServerSums(("a", "b", "c"), METRICS, LEVELS)
    sums.add(server, forecasts, actual)
    for row in sums.rows(()):
        spoilt = row.server == ("a", "b", "c")[server[0]]
        assert math.isnan(row.wql) is bool(spoilt) and math.isfinite(row.flat_wql)


def test_an_all_zero_metric_has_no_weight_and_no_warning():
    server, forecasts, actual = windows()
    sums = ServerSums(("a", "b", "c"), METRICS, LEVELS)
    sums.add(server, forecasts, np.zeros_like(actual))
    assert all(math.isnan(row.wql) and row.worst_metric == "" for row in sums.rows(()))


def test_worst_by_loss_and_by_skill_differ():
    rows = [
        ServerScores("idle", False, 1, 1, 9.0, 20.0, "cpu"),
        ServerScores("behind", False, 1, 1, 0.4, 0.2, "cpu"),
        ServerScores("fine", False, 1, 1, 0.1, 0.2, "cpu"),
        ServerScores("nothing", False, 1, 0, math.nan, math.nan, ""),
    ]
    assert [row.server for row in worst_by_loss(rows, 2)] == ["idle", "behind"]
    assert [row.server for row in worst_by_skill(rows, 5)] == ["behind", "fine", "idle"]

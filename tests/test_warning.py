"""Alerts are counted by the rules of `backtest`, on fleets whose breaches are planted."""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.fleet import Fleet
from data.splits import split_by_time, training_stretches
from data.windows import WindowIndex, index_windows
from report.early_warning.alerts import calibration
from report.early_warning.backtest import backtest
from report.early_warning.breaches import Watch, choose_thresholds, look_back, watch_ticks
from report.early_warning.crossing import crossing_probability, exceedance
from report.early_warning.page import warning_figures, warning_section
from report.early_warning.results import WarningReport, alert_rows, summary_lines
from report.evaluate import held_out_windows
from report.html import page
from tests.builders import tiny_forecaster
from tft.batch import WindowBatch
from tft.forecaster import Forecaster, TrainingFacts
from tft.schema import FeatureSchema, Metric
from train.prepare import training_facts

SCHEMA = FeatureSchema(
    targets=(Metric("cpu_percent", 0.0, 100.0), Metric("load_average", 0.0)),
    context_length=48,
    min_context_length=24,
    quantiles=(0.1, 0.5, 0.9),
)
LEVELS = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
CALM, HINT, BREACH = 50.0, 70.0, 95.0
NOTHING = {"load_average": 1000.0}


def fleet_of(*cpu: np.ndarray) -> Fleet:
    """Return servers with these CPU series, starting at tick 0; the load never changes."""
    lengths = [len(series) for series in cpu]
    values = np.concatenate([np.stack([each, np.ones(len(each))], axis=1) for each in cpu])
    return Fleet(
        servers=tuple(f"server{number}" for number in range(len(cpu))),
        profiles=(None,) * len(cpu),
        metrics=SCHEMA.metric_names,
        static_names=(),
        values=values.astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        first_tick=np.zeros(len(cpu), dtype=np.int64),
        static=np.empty((len(cpu), 0), np.float32),
        step_seconds=SCHEMA.step_seconds,
    )


def forecaster_that(forecast: Callable[[WindowBatch], torch.Tensor]) -> Forecaster:
    """Return a forecaster that forecasts these values [B, H, M] for certain."""
    forecaster = tiny_forecaster(schema=SCHEMA)

    def certain(batch: WindowBatch) -> torch.Tensor:
        return forecast(batch)[..., None].expand(-1, -1, -1, len(SCHEMA.quantiles))

    forecaster.forecast = certain  # type: ignore[method-assign]
    return forecaster


def knows_all() -> Forecaster:
    return forecaster_that(lambda batch: batch.future.nan_to_num(0.0))


def follows_hints() -> Forecaster:
    """Return a forecaster that sees a breach coming where the last tick was a hint."""

    def forecast(batch: WindowBatch) -> torch.Tensor:
        hinted = batch.past[:, -1, 0] == HINT
        return torch.where(hinted, 99.0, 10.0)[:, None, None].expand(-1, 96, 2)

    return forecaster_that(forecast)


def series(ticks: int, breaches: tuple[int, ...] = (), hints: tuple[int, ...] = ()) -> np.ndarray:
    """Return a series with ten ticks over from each breach, and a hint seen at each origin."""
    values = np.full(ticks, CALM)
    for start in breaches:
        values[start : start + 10] = BREACH
    values[[origin - 1 for origin in hints]] = HINT
    return values


def every_window(fleet: Fleet) -> WindowIndex:
    return index_windows(fleet, SCHEMA)


def test_planted_breaches_and_alerts_are_counted_exactly() -> None:
    """One alert of two origins in time, one breach without, two false alarms an origin apart."""
    fleet = fleet_of(
        series(1200, breaches=(400, 700), hints=(360, 366, 900, 912)), series(1000), series(1100)
    )
    report = backtest(follows_hints(), fleet, every_window(fleet), NOTHING)
    for point in report.forecasters[0].rows[0].points:
        assert (point.alerts, point.true_alerts, point.episodes, point.caught) == (3, 1, 2, 1)
        assert point.precision == pytest.approx(1 / 3) and point.recall == 0.5
        assert point.lead_seconds == (41 * 300,) * 3  # tick 400 is 41 ahead of origin 360
        assert point.lead_counts == (0, 0, 1, 0)
        # Origins 24 to 1104, 900 and 1002, but three during or just after either breach.
        watched = (181 + 147 + 164) - 6
        assert point.server_weeks == pytest.approx(watched * 6 * 300 / 604_800)
        assert point.false_per_week == pytest.approx(2 / point.server_weeks)
    cpu, load, together = report.metrics
    assert (cpu.episodes, cpu.servers, cpu.threshold) == (2, 1, 90.0)
    assert (load.episodes, together.episodes) == (0, 2)


@pytest.mark.parametrize(("start", "in_time"), [(604, 0), (605, 1), (695, 1), (696, 0)])
def test_an_alert_is_true_from_half_an_hour_to_eight_hours_ahead(start: int, in_time: int) -> None:
    """Sooner leaves no time to act. Tick t is t - origin + 1 ahead: 605 is 6 ticks after 599."""
    fleet = fleet_of(series(1000, breaches=(start,), hints=(600,)))
    point = backtest(follows_hints(), fleet, every_window(fleet), NOTHING).forecasters[0].rows[0]
    assert [each.true_alerts for each in point.points[:1]] == [in_time]
    assert (point.points[0].alerts, point.points[0].caught) == (1, in_time)


def test_an_alert_that_never_ends_is_raised_anew_every_eight_hours() -> None:
    """Else an alarm that is always on would be one alert, and true as soon as anything happens."""
    hints = tuple(range(30, 600, 6))  # 95 origins, 570 ticks: five times 96 and a rest
    fleet = fleet_of(series(1000, breaches=(600,), hints=hints))
    point = backtest(follows_hints(), fleet, every_window(fleet), NOTHING).forecasters[0].rows[0]
    # Origin 594, the last, is raised in the alert from 510 on; 504 is one before it, in the range.
    assert (point.points[0].alerts, point.points[0].true_alerts) == (6, 1)
    assert point.points[0].lead_seconds[1] == (600 - 510 + 1) * 300


def test_who_knows_all_warns_of_all_and_of_nothing_else() -> None:
    starts = (300, 520, 900)
    gaps = series(1300, breaches=starts)
    gaps[[305, 306, 307, 420, 421, 899]] = np.nan
    fleet = fleet_of(gaps, series(800, breaches=(333,)))
    report = backtest(knows_all(), fleet, every_window(fleet), NOTHING)
    model, *others = report.forecasters
    for point in model.rows[0].points:
        assert (point.precision, point.recall, point.episodes, point.alerts) == (1.0, 1.0, 4, 4)
    assert model.rows[0].brier == 0.0 and model.rows[0].brier_skill == 1.0
    assert [each.name for each in others] == ["seasonal_naive", "window_quantiles", "straight_line"]
    assert all(other.rows[0].best_f1().f1 < 1.0 for other in others)
    assert model.rows[0].most_recall().recall == 1.0


def test_no_alert_in_a_breach_and_none_on_a_cold_start() -> None:
    """Who is in trouble needs no forecast of it; the rest of an hour-long breach is no episode."""
    values = series(600)
    values[200:260] = BREACH
    values[230:233] = CALM  # too short to end it
    fleet = fleet_of(values)
    origin = np.arange(6, 504, 6)
    watch = watch_ticks(SCHEMA, 6)
    told = look_back(
        fleet, SCHEMA, np.zeros(len(origin), int), origin, np.array([90.0, 99.0]), watch
    )
    assert told.episodes[0].start.tolist() == [200]
    silent = origin[~told.may_alert[:, 0]]
    assert silent.tolist() == [6, 12, 18, *range(204, 265, 6)]
    assert origin[told.followed[:, 0]].tolist() == list(range(108, 196, 6))


def by_hand(values: list[float | None], watch: Watch) -> tuple[list[int], list[bool]]:
    """Return the episode starts, and for every tick whether the ticks before it were calm."""
    starts, calm = [], []
    for tick in range(len(values) + 1):
        before = [(t, v) for t, v in enumerate(values[:tick]) if v is not None][-watch.calm :]
        calm.append(
            len(before) == watch.calm
            and all(v < 90 for _, v in before)
            and before[0][0] >= tick - watch.memory
        )
        if tick < len(values) and calm[-1] and (values[tick] or 0) >= 90:
            starts.append(tick)
    return starts, calm


@settings(max_examples=60)
@given(st.lists(st.sampled_from([CALM, CALM, CALM, BREACH, 90.0, None]), min_size=24, max_size=60))
def test_missing_ticks_neither_start_nor_end_a_breach(values: list[float | None]) -> None:
    watch = Watch(every=1, nearest=2, farthest=5, calm=3, memory=20)
    fleet = fleet_of(np.array([math.nan if v is None else v for v in values]))
    origin = np.arange(SCHEMA.min_context_length, len(values) + 1)
    told = look_back(fleet, SCHEMA, np.zeros_like(origin), origin, np.array([90.0, 9.0]), watch)
    starts, calm = by_hand(values, watch)
    assert told.episodes[0].start.tolist() == starts
    for row, tick in enumerate(origin):
        ahead = values[tick + 1 : tick + 5]
        seen = [v for v in ahead if v is not None]
        assert told.may_alert[row, 0] == (calm[tick] and len(seen) >= 2)
        assert told.reached[row, 0] == any(v >= 90 for v in seen)
        assert told.followed[row, 0] == any(tick + 1 <= start < tick + 5 for start in starts)


def quantiles_of(draw: st.DataObject) -> np.ndarray:
    gaps = draw.draw(st.lists(st.sampled_from([0.0, 0.5, 3.0, 40.0]), min_size=7, max_size=7))
    return np.cumsum(gaps)


@given(st.data())
def test_the_probability_falls_as_the_threshold_rises(draw: st.DataObject) -> None:
    values = quantiles_of(draw)
    thresholds = np.sort(draw.draw(st.lists(st.floats(-99, 400), min_size=2, max_size=9)))
    forecast = np.broadcast_to(values, (1, 1, len(thresholds), 7))
    chance = exceedance(forecast, LEVELS, np.array(thresholds))[0, 0]
    assert np.all((chance >= 0.0) & (chance <= 1.0))
    assert np.all(np.diff(chance) <= 1e-12)


@given(st.data())
def test_the_probability_at_a_quantile_is_what_its_level_leaves(draw: st.DataObject) -> None:
    """Of equal quantiles the lowest counts: their value, which reaches the threshold, has mass."""
    values = quantiles_of(draw)
    chance = exceedance(np.broadcast_to(values, (1, 1, 7, 7)), LEVELS, values)[0, 0]
    lowest = [LEVELS[np.flatnonzero(values == value)[0]] for value in values]
    np.testing.assert_allclose(chance, 1.0 - np.array(lowest), atol=1e-12)


def test_tails_are_exponential_through_the_two_outermost_quantiles() -> None:
    values = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0])[None, None, None]
    gone = [exceedance(values, LEVELS, np.array([x]))[0, 0, 0] for x in (60.0, 70.0, 80.0)]
    assert gone[0] / gone[1] == pytest.approx(gone[1] / gone[2]) == pytest.approx(5.0)
    low = [1 - exceedance(values, LEVELS, np.array([x]))[0, 0, 0] for x in (20.0, 10.0, 0.0)]
    assert low[0] / low[1] == pytest.approx(low[1] / low[2]) == pytest.approx(5.0)


@given(st.lists(st.floats(-50, 150), min_size=1, max_size=20))
def test_over_the_horizon_it_lies_between_one_step_and_independent_steps(
    medians: list[float],
) -> None:
    forecast = np.array(medians)[None, :, None, None] + np.array([-9.0, -5, -2, 0, 3, 8, 20])
    limit = np.array([60.0])
    steps = exceedance(forecast, LEVELS, limit)[0, :, 0]
    chance = crossing_probability(forecast, LEVELS, limit, step_seconds=300)[0, 0]
    assert steps.max() <= chance <= max(1.0 - np.prod(1.0 - steps), steps.max()) + 1e-12
    hourly = crossing_probability(forecast, LEVELS, limit, step_seconds=3600)[0, 0]
    assert hourly == pytest.approx(max(1.0 - np.prod(1.0 - steps), steps.max()))


def test_a_missing_quantile_or_threshold_has_no_probability() -> None:
    forecast = np.array([[[[1.0, 2.0, 3.0], [1.0, np.nan, 3.0], [1.0, 2.0, 3.0]]]])
    chance = crossing_probability(forecast, (0.1, 0.5, 0.9), np.array([2.0, 2.0, np.nan]), 300)
    assert np.isnan(chance).tolist() == [[False, True, True]]
    with pytest.raises(ValueError, match="needs at least two"):
        exceedance(forecast[..., :1], (0.5,), np.ones(3))


def test_a_forecaster_that_passes_raises_no_alert_and_is_told_on() -> None:
    fleet = fleet_of(series(1000, breaches=(400,)))
    lost = forecaster_that(lambda batch: torch.full_like(batch.future, torch.nan))
    report = backtest(lost, fleet, every_window(fleet), NOTHING)
    cpu = report.forecasters[0].rows[0]
    assert (cpu.points[0].alerts, cpu.points[0].recall, cpu.brier) == (0, 0.0, None)
    assert cpu.not_finite == report.metrics[0].origins
    assert f"tft: {report.metrics[-1].origins:,} origins without" in str(summary_lines(report))


def test_calibration_counts_what_came_in_each_bin() -> None:
    chance = np.array([0.0, 0.019, 0.02, 0.3, 0.39, 1.0])
    bins = calibration(chance, np.array([False, True, False, True, True, True]))
    assert [(each.low, each.origins, each.reached) for each in bins if each.origins] == [
        (0.0, 2, 1), (0.02, 1, 0), (0.2, 2, 2), (0.8, 1, 1),
    ]  # fmt: skip
    assert bins[4].mean_probability == pytest.approx(0.345)


def test_thresholds_are_90_percent_or_a_high_quantile_of_the_rows_trained_on() -> None:
    fleet = fleet_of(series(1000), series(1000))
    fleet.values[:, 1] = np.arange(2000)
    forecaster = tiny_forecaster(schema=SCHEMA)
    split = split_by_time(fleet, SCHEMA, 0.5, held_out=("server1",))
    forecaster.facts = training_facts(fleet, split, training_stretches(fleet, split, 48))
    chosen = choose_thresholds(forecaster)
    assert chosen["cpu_percent"] == 90.0
    assert chosen["load_average"] == pytest.approx(np.quantile(np.arange(500), 0.995))
    assert choose_thresholds(forecaster, {"cpu_percent": 7}) == {**chosen, "cpu_percent": 7}
    with pytest.raises(ValueError, match="'cpu', which is not forecast"):
        choose_thresholds(forecaster, {"cpu": 7})
    with pytest.raises(ValueError, match="cpu_percent is nan; give a finite"):
        choose_thresholds(forecaster, {"cpu_percent": math.nan})


def test_without_training_rows_a_metric_is_not_watched_and_without_episodes_has_no_recall() -> None:
    fleet = fleet_of(series(700))
    report = backtest(follows_hints(), fleet, every_window(fleet))
    text = str(summary_lines(report))
    assert "load_average: not watched; no training row to take a" in text
    assert "cpu_percent: no episode over 90.00 to warn of" in text
    assert math.isnan(report.forecasters[0].rows[0].points[0].recall)
    assert warning_figures(report) == []
    assert "Early warning" in page("t", [warning_section(report)])


def test_a_report_survives_json_and_is_drawn() -> None:
    fleet = fleet_of(series(1200, breaches=(400, 700), hints=(360, 900)), series(900))
    report = backtest(follows_hints(), fleet, every_window(fleet), NOTHING)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert WarningReport.from_dict(plain) == report
    body = warning_section(report).body
    assert body.count("data:image/png") == 3 and "seasonal_naive" in body
    assert {row[0] for row in alert_rows(report)} == {"cpu_percent", "all metrics"}


def test_a_big_fleet_is_judged_on_whole_days_of_all_servers() -> None:
    fleet = fleet_of(*[series(288 * 10) for _ in range(4)])
    done: list[float] = []
    report = backtest(knows_all(), fleet, every_window(fleet), NOTHING, 6, 960, done.append)
    assert report.servers == 4 and report.origins + report.origins_left_out == 4 * 461
    assert 800 <= report.origins <= 1000
    assert done[-1] == 1.0
    whole = backtest(knows_all(), fleet, every_window(fleet), NOTHING, most_origins=None)
    assert (whole.origins, whole.origins_left_out) == (4 * 461, 0)


def test_only_held_out_ticks_are_judged() -> None:
    """Breaches trained on are known; origins come from the index and nothing else."""
    fleet = fleet_of(series(1200, breaches=(400, 900)))
    forecaster = knows_all()
    forecaster.facts = TrainingFacts(("server0",), 600)
    index = held_out_windows(fleet, forecaster).windows
    report = backtest(forecaster, fleet, index, NOTHING)
    assert report.metrics[0].episodes == 1


def test_what_cannot_be_backtested_is_said() -> None:
    fleet = fleet_of(series(700))
    with pytest.raises(ValueError, match="every is 0 ticks"):
        backtest(knows_all(), fleet, every_window(fleet), every=0)
    short = replace(SCHEMA, prediction_horizon=5)
    with pytest.raises(ValueError, match="5 ticks of 300 s are forecast; forecast more"):
        watch_ticks(short, 6)
    nothing = WindowIndex(*(np.empty(0, np.int64) for _ in range(3)))
    with pytest.raises(ValueError, match="no origin to warn from"):
        backtest(knows_all(), fleet, nothing)

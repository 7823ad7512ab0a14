"""Drift is warned of where it was planted, and nowhere else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.fleet import Fleet
from data.splits import split_by_time
from report.drift import Drift, drift, drift_lines, server_levels
from tests.builders import SCHEMA, SMALL_TRAINING, small_fleet
from tft.bundle import load_forecaster, save_forecaster
from tft.forecaster import Forecaster, TrainingFacts
from train.config import TrainConfig
from train.prepare import build_forecaster

CPU, LOAD = 0, 1
LENGTHS = (400, 400, 400, 400)  # hours
CONFIG = TrainConfig(**{**SMALL_TRAINING, "target_metrics": SCHEMA.target_names})


@pytest.fixture
def fleet() -> Fleet:
    """Return four servers of uniform noise between 1 and 50."""
    return small_fleet(LENGTHS)


@pytest.fixture
def trained(fleet: Fleet) -> Forecaster:
    """Return a forecaster of all but the last fifth."""
    return build_forecaster(fleet, SCHEMA, split_by_time(fleet, SCHEMA, 0.2), CONFIG)


def changed(fleet: Fleet, since: int, metric: int, servers: int, factor: float) -> Fleet:
    """Multiply a metric of the first few servers from a tick on."""
    values = fleet.values.copy()
    for server in range(servers):
        late = int(fleet.offsets[server] + since - fleet.first_tick[server])
        values[late : fleet.offsets[server + 1], metric] *= factor
    return replace(fleet, values=values)


def test_nothing_is_warned_of_where_nothing_changed(fleet: Fleet, trained: Forecaster) -> None:
    drifts = drift(trained, fleet, trained.facts.end_tick)
    assert [each.metric for each in drifts] == ["cpu_percent", "load_average", "temperature"]
    assert drift_lines(drifts) == []
    for each in drifts:
        assert each.servers == 4 and each.moved == 0
        assert each.outside is not None and each.outside < 0.02
        assert each.shift is not None and abs(each.shift) < 0.5


def test_a_new_range_is_warned_of_with_numbers(fleet: Fleet, trained: Forecaster) -> None:
    """One server in four at three times its values: two thirds of its ticks are out of range."""
    since = trained.facts.end_tick
    drifts = drift(trained, changed(fleet, since, LOAD, 1, 3.0), since)
    assert [each.left_range for each in drifts] == [False, True, False]
    assert drifts[LOAD].outside == pytest.approx(2 / 3 / 4, abs=0.05)
    (line,) = drift_lines(drifts)
    assert line.startswith("drift: load_average left its training range: 1")
    assert "of 310 ticks outside 1.0" in line and "to 49." in line


def test_a_shifted_level_is_warned_of_though_no_range_is_left(
    fleet: Fleet, trained: Forecaster
) -> None:
    """Values that halve stay within the range: only servers' own levels show it."""
    quiet = fleet.values.copy()
    quiet[:, CPU] = 40 + quiet[:, CPU] / 10  # 40 to 45, but one server from 1 to 50
    quiet[fleet.offsets[3] :, CPU] = fleet.values[fleet.offsets[3] :, CPU]
    fleet = replace(fleet, values=quiet)
    forecaster = build_forecaster(fleet, SCHEMA, split_by_time(fleet, SCHEMA, 0.2), CONFIG)
    since = forecaster.facts.end_tick
    assert drift_lines(drift(forecaster, fleet, since)) == []
    drifts = drift(forecaster, changed(fleet, since, CPU, 3, 0.5), since)
    assert not drifts[CPU].left_range and drifts[CPU].moved == 3
    (line,) = drift_lines(drifts)
    assert "cpu_percent left its training level: the median of 3 of 4 servers moved" in line
    assert drifts[CPU].shift is not None and drifts[CPU].shift < -10


def test_one_server_that_moves_is_no_drift_of_the_fleet(fleet: Fleet, trained: Forecaster) -> None:
    since = trained.facts.end_tick
    drifts = drift(trained, changed(fleet, since, CPU, 1, 4.0), since)
    assert drifts[CPU].moved == 1 and not drifts[CPU].left_level


def test_only_training_rows_make_the_range(fleet: Fleet) -> None:
    """What comes after the cutoff, or is of a server held out, is not what was trained on."""
    split = split_by_time(fleet, SCHEMA, 0.2, held_out=("server1",))
    facts = build_forecaster(fleet, SCHEMA, split, CONFIG).facts
    other = changed(fleet, split.cutoff, CPU, 4, 100.0)
    values = other.values.copy()
    values[other.offsets[1] : other.offsets[2]] = 1e6
    assert build_forecaster(replace(other, values=values), SCHEMA, split, CONFIG).facts == facts
    assert facts.servers == ("server0", "server2", "server3")
    assert len(facts.server_level) == 3 * 3 and facts.metric_high[CPU] < 50


def test_a_new_server_counts_for_the_range_and_not_for_the_level(
    fleet: Fleet, trained: Forecaster
) -> None:
    names = ("new", *fleet.servers[1:])
    drifts = drift(trained, replace(fleet, servers=names), trained.facts.end_tick)
    assert [(each.servers, each.ticks) for each in drifts] == [(3, 310)] * 3


def test_missing_values_are_no_drift(fleet: Fleet, trained: Forecaster) -> None:
    """Neither ticks that are gone nor a metric that nobody reports any more."""
    since = trained.facts.end_tick
    gone = changed(changed(fleet, since, CPU, 4, np.nan), since, LOAD, 1, np.nan)
    drifts = drift(trained, gone, since)
    assert (drifts[CPU].ticks, drifts[CPU].outside, drifts[CPU].shift) == (0, None, None)
    assert drifts[LOAD].servers == 3
    assert drift_lines(drifts) == []


def test_less_than_a_day_tells_nothing(fleet: Fleet, trained: Forecaster) -> None:
    """Hours of the day differ by more than drift does."""
    since = fleet.end_tick - 5
    drifts = drift(trained, changed(fleet, since, CPU, 4, 100.0), since)
    assert drifts[CPU].outside is None and drifts[CPU].servers == 0
    assert drift_lines(drifts) == []


def test_a_metric_never_seen_in_training_has_no_range(fleet: Fleet) -> None:
    split = split_by_time(fleet, SCHEMA, 0.2)
    values = fleet.values.copy()
    values[:, 2] = np.nan
    forecaster = build_forecaster(replace(fleet, values=values), SCHEMA, split, CONFIG)
    assert forecaster.facts.metric_low[2] is None
    last = drift(forecaster, fleet, split.cutoff)[2]
    assert (last.low, last.outside, last.servers) == (None, None, 0)


def test_the_facts_survive_saving(trained: Forecaster, tmp_path: Path) -> None:
    """And they are JSON: no NaN for servers too short to have a level."""
    save_forecaster(trained, tmp_path)
    assert load_forecaster(tmp_path).facts == trained.facts
    assert "NaN" not in (tmp_path / "forecaster.json").read_text()


def test_a_server_of_less_than_a_day_has_no_level() -> None:
    fleet = small_fleet((400, 20))
    levels = server_levels(fleet, None, None, np.arange(2))
    assert np.isnan(levels.level[1]).all() and np.isfinite(levels.spread[0]).all()


def test_a_forecaster_of_before_says_it_does_not_know(fleet: Fleet, trained: Forecaster) -> None:
    trained.facts = TrainingFacts(trained.facts.servers, trained.facts.end_tick)
    assert drift(trained, fleet, trained.facts.end_tick) == ()
    assert "not looked for" in drift_lines(())[0]


def test_a_constant_server_moves_by_more_than_nothing() -> None:
    """Its own deviation is 0: without a floor the last decimal would be infinitely far."""
    fleet = small_fleet(LENGTHS)
    values = fleet.values.copy()
    values[fleet.offsets[0] : fleet.offsets[3], CPU] = 20.0
    fleet = replace(fleet, values=values)
    forecaster = build_forecaster(fleet, SCHEMA, split_by_time(fleet, SCHEMA, 0.2), CONFIG)
    since = forecaster.facts.end_tick
    assert drift(forecaster, changed(fleet, since, CPU, 3, 1.01), since)[CPU].moved == 0
    assert drift(forecaster, changed(fleet, since, CPU, 3, 1.5), since)[CPU].moved == 3


def test_a_drift_is_plain_data(fleet: Fleet, trained: Forecaster) -> None:
    each = drift(trained, fleet, trained.facts.end_tick)[0]
    plain = each.to_dict()
    assert plain.pop("left_range") is plain.pop("left_level") is False
    assert Drift(**plain) == each

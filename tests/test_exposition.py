"""What Prometheus scrapes parses, is escaped, and leaves out what nobody knows."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from report.early_warning.crossing import crossing_probability
from serve.alert_rules import AlertRules
from serve.alerts import AlertBook
from serve.exposition import HELP, fleet_text, service_text
from serve.live_scores import LiveScore, LiveSummary
from serve.outlook import Outlook, Status
from tests.outlooks import CALM, MODEL, ORIGIN, SCHEMA, STEP, make_outlook, spike

RULES = AlertRules(pending_ticks=0)
NOW = float(ORIGIN * STEP)
LIVE = {
    "cpu_percent": {
        "day": {"coverage": 0.78, "quantile_loss": 0.12, "forecasts": 480},
        "week": {"coverage": 0.81, "quantile_loss": 0.11, "forecasts": 3360},
    },
    "load_average": {"day": None, "week": None},
}
EXPECTED = {"cpu_percent": (0.62, 0.82)}


def families(text: str) -> dict[str, Metric]:
    found = list(text_string_to_metric_families(text))
    assert len({each.name for each in found}) == len(found)
    return {each.name.removeprefix("fleet_tft_"): each for each in found}


def samples(metric: Metric) -> dict[tuple[str, ...], float]:
    """Return values by label values, in the order of the labels' names."""
    return {tuple(v for _, v in sorted(s.labels.items())): s.value for s in metric.samples}


def fleet(outlook: Outlook) -> dict[str, Metric]:
    return families(fleet_text(outlook, RULES, AlertBook(RULES).update(outlook)))


def test_a_fleet_is_a_few_gauges_per_server_and_metric() -> None:
    outlook = make_outlook([spike(90.5), spike(CALM)], servers=("web-1", "web-2"))
    found = fleet(outlook)
    assert {each.type for each in found.values()} == {"gauge"}
    peak = samples(found["forecast_peak"])
    assert len(peak) == 2 * 2 * 3
    assert peak["0.5", "cpu_percent", "web-1"] == 90.5
    assert peak["0.9", "cpu_percent", "web-1"] == 92.5
    assert peak["0.1", "load_average", "web-2"] == -1.0
    chance = samples(found["breach_probability"])
    expected = crossing_probability(
        outlook.quantiles[:, 5:96], SCHEMA.quantiles, outlook.thresholds[0], STEP
    )
    assert set(chance) == {("cpu_percent", "web-1"), ("cpu_percent", "web-2")}  # load: not watched
    assert chance["cpu_percent", "web-1"] == pytest.approx(expected[0, 0], rel=1e-5)
    assert samples(found["breach_seconds"]) == {("cpu_percent", "web-1"): 24 * STEP}
    assert samples(found["alert"]) == {("cpu_percent", "web-1", "firing"): 1.0}
    assert samples(found["last_tick_timestamp_seconds"])["web-1",] == NOW - STEP


def test_a_server_without_a_current_forecast_has_no_forecast_to_scrape() -> None:
    """Its last tick's age says that it is silent; its old peak would look like one of now."""
    outlook = make_outlook(
        [spike(90.5)] * 4,
        behind=[0, 4, 0, 0],
        status=[Status.FORECAST, Status.FORECAST, Status.COLD_START, Status.REFUSED],
    )
    found = fleet(outlook)
    for name in ("forecast_peak", "breach_probability", "breach_seconds"):
        assert {each.labels["server"] for each in found[name].samples} == {"a"}, name
    last = samples(found["last_tick_timestamp_seconds"])
    assert last == {("a",): NOW - STEP, ("b",): NOW - 5 * STEP}
    counts = samples(found["servers"])
    assert counts == {("cold_start",): 1.0, ("forecast",): 2.0, ("refused",): 1.0}


def test_a_service_says_how_old_its_forecast_is_and_how_good_it_was() -> None:
    outlook = make_outlook([spike(CALM)] * 2, behind=[2, 3])
    counters = {"ticks_accepted": ("Ticks taken in.", 12_345_678)}
    found = families(service_text(NOW + 30.0, outlook, MODEL, LIVE, EXPECTED, counters))
    assert samples(found["forecast_age_seconds"]) == {(): 2 * STEP + 30.0}
    assert samples(found["model_info"]) == {("0123456789ab",): 1.0}
    assert samples(found["model_trained_until_timestamp_seconds"]) == {(): MODEL.trained_until}
    assert samples(found["live_coverage_ratio"]) == {
        ("cpu_percent", "day"): 0.78,
        ("cpu_percent", "week"): 0.81,
    }
    assert samples(found["expected_coverage_ratio"]) == {
        ("lowest", "cpu_percent"): 0.62,
        ("highest", "cpu_percent"): 0.82,
    }
    assert samples(found["live_forecasts"])["cpu_percent", "week"] == 3360
    (total,) = found["ticks_accepted"].samples
    assert (total.name, total.value) == ("fleet_tft_ticks_accepted_total", 12_345_678)
    assert found["ticks_accepted"].type == "counter"


def test_before_the_first_outlook_there_is_no_age() -> None:
    found = families(service_text(NOW, None, MODEL, {}, {}, {}))
    assert set(found) == {"model_info", "model_trained_until_timestamp_seconds"}
    cold = make_outlook([spike(CALM)], status=[Status.COLD_START])
    assert "forecast_age_seconds" not in families(service_text(NOW, cold, MODEL, {}, {}, {}))


def test_no_sample_is_a_nan_or_infinite() -> None:
    live = {"cpu_percent": {"day": {"coverage": math.nan, "quantile_loss": 1.0, "forecasts": 0}}}
    found = families(service_text(NOW, None, MODEL, live, {}, {}))
    assert "live_coverage_ratio" not in found and "live_quantile_loss" in found


def test_a_loss_of_nothing_but_zeros_is_no_sample() -> None:
    summary = LiveSummary({"cpu_percent": LiveScore(0.5, math.nan, 3)}, {}, ())
    found = families(service_text(NOW, None, MODEL, summary.to_dict(["cpu_percent"]), {}, {}))
    assert "live_quantile_loss" not in found and "live_coverage_ratio" in found


@settings(max_examples=40)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=4, unique=True)
)
def test_any_name_comes_back_as_it_was(names: list[str]) -> None:
    """The feed allows few characters; the text format must not rest on that."""
    outlook = make_outlook([spike(90.5)] * len(names), servers=names)
    assert {each.labels["server"] for each in fleet(outlook)["alert"].samples} == set(names)


def known_names() -> Iterable[str]:
    outlook = make_outlook([spike(90.5)])
    yield from fleet(outlook)
    yield from families(service_text(NOW, outlook, MODEL, LIVE, EXPECTED, {}))


def test_every_metric_is_documented_and_every_documented_one_is_there() -> None:
    assert set(known_names()) == set(HELP)


def test_a_large_fleet_has_no_sample_per_tick() -> None:
    outlook = make_outlook([spike(90.5)] * 50, servers=[f"s{n}" for n in range(50)])
    lines = fleet_text(outlook, RULES, AlertBook(RULES).update(outlook)).splitlines()
    per_server = (2 * 3) + 1 + 1 + 1 + 1  # peaks; probability, seconds, last tick, alert
    assert len(lines) == 50 * per_server + 3 + 2 * 6
    assert np.unique([len(line.split()) for line in lines if line[0] != "#"]).tolist() == [2]

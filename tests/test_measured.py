"""What an evaluation measured of alerts is shown for the operating point that is in use."""

import json
from dataclasses import replace

import pytest

from report.early_warning.alerts import AlertScores, OperatingPoint
from report.early_warning.results import ForecasterAlerts, WarningReport, WatchedMetric
from serve.measured import evaluated_thresholds, measured


def point(probability: float, alerts: int, lead: tuple[float, ...] = (3600.0, 7200.0, 9000.0)):
    return OperatingPoint(
        probability, alerts, alerts // 2, 10, 4 if lead else 0, 5.0, lead, (1, 1, 1, 1)
    )


def scores(metric: str, *points: OperatingPoint) -> AlertScores:
    return AlertScores(metric, points, (), 0.1, 0)


CPU = (point(0.1, 40), point(0.3, 20), point(0.5, 10), point(0.9, 0, lead=()))


def evaluation(**changes: object) -> dict:
    """Return what evaluation.json holds, as it comes back from the file."""
    watched = [
        WatchedMetric(name, threshold, 100, 9, 10, 3, 5.0)
        for name, threshold in (
            ("cpu_percent", 90.0),
            ("load_average", None),
            ("all metrics", None),
        )
    ]
    rows = tuple(scores(each.name, *CPU) for each in watched)
    other = tuple(scores(each.name, point(0.5, 99)) for each in watched)
    report = WarningReport(
        300, 6, 1800, 28_800, 20, 100, 0, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z",
        tuple(watched),
        (ForecasterAlerts("tft", rows), ForecasterAlerts("straight_line", other)), 1.0,
    )  # fmt: skip
    plain = replace(report, **changes).to_dict()  # type: ignore[arg-type]
    return json.loads(json.dumps({"run": "run-7", "early_warning": plain}))


def test_the_figures_are_the_models_at_the_alarm_probability() -> None:
    found = measured(evaluation(), 0.3)
    assert found is not None and list(found) == ["cpu_percent", "load_average"]
    assert found["cpu_percent"] == {
        "precision": 0.5,
        "recall": 0.4,
        "median_lead_seconds": 7200.0,
        "false_per_server_week": 2.0,
        "alarm_at": 0.3,
        "threshold": 90.0,
        "breaches": 10,
    }


@pytest.mark.parametrize(
    ("alarm_at", "shown"), [(0.5, 0.5), (0.49, 0.3), (0.1, 0.1), (0.05, 0.1), (0.99, 0.9)]
)
def test_between_two_evaluated_points_the_lower_one_is_shown(alarm_at: float, shown: float) -> None:
    """It raises more alerts: better too many false ones promised than too few."""
    found = measured(evaluation(), alarm_at)
    assert found is not None and found["cpu_percent"]["alarm_at"] == shown


def test_what_could_not_be_measured_is_none() -> None:
    found = measured(evaluation(), 0.9)
    assert found is not None
    assert found["cpu_percent"]["precision"] is None and found["cpu_percent"]["recall"] == 0.0
    assert found["cpu_percent"]["median_lead_seconds"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_run_whose_alerts_nobody_judged_has_no_figures() -> None:
    assert measured({"run": "run-7"}) is None
    assert evaluated_thresholds({"run": "run-7"}) == {}


def test_thresholds_are_those_it_was_evaluated_with() -> None:
    assert evaluated_thresholds(evaluation()) == {"cpu_percent": 90.0}


@pytest.mark.parametrize("damage", [{}, {"metrics": []}, [], {"forecasters": [{"name": "tft"}]}])
def test_a_damaged_evaluation_is_named(damage: object) -> None:
    with pytest.raises(ValueError, match=r"early_warning is not what `evaluate` writes.*again"):
        measured({"early_warning": damage})

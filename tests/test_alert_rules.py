"""A file of alert rules is checked when it is read, and the most specific ceiling counts."""

import json
import math
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import alert_rules
from serve.alert_rules import AlertRules, Exclusion, load_rules
from tests.outlooks import SCHEMA
from tft.schema import FeatureSchema, Metric

METRICS = SCHEMA.target_names


def rules_of(folder: Path, text: str) -> AlertRules:
    file = folder / "rules.toml"
    file.write_text(textwrap.dedent(text))
    return load_rules(file, SCHEMA)


def test_the_documented_file_loads_and_says_the_defaults(tmp_path: Path) -> None:
    lines = (alert_rules.__doc__ or "").splitlines()
    text = "\n".join(line for line in lines if line.startswith("    "))
    schema = FeatureSchema(
        targets=tuple(Metric(name, 0.0) for name in ("cpu_percent", "load_average"))
        + (Metric("memory_percent", 0.0, 100.0),)
    )
    (tmp_path / "rules.toml").write_text(textwrap.dedent(text))
    rules = load_rules(tmp_path / "rules.toml", schema)
    defaults = AlertRules()
    for name in ("gate", "nearest_minutes", "farthest_minutes", "pending_ticks", "clear_ticks",
                 "clear_margin"):  # fmt: skip
        assert getattr(rules, name) == getattr(defaults, name), name
    assert rules.server_ceilings == {"db-07": {"memory_percent": 99.0}}
    assert rules.exclude == (Exclusion(server="backup-01", metric="cpu_percent"),)


def test_without_a_file_percentages_are_watched_at_90_and_others_as_evaluated() -> None:
    assert load_rules(None, SCHEMA).ceilings == {"cpu_percent": 90.0}
    assert load_rules(None, SCHEMA).not_watched(METRICS) == ("load_average",)
    rules = load_rules(None, SCHEMA, {"cpu_percent": 70.0, "load_average": 7.5})
    assert rules.ceilings == {"cpu_percent": 90.0, "load_average": 7.5}
    assert rules.sources["load_average"] == "the threshold of the run's evaluation"
    values = rules.thresholds(("a", "b"), (None, "database"), METRICS)
    assert values.tolist() == [[90.0, 7.5]] * 2 and values.dtype == np.float32


def test_the_most_specific_ceiling_counts_and_an_exclusion_beats_all(tmp_path: Path) -> None:
    rules = rules_of(
        tmp_path,
        """
        [ceilings]
        cpu_percent = 80
        [profile_ceilings.database]
        cpu_percent = 85
        load_average = 30
        [server_ceilings."db.01"]
        cpu_percent = 95
        [[exclude]]
        server = "db.02"
        metric = "cpu_percent"
        [[exclude]]
        profile = "batch"
        """,
    )
    servers = ("db.01", "db.02", "db.03", "web", "job")
    profiles = ("database", "database", "database", "web_api", "batch")
    expected = [[95, 30], [math.nan, 30], [85, 30], [80, math.nan], [math.nan, math.nan]]
    np.testing.assert_array_equal(rules.thresholds(servers, profiles, METRICS), expected)
    assert rules.sources == {"cpu_percent": "rules.toml"}


names = st.sampled_from(["a", "b", "c"])
ceilings = st.dictionaries(st.sampled_from(METRICS), st.sampled_from([60.0, 70.0, 80.0, 90.0]))


@given(
    st.builds(
        AlertRules,
        ceilings=ceilings,
        profile_ceilings=st.dictionaries(names, ceilings),
        server_ceilings=st.dictionaries(names, ceilings),
        exclude=st.lists(
            st.builds(
                Exclusion,
                st.none() | names,
                st.none() | names,
                st.none() | st.sampled_from(METRICS),
            ),
            max_size=2,
        ).map(tuple),
    ),
    st.lists(st.tuples(names, st.none() | names), max_size=4),
)
def test_every_ceiling_is_the_one_a_person_would_look_up(
    rules: AlertRules, fleet: list[tuple[str, str | None]]
) -> None:
    values = rules.thresholds([s for s, _ in fleet], [p for _, p in fleet], METRICS)
    for row, (server, profile) in zip(values, fleet, strict=True):
        for value, metric in zip(row, METRICS, strict=True):
            levels = (
                rules.server_ceilings.get(server, {}),
                rules.profile_ceilings.get(profile or "", {}),
                rules.ceilings,
            )
            expected = next((each[metric] for each in levels if metric in each), math.nan)
            for each in rules.exclude:
                said = ((each.server, server), (each.profile, profile), (each.metric, metric))
                if all(wanted is None or wanted == found for wanted, found in said):
                    expected = math.nan
            np.testing.assert_equal(float(value), expected)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pending_tick = 3", ["unknown key 'pending_tick'", "'pending_ticks' the nearest"]),
        ("sources = {}", ["unknown key 'sources'"]),
        ("gate = 90", ["gate = 90", "a quantile between 0 and 1, such as 0.5"]),
        ("gate = nan", ["gate = nan"]),
        ('gate = "0.5"', ["gate = '0.5'"]),
        ("pending_ticks = 1.5", ["pending_ticks = 1.5", "a whole number of ticks, 0 or more"]),
        ("pending_ticks = true", ["pending_ticks = True"]),
        ("clear_ticks = 0", ["clear_ticks = 0", "1 or more"]),
        ("clear_margin = 1.0", ["clear_margin = 1.0", "a share, 0 up to below 1"]),
        ("farthest_minutes = 481", ["farthest_minutes = 481", "480", "as far as the model"]),
        ("nearest_minutes = 60\nfarthest_minutes = 45", ["nearest_minutes = 60", "at most 45"]),
        ("nearest_minutes = 61\nfarthest_minutes = 64", ["nearest_minutes = 61", "at most 60"]),
        ("nearest_minutes = 0\nfarthest_minutes = 4", ["farthest_minutes = 4", "a tick, 5"]),
        ("[ceilings]\ncpu_percnt = 9", ["[ceilings] cpu_percnt", "'cpu_percent' the nearest"]),
        ("[ceilings]\ncpu_percent = 101", ["cpu_percent = 101", "above 0 up to 100"]),
        ("[ceilings]\nload_average = 0", ["load_average = 0", "in the metric's unit above 0"]),
        ("[ceilings]\nload_average = inf", ["load_average = inf", "expected a number"]),
        ("ceilings = 90", ["[ceilings] = 90", "expected a table"]),
        ("profile_ceilings = 90", ["profile_ceilings = 90", "[profile_ceilings.NAME]"]),
        (
            "[server_ceilings.web.01]\ncpu_percent = 90",
            ["[server_ceilings.web] 01 is a table", "a name with a dot needs quotes"],
        ),
        ("[exclude]\nserver = 'a'", ["exclude = {'server': 'a'}", "[[exclude]]"]),
        ("[[exclude]]", ["[[exclude]] number 1", "expected one of server, profile, metric"]),
        ("[[exclude]]\nserver='a'\n[[exclude]]\nsrver='b'", ["number 2", "'server' the nearest"]),
        ("[[exclude]]\nserver = 7", ["server = 7", "a name in quotes"]),
        ("[[exclude]]\nmetric = 'cpu'", ["metric = 'cpu'", "there are cpu_percent, load_average"]),
        ("gate = 0.5\nclear_ticks 3", ["expected TOML", "line 2"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_file_key_and_remedy(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        rules_of(tmp_path, text)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'rules.toml'}: ")
    for part in parts:
        assert part in message


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rules\.toml: the alert rules cannot be read \(No such"):
        load_rules(tmp_path / "rules.toml", SCHEMA)
    (tmp_path / "rules.toml").write_bytes(b"gate = 0.5 # \xff")
    with pytest.raises(ValueError, match=r"rules\.toml: expected TOML in UTF-8"):
        load_rules(tmp_path / "rules.toml", SCHEMA)


def test_alerts_look_no_farther_than_the_model() -> None:
    short = FeatureSchema(targets=SCHEMA.targets, prediction_horizon=24)
    assert load_rules(None, short).farthest_minutes == 120
    with pytest.raises(ValueError, match="alert rules: nearest_minutes = 30: expected at most 15"):
        load_rules(None, FeatureSchema(targets=SCHEMA.targets, prediction_horizon=3))


def test_names_that_never_reported_are_pointed_out(tmp_path: Path) -> None:
    """A misspelt server cannot be refused, as it may come yet; but nobody would miss its rule."""
    rules = rules_of(
        tmp_path,
        """
        [server_ceilings.web-1]
        cpu_percent = 80
        [profile_ceilings.databse]
        cpu_percent = 80
        [[exclude]]
        server = "gone"
        """,
    )
    assert rules.unmatched(("web-1", "web-2"), ("database", None)) == (
        "alert rules: no server 'gone' has reported",
        "alert rules: no profile 'databse' has reported; 'database' is the nearest that has",
    )
    assert rules.unmatched(("web-1", "gone"), ("databse", None)) == ()


@pytest.mark.parametrize(("gate", "alarm_at"), [(0.5, 0.5), (0.7, 0.3), (0.9, 0.1)])
def test_a_gate_is_an_alarm_probability(gate: float, alarm_at: float) -> None:
    """Exactly: 1 - 0.9 is less than the 0.1 that was evaluated."""
    assert AlertRules(gate=gate).alarm_at == alarm_at


def test_rules_can_be_shown_as_json(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, "[[exclude]]\nserver = 'a'")
    plain = json.loads(json.dumps(rules.to_dict()))
    assert plain["exclude"] == [{"server": "a", "profile": None, "metric": None}]
    assert plain["ceilings"] == {"cpu_percent": 90.0}

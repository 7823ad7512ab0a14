"""Roles and bounds: what a person says, and what is decided from the data."""

import tomllib
from dataclasses import replace

import numpy as np
import pytest

from data.reading.roles import TableSpec, parse_bounds, table_spec
from data.reading.table import read_fleet
from tests.tables import SPEC, at, many, read, rows, series, table
from tft.schema import Metric


def test_a_rare_percentage_over_100_is_clipped(tmp_path):
    text = many([100.2] + [*range(99)] * 11, "cpu_percent")
    result = read(tmp_path, text, TableSpec(targets=("cpu_percent",)))
    assert result.targets == (Metric("cpu_percent", 0.0, 100.0),)
    assert series(result)[0] == 100
    assert result.summary.clipped == {"cpu_percent": 1}


def test_percentages_often_over_100_have_no_upper_bound(tmp_path):
    text = many([100.5, 110] + [*range(99)] * 11, "cpu_percent")
    result = read(tmp_path, text, TableSpec(targets=("cpu_percent",)))
    assert result.targets == (Metric("cpu_percent", 0.0),)
    assert series(result)[:2] == [100.5, 110] and result.summary.clipped == {}
    assert "0.18% of its values exceed 100" in "\n".join(result.summary.lines())


def test_a_rare_negative_is_missing(tmp_path):
    result = read(tmp_path, many([-1] + [*range(99)] * 11, "load"))
    assert result.targets == (Metric("load", 0.0),)
    assert series(result)[:2] == [None, 0] and result.summary.below == {"load": 1}


def test_a_signed_metric_has_no_lower_bound(tmp_path):
    result = read(tmp_path, many([-1, -5, 3], "load"))
    assert result.targets == (Metric("load"),)
    assert series(result) == [-1, -5, 3] and result.summary.below == {}
    assert "are negative, so it has no lower bound" in "\n".join(result.summary.lines())


def test_a_negative_percentage_is_always_missing(tmp_path):
    result = read(tmp_path, many([-1, -5, 3], "x_percent"), TableSpec(targets=("x_percent",)))
    assert series(result) == [None, None, 3]


def test_bounds_named_override_the_data(tmp_path):
    spec = replace(SPEC, bounds={"load": (2.0, 10.0)})
    result = read(tmp_path, many([-1, 1, 2, 10, 11], "load"), spec)
    assert result.targets == (Metric("load", 2.0, 10.0),)
    assert series(result) == [None, None, 2, 10, 10]


def test_a_value_out_of_bounds_does_not_spoil_the_mean_of_its_tick(tmp_path):
    spec = replace(SPEC, bounds={"load": (0.0, 10.0)})
    text = rows(f"{at(0)},a,-100", f"{at(1)},a,4", f"{at(2)},a,6", f"{at(5)},a,14", f"{at(6)},a,8")
    assert series(read(tmp_path, text, spec)) == [5, 9]


# --- roles ----------------------------------------------------------------------------------------


def columns(folder, spec=SPEC, servers: int = 4, ticks: int = 50, **more):
    """Read a table with columns added, each [servers * ticks]."""
    path = folder / "t.parquet"
    table(servers, ticks).drop(columns=["queue", "cores", "note"]).assign(**more).to_parquet(path)
    return read_fleet(path, spec)


def test_a_number_of_its_own_per_server_is_static(tmp_path):
    result = columns(tmp_path, cores=np.repeat([2, 4, 8, 8], 50))
    assert result.fleet.static_names == ("cores",)
    assert result.fleet.static.tolist() == [[2], [4], [8], [8]]
    assert result.fleet.metrics == ("load",)


@pytest.mark.parametrize(("changed", "static"), [(10, True), (11, False)])
def test_a_static_column_may_change_in_a_twentieth_of_its_rows(tmp_path, changed, static):
    cores = np.repeat([2.0, 4.0, 8.0, 8.0], 50)
    cores[:changed] = np.arange(100, 100 + changed)
    result = columns(tmp_path, cores=cores)
    assert result.fleet.static_names == (("cores",) if static else ())
    assert [metric.name for metric in result.observed] == ([] if static else ["cores"])
    if static:
        assert result.fleet.static[:, 0].tolist() == [2, 4, 8, 8]


def test_a_rare_event_is_no_static_column(tmp_path):
    """A counter that is 0 nearly always and everywhere tells no server apart."""
    events = np.zeros(200)
    events[[3, 120]] = 1
    assert [metric.name for metric in columns(tmp_path, events=events).observed] == ["events"]


def test_the_smallest_of_equally_common_static_values_counts(tmp_path):
    cores = np.repeat([2, 4, 8, 8], 50)
    cores[:25] = 16
    result = columns(tmp_path, replace(SPEC, static=("cores",)), cores=cores)
    assert result.fleet.static[:, 0].tolist() == [2, 4, 8, 8]


def test_a_server_with_too_many_static_values_has_none(tmp_path):
    """What is counted of them would depend on the order of the rows; 32 are counted whole."""
    cores = np.repeat(np.arange(1.0, 61), 60)  # sixty servers, sixty rows each
    cores[:60] = np.arange(60) % 33
    cores[60:120] = np.arange(60) % 32
    fleet = columns(tmp_path, servers=60, ticks=60, cores=cores).fleet
    static = dict(zip(fleet.servers, fleet.static[:, 0].tolist(), strict=True))
    assert np.isnan(static["srv0"])
    assert (static["srv1"], static["srv2"]) == (0, 3)


def test_a_column_named_static_that_changes_is_an_error(tmp_path):
    spec = replace(SPEC, static=("busy",))
    with pytest.raises(ValueError, match="'busy' was named static.*over 32 values.*observed"):
        columns(tmp_path, spec, busy=np.arange(200))


def test_columns_that_never_change(tmp_path):
    """A target is kept, as the user asked for it; another column would tell nothing."""
    flat = np.full(200, 3.0)
    spec = TableSpec(targets=("load", "flat_target"), observed=("flat_asked",))
    more = {"flat_target": flat, "flat_asked": flat, "flat": flat}
    result = columns(tmp_path, spec, **more)
    assert result.fleet.metrics == ("load", "flat_target", "flat_asked")
    for note in (
        "flat: left out, as it never changes",
        "flat_target: kept, though it never changes",
        "flat_asked: kept, though it never changes",
    ):
        assert note in result.summary.notes


def test_only_the_observed_columns_asked_for_are_read(tmp_path):
    more = {"one": np.arange(200), "two": np.arange(200), "cores": np.repeat([2, 4, 8, 8], 50)}
    result = columns(tmp_path, replace(SPEC, observed=("two",)), **more)
    assert (result.fleet.metrics, result.fleet.static_names) == (("load", "two"), ("cores",))
    assert "one: left out, as it was not asked for" in result.summary.notes


@pytest.mark.parametrize(("words", "numeric"), [(100, True), (101, False)])
def test_a_column_of_more_words_than_numbers_is_text(tmp_path, words, numeric):
    cells = ["word"] * words + [str(number) for number in range(200 - words)]
    result = columns(tmp_path, mixed=cells)
    assert ("mixed" in result.fleet.metrics) == numeric
    assert result.summary.rejected_cells == (words if numeric else 0)
    assert ("mixed: left out, as it is no column of numbers" in result.summary.notes) != numeric


def test_the_most_common_profile_of_a_server_is_its_profile(tmp_path):
    profile = np.array(["web"] * 200, object)
    profile[:20], profile[20:40], profile[40:50] = "db", "", None
    profile[50:75], profile[100:150] = "batch", None
    result = columns(tmp_path, profile=profile)
    assert result.fleet.profiles == ("db", "batch", None, "web")
    assert result.summary.profiles == 3


# --- the spec -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ()}, "targets is empty"),
        ({"targets": "cpu"}, "targets is one text"),
        ({"targets": ("a", "a")}, "'a' is named twice"),
        ({"targets": ("a",), "static": ("a",)}, "'a' is named twice"),
        ({"targets": ("timestamp",)}, "'timestamp' is named twice"),
        ({"timezone": "Mars/Base"}, "timezone 'Mars/Base' is unknown"),
        ({"step_seconds": 0}, "step_seconds 0 must be at least 1"),
        ({"bounds": {"load_average": (5.0, 5.0)}}, "lower bound 5.0 is not below"),
        (
            {"observed": (), "bounds": {"lod_average": (0, 1)}},
            "'lod_average'.*'load_average' the n",
        ),
    ],
)
def test_a_spec_that_contradicts_itself(options, message):
    with pytest.raises(ValueError, match=message):
        TableSpec(**options)


def test_bounds_of_a_column_that_is_no_metric(tmp_path):
    with pytest.raises(ValueError, match="bounds name 'queeu', which is no metric.*'queue'"):
        columns(tmp_path, replace(SPEC, bounds={"queeu": (0, 1)}), queue=np.arange(200))


def toml(text):
    return table_spec(tomllib.loads(text)["data"], "fleet.toml")


def test_a_spec_from_toml():
    spec = toml(
        """
        [data]
        timestamp = "time"
        targets = ["cpu", "rate"]
        observed = []
        timezone = "Europe/Berlin"
        step_seconds = 60
        strict = true
        [data.bounds]
        cpu = [0, 100.5]
        rate = ["none", "none"]
        """,
    )
    assert spec == TableSpec(
        timestamp="time",
        targets=("cpu", "rate"),
        observed=(),
        timezone="Europe/Berlin",
        step_seconds=60,
        strict=True,
        bounds={"cpu": (0.0, 100.5), "rate": (None, None)},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[data]\ntarget = []",
            r"fleet.toml: \[data\] unknown key 'target'.*'targets' the nearest",
        ),
        ("data = 3", r"\[data\] is 3; expected a table"),
        ("[data]\ntargets = 'cpu'", "targets = 'cpu': expected a list of column names"),
        ("[data]\nstep_seconds = 1.5", "step_seconds = 1.5: expected a value of type int"),
        ("[data]\nstrict = 1", "strict = 1: expected a value of type bool"),
        ("[data]\nbounds = 3", "bounds = 3: expected a table"),
        ("[data.bounds]\ncpu = [0]", r"expected \[lower, upper\]"),
        ("[data.bounds]\ncpu = [0, 'many']", "could not convert.*many"),
    ],
)
def test_toml_that_says_something_else(text, message):
    with pytest.raises(ValueError, match=message):
        toml(text)


def test_bounds_from_the_command_line():
    assert parse_bounds(["a=0:1.5", "b=:7", "c=-1:", "d=:"]) == {
        "a": (0, 1.5), "b": (None, 7), "c": (-1, None), "d": (None, None),
    }  # fmt: skip
    for pair in ("a", "a=1", "=0:1", "a=x:1"):
        with pytest.raises(ValueError, match="expected name=low:high"):
            parse_bounds([pair])

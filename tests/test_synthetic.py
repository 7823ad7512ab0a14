"""The synthetic fleet: reproducible, counted to the tick, and with something in it to forecast."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from data.synthetic import COLUMNS, FleetSpec, GenerationFacts, generate, write_fleet
from data.synthetic.plan import Server, draw_traits, plan_day, plan_gaps
from data.synthetic.profiles import PROFILES

DAY = 288
SMALL = FleetSpec(
    hours=30, num_ml_compute=1, num_database=1, num_web_api=1, num_data_ingest=1, num_generic=0
)

Fleet = tuple[pd.DataFrame, GenerationFacts]
Grid = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return generate(FleetSpec())


@pytest.fixture(scope="module")
def grid(fleet: Fleet) -> Grid:
    """Every metric as a regular table of ticks x servers, NaN where no row is."""
    table = fleet[0]
    ticks = pd.date_range("2026-01-05", periods=30 * DAY, freq="5min", tz="UTC", unit="us")
    return {
        metric: table.pivot(index="timestamp", columns="server_name", values=metric).reindex(ticks)
        for metric in COLUMNS[3:]
    }


def of(grid: Grid, metric: str, profile: str) -> pd.DataFrame:
    table = grid[metric]
    return table[[name for name in table if str(name).startswith(PROFILES[profile].prefix)]]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_same_seed_same_bytes_and_another_seed_other_bytes(
    tmp_path: Path, file_format: str
) -> None:
    paths = [
        write_fleet(spec, tmp_path / name, file_format)  # type: ignore[arg-type]
        for name, spec in (("a", SMALL), ("b", SMALL), ("c", replace(SMALL, seed=43)))
    ]
    for name in (f"fleet.{file_format}", "generation.json"):
        first, again, other = (digest(path.parent / name) for path in paths)
        assert first == again != other


def test_same_bytes_in_another_process_with_another_hash_seed(tmp_path: Path) -> None:
    here = write_fleet(SMALL, tmp_path / "here", "csv")
    code = (
        "import sys; from data.synthetic import *; import datetime; "
        f"write_fleet({SMALL!r}, sys.argv[1], 'csv')"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there")],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        check=True,
    )
    assert digest(tmp_path / "there" / "fleet.csv") == digest(here)


def test_longer_run_begins_with_the_shorter_one() -> None:
    short, _ = generate(SMALL)
    long, _ = generate(replace(SMALL, hours=53))
    begin = long[long["timestamp"] < pd.Timestamp(SMALL.start) + pd.Timedelta(hours=30)]
    pd.testing.assert_frame_equal(begin.reset_index(drop=True), short)


def test_own_draws_of_a_server_do_not_depend_on_the_others() -> None:
    one, two = (Server(f"ppdb000{n}", PROFILES["database"], n) for n in (1, 2))
    alone, both = draw_traits([two], 42), draw_traits([one, two], 42)
    assert alone.memory_base[0] == both.memory_base[1] != both.memory_base[0]
    gaps = {n: [plan_gaps(s, 42, day, DAY) for day in range(30)] for n, s in enumerate((one, two))}
    assert gaps[0] != gaps[1]


def test_default_fleet_is_172800_ticks_less_the_declared_missing(fleet: Fleet) -> None:
    table, facts = fleet
    assert len(table) == facts.rows == 172_800 - facts.total_missing
    assert facts.servers == len(facts.ticks_missing) == 20
    assert 0.003 < facts.total_missing / 172_800 < 0.01


def test_declared_missing_is_true_of_every_server(fleet: Fleet) -> None:
    table, facts = fleet
    seen = table.groupby("server_name")["timestamp"].nunique()
    assert (30 * DAY - seen).to_dict() == facts.ticks_missing


def test_missing_ticks_are_absent_rows_in_gaps_of_many_lengths(grid: Grid) -> None:
    absent = grid["cpu_percent"].isna().to_numpy()
    lengths = [
        len(run)
        for column in absent.T
        for run in np.split(column, np.flatnonzero(np.diff(column)) + 1)
        if run[0]
    ]
    assert lengths.count(1) > 100
    assert any(2 <= length <= 12 for length in lengths)
    assert any(length > 12 for length in lengths)
    for metric, table in grid.items():
        assert (table.isna().to_numpy() == absent).all(), f"{metric} is missing inside a row"


@pytest.mark.parametrize("step_seconds", [60, 900])
def test_count_holds_for_other_steps(step_seconds: int) -> None:
    table, facts = generate(replace(SMALL, hours=5, step_seconds=step_seconds))
    expected = facts.servers * 5 * 3600 // step_seconds
    assert len(table) + facts.total_missing == expected
    seconds = table["timestamp"].dt.hour * 3600 + table["timestamp"].dt.minute * 60
    assert (seconds % step_seconds == 0).all()


def test_table_is_sorted_typed_and_within_bounds(fleet: Fleet) -> None:
    table, _ = fleet
    assert tuple(table.columns) == COLUMNS
    assert str(table["timestamp"].dt.tz) == "UTC"
    keys = table[["server_name", "timestamp"]]
    pd.testing.assert_frame_equal(keys, keys.sort_values(["server_name", "timestamp"]))
    assert not keys.duplicated().any()
    assert table.groupby("profile")["server_name"].nunique().to_dict() == FleetSpec().counts
    assert table["server_name"].str.fullmatch(r"pp[a-z]+\d{4}").all()
    values = table[list(COLUMNS[3:])]
    assert (values.dtypes == np.float32).all()
    assert values.notna().all().all()
    assert (values >= 0).all().all()
    assert (values.filter(like="percent") <= 100).all().all()


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_file_holds_what_generate_returns(tmp_path: Path, file_format: str) -> None:
    path = write_fleet(SMALL, tmp_path, file_format)  # type: ignore[arg-type]
    table, facts = generate(SMALL)
    if file_format == "parquet":
        read = pd.read_parquet(path)
    else:
        read = pd.read_csv(path, parse_dates=["timestamp"])
        read["timestamp"] = read["timestamp"].astype(table["timestamp"].dtype)
        read = read.astype({metric: np.float32 for metric in COLUMNS[3:]})
    pd.testing.assert_frame_equal(read, table)
    written = json.loads((tmp_path / "generation.json").read_text())
    assert written == json.loads(json.dumps(replace(facts, format=file_format).to_dict()))
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, "generation.json"]


def test_levels_are_typical_of_each_profile(fleet: Fleet) -> None:
    means = fleet[0].groupby("profile")[list(COLUMNS[3:])].mean()
    for name, profile in PROFILES.items():
        typical = {
            "cpu_percent": profile.cpu,
            "memory_percent": profile.memory,
            "disk_percent": profile.disk,
            "load_average": profile.load,
            "network_in_mbs": profile.net_in,
            "network_out_mbs": profile.net_out,
        }
        for metric, level in typical.items():
            assert means.loc[name, metric] == pytest.approx(level, rel=0.25), (name, metric)


def test_web_weekends_are_quieter_than_weekdays(grid: Grid) -> None:
    cpu = of(grid, "cpu_percent", "web_api")
    weekend = pd.DatetimeIndex(cpu.index).day_of_week >= 5
    assert (cpu[weekend].mean() < 0.75 * cpu[~weekend].mean()).all()


def test_yesterday_and_last_week_tell_about_today(grid: Grid) -> None:
    for profile, floor in (("web_api", 0.5), ("database", 0.4), ("risk_analytics", 0.25)):
        for _, cpu in of(grid, "cpu_percent", profile).items():
            assert cpu.corr(cpu.shift(DAY)) > floor
            assert cpu.corr(cpu.shift(7 * DAY)) > cpu.corr(cpu.shift(DAY // 2)) + 0.3


def test_rhythm_beats_the_last_value_hours_ahead_but_not_minutes_ahead(grid: Grid) -> None:
    """A forecaster has to use both: neither naive forecast wins at every horizon."""
    cpu = grid["cpu_percent"]
    last_week = (cpu - cpu.shift(7 * DAY)).abs().mean().mean()
    assert last_week < 0.8 * (cpu - cpu.shift(72)).abs().mean().mean()
    assert last_week > 1.2 * (cpu - cpu.shift(1)).abs().mean().mean()


def test_nightly_job_runs_at_about_its_hour(grid: Grid) -> None:
    cpu = of(grid, "cpu_percent", "data_ingest")
    hour = pd.DatetimeIndex(cpu.index).hour
    weekday = pd.DatetimeIndex(cpu.index).day_of_week < 5
    during, before = cpu[(hour == 2) & weekday].mean(), cpu[(hour == 0) & weekday].mean()
    assert (during > before + 20).all()
    etl = [Server("ppetl0001", PROFILES["data_ingest"], 1)]
    traits = draw_traits(etl, 42)
    days = [plan_day(etl, traits, 42, day, FleetSpec().start, DAY) for day in range(5)]
    assert len({int(day.job_start[0, 0]) for day in days}) > 2, "the job starts to the minute"
    assert len({float(day.job_ticks[0, 0]) for day in days}) == 5, "the job always takes as long"


def test_load_follows_cpu_and_web_traffic_does_too(grid: Grid) -> None:
    cpu, load = grid["cpu_percent"], grid["load_average"]
    assert (cpu.corrwith(load) > 0.75).all()
    traffic = of(grid, "network_in_mbs", "web_api")
    assert (of(grid, "cpu_percent", "web_api").corrwith(traffic) > 0.75).all()


def test_load_lags_cpu(grid: Grid) -> None:
    cpu, load = grid["cpu_percent"], grid["load_average"]
    later, earlier = cpu.shift(1).corrwith(load), cpu.shift(-1).corrwith(load)
    assert (later > earlier).all()


def test_swap_rises_only_after_memory_is_nearly_full(grid: Grid) -> None:
    memory, swap = grid["memory_percent"], grid["swap_percent"]
    excess = swap - swap.min()
    calm = memory.rolling(2 * DAY, min_periods=1).max() < 89
    assert excess.where(calm).iloc[2 * DAY :].max().max() < 0.1
    assert excess.where(memory > 93).mean().mean() > 2


def test_leaks_grow_for_hours_and_end_in_a_restart(fleet: Fleet, grid: Grid) -> None:
    memory = grid["memory_percent"]
    ends = [restart for restart in fleet[1].restarts if restart.reason == "out_of_memory"]
    assert len(ends) >= 5
    for restart in ends:
        time = pd.Timestamp(restart.time)
        series = memory[restart.server]
        assert np.isnan(series[time]), "a restarting server does not report"
        before = series[time - pd.Timedelta(minutes=30) : time].max()
        after = series[time : time + pd.Timedelta(hours=2)].dropna().iloc[0]
        assert before > 90
        assert after < before - 10
    climbs = [
        memory[restart.server][: pd.Timestamp(restart.time)].rolling(12).median()
        for restart in fleet[1].restarts
        if restart.reason != "patch"
    ]
    slow = [climb for climb in climbs if len(climb) > 72 and climb.iloc[-6] > climb.iloc[-72] + 8]
    assert len(slow) >= 5, "no leak that could be seen six hours ahead"


def test_disks_are_cleaned_at_a_fixed_hour_or_when_nearly_full(grid: Grid) -> None:
    disk = grid["disk_percent"].ffill()
    drop = disk.diff()
    web = of({"drop": drop}, "drop", "web_api")
    nightly = 0
    for _, series in web.items():
        times = pd.DatetimeIndex(series[series < -1.5].index)
        minutes = (times.hour * 60 + times.minute).value_counts()
        nightly += bool(len(minutes)) and minutes.iloc[0] >= 20
    assert nightly >= 2, "no server whose logs are rotated at the same time every day"
    full = pd.concat([of(grid, "disk_percent", n) for n in ("database", "data_ingest")], axis=1)
    cleaned = full.ffill().diff(6).min() < -20
    assert cleaned.sum() >= 2
    assert (full.max()[cleaned] > 78).all()


def test_something_crosses_90_percent_and_most_ticks_do_not(grid: Grid) -> None:
    for metric, servers in (("cpu_percent", 4), ("memory_percent", 6), ("disk_percent", 2)):
        over = grid[metric] > 90
        assert over.any().sum() >= servers, metric
        assert 0.001 < over.to_numpy().mean() < 0.05, metric


def test_incidents_spread_within_minutes_to_an_hour(fleet: Fleet, grid: Grid) -> None:
    """Measured: CPU or I/O wait against the same hours of the other weeks."""
    names = {"overload": "cpu_percent", "slow_storage": "io_wait_percent"}
    rises: dict[str, list[float]] = {"origin": [], "reached": [], "before": []}

    def rise(metric: str, server: str, begin: pd.Timestamp) -> float:
        series = grid[metric][server]
        hour = series[begin : begin + pd.Timedelta(minutes=50)].to_numpy()[3:]
        usual: list[npt.NDArray[np.float64]] = []
        for weeks in (-3, -2, -1, 1, 2, 3):
            there = begin + pd.Timedelta(weeks=weeks)
            usual.append(series[there : there + pd.Timedelta(minutes=50)].to_numpy()[3:])
        return float(np.nanmean(hour) - np.nanmedian(np.concatenate(usual)))

    spreading = [one for one in fleet[1].incidents if one.kind in names and one.reached]
    assert len(spreading) >= 5
    for incident in spreading:
        assert all(5 <= minutes <= 65 for minutes in incident.reached.values())
        metric, start = names[incident.kind], pd.Timestamp(incident.start)
        rises["origin"].append(rise(metric, incident.origin, start))
        rises["before"].append(rise(metric, incident.origin, start - pd.Timedelta(hours=3)))
        for server, minutes in incident.reached.items():
            begin = start + pd.Timedelta(minutes=minutes)
            rises["reached"].append(rise(metric, server, begin))
    mean = {name: np.nanmean(values) for name, values in rises.items()}
    assert mean["origin"] > mean["before"] + 8
    assert mean["reached"] > mean["before"] + 5


def test_one_day_has_an_incident_too() -> None:
    assert generate(FleetSpec(hours=24))[1].incidents


def test_servers_of_a_profile_differ(grid: Grid) -> None:
    for metric in ("cpu_percent", "memory_percent", "disk_percent"):
        means = of(grid, metric, "web_api").mean()
        assert means.max() - means.min() > 0.02 * means.mean(), metric


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hours": 0}, "hours 0 must be a whole number from 1"),
        ({"hours": 1.5}, "hours 1.5 must be a whole number"),
        ({"num_web_api": -2}, "num_web_api -2 must be a whole number from 0 to 9999"),
        ({"num_generic": True}, "num_generic True must be"),
        ({"step_seconds": 420}, "step_seconds 420 must divide an hour"),
        ({"start": datetime(2026, 1, 5)}, "must be a datetime in UTC"),
        ({"start": datetime(2026, 1, 5, tzinfo=timezone(timedelta(hours=1)))}, "in UTC"),
        ({"start": datetime(2026, 1, 5, 7, tzinfo=UTC)}, "must be midnight"),
        ({f"num_{profile}": 0 for profile in PROFILES}, "the fleet is empty"),
    ],
)
def test_impossible_specs_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FleetSpec(**changes)  # type: ignore[arg-type]


def test_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file_format 'feather' must be one of parquet, csv"):
        write_fleet(SMALL, tmp_path / "out", "feather")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["fleet.csv", "fleet.parquet", "generation.json"])
def test_file_of_somebody_else_is_left_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"theirs": true}')
    with pytest.raises(FileExistsError, match=f"{name} was not written by this generator"):
        write_fleet(SMALL, tmp_path, "csv")
    assert (tmp_path / name).read_text() == '{"theirs": true}'
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_own_file_is_replaced_but_not_by_another_format(tmp_path: Path) -> None:
    path = write_fleet(SMALL, tmp_path, "csv")
    before = digest(path)
    with pytest.raises(FileExistsError, match="a directory holds one fleet"):
        write_fleet(SMALL, tmp_path, "parquet")
    assert digest(path) == before
    write_fleet(replace(SMALL, seed=1), tmp_path, "csv")
    assert digest(path) != before
    assert json.loads((tmp_path / "generation.json").read_text())["seed"] == 1


def test_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FileExistsError, match="name a directory"):
        write_fleet(SMALL, tmp_path / "out")


def test_interrupted_write_leaves_nothing_and_the_earlier_fleet_whole(tmp_path: Path) -> None:
    def interrupt(fraction: float) -> None:
        if fraction > 0.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_fleet(SMALL, tmp_path / "new", "csv", progress=interrupt)
    assert not list((tmp_path / "new").iterdir())
    path = write_fleet(SMALL, tmp_path / "old", "parquet")
    before = digest(path)
    with pytest.raises(KeyboardInterrupt):
        write_fleet(replace(SMALL, seed=1), tmp_path / "old", "parquet", progress=interrupt)
    assert digest(path) == before
    assert len(list((tmp_path / "old").iterdir())) == 2


def test_progress_rises_to_one(tmp_path: Path) -> None:
    seen: list[float] = []
    write_fleet(SMALL, tmp_path, progress=seen.append)
    assert len(seen) > 4
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


def test_an_interrupted_run_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder would be taken for a fleet that is there."""

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("data.synthetic.writer.simulate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_fleet(SMALL, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []

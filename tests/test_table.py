"""A whole table: the fleet it becomes, whatever its order, format and number of files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.reading.roles import TableSpec
from data.reading.table import read_fleet
from tests.tables import MIDNIGHT, SPEC, at, read, rows, same, series, table
from tft.schema import FeatureSchema, Metric

BITBRAINS = Path(__file__).parents[2] / "shared/data/bitbrains/fleet.parquet"


def test_series_run_from_first_to_last_row_on_one_grid(tmp_path):
    """Servers that appear late or vanish have shorter series, not padded ones."""
    result = read(tmp_path, rows(f"{at(0)},b,1", f"{at(5)},b,2", f"{at(5)},a,3", f"{at(15)},a,5"))
    fleet = result.fleet
    assert fleet.servers == ("a", "b")
    assert fleet.first_tick.tolist() == [MIDNIGHT // 300 + 1, MIDNIGHT // 300]
    assert fleet.lengths.tolist() == [3, 2]
    assert series(result, "a") == [3, None, 5]
    assert series(result, "b") == [1, 2]
    assert fleet.values.dtype == np.float32 and fleet.static.shape == (2, 0)


def test_rows_in_any_order(tmp_path):
    result = read(tmp_path, rows(f"{at(10)},a,3", f"{at(0)},a,1", f"{at(5)},a,2"))
    assert series(result) == [1, 2, 3]


@pytest.mark.parametrize(
    ("seconds", "tick"), [(0, 0), (299 - 30, 0), (270, 1), (299, 1), (330, 1), (-30, 0), (-31, -1)]
)
def test_a_clock_up_to_30_seconds_early_is_let_pass(tmp_path, seconds, tick):
    result = read(tmp_path, rows(f"{MIDNIGHT + seconds},a,1", f"{MIDNIGHT + seconds + 300},a,2"))
    assert result.fleet.first_tick[0] == MIDNIGHT // 300 + tick


def test_early_is_at_most_a_tenth_of_a_step(tmp_path):
    """30 s would be half of a one-minute step: every row would land in the wrong one."""
    text = rows(f"{MIDNIGHT + 53},a,1", f"{MIDNIGHT + 113},a,2")
    result = read(tmp_path, text, replace(SPEC, step_seconds=60))
    assert result.fleet.first_tick[0] == MIDNIGHT // 60
    assert series(result) == [1, 2]


SCHEMA = FeatureSchema(
    targets=(Metric("load", 0.0, 4.0),),
    observed=(Metric("queue", 0.0), Metric("gone", 0.0)),
    static_reals=("cores", "weight"),
)


def test_a_trained_forecaster_s_roles_and_bounds_are_used(tmp_path):
    """Serving data must not decide anew what training decided."""
    table().to_csv(tmp_path / "t.csv", index=False)
    result = read_fleet(tmp_path / "t.csv", TableSpec(), SCHEMA)
    assert result.fleet.metrics == ("load", "queue", "gone")
    assert (result.targets, result.observed) == (SCHEMA.targets, SCHEMA.observed)
    assert np.isnan(result.fleet.values[:, 2]).all()
    assert result.fleet.static[:, 0].tolist() == [2, 4, 8]
    assert np.isnan(result.fleet.static[:, 1]).all()
    assert result.fleet.values[:, 0].max() == 4 and result.summary.clipped["load"] > 0
    told = "\n".join(result.summary.lines())
    assert "gone: not in the table" in told and "weight: not in the table" in told


def test_a_trained_forecaster_s_step_is_used(tmp_path):
    text = rows(f"{at(0)},a,1", f"{at(1)},a,2", header="timestamp,server_name,load")
    assert read(tmp_path, text, schema=replace(SCHEMA, step_seconds=60)).fleet.step_seconds == 60


def test_a_trained_forecaster_needs_its_targets(tmp_path):
    table().rename(columns={"load": "laod"}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="'load'.*trained.*queue.*'laod' the nearest"):
        read_fleet(tmp_path / "t.csv", TableSpec(), SCHEMA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (rows(), "holds no usable row; 0 read"),
        (rows("never,a,1"), "no usable row; 1 read, 1 rejected.*line 2.*'never'"),
        (rows(f"{at(0)},a,x"), "target column 'load' holds no number"),
        (
            rows("1,2", header="time,load"),
            "no column 'timestamp' .timestamp.; there are time, load, 'time'",
        ),
        (rows("1,2", header="timestamp,load"), "no column 'server_name'.*timestamp, load"),
        (rows("1,2,3", header="timestamp,server_name,laod"), "'load'.*'laod' the nearest"),
        (rows("1;2;3", header="timestamp;server_name;load"), "with commas between fields"),
        (
            rows("1,a,2", header="Timestamp,server_name,load"),
            "'Timestamp' the nearest; .* which one it is with --timestamp-column",
        ),
        (rows("1,a,2", header="timestamp,vm,load"), "with --server-column"),
        (rows("1,a,2", header="timestamp,server_name,cpu"), "'load' .target.*with --target"),
        (rows("1;2;3", header="timestamp;server_name;load"), "points in decimals"),
        (
            rows(f"{at(0)},a,1", "1980-01-01,a,2"),
            "server 'a'.*row at 1980-01-01.*next at 2024-01-01.*take out the rows",
        ),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize("apart", [600, 900, 3600])
def test_rows_further_apart_than_the_step_are_an_error(tmp_path, apart):
    """An hourly table read with the default step would be eleven twelfths gaps, and say nothing."""
    times = [MIDNIGHT + apart * row for row in range(40) if row not in (7, 8, 20)]
    text = rows(*(f"{time},a,{time}" for time in times))
    with pytest.raises(ValueError, match=f"{apart} s apart, .*is 300; set step_seconds = {apart}$"):
        read(tmp_path, text)
    assert len(read(tmp_path, text, replace(SPEC, step_seconds=apart)).fleet.values) == 40
    with pytest.raises(ValueError, match="trained on a step of 300 s; give it rows as close"):
        read(tmp_path, text, schema=SCHEMA)


@pytest.mark.parametrize("missing", [0.3, 0.5, 0.8])
def test_missing_rows_are_no_longer_step(tmp_path, missing):
    """Half the ticks missing at random leave a median spacing of two steps."""
    kept = np.flatnonzero(np.random.default_rng(0).random(2000) >= missing)
    summary = read(tmp_path, rows(*(f"{MIDNIGHT + 300 * row},a,{row}" for row in kept))).summary
    assert summary.rows == len(kept)


@pytest.mark.parametrize("apart", [60, 300, 430])
def test_rows_closer_than_the_step_or_nearly_as_far_are_no_error(tmp_path, apart):
    lines = [f"{MIDNIGHT + apart * row},a,{row}" for row in range(40)]
    assert read(tmp_path, rows(*lines[:15], *lines[20:])).summary.rows == 35


def test_two_servers_ten_years_apart_are_no_error(tmp_path):
    """It is the grid of one server that would grow; two short series cost nothing."""
    assert len(read(tmp_path, rows(f"{at(0)},a,1", "1980-01-01,b,2")).fleet.values) == 2


def test_a_key_column_of_no_use_is_an_error(tmp_path):
    table().assign(server_name=[[1]] * 18).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="column 'server_name' is no server_name"):
        read_fleet(tmp_path / "t.parquet", SPEC)


@pytest.mark.parametrize("column", ["load", "queue", "cores"])
def test_a_metric_that_cannot_be_a_number_is_an_error(tmp_path, column):
    """Asked for by a person or by a trained forecaster, required or not."""
    table().assign(**{column: pd.Timestamp("2024-01-01")}).to_parquet(tmp_path / "t.parquet")
    spec = TableSpec(targets=("load",), observed=("queue",), static=("cores",))
    for options in ({"spec": spec}, {"schema": SCHEMA}):
        with pytest.raises(ValueError, match=f"column '{column}' holds time, no number"):
            read_fleet(tmp_path / "t.parquet", **options)


def test_a_profile_column_asked_for_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="no column 'rôle' .profile."):
        read(tmp_path, rows(f"{at(0)},a,1"), replace(SPEC, profile="rôle"))


def test_csv_parquet_and_folders_give_the_same_fleet(tmp_path):
    frame = table()
    frame.loc[4, "load"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    frame.to_csv(tmp_path / "bom.csv", index=False, encoding="utf-8-sig")
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=5)
    frame.astype({"server_name": "category"}).to_parquet(tmp_path / "category.parquet")
    frame.to_parquet(tmp_path / "by_server", partition_cols=["server_name"])
    for kind in ("csv", "parquet"):
        (tmp_path / kind / "deeper").mkdir(parents=True)
        write = {
            "csv": lambda part, p: part.to_csv(p, index=False),
            "parquet": pd.DataFrame.to_parquet,
        }
        write[kind](frame[::2], tmp_path / kind / f"1.{kind}")
        write[kind](frame[1::2], tmp_path / kind / "deeper" / f"2.{kind}")
        (tmp_path / kind / "generation.json").write_text("{}")
        (tmp_path / kind / f"_half.{kind}").write_text("half a table")
    results = {path.name: read_fleet(path, SPEC) for path in tmp_path.iterdir()}
    assert len(results) == 8
    expected = results["t.parquet"]
    assert expected.fleet.profiles == ("db", "web", "db")
    for name, result in results.items():
        assert result.fleet.servers == expected.fleet.servers, name
        same(result.fleet, expected.fleet)
        assert (result.targets, result.observed) == (expected.targets, expected.observed)
        assert result.summary.lines()[1:] == expected.summary.lines()[1:]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_order_of_rows_and_split_into_files_change_nothing(tmp_path_factory, data):
    """Whatever the table holds, duplicates and bad cells among it."""
    frame = table(3, 5)
    frame["load"] = frame["load"].astype(str)
    frame["cores"] = frame["cores"].astype(str)
    for row in data.draw(st.lists(st.integers(0, 14), max_size=6)):
        column = data.draw(st.sampled_from(["load", "cores", "profile"]))
        frame.loc[row, column] = data.draw(st.sampled_from(["", "bad", "-4", "1e99", "8"]))
    again = data.draw(st.lists(st.integers(0, 14), max_size=9))
    repeated = frame.iloc[again].assign(load=[str(0.5 * row) for row in again])
    frame = pd.concat([frame, repeated], ignore_index=True)
    shuffled = frame.iloc[data.draw(st.permutations(range(len(frame))))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(frame)), max_size=3)))
    folder = tmp_path_factory.mktemp("parts")
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(frame)], strict=True)):
        shuffled[start:end].to_csv(folder / f"{number}.csv", index=False)
    frame.to_csv(folder.with_suffix(".csv"), index=False)
    whole, parts = read_fleet(folder.with_suffix(".csv"), SPEC), read_fleet(folder, SPEC)
    same(whole.fleet, parts.fleet)
    different = {"files": 1, "rejections": ()}
    assert replace(whole.summary, **different) == replace(parts.summary, **different)


def test_files_of_a_folder_may_differ_in_columns(tmp_path):
    table(1, 3).to_csv(tmp_path / "1.csv", index=False)
    later = table(1, 6)[3:][["server_name", "load", "timestamp"]]
    later.assign(queue=[1, 2, 3]).to_csv(tmp_path / "2.csv", index=False)
    frame = table(1, 6)
    frame.loc[3:, "queue"] = [1, 2, 3]
    frame.to_csv(tmp_path.with_suffix(".csv"), index=False)
    same(read_fleet(tmp_path, SPEC).fleet, read_fleet(tmp_path.with_suffix(".csv"), SPEC).fleet)


def test_an_index_that_pandas_wrote_is_no_metric(tmp_path):
    """A filtered frame's row numbers: trained on, they are missing in every other table."""
    frame = table(2, 6).iloc[[0, 1, 3, 7, 8, 11]]
    frame.to_parquet(tmp_path / "with.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "with.parquet").names
    frame.to_parquet(tmp_path / "without.parquet", index=False)
    found, expected = (
        read_fleet(tmp_path / f"{name}.parquet", SPEC) for name in ("with", "without")
    )
    assert found.fleet.metrics == expected.fleet.metrics
    assert found.fleet.static_names == expected.fleet.static_names


def test_the_key_columns_must_be_in_every_file(tmp_path):
    table().to_csv(tmp_path / "1.csv", index=False)
    table().drop(columns="timestamp").to_csv(tmp_path / "2.csv", index=False)
    with pytest.raises(ValueError, match=r"2\.csv has no column 'timestamp'"):
        read_fleet(tmp_path, SPEC)


def test_many_chunks_equal_one(tmp_path, monkeypatch):
    """Chunks are an implementation's business: a table over 64 K rows must not show them."""
    frame = table(5, 40)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    whole = read_fleet(tmp_path / "t.parquet", SPEC)
    monkeypatch.setattr("data.reading.files.CHUNK_ROWS", 7)
    monkeypatch.setattr("data.reading.files.CSV_BLOCK_BYTES", 700)
    same(read_fleet(tmp_path / "t.parquet", SPEC).fleet, whole.fleet)
    same(read_fleet(tmp_path / "t.csv", SPEC).fleet, whole.fleet)


def test_a_line_is_found_in_a_later_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("data.reading.files.CSV_BLOCK_BYTES", 500)
    lines = [f"{at(5 * index)},a,1" for index in range(60)]
    lines[50] = f"{at(250)},a,bad"
    assert "line 52" in read(tmp_path, rows(*lines)).summary.rejections[0]
    lines[7] = "cut"
    told = "\n".join(read(tmp_path, rows(*lines)).summary.rejections)
    assert "line 52" in told and "line 9: expected 3 fields" in told


def test_a_file_that_grows_between_the_passes_is_an_error(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(rows(f"{at(0)},a,1"))

    def grow(share: float) -> None:
        path.write_text(rows(f"{at(0)},a,1", f"{at(10)},a,2"))

    with pytest.raises(ValueError, match="changed while it was being read"):
        read_fleet(path, SPEC, progress=grow)


def test_progress_climbs_to_one(tmp_path):
    shares: list[float] = []
    for number in range(3):
        table().to_csv(tmp_path / f"{number}.csv", index=False)
    read_fleet(tmp_path, SPEC, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1 and 0 < shares[0] < 0.5


def test_bitbrains():
    """Real machines: drifting clocks, gaps, percentages over 100, memory sizes that vary."""
    if not BITBRAINS.exists():
        pytest.skip("the Bitbrains table is not beside the repository")
    targets = ("cpu_percent", "memory_percent", "disk_write_kbs", "net_in_kbs")
    result = read_fleet(BITBRAINS, TableSpec(targets=targets, strict=True))
    assert result.targets[:2] == (Metric("cpu_percent", 0.0), Metric("memory_percent", 0.0, 100.0))
    assert [metric.name for metric in result.observed] == ["disk_read_kbs", "net_out_kbs"]
    assert result.fleet.static_names == ("cores", "memory_capacity_mb")
    assert not np.isnan(result.fleet.static).any()
    summary = result.summary
    assert (summary.rows, summary.servers, summary.merged_rows) == (812_187, 48, 0)
    assert summary.ticks - summary.ticks_missing == 812_187 and summary.cells_missing == 0
    assert result.fleet.profiles == (None,) * 48

"""Cells and rows: what is read, what is missing, what is rejected and where."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from data.reading.table import read_fleet
from tests.tables import MIDNIGHT, SPEC, at, read, rows, series, table


def test_missing_and_infinite_cells_are_missing(tmp_path):
    cells = ["", "nan", "NaN", "NA", "n/a", "null", "None", "-", "inf", "-Infinity", "1e300", "7"]
    lines = [f"{at(5 * index)},a,{cell}" for index, cell in enumerate(cells)]
    result = read(tmp_path, rows(*lines), replace(SPEC, strict=True))
    assert series(result) == [None] * 11 + [7]
    assert (result.summary.infinite_cells, result.summary.cells_missing) == (3, 11)
    assert result.summary.ticks_missing == 0


def test_text_in_a_number_column_is_rejected_cell_by_cell(tmp_path):
    cells = ["1", "abc", "45%", "1_000", " 5 ", "0x1F", "2", "3", "4", "abc"]
    lines = [f"{at(5 * index)},a,{cell}" for index, cell in enumerate(cells)]
    result = read(tmp_path, rows(*lines))
    assert series(result) == [1, None, None, None, 5, None, 2, 3, 4, None]
    assert (result.summary.rejected_cells, result.summary.rejected_rows) == (5, 0)
    first = result.summary.rejections[0]
    assert first.endswith("table.csv, line 3, column 'load': 'abc', expected a number")


def test_text_in_a_parquet_number_column(tmp_path):
    frame = table(1, 4).assign(load=["1", "two", "3", None])
    frame.to_parquet(tmp_path / "t.parquet")
    result = read_fleet(tmp_path / "t.parquet", SPEC)
    assert series(result, "srv0") == [1, None, 3, None]
    assert "t.parquet, row 2, column 'load': 'two'" in result.summary.rejections[0]


def test_only_the_first_few_rejections_are_told(tmp_path):
    lines = [f"{at(5 * index)},a,bad" for index in range(9)]
    summary = read(tmp_path, rows(*lines, f"{at(50)},a,1")).summary
    assert (summary.rejected_cells, len(summary.rejections)) == (9, 5)


def test_strict_makes_a_rejected_cell_an_error(tmp_path):
    text = rows(f"{at(0)},a,1", f"{at(5)},a,lots")
    pattern = r"table\.csv, line 3, column 'load': 'lots', expected a number"
    with pytest.raises(ValueError, match=pattern):
        read(tmp_path, text, replace(SPEC, strict=True))


@pytest.mark.parametrize("line", ["noon,a,1", f"{at(0)},,1", f"{at(0)},a,1,2"])
def test_strict_makes_a_rejected_row_an_error(tmp_path, line):
    text = rows(f"{at(0)},a,1", line)
    assert read(tmp_path, text).summary.rejected_rows == 1
    with pytest.raises(ValueError, match=r"table\.csv, line 3.*expected"):
        read(tmp_path, text, replace(SPEC, strict=True))


def test_strict_makes_a_rejected_static_cell_an_error(tmp_path):
    text = rows(f"{at(0)},a,1,4", f"{at(5)},a,1,many", header="timestamp,server_name,load,cores")
    spec = replace(SPEC, static=("cores",))
    assert read(tmp_path, text, spec).summary.rejected_cells == 1
    with pytest.raises(ValueError, match="line 3, column 'cores': 'many'"):
        read(tmp_path, text, replace(spec, strict=True))


def test_rows_without_a_place_are_rejected_with_their_line(tmp_path):
    text = rows(f"{at(0)},a,1", f"{at(5)},  ,2", "yesterday,a,3", ",a,4", "0,a,5", f"{at(5)},a,6")
    result = read(tmp_path, text)
    assert series(result) == [1, 6]
    assert (result.summary.rows, result.summary.rejected_rows) == (6, 4)
    told = "\n".join(result.summary.rejections)
    for part in ("line 3, column 'server_name'", "line 4, column 'timestamp': 'yesterday'"):
        assert part in told
    assert "line 5, column 'timestamp': empty" in told
    assert "line 6, column 'timestamp': '0'" in told


def test_lines_with_too_few_or_too_many_fields_are_rejected(tmp_path):
    """A last line cut short is what a file being written looks like."""
    text = rows(f"{at(0)},a,1", f"{at(5)},a,2,3", f"{at(5)},a,x", f"{at(10)},a,4", f"{at(15)},a")
    result = read(tmp_path, text)
    assert series(result) == [1, None, 4]
    assert (result.summary.rows, result.summary.rejected_rows) == (5, 2)
    told = "\n".join(result.summary.rejections)
    assert "line 3: expected 3 fields" in told
    assert "line 6: expected 3 fields" in told
    assert "line 4, column 'load': 'x'" in told  # counted past the line before


def test_empty_lines_are_skipped_and_counted_as_lines(tmp_path):
    result = read(tmp_path, rows(f"{at(0)},a,1", "", f"{at(5)},a,2", "never,a,3", "", ""))
    assert series(result) == [1, 2]
    assert (result.summary.blank_rows, result.summary.rejected_rows) == (3, 1)
    assert "line 5" in result.summary.rejections[0]


def test_a_server_with_no_readable_time_is_left_out(tmp_path):
    result = read(tmp_path, rows("never,a,1", f"{at(0)},b,2", f"{at(5)},b,3"))
    assert result.fleet.servers == ("b",) and series(result, "b") == [2, 3]


def test_spaces_around_a_server_name_do_not_count(tmp_path):
    result = read(tmp_path, rows(f"{at(0)}, a,1", f"{at(5)},a ,2", f"{at(10)},a,3"))
    assert result.fleet.servers == ("a",) and series(result) == [1, 2, 3]


def test_server_names_that_are_numbers(tmp_path):
    frame = table().assign(server_name=np.repeat([30, 4, 5], 6))
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_fleet(tmp_path / "t.parquet", SPEC).fleet.servers == ("30", "4", "5")


@pytest.mark.parametrize(
    "first",
    [
        "2024-01-01T00:00:00Z",
        "2024-01-01 00:00:00+00:00",
        "2024-01-01T01:30:00.250+01:30",
        "2024-01-01",
        "2024-01-01T00:00:10.123456789",
        str(MIDNIGHT),
        f"{MIDNIGHT}.75",
        str(MIDNIGHT * 10**3),
        str(MIDNIGHT * 10**6),
        str(MIDNIGHT * 10**9),
    ],
)
def test_ways_to_write_a_time(tmp_path, first):
    """Alone, where all cells are of one kind, and mixed with others."""
    alone = read(tmp_path, rows(f"{first},a,1"))
    mixed = read(tmp_path, rows(f"{at(5)},a,1", f"{first},a,2", f"{MIDNIGHT},b,1", "no,b,1"))
    assert alone.fleet.first_tick.tolist() == [MIDNIGHT // 300]
    assert mixed.fleet.first_tick.tolist() == [MIDNIGHT // 300] * 2


@pytest.mark.parametrize("timezone", ["UTC", "Asia/Kolkata"])
@pytest.mark.parametrize("mixed", [False, True])
def test_times_without_a_zone_are_read_in_the_zone_named(tmp_path, timezone, mixed):
    text = rows("2024-01-01T05:30:00,a,1", *[f"{at(0)},b,1"] * mixed)
    result = read(tmp_path, text, replace(SPEC, timezone=timezone))
    late = 0 if timezone == "Asia/Kolkata" else 66
    assert result.fleet.first_tick[0] == MIDNIGHT // 300 + late
    assert result.summary.naive_times == 1
    assert f"read as {timezone}" in "\n".join(result.summary.lines())


@pytest.mark.parametrize(
    "word", ["now", "today", "31/12/2024", "20240101", "9999-01-01", "1970-01-01"]
)
@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin"])
def test_what_is_no_time_of_use(tmp_path, word, timezone):
    """pandas reads some of them; the rest are of a clock that was never set."""
    text = rows(f"{word},a,1", f"{at(0)},a,2")
    result = read(tmp_path, text, replace(SPEC, timezone=timezone))
    assert series(result) == [2] and result.summary.rejected_rows == 1


def test_times_with_a_zone_are_not_called_naive(tmp_path):
    assert "time zone" not in "\n".join(read(tmp_path, rows(f"{at(0)},a,1")).summary.lines())


def test_local_times_shown_twice_or_never(tmp_path):
    """Berlin 2024: 02:00 to 03:00 never was on 31 March, and was twice on 27 October."""
    text = rows("2024-03-31 02:30,never,1", "2024-10-27 02:30,twice,1")
    fleet = read(tmp_path, text, replace(SPEC, timezone="Europe/Berlin")).fleet
    expected = [pd.Timestamp("2024-03-31T01:00Z"), pd.Timestamp("2024-10-27T00:30Z")]
    assert fleet.first_tick.tolist() == [int(time.timestamp()) // 300 for time in expected]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC", None])
def test_parquet_times_of_every_unit(tmp_path, unit, zone):
    frame = table()
    times = (
        frame["timestamp"].dt.tz_convert(zone) if zone else frame["timestamp"].dt.tz_localize(None)
    )
    frame["timestamp"] = times.dt.as_unit(unit)
    frame.to_parquet(tmp_path / "t.parquet")
    result = read_fleet(tmp_path / "t.parquet", SPEC)
    assert result.fleet.first_tick.tolist() == [MIDNIGHT // 300] * 3
    assert result.summary.naive_times == (0 if zone else 18)


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("42.0%", "'42.0%', expected a number; write 42.0"),
        ("7 %", "; write 7"),
        ('"38,45"', "'38,45', expected a number; write 38.45"),
        ('"1,234"', "'1,234', expected a number"),  # a thousand, or little more than one
    ],
)
def test_a_target_of_text_shows_its_first_cell_and_how_to_write_it(tmp_path, cell, hint):
    pattern = rf"'load' holds no number \(.*table\.csv, line 2, .*{hint}\); .* with --target"
    with pytest.raises(ValueError, match=pattern):
        read(tmp_path, rows(f"{at(0)},a,{cell}"))


def test_a_time_that_cannot_be_read_is_answered_with_an_example(tmp_path):
    with pytest.raises(ValueError, match="such as 2026-01-05T12:00:00Z"):
        read(tmp_path, rows("5.1.26,a,1"))

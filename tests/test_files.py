"""Opening files: what is a table, and what is said of one that is none."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.reading.table import read_fleet
from tests.tables import SPEC, at, read, rows, series, table


def test_a_path_to_nothing(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder: .*nowhere"):
        read_fleet(tmp_path / "nowhere.csv", SPEC)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "table.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"table\.xlsx is not a table; .*\.csv\.gz or \.parquet"):
        read_fleet(tmp_path / "table.xlsx", SPEC)


def test_a_folder_without_tables(tmp_path):
    for name in ("generation.json", ".hidden.csv", "_metadata.parquet"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="holds no table; expected files ending in"):
        read_fleet(tmp_path, SPEC)


def test_both_formats_in_one_folder(tmp_path):
    table().to_csv(tmp_path / "1.csv", index=False)
    table().to_parquet(tmp_path / "2.parquet")
    with pytest.raises(ValueError, match="both CSV and Parquet files; keep one"):
        read_fleet(tmp_path, SPEC)


def test_an_empty_csv_file(tmp_path):
    with pytest.raises(ValueError, match=r"table\.csv is empty; expected a header"):
        read(tmp_path, "")


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_header_and_nothing_else(tmp_path, ending):
    with pytest.raises(ValueError, match=r"table\.csv holds no usable row"):
        read(tmp_path, "timestamp,server_name,load" + ending)


@pytest.mark.parametrize("second", ["load", " load"])
def test_a_column_named_twice(tmp_path, second):
    with pytest.raises(ValueError, match="names column 'load' twice"):
        read(tmp_path, rows(f"{at(0)},a,1,2", header=f"timestamp,server_name,load,{second}"))


def test_a_parquet_column_named_twice(tmp_path):
    columns = [pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, ["load", "load"]), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="names column 'load' twice"):
        read_fleet(tmp_path / "t.parquet", SPEC)


def test_spaces_around_the_names_of_columns(tmp_path):
    result = read(tmp_path, rows(f"{at(0)},a,1", header=" timestamp, server_name , load"))
    assert series(result) == [1]


def test_quoted_cells(tmp_path):
    text = rows(f'"{at(0)}","rack 1, left","1"', header='"timestamp","server_name","load"')
    assert series(read(tmp_path, text), "rack 1, left") == [1]


@pytest.mark.parametrize("damage", ["cut", "garbage", "middle"])
def test_a_damaged_parquet_file(tmp_path, damage):
    path = tmp_path / "t.parquet"
    table(50, 50).to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-50],
            "garbage": b"not a table",
            "middle": whole[:4] + b"\xff" * 2_000 + whole[2_004:],
        }[damage]
    )
    with pytest.raises(ValueError, match=r"cannot read .*t\.parquet: .*write (it|the file) again"):
        read_fleet(path, SPEC)


@pytest.mark.parametrize("kept", [30, -12])
def test_a_damaged_gzip_file(tmp_path, kept):
    path = tmp_path / "t.csv.gz"
    table(50, 50).to_csv(path, index=False)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cannot read .*t\.csv\.gz: .*write the file again"):
        read_fleet(path, SPEC)


@pytest.mark.parametrize("line", ["timestamp,server_name,load,größe", f"{at(0)},größe,1"])
def test_a_file_that_is_not_utf_8(tmp_path, line):
    path = tmp_path / "t.csv"
    text = rows(f"{at(0)},a,1", line)
    path.write_bytes((text if line[0] == "2" else line + "\n").encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv: it is not UTF-8 text; save it as UTF-8"):
        read_fleet(path, SPEC)


def test_a_file_of_ragged_lines_is_no_table(tmp_path):
    text = rows(f"{at(0)},a,1", *["1,2"] * 2_000)
    with pytest.raises(ValueError, match="more than 1,000 lines have not the 3 fields"):
        read(tmp_path, text)


def test_columns_of_no_use_are_left_alone(tmp_path):
    frame = table().assign(tags=[["x"]] * 18, seen=pd.Timestamp("2024-01-01"))
    frame.to_parquet(tmp_path / "t.parquet")
    result = read_fleet(tmp_path / "t.parquet", SPEC)
    assert result.fleet.metrics == ("load", "queue")
    for name in ("tags", "seen", "note"):
        assert f"{name}: left out, as it is no column of numbers" in result.summary.notes

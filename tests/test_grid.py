"""Values in their place: means of what shares a tick, gaps left open."""

import numpy as np
import pytest

from data.reading.grid import Grid
from data.reading.table import read_fleet
from tests.tables import SPEC, at, read, rows, series


def test_rows_of_one_tick_become_the_mean_of_what_they_hold(tmp_path):
    text = rows(f"{at(0)},a,1", f"{at(1)},a,", f"{at(2)},a,5", f"{at(2)},a,9", f"{at(5)},a,7")
    result = read(tmp_path, text)
    assert series(result) == [5, 7]
    assert result.summary.merged_rows == 3


def test_rows_of_one_tick_are_merged_across_files(tmp_path):
    """Sums must survive from chunk to chunk, for each metric apart."""
    header = "timestamp,server_name,load,queue"
    for name, cells in (("1", "1,"), ("2", "2,4"), ("3", "6,8"), ("4", ",")):
        text = rows(f"{at(0)},a,{cells}", f"{at(5)},a,0,0", header=header)
        (tmp_path / f"{name}.csv").write_text(text)
    result = read_fleet(tmp_path, SPEC)
    assert result.fleet.values.tolist() == [[3, 6], [0, 0]]
    assert result.summary.merged_rows == 6


def test_gaps_stay_missing_and_are_counted(tmp_path):
    lines = [f"{at(minutes)},a,{minutes}" for minutes in (0, 5, 15, 85, 90)]
    result = read(tmp_path, rows(*lines, f"{at(0)},b,1", f"{at(200)},b,2"))
    summary = result.summary
    assert np.isnan(result.fleet.values).sum() == summary.ticks_missing == 1 + 13 + 39
    assert (summary.gaps, summary.longest_gap, summary.gaps_over_an_hour) == (3, 39, 2)
    assert summary.filled == 0 and "filled 0" in "\n".join(summary.lines())


def test_an_hour_is_no_gap_over_an_hour(tmp_path):
    result = read(tmp_path, rows(f"{at(0)},a,1", f"{at(65)},a,2"))
    assert (result.summary.longest_gap, result.summary.gaps_over_an_hour) == (12, 0)


def test_too_many_rows_in_one_tick_are_an_error():
    """Sixteen bits count them; more must not start again from nought."""
    grid = Grid(np.array([0]), np.array([1]), 1)
    grid.add(np.zeros(65_535, np.int64), np.full((65_535, 1), 2, np.float32))
    with pytest.raises(ValueError, match="65,535 rows of one server.*step_seconds"):
        grid.add(np.zeros(1, np.int64), np.ones((1, 1), np.float32))
    grid.finish()
    assert grid.values.tolist() == [[2]]


def test_the_mean_keeps_its_precision():
    """Sums of large values with small differences, as byte counts are."""
    grid = Grid(np.array([0]), np.array([1]), 1)
    cells = np.float32(1e9) + 64 * np.arange(1_000, dtype=np.float32)[:, None]
    grid.add(np.zeros(1_000, np.int64), cells)
    grid.finish()
    np.testing.assert_allclose(grid.values[0, 0], cells.astype(np.float64).mean(), rtol=1e-7)

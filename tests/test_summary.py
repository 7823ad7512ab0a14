"""The summary: short, aligned, and nothing of what was done left out."""

from dataclasses import replace

from tests.tables import SPEC, at, read, rows


def test_the_summary_of_a_dirty_table(tmp_path):
    """Word for word: this is what users see."""
    text = rows(
        f"{at(0)},a,1,2,web,x",
        "2024-01-01T00:05,a,12,3,web,x",
        f"{at(6)},a,-4,inf,web,x",
        f"{at(100)},a,oops,,web,x",
        "later,a,1,1,web,x",
        "",
        header="timestamp,server_name,load,queue,profile,note",
    )
    summary = read(tmp_path, text, replace(SPEC, bounds={"load": (0.0, 10.0)})).summary
    place = f"{tmp_path}/table.csv"
    assert summary.lines() == [
        "rows      6 read from 1 file",
        "rejected  1 row, 1 value",
        f"          {place}, line 6, column 'timestamp': 'later', expected an ISO-8601 time such "
        "as 2026-01-05T12:00:00Z, or Unix seconds or milliseconds after 1973",
        f"          {place}, line 5, column 'load': 'oops', expected a number",
        "servers   1 in 1 profile",
        "time      2024-01-01 00:00 to 2024-01-01 01:45 UTC",
        "ticks     21 of 300 s, 18 without a row",
        "gaps      1, 1 over an hour, the longest 1.5 h, filled 0",
        "merged    1 row into the mean of a tick",
        "missing   2 values in ticks with a row",
        "blank     1 row skipped",
        "infinite  1 value, now missing",
        "clipped   load: 1 value above the upper bound, set to it",
        "negative  load: 1 value below the lower bound, now missing",
        "time zone 1 time without one, read as UTC",
        "target    load, 0 to 10",
        "observed  queue, at least 0",
        "note      note: left out, as it is no column of numbers",
    ]


def test_the_summary_of_a_clean_table(tmp_path):
    summary = read(tmp_path, rows(f"{at(0)},a,1", f"{at(5)},a,2")).summary
    assert summary.lines() == [
        "rows      2 read from 1 file",
        "rejected  0 rows, 0 values",
        "servers   1 in 0 profiles",
        "time      2024-01-01 00:00 to 2024-01-01 00:10 UTC",
        "ticks     2 of 300 s, 0 without a row",
        "gaps      none, filled 0",
        "merged    0 rows into the mean of a tick",
        "missing   0 values in ticks with a row",
        "target    load, at least 0",
    ]

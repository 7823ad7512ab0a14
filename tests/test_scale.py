"""The scale benchmark measures the fleets it was asked for, and judges by what it measured."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import growth
from benchmarks.scale import METRICS, draw_servers, judge, scale, written_table

DAYS, TICKS = 3, 3 * 288
WINDOWS = TICKS - 72 - 96 + 1  # of a server: least history before, a horizon after
PEAK_CAN_BE_FORGOTTEN = Path("/proc/self/clear_refs").exists()


@pytest.mark.skipif(not PEAK_CAN_BE_FORGOTTEN, reason="peak memory is measured on Linux only")
def test_a_short_run_measures_every_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CONTEXT", 12), ("BATCHES", (1, 2)), ("BATCH", 1), ("ROUNDS", 1)):
        monkeypatch.setattr(growth, name, value)
    record = tmp_path / "results" / "scale.json"
    arguments = ["--servers", "4,2", "--days", str(DAYS), "--json", str(record)]
    result = CliRunner().invoke(scale, arguments)
    assert result.exit_code == 0, result.output

    content = json.loads(record.read_text())
    assert content["on"]["commit"] and content["days"] == DAYS
    fleets = content["fleets"]
    assert [fleet["servers"] for fleet in fleets] == [2, 4]
    for fleet in fleets:
        assert fleet["ticks"] == fleet["servers"] * TICKS
        assert fleet["windows"] == fleet["servers"] * WINDOWS
        assert fleet["series_bytes"] == fleet["ticks"] * len(METRICS) * 4
        assert fleet["peak_bytes"] > fleet["series_bytes"]
        each = fleet["gather_seconds_each"]
        assert min(each) <= fleet["gather_seconds"] <= max(each)
    assert [goal["at_most"] for goal in content["goals"]] == [1.3, 1.3, 1.15, 1.15]
    sizes = [(row["batch"], row["horizon"]) for row in content["growth"]]
    assert sorted(sizes) == [(1, 24), (1, 48), (1, 96), (1, 192), (2, 96)]

    lines = result.stdout.splitlines()
    assert len({len(line) for line in lines[:3]}) == 1, "columns are aligned"
    assert [line.split()[:2] for line in lines[1:3]] == [["2", "1,394"], ["4", "2,788"]]
    assert "writing 4 servers" in result.stderr


def fleet(servers: int, peak: int, *seconds: float) -> dict[str, Any]:
    return {
        "servers": servers, "series_bytes": 100, "peak_bytes": peak, "gather_seconds_each": seconds,
    }  # fmt: skip


def test_the_largest_fleet_is_judged() -> None:
    """A small one's memory is mostly that of a chunk; a slow epoch is some other program's."""
    memory, window = judge([fleet(20, 900, 1, 9), fleet(100, 900, 9), fleet(1000, 120, 7, 1.5)])
    assert (memory["measured"], memory["met"]) == (1.2, True)
    assert (window["measured"], window["met"]) == (1.5, False)


def test_growth_is_judged_by_the_largest_sizes() -> None:
    times = {(16, 96): 9, (32, 96): 10, (64, 96): 20, (128, 96): 50, (32, 24): 9, (32, 192): 21}
    rows = [{"batch": b, "horizon": h, "step_ms": ms} for (b, h), ms in times.items()]
    windows, ticks = growth.judge_growth(rows)
    assert (windows["measured"], windows["met"]) == (1.25, False)
    assert (ticks["measured"], ticks["met"]) == (1.05, True)


def test_no_server_is_like_another_and_all_are_drawn_again_the_same() -> None:
    tables = [draw_servers(servers, TICKS) for servers in (range(0, 2), range(2, 4))]
    names = [name for table in tables for name in table["server_name"].unique().to_pylist()]
    assert names == [f"server-{server:05}" for server in range(4)]
    for metric, (highest, _, _) in METRICS.items():
        series = np.concatenate([table[metric].to_numpy().reshape(2, TICKS) for table in tables])
        assert series.min() >= 0 and series.max() <= highest
        assert all(not np.array_equal(one, other) for one, other in pairwise(series))
    assert tables[0].equals(draw_servers(range(0, 2), TICKS))


def test_a_table_that_is_there_is_used_and_one_half_written_is_not(tmp_path: Path) -> None:
    unfinished = tmp_path / "servers-2-days-3.unfinished"
    unfinished.mkdir()
    (unfinished / "part-00000.parquet").write_text("cut off")
    folder = written_table(tmp_path, servers=2, days=DAYS)
    part = folder / "part-00000.parquet"
    assert part.read_bytes()[:4] == b"PAR1" and not unfinished.exists()
    written = part.stat().st_mtime_ns
    assert written_table(tmp_path, servers=2, days=DAYS) == folder
    assert part.stat().st_mtime_ns == written


@pytest.mark.parametrize("servers", ["", "twenty", "20,0", "-5"])
def test_sizes_that_are_none_are_refused(servers: str) -> None:
    result = CliRunner().invoke(scale, ["--servers", servers])
    assert result.exit_code == 2
    assert "expected numbers from 1, such as 20,100,1000" in result.stderr
